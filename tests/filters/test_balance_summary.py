"""Summaries of the balance: merging is a sum, whatever the form, the order or the size."""

from functools import reduce

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pairsieve.filters._balance_summary import Drawn, Round, Sizes, Tally

VECTORS = st.lists(st.integers(0, 3), max_size=20).map(lambda counts: np.array(counts, np.int64))


def sparse(counts: np.ndarray) -> Tally:
    """Entries that occur, and nothing else."""
    ids = np.flatnonzero(counts)
    return Tally(counts[ids], ids)


@given(st.lists(st.tuples(VECTORS, st.booleans()), min_size=1, max_size=6))
def test_tallies_add_up(parts: list[tuple[np.ndarray, bool]]) -> None:
    """Vectors and few entries, of any lengths, in any order; what was merged stays as it was."""
    wanted = np.sum([np.pad(counts, (0, 20 - len(counts))) for counts, _ in parts], axis=0)
    tallies = [sparse(counts) if is_sparse else Tally(counts) for counts, is_sparse in parts]
    before = [tally.vector(20).tolist() for tally in tallies]
    order = np.random.default_rng(len(parts)).permutation(len(tallies))
    for some in (tallies, tallies[::-1], [tallies[i] for i in order]):
        assert reduce(Tally.__add__, some).vector(20).tolist() == wanted.tolist()
    assert [tally.vector(20).tolist() for tally in tallies] == before


@given(VECTORS)
def test_a_tally_takes_its_shorter_form(counts: np.ndarray) -> None:
    """And holds the same counts."""
    tally = Tally.of(counts)
    assert tally.vector(len(counts)).tolist() == counts.tolist()
    assert (tally.ids is None) == (2 * np.count_nonzero(counts) >= len(counts))


def test_sums_of_ten_billion_rows_are_exact() -> None:
    """They exceed 63 bits."""
    most = 2**30 * 10**10
    found = Round(sizes=Sizes((most, 1)), drawn=Drawn(most, 1, 10**10, Tally(np.array([1]))))
    both = found + found
    assert both.sizes == Sizes((2 * most, 2)) and both.drawn is not None
    assert (both.drawn.expected, both.drawn.rows) == (2 * most, 2 * 10**10)
