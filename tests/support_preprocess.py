"""Files of every kind that a CLIP model may be given, models' wishes, and what open_clip makes of them."""

import io
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from open_clip.transform import image_transform
from PIL import Image

from pairsieve.filters._preprocess import Preprocess
from tests.support_phash import encoded, scene

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""OpenAI's."""


def wants(size: tuple[int, int] = (64, 64), **settings: Any) -> Preprocess:
    """A model's wish with OpenAI's colours."""
    return Preprocess(size, MEAN, STD, **settings)


WISHES = (
    wants(),
    wants(interpolation="bilinear"),
    wants((48, 80)),
    wants((48, 80), interpolation="bilinear"),
    wants(resize_mode="longest", fill_color=7),
    wants((70, 50), resize_mode="longest", interpolation="bilinear", fill_color=255),
    wants(resize_mode="squash"),
    wants((40, 90), resize_mode="squash", interpolation="bilinear"),
)


def exif(orientation: int) -> Image.Exif:
    """Says how the camera was held."""
    found = Image.Exif()
    found[0x0112] = orientation
    return found


def files() -> dict[str, bytes]:
    """A file of each kind, named."""
    rgb, tall, grey = scene(1, 150, 110), scene(2, 90, 190), scene(3, 120, 130, "L")
    alpha = rgb.copy()
    alpha.putalpha(grey.resize(rgb.size))
    clear = {"transparency": (0, 0, 0)}
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    return {
        "jpeg 4:2:0": encoded(rgb, quality=90),
        "jpeg 4:4:4": encoded(tall, quality=95, subsampling=0),
        "jpeg progressive": encoded(rgb, progressive=True),
        "jpeg cmyk": encoded(rgb.convert("CMYK")),
        "jpeg grey": encoded(grey),
        "jpeg turned": encoded(tall, exif=exif(6)),
        "jpeg of two pictures": encoded(rgb, "MPO", save_all=True, append_images=[tall]),
        "png": encoded(rgb, "PNG"),
        "png alpha": encoded(alpha, "PNG"),
        "png palette": encoded(rgb.quantize(40), "PNG"),
        "png palette, clear": encoded(rgb.quantize(40), "PNG", transparency=bytes(range(40))),
        "png grey alpha": encoded(alpha.convert("LA"), "PNG"),
        "png bits": encoded(grey.convert("1"), "PNG"),
        "png deep": encoded(deep, "PNG"),
        "png one colour clear": encoded(rgb, "PNG", **clear),
        "png one grey clear": encoded(grey, "PNG", transparency=90),
        "webp": encoded(tall, "WEBP", quality=80),
        "webp alpha": encoded(alpha, "WEBP", lossless=True),
        "gif": encoded(rgb, "GIF"),
        "gif grey": encoded(grey, "GIF"),
        "bmp": encoded(rgb, "BMP"),
        "tiff turned": encoded(tall, "TIFF", tiffinfo=exif(8)),
        "one pixel": encoded(scene(4, 1, 1), "PNG"),
        "one grey pixel": encoded(scene(4, 1, 1, "L")),
        "a line": encoded(scene(5, 190, 2), "PNG"),
        "a column": encoded(scene(6, 2, 190)),
        "as wished": encoded(scene(7, 64, 64)),
    }


def reference(data: bytes, wanted: Preprocess) -> NDArray[np.float32]:
    """float32[3, height, width] of open_clip's transform."""
    transform = image_transform(
        wanted.size,
        is_train=False,
        mean=wanted.mean,
        std=wanted.std,
        resize_mode=wanted.resize_mode,
        interpolation=wanted.interpolation,
        fill_color=wanted.fill_color,
    )
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(transform(image))


def photo(seed: int, width: int, height: int) -> Image.Image:
    """A picture with what resizing may get wrong: slopes, sharp edges, lettering, fine lines and sensor noise."""
    rng = np.random.default_rng(seed)
    canvas = np.asarray(scene(seed, width // 4, height // 4).resize((width, height), Image.Resampling.BICUBIC)).copy()
    for _ in range(30):
        colour, at = tuple(map(int, rng.integers(0, 256, 3))), tuple(map(int, rng.integers(0, (width, height))))
        size, kind = int(rng.integers(6, height // 5)), int(rng.integers(4))
        if kind == 0:
            cv2.circle(canvas, at, size, colour, -1, cv2.LINE_AA)
        elif kind == 1:
            cv2.line(canvas, at, tuple(map(int, rng.integers(0, (width, height)))), colour, 1 + size // 40, cv2.LINE_AA)
        elif kind == 2:
            cv2.putText(canvas, f"pairsieve {seed}", at, cv2.FONT_HERSHEY_SIMPLEX, size / 60, colour, 1 + size // 50)
        else:
            part = canvas[at[1] : at[1] + size, at[0] : at[0] + size]
            part[:: 1 + size // 30] = colour
    noise = rng.integers(0, 13, (height, width), dtype=np.uint8)[..., None]
    return Image.fromarray(np.minimum(canvas, 243) + noise)
