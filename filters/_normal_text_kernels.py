"""Kernels that make texts normal: code point by code point, over the bytes of Arrow strings."""

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import int32, int64, types, uint8

from pairsieve.filters._jit import inlined, kernel
from pairsieve.filters._match_instructions import first_bit
from pairsieve.filters._normal_text import CHAINED, MAPPED, PADDING
from pairsieve.filters._normal_text_instructions import copied, lowered, wide_of

_u = np.uint64
ALL = _u(2**64 - 1)
SPACE = 32
NOT_UTF8 = MAPPED

_bytes = types.Array(uint8, 1, "C", readonly=True)
_places = types.Array(int64, 1, "C", readonly=True)
_table = types.Array(int32, 1, "C", readonly=True)


@inlined
def _decoded(data: Any, at: Any, stop: Any) -> Any:
    """The code point that begins at a byte of 128 or more, and its size; ``NOT_UTF8`` for what is none."""
    lead = np.int64(data[at])
    size = 2 if lead < 0xE0 else 3 if lead < 0xF0 else 4
    if lead < 0xC2 or lead > 0xF4 or at + size > stop:
        return np.int64(NOT_UTF8), 1
    second = np.int64(data[at + 1])
    if size == 2 and second & 0xC0 == 0x80:
        return (lead & 0x1F) << 6 | second & 0x3F, 2
    code = lead & (0x7F >> size)
    for i in range(1, size):
        byte = np.int64(data[at + i])
        if byte & 0xC0 != 0x80:
            return np.int64(NOT_UTF8), 1
        code = code << 6 | byte & 0x3F
    # longer than it need be, or half of a surrogate pair
    if (size == 3 and (code < 0x800 or code >> 11 == 0x1B)) or (size == 4 and code < 0x10000):
        return np.int64(NOT_UTF8), 1
    return code, size


@inlined
def _copied(block: Any, size: Any, dropped: Any, out: Any, end: Any) -> Any:
    """Copy the first bytes of a block, but those whose bits are set; where they end.  64 bytes more are written."""
    start = np.int64(0)
    while dropped != 0:
        copied(block + start, out + end)
        end += first_bit(dropped) - start
        start = first_bit(dropped) + 1
        dropped &= dropped - _u(1)
    copied(block + start, out + end)
    return end + size - start


@inlined
def _grown(out: Any, needed: Any) -> Any:
    """The array, or a larger copy that has room."""
    if needed <= len(out):
        return out
    larger = np.empty(2 * needed, np.uint8)
    larger[: len(out)] = out
    return larger


@kernel(
    types.Array(uint8, 1, "C")(
        *(_bytes, _places, _bytes, _table, types.Array(uint8, 1, "C"), types.Array(int64, 1, "C")),
        types.Array(uint8, 1, "C"),
    )
)
def normalised(
    data: npt.NDArray[np.uint8],
    offsets: npt.NDArray[np.int64],
    pieces: npt.NDArray[np.uint8],
    table: npt.NDArray[np.int32],
    out: npt.NDArray[np.uint8],
    places: npt.NDArray[np.int64],
    slow: npt.NDArray[np.uint8],
) -> npt.NDArray[np.uint8]:
    """Normal texts one behind the other, in ``out`` or a larger array; text i ends at ``places[i + 1]``.

    A text that the table does not do gets ``slow[i] = 1`` and no bytes.  ``data`` goes on for ``PADDING`` bytes.
    """
    base, block = np.int64(data.ctypes.data), np.empty(2 * PADDING, np.uint8)
    room, found, end = np.int64(block.ctypes.data), np.int64(pieces.ctypes.data), np.int64(0)
    for i in range(len(offsets) - 1):
        at, stop, begin = offsets[i], offsets[i + 1], end
        out = _grown(out, end + stop - at + 2 * PADDING)
        target, is_spaced = np.int64(out.ctypes.data), True
        while at < stop:
            size, wide = min(stop - at, 64), wide_of(base + at)
            if wide:
                size = min(size, first_bit(wide))
            if size:
                gaps = lowered(base + at, room) & (ALL >> _u(64 - size))
                end = _copied(room, size, gaps & (gaps << _u(1) | _u(is_spaced)), target, end)
                is_spaced = (gaps >> _u(size - 1)) & _u(1) != 0
                at += size
            while at < stop and data[at] >= 128:
                code, size = _decoded(data, at, stop)
                at += size
                first, behind = (table[2 * code], table[2 * code + 1]) if code < MAPPED else (CHAINED, CHAINED)
                if first == CHAINED:
                    slow[i], at, end, is_spaced = 1, stop, begin, False
                    break
                if first == behind:
                    continue
                needed = end + behind - first + stop - at + 2 * PADDING
                if needed > len(out):  # asked here: a call that returns an array counts its references
                    out = _grown(out, needed)
                    target = np.int64(out.ctypes.data)
                first += is_spaced and pieces[first] == SPACE
                copied(found + first, target + end)
                end += behind - first
                is_spaced = pieces[behind - 1] == SPACE
        if is_spaced and end > begin:
            end -= 1
        places[i + 1] = end
    return out


@kernel(
    types.void(
        *(_bytes, _places, _bytes, _bytes, _places),
        *(types.Array(uint8, 1, "C"), types.Array(int64, 1, "C")),
    )
)
def spliced(
    data: npt.NDArray[np.uint8],
    places: npt.NDArray[np.int64],
    slow: npt.NDArray[np.uint8],
    more: npt.NDArray[np.uint8],
    ends: npt.NDArray[np.int64],
    out: npt.NDArray[np.uint8],
    joined: npt.NDArray[np.int64],
) -> None:
    """Put the texts of ``more`` where ``slow`` is set, one after the other."""
    end, k = np.int64(0), 0
    for i in range(len(slow)):
        if slow[i]:
            size = ends[k + 1] - ends[k]
            out[end : end + size] = more[ends[k] : ends[k + 1]]
            k += 1
        else:
            size = places[i + 1] - places[i]
            out[end : end + size] = data[places[i] : places[i + 1]]
        end += size
        joined[i + 1] = end
