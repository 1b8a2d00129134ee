"""Decoding: what a browser shows comes out, and hostile files end in a code, soon."""

import struct
import time
import zlib
from collections.abc import Callable
from io import BytesIO
from typing import Any, TypeAlias

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms, TiffImagePlugin

from pairsieve.filters import _exif
from pairsieve.filters._codes import Code
from pairsieve.filters._headers import read_header
from pairsieve.filters._images import BrokenImageError, decode, decode_image, sniff

Photo: TypeAlias = Callable[..., bytes]
KINDS = ["JPEG", "PNG", "WEBP", "GIF", "AVIF"]


def saved(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """The image as a file."""
    out = BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def code_of(data: bytes, max_pixels: int = 10_000_000) -> Code:
    """The code that decoding ends in."""
    with pytest.raises(BrokenImageError) as caught:
        decode(data, max_pixels)
    return caught.value.code


def with_orientation(number: int) -> Image.Exif:
    """EXIF that says how the picture lies, where it was taken, and by whose camera."""
    exif = Image.Exif()
    exif[0x0112] = number
    exif[0x010F] = "Maker\0"
    exif[0x013B] = "Jane Doe"
    exif[0x8298] = "Jane Doe"
    exif[0x8825] = {1: "N", 2: (47.0, 22.0, 0.0)}
    exif[0x8769] = {0x829D: TiffImagePlugin.IFDRational(14, 5), 0xA430: "Jane Doe", 0xA431: "SN123456", 0xA434: "50mm"}
    return exif


@pytest.mark.parametrize("kind", KINDS)
def test_formats_are_decoded(photo: Photo, kind: str) -> None:
    """Each allowed format gives RGB bytes of its size."""
    pixels = decode(photo(64, 48, kind))
    assert pixels.shape == (48, 64, 3)
    assert pixels.dtype == np.uint8


@pytest.mark.parametrize("kind", ["TIFF", "BMP", "ICO", "JPEG2000"])
def test_other_formats_are_refused(photo: Photo, kind: str) -> None:
    """An image of another format is not even tried."""
    assert code_of(photo(64, 48, kind)) is Code.IMAGE_FORMAT_REFUSED


@pytest.mark.parametrize("data", [b"", b"\xff", b"<html></html>", b"RIFF1234WAVE", b"%PDF-1.7", b"\0" * 100])
def test_no_image(data: bytes) -> None:
    """Whatever does not begin as an image is none."""
    assert code_of(data) is Code.NOT_AN_IMAGE


@pytest.mark.parametrize("kind", KINDS)
def test_cut_files_are_broken(photo: Photo, kind: str) -> None:
    """A file cut anywhere, but for a GIF's last two bytes, is broken."""
    data = photo(80, 60, kind)
    cuts = {len(data) - 3, *range(64, len(data) - 3, len(data) // 40)}
    assert {code_of(data[:cut]) for cut in cuts} == {Code.BROKEN_IMAGE}


@given(st.sampled_from(["JPEG", "PNG", "WEBP", "GIF"]), st.integers(0, 10_000), st.binary(min_size=1, max_size=8))
def test_damaged_files_decode_or_are_broken(kind: str, place: int, junk: bytes) -> None:
    """Bytes overwritten anywhere never raise anything else."""
    data = saved(Image.linear_gradient("L").resize((40, 30)).convert("RGB"), kind)
    at = place % len(data)
    try:
        decode(data[:at] + junk + data[at + len(junk) :], 100_000)
    except BrokenImageError as error:
        assert error.code is not Code.SUCCESS


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_orientation_is_applied(photo: Photo, kind: str, turn: int) -> None:
    """A photo lies as a browser shows it."""
    image = Image.open(BytesIO(photo(64, 48, "PNG")))
    data = saved(image, kind, exif=with_orientation(turn))
    ways = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}  # Pillow's names for how to get upright
    upright = Image.open(BytesIO(data)).convert("RGB")
    if turn in ways:
        upright = upright.transpose(Image.Transpose(ways[turn]))
    assert np.array_equal(decode(data), np.asarray(upright))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_is_white(mode: str) -> None:
    """What is not there is white, whatever colour is stored behind."""
    if mode == "P":
        data = saved(Image.new("P", (4, 4)), transparency=0)
    else:
        data = saved(Image.new("RGBA", (4, 4), (200, 0, 0, 0)).convert(mode))
    assert decode(data).min() == 255


def test_half_transparent_is_rounded_exactly() -> None:
    """Every alpha over every grey is the rounded mean with white."""
    alpha, grey = np.meshgrid(np.arange(256), np.arange(256))
    image = Image.merge("LA", [Image.fromarray(a.astype(np.uint8)) for a in (grey, alpha)])
    exact = np.rint((grey * alpha + 255 * (255 - alpha)) / 255).astype(np.uint8)
    assert np.array_equal(decode(saved(image))[:, :, 0], exact)


def test_sixteen_bits_are_scaled() -> None:
    """A 16-bit ramp becomes an 8-bit ramp, not white."""
    ramp = Image.fromarray(np.arange(65536, dtype=np.uint16).reshape(256, 256))
    assert np.array_equal(decode(saved(ramp))[:, 0, 1], np.arange(256))


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr"])
def test_modes_become_rgb(mode: str) -> None:
    """Bilevel, grey, palette, CMYK: white stays white."""
    image = Image.new("RGB", (8, 8), "white").convert(mode)
    pixels = decode(saved(image, "JPEG" if mode in ("CMYK", "YCbCr") else "PNG"))
    assert pixels.shape == (8, 8, 3)
    assert pixels.min() == 255


def test_first_frame_counts() -> None:
    """Of an animation the first frame is taken."""
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    data = saved(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert decode(data)[0, 0].tolist() == [255, 0, 0]


def test_broken_profile_is_ignored(photo: Photo) -> None:
    """A colour profile that is none changes nothing."""
    image = Image.open(BytesIO(photo(kind="PNG")))
    assert np.array_equal(decode(saved(image, icc_profile=b"junk" * 50)), decode(saved(image)))


def test_profile_is_converted() -> None:
    """Colours of another space become sRGB's: where a profile swaps red and green, red is green."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    swapped = profile.replace(b"rXYZ", b"-XYZ").replace(b"gXYZ", b"rXYZ").replace(b"-XYZ", b"gXYZ")
    other = swapped.replace("sRGB".encode("utf-16-be"), "swap".encode("utf-16-be"))
    pixels = decode(saved(Image.new("RGB", (4, 4), "red"), icc_profile=other))
    assert abs(pixels[0, 0].astype(int) - [0, 255, 0]).max() <= 2


def png_header(width: int, height: int) -> bytes:
    """A PNG that announces a size and holds a kilobyte of compressed zeros."""
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(bytes(1_000_000))),
        (b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


@pytest.mark.parametrize(
    "data",
    [
        png_header(60_000, 60_000),
        b"GIF89a" + b"\xff\xff\xff\xff" + bytes(60),
        b"RIFF\x20\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0\xff\xff\xff\xff\xff\xff" + bytes(60),
        b"\xff\xd8\xff\xc0\0\x11\x08\xff\xff\xff\xff\x03\1\x22\0\2\x11\1\3\x11\1\xff\xda\0\x0c\3\1\0\2\x11\3\x11\0\x3f\0",
    ],
    ids=["png", "gif", "webp", "jpeg"],
)
def test_bombs_are_refused_by_their_header(data: bytes) -> None:
    """A file that announces too many pixels is not decoded, and no warning leaks."""
    began = time.monotonic()
    assert code_of(data) is Code.TOO_MANY_PIXELS
    assert time.monotonic() - began < 2


def test_pixel_cap_is_inclusive(photo: Photo) -> None:
    """Exactly the cap is allowed."""
    assert decode(photo(64, 48), 64 * 48).shape == (48, 64, 3)
    assert code_of(photo(64, 48), 64 * 48 - 1) is Code.TOO_MANY_PIXELS


def test_endless_scans_are_refused() -> None:
    """A progressive file of thousands of scans would decode for minutes."""
    data = saved(Image.new("RGB", (64, 64)), "JPEG", progressive=True)
    scan = data.rindex(b"\xff\xda")
    assert code_of(data[:scan] + data[scan:-2] * 200 + data[-2:]) is Code.BROKEN_IMAGE


def test_text_bomb_is_never_inflated(photo: Photo) -> None:
    """Compressed text in a PNG is dropped unread."""
    data = photo(kind="PNG")
    text = b"x\0\0" + zlib.compress(bytes(50_000_000))
    chunk = struct.pack(">I", len(text)) + b"zTXt" + text + struct.pack(">I", zlib.crc32(b"zTXt" + text))
    assert np.array_equal(decode(data[:33] + chunk + data[33:]), decode(data))


def test_wanted_exif_only(photo: Photo) -> None:
    """Camera facts come out; owner, serial number and position are not even read."""
    image = Image.open(BytesIO(photo()))
    text = _exif.wanted_json(decode_image(saved(image, "JPEG", exif=with_orientation(6))).exif)
    assert text == (
        '{"EXIF FNumber": "14/5", "EXIF LensModel": "50mm", "Image Make": "Maker", "Image Orientation": "6"}'
    )


@given(st.binary(max_size=200), st.sampled_from([b"", b"II*\0\x08\0\0\0", b"MM\0*\0\0\0\x08"]))
def test_any_exif_is_harmless(data: bytes, start: bytes) -> None:
    """No EXIF block raises, and orientation is always one of eight."""
    assert _exif.orientation(start + data) in range(1, 9)
    assert (_exif.wanted_json(start + data) or "{").startswith("{")


@given(st.binary(max_size=64))
def test_any_head_is_sniffed(head: bytes) -> None:
    """Sniffing takes any bytes."""
    assert sniff(head) is None or isinstance(sniff(head), str)


@given(st.lists(st.tuples(st.integers(0xE1, 0xEF), st.binary(max_size=40), st.binary(max_size=3)), max_size=4))
def test_what_decoding_needs_none_of_is_cut_from_a_jpeg(blocks: list[tuple[int, bytes, bytes]]) -> None:
    """Metadata, and bytes between segments, never reach the decoder; a file without any is left as it is."""
    plain = saved(Image.new("RGB", (20, 10), (200, 30, 90)), "JPEG")
    assert read_header("jpeg", plain).body is plain
    first = 4 + int.from_bytes(plain[4:6], "big")
    parts = [
        bytes([0xFF, marker]) + struct.pack(">H", len(text) + 2) + text + between.replace(b"\xff", b"")
        for marker, text, between in blocks
        if marker != 0xEE and not text.startswith(b"ICC_PROFILE\0")
    ]
    assert read_header("jpeg", plain[:first] + b"".join(parts) + plain[first:]).body == plain
