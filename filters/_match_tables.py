"""The tables of matching as arrays: made of entries, and used on captions, by the kernels."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pairsieve.filters._texts import frozen, text_buffers

Bytes = npt.NDArray[np.uint8]
Places = npt.NDArray[np.int64]
Ids = npt.NDArray[np.int32]
Found = tuple[Ids, Ids]
"""Offsets, one more than captions; and the ids between them, ascending and distinct for each caption."""

LOAD = 0.6
"""Most of a hash table that is taken."""
PADDING = 64
"""Bytes that the kernels read behind a caption."""
_MEAN_IDS = 4
"""Ids of a caption that there is room for at first."""


def padded_buffers(texts: pa.Array) -> tuple[Bytes, Places]:
    """The bytes of a string array, ``PADDING`` more behind them, and where each text begins; one more for the end."""
    data, offsets = text_buffers(texts)
    first, last = int(offsets[0]), int(offsets[-1])
    if last + PADDING <= len(data):
        return data, offsets
    padded = np.zeros(last - first + PADDING, np.uint8)
    padded[: last - first] = data[first:last]
    return frozen(padded), frozen(offsets - first)


def _slots(count: int) -> int:
    """Slots of a hash table for so many keys: a power of two."""
    return 1 << max(4, int(count / LOAD).bit_length())


@dataclass(frozen=True)
class Words:
    """Entries between spaces: a table of words and of steps from word to word; see the kernels."""

    shape: tuple[int, int, int, int]
    table: npt.NDArray[np.uint64]
    sieve: npt.NDArray[np.uint64]
    long: npt.NDArray[np.uint64]
    chain: Ids

    @classmethod
    def of(cls, arrays: Mapping[str, Any]) -> "Words":
        """Of the arrays that ``build`` gives."""
        words, steps, depth, entries = arrays["words"].tolist()
        return cls((words, steps, depth, entries), *(arrays[name] for name in ("table", "sieve", "long", "chain")))

    @classmethod
    def build(cls, data: Bytes, offsets: Places, ids: Ids) -> dict[str, npt.NDArray[Any]]:
        """Tables of the entries ``ids``, twice: with room for any, then as large as they need be."""
        text = int((offsets[ids.astype(np.int64) + 1] - offsets[ids]).sum())
        spaces = int(np.count_nonzero(data == ord(" ")))
        sizes = _slots(min(spaces, text) + len(ids)), _slots(min(spaces, text))
        counts = _fill_words(data, offsets, ids, text, *sizes)[-1]
        words, steps = _slots(counts[0]), _slots(counts[1])
        table, sieve, long, chain, _ = _fill_words(data, offsets, ids, text, words, steps)
        shape = np.array([words, steps, max(counts[4], 1), len(offsets) - 1], np.int64)
        long, chain = long[: counts[3] + 1], chain[: 2 * counts[2] + 1]
        return {"words": shape, "table": table, "sieve": sieve, "long": long, "chain": chain}

    def match(self, data: Bytes, offsets: Places) -> Found:
        """The entries of each caption; ``data`` is padded."""
        from pairsieve.filters._match_words import match

        words, steps, depth, entries = self.shape
        rows, out = np.empty(len(offsets), np.int32), np.empty(_MEAN_IDS * len(offsets) + 256, np.int32)
        tables = np.uint64(words), np.uint64(steps), depth, self.table, self.sieve, self.long, self.chain, entries
        found, end = match(data, offsets, *tables, rows, out)
        return rows, found[:end]


def _fill_words(data: Bytes, offsets: Places, ids: Ids, text: int, words: int, steps: int) -> tuple[Any, ...]:
    from pairsieve.filters._match_words import build

    table, sieve = np.zeros(2 * (words + steps), np.uint64), np.zeros(steps // 8, np.uint64)
    long = np.zeros(3 * text // 8 + 8, np.uint64)
    chain, counts = np.zeros(2 * len(ids) + 2, np.int32), np.zeros(5, np.int64)
    build(data, offsets, ids, np.uint64(words), np.uint64(steps), table, sieve, long, chain, counts)
    return table, sieve, long, chain, counts.tolist()


@dataclass(frozen=True)
class Substrings:
    """Entries that may begin or end anywhere: an Aho-Corasick automaton; see the kernels."""

    shape: tuple[int, int]
    table: npt.NDArray[np.uint64]
    states: npt.NDArray[np.uint64]
    chain: Ids

    @classmethod
    def of(cls, arrays: Mapping[str, Any]) -> "Substrings":
        """Of the arrays that ``build`` gives."""
        steps, entries = arrays["automaton"].tolist()
        return cls((steps, entries), arrays["edges"], arrays["states"], arrays["links"])

    @classmethod
    def build(cls, data: Bytes, offsets: Places, ids: Ids, ends: Bytes) -> dict[str, npt.NDArray[Any]]:
        """The automaton of the entries ``ids``, as ``Words.build``."""
        text = int((offsets[ids.astype(np.int64) + 1] - offsets[ids]).sum()) + 2 * len(ids)
        counts = _fill_states(data, offsets, ids, ends, text + 1, _slots(text))[3]
        steps = _slots(counts[0])
        edges, states, links, _ = _fill_states(data, offsets, ids, ends, counts[0], steps)
        shape = np.array([steps, len(offsets) - 1], np.int64)
        return {"automaton": shape, "edges": edges, "states": states, "links": links[: 2 * counts[1] + 1]}

    def match(self, data: Bytes, offsets: Places) -> Found:
        """The entries of each caption; ``data`` is padded."""
        from pairsieve.filters._match_substrings import match

        steps, entries = self.shape
        rows, out = np.empty(len(offsets), np.int32), np.empty(_MEAN_IDS * len(offsets) + 256, np.int32)
        found, end = match(data, offsets, np.uint64(steps), self.table, self.states, self.chain, entries, rows, out)
        return rows, found[:end]


def _fill_states(data: Bytes, offsets: Places, ids: Ids, ends: Bytes, room: int, steps: int) -> tuple[Any, ...]:
    from pairsieve.filters._match_substrings import build

    table, states, origin = (np.zeros(size, np.uint64) for size in (2 * steps, 2 * room, room))
    links, counts = np.zeros(2 * len(ids) + 2, np.int32), np.zeros(2, np.int64)
    build(data, offsets, ids, ends, np.uint64(steps), table, states, origin, links, counts)
    return table, states, links, counts.tolist()
