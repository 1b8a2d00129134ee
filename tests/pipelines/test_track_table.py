"""The nano track's table and picture: means, spreads, gains, and names that stay text."""

import xml.etree.ElementTree as ET
from collections.abc import Sequence
from io import StringIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from pairsieve.pipelines.track import Row
from pairsieve.pipelines.track_plot import svg
from pairsieve.pipelines.track_table import as_json, cells, lines, markdown, rich_table


def rows(recipe: str, averages: Sequence[float]) -> list[Row]:
    """A row a seed; the one metric is half of the average."""
    return [
        Row(
            recipe=recipe,
            seed=seed,
            pairs=100,
            kept=40,
            data="d",
            pool="p",
            protocol="q",
            metrics={"shape": average / 2, "average": average},
        )
        for seed, average in enumerate(averages)
    ]


BASE = rows("nano_no_filter", [0.30, 0.32, 0.34])


def test_a_line_has_means_and_spread() -> None:
    """Of all seeds; the base gains nothing over itself."""
    (line,) = lines(BASE)
    assert line.average == pytest.approx(0.32)
    assert line.metrics["shape"] == pytest.approx(0.16)
    assert line.spread == pytest.approx(0.02)
    assert (line.gain, line.is_clear) == (None, False)
    assert cells(line) == ["no_filter", "40", "0.160", "0.320 ±0.020", ""]


@pytest.mark.parametrize(
    ("averages", "gain", "is_clear"),
    [
        ([0.41, 0.42, 0.43], "+0.100*", True),
        ([0.34, 0.35, 0.36], "+0.030", False),  # not twice the base's 0.02
        ([0.35, 0.42, 0.49], "+0.100", False),  # not twice its own 0.07
        ([0.20, 0.21, 0.22], "-0.110*", True),
        ([0.42], "+0.100", False),  # one seed has no spread
    ],
)
def test_a_gain_is_clear_beyond_twice_both_spreads(averages: list[float], gain: str, is_clear: bool) -> None:
    """Only then it has a star."""
    _, line = lines([*BASE, *rows("nano_basic", averages)])
    assert (cells(line)[-1], line.is_clear) == (gain, is_clear)


def test_without_the_base_there_is_no_gain() -> None:
    """A table of one recipe is one all the same."""
    (line,) = lines(rows("mine", [0.5, 0.6]))
    assert (line.gain, cells(line)[0]) == (None, "mine")


def test_markdown_is_a_table() -> None:
    """A heading, a rule and a line each, all of as many cells."""
    text = markdown(lines([*BASE, *rows("nano_basic", [0.5, 0.5, 0.5])]))
    assert len({line.count("|") for line in text.splitlines()}) == 1
    assert text.splitlines()[0] == "| recipe | pairs | shape | average | gain |"
    assert len(text.splitlines()) == 4


@given(st.text(alphabet=st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=30))
def test_names_stay_text(name: str) -> None:
    """Whatever a recipe is called: in the picture, which is well-formed XML, and in a terminal."""
    found = lines([*BASE, *rows(f"nano_{name}", [0.4, 0.4])])
    texts = [element.text for element in ET.fromstring(svg(found)).iter("{http://www.w3.org/2000/svg}text")]
    assert name in texts
    console = Console(file=StringIO(), width=200)
    console.print(rich_table(found))


def test_the_picture_has_a_bar_a_recipe_and_a_dot_a_seed() -> None:
    """As long as the average."""
    root = ET.fromstring(svg(lines([*BASE, *rows("nano_basic", [0.5, 0.6])])))
    bars = [float(e.attrib["width"]) for e in root.iter("{http://www.w3.org/2000/svg}rect")]
    assert bars[1] / bars[0] == pytest.approx(0.55 / 0.32, rel=1e-2)
    assert len(list(root.iter("{http://www.w3.org/2000/svg}circle"))) == 5


def test_json_has_every_figure() -> None:
    """Unrounded."""
    (found,) = as_json(lines(BASE))
    assert found["averages"] == (0.30, 0.32, 0.34)
    assert found["shape"] == pytest.approx(0.16)
