"""Encoded images to square pictures for training: decoded, cropped, resized, and the same bits in every process.

JPEGs by libjpeg-turbo straight to the layout that the resampling kernel reads, all else by Pillow; sizes are checked
from the header before anything is decoded.  Resampling has Pillow's arithmetic (bicubic, antialiased), so a picture is,
bit for bit, ``RandomResizedCrop`` or ``Resize`` and ``CenterCrop`` of torchvision on Pillow's RGB picture.  Orientation
tags are ignored and alpha is left out, as in open_clip's training.  A JPEG of 256×256 to 224×224 takes 0.36 CPU-ms,
with Pillow and torchvision 1.4.
"""

from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from math import exp, log, sqrt
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pairsieve.filters._headers import HEAD_BYTES, sniff
from pairsieve.filters._images import MAX_PIXELS
from pairsieve.filters._preprocess import FORMATS, QUIET, SPARE, Pixels, Preprocess

Bytes = NDArray[np.uint8]
Crop = Literal["random", "center"]
Box = tuple[int, int, int, int]
"""Left, top, width, height."""
TRIES = 10
DRAWS = 2 * TRIES + 2
"""Numbers in [0, 1) that a random crop takes: area and ratio of each try, then the place."""
RATIOS = 3 / 4, 4 / 3
MOST_SCANS = 100
"""A progressive JPEG has about ten, and each costs a pass over all pixels."""


@dataclass(frozen=True)
class Pictures:
    """How an image becomes a picture of ``size`` × ``size``.

    ``random`` crops a part of ``scale`` of the area and of a ratio of 3:4 to 4:3, as torchvision does, and resizes it;
    ``center`` resizes the shorter side and keeps the middle.  ``fast`` decodes a JPEG at 1/2, 1/4 or 1/8 of its size
    where twice the picture's pixels are left, both ways.
    """

    size: int
    crop: Crop = "random"
    scale: tuple[float, float] = (0.9, 1.0)
    fast: bool = False

    @staticmethod
    def prepare() -> None:
        """Load what decoding needs, so that processes that are forked have it."""
        import simplejpeg  # noqa: F401

        from pairsieve.filters import _preprocess_fast  # noqa: F401

    def picture(self, data: Bytes, draws: NDArray[np.float64]) -> Pixels | None:
        """uint8[3, size, size], given ``DRAWS`` numbers in [0, 1); null for what is broken or too large."""
        try:
            is_jpeg = sniff(data[:HEAD_BYTES].tobytes()) == "jpeg"
            return self._jpeg(data, draws) if is_jpeg else self._other(data, draws)
        except Exception:  # decoders raise whatever a hostile file leads them to
            return None

    def _jpeg(self, data: Bytes, draws: NDArray[np.float64]) -> Pixels | None:
        import simplejpeg

        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
        if colours not in ("YCbCr", "RGB", "Gray", "GRAY"):  # Pillow knows what to do with inks
            return self._other(data, draws)
        if self._is_too_large(width, height) or _scans(data) > MOST_SCANS:
            return None
        box = self._box(width, height, draws)
        scale = self._scale(box)
        small = {"min_height": -(-height // scale), "min_width": -(-width // scale)} if scale > 1 else {}
        pixels = simplejpeg.decode_jpeg(data, "RGBX", **small)
        return self._resized(pixels.view(np.uint32)[..., 0], (width, height), box)

    def _other(self, data: Bytes, draws: NDArray[np.float64]) -> Pixels | None:
        with QUIET, Image.open(BytesIO(data.tobytes()), formats=FORMATS) as image:
            if self._is_too_large(*image.size):
                return None
            pixels = np.asarray(image.convert("RGB").convert("RGBX")).view(np.uint32)[..., 0]
            return self._resized(pixels, image.size, self._box(*image.size, draws))

    def _is_too_large(self, width: int, height: int) -> bool:
        """Whether a picture, or a thin one with its shorter side resized, has more pixels than are decoded."""
        short, long = sorted((width, height))
        return max(short * long, long * self.size * self.size // max(1, short)) > MAX_PIXELS

    def _box(self, width: int, height: int, draws: NDArray[np.float64]) -> Box:
        return random_box(width, height, self.scale, draws) if self.crop == "random" else (0, 0, width, height)

    def _scale(self, box: Box) -> int:
        """One over the scale that a JPEG is decoded at."""
        ratio = min(box[2:]) / self.size
        return next((scale for scale in (8, 4, 2) if self.fast and ratio >= scale * SPARE), 1)

    def _resized(self, pixels: NDArray[np.uint32], size: tuple[int, int], box: Box) -> Pixels:
        """A part of a picture that was decoded whole, perhaps small, resized."""
        from pairsieve.filters._preprocess_fast import Decoded, picture

        scale = -(-size[0] // pixels.shape[1]) if pixels.shape[1] < size[0] else 1
        if self.crop == "center":
            return picture(Decoded(np.ascontiguousarray(pixels), size, scale), self._wanted)
        left, top, width, height = box
        right, bottom = (-(-end // scale) for end in (left + width, top + height))
        part = np.ascontiguousarray(pixels[top // scale : bottom, left // scale : right])
        return picture(Decoded(part, (part.shape[1] * scale, part.shape[0] * scale), scale), self._wanted)

    @cached_property
    def _wanted(self) -> Preprocess:
        mode: Literal["squash", "shortest"] = "squash" if self.crop == "random" else "shortest"
        return Preprocess((self.size, self.size), (0.0,) * 3, (1.0,) * 3, resize_mode=mode)


def _scans(data: Bytes) -> int:
    """How many scans a JPEG may have: their marker is FF DA."""
    return int(np.count_nonzero(data[np.flatnonzero(data[1:] == 0xDA)] == 0xFF))


def random_box(width: int, height: int, scale: tuple[float, float], draws: NDArray[np.float64]) -> Box:
    """The part that torchvision's ``RandomResizedCrop`` would take with these draws; of pictures that no try fits,
    the whole, or the middle of those that are longer than 4:3.
    """
    low, high = map(log, RATIOS)
    for area, ratio in draws[: 2 * TRIES].reshape(TRIES, 2).tolist():
        target = width * height * (scale[0] + area * (scale[1] - scale[0]))
        shape = exp(low + ratio * (high - low))
        wide, tall = round(sqrt(target * shape)), round(sqrt(target / shape))
        if 0 < wide <= width and 0 < tall <= height:
            left, top = (int(draws[at] * (space + 1)) for at, space in ((-2, width - wide), (-1, height - tall)))
            return left, top, wide, tall
    wide = min(width, round(height * RATIOS[1]))
    tall = min(height, round(width / RATIOS[0]))
    return (width - wide) // 2, (height - tall) // 2, wide, tall
