"""Image sizes: DataComp's boundaries, stored sizes, and sizes read from headers."""

import struct
import time
import zlib
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pairsieve.filters.image_shape import ImageShape

Photo = Callable[..., bytes]


def verdict(width: Any, height: Any, kind: pa.DataType | None = None, **chosen: Any) -> Any:
    """The reason for one pair of a stored size."""
    made = ImageShape(**chosen)
    columns = {"original_width": pa.array([width], kind), "original_height": pa.array([height], kind)}
    return made.keep(pa.record_batch(made.score(pa.record_batch(columns)))).to_pylist()[0]


def from_header(*images: bytes | None) -> list[tuple[int | None, int | None, str | None]]:
    """Width, height and reason of images without a stored size."""
    made = ImageShape()
    scored = made.score(pa.record_batch({"image": pa.array(images, pa.binary())}))
    said = made.keep(pa.record_batch(scored)).to_pylist()
    return list(zip(scored["width"].to_pylist(), scored["height"].to_pylist(), said, strict=True))


def png(width: int, height: int) -> bytes:
    """A PNG that claims a size."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("width", "height", "reason"),
    [
        (200, 200, None),
        (199, 400, "too_small"),
        (400, 199, "too_small"),
        (600, 200, None),
        (200, 600, None),
        (601, 200, "too_narrow"),
        (200, 601, "too_narrow"),
        (0, 0, "no_size"),
        (0, 500, "no_size"),
        (-5, 500, "no_size"),
        (None, 500, "no_size"),
        (500, None, "no_size"),
    ],
)
def test_boundaries(width: int | None, height: int | None, reason: str | None) -> None:
    """DataComp's bounds: at least 200 pixels and a ratio of at most 3.0."""
    assert verdict(width, height, pa.int32()) == reason


@pytest.mark.parametrize(
    ("kind", "size", "reason"),
    [
        (pa.float64(), 640.0, None),
        (pa.float64(), float("nan"), "no_size"),
        (pa.float32(), float("inf"), "no_size"),
        (pa.int64(), 2**40, None),
        (pa.uint64(), 2**64 - 1, None),
        (pa.int16(), 640, None),
        (pa.null(), None, "no_size"),
    ],
)
def test_stored_types(kind: pa.DataType, size: Any, reason: str | None) -> None:
    """Sizes may be stored as any number, as tables with nulls do; nonsense is no size."""
    assert verdict(size, size, kind) == reason


@given(st.floats(1, 1e12), st.floats(1, 1e12), st.integers(0, 400), st.floats(1, 10))
def test_rule_of_floats(width: float, height: float, shortest: int, aspect: float) -> None:
    """Fractions of a pixel count, as in DataComp's code: 200.5 by 601 is not too narrow, 600.5 by 200 is."""
    short, long = sorted((width, height))
    want = "too_small" if short < shortest else "too_narrow" if long / short > aspect else None
    assert verdict(width, height, pa.float64(), shortest=shortest, aspect=aspect) == want


@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(0, 400), st.floats(1, 10))
def test_rule(width: int, height: int, shortest: int, aspect: float) -> None:
    """The rule is the shorter side first, then the ratio in float64."""
    short, long = sorted((width, height))
    want = "too_small" if short < shortest else "too_narrow" if long / short > aspect else None
    assert verdict(width, height, pa.int32(), shortest=shortest, aspect=aspect) == want


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "AVIF", "BMP"])
def test_headers(photo: Photo, kind: str) -> None:
    """Without a stored size the header is asked, whatever the format."""
    assert from_header(photo(300, 210, kind=kind)) == [(300, 210, None)]


def test_no_header(photo: Photo) -> None:
    """What has no readable header has no size."""
    jpeg = photo(300, 210)
    assert from_header(None, b"", jpeg[:20], b"<html>" * 99, jpeg) == [*[(None, None, "no_size")] * 4, (300, 210, None)]


def test_truncated_body(photo: Photo) -> None:
    """The header is enough: the rest of the file may be missing."""
    assert from_header(photo(300, 210)[:700]) == [(300, 210, None)]


@pytest.mark.parametrize(
    ("size", "reason"), [((60_000, 60_000), None), ((2**32 - 1, 2**32 - 1), "no_size"), ((2**31, 1), "no_size")]
)
def test_bomb(size: tuple[int, int], reason: str | None) -> None:
    """A header that claims billions of pixels costs no time, and is a size while it is one."""
    start = time.perf_counter()
    assert from_header(*[png(*size)] * 100)[0][2] == reason
    assert time.perf_counter() - start < 1


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_hostile_headers(data: st.DataObject) -> None:
    """No bytes make it raise."""
    body = bytearray(png(300, 210) + b"\0" * 50)
    kind = data.draw(
        st.sampled_from([b"", b"\xff\xd8\xff", b"GIF89a", b"RIFF\0\0\0\0WEBPVP8X", b"BM", b"\0\0\0 ftypavif"])
    )
    body[: len(kind)] = kind
    for at, byte in data.draw(st.lists(st.tuples(st.integers(0, len(body) - 1), st.integers(0, 255)), max_size=8)):
        body[at] = byte
    cut = data.draw(st.integers(0, len(body)))
    ((width, height, _),) = from_header(bytes(body[:cut]))
    assert (width is None) == (height is None)


def test_columns() -> None:
    """Original sizes come first, then sizes, then the image; only then sizes are written."""
    made, both = ImageShape(), {"original_width": pa.int32(), "original_height": pa.int32()}
    size = {"width": pa.int32(), "height": pa.int32()}
    assert made.inputs({**both, **size}) == ("original_width", "original_height")
    assert made.inputs({**size, "original_width": pa.int32()}) == ("width", "height")
    assert made.inputs({"width": pa.int32()}) == ("image",)
    assert "width" in made.outputs({}) and "width" not in made.outputs(size)


def test_text_size() -> None:
    """Sizes stored as text are refused before anything runs."""
    with pytest.raises(ValueError, match="not a number of pixels"):
        ImageShape().check({"width": pa.string(), "height": pa.int32()})
