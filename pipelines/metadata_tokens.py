"""What a word is when n-grams are counted, and where two words are neighbours.

A word is one or more letters, marks and digits of any script (Unicode categories L, M and N), in which a
single apostrophe (' or ’), hyphen (- or U+2010) or zero-width joiner or non-joiner may stand between two of
them: ``don't``, ``well-known``, ``1,000`` is two words.  Case and accents stay as they are.  Two words are
neighbours where nothing but spaces and tabs lies between them: no line end, no punctuation, since no bigram
across them could ever match a caption.  A word of more than ``LONGEST`` bytes is no word, but a break.
"""

import sys
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pairsieve.schemas.errors import UserError

BREAK, WORD, BLANK, JOINER = range(4)
"""Classes of characters."""
JOINERS = "'’-\u2010\u200c\u200d"
LONGEST = 1024
"""Bytes of a word."""
DEFINITION = (
    "[L M N]+ ([' ’ - U+2010 U+200C U+200D] [L M N]+)* of at most 1024 bytes, case kept; "
    "neighbours: only Zs and tabs between"
)
"""For the manifest."""

Segmenter = Callable[[str], Iterable[str]]


class Spans(NamedTuple):
    """Words in a buffer of UTF-8: int64 first byte and byte after the last; whether each follows the one before."""

    data: NDArray[np.uint8]
    start: NDArray[np.int64]
    stop: NDArray[np.int64]
    follows: NDArray[np.bool_]

    def words(self) -> list[str]:
        """As text."""
        content = self.data.tobytes()
        return [content[a:b].decode() for a, b in zip(self.start.tolist(), self.stop.tolist(), strict=True)]


@cache
def classes() -> NDArray[np.uint8]:
    """uint8[0x110000]: the class of every code point, as this Python's Unicode has it; takes 0.3 s once."""
    found = np.zeros(sys.maxunicode + 1, np.uint8)
    kinds = {"L": WORD, "M": WORD, "N": WORD}
    category = unicodedata.category
    names = [category(chr(code)) for code in range(sys.maxunicode + 1)]
    found[:] = [BLANK if name == "Zs" else kinds.get(name[0], BREAK) for name in names]
    found[ord("\t")] = BLANK
    found[[ord(sign) for sign in JOINERS]] = JOINER
    return found


def spans(texts: pa.Array) -> Spans:
    """The words of some texts (string[n] without nulls); no word follows one of another text."""
    from pairsieve.pipelines.metadata_kernel import find_spans

    data, offsets = _buffers(texts)
    # between two words of a text lies a byte at least, between texts none
    room = (int(offsets[-1] - offsets[0]) + len(texts)) // 2 + 1 if len(offsets) else 1
    start, stop, follows = np.empty(room, np.int64), np.empty(room, np.int64), np.empty(room, np.bool_)
    count = find_spans(data, offsets, classes(), LONGEST, start, stop, follows)
    return Spans(data, start[:count], stop[:count], follows[:count])


def _buffers(texts: pa.Array) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The bytes of a string array and where its values begin, without a copy of the bytes."""
    texts = texts.cast(pa.large_string())
    _, offsets, values = texts.buffers()
    data = np.frombuffer(values, np.uint8) if values is not None and values.size else np.zeros(1, np.uint8)
    ends = np.frombuffer(offsets, np.int64) if offsets is not None and offsets.size else np.zeros(1, np.int64)
    return data, ends[texts.offset : texts.offset + len(texts) + 1]


def segmented(texts: Sequence[str], segmenter: Segmenter) -> Spans:
    """The words that a segmenter finds, line by line; what holds no letter, mark or digit is a break.

    Blank tokens are passed over.  Words that follow each other in the segmenter's list are neighbours.
    """
    table = classes()
    parts, starts, follows = list[bytes](), list[int](), list[bool]()
    at = 0
    for line in (line for text in texts for line in text.splitlines()):
        is_next = False
        for token in segmenter(line):
            word = str(token).strip()
            content = word.encode("utf-8", "replace")
            if not word:
                continue
            if len(content) > LONGEST or not any(table[ord(sign)] == WORD for sign in word):
                is_next = False
                continue
            parts.append(content)
            starts.append(at)
            follows.append(is_next)
            at += len(content)
            is_next = True
    data = np.frombuffer(b"".join(parts) or b"\0", np.uint8)
    edges = np.array([*starts, at], np.int64)
    return Spans(data, edges[:-1], edges[1:], np.array(follows, np.bool_))


def load_segmenter(name: str) -> Segmenter:
    """The function ``package.module:function``; raises ``UserError`` where there is none."""
    module, _, function = name.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)  # as for filters of one's own
    try:
        found = getattr(import_module(module), function)
    except Exception as error:  # whatever importing the user's code raises
        text = (str(error).strip().splitlines() or [""])[0]
        raise UserError(
            f"--segmenter {name}: {type(error).__name__}: {text}; give package.module:function, installed or beside you"
        ) from None
    if not callable(found):
        raise UserError(f"--segmenter {name}: is no function; give one that takes a text and returns its words")
    made: Segmenter = found
    return made
