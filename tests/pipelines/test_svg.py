"""Charts: bars lie where their values do, thresholds where they are, names are escaped, axes are round."""

import math
import re
from itertools import pairwise
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pairsieve.pipelines.report_charts import axis_of
from pairsieve.pipelines.report_page import share, visible
from pairsieve.pipelines.svg import HEIGHT, LEFT, RIGHT, WIDTH, Bar, Mark, Part, bars, histogram, number

HOSTILE = "</title><script>alert(1)</script>\"'&"


def bar(low: float, high: float, *counts: int) -> Bar:
    """With a part for each count."""
    looks = ("kept", "later", "lost")
    return Bar(f"{low} to {high}", tuple(Part(f"of {n}", looks[i], n) for i, n in enumerate(counts)), low, high)


def rects(svg: str) -> list[dict[str, str]]:
    """The parts of bars, as drawn; the picture must be well-formed XML."""
    return [dict(e.attrib) for e in ElementTree.fromstring(svg).iter("rect")]


def test_bars_are_as_tall_as_their_counts() -> None:
    """The tallest fills the chart, a part has its share."""
    found = rects(histogram("a", "t", "d", [bar(0, 1, 30, 10), bar(1, 2, 0, 20)]))
    heights = {(r["class"], r["x"]): float(r["height"]) for r in found}
    assert len(found) == 3
    first, second, third = (h for _, h in sorted(heights.items(), key=lambda item: float(item[0][1])))
    assert first + second == pytest.approx(2 * third, rel=0.01)


def test_parts_end_at_the_axis() -> None:
    """Stacked from the bottom."""
    found = rects(histogram("a", "t", "d", [bar(0, 1, 1, 2, 3)]))
    ends = sorted((float(r["y"]), float(r["y"]) + float(r["height"])) for r in found)
    assert ends[-1][1] == pytest.approx(HEIGHT - 24, abs=0.5)
    assert all(one[1] == pytest.approx(other[0], abs=0.5) for one, other in pairwise(ends))


@pytest.mark.parametrize(("at", "x"), [(0.0, LEFT), (5.0, WIDTH / 2), (10.0, WIDTH - RIGHT)])
def test_a_threshold_is_drawn_at_its_value(at: float, x: float) -> None:
    """On a linear axis from 0 to 10."""
    svg = histogram("a", "t", "d", [bar(0, 5, 1), bar(5, 10, 1)], [Mark(at, "here")])
    assert re.search(rf'<line class="cut" x1="{x:.4g}"', svg)


def test_a_threshold_beyond_the_axis_is_an_arrow() -> None:
    """Not a line at the edge, which would be a lie."""
    svg = histogram("a", "t", "d", [bar(0, 5, 1), bar(5, 10, 1)], [Mark(64, "≤ 64"), Mark(-1, "≥ -1")])
    assert 'line class="cut"' not in svg and "≤ 64 →" in svg and "← ≥ -1" in svg


def test_names_are_escaped_wherever_they_stand() -> None:
    """Titles, descriptions, bars, parts, thresholds."""
    part = (Part(HOSTILE, "kept", 1),)
    one = histogram("a", HOSTILE, HOSTILE, [Bar(HOSTILE, part, 0, 1)], [Mark(0.5, HOSTILE)])
    two = bars("b", HOSTILE, HOSTILE, [Bar(HOSTILE, part)])
    for svg in (one, two):
        assert "<script" not in svg
        assert ElementTree.fromstring(svg).find("title").text == HOSTILE  # type: ignore[union-attr]


@given(
    st.lists(st.floats(-1e12, 1e12), min_size=1, max_size=50),
    st.booleans(),
)
def test_an_axis_holds_all_but_far_outliers(values: list[float], is_whole: bool) -> None:
    """Few bins, and the middle value lies in one of them."""
    found = np.array([round(v) for v in values] if is_whole else values, np.float64)
    axis = axis_of(found, found.min(), found.max(), is_whole)
    edges = axis.edges()
    assert 1 <= axis.bins <= 112 and all(math.isfinite(edge) for edge in edges)
    assert edges[0] <= np.median(found) + 1e-6 * abs(edges[0]) and np.median(found) <= edges[-1] + 1e-6 * abs(edges[-1])


def test_values_over_decades_get_a_logarithmic_axis() -> None:
    """Bytes of files, say; scores between 0 and 1 never."""
    wide = np.exp(np.linspace(1, 15, 1000))
    assert axis_of(wide, wide.min(), wide.max(), False).is_log
    small = np.linspace(0.0001, 1, 1000) ** 4
    assert not axis_of(small, small.min(), small.max(), False).is_log


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (12345, "12,345"),
        (0.28, "0.28"),
        (0.870765, "0.8708"),
        (-1.5, "-1.5"),
        (1e-9, "1e-09"),
        (2e20, "2e+20"),
    ],
)
def test_numbers_as_people_read_them(value: float, text: str) -> None:
    """Separators, four digits that count."""
    assert number(value) == text


@pytest.mark.parametrize(
    ("part", "whole", "text"),
    [(0, 0, "–"), (0, 5, "0.0%"), (1, 10_000, "<0.1%"), (9_999, 10_000, ">99.9%"), (5, 5, "100.0%"), (1, 3, "33.3%")],
)
def test_a_share_never_rounds_to_none_or_all(part: int, whole: int, text: str) -> None:
    """What is there is seen to be there."""
    assert share(part, whole) == text


@given(st.text())
def test_visible_text_has_no_control_left(text: str) -> None:
    """And shows every character in its place; what is printable stays as it is."""
    found = visible(text)
    assert not re.search("[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]", found)
    assert (text.isprintable() and not text.isspace()) <= (found == text)
