"""Keep images that are large enough and not too narrow, by their original size.

Where sizes are stored, nothing is decoded (0.1 µs a pair); else the size is read from the image's
header, about 25 µs an image.
"""

import warnings
from collections.abc import Mapping
from io import BytesIO

import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image
from pydantic import Field, NonNegativeInt

from pairsieve.filters.base import Filter, Threshold

_SIZES = (("original_width", "original_height"), ("width", "height"))


class ImageShape(Filter):
    """Compare the shorter side and the aspect ratio (longer side over shorter).

    Sizes come from ``original_width, original_height`` where they exist, else ``width, height``,
    else the header of ``image``; then ``width`` and ``height`` are written too.  Reasons:
    ``no_size`` (null, zero, or no readable header), ``too_small``, ``too_narrow``.
    """

    shortest: Threshold[NonNegativeInt] = Field(200, description="least pixels of the shorter side")
    aspect: Threshold[float] = Field(3.0, ge=1, description="greatest ratio of longer to shorter side")

    def inputs(self, available: Mapping[str, pa.DataType]) -> tuple[str, ...]:
        stored = [sizes for sizes in _SIZES if all(name in available for name in sizes)]
        return stored[0] if stored else ("image",)

    def outputs(self, available: Mapping[str, pa.DataType]) -> dict[str, pa.DataType]:
        found = {"short_side": pa.int32(), "aspect_ratio": pa.float64()}
        is_stored = self.inputs(available) != ("image",)
        return found if is_stored else {"width": pa.int32(), "height": pa.int32(), **found}

    def score(self, pairs: pa.RecordBatch) -> dict[str, pa.Array]:
        names = self.inputs(dict.fromkeys(pairs.schema.names))
        if names == ("image",):
            sizes = [_header_size(image.as_py()) for image in pairs["image"]]
            width, height = (pa.array([size[i] for size in sizes], pa.int32()) for i in (0, 1))
            return {"width": width, "height": height, **_shape(width, height)}
        return _shape(pairs[names[0]].cast(pa.int32()), pairs[names[1]].cast(pa.int32()))

    def keep(self, pairs: pa.RecordBatch) -> pa.Array:
        short, ratio = pairs["short_side"], pairs["aspect_ratio"]
        cases = pc.make_struct(pc.is_null(ratio), pc.less(short, self.shortest), pc.greater(ratio, self.aspect))
        return pc.case_when(cases, "no_size", "too_small", "too_narrow").cast(pa.string())


def _shape(width: pa.Array, height: pa.Array) -> dict[str, pa.Array]:
    """Shorter side, and the ratio in float64; both null where a side is null or below 1."""
    short = pc.min_element_wise(width, height, skip_nulls=False)
    long = pc.max_element_wise(width, height, skip_nulls=False)
    short = pc.if_else(pc.greater(short, 0), short, pa.scalar(None, pa.int32()))
    return {"short_side": short, "aspect_ratio": pc.divide(long.cast(pa.float64()), short.cast(pa.float64()))}


def _header_size(image: bytes | None) -> tuple[int | None, int | None]:
    """Width and height as the header says (before any EXIF orientation); nulls where it says nothing."""
    if image is None:
        return None, None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a claim of very many pixels is a size like any other here
            with Image.open(BytesIO(image), formats=("JPEG", "PNG", "WEBP", "GIF", "AVIF", "BMP", "TIFF")) as opened:
                return opened.size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None, None
