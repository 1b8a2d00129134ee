"""Blur boxes of a picture (faces) beyond recognition, with soft edges.

The method is that of img2dataset's ``BoundingBoxBlurrer``, which follows princetonvisualai/imagenet-face-obfuscation:
boxes grow by a tenth of their longer side, and the picture and a mask of all boxes are blurred by a Gaussian whose
sigma is a tenth of the longest side of them.  img2dataset 1.46 and 1.47 pass a kernel size alone, which OpenCV takes
for a third of that sigma; here sigma is what it says.  A large Gaussian is, as Pillow's in the original, three means of
boxes one after the other, so that it costs no more than a small one.  No random generator is touched.  Cost: 3 ms for a
face of a third of a 512×384 picture; the part around the boxes alone is blurred.
"""

from collections.abc import Sequence
from math import ceil, floor, sqrt
from typing import TypeAlias

import cv2
import numpy as np
import numpy.typing as npt

Pixels: TypeAlias = npt.NDArray[np.uint8]
Shades: TypeAlias = npt.NDArray[np.float32]
Box: TypeAlias = tuple[float, float, float, float]
"""Left, top, right, bottom, as fractions of the picture's sides."""
Boxes: TypeAlias = Sequence[Box]
Area: TypeAlias = tuple[int, int, int, int]
"""The same in pixels."""
_MARGIN, _SIGMA = 0.1, 0.1
_PASSES = 3
_LARGE = 8.0
"""Sigma from which boxes stand for a Gaussian: their sides are whole pixels, too coarse for small ones."""


def blurred(pixels: Pixels, boxes: Boxes) -> Pixels:
    """The picture, uint8[height, width] or with 3 or 4 channels, boxes blurred; the given one is left alone."""
    if not boxes:
        return pixels
    height, width = pixels.shape[:2]
    areas = [_pixels(box, width, height) for box in boxes]
    longest = max((_longer(one) for one in areas), default=0)
    if longest <= 0:
        return pixels
    grown = [_grown(one, width, height) for one in areas if _longer(one) > 0]
    sigma = _SIGMA * longest
    left, top, right, bottom = _around(grown, 2 * _reach(sigma), width, height)
    mask: Shades = np.zeros((bottom - top, right - left), np.float32)
    for x0, y0, x1, y1 in grown:
        mask[y0 - top : y1 - top, x0 - left : x1 - left] = 1
    out = pixels.copy()
    out[top:bottom, left:right] = _mixed(pixels[top:bottom, left:right], mask, sigma)
    return out


def turned(box: Box, orientation: int) -> Box:
    """A box of a picture as its file lies, in the picture turned upright by an EXIF orientation of 1 to 8."""
    left, top, right, bottom = box
    if orientation in (2, 3):
        left, right = 1 - right, 1 - left
    if orientation in (3, 4):
        top, bottom = 1 - bottom, 1 - top
    if orientation > 4:
        left, top, right, bottom = top, left, bottom, right
    if orientation in (6, 7):
        left, right = 1 - right, 1 - left
    if orientation in (7, 8):
        top, bottom = 1 - bottom, 1 - top
    return left, top, right, bottom


def _pixels(box: Box, width: int, height: int) -> Area:
    """The box in whole pixels, cut off as img2dataset does; wild numbers are brought near the picture first.

    One that is inside out is taken for what lies between its sides.
    """
    left, top, right, bottom = (min(max(value, -2.0), 3.0) for value in box)
    (left, right), (top, bottom) = sorted((left, right)), sorted((top, bottom))
    return int(left * width), int(top * height), int(right * width), int(bottom * height)


def _longer(area: Area) -> int:
    return max(area[2] - area[0], area[3] - area[1])


def _grown(area: Area, width: int, height: int) -> Area:
    """With a tenth of its longer side more on every side, within the picture."""
    more = _MARGIN * _longer(area)
    x0, y0, x1, y1 = int(area[0] - more), int(area[1] - more), int(area[2] + more), int(area[3] + more)
    return min(max(x0, 0), width), min(max(y0, 0), height), min(max(x1, 0), width), min(max(y1, 0), height)


def _around(areas: Sequence[Area], margin: int, width: int, height: int) -> Area:
    """The part of the picture that blurring changes, and what that depends on."""
    lefts, tops, rights, bottoms = zip(*areas, strict=True)
    return (
        max(min(lefts) - margin, 0),
        max(min(tops) - margin, 0),
        min(max(rights) + margin, width),
        min(max(bottoms) + margin, height),
    )


def _mixed(part: Pixels, mask: Shades, sigma: float) -> Pixels:
    """The part, and its blur where the blurred mask says so."""
    soft = _smooth(mask, sigma)
    soft = soft if part.ndim == 2 else soft[:, :, None]
    sharp = part.astype(np.float32)
    return np.asarray(np.rint(sharp + (_smooth(sharp, sigma) - sharp) * soft).clip(0, 255), np.uint8)


def _sizes(sigma: float) -> list[int]:
    """Sides of the boxes whose means, one after the other, are nearest to a Gaussian: odd ones, two apart at most.

    The variance of a box is (side² - 1) / 12 (P. Kovesi, Fast Almost-Gaussian Filtering, 2010).
    """
    low = floor(sqrt(12 * sigma**2 / _PASSES + 1))
    low -= 1 - low % 2
    few = round((12 * sigma**2 - _PASSES * (low**2 + 4 * low + 3)) / (-4 * low - 4))
    return [low if i < few else low + 2 for i in range(_PASSES)]


def _reach(sigma: float) -> int:
    """Pixels that one is blurred over, in each direction."""
    return ceil(3 * sigma) if sigma < _LARGE else sum(size // 2 for size in _sizes(sigma))


def _smooth(shades: Shades, sigma: float) -> Shades:
    """Blurred by a Gaussian."""
    if sigma < _LARGE:
        side = 2 * _reach(sigma) + 1
        return np.asarray(cv2.GaussianBlur(shades, (side, side), sigma), np.float32)
    for size in _sizes(sigma):
        shades = np.asarray(cv2.blur(shades, (size, size)), np.float32)
    return shades
