"""Bytes of images as open_clip's models want them: the same bits, by either way, and a reason where there are none."""

import io
import struct
import sys
import warnings
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from types import SimpleNamespace
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip.transform import PreprocessCfg
from PIL import Image, ImageFile

from pairsieve.filters import _preprocess, _preprocess_fast
from pairsieve.filters._images import MAX_PIXELS
from pairsieve.filters._preprocess import Pixels, Preprocess, normalised, pixels
from tests.support_phash import encoded, scene
from tests.support_preprocess import WISHES, exif, files, reference, wants

FILES = files()
ways = pytest.mark.parametrize("fast", [False, True])


def made(data: bytes | None, *wanted: Preprocess, fast: bool) -> list[Pixels]:
    """The pictures; fails where there are none."""
    found = pixels(data, wanted, fast)
    assert not isinstance(found, str), found
    return found


@ways
@pytest.mark.parametrize("name", FILES)
@pytest.mark.filterwarnings("ignore:Palette images")
def test_bits_are_open_clips(name: str, fast: bool) -> None:
    """Whatever file and model, normalised pixels are bit for bit the tensor of open_clip's transform."""
    for one, picture in zip(WISHES, made(FILES[name], *WISHES, fast=fast), strict=True):
        tensor = normalised(torch.from_numpy(picture[None]), one, torch.float32)[0]
        np.testing.assert_array_equal(tensor.numpy(), reference(FILES[name], one), err_msg=str(one))


modes = st.sampled_from(["shortest", "longest", "squash"])
sides = st.one_of(st.integers(1, 40), st.integers(1, 300))


@settings(max_examples=200, deadline=None)
@given(
    width=sides,
    height=sides,
    grey=st.booleans(),
    size=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    square=st.booleans(),
    mode=modes,
    filter_=st.sampled_from(["bicubic", "bilinear"]),
    fill=st.integers(0, 255),
)
def test_both_ways_agree(
    width: int, height: int, grey: bool, size: tuple[int, int], square: bool, mode: Any, filter_: Any, fill: int
) -> None:
    """Sizes, shapes, filters: the quick way gives the exact way's bits, or the same reason for none."""
    wanted = wants((size[0],) * 2 if square else size, resize_mode=mode, interpolation=filter_, fill_color=fill)
    data = encoded(scene(width, width, height, "L" if grey else "RGB"), "PNG")
    exact, quick = (pixels(data, [wanted], fast) for fast in (False, True))
    np.testing.assert_array_equal(quick, exact)


@settings(max_examples=100, deadline=None)
@given(
    name=st.sampled_from(["jpeg 4:2:0", "jpeg progressive", "jpeg grey", "png", "webp"]),
    flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), min_size=1, max_size=4),
    cut=st.one_of(st.none(), st.floats(0, 1)),
)
def test_damage_is_seen_alike(name: str, flips: list[tuple[float, int]], cut: float | None) -> None:
    """Damaged files: no way raises, and both make the same of them."""
    data = bytearray(FILES[name])
    for place, change in flips:
        data[int(place * len(data))] ^= change
    broken = bytes(data[: None if cut is None else int(cut * len(data))])
    exact, quick = (pixels(broken, [wants()], fast) for fast in (False, True))
    assert isinstance(exact, str) == isinstance(quick, str)
    np.testing.assert_array_equal(quick, exact)


