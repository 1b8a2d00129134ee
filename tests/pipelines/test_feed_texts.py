"""Texts of a row: plain, first, picked by a column, or drawn by weight."""

from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pairsieve.filters.choose import CHOICES
from pairsieve.pipelines.export_texts import texts_of
from pairsieve.pipelines.feed_texts import Texts, Wanted
from pairsieve.schemas import uid
from pairsieve.schemas.errors import UserError

STRINGS = st.lists(st.one_of(st.none(), st.sampled_from(["a", "bb", "ccc", ""])), max_size=5)


def choices(*rows: list[tuple[str, float]] | None) -> pa.Array:
    """What ``choose: {into: list}`` writes."""
    plain = [
        None if row is None else [{"text": t, "source": "x", "score": None, "weight": w} for t, w in row]
        for row in rows
    ]
    return pa.array(plain, CHOICES)


def drawn(texts: Texts, row: int, count: int = 4000) -> dict[str, float]:
    """How often each text is drawn."""
    found = Counter(texts.of(row, draw) for draw in np.arange(count) / count)
    return {text: times / count for text, times in found.items()}


def test_a_plain_column() -> None:
    """Nulls are empty."""
    texts = Texts(pa.table({"text": ["one", None]}), Wanted(("text",)))
    assert [texts.of(row, 0.5) for row in (0, 1)] == ["one", ""]


def test_choices_are_drawn_by_weight() -> None:
    """Equal steps of the draw give each its share; without a text there is none."""
    table = pa.table({"texts": choices([("a", 0.5), ("b", 0.3), ("c", 0.2)], None, [], [("x", 1.0)])})
    texts = Texts(table, Wanted(("texts",)))
    assert drawn(texts, 0) == pytest.approx({"a": 0.5, "b": 0.3, "c": 0.2}, abs=1e-3)
    assert [texts.of(row, 0.99) for row in (1, 2, 3)] == ["", "", "x"]


def test_small_weights_after_large_ones() -> None:
    """A row's weights count against each other alone, not against those of its row group."""
    large, small = [("a", 1.0), ("b", 1.0)], [("c", 1e-17), ("d", 3e-17)]
    texts = Texts(pa.table({"texts": choices(*[large] * 4, small)}), Wanted(("texts",)))
    assert drawn(texts, 4) == pytest.approx({"c": 0.25, "d": 0.75}, abs=1e-3)


@pytest.mark.parametrize(
    "weights", [(0.0, 0.0), (-1.0, float("nan")), (float("inf"), 0.0), (0.0, 5e-324), (float("inf"), 2.0), (1.0, 3.0)]
)
def test_the_loader_draws_as_exports_do(weights: tuple[float, float]) -> None:
    """By the same draw the same text, whatever the weights; where none counts, evenly among those that are there."""
    column = pa.chunked_array([choices([("a", weights[0]), ("b", weights[1])])])
    texts, exported = Texts(pa.table({"texts": column}), Wanted(("texts",))), texts_of(column)
    for number in range(0, 2**64, 2**64 // 101):
        hashes = np.array([number], np.uint64)
        assert [texts.of(0, float(uid.fractions(hashes)[0]))] == exported.chosen("draw", 0, hashes)
    if not any(0 < weight < np.inf for weight in weights):
        assert drawn(texts, 0) == {"a": 0.5, "b": 0.5}


@pytest.mark.parametrize("bad", [float("nan"), -1.0, float("inf")])
def test_weights_that_are_none(bad: float) -> None:
    """Such a text is never drawn."""
    texts = Texts(pa.table({"texts": choices([("a", bad), ("b", 0.1)])}), Wanted(("texts",)))
    assert drawn(texts, 0) == {"b": 1.0}


@given(st.lists(st.tuples(STRINGS, st.one_of(st.none(), st.sampled_from(["t", "u"]))), min_size=1, max_size=6))
def test_texts_of_several_columns(rows: list[tuple[list[str | None], str | None]]) -> None:
    """All that are not null are drawn equally often; the first is the first of them; a pick counts nulls."""
    lists, plain = [row[0] for row in rows], [row[1] for row in rows]
    picks = [(i * 7) % 6 - 1 for i in range(len(rows))]
    table = pa.table(
        {
            "captions": pa.array(lists, pa.list_(pa.string())),
            "text": pa.array(plain, pa.string()),
            "pick": pa.array(picks, pa.int32()),
        }
    )
    columns = ("captions", "text")
    every = [[*one, other] for one, other in rows]
    equal, first, picked = (Texts(table, Wanted(columns, *more)) for more in ((), (None, True), ("pick",)))
    for row, texts in enumerate(every):
        there = [text for text in texts if text is not None]
        assert set(drawn(equal, row, 97)) == set(there or [""])
        assert first.of(row, 0.7) == (there or [""])[0]
        wanted = texts[picks[row]] if 0 <= picks[row] < len(texts) else None
        assert picked.of(row, 0.7) == (wanted or "")


def test_no_text_is_drawn_twice_as_often() -> None:
    """Of three captions each a third."""
    texts = Texts(pa.table({"captions": [["a", "b", "c"]]}), Wanted(("captions",)))
    assert drawn(texts, 0, 3000) == pytest.approx({"a": 1 / 3, "b": 1 / 3, "c": 1 / 3}, abs=1e-3)


@pytest.mark.parametrize("values", [[1, 2], [[1], [2]], [{"a": 1}, {"a": 2}]])
def test_columns_that_hold_no_text(values: list[Any]) -> None:
    """One line names the column and its type."""
    with pytest.raises(UserError, match=r"text: column 'n' is .*, not strings or lists of strings"):
        Texts(pa.table({"n": values, "text": ["a", "b"]}), Wanted(("n", "text")))
