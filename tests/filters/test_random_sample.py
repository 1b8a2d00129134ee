"""Random, and the same whenever it is drawn."""

import hashlib

import pyarrow as pa
import pyarrow.compute as pc
from hypothesis import given
from hypothesis import strategies as st

from pairsieve.filters.random_sample import RandomSample

UIDS = pa.array([hashlib.md5(str(i).encode()).hexdigest() for i in range(20_000)])


def kept(fraction: float, uids: pa.Array = UIDS, seed: int = 0) -> list[str]:
    """The uids that stay."""
    made = RandomSample(fraction=fraction, seed=seed)
    scored = made.score(pa.record_batch({"uid": uids}))
    stays = pc.is_null(made.keep(pa.record_batch(scored)))
    found: list[str] = uids.filter(stays).to_pylist()
    return found


def test_size_is_the_fraction() -> None:
    """Within five standard deviations."""
    assert abs(len(kept(0.25)) - 5000) < 5 * (20_000 * 0.25 * 0.75) ** 0.5


def test_ends() -> None:
    """None, and all."""
    assert kept(0) == [] and len(kept(1)) == len(UIDS)


@given(st.floats(0, 1), st.floats(0, 1))
def test_smaller_fraction_is_part_of_a_larger(one: float, other: float) -> None:
    """So that random subsets of several sizes nest."""
    less, more = sorted((one, other))
    assert set(kept(less, UIDS[:500])) <= set(kept(more, UIDS[:500]))


@given(st.integers(0, 2**63 - 1), st.integers(1, 499))
def test_order_and_batches_do_not_matter(seed: int, cut: int) -> None:
    """Nor what else is there."""
    whole = kept(0.5, UIDS[:500], seed)
    turned = UIDS[:500].take(pa.array(range(499, -1, -1)))
    assert sorted(kept(0.5, turned[:cut], seed) + kept(0.5, turned[cut:], seed)) == sorted(whole)


def test_seeds_draw_different_pairs() -> None:
    """About half of one half is in the other."""
    assert 4500 < len(set(kept(0.5, seed=1)) & set(kept(0.5, seed=2))) < 5500