@ways
@pytest.mark.parametrize("name", ["jpeg 4:2:0", "jpeg progressive", "png", "webp", "gif"])
def test_truncated_is_broken(name: str, fast: bool) -> None:
    """A file without its second half is broken, however much of it would decode."""
    assert pixels(FILES[name][: len(FILES[name]) // 2], [wants()], fast) == "broken_image"
    assert not ImageFile.LOAD_TRUNCATED_IMAGES


@ways
def test_truncated_is_broken_when_decoded_small(fast: bool) -> None:
    """So is a large JPEG that is decoded at a part of its size."""
    data = encoded(scene(1, 900, 800))
    assert pixels(data[: len(data) * 3 // 4], [wants()], fast) == "broken_image"


@ways
@pytest.mark.parametrize(
    "data", [b"", b"no image", b"\xff\xd8\xff\xe0", b"GIF89a\1\0\1\0", b"%!PS-Adobe-3.0 EPSF-3.0\n"]
)
def test_no_image_is_broken(data: bytes, fast: bool) -> None:
    """Bytes that are no image, or one that Pillow would run a program for, are a broken image."""
    assert pixels(data, [wants()], fast) == "broken_image"


@ways
def test_null_is_no_image(fast: bool) -> None:
    """A null has its own reason."""
    assert pixels(None, [wants()], fast) == "no_image"


def bomb(width: int, height: int) -> bytes:
    """A PNG that says it is so large, with next to nothing in it."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(b"\0")), (b"IEND", b""))
    parts = [struct.pack(">I", len(b)) + n + b + struct.pack(">I", zlib.crc32(n + b)) for n, b in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@ways
@pytest.mark.parametrize("size", [(10_000, 10_000), (2**31 - 1, 2**31 - 1), (MAX_PIXELS + 1, 1), (30_000, 1)])
def test_too_many_pixels(size: tuple[int, int], fast: bool) -> None:
    """Size is read from the header: before decoding, and after resizing the shorter side to the model's."""
    assert pixels(bomb(*size), [wants()], fast) == "too_many_pixels"


@ways
def test_a_line_may_vanish(fast: bool) -> None:
    """Nothing is left of one line in a square that holds its length: open_clip fails too."""
    data = encoded(scene(1, 300, 1), "PNG")
    with pytest.raises(ValueError, match="> 0"):
        reference(data, WISHES[4])
    assert pixels(data, [WISHES[4]], fast) == "broken_image"


def test_orientation_is_ignored() -> None:
    """As open_clip does: the pixels lie as in the file."""
    picture = scene(1, 90, 60)
    plain, turned = encoded(picture), encoded(picture, exif=exif(6))
    np.testing.assert_array_equal(made(turned, wants(), fast=True), made(plain, wants(), fast=True))


def test_large_jpeg_is_decoded_small() -> None:
    """A JPEG of many times the wanted size keeps its spare pixels, and its picture to a grey level."""
    data, wanted = encoded(scene(1, 801, 603), quality=90), wants()
    with Image.open(io.BytesIO(data)) as image:
        found = _preprocess_fast.decoded(image, data, [wanted], spare=3.0)
    assert found is not None
    assert found[0].scale == 2
    assert found[0].pixels.shape == (302, 401)
    exact, quick = (made(data, wanted, fast=fast)[0].astype(int) for fast in (False, True))
    assert 0 < np.abs(quick - exact).mean() < 1


@pytest.mark.parametrize("turned", [False, True])
def test_small_decoding_is_not_shifted(turned: bool) -> None:
    """Large pictures decoded small lie where they lay: slopes up and down change alike, by rounding."""
    slope = np.tile(np.linspace(0, 255, 1403), (1201, 1))
    picture = np.stack([slope, np.full_like(slope, 128), 255 - slope], axis=-1).astype(np.uint8)
    data = encoded(Image.fromarray(picture.swapaxes(0, 1).copy() if turned else picture), quality=95, subsampling=0)
    exact, quick = (made(data, wants(), fast=fast)[0].astype(int) for fast in (False, True))
    up, _, down = (quick - exact).mean(axis=(1, 2))
    assert np.abs(quick - exact).max() <= 2
    assert abs(up - down) < 0.1, "a pixel is 0.18 levels"


def test_models_do_not_meet() -> None:
    """A model's picture is the same whatever other models want of the file."""
    data, wanted = encoded(scene(1, 900, 800)), [wants((size, size)) for size in (32, 64, 130, 32)]
    together = made(data, *wanted, fast=True)
    for one, picture in zip(wanted, together, strict=True):
        np.testing.assert_array_equal(picture, made(data, one, fast=True)[0])
        assert picture.flags.c_contiguous
        assert picture.dtype == np.uint8


def test_large_pictures_lie_in_several_blocks() -> None:
    """A picture of more than Pillow's block of memory has the same bits."""
    data = encoded(scene(1, 2300, 2100), "PNG", compress_level=1)
    np.testing.assert_array_equal(made(data, wants(), fast=True), made(data, wants(), fast=False))


@ways
def test_threads_are_quiet_and_agree(fast: bool) -> None:
    """Files that Pillow warns of, decoded in threads: the same bits, no warning, and the host's filters afterwards."""
    data = [FILES["png palette, clear"], FILES["jpeg 4:2:0"]] * 40
    before = list(warnings.filters)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda one: made(one, wants(), fast=fast)[0], data))
    assert list(warnings.filters) == before
    for i, picture in enumerate(found):
        np.testing.assert_array_equal(picture, found[i % 2])


@pytest.fixture
def afresh() -> Iterator[None]:
    """Ask again how to resample, now and afterwards."""
    _preprocess._quick.cache_clear()
    yield
    _preprocess._quick.cache_clear()


@pytest.mark.usefixtures("afresh")
@pytest.mark.parametrize("name", ["jpeg 4:2:0", "a column", "png alpha"])
def test_another_pillow_resizes_itself(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where Pillow's bits are not the kernel's, the exact way is Pillow's; here they are."""
    assert _preprocess_fast.equals_pillow()
    monkeypatch.setattr(_preprocess_fast, "resample", lambda *_: None)
    assert not _preprocess_fast.equals_pillow()
    tensor = normalised(torch.from_numpy(made(FILES[name], wants(), fast=False)[0]), wants(), torch.float32)
    np.testing.assert_array_equal(tensor.numpy(), reference(FILES[name], wants()))


@pytest.mark.usefixtures("afresh")
def test_exact_needs_no_numba(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without numba the exact way is Pillow's, and the fast way says what is missing instead of blaming the file."""
    monkeypatch.setattr(_preprocess, "find_spec", lambda _: None)
    monkeypatch.setitem(sys.modules, "pairsieve.filters._preprocess_fast", None)
    monkeypatch.delattr("pairsieve.filters._preprocess_fast")
    tensor = normalised(torch.from_numpy(made(FILES["png"], wants(), fast=False)[0]), wants(), torch.float32)
    np.testing.assert_array_equal(tensor.numpy(), reference(FILES["png"], wants()))
    with pytest.raises(ImportError):
        pixels(FILES["png"], [wants()], fast=True)


def test_a_missing_library_is_no_broken_image(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is wrong with the installation is raised, and not said of every image."""
    monkeypatch.setitem(sys.modules, "open_clip.transform", None)
    with pytest.raises(ImportError):
        pixels(FILES["png"], [wants((33, 33))], fast=False)


def test_of_a_model() -> None:
    """What a loaded model was made with is read from it."""
    folder = str(resources.files("pairsieve") / "demo-clip")
    model = open_clip.create_model(f"local-dir:{folder}")
    assert Preprocess.of(model) == wants((64, 64))


def test_of_settings() -> None:
    """open_clip's shorthands: one size, one mean for all channels, and a filter that is random in training."""
    given = PreprocessCfg(384, mean=0.5, std=0.25, interpolation="random", resize_mode="squash", fill_color=3)
    model = SimpleNamespace(visual=SimpleNamespace(preprocess_cfg=vars(given)))
    assert Preprocess.of(model) == Preprocess((384, 384), (0.5,) * 3, (0.25,) * 3, "bicubic", "squash", 3)


@pytest.mark.parametrize("wrong", [{"interpolation": "lanczos"}, {"resize_mode": "random"}])
def test_unknown_settings_are_refused(wrong: dict[str, str]) -> None:
    """What open_clip 3.3 does not know is an error, not a guess."""
    model = SimpleNamespace(visual=SimpleNamespace(preprocess_cfg=vars(PreprocessCfg()) | wrong))
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} '{next(iter(wrong.values()))}': open_clip has"):
        Preprocess.of(model)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_halves_are_rounded_once(dtype: torch.dtype) -> None:
    """Smaller types are the float32 values, rounded; the batch itself stays as it is."""
    batch = torch.arange(256, dtype=torch.uint8).repeat(3).view(1, 3, 16, 16)
    assert torch.equal(normalised(batch, wants(), dtype), normalised(batch, wants(), torch.float32).to(dtype))
    assert batch.dtype == torch.uint8
    assert int(batch[0, 0, 0, 1]) == 1
