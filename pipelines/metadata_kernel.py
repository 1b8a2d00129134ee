"""Find and count words and their neighbours, compiled.  Import from inside functions: numba takes 0.3 s.

Words lie in an open-addressing table of 8-byte slots (32 bits of the hash, number of the word) over an arena
of their bytes, which are compared; pairs of words in one keyed by both numbers.  Both are exact.
"""

from typing import Any

import numpy as np
from numba import boolean, int64, types, uint8, uint64

from pairsieve.filters._jit import inlined, kernel
from pairsieve.pipelines.metadata_tokens import BLANK, JOINER, WORD

_bytes = types.Array(uint8, 1, "C", readonly=True)
_edges = types.Array(int64, 1, "C", readonly=True)
_keys = types.Array(uint64, 1, "C", readonly=True)
_flags = types.Array(boolean, 1, "C", readonly=True)
_ARENA_FULL, _NEVER = np.int64(-1), np.int64(-2)
_SEED, _PRIME = np.uint64(14695981039346656037), np.uint64(1099511628211)
_MIX, _MIX2 = np.uint64(0xFF51AFD7ED558CCD), np.uint64(0xC4CEB9FE1A85EC53)
_HALF, _LOW, _THIRD = np.uint64(32), np.uint64(0xFFFFFFFF), np.uint64(33)
_ONE = np.uint64(1)


@inlined
def _code(data: Any, i: Any) -> Any:
    """Code point at a byte of valid UTF-8, and its length."""
    b = np.int64(data[i])
    if b < 0x80:
        return b, 1
    if b < 0xE0:
        return (b & 0x1F) << 6 | (np.int64(data[i + 1]) & 0x3F), 2
    if b < 0xF0:
        return (b & 0x0F) << 12 | (np.int64(data[i + 1]) & 0x3F) << 6 | (np.int64(data[i + 2]) & 0x3F), 3
    low = (np.int64(data[i + 2]) & 0x3F) << 6 | (np.int64(data[i + 3]) & 0x3F)
    return (b & 0x07) << 18 | (np.int64(data[i + 1]) & 0x3F) << 12 | low, 4


@kernel(int64(_bytes, _edges, _bytes, int64, int64[::1], int64[::1], boolean[::1]))
def find_spans(data: Any, offsets: Any, classes: Any, longest: Any, start: Any, stop: Any, follows: Any) -> Any:
    """Write the words of texts to ``start``, ``stop``, ``follows``; gives their number.  See ``Spans``."""
    count = 0
    for text in range(len(offsets) - 1):
        i, end = offsets[text], offsets[text + 1]
        is_next = False
        while i < end:
            code, size = _code(data, i)
            kind = classes[code]
            if kind != WORD:
                is_next = is_next and kind == BLANK
                i += size
                continue
            first = i
            i += size
            last = i  # after the last letter
            while i < end:
                code, size = _code(data, i)
                kind = classes[code]
                if kind == WORD:
                    i += size
                    last = i
                elif kind == JOINER and i == last:
                    i += size
                else:
                    break
            i = last
            if last - first > longest:
                is_next = False
                continue
            start[count], stop[count], follows[count] = first, last, is_next
            count += 1
            is_next = True
    return count


@inlined
def _hash(data: Any, first: Any, last: Any) -> Any:
    h = _SEED
    for i in range(first, last):
        h = (h ^ np.uint64(data[i])) * _PRIME
    h = (h ^ (h >> _THIRD)) * _MIX
    return h ^ (h >> _THIRD)


@inlined
def _word(data: Any, first: Any, last: Any, slots: Any, arena: Any, ends: Any, hashes: Any, used: Any) -> Any:
    """Number of a word, new where it is; negative where there is no room."""
    h = _hash(data, first, last)
    mask = np.uint64(len(slots) - 1)
    at, tag = h & mask, h >> _HALF
    length = last - first
    while slots[at] != 0:
        if slots[at] >> _HALF == tag:
            number = np.int64(slots[at] & _LOW) - 1
            begin = ends[number]
            if ends[number + 1] - begin == length:
                k = 0
                while k < length and arena[begin + k] == data[first + k]:
                    k += 1
                if k == length:
                    return number
        at = (at + _ONE) & mask
    number = used[0]
    begin = ends[number]
    if number + 1 >= len(ends) or begin + length > len(arena):
        return _ARENA_FULL
    for k in range(length):
        arena[begin + k] = data[first + k]
    ends[number + 1] = begin + length
    hashes[number] = h
    slots[at] = tag << _HALF | np.uint64(number + 1)
    used[0] = number + 1
    return number


@kernel(
    int64(
        _bytes,
        _edges,
        _edges,
        _flags,
        int64,
        uint64[::1],
        uint8[::1],
        int64[::1],
        uint64[::1],
        int64[::1],
        uint64[::1],
        int64,
        int64[::1],
    )
)
def count_spans(
    data: Any,
    start: Any,
    stop: Any,
    follows: Any,
    begin: Any,
    slots: Any,
    arena: Any,
    ends: Any,
    hashes: Any,
    counts: Any,
    pairs: Any,
    most_pairs: Any,
    used: Any,
) -> Any:
    """Count words from the ``begin``-th on, and neighbours; gives how far it came before a table was full.

    ``pairs`` are keys and counts side by side: one cache line for both.
    """
    mask = np.uint64(len(pairs) // 2 - 1)
    before = _NEVER
    for i in range(begin, len(start)):
        if not follows[i]:
            before = _NEVER
        elif before < 0:  # tables are new, and the word before lies in the old ones
            before = _word(data, start[i - 1], stop[i - 1], slots, arena, ends, hashes, used)
            if before < 0:
                return i
        if used[1] >= most_pairs:
            return i
        number = _word(data, start[i], stop[i], slots, arena, ends, hashes, used)
        if number < 0:
            return i
        counts[number] += 1
        if before >= 0:
            key = np.uint64(before + 1) << _HALF | np.uint64(number)
            h = key * _MIX
            at = (h ^ (h >> _HALF)) & mask
            while pairs[at + at] != 0 and pairs[at + at] != key:
                at = (at + _ONE) & mask
            if pairs[at + at] == 0:
                pairs[at + at] = key
                used[1] += 1
            pairs[at + at + _ONE] += _ONE
        before = number
    return len(start)


@kernel(types.void(_keys, int64, uint8[::1]))
def part_of(keys: Any, bits: Any, out: Any) -> None:
    """The part, of ``bits`` bits, that each key belongs to in every run."""
    shift = np.uint64(64 - bits)
    for i in range(len(keys)):
        h = keys[i] * _MIX
        out[i] = np.uint8((h ^ (h >> _THIRD)) * _MIX2 >> shift)
