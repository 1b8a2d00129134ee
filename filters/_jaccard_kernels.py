"""Kernel that counts the shingles that two texts have in common: 0.5 to 1 µs a pair of captions."""

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import float64, int64, types, uint8

from pairsieve.filters._jit import inlined, kernel
from pairsieve.filters._match_instructions import folded, load
from pairsieve.filters._minhash_shingles import LOW_BYTES, shingles_of, units_of, xxh64

_u = np.uint64
SEED, OTHER_SEED, STEP = _u(0xA0761D6478BD642F), _u(0xE7037ED1A0B428DB), _u(0x8EBC6AF09C88C6E3)

_bytes = types.Array(uint8, 1, "C", readonly=True)
_places = types.Array(int64, 1, "C", readonly=True)


@inlined
def _hash(place: Any, size: Any) -> Any:
    """A hash of 64 bits; 15 bytes more are read."""
    if size > 16:
        return xxh64(place, size)
    low, high = load(place) & LOW_BYTES[min(size, 8)], load(place + 8) & LOW_BYTES[max(size - 8, 0)]
    return folded(low ^ SEED, high ^ OTHER_SEED ^ _u(size) * STEP)


@inlined
def _same(one: Any, other: Any, size: Any) -> Any:
    """Whether two texts of a size have the same bytes."""
    for at in range(0, size - 7, 8):
        if load(one + at) != load(other + at):
            return False
    rest = size & 7
    return (load(one + size - rest) ^ load(other + size - rest)) & LOW_BYTES[rest] == 0


@inlined
def _longest(offsets: Any, longest: Any) -> Any:
    for i in range(len(offsets) - 1):
        longest = max(longest, offsets[i + 1] - offsets[i])
    return longest


@kernel(types.void(_bytes, _places, _bytes, _places, int64, int64, types.Array(float64, 1, "C")))
def similarities(
    data: npt.NDArray[np.uint8],
    offsets: npt.NDArray[np.int64],
    others: npt.NDArray[np.uint8],
    places: npt.NDArray[np.int64],
    words: int,
    n: int,
    out: npt.NDArray[np.float64],
) -> None:
    """Jaccard similarity of the shingles of ``data[offsets[i] : offsets[i + 1]]`` and those of the other text i.

    One table is used for all pairs: a slot is taken where its stamp is of this pair, odd while only the first text has
    the shingle, even once it is counted for the other.
    """
    longest = _longest(places, _longest(offsets, np.int64(0)))
    units = np.empty(longest + 2, np.uint32)
    slots = 64
    while slots < 4 * longest:
        slots *= 2
    slot, stamp = np.empty(slots, np.uint64), np.zeros(slots, np.int64)
    for i in range(len(out)):
        one, size = np.int64(data.ctypes.data) + offsets[i], offsets[i + 1] - offsets[i]
        other, other_size = np.int64(others.ctypes.data) + places[i], places[i + 1] - places[i]
        if size == other_size and _same(one, other, size):
            out[i] = 1.0 if size else 0.0
            continue
        # a table of this pair's size stays in the cache, however long another pair's texts are
        used = 64
        while used < 2 * (size + other_size):
            used *= 2
        last, both, union = _u(used - 1), 0, 0
        for turn in range(2):
            begin, length = (other, other_size) if turn else (one, size)
            count = units_of(begin, length, words, units)
            width, mine = min(n, count), 2 * i + 1 + turn
            for j in range(shingles_of(count, n)):
                first = np.int64(units[j])
                hashed = _hash(begin + first, units[j + width] - first - words)
                at = hashed & last
                while stamp[at] > 2 * i and slot[at] != hashed:
                    at = (at + _u(1)) & last
                if stamp[at] <= 2 * i:
                    slot[at] = hashed
                    union += 1
                elif turn and stamp[at] != mine:
                    both += 1
                stamp[at] = mine
        out[i] = both / union if union else 0.0
