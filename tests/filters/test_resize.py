"""Resizing: the geometry of every mode, and what is stored."""

from collections.abc import Callable
from typing import TypeAlias, get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pairsieve.filters._codes import Code
from pairsieve.filters._images import BrokenImageError, decode, decode_image
from pairsieve.filters._resize import EncodeFormat, ResizeMode, Resizer

MODES: tuple[ResizeMode, ...] = get_args(ResizeMode)
Photo: TypeAlias = Callable[..., bytes]
SIDES = st.integers(1, 100_000)


@pytest.mark.parametrize(
    ("mode", "side", "expected"),
    [
        ("no", 256, (400, 300)),
        ("keep_ratio", 350, (467, 350)),
        ("keep_ratio_largest", 350, (350, 262)),
        ("center_crop", 256, (256, 256)),
        ("border", 256, (256, 256)),
    ],
)
def test_size_of_each_mode(mode: ResizeMode, side: int, expected: tuple[int, int]) -> None:
    """A 400 × 300 source gets the size that img2dataset gives it."""
    assert Resizer(side, mode).result((400, 300)) == expected


@given(SIDES, SIDES, st.integers(1, 2048), st.sampled_from(MODES), st.booleans())
def test_sides_stay_positive(width: int, height: int, side: int, mode: ResizeMode, only_if_bigger: bool) -> None:
    """However long and thin the source, the result has pixels."""
    assert min(Resizer(side, mode, only_if_bigger).result((width, height))) >= 1


@given(SIDES, SIDES, st.integers(1, 2048))
def test_decided_side_is_the_target(width: int, height: int, side: int) -> None:
    """keep_ratio sets the shortest side, keep_ratio_largest the longest."""
    assert min(Resizer(side, "keep_ratio").result((width, height))) == side
    assert max(Resizer(side, "keep_ratio_largest").result((width, height))) == side


@given(SIDES, SIDES, st.integers(1, 2048), st.sampled_from(MODES))
def test_only_if_bigger_never_enlarges(width: int, height: int, side: int, mode: ResizeMode) -> None:
    """With resize_only_if_bigger neither side grows, but for the border's padding."""
    result = Resizer(side, mode, True).result((width, height))
    if mode != "border":
        assert result[0] <= width and result[1] <= height
    elif max(width, height) <= side:
        assert result == (width, height)


@given(st.integers(1, 80), st.integers(1, 80), st.integers(1, 40), st.sampled_from(MODES), st.booleans())
def test_picture_has_the_size_promised(width: int, height: int, side: int, mode: ResizeMode, only: bool) -> None:
    """What is made has the size that ``result`` tells without making it."""
    made = Resizer(side, mode, only)
    pixels = made.resize(np.zeros((height, width, 3), np.uint8))
    assert pixels.shape == (*made.result((width, height))[::-1], 3)


def test_border_is_white_and_even() -> None:
    """The picture lies in the middle of a white square."""
    square = Resizer(8, "border").resize(np.zeros((10, 20, 3), np.uint8))
    assert np.array_equal(square[:, 0, 0], [255, 255, 0, 0, 0, 0, 255, 255])


def test_crop_takes_the_middle() -> None:
    """center_crop drops as much on both sides."""
    steps = np.repeat(np.arange(12, dtype=np.uint8)[None, :, None], 4, axis=0).repeat(3, axis=2)
    assert Resizer(4, "center_crop").resize(steps)[0, :, 0].tolist() == [4, 5, 6, 7]


@pytest.mark.parametrize(("form", "kind"), [("jpg", "jpeg"), ("png", "png"), ("webp", "webp")])
def test_formats(photo: Photo, form: EncodeFormat, kind: str) -> None:
    """Each output format is what it is called, in the size that is told."""
    data = photo()
    stored = Resizer(32, "keep_ratio_largest", encode_format=form, encode_quality=9).store(data, decode_image(data))
    again = decode_image(stored.data)
    assert (again.kind, again.pixels.shape) == (kind, (stored.height, stored.width, 3))


def test_colours_survive(photo: Photo) -> None:
    """Red is not taken for blue on the way."""
    data = photo(seed=3)
    stored = Resizer(resize_mode="no", encode_format="png", encode_quality=1).store(data, decode_image(data))
    assert np.array_equal(decode(stored.data), decode(data))


def test_skip_reencode_keeps_the_file(photo: Photo) -> None:
    """A file of the right format that needs no change is stored as it came."""
    data = photo()
    made = Resizer(512, "keep_ratio_largest", True, skip_reencode=True)
    assert made.store(data, decode_image(data)).data == data


@pytest.mark.parametrize(
    ("made_as", "form"),
    [(("JPEG", "RGB", 600), "jpg"), (("PNG", "RGB", 60), "jpg"), (("WEBP", "RGBA", 60), "webp")],
)
def test_skip_reencode_makes_what_it_must(photo: Photo, made_as: tuple[str, str, int], form: EncodeFormat) -> None:
    """A file that is too big, of another format, or see-through is made anew."""
    data = photo(made_as[2], 50, kind=made_as[0], mode=made_as[1])
    made = Resizer(512, "keep_ratio_largest", True, encode_format=form, skip_reencode=True)
    assert made.store(data, decode_image(data)).data != data


def test_too_large_result_is_a_code() -> None:
    """A result of unreasonable size is refused before it is made."""
    with pytest.raises(BrokenImageError) as caught:
        Resizer(512, "keep_ratio").resize(np.zeros((1, 10_000, 3), np.uint8))
    assert caught.value.code is Code.TOO_MANY_PIXELS


def test_result_that_fits_no_file_is_a_code() -> None:
    """JPEG ends at 65500 pixels a side."""
    with pytest.raises(BrokenImageError) as caught:
        Resizer(resize_mode="no").encode(np.zeros((1, 70_000, 3), np.uint8))
    assert caught.value.code is Code.FAILED_TO_ENCODE
