"""Reduction by area: OpenCV's bits, by the kernel and by numpy, and pictures that end within a pixel."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pairsieve.filters import _area
from pairsieve.filters._area_parts import parts

SIDES = st.integers(1, 90)


def noise(width: int, height: int, channels: int = 3) -> _area.Pixels:
    """A picture in which every wrong weight shows."""
    return np.random.default_rng(width * 1000 + height).integers(0, 256, (height, width, channels), np.uint8)


def test_the_kernel_is_there() -> None:
    """Where numba is installed, as here, this OpenCV has the bits that the kernel was written for."""
    assert _area._kernel() is not None


@settings(max_examples=150)
@given(SIDES, SIDES, SIDES, SIDES, st.sampled_from([0, 3, 4]))
def test_bits_are_opencvs(width: int, height: int, wide: int, high: int, channels: int) -> None:
    """Of any picture in any smaller size: of RGB ones turned round, of grey ones, and without the fourth sample."""
    size = (min(wide, width), min(high, height))
    pixels = noise(width, height, channels or 1)
    pixels = pixels if channels else pixels[:, :, 0]
    expected = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    expected = expected.reshape(size[1], size[0], -1)[:, :, :3]
    found = _area.area(pixels, size).reshape(size[1], size[0], -1)
    assert np.array_equal(found, expected[:, :, ::-1] if channels == 3 else expected)


@settings(max_examples=60)
@given(st.integers(8, 90), st.integers(8, 90), st.floats(0.13, 1), st.floats(0.13, 1), st.data())
def test_numpy_makes_what_the_kernel_makes(
    width: int, height: int, right: float, below: float, data: st.DataObject
) -> None:
    """A machine without numba has the same pictures, wherever the last pixel ends."""
    extent = (width - 1 + right, height - 1 + below)
    size = (data.draw(st.integers(1, width - 1)), data.draw(st.integers(1, height - 1)))
    pixels = noise(width, height)
    assert np.array_equal(_area.area(pixels, size, extent), _area.bgr(_area._summed(pixels, size, extent)))


@given(st.integers(1, 200), st.floats(0.01, 1), st.data())
def test_weights_cover_the_extent(size: int, last: float, data: st.DataObject) -> None:
    """Each new pixel is a mean: weights are positive, sum to 1 or little less, and lie within the row.

    So no mean of bytes, taken twice, is 255.5 or more: the kernel clips none.
    """
    extent = size - 1 + last
    resized = data.draw(st.integers(1, max(1, int(extent))))
    starts, counts, weights = parts(size, max(extent, resized), resized)
    assert (starts >= 0).all() and (starts + counts <= size).all() and (counts > 0).all()
    assert np.allclose(weights.sum(axis=1), 1, atol=3e-3) and weights.sum(axis=1).max() < 1.0009
    assert all((weights[i, :n] > 0).all() and not weights[i, n:].any() for i, n in enumerate(counts))


def test_a_flat_picture_stays_flat() -> None:
    """Of one colour, also where the last pixel counts in part."""
    flat = np.full((61, 83, 3), 201, np.uint8)
    assert set(np.unique(_area.area(flat, (20, 17), (82.5, 60.25)))) == {201}


@pytest.mark.parametrize("size", [(640, 480), (1, 1)])
def test_the_picture_is_left_alone(size: tuple[int, int]) -> None:
    """What comes in is not changed."""
    pixels = noise(641, 483)
    before = pixels.copy()
    _area.area(pixels, size)
    assert np.array_equal(pixels, before)
