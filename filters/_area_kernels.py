"""OpenCV's reduction by area (``INTER_AREA``) of RGB pictures, bit for bit, for scales that are no whole numbers.

The method is that of OpenCV's ``resize.cpp``: every pixel counts by the part of it that a new pixel covers, in float32,
along rows first.  OpenCV computes a row again for each new row that it lies in, and one sample at a time; here four
rows of four samples go at once.  A 640×480 picture to 341×256 takes 0.4 ms, OpenCV 1.6; one of 1600×1200 1.2 and 6.5.
The interpreter lock is free meanwhile.
"""

from typing import Any

import numpy as np
from numba import float32, float64, types, uint8, uint32
from numpy.typing import NDArray

from pairsieve.filters import _area_parts
from pairsieve.filters._area_instructions import ROWS, summed
from pairsieve.filters._jit import inlined, kernel

_picture = types.Array(uint32, 2, "C", readonly=True)
_parts = inlined(_area_parts.parts)


@inlined
def _across(source: Any, top: Any, parts: Any, out: Any) -> None:
    """Four rows from ``top`` on, made as wide as ``out`` is."""
    starts, counts, weights = parts
    stride, out_stride = 4 * source.shape[1], 4 * out.shape[1]
    base, to = np.int64(source.ctypes.data) + top * stride, np.int64(out.ctypes.data)
    factors, span = np.int64(weights.ctypes.data), 4 * weights.shape[1]
    for x in range(len(starts)):
        summed(base + 4 * starts[x], stride, factors + span * x, counts[x], to + 16 * x, out_stride)


@inlined
def _rounded(sums: Any, out: Any) -> None:
    """To bytes, halves to the even one."""
    for i in range(len(sums)):
        out[i] = np.uint8(min(max(np.rint(sums[i]), np.float32(0)), np.float32(255)))


@inlined
def _added(sums: Any, weight: Any, row: Any) -> None:
    for i in range(len(sums)):
        sums[i] += weight * row[i]


@kernel(types.void(_picture, float64, float64, types.Array(uint8, 3, "C")))
def reduce(source: NDArray[np.uint32], wide: float, high: float, out: NDArray[np.uint8]) -> None:
    """Make ``source`` (pixels RGBX, four rows at least) as small as ``out``, of four samples a pixel.

    ``wide`` and ``high`` are its extent, which may end within the last column and row.
    """
    height, width = source.shape
    across = _parts(width, wide, out.shape[1])
    starts, counts, weights = _parts(height, high, out.shape[0])
    rows = np.empty((ROWS, 4 * out.shape[1]), np.float32)
    sums = np.zeros(4 * out.shape[1], np.float32)
    have = -ROWS  # the first of the source's rows that are in ``rows``
    for y in range(len(starts)):
        sums[:] = float32(0)
        for t in range(counts[y]):
            at = starts[y] + t
            if not have <= at < have + ROWS:
                have = min(at, height - ROWS)
                _across(source, have, across, rows)
            _added(sums, weights[y, t], rows[at - have])
        _rounded(sums, out[y].reshape(4 * out.shape[1]))
