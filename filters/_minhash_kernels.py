"""Kernels from normal texts to MinHash signatures, and from these to the keys of bands."""

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import int64, types, uint8, uint32, uint64

from pairsieve.filters._jit import inlined, kernel
from pairsieve.filters._minhash_instructions import LANES, least_of_16, least_of_64
from pairsieve.filters._minhash_shingles import hash_shingles, mixed64, units_of, xxh64

_u = np.uint64
GOLDEN = _u(0x9E3779B97F4A7C15)
EMPTY = np.uint32(0xFFFFFFFF)

_bytes = types.Array(uint8, 1, "C", readonly=True)
_places = types.Array(int64, 1, "C", readonly=True)
_numbers = types.Array(uint32, 1, "C", readonly=True)


@inlined
def _distinct(hashes: Any, count: Any, enough: Any) -> Any:
    """How many hashes differ, counted up to ``enough``."""
    found = 0
    for j in range(count):
        if found >= enough:
            break
        is_new = 1
        for k in range(j):
            if hashes[k] == hashes[j]:
                is_new = 0
                break
        found += is_new
    return found


@kernel(
    types.void(
        *(_bytes, _places, int64, int64, int64, int64, _numbers, _numbers),
        *(types.Array(uint32, 2, "C"), types.Array(int64, 1, "C")),
    )
)
def signatures(
    data: npt.NDArray[np.uint8],
    offsets: npt.NDArray[np.int64],
    words: int,
    n: int,
    sha1: int,
    enough: int,
    a: npt.NDArray[np.uint32],
    b: npt.NDArray[np.uint32],
    out: npt.NDArray[np.uint32],
    shingles: npt.NDArray[np.int64],
) -> None:
    """The signature of each text ``data[offsets[i] : offsets[i + 1]]``, and how many distinct shingles it has.

    These are counted up to ``enough`` only.  A text without any has a signature of ones.  ``data`` goes on for 64
    bytes; ``a``, ``b`` and the rows of ``out`` are filled up to multiples of 16.
    """
    base, longest = np.int64(data.ctypes.data), np.int64(0)
    for i in range(len(shingles)):
        longest = max(longest, offsets[i + 1] - offsets[i])
    units, hashes = np.empty(longest + 2, np.uint32), np.empty(longest + 2 + LANES, np.uint32)
    scratch = np.empty(16 * LANES, np.uint32)
    width = len(a)
    start, factors, terms = np.int64(hashes.ctypes.data), np.int64(a.ctypes.data), np.int64(b.ctypes.data)
    out[:] = EMPTY
    for i in range(len(shingles)):
        place, size = base + offsets[i], offsets[i + 1] - offsets[i]
        count = hash_shingles(place, units, units_of(place, size, words, units), n, words, sha1, scratch, hashes)
        shingles[i] = _distinct(hashes, count, enough)
        row, k = np.int64(out[i].ctypes.data), 0
        while k + 64 <= width:
            least_of_64(start, count, factors + 4 * k, terms + 4 * k, row + 4 * k)
            k += 64
        while k < width:
            least_of_16(start, count, factors + 4 * k, terms + 4 * k, row + 4 * k)
            k += 16


@kernel(
    int64(
        *(_bytes, _places, types.Array(uint32, 2, "C"), types.Array(int64, 1, "C"), int64, int64, int64),
        *(types.Array(uint64, 1, "C"), types.Array(types.int32, 1, "C"), int64),
    )
)
def keys(
    data: npt.NDArray[np.uint8],
    offsets: npt.NDArray[np.int64],
    signature: npt.NDArray[np.uint32],
    shingles: npt.NDArray[np.int64],
    enough: int,
    bands: int,
    rows: int,
    out: npt.NDArray[np.uint64],
    ends: npt.NDArray[np.int32],
    end: int,
) -> int:
    """The keys of each text, one behind the other from ``out[end]`` on; text i's end at ``ends[i]``.

    First the xxHash64 of the text, then, where it has ``enough`` shingles, one for each band.  The end of the last.
    """
    base = np.int64(data.ctypes.data)
    for i in range(len(shingles)):
        if shingles[i]:
            out[end] = xxh64(base + offsets[i], offsets[i + 1] - offsets[i])
            end += 1
        if shingles[i] >= enough:
            for band in range(bands):
                key, first = _u(band + 1) * GOLDEN, band * rows
                for k in range(first, first + rows - 1, 2):  # two values at a time
                    key = mixed64(key ^ (_u(signature[i, k]) << _u(32) | _u(signature[i, k + 1])))
                if rows & 1:
                    key = mixed64(key ^ _u(signature[i, first + rows - 1]))
                out[end] = key
                end += 1
        ends[i] = end
    return end
