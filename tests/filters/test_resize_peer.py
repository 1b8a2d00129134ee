"""Resizing against the original: img2dataset 1.47.0's own resizer.py, run on the same files."""

import warnings
from collections.abc import Iterator
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from io import BytesIO
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pairsieve.filters._images import Pixels, decode, decode_image
from pairsieve.filters._resize import ResizeMode, Resizer

SIDE = 64
MODES: list[ResizeMode] = ["no", "border", "keep_ratio", "keep_ratio_largest", "center_crop"]
SOURCES = {
    "bigger": ("RGB", 131, 97),
    "smaller": ("RGB", 31, 23),
    "one side bigger": ("RGB", 101, 37),
    "wide": ("RGB", 400, 9),
    "tall": ("RGB", 9, 400),
    "alpha": ("RGBA", 131, 97),
    "grey": ("L", 131, 97),
    "grey and alpha": ("LA", 90, 75),
    "half to round": ("RGB", 128, 65),
}


@pytest.fixture(scope="module")
def peer() -> Iterator[ModuleType]:
    """img2dataset's resizer.py alone: the package around it imports far more than it needs."""
    package = find_spec("img2dataset")
    if not package or not package.submodule_search_locations:
        pytest.skip("img2dataset is not installed: pip install --no-deps -r tests/peers.txt")
    spec = spec_from_file_location("peer_resizer", Path(package.submodule_search_locations[0]) / "resizer.py")
    assert spec and spec.loader
    module = module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        patch.setenv("NO_ALBUMENTATIONS_UPDATE", "1")  # it would ask PyPI for its newest version
        warnings.simplefilter("ignore")
        try:
            spec.loader.exec_module(module)
        except ImportError as error:
            pytest.skip(f"img2dataset's resizer cannot be imported: {error}")
    yield module


def png(mode: str, width: int, height: int) -> bytes:
    """Noise as PNG: whatever is interpolated or rounded otherwise shows."""
    channels = Image.getmodebands(mode)
    noise = np.random.default_rng(width * height).integers(0, 256, (height, width, channels), dtype=np.uint8)
    out = BytesIO()
    Image.frombytes(mode, (width, height), noise.tobytes()).save(out, "PNG")
    return out.getvalue()


def theirs(peer: ModuleType, data: bytes, mode: str, only_if_bigger: bool, form: str, quality: int) -> Pixels:
    """The peer's stored picture as RGB."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = peer.Resizer(SIDE, mode, only_if_bigger, encode_format=form, encode_quality=quality)
        stored, width, height, *_, error = made(BytesIO(data))
    assert error is None
    pixels = decode(stored)
    assert pixels.shape == (height, width, 3)
    return pixels


def ours(data: bytes, mode: ResizeMode, only_if_bigger: bool, form: str, quality: int) -> Pixels:
    """Our stored picture as RGB."""
    made = Resizer(SIDE, mode, only_if_bigger, encode_format="png" if form == "png" else "jpg", encode_quality=quality)
    return decode(made.store(data, decode_image(data)).data)


@pytest.mark.parametrize("only_if_bigger", [False, True])
@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("mode", MODES)
def test_pixels_equal_the_peers(peer: ModuleType, mode: ResizeMode, source: str, only_if_bigger: bool) -> None:
    """Stored losslessly, every pixel is the peer's."""
    data = png(*SOURCES[source])
    expected = theirs(peer, data, mode, only_if_bigger, "png", 1)
    assert np.array_equal(ours(data, mode, only_if_bigger, "png", 1), expected)


@pytest.mark.parametrize("source", ["bigger", "smaller", "alpha", "grey"])
@pytest.mark.parametrize("mode", MODES)
def test_jpeg_pixels_equal_the_peers(peer: ModuleType, mode: ResizeMode, source: str) -> None:
    """JPEG output has the peer's chroma subsampling and quality."""
    data = png(*SOURCES[source])
    assert np.array_equal(ours(data, mode, False, "jpg", 95), theirs(peer, data, mode, False, "jpg", 95))


KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "JPEG": ("RGB", {}),
    "progressive JPEG": ("RGB", {"progressive": True}),
    "JPEG without subsampling": ("RGB", {"subsampling": 0}),
    "grey JPEG": ("L", {}),
    "grey PNG": ("L", {}),
    "bilevel PNG": ("1", {}),
    "palette PNG": ("P", {}),
    "RGBA PNG": ("RGBA", {}),
    "transparent palette PNG": ("P", {"transparency": 3}),
    "grey and alpha PNG": ("LA", {}),
    "WEBP": ("RGB", {}),
    "RGBA WEBP": ("RGBA", {}),
    "GIF": ("P", {}),
    "transparent GIF": ("P", {"transparency": 3}),
    "AVIF": ("RGB", {}),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", KINDS)
def test_stored_files_equal_the_peers(peer: ModuleType, kind: str, mode: ResizeMode) -> None:
    """Byte for byte: the same pixels, channels and encoder, at four times the wanted size too."""
    colours, options = KINDS[kind]
    image = Image.open(BytesIO(png("RGB", 331, 290))).convert(colours)
    out = BytesIO()
    image.save(out, next(k for k in ("JPEG", "PNG", "WEBP", "GIF", "AVIF") if k in kind), **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = peer.Resizer(SIDE, mode, False)(BytesIO(out.getvalue()))[0]
    resizer = Resizer(SIDE, mode, exact=True)
    assert resizer.store(out.getvalue(), decode_image(out.getvalue(), wanted=resizer.reduced)).data == theirs


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "GIF"])
def test_decoding_equals_the_peers(peer: ModuleType, kind: str) -> None:
    """Another decoder reads the same pixels from lossy files."""
    out = BytesIO()
    Image.open(BytesIO(png("RGB", 131, 97))).save(out, kind)
    data = out.getvalue()
    assert np.array_equal(ours(data, "keep_ratio", False, "png", 1), theirs(peer, data, "keep_ratio", False, "png", 1))
