"""The balance from counts alone: shares, thresholds, bounds, estimates and interpolation."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pairsieve.filters import _balance_counts as balance
from pairsieve.filters.metadata_balance import MetadataBalance
from tests.support_balance import literal_counts, literal_size, pairs_of, paper_counts, play, zipfian_lists

COUNTS = st.lists(st.integers(0, 50), max_size=30).map(lambda counts: np.array(counts, np.int64))
SOME = COUNTS.filter(lambda counts: counts.sum() > 0)


@given(COUNTS, st.integers(1, 60))
def test_tail_share_is_of_counts_below(counts: np.ndarray, t: int) -> None:
    """Strictly below t, as a share of all matches; 0 without matches."""
    total = int(counts.sum())
    assert balance.tail_share(counts, t) == pytest.approx(sum(c for c in counts if c < t) / total if total else 0)


@given(SOME, st.floats(0, 1))
def test_t_is_the_count_of_the_nearest_share(counts: np.ndarray, share: float) -> None:
    """MetaCLIP 2's rule, literally: sort, sum up, take the nearest; zero counts are left out."""
    ordered = sorted(int(count) for count in counts if count)
    shares = np.cumsum(ordered) / sum(ordered)
    assert balance.t_for_tail_share(counts, share) == ordered[int(np.argmin(np.abs(shares - share)))]


def test_the_two_rules_are_not_inverse() -> None:
    """As published: a share of .15 gives t = 3, and t = 3 has a share of .05."""
    counts = np.array([1, 3, 6, 10])
    assert balance.t_for_tail_share(counts, 0.15) == 3
    assert balance.tail_share(counts, 3) == 0.05


@pytest.mark.parametrize(("counts", "t"), [((0, 0, 10), 10), ((0, 0), 1), ((), 1), ((4,), 4), ((2, 2, 2), 2)])
@pytest.mark.parametrize("share", [0.0, 0.06, 1.0])
def test_t_of_odd_counts(counts: tuple[int, ...], t: int, share: float) -> None:
    """Where there is one count only it is the answer, and never less than 1."""
    assert balance.t_for_tail_share(np.array(counts, np.int64), share) == t


def test_the_smaller_of_two_equally_near() -> None:
    """Shares .25 and .75 are as near to .5."""
    assert balance.t_for_tail_share(np.array([1, 2, 1]), 0.375) == 1


@given(st.lists(SOME, min_size=2, max_size=4), st.integers(1, 60))
def test_languages_never_fall_as_t_grows(parts: list[np.ndarray], t: int) -> None:
    """So that the smallest t can be looked for; the reference keeps its own."""
    of = [balance.shares(part) for part in parts]
    less, more = balance.language_ts(of, 0, t), balance.language_ts(of, 0, t + 1)
    assert less[0] == t and all(a <= b for a, b in zip(less, more, strict=True)) and min(less) >= 1


@given(COUNTS, st.data())
def test_languages_are_taken_apart(counts: np.ndarray, data: st.DataObject) -> None:
    """Each language has the shares of its own entries."""
    codes = np.array(data.draw(st.lists(st.integers(0, 3), min_size=len(counts), max_size=len(counts))), np.int32)
    for code, found in enumerate(balance.by_language(counts, codes, 4)):
        assert found.counts.tolist() == sorted(c for c in counts[codes == code].tolist() if c)


def test_a_silent_reference_is_an_error() -> None:
    """Its tail share says nothing about others; where nothing matches at all there is nothing to say."""
    silent, heard = balance.shares(np.zeros(2, np.int64)), balance.shares(np.array([5]))
    with pytest.raises(ValueError, match="reference language"):
        balance.language_ts([silent, heard], 0, 5)
    assert balance.language_ts([silent, silent], 0, 5) == [5, 1]


@given(COUNTS, st.integers(1, 60))
def test_head_and_tail_are_all(counts: np.ndarray, t: int) -> None:
    """Each entry is in one part; the head is above t."""
    zero, tail, head = balance.head_and_tail(counts, t)
    assert zero.entries + tail.entries + head.entries == len(counts)
    assert zero.matches == 0 and tail.matches + head.matches == counts.sum()
    assert head == ("head", int((counts > t).sum()), int(counts[counts > t].sum()))


