"""What a CLIP model wants of an image, and how the bytes of a file become it.

Exact (``fast=False``) is bit for bit what open_clip's transform holds before ToTensor, orientation ignored as there.
RGB and grey JPEGs, PNGs and WebPs are resampled by ``_preprocess_kernels`` (Pillow's arithmetic, of the crop only)
where numba is installed and a trial agrees with this Pillow; all else (alpha, palettes, CMYK, 1 and 16 bits, other
formats) takes open_clip's own transform.  On one core at 224 pixels, CPU-ms an image, beside the whole transform:
JPEG 512×512 1.4 (4.1), 640×480 1.6 (4.9), 1600×1200 8.3 (20), PNG 512×512 5.7 (8.4), WebP 3.0 (5.9): decoding is
what is left.

``fast`` differs in one thing: a JPEG is decoded at 1/2, 1/4 or 1/8 of its size where ``SPARE`` times the resized
picture is left, at 224 pixels from 896 of the shorter side on: 1600×1200 6.2 ms, 4000×3000 28 (exact 90, open_clip
131).  Smaller images keep their bits.  Of 500 synthetic photos of 1600×1200, 28 % of the values differ, by 0.34 on
average over all and 27 at most; cosines of a ViT-B-32 of random weights by 0.0013 at most, 1.4 % of their spread, and
0.7 % of the kept set of the top 30 % is replaced.  Of 500 enlarged pictures of the demo and its own model of 64 pixels:
22 %, 0.24, 10; 0.005, 3.2 %, and 1.3 %.

The same bytes give the same pixels, whatever the threads and the other models.  Decoding (JPEG, PNG, WebP) and
resampling free the interpreter lock; some 0.1 ms an image hold it.
"""

import threading
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial, reduce
from importlib.util import find_spec
from io import BytesIO
from math import inf
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pairsieve.filters._images import MAX_PIXELS

if TYPE_CHECKING:
    import torch

T = TypeVar("T")
Pixels = NDArray[np.uint8]
Interpolation = Literal["bicubic", "bilinear"]
ResizeMode = Literal["shortest", "longest", "squash"]

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "AVIF", "BMP", "TIFF")
"""Pillow knows others that run programs or have no use here."""
SPARE = 2.0
"""``fast``: a JPEG that is decoded small still has so many times the pixels of the resized picture, both ways."""


@dataclass(frozen=True)
class Preprocess:
    """A model's picture: its size and how an image gets it; the fields are those of open_clip's ``PreprocessCfg``."""

    size: tuple[int, int]  # height, width
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: Interpolation = "bicubic"
    resize_mode: ResizeMode = "shortest"
    fill_color: int = 0
    rgb_first: bool = False  # converted before it is resized, as BLIP does and open_clip does not

    @staticmethod
    def of_blip(processor: Any) -> "Preprocess":
        """What a ``BlipImageProcessor`` of transformers makes, BLIP's own transform: resized to its size, not cropped.

        Raises ``ValueError`` where it is set up to do something else.
        """
        size, does = processor.size, ("do_resize", "do_rescale", "do_normalize", "do_convert_rgb")
        high, wide = (size.get(side) for side in ("height", "width"))
        if not (high and wide and all(getattr(processor, name) for name in does)) or processor.resample not in (2, 3):
            raise ValueError(f"the image processor {type(processor).__name__} does something else than BLIP's")
        mean, std = _three(processor.image_mean), _three(processor.image_std)
        cubic: Interpolation = "bicubic" if processor.resample == 3 else "bilinear"
        return Preprocess((int(high), int(wide)), mean, std, cubic, "squash", rgb_first=True)

    @staticmethod
    def of(model: Any) -> "Preprocess":
        """What an open_clip model was made with; raises ``ValueError`` where that is unknown to open_clip 3.3."""
        from open_clip import get_model_preprocess_cfg
        from open_clip.transform import PreprocessCfg, merge_preprocess_dict

        known = merge_preprocess_dict(PreprocessCfg(), get_model_preprocess_cfg(model))
        if known["interpolation"] not in ("bicubic", "bilinear", "random"):
            raise ValueError(f"interpolation {known['interpolation']!r}: open_clip has bicubic and bilinear")
        if known["resize_mode"] not in ("shortest", "longest", "squash"):
            raise ValueError(f"resize_mode {known['resize_mode']!r}: open_clip has shortest, longest and squash")
        return Preprocess(
            _pair(known["size"]),
            _three(known["mean"]),
            _three(known["std"]),
            "bilinear" if known["interpolation"] == "bilinear" else "bicubic",  # 'random' is for training only
            known["resize_mode"],
            int(known["fill_color"]),
        )

    def resized(self, width: int, height: int) -> tuple[int, int]:
        """Width and height of a picture after resizing, before cropping or padding."""
        high, wide = self.size
        if self.resize_mode == "squash":
            return wide, high
        if self.resize_mode == "shortest" and high == wide:  # torchvision's Resize cuts, ResizeKeepRatio rounds
            long = int(high * max(width, height) / min(width, height))
            return (high, long) if width <= height else (long, high)
        ratios = height / high, width / wide
        ratio = max(ratios) if self.resize_mode == "longest" else min(ratios)
        return round(width / ratio), round(height / ratio)

    @property
    def cubic(self) -> bool:
        """Whether pixels are weighed by the cubic filter: open_clip always does where a shorter side is not square."""
        return self.interpolation == "bicubic" or (self.resize_mode == "shortest" and self.size[0] != self.size[1])


