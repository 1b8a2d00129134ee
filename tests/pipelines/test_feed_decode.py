"""Pictures for training: the bits of torchvision's transforms on Pillow's picture, and nothing of hostile files."""

import io
import struct
import zlib
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from torchvision.transforms import InterpolationMode, RandomResizedCrop  # type: ignore[import-untyped]
from torchvision.transforms import functional as tv

from pairsieve.filters._preprocess import QUIET
from pairsieve.pipelines.feed_decode import DRAWS, MOST_SCANS, Pictures, random_box
from tests.support_phash import encoded, scene
from tests.support_preprocess import files, photo

FILES = files()
BICUBIC = InterpolationMode.BICUBIC


def draws(seed: int = 0) -> NDArray[np.float64]:
    """Numbers for one crop."""
    return np.random.default_rng(seed).random(DRAWS)


def made(data: bytes, seed: int = 0, size: int = 64, **settings: Any) -> NDArray[np.uint8] | None:
    """The picture of a file."""
    return Pictures(size, **settings).picture(np.frombuffer(data, np.uint8), draws(seed))


def rgb(data: bytes) -> Image.Image:
    """Pillow's picture; it warns of some palettes."""
    with QUIET:
        return Image.open(io.BytesIO(data)).convert("RGB")


def planes(image: Image.Image) -> NDArray[np.uint8]:
    """As a tensor lies."""
    return np.asarray(image).transpose(2, 0, 1)


@pytest.mark.parametrize("name", FILES)
def test_a_random_crop_has_the_bits_of_torchvisions(name: str) -> None:
    """Of Pillow's RGB picture of every kind of file, cut and resized with bicubic, antialiased weights."""
    image = rgb(FILES[name])
    for seed in range(3):
        left, top, width, height = random_box(*image.size, (0.5, 1.0), draws(seed))
        wanted = tv.resized_crop(image, top, left, height, width, [64, 64], BICUBIC)
        found = made(FILES[name], seed, scale=(0.5, 1.0))
        assert found is not None
        assert np.array_equal(found, planes(wanted))


@pytest.mark.parametrize("name", FILES)
def test_the_centre_has_the_bits_of_torchvisions(name: str) -> None:
    """``Resize`` and ``CenterCrop`` of the RGB picture."""
    image = rgb(FILES[name])
    wanted = tv.center_crop(tv.resize(image, [64], BICUBIC), [64, 64])
    found = made(FILES[name], crop="center")
    assert found is not None
    assert np.array_equal(found, planes(wanted))


@given(st.integers(1, 900), st.integers(1, 900), st.integers(0, 2**32), st.floats(0.01, 1))
def test_a_box_lies_in_its_picture(width: int, height: int, seed: int, low: float) -> None:
    """And has the area and the ratio that were asked for, where any such box fits and but for rounding."""
    left, top, wide, tall = random_box(width, height, (low, 1.0), draws(seed))
    assert 0 <= left <= width - wide
    assert 0 <= top <= height - tall
    assert min(wide, tall) >= 1
    assert (wide - 0.5) / (tall + 0.5) <= 4 / 3 or wide == tall == 1
    assert (wide + 0.5) / (tall - 0.5) >= 3 / 4


@pytest.mark.parametrize("size", [(1000, 50), (50, 1000), (31, 401), (777, 3)])
def test_of_long_pictures_the_middle(size: tuple[int, int]) -> None:
    """As torchvision takes it where no try fits: there, it is no matter of chance."""
    top, left, tall, wide = RandomResizedCrop.get_params(Image.new("L", size), [0.9, 1.0], [3 / 4, 4 / 3])
    assert random_box(*size, (0.9, 1.0), draws()) == (left, top, wide, tall)


def test_boxes_are_spread_as_torchvisions() -> None:
    """Means of place and size over 3,000 crops, within five standard errors."""
    image = Image.new("L", (300, 260))
    theirs = np.array([RandomResizedCrop.get_params(image, [0.3, 1.0], [3 / 4, 4 / 3]) for _ in range(3000)])
    ours = np.array([random_box(300, 260, (0.3, 1.0), draws(seed)) for seed in range(3000)])[:, [1, 0, 3, 2]]
    errors = np.sqrt((theirs.var(0) + ours.var(0)) / 3000)
    assert np.all(np.abs(theirs.mean(0) - ours.mean(0)) < 5 * errors)


@pytest.mark.parametrize("crop", ["random", "center"])
@pytest.mark.parametrize("size", [(1600, 1200), (1001, 763)])
def test_fast_is_nearly_exact(crop: Any, size: tuple[int, int]) -> None:
    """A large JPEG that is decoded small has the same colours at the same places; a small one has the same bits."""
    large, small = encoded(photo(1, *size), quality=90), encoded(photo(2, 400, 300), quality=90)
    exact, fast = (made(large, 5, 96, crop=crop, fast=is_fast) for is_fast in (False, True))
    assert exact is not None
    assert fast is not None
    gaps = np.abs(exact.astype(np.int16) - fast)
    assert 0 < gaps.mean() < 2.5
    few, many = (made(small, 5, 224, crop=crop, fast=is_fast) for is_fast in (False, True))
    assert few is not None
    assert many is not None
    assert np.array_equal(few, many)


def bomb() -> bytes:
    """A PNG of 60,000 × 60,000 by its header."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def huge_jpeg() -> bytes:
    """A JPEG that says it has 65,500 × 65,500 pixels."""
    data = bytearray(encoded(scene(1, 32, 32)))
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", 65_500, 65_500)
    return bytes(data)


def many_scans() -> bytes:
    """A progressive JPEG whose last scan is there over and over."""
    data = encoded(scene(1, 64, 64), progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:-2] + data[last:-2] * MOST_SCANS + data[-2:]


BROKEN = {
    "nothing": b"",
    "a byte": b"\xff",
    "words": b"<html>404</html>",
    "half a JPEG": encoded(scene(1, 300, 200))[:4000],
    "half a PNG": encoded(scene(1, 60, 50), "PNG")[:900],
    "a JPEG's head": encoded(scene(1, 300, 200))[:200],
    "a bomb": bomb(),
    "a huge JPEG": huge_jpeg(),
    "many scans": many_scans(),
    "a long line": encoded(Image.new("RGB", (65_000, 1)), "PNG"),
}


@pytest.mark.parametrize("crop", ["random", "center"])
@pytest.mark.parametrize("name", BROKEN)
def test_what_is_broken_gives_no_picture(name: str, crop: Any) -> None:
    """And nothing is raised or printed; of a long line the middle could be taken, its whole could not."""
    found = made(BROKEN[name], crop=crop, size=224)
    assert found is None or (name, crop) == ("a long line", "random")


@given(st.binary(max_size=300), st.sampled_from(["", "jpeg 4:2:0", "png", "webp"]), st.integers(0, 3000))
def test_damage_is_met_calmly(noise: bytes, name: str, at: int) -> None:
    """Files with noise written into them give a picture or none."""
    data = FILES[name][: at % 2000] + noise + FILES[name][at % 2000 + len(noise) :] if name else noise
    found = made(data, size=16)
    assert found is None or found.shape == (3, 16, 16)


def test_it_is_opencvs_jpeg_too() -> None:
    """The same libjpeg-turbo decodes: a JPEG of the wished size is what OpenCV reads, bit for bit."""
    data = encoded(scene(3, 64, 64), quality=88)
    found = made(data, crop="center")
    wanted = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    assert found is not None
    assert wanted is not None
    assert np.array_equal(found, wanted.transpose(2, 0, 1))
