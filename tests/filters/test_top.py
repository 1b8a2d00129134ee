"""The top fraction against DataComp's rule, computed by sorting everything."""

from itertools import pairwise
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from pairsieve.filters import _top
from pairsieve.filters.clip_score import ClipScore

TYPES: dict[Literal[16, 32, 64], Any] = {16: np.float16, 32: np.float32, 64: np.float64}


@st.composite
def scores(draw: st.DrawFn) -> pa.Array:
    """A score column of any float type: all values, with ties, NaN and nulls."""
    bits = draw(st.sampled_from(list(TYPES)))
    wild = st.floats(width=bits, allow_nan=True, allow_infinity=True, allow_subnormal=True)
    few = st.sampled_from([0.0, -0.0, 0.25, 0.5, float("inf"), float("-inf"), float("nan")])
    values = draw(arrays(TYPES[bits], st.integers(1, 40), elements=wild | few))
    mask = draw(arrays(np.bool_, len(values)))
    return pa.array(values, mask=mask & draw(st.booleans()))


fractions = st.floats(0, 1, exclude_min=True) | st.sampled_from([0.1, 0.29, 0.3, 0.5, 1.0])


def rounds(parts: list[pa.Array], fraction: float) -> dict[str, Any]:
    """The engine's loop: count all parts, merge, settle, until settled."""
    settled: dict[str, Any] = {}
    while not _top.is_settled(settled):
        counts = [_top.count(part, settled) for part in parts]
        seen = counts[0]
        for more in counts[1:]:
            seen = seen + more
        settled = _top.settle(seen, settled, fraction)
    return settled


def expected(column: pa.Array, fraction: float) -> float | None:
    """The (floor(n f) + 1)-th largest of all values, nulls and NaN last; None where those are reached."""
    values: NDArray[Any] = np.array([v for v in column.to_pylist() if v is not None], float)
    real = np.sort(values[~np.isnan(values)])[::-1]
    rank = int(len(column) * fraction)
    return float(real[rank]) if rank < len(real) else None


@given(scores(), fractions)
def test_datacomp_rule(column: pa.Array, fraction: float) -> None:
    """The threshold is DataComp's, for every float there is."""
    assert rounds([column], fraction)["threshold"] == expected(column, fraction)


@given(scores(), fractions, st.data())
def test_any_split(column: pa.Array, fraction: float, data: st.DataObject) -> None:
    """However the pool is cut into shards, and in whatever order they come, the threshold is the same."""
    cuts = sorted(data.draw(st.lists(st.integers(0, len(column)), max_size=5)))
    edges = [0, *cuts, len(column)]
    parts = [column.slice(a, b - a) for a, b in pairwise(edges)]
    assert rounds(data.draw(st.permutations(parts)), fraction) == rounds([column], fraction)


@given(scores(), fractions)
def test_kept_pairs(column: pa.Array, fraction: float) -> None:
    """What stays is what is at or above the threshold; without one, every real score."""
    made = ClipScore(column="s", top=fraction)
    said = made.keep(pa.record_batch({"s": column}), rounds([column], fraction)).to_pylist()
    least = expected(column, fraction)
    low = -np.inf if least is None else least
    want = ["no_score" if v is None or v != v else "below_top" if v < low else None for v in column.to_pylist()]
    assert said == want


@pytest.mark.parametrize(("bits", "count"), [(16, 1), (32, 2), (64, 4)])
def test_rounds(bits: Literal[16, 32, 64], count: int) -> None:
    """float32 takes two rounds, float64 four."""
    column, seen = pa.array(np.arange(9, dtype=TYPES[bits])), 0
    settled: dict[str, Any] = {}
    while not _top.is_settled(settled):
        settled, seen = _top.settle(_top.count(column, settled), settled, 0.3), seen + 1
    assert (seen, settled["threshold"]) == (count, 6.0)


def test_ten_values() -> None:
    """As measured on DataComp: ten distinct values at 0.3 leave four, ten equal ones ten."""
    made = ClipScore(column="s", top=0.3)
    for values, kept in ((np.arange(10.0), 4), (np.ones(10), 10)):
        column = pa.array(values)
        said = made.keep(pa.record_batch({"s": column}), rounds([column], 0.3))
        assert said.null_count == kept


def test_truncation() -> None:
    """The rank is truncated as floats give it: 0.29 of 100 is 28."""
    assert rounds([pa.array(np.arange(100.0))], 0.29)["threshold"] == 71.0


@pytest.mark.parametrize(("kind", "kept"), [(pa.float16(), 1), (pa.float32(), 1), (pa.float64(), 0)])
def test_threshold_type(kind: pa.DataType, kept: int) -> None:
    """A threshold is taken in the column's own type: float32(0.7) passes 0.7, the same as float64 does not."""
    narrow = np.float16(0.7) if kind == pa.float16() else np.float32(0.7)
    column = pa.array(np.array([narrow], TYPES[kind.bit_width]))
    assert ClipScore(column="s", min=0.7).keep(pa.record_batch({"s": column}), {}).null_count == kept


@pytest.mark.parametrize("kind", [pa.int32(), pa.string(), pa.list_(pa.float32())])
def test_other_types(kind: pa.DataType) -> None:
    """A column that holds no floats cannot be ranked."""
    with pytest.raises(ValueError, match="float column"):
        ClipScore(column="s", top=0.3).check({"s": kind})


def test_empty_scope() -> None:
    """Where no pair is in scope the loop still ends."""
    assert rounds([pa.array([], pa.float32())], 0.3)["threshold"] is None
