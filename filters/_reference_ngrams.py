"""N-grams of words that captions share with the captions of evaluation sets.

Words: characters between Unicode spaces (``str.isspace``), of which letters, numbers and combining marks (Unicode
L, N, Mn, Mc, but no variation selectors) stay, lower-cased one by one; nothing else is normalised.  "Don't STOP-it!"
is ``dont stopit``.  An n-gram is known by 64 bits of a hash: of 10 billion captions, against 5 million n-grams,
one in all is expected at 1 in 400 to be taken for another.  Memory is some 20 bytes an n-gram.
"""

import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from functools import cache

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pairsieve.filters._reference_files import captions_of
from pairsieve.filters._texts import frozen, text_buffers
from pairsieve.schemas.errors import UserError

MOST = 1 << 28
"""N-grams of all sets together, 6 GB: more are refused."""
HELD = 1 << 24
"""So many keys are gathered, 128 MB, before those that come twice are let go."""
LOOKED_AT = 100_000
"""Captions without a word that are looked at before a run."""
_ASSIGNED = 0x40000
"""Letters, numbers and marks are all below; behind it are only tags, variation selectors and private use."""
_KEPT = ("L", "N", "Mn", "Mc")


class Grams:
    """The n-grams of evaluation sets, by key; ``find`` is its one job."""

    def __init__(self, sets: Mapping[str, Sequence[str]], n: int, key: str | None = None) -> None:
        """Files of each set; raises ``UserError`` with set and file: see ``captions_of``, and a set without a word."""
        self.n, self._count = n, len(sets)
        parts = [_keys_of(name, files, n, key) for name, files in sets.items()]
        keys = np.concatenate(parts)
        if len(keys) > MOST:
            raise UserError(f"references: {len(keys):,} different n-grams, more than {MOST:,}; take fewer sets")
        order = np.argsort(keys, kind="stable")
        owners = np.repeat(np.arange(len(parts), dtype=np.int32), [len(part) for part in parts])
        self._sets, keys = frozen(owners[order]), keys[order]
        is_first = np.diff(keys, prepend=~keys[:1]) != 0
        self._rows = frozen(np.append(np.flatnonzero(is_first), len(keys)).astype(np.int64))
        self._known = frozen(keys[is_first])
        bits = max(1, len(self._known).bit_length())
        self._shift = 64 - bits
        edges = np.arange(1, 1 << bits, dtype=np.uint64) << np.uint64(self._shift)
        inner = np.searchsorted(self._known, edges)
        self._starts = frozen(np.concatenate([[0], inner, [len(self._known)]]).astype(np.int64))

    def find(self, texts: pa.Array) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """float32[n], the greatest share of a caption's n-grams (each as often as it occurs) that are in one set.

        And int64[n], the place of that set: the first of equals, -1 where no set has any.  A caption of fewer than
        n words is one n-gram as a whole, and equals only a whole caption; one without words has share 0.  What is
        said of a null means nothing.
        """
        from pairsieve.filters._reference_kernels import overlaps

        keys, ends = gram_keys(texts, self.n)
        hits, best = np.empty(len(texts), np.int64), np.empty(len(texts), np.int32)
        known = self._known, self._starts, self._shift, self._rows, self._sets
        overlaps(frozen(keys), frozen(ends), *known, self._count, hits, best)
        share = hits / np.maximum(np.diff(ends, prepend=0), 1)
        return share.astype(np.float32), best.astype(np.int64)


def gram_keys(texts: pa.Array, n: int) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """uint64[k]: the keys of the n-grams of strings, text by text, and int64[len(texts)]: where those of each end."""
    from pairsieve.filters import _reference_kernels

    data, offsets = text_buffers(texts)
    keys = np.empty(int(offsets[-1] - offsets[0]) // 2 + len(texts), np.uint64)
    ends = np.empty(len(texts), np.int64)
    count = _reference_kernels.gram_keys(data, offsets, letters(), n, keys, ends)
    return keys[:count], ends


def check_captions(file: str, key: str | None = None) -> None:
    """Refuse, before a run, a file that holds no captions, as far as a look tells; raises ``UserError``."""
    looked = 0
    for texts in captions_of(file, key):
        if any(_is_kept(char) for text in texts.drop_null().to_pylist() for char in text):
            return
        looked += len(texts)
        if looked > LOOKED_AT:
            return
    raise UserError(f"{file}: holds no caption with a word; leave it out")


def _is_kept(char: str) -> bool:
    return unicodedata.category(char).startswith(_KEPT) and not 0xFE00 <= ord(char) <= 0xFE0F


@cache
def letters() -> NDArray[np.uint32]:
    """uint32[0x110001]: what each code point counts as: 0 nothing, 1 the end of a word, else its lower case."""
    found = np.zeros(0x110001, np.uint32)
    for point in range(_ASSIGNED):
        char = chr(point)
        if char.isspace():
            found[point] = 1
        elif _is_kept(char):
            lower = char.lower()
            found[point] = ord(lower) if len(lower) == 1 else point
    found.flags.writeable = False
    return found


def _keys_of(name: str, files: Sequence[str], n: int, key: str | None) -> NDArray[np.uint64]:
    """The keys of one set, sorted, each once."""
    parts, held = [np.empty(0, np.uint64)], 0
    for texts in _captions(name, files, key):
        parts.append(gram_keys(texts.drop_null(), n)[0].copy())
        held += len(parts[-1])
        if held > HELD:
            parts, held = [_distinct(name, parts)], 0
    found = _distinct(name, parts)
    if not len(found):
        raise UserError(f"references: {name}: no caption with a word in {', '.join(files[:3])}")
    return found


def _distinct(name: str, parts: Sequence[NDArray[np.uint64]]) -> NDArray[np.uint64]:
    """All keys, sorted, each once.  (``numpy.unique`` hashes them first, which takes six times as long.)"""
    keys = np.concatenate(parts)
    keys.sort()
    is_first = np.diff(keys, prepend=~keys[:1]) != 0
    if np.count_nonzero(is_first) > MOST:
        raise UserError(f"references: {name}: more than {MOST:,} different n-grams; take fewer files")
    found: NDArray[np.uint64] = keys[is_first]
    return found


def _captions(name: str, files: Sequence[str], key: str | None) -> Iterator[pa.Array]:
    try:
        for file in files:
            yield from captions_of(file, key)
    except UserError as error:
        raise UserError(f"references: {name}: {error}") from None
