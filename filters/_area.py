"""Reduce pictures by area with OpenCV's bits, five times as fast where numba is installed and agrees with this OpenCV.

Whole-number scales, one channel, and pictures that do not shrink both ways are OpenCV's own work.
"""

from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from typing import TypeAlias

import cv2
import numpy as np
import numpy.typing as npt

from pairsieve.filters._area_parts import parts

Pixels: TypeAlias = npt.NDArray[np.uint8]
Size: TypeAlias = tuple[float, float]
Reduce: TypeAlias = Callable[[npt.NDArray[np.uint32], float, float, Pixels], None]
_LEAST = 4
"""Rows and columns that the kernel takes at once."""


def area(pixels: Pixels, size: tuple[int, int], extent: Size | None = None) -> Pixels:
    """The picture in a smaller size (width, height): BGR, or grey as it came.

    ``pixels`` are grey, uint8[height, width], or RGB, or BGRX with a fourth sample of no meaning.  ``extent`` (width,
    height) is the part of them that is meant, from 0 on, where that ends within the last column or row, as in a
    picture that was decoded at half of an odd size.
    """
    whole = (float(pixels.shape[1]), float(pixels.shape[0]))
    extent = extent or whole
    quick = _kernel() if pixels.ndim == 3 and _is_fractional(pixels, size, extent) else None
    if quick is not None:
        return _reduced(quick, pixels, size, extent)
    if extent != whole:
        return bgr(_summed(pixels, size, extent))
    return bgr(np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8))


def bgr(pixels: Pixels) -> Pixels:
    """Pixels as OpenCV stores them, of grey, RGB or BGRX ones."""
    if pixels.ndim == 2:
        return pixels
    order = cv2.COLOR_BGRA2BGR if pixels.shape[2] == 4 else cv2.COLOR_RGB2BGR
    return np.asarray(cv2.cvtColor(pixels, order), np.uint8)


def _reduced(quick: Reduce, pixels: Pixels, size: tuple[int, int], extent: Size) -> Pixels:
    whole = pixels if pixels.shape[2] == 4 else cv2.cvtColor(pixels, cv2.COLOR_RGB2BGRA)
    out = np.empty((size[1], size[0], 3), np.uint8)
    quick(np.ascontiguousarray(whole).view(np.uint32)[:, :, 0], *extent, out)
    return out


def _summed(pixels: Pixels, size: tuple[int, int], extent: Size) -> Pixels:
    """The same without numba: the same products and sums, in the same order, by numpy; some 30 ms at 800×600."""
    found = pixels.astype(np.float32)
    for axis in (1, 0):
        starts, _, weights = parts(pixels.shape[axis], extent[1 - axis], size[1 - axis])
        shape = [1] * pixels.ndim
        shape[axis] = -1
        total = np.float32(0)
        for t in range(weights.shape[1]):
            taken = found.take(np.minimum(starts + t, pixels.shape[axis] - 1), axis)
            total = total + weights[:, t].reshape(shape) * taken
        found = np.asarray(total)
    return np.rint(found).clip(0, 255).astype(np.uint8)


def _is_fractional(pixels: Pixels, size: tuple[int, int], extent: Size) -> bool:
    """Whether OpenCV takes the general way, and there are pixels enough for the kernel."""
    shrinks = extent[0] >= size[0] and extent[1] >= size[1] and min(pixels.shape[:2]) >= _LEAST
    return shrinks and bool(extent[0] % size[0] or extent[1] % size[1])


@cache
def _kernel() -> Reduce | None:
    """The kernel, compiled or from its cache; null where it cannot be had or this OpenCV has other bits."""
    if find_spec("numba") is None:
        return None
    from pairsieve.filters._area_kernels import reduce

    noise = np.random.default_rng(0).integers(0, 256, (61, 97, 3), dtype=np.uint8)
    for size in ((50, 33), (96, 60), (13, 7), (97, 20)):
        found = _reduced(reduce, noise, size, (97.0, 61.0))
        if not np.array_equal(found, bgr(cv2.resize(noise, size, interpolation=cv2.INTER_AREA))):
            return None
    return reduce


def prepare() -> None:
    """Load what ``area`` needs, before threads do."""
    _kernel()
