"""Perceptual hashes are ImageHash's, bit by bit; keys miss nothing within their radius."""

import struct
import zlib
from io import BytesIO
from math import isqrt
from typing import Any

import imagehash
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from PIL import Image

from pairsieve.filters import _hamming, _phash
from pairsieve.filters._images import decode
from pairsieve.filters._phash_pictures import small
from tests.support_phash import Bytes, encoded, planted, scene

BITS = (64, 256)


def peer(image: Image.Image, bits: int) -> Bytes:
    """ImageHash's bits as bytes."""
    found: NDArray[np.bool_] = imagehash.phash(image, hash_size=isqrt(bits)).hash
    return np.packbits(found)


def peers(grey: Bytes) -> Bytes:
    """ImageHash's bits of pictures that need no resizing."""
    return np.array([peer(Image.fromarray(one), (grey.shape[1] // 4) ** 2) for one in grey])


def exact(data: bytes, bits: int = 64) -> Bytes:
    """Our bits of a file that is decoded in full."""
    picture = small(data, _phash.side(bits), fast=False)
    assert picture is not None
    (found,) = _phash.hashes(picture[None])[0]
    return np.asarray(found)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("kind", ["noise", "dark", "mirror", "two mirrors", "diagonal", "star", "flat", "rows", "dot"])
def test_foundare_imagehashs(kind: str, bits: int) -> None:
    """Also where symmetry makes frequencies equal, so that only rounding decides a bit."""
    side, rng = _phash.side(bits), np.random.default_rng(bits)
    noise = rng.integers(0, 256, (60, side, side), dtype=np.uint8)
    half = side // 2
    left = np.concatenate([noise[:, :, :half], noise[:, :, :half][:, :, ::-1]], axis=2)
    both = np.concatenate([left[:, :half], left[:, :half][:, ::-1]], axis=1)
    dot = np.zeros_like(noise)
    dot[np.arange(60), rng.integers(0, side, 60), rng.integers(0, side, 60)] = 255
    pictures = {
        "noise": noise,
        "dark": noise // 80,
        "mirror": left,
        "two mirrors": both,
        "diagonal": noise // 2 + noise.transpose(0, 2, 1) // 2,
        "star": both // 2 + both.transpose(0, 2, 1) // 2,
        "flat": np.ones_like(noise) * np.arange(0, 240, 4, dtype=np.uint8)[:, None, None],
        "rows": np.ones_like(noise) * noise[:, :, :1],
        "dot": dot,
    }
    found, _ = _phash.hashes(pictures[kind])
    assert (found == peers(pictures[kind])).all()


@settings(max_examples=150)
@given(hnp.arrays(np.uint8, (2, 32, 32), elements=st.integers(0, 255) | st.sampled_from([0, 255])))
def test_foundof_any_picture_are_imagehashs(grey: Bytes) -> None:
    """Hypothesis tends to repeat one value, which makes ties."""
    assert (_phash.hashes(grey)[0] == peers(grey)).all()


@pytest.mark.parametrize("bits", BITS)
def test_hashes_do_not_depend_on_the_batch(bits: int) -> None:
    """One by one as all at once, ties too."""
    side = _phash.side(bits)
    grey = np.random.default_rng(0).integers(0, 3, (300, side, side), dtype=np.uint8)
    grey[::7] = grey[::7] // 2 + grey[::7].transpose(0, 2, 1) // 2
    for mirrored in (False, True):
        whole, flat = _phash.hashes(grey, mirrored)
        parts = [_phash.hashes(grey[i : i + 1], mirrored) for i in range(300)]
        assert (np.concatenate([part[0] for part in parts]) == whole).all()
        assert (np.concatenate([part[1] for part in parts]) == flat).all()
    assert _phash.hashes(grey[:0])[0].shape == (0, bits // 8)


FILES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "jpeg": ("RGB", "JPEG", {"quality": 90}),
    "poor jpeg": ("RGB", "JPEG", {"quality": 20, "subsampling": 2}),
    "progressive": ("RGB", "JPEG", {"progressive": True}),
    "grey jpeg": ("L", "JPEG", {}),
    "png": ("RGB", "PNG", {}),
    "grey png": ("L", "PNG", {}),
    "one bit": ("1", "PNG", {}),
    "palette": ("P", "PNG", {}),
    "webp": ("RGB", "WEBP", {"quality": 70}),
    "gif": ("P", "GIF", {}),
}


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("name", FILES)
def test_files_have_imagehashs_bits(name: str, bits: int) -> None:
    """Whatever the format, of whatever size, decoded in full by Pillow."""
    mode, kind, chosen = FILES[name]
    for seed, size in enumerate([(640, 480), (97, 310), (32, 32), (40, 7), (3, 200)]):
        data = encoded(scene(seed, *size, mode=mode), kind, **chosen)
        opened = Image.open(BytesIO(data))
        image = opened.convert("RGB") if mode == "P" else opened
        assert (exact(data, bits) == peer(image, bits)).all()


def test_alpha_orientation_and_colours_are_as_seen() -> None:
    """On white, upright, of 16 bits the high byte; CMYK as the house decodes it."""
    picture = scene(1, 300, 200)
    clear = picture.copy()
    clear.putalpha(Image.linear_gradient("L").resize(picture.size))
    turned = Image.Exif()
    turned[0x0112] = 6
    deep = Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 257)
    files = [
        encoded(clear, "PNG"),
        encoded(picture, "JPEG", exif=turned),
        encoded(deep, "PNG"),
        encoded(picture.convert("CMYK")),
    ]
    for data in files:
        assert (exact(data) == peer(Image.fromarray(decode(data)), 64)).all()
    assert (exact(files[0]) != exact(encoded(picture, "PNG"))).any()
    assert _hamming.distances(*(_hamming.words(exact(data)[None]) for data in (files[2], files[3])))[0] <= 2


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("fast", [False, True])
def test_orientation_is_applied(orientation: int, fast: bool) -> None:
    """A picture stored on its side, whose EXIF says so, hashes as the upright one."""
    back = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # Pillow's transpositions that undo each
    picture = scene(5, 512, 512)
    stored = picture.transpose(Image.Transpose(back[orientation])) if orientation > 1 else picture
    exif = Image.Exif()
    exif[0x0112] = orientation
    found = small(encoded(stored, quality=95, exif=exif), 32, fast)
    wanted = small(encoded(picture, quality=95), 32, fast)
    assert found is not None and wanted is not None
    assert np.abs(found.astype(int) - wanted).max() <= 4


def test_fast_decoding_is_near() -> None:
    """Over qualities and sizes, 0.6 bits of 64 on average and never more than 4; 1.4 and 8 of 256."""
    for bits, most, mean in ((64, 4, 0.8), (256, 8, 1.8)):
        side, gaps = _phash.side(bits), []
        for seed in range(30):
            size = (200 + 37 * seed, 150 + 23 * seed)
            data = encoded(scene(seed, *size), quality=30 + seed)
            pictures = [small(data, side, fast) for fast in (True, False)]
            both = _phash.hashes(np.array(pictures))[0]
            gaps.append(int(_hamming.distances(*(_hamming.words(both[i : i + 1]) for i in (0, 1)))[0]))
        assert max(gaps) <= most
        assert np.mean(gaps) <= mean


def test_fast_decoding_says_the_same_of_other_formats() -> None:
    """Only JPEGs of grey or colour are decoded small."""
    picture = scene(3, 900, 700)
    for data in (encoded(picture, "PNG"), encoded(picture, "WEBP"), encoded(picture.convert("CMYK"))):
        one, other = small(data, 32, True), small(data, 32, False)
        assert one is not None and other is not None and (one == other).all()


def _bomb() -> bytes:
    """A PNG that claims 60,000 × 60,000 pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("fast", [False, True])
def test_broken_files_give_nothing(fast: bool) -> None:
    """Cut at any place, noise, bombs, other formats."""
    whole = encoded(scene(0))
    cut = [whole[:n] for n in (0, 1, 2, 20, 300, len(whole) // 2, len(whole) - 40)]
    huge = bytearray(whole)
    at = huge.index(b"\xff\xc0")
    huge[at + 5 : at + 9] = struct.pack(">HH", 60_000, 60_000)
    noise = np.random.default_rng(0).integers(0, 256, 4000, dtype=np.uint8).tobytes()
    others = [encoded(scene(0), "TIFF"), encoded(scene(0), "BMP")]
    for data in (*cut, bytes(huge), noise, whole[:200] + noise, whole[:-500] + noise[:10], _bomb(), *others):
        assert small(data, 32, fast) is None
    assert small(whole, 32, fast, max_pixels=320 * 240) is not None
    assert small(whole, 32, fast, max_pixels=320 * 240 - 1) is None


@settings(max_examples=100)
@given(st.integers(0, 10**6), st.binary(min_size=1, max_size=8))
def test_damage_never_raises(place: int, damage: bytes) -> None:
    """A JPEG with some bytes overwritten gives a picture or nothing."""
    data = bytearray(encoded(scene(0, 64, 48)))
    at = place % len(data)
    data[at : at + len(damage)] = damage
    found = small(bytes(data), 32, fast=True)
    assert found is None or found.shape == (32, 32)


@pytest.mark.parametrize("size", [(1, 1), (1, 900), (2000, 1)])
def test_small_and_narrow_pictures(size: tuple[int, int]) -> None:
    """A pixel is flat; a line of pixels is a slope or stripes."""
    picture = small(encoded(scene(1, *size), "PNG"), 32, True)
    assert picture is not None
    assert _phash.hashes(picture[None])[1].tolist() == [True]


def test_flat_pictures_are_told() -> None:
    """Blank, slopes along an axis, stripes; but not faint pictures, nor a small thing on white."""
    side = np.arange(32, dtype=np.uint8)
    blank = np.full((32, 32), 250, np.uint8)
    slope, stripes = side[:, None] * 4 + blank * 0, (side[None] // 4 % 2) * 200 + blank * 0
    faint = np.array(small(encoded(scene(2), "PNG"), 32, True)) // 8 + 100
    thing = blank.copy()
    thing[10:17, 5:20] = 30
    flat = _phash.hashes(np.array([blank, slope, slope.T, stripes, stripes.T, faint, thing]))[1]
    assert flat.tolist() == [True] * 5 + [False] * 2


@pytest.mark.parametrize("bits", BITS)
def test_a_mirror_turns_over_the_same_foundalways(bits: int) -> None:
    """The hash of a mirror image is the hash xor the bits of odd columns."""
    side = _phash.side(bits)
    grey = np.random.default_rng(1).integers(0, 256, (200, side, side), dtype=np.uint8)
    one, _ = _phash.hashes(grey, mirrored=True)
    other, _ = _phash.hashes(np.ascontiguousarray(grey[:, :, ::-1]), mirrored=True)
    assert (one ^ _phash.mirror_bits(bits) == other).all()
    assert np.bitwise_count(_phash.mirror_bits(bits)).sum() == bits // 2


RADII = [(64, r) for r in range(5)] + [(256, r) for r in (0, 1, 3, 4, 7, 11, 14, 15)]


@pytest.mark.parametrize("mirrored", [False, True])
@settings(max_examples=200)
@given(st.sampled_from(RADII), st.data())
def test_near_hashes_share_a_key(mirrored: bool, chosen: tuple[int, int], data: st.DataObject) -> None:
    """Any two within the radius have the same key at one place at least; a mirror image too where it is asked for."""
    bits, radius = chosen
    one = np.frombuffer(data.draw(st.binary(min_size=bits // 8, max_size=bits // 8)), np.uint8)
    turned = data.draw(st.sets(st.integers(0, bits - 1), max_size=radius))
    other = one ^ np.packbits(np.isin(np.arange(bits), list(turned)))
    mirror = _phash.mirror_bits(bits)
    if mirrored and data.draw(st.booleans()):
        other = other ^ mirror
    both = _hamming.words(np.array([one, other]))
    found = _hamming.keys(both, _hamming.masks(bits, radius), _hamming.words(mirror[None]) if mirrored else None)
    assert found.shape == (2, len(_hamming.masks(bits, radius)))
    assert (found[0] == found[1]).any()


@pytest.mark.parametrize(("bits", "radius"), [*RADII, (256, 16), (256, 31)])
def test_keys_are_few_and_long(bits: int, radius: int) -> None:
    """At most 36 of at least 20 bits each."""
    masks = _hamming.masks(bits, radius)
    assert len(masks) <= 36
    assert masks.sum(axis=1).min() >= 20


@pytest.mark.parametrize("distance", [12, 16, 20, 24, 28, 31])
def test_beyond_their_reach_keys_find_what_is_said(distance: int) -> None:
    """Random differences share a key as often as ``chance`` says, or a little more often."""
    rng = np.random.default_rng(distance)
    flips = rng.random((4000, 256)).argsort(axis=1) < distance
    masks = _hamming.masks(256, 31)
    missed = (flips.astype(np.float32) @ masks.T.astype(np.float32)).min(axis=1) > 0
    found, said = 1 - missed.mean(), _hamming.chance(256, 31, distance)
    assert said - 0.01 <= found <= said + 0.02


def test_distances_are_counted_bit_by_bit() -> None:
    """Against ImageHash's own difference."""
    hashes, _ = planted(200, 256, 31, seed=1)
    other = np.roll(hashes, 7, axis=0)
    wanted = [
        imagehash.ImageHash(np.unpackbits(a)) - imagehash.ImageHash(np.unpackbits(b))
        for a, b in zip(hashes, other, strict=True)
    ]
    assert _hamming.distances(_hamming.words(hashes), _hamming.words(other)).tolist() == wanted
