"""``where``: one line of SQL as a filter."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pairsieve.filters.where import Where


def verdicts(expression: str, batch: pa.RecordBatch) -> list[Any]:
    """Reasons for each pair."""
    made = Where(expression=expression)
    try:
        return list(made.keep(batch).to_pylist())
    finally:
        made.close()


def batch(**columns: Any) -> pa.RecordBatch:
    """A batch with uids."""
    rows = len(next(iter(columns.values())))
    return pa.record_batch({"uid": pa.array([f"{i:032x}" for i in range(rows)]), **columns})


def test_three_outcomes() -> None:
    """True stays, false and null go for different reasons."""
    pairs = batch(width=pa.array([300, 100, None], pa.int32()))
    assert verdicts("width >= 200", pairs) == [None, "false", "null"]


def test_null_semantics() -> None:
    """NULL is SQL's: unknown spreads, unless the other side decides."""
    pairs = batch(a=pa.array([None, None]).cast(pa.bool_()), b=pa.array([True, False]))
    assert verdicts("a or b", pairs) == [None, "null"]
    assert verdicts("a and b", pairs) == ["null", "false"]


def test_failing_row() -> None:
    """A pair that the expression fails on goes with reason null; its neighbours are judged."""
    pairs = batch(text=["7", "many", "2", None])
    assert verdicts("cast(text as int) > 3", pairs) == [None, "null", "false", "null"]


def test_uid() -> None:
    """A tenth of the pool is chosen by uid, without chance."""
    pairs = pa.record_batch({"uid": ["3" * 32, "4" * 32]})
    assert verdicts("uid < '4'", pairs) == [None, "false"]


def test_case_and_types() -> None:
    """Columns are found in any case; half floats, lists and structs can be compared."""
    pairs = batch(
        Width=pa.array([1], pa.int16()),
        half=pa.array(np.array([0.5], np.float16)),
        tags=[["a", "b"]],
        face=[{"x": 0.5}],
    )
    text = "WIDTH = 1 and half = 0.5 and face.x = 0.5 and len(list_filter(tags, lambda t: t > 'a')) = 1"
    assert verdicts(text, pairs) == [None]


def test_empty_batch() -> None:
    """A shard of which nothing is left is no special case."""
    assert verdicts("width > 1", batch(width=pa.array([], pa.int32()))) == []


EXPRESSIONS = [
    "cast(text as int) > 1",
    "width > 0 and cast(text as tinyint) > 1",
    "case when width > 0 then cast(text as int) > 1 else width < 5 end",
    "10 // width > 2",
    "coalesce(cast(text as int), width) = 1",
    "width + 2147483647 > 0 or text = '1'",
    "text is null or sqrt(width) > 1",
]
small = st.none() | st.integers(-3, 300) | st.just(2**31 - 1)
words = st.none() | st.sampled_from(["1", "2", "200", "x", "", "\0", "é"])


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(EXPRESSIONS), st.lists(st.tuples(small, words), min_size=1, max_size=7), st.data())
def test_any_cut(expression: str, rows: list[tuple[int | None, str | None]], data: st.DataObject) -> None:
    """A pair's verdict is the same alone, among others, and in any cut of the shard."""
    pairs = batch(width=pa.array([w for w, _ in rows], pa.int32()), text=pa.array([t for _, t in rows], pa.string()))
    at = data.draw(st.integers(0, len(rows)))
    whole = verdicts(expression, pairs)
    assert verdicts(expression, pairs.slice(0, at)) + verdicts(expression, pairs.slice(at)) == whole
    assert [verdicts(expression, pairs.slice(i, 1))[0] for i in range(len(rows))] == whole


@pytest.mark.parametrize(
    ("expression", "says"),
    [
        ("width", "INTEGER, not BOOLEAN"),
        ("'yes'", "VARCHAR"),
        ("null", "not BOOLEAN"),
        ("height > 1", "no column 'height'"),
    ],
)
def test_check(expression: str, says: str) -> None:
    """What is not a comparison of known columns is refused before anything runs."""
    with pytest.raises(ValueError, match=says):
        Where(expression=expression).check({"width": pa.int32()})


def test_reads() -> None:
    """The columns it compares are known to the plan."""
    assert Where(expression="WIDTH > 1").keep_inputs({"width": pa.int32(), "uid": pa.string()}) == ("width",)
