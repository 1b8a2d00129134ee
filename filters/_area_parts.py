"""Which pixels of a row, and how much of each, make the pixels of a shorter row: OpenCV's table for ``INTER_AREA``.

Plain Python that numba compiles too.
"""

from math import ceil, floor
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Parts: TypeAlias = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]

_TINY = 1e-3
"""Of a pixel: OpenCV leaves out what is less."""


def parts(size: int, extent: float, resized: int) -> Parts:
    """Start, count and weights, float32[resized, most], of the pixels that make each of ``resized`` new ones.

    ``extent`` is the length that is reduced: ``size``, or a fraction less, where the last pixel is one in part only.
    """
    scale = 1.0 / (resized / extent)
    starts, counts = np.empty(resized, np.int64), np.zeros(resized, np.int64)
    weights = np.zeros((resized, ceil(scale) + 2), np.float32)
    for i in range(resized):
        begin, end = i * scale, i * scale + scale
        cell = min(scale, extent - begin)
        last = min(floor(end), size - 1)
        first = min(ceil(begin), last)
        starts[i] = first
        if first - begin > _TINY:
            starts[i] = first - 1
            weights[i, 0] = np.float32((first - begin) / cell)
            counts[i] = 1
        for _ in range(first, last):
            weights[i, counts[i]] = np.float32(1.0 / cell)
            counts[i] += 1
        if end - last > _TINY:
            weights[i, counts[i]] = np.float32(min(min(end - last, 1.0), cell) / cell)
            counts[i] += 1
    return starts, counts, weights