def _pair(size: Any) -> tuple[int, int]:
    """Height and width."""
    high, wide = (size, size) if isinstance(size, int | float) else (*size, *size)[:2]
    return int(high), int(wide)


def _three(value: Any) -> tuple[float, float, float]:
    """A number for each channel, as open_clip reads them."""
    red, green, blue = value if isinstance(value, list | tuple) else (value,) * 3
    return float(red), float(green), float(blue)


def pixels(data: bytes | None, wanted: Sequence[Preprocess], fast: bool) -> list[Pixels] | str:
    """The picture as each model wants it, uint8[3, height, width], or why there is none.

    ``no_image`` for null; ``too_many_pixels`` by the header, or after resizing for the largest of the models;
    ``broken_image`` for what Pillow does not decode to its end, or nothing is left of.  ``fast`` needs numba.
    """
    if data is None:
        return "no_image"
    quick, by_pillow = _quick(fast), partial(_by_pillow, transforms=list(map(_steps, wanted)))
    if quick is None:
        return _guarded(data, wanted, by_pillow)
    found = _guarded(data, wanted, partial(quick.decoded, spare=SPARE if fast else inf))
    if found is None:
        return _guarded(data, wanted, by_pillow)
    return found if isinstance(found, str) else list(map(quick.picture, found, wanted))


@cache
def _quick(fast: bool) -> Any:
    """The module that resamples with numba; null where it is not installed or bits would not be those of this Pillow.

    The kernels are compiled on their first import on a machine.
    """
    if not fast and find_spec("numba") is None:
        return None
    from pairsieve.filters import _preprocess_fast

    return _preprocess_fast if fast or _preprocess_fast.equals_pillow() else None


Work = Callable[[Image.Image, bytes, Sequence[Preprocess]], T]


def _guarded(data: bytes, wanted: Sequence[Preprocess], work: "Work[T]") -> T | str:
    """What ``work`` makes of an image of a sane size, or why it makes nothing."""
    try:
        with QUIET, Image.open(BytesIO(data), formats=FORMATS) as image:
            return "too_many_pixels" if _too_large(image.size, wanted) else work(image, data, wanted)
    except Image.DecompressionBombError:
        return "too_many_pixels"
    except Exception:  # decoders raise whatever a hostile file leads them to
        return "broken_image"


def _too_large(size: tuple[int, int], wanted: Sequence[Preprocess]) -> bool:
    """Whether a picture, or its shorter side resized to the longest that is wanted, has more than ``MAX_PIXELS``."""
    (short, long), side = sorted(size), max((max(one.size) for one in wanted), default=1)
    return max(short * long, long * side * side // max(1, short)) > MAX_PIXELS


Steps = list[Callable[[Image.Image], Image.Image]]


def _by_pillow(image: Image.Image, _: bytes, wanted: Sequence[Preprocess], transforms: list[Steps]) -> list[Pixels]:
    """By open_clip's own transform."""
    return [_planes(reduce(lambda picture, step: step(picture), steps, image)) for steps in transforms]


@cache
def _steps(wanted: Preprocess) -> Steps:
    """open_clip's transform up to the RGB picture."""
    from open_clip.transform import image_transform

    whole = image_transform(
        wanted.size,
        is_train=False,
        mean=wanted.mean,
        std=wanted.std,
        resize_mode=wanted.resize_mode,
        interpolation=wanted.interpolation,
        fill_color=wanted.fill_color,
    )
    steps = list(whole.transforms[:-2])  # the last two are ToTensor and Normalize
    return [lambda image: image.convert("RGB"), *steps] if wanted.rgb_first else steps


def picture_of(image: Image.Image, wanted: Preprocess) -> Pixels:
    """A picture in memory as a model wants it, uint8[3, height, width], by open_clip's own transform."""
    with QUIET:
        return _planes(reduce(lambda picture, step: step(picture), _steps(wanted), image))


def _planes(image: Image.Image) -> Pixels:
    """uint8[3, height, width] of an RGB picture."""
    return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))


def normalised(batch: "torch.Tensor", wanted: Preprocess, dtype: "torch.dtype") -> "torch.Tensor":
    """What the model takes of uint8[n, 3, height, width], on the batch's device.

    In float32 on the CPU it is bit for bit ToTensor and Normalize; other types are rounded from that.
    """
    import torch

    def number(value: float | tuple[float, ...]) -> torch.Tensor:
        return torch.tensor(value, dtype=torch.float32, device=batch.device).view(-1, 1, 1)

    floats = batch.to(torch.float32).div_(number(255.0))  # a plain 255 becomes a factor on a GPU: other bits
    return floats.sub_(number(wanted.mean)).div_(number(wanted.std)).to(dtype)


class _Quiet:
    """No warnings while any thread is inside: ``warnings.catch_warnings`` alone restores the wrong state then."""

    def __init__(self) -> None:
        self._lock, self._inside, self._caught = threading.Lock(), 0, warnings.catch_warnings()

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._caught = warnings.catch_warnings()
                self._caught.__enter__()
                warnings.simplefilter("ignore")  # Pillow warns of odd but decodable files
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._caught.__exit__(None, None, None)


QUIET = _Quiet()
