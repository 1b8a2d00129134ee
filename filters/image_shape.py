"""Keep images that are large enough and not too narrow, by their original size.

Where sizes are stored, nothing is decoded (0.02 µs a pair); else the size is read from the image's
header, about 45 µs an image.
"""

from collections.abc import Mapping
from io import BytesIO

import pyarrow as pa
import pyarrow.compute as pc
from PIL import AvifImagePlugin, BmpImagePlugin, ImageFile, JpegImagePlugin, PngImagePlugin
from pydantic import Field, NonNegativeInt

from pairsieve.filters._headers import HEAD_BYTES, read_header, sniff
from pairsieve.filters.base import Filter, Threshold, first_reason

_SIZES = (("original_width", "original_height"), ("width", "height"))
_LARGEST = 2**31 - 1
# Made directly: ``Image.open`` would refuse large sizes, which are sizes like any other here.
_OPENERS: dict[str, type[ImageFile.ImageFile]] = {
    "jpeg": JpegImagePlugin.JpegImageFile,
    "png": PngImagePlugin.PngImageFile,
    "avif": AvifImagePlugin.AvifImageFile,
    "bmp": BmpImagePlugin.BmpImageFile,
}


class ImageShape(Filter):
    """Compare the shorter side and the aspect ratio (longer side over shorter).

    Sizes come from ``original_width, original_height`` where they exist, else ``width, height``,
    else the header of ``image`` (JPEG, PNG, WebP, GIF, AVIF or BMP); then ``width`` and ``height``
    are written too.  Reasons: ``no_size`` (null, zero, or no readable header), ``too_small``,
    ``too_narrow``.
    """

    batch_rows = 65_536
    version = 2

    shortest: Threshold[NonNegativeInt] = Field(200, description="least pixels of the shorter side")
    aspect: Threshold[float] = Field(
        3.0, ge=1, allow_inf_nan=False, description="greatest ratio of longer to shorter side"
    )

    def inputs(self, available: Mapping[str, pa.DataType]) -> tuple[str, ...]:
        stored = [sizes for sizes in _SIZES if all(name in available for name in sizes)]
        return stored[0] if stored else ("image",)

    def outputs(self, available: Mapping[str, pa.DataType]) -> dict[str, pa.DataType]:
        found = {"short_side": pa.int32(), "aspect_ratio": pa.float64()}
        is_stored = self.inputs(available) != ("image",)
        return found if is_stored else {"width": pa.int32(), "height": pa.int32(), **found}

    def check(self, available: Mapping[str, pa.DataType]) -> None:
        for name in self.inputs(available):
            kind = available[name]
            is_number = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_null(kind)
            if name != "image" and not is_number:
                raise ValueError(f"column {name!r} is {kind}, not a number of pixels")

    def score(self, pairs: pa.RecordBatch) -> dict[str, pa.Array]:
        names = self.inputs(dict.fromkeys(pairs.schema.names))
        if names == ("image",):
            sizes = [_header_size(image.as_py()) for image in pairs["image"]]
            width, height = (pa.array([size[i] for size in sizes], pa.int32()) for i in (0, 1))
            return {"width": width, "height": height, **_shape(_pixels(width), _pixels(height))}
        return _shape(_pixels(pairs[names[0]]), _pixels(pairs[names[1]]))

    def keep(self, pairs: pa.RecordBatch) -> pa.Array:
        short, ratio = pairs["short_side"], pairs["aspect_ratio"]
        return first_reason(
            len(ratio),
            (pc.is_null(ratio), "no_size"),
            (pc.less(short, self.shortest), "too_small"),
            (pc.greater(ratio, self.aspect), "too_narrow"),
        )


def _pixels(sides: pa.Array) -> pa.Array:
    """A stored column as float64, as tables with nulls often hold it; null where it is no size."""
    sides = sides.cast(pa.float64(), safe=False)
    is_size = pc.and_(pc.greater_equal(sides, 1), pc.less(sides, float("inf")))
    return pc.if_else(is_size, sides, pa.scalar(None, pa.float64()))


def _shape(width: pa.Array, height: pa.Array) -> dict[str, pa.Array]:
    """Shorter side in whole pixels, and the ratio of the sides as they are; both null where a side is null."""
    short = pc.min_element_wise(width, height, skip_nulls=False)
    long = pc.max_element_wise(width, height, skip_nulls=False)
    pixels = pc.min_element_wise(short, float(_LARGEST), skip_nulls=False)
    return {"short_side": pixels.cast(pa.int32(), safe=False), "aspect_ratio": pc.divide(long, short)}


def _header_size(image: bytes | None) -> tuple[int | None, int | None]:
    """Width and height as the header says (before any EXIF orientation); nulls where it says nothing."""
    try:
        size = _size(image) if image else None
    except Exception:  # parsers raise whatever a hostile file leads them to
        size = None
    return size if size and min(size) >= 0 and max(size) <= _LARGEST else (None, None)


def _size(image: bytes) -> tuple[int, int] | None:
    kind = sniff(image[:HEAD_BYTES])
    if kind in ("webp", "gif"):  # Pillow would set up decoding, with memory for all that is claimed
        return read_header(kind, image).size
    if kind not in _OPENERS:
        return None
    with _OPENERS[kind](BytesIO(image)) as opened:
        width, height = opened.size
        return width, height
