"""A model's picture of an ordinary image, quicker than by Pillow's resizing and of the same bits.

Pillow decodes; its pixels are read where they lie and resampled by ``_preprocess_kernels``, of the crop only.
A JPEG that is much larger than wanted can be decoded at 1/2, 1/4 or 1/8 of its size; then bits differ.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image

from pairsieve.filters._preprocess import Pixels, Preprocess
from pairsieve.filters._preprocess_kernels import resample, weights

_FORMATS = ("JPEG", "MPO", "PNG", "WEBP")
_SCALABLE = ("JPEG", "MPO")
_BAND = 1 << 20  # pixels that certainly lie in one block


@dataclass(frozen=True)
class Decoded:
    """Pixels RGBX, uint32[rows, columns], of a picture of a ``size`` (width, height) at one ``scale``-th of it."""

    pixels: NDArray[np.uint32]
    size: tuple[int, int]
    scale: int


def decoded(image: Image.Image, data: bytes, wanted: Sequence[Preprocess], spare: float) -> list[Decoded] | None:
    """What the picture of each model is made of; null where that is Pillow's work.

    An ordinary image is RGB or grey, a JPEG, PNG or WebP.  A JPEG that is decoded small still has ``spare`` times
    the pixels of the resized picture, both ways.  Raises what Pillow raises of a broken file.
    """
    if image.format not in _FORMATS or image.mode not in ("L", "RGB"):
        return None
    if any(0 in one.resized(*image.size) for one in wanted):  # a line that 'longest' leaves nothing of
        return None
    scales = [_scale(image, one, spare) for one in wanted]
    found = {scale: Decoded(_load(image, data, scale), image.size, scale) for scale in sorted(set(scales))}
    return [found[scale] for scale in scales]


def _scale(image: Image.Image, wanted: Preprocess, spare: float) -> int:
    """One over the scale that a JPEG is decoded at for a model, whatever other models want."""
    if image.format not in _SCALABLE:
        return 1
    width, height = wanted.resized(*image.size)
    ratio = min(image.width / width, image.height / height)
    return next((scale for scale in (8, 4, 2) if ratio >= scale * spare), 1)


def _load(image: Image.Image, data: bytes, scale: int) -> NDArray[np.uint32]:
    """The pixels of the image, or of the same file decoded small."""
    if scale == 1:
        image.load()
        return _rgbx(image if image.mode == "RGB" else image.convert("RGB"))
    with Image.open(BytesIO(data), formats=_SCALABLE) as small:
        small.draft(None, (small.width // scale, small.height // scale))
        return _load(small, data, 1)


def _rgbx(image: Image.Image) -> NDArray[np.uint32]:
    """The pixels of an RGB picture where they lie, or copied where they lie in several blocks."""
    try:
        return _lying(image)
    except ValueError:
        width, height = image.size
        rows = max(1, _BAND // width)
        bands = [(top, min(top + rows, height)) for top in range(0, height, rows)]
        copy = np.empty((height, width), np.uint32)
        for top, end in bands:
            copy[top:end] = _lying(image.crop((0, top, width, end)))
        return copy


def _lying(image: Image.Image) -> NDArray[np.uint32]:
    """Pillow's own memory, which lives as long as the array; raises ``ValueError`` where it is in several blocks."""
    return np.frombuffer(pa.array(image).buffers()[-1], np.uint32).reshape(image.height, image.width)


def picture(source: Decoded, wanted: Preprocess) -> Pixels:
    """Resize, and crop or pad: uint8[3, height, width]."""
    height, width = wanted.size
    resized = wanted.resized(*source.size)
    out = np.full((3, height, width), wanted.fill_color, np.uint8)
    (left, first_x, wide), (top, first_y, high) = _window(resized[0], width), _window(resized[1], height)
    (rows, columns), (long, tall) = source.pixels.shape, (side / source.scale for side in source.size)
    across = weights(columns, long, resized[0], first_x, wide, wanted.cubic)
    down = weights(rows, tall, resized[1], first_y, high, wanted.cubic)
    columns_first = rows - resized[1] > max(0, 2 * (columns - resized[0]))  # as Pillow does since 13.0
    resample(source.pixels, *across, *down, columns_first, out, top, left)
    return out


def _window(have: int, want: int) -> tuple[int, int, int]:
    """Where the kept samples go, where they begin and how many: the middle, by torchvision's rounding."""
    if have < want:
        return (want - have) // 2, 0, have
    return 0, round((have - want) / 2.0), want


def equals_pillow() -> bool:
    """Whether this Pillow resizes as 13.0 does (weights, order of passes), tried on three noisy pictures: 1 ms."""
    noise = np.random.default_rng(0).integers(0, 256, (90, 97, 3), dtype=np.uint8)
    pictures = [Image.fromarray(noise[:height, :width].copy()) for width, height in ((97, 61), (31, 90), (13, 50))]
    return all(_equal(image, cubic) for image in pictures for cubic in (False, True))


def _equal(image: Image.Image, cubic: bool) -> bool:
    filter_ = Image.Resampling.BICUBIC if cubic else Image.Resampling.BILINEAR
    wanted = Preprocess((40, 24), (0,) * 3, (1,) * 3, "bicubic" if cubic else "bilinear", "squash")
    ours = picture(Decoded(_rgbx(image), image.size, 1), wanted)
    return np.array_equal(ours, np.asarray(image.resize((24, 40), filter_)).transpose(2, 0, 1))
