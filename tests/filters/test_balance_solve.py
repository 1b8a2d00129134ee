"""The smallest t of a target is found in few rounds, whatever the sizes look like."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pairsieve.filters._balance_solve import CANDIDATES, bracket, closer, grid


def solved(size: Callable[[int], float], most: int, target: int) -> tuple[int | None, int]:
    """The t (None: none reaches it), and the rounds after the grid."""
    tried, known = grid(most), bracket(grid(most), [size(t) >= target for t in grid(most)], (0, None))
    sizes, rounds = [(t, size(t)) for t in tried], 0
    while known[1] is not None and known[1] - known[0] > 1:
        low, high = known
        assert high is not None
        tried = closer(low, high, sizes, target)
        assert 0 < len(tried) <= CANDIDATES and tried == sorted(set(tried)) and low < tried[0] <= tried[-1] < high
        sizes, rounds = [*sizes, *((t, size(t)) for t in tried)], rounds + 1
        known = bracket(tried, [size(t) >= target for t in tried], known)
    return known[1], rounds


@given(st.integers(1, 10**9), st.data())
def test_smooth_sizes_need_few_rounds(most: int, data: st.DataObject) -> None:
    """Sizes that rise as those of pools do, up to a billion texts of one entry."""
    scale, target = data.draw(st.floats(1, 1e8)), data.draw(st.integers(1, 10**6))

    def size(t: int) -> float:
        return 1e6 * t / (t + scale)

    t, rounds = solved(size, most, target)
    assert rounds <= 3
    if t is None:
        assert size(most) < target
    else:
        assert size(t) >= target and (t == 1 or size(t - 1) < target)


@given(st.integers(1, 10**9), st.data())
def test_a_sudden_step_is_found_too(most: int, data: st.DataObject) -> None:
    """Interpolation knows nothing of it, so that even candidates must do."""
    step = data.draw(st.integers(1, most))
    t, rounds = solved(lambda t: 2.0 if t < step else 10.0, most, 5)
    assert t == step and rounds <= 8


@pytest.mark.parametrize("most", [1, 2, 63, 64, 65, 1000, 10**12])
def test_the_grid_holds_both_ends(most: int) -> None:
    """Ascending integers, at most 64."""
    found = grid(most)
    assert found[0] == 1 and found[-1] == most and found == sorted(set(found)) and len(found) <= CANDIDATES