@given(st.lists(st.lists(st.integers(0, 9), max_size=5), max_size=40), st.integers(1, 20))
def test_the_bound_holds(lists: list[list[int]], t: int) -> None:
    """No pool keeps more than Σ min(count, t), nor more than its matched texts."""
    found = literal_counts(lists)
    counts = np.array([found[entry] for entry in range(10)], np.int64)
    size = literal_size(lists, t) / 2**30
    assert size <= balance.most_rows(counts, t) + 1e-6
    assert size <= balance.most_rows(counts, t, sum(map(bool, lists))) + 1e-6


def test_the_estimate_is_exact_for_one_entry_a_text() -> None:
    """Then texts are kept for one entry alone."""
    counts = np.array([1000, 200, 30, 4, 0])
    assert balance.estimated_rows(counts, 50, 1234) == pytest.approx(50 + 50 + 30 + 4)
    assert balance.estimated_rows(counts, 10**6, 1234) == pytest.approx(1234)
    assert balance.estimated_rows(np.zeros(3, np.int64), 5, 0) == 0


@pytest.mark.parametrize("t", [2, 20, 200])
def test_the_estimate_is_near_where_entries_meet_by_chance(t: int) -> None:
    """Within 3 % where the numbers of entries are as the model has them."""
    lists = zipfian_lists(20_000, 2000, 3.0, seed=1, exponent=0.8)
    found = literal_counts(lists)
    counts = np.array([found[entry] for entry in range(2000)], np.int64)
    estimate = balance.estimated_rows(counts, t, sum(map(bool, lists)))
    assert estimate == pytest.approx(literal_size(lists, t) / 2**30, rel=0.03)


@given(st.lists(st.tuples(st.integers(1, 10**6), st.floats(0.5, 1e9)), min_size=1, max_size=20), st.data())
def test_interpolation_is_monotone_and_meets_the_points(points: list[tuple[int, float]], data: st.DataObject) -> None:
    """Whatever rising sizes are given."""
    ts = np.array(sorted({t for t, _ in points}))
    rows = np.sort(np.array([rows for _, rows in points])[: len(ts)])
    assert [balance.rows_at(ts, rows, t) for t in ts] == pytest.approx(rows.tolist(), rel=1e-9)
    low, high = sorted(data.draw(st.tuples(st.integers(1, 2 * 10**6), st.integers(1, 2 * 10**6))))
    assert balance.rows_at(ts, rows, low) <= balance.rows_at(ts, rows, high) * (1 + 1e-9)


@given(st.integers(1, 4100))
def test_t_for_rows_is_the_inverse(target: int) -> None:
    """The smallest t whose interpolated size reaches the target."""
    ts, rows = np.array([1, 4, 20, 1000, 5000]), np.array([10.0, 200.0, 900.0, 3000.0, 4000.0])
    t = balance.t_for_rows(ts, rows, target)
    reached = balance.rows_at(ts, rows, t) >= target
    assert reached or t == 5000
    assert t == 1 or balance.rows_at(ts, rows, t - 1) < target


def test_interpolation_is_near_the_exact_sizes() -> None:
    """Between the t that a run tried, within 0.1 %."""
    lists = zipfian_lists(20_000, 2000, 4.0, seed=3)
    sizes = play(MetadataBalance(t=5), pairs_of(lists)).settled["sizes"]
    ts, rows = np.array([t for t, _ in sizes]), np.array([rows for _, rows in sizes])
    for t in [t for t in (11, 23, 57, 131, 611, 2111) if t not in ts]:
        assert balance.rows_at(ts, rows, t) == pytest.approx(literal_size(lists, t) / 2**30, rel=1e-3)


def test_paper_arithmetic() -> None:
    """On counts as in the paper: zero, head, tail share, and Σ min(count, t) of 640 M where 400 M came out."""
    counts, t = paper_counts(16_000_000, 500_000)
    zero, _, head = balance.head_and_tail(counts, t)
    assert (len(counts), t, zero.entries, head.entries) == (500_000, 200, 114_000, 16_000)
    assert head.matches / counts.sum() == pytest.approx(0.945, abs=0.002)
    assert 0.05 < balance.tail_share(counts, t) < 0.06
    assert balance.most_rows(counts, t) * 100 == pytest.approx(640e6, rel=0.03)
    assert balance.t_for_tail_share(counts, 0.055) == pytest.approx(t, rel=0.1)
