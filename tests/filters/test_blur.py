"""Blurring boxes: as strong as meant, with soft edges, nowhere else, wherever the picture was turned to."""

import random
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pairsieve.filters._blur import Box, _smooth, blurred, turned
from pairsieve.filters._download_rows import boxes_of
from pairsieve.filters._images import _TURNS

SIDES = st.floats(-0.5, 1.5)


def stripes(width: int, height: int, wide: int) -> Any:
    """Black and white."""
    columns = np.where(np.arange(width) // wide % 2, 255, 0).astype(np.uint8)
    return np.repeat(np.broadcast_to(columns[None, :, None], (height, width, 1)), 3, axis=2)


def test_stripes_in_a_box_are_gone() -> None:
    """64-pixel stripes under a box of 600 pixels have a standard deviation of 2 at most; img2dataset 1.47 leaves 77."""
    pixels = stripes(1000, 1000, 64)
    inside = blurred(pixels, [(0.2, 0.2, 0.8, 0.8)])[400:600, 400:600]
    assert pixels[400:600, 400:600].std() > 120
    assert inside.std() <= 2


def test_what_is_far_from_boxes_stays() -> None:
    """Beyond a tenth of the box and three of its sigmas nothing changes, and the given picture is left alone."""
    pixels = np.random.default_rng(0).integers(0, 256, (200, 300, 3), np.uint8)
    before = pixels.copy()
    out = blurred(pixels, [(0.4, 0.4, 0.6, 0.6)])
    assert np.array_equal(pixels, before)
    same = (out == pixels).all(axis=2)
    assert same[:, :90].all() and same[:, 210:].all() and same[:46].all() and same[154:].all()
    assert not same[80:120, 120:180].any()


def test_edges_are_soft() -> None:
    """Stripes fade into a box, by a tenth of their contrast at most in 8 pixels."""
    row = blurred(stripes(800, 400, 4), [(0.5, 0.2, 0.9, 0.8)])[200, :, 0]
    contrast = np.array([row[x : x + 8].std() for x in range(280, 480, 8)])
    assert contrast[0] > 126 and contrast[-1] < 2
    assert (np.diff(contrast) <= 0.5).all()
    assert np.diff(contrast).min() >= -13


@pytest.mark.parametrize("sigma", [1.0, 2.5, 7.0, 20.0, 60.0])
def test_it_is_nearly_a_gaussian(sigma: float) -> None:
    """Of a step between black and white OpenCV's Gaussian of that sigma makes the same edge, within 2 % of it."""
    step = np.zeros((3, 900), np.float32)
    step[:, 450:] = 1
    expected = cv2.GaussianBlur(step, (0, 0), sigma)
    assert np.abs(_smooth(step, sigma) - expected).max() < 0.02


@settings(max_examples=40)
@given(st.lists(st.tuples(SIDES, SIDES, SIDES, SIDES), max_size=3), st.sampled_from([0, 3, 4]))
def test_the_part_around_boxes_is_all_that_matters(boxes: list[Box], channels: int) -> None:
    """The whole picture blurred and mixed has the same pixels; any box is taken, inside out ones too."""
    pixels = np.random.default_rng(1).integers(0, 256, (60, 80, channels or 1), np.uint8)
    pixels = pixels if channels else pixels[:, :, 0]
    sides = [(*sorted((a, c)), *sorted((b, d))) for a, b, c, d in boxes]
    areas = [(int(a * 80), int(b * 60), int(c * 80), int(d * 60)) for a, c, b, d in sides]
    longest = max((max(c - a, d - b) for a, b, c, d in areas), default=0)
    out = blurred(pixels, boxes)
    if longest <= 0:
        assert np.array_equal(out, pixels)
        return
    mask = np.zeros((60, 80), np.float32)
    for a, b, c, d in areas:
        more = 0.1 * max(c - a, d - b)
        if more > 0:
            x0, y0, x1, y1 = (max(0, int(v)) for v in (a - more, b - more, c + more, d + more))
            mask[y0:y1, x0:x1] = 1
    soft, blur = (_smooth(v, 0.1 * longest) for v in (mask, pixels.astype(np.float32)))
    whole = pixels + (blur - pixels) * (soft[:, :, None] if channels else soft)
    assert np.abs(out.astype(np.float32) - whole).max() <= 0.51


@pytest.mark.parametrize("orientation", range(1, 9))
def test_boxes_turn_with_the_picture(orientation: int) -> None:
    """A box of the picture as its file lies covers the same pixels once that is turned upright."""
    lying = np.zeros((40, 60, 3), np.uint8)
    lying[4:12, 6:30] = 255
    upright = _TURNS[orientation](lying) if orientation in _TURNS else lying
    height, width = upright.shape[:2]
    left, top, right, bottom = turned((6 / 60, 4 / 40, 30 / 60, 12 / 40), orientation)
    found = np.zeros_like(upright)
    found[round(top * height) : round(bottom * height), round(left * width) : round(right * width)] = 255
    assert np.array_equal(found, upright)


def test_no_generator_is_touched() -> None:
    """img2dataset reseeds Python's and numpy's with every picture."""
    random.seed(1)
    np.random.seed(1)
    before = (random.getstate(), str(np.random.get_state()))
    blurred(stripes(50, 50, 4), [(0.1, 0.1, 0.5, 0.5)])
    assert (random.getstate(), str(np.random.get_state())) == before


@pytest.mark.parametrize(
    "value", [[[0, 0, 1]], [[0, 0, 1, 1, 1]], [[0, 0, 1, None]], [[0, 0, float("nan"), 1]], [None], ["abcd"], 7]
)
def test_unusable_boxes_are_told(value: Any) -> None:
    """What cannot be blurred is no reason to store a face as it is."""
    assert boxes_of(value) is None


def test_boxes_of_a_row() -> None:
    """Null and an empty list are none."""
    assert boxes_of(None) == boxes_of([]) == ()
    assert boxes_of([[0, 0.25, 1, 0.5]]) == ((0.0, 0.25, 1.0, 0.5),)
