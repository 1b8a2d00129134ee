"""Texts as near duplicates are compared: one case, no marks, single spaces.

ASCII is mapped 64 bytes at a time (0.05 µs a caption of 96 bytes), other text code point by code point (10 ns each).
Texts with combining marks and the like, whose code points act on each other, take Python's way (5 µs).
"""

import re
import unicodedata
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pairsieve.filters._cache import mapped
from pairsieve.filters._match_tables import padded_buffers
from pairsieve.filters._texts import frozen

VERSION = 1
"""Of the table of code points; raise it where the same Unicode gives another."""
PADDING = 64
"""Bytes behind the last text that may be read."""
MAPPED = 0x20000
"""Code points below are mapped by the table: the two planes that hold nearly all text, and emoji."""
CHAINED = -1
"""In the table: a code point that acts on its neighbours."""
BREAK = "\uffff"
"""Between code points that are folded in one go: nothing composes across it, and it stays as it is."""
_IGNORABLE = (
    *(0x00AD, 0x034F, 0x061C, *range(0x115F, 0x1161), *range(0x17B4, 0x17B6), *range(0x180B, 0x1810)),
    *(*range(0x200B, 0x2010), *range(0x202A, 0x202F), *range(0x2060, 0x2070), 0x3164, *range(0xFE00, 0xFE10)),
    *(0xFEFF, 0xFFA0, *range(0xFFF0, 0xFFF9), *range(0x1BCA0, 0x1BCA4), *range(0x1D173, 0x1D17B)),
    *range(0xE0000, 0xE1000),
)
"""Default_Ignorable_Code_Point of the Unicode Character Database: invisible, such as a soft hyphen."""
_IGNORED = dict.fromkeys(_IGNORABLE)
_JAMO = (*range(0x1161, 0x1176), *range(0x11A8, 0x11C3))
"""Hangul vowels and finals: they compose with what is before them by rule, not by a table."""

Bytes = npt.NDArray[np.uint8]
Places = npt.NDArray[np.int64]


def normal(text: str) -> str:
    """The text as it is compared; the definition, which ``normal_texts`` is equal to.

    1. toNFKC_Casefold of the Unicode Standard: compatible forms are one (ﬁ and fi, Ａ and a), case is folded, and
       what is invisible goes.
    2. Punctuation, symbols (emoji too), separators, controls and formats (categories P, S, Z, Cc, Cf) become spaces.
    3. Runs of spaces become one, and none is at an end.

    A normal text stays as it is.  Code points that Python's Unicode does not know count as letters.
    """
    return " ".join(_spaced(_stages(text)[-1]).split())


def _stages(text: str) -> list[str]:
    """The text before, within and after folding: step by step until nothing changes."""
    found = [text]
    while True:
        composed = unicodedata.normalize("NFKC", found[-1].translate(_IGNORED))
        folded = composed.casefold()
        again = unicodedata.normalize("NFKC", folded)
        if again == found[-1]:
            return found
        found += [composed, folded, again]


class _Spaces(dict[int, int]):
    """For ``str.translate``: separators become spaces.  Filled as code points are met."""

    def __missing__(self, code: int) -> int:
        category = unicodedata.category(chr(code))
        self[code] = 32 if category[0] in "PSZ" or category in ("Cc", "Cf") else code
        return self[code]


_SPACES = _Spaces()


def _spaced(text: str) -> str:
    return text.translate(_SPACES)


@dataclass(frozen=True)
class Normal:
    """Normal texts: text i is ``data[offsets[i] : offsets[i + 1]]``, UTF-8; ``PADDING`` bytes follow the last."""

    data: Bytes
    offsets: Places

    def __len__(self) -> int:
        """How many texts."""
        return len(self.offsets) - 1

    def strings(self) -> list[str]:
        """Them as Python's."""
        raw = self.data.tobytes()
        return [raw[first:end].decode() for first, end in pairwise(self.offsets.tolist())]


def normal_texts(texts: pa.Array) -> Normal:
    """``normal`` of each text of a ``string`` or ``large_string`` array; a null's is empty.

    Bytes that are not UTF-8 count as U+FFFD, a symbol.
    """
    from pairsieve.filters._normal_text_kernels import normalised, spliced

    texts = texts.fill_null("") if texts.null_count else texts
    data, offsets = padded_buffers(texts)
    places, slow = np.zeros(len(texts) + 1, np.int64), np.zeros(len(texts), np.uint8)
    room = np.empty(int(offsets[-1] - offsets[0]) + 2 * PADDING, np.uint8)
    found = normalised(data, offsets, *mapped_code_points(), room, places, slow)
    rows = np.flatnonzero(slow)
    if len(rows):
        more = _by_python(data, offsets, rows)
        joined = np.empty(int(places[-1] + more.offsets[-1]) + PADDING, np.uint8)
        ends = np.zeros(len(texts) + 1, np.int64)
        spliced(frozen(found), frozen(places), frozen(slow), more.data, more.offsets, joined, ends)
        found, places = joined, ends
    return Normal(frozen(found), frozen(places))


def _by_python(data: Bytes, offsets: Places, rows: Places) -> Normal:
    """The texts of some rows, without the kernel."""
    pieces = [data[first:end].tobytes() for first, end in zip(offsets[rows], offsets[rows + 1], strict=True)]
    found = [normal(piece.decode("utf-8", "replace")).encode() for piece in pieces]
    ends = np.cumsum([0, *map(len, found)], dtype=np.int64)
    return Normal(np.frombuffer(b"".join(found) + bytes(PADDING), np.uint8), frozen(ends))


@cache
def mapped_code_points() -> tuple[Bytes, npt.NDArray[np.int32]]:
    """What each code point c becomes: ``pieces[table[2 * c] : table[2 * c + 1]]``, or ``CHAINED``.

    Pieces have at most 33 bytes, no two spaces in a row, and ``PADDING`` bytes behind the last.  They take half a
    CPU-second to make, and are kept in the user's cache folder.
    """
    found = mapped(f"normal code points {VERSION}, Unicode {unicodedata.unidata_version}", (), _made)
    return found["pieces"], found["table"]


def _made() -> dict[str, npt.NDArray[Any]]:
    """The pieces and the table.

    A code point is mapped on its own where at every stage of folding it begins with a starter that never composes
    with what is before it: then a text folded as a whole is its folded code points, joined.
    """
    codes = [c for c in range(MAPPED) if not 0xD800 <= c < 0xE000 and c != ord(BREAK)]
    stages = _stages(BREAK.join(map(chr, codes)))
    tied = _tied()
    firsts = [[one[:1] in tied for one in unicodedata.normalize("NFKD", stage).split(BREAK)] for stage in stages]
    pieces = re.sub(" +", " ", _spaced(stages[-1])).encode().split(BREAK.encode())
    ends = np.cumsum([0, *map(len, pieces)])
    places = np.column_stack([ends[:-1], ends[1:]])
    places[np.logical_or.reduce(firsts)] = CHAINED
    table = np.full((MAPPED, 2), CHAINED, np.int32)
    table[codes] = places
    return {"pieces": np.frombuffer(b"".join(pieces) + bytes(PADDING), np.uint8), "table": table.reshape(-1)}


def _tied() -> set[str]:
    """Code points that may compose with, or change places with, what is before them."""
    known = [chr(c) for c in range(MAPPED)]
    forms = (unicodedata.decomposition(c).split() for c in known)
    seconds = {chr(int(form[1], 16)) for form in forms if len(form) == 2 and form[0][0] != "<"}
    return seconds | {c for c in known if unicodedata.combining(c)} | set(map(chr, _JAMO))
