"""The t whose expected size reaches a target, found exactly: sizes at candidates, then closer ones.

Sizes never fall as t grows, rounding included, so that a bracket and its candidates are enough.  After the grid a
round or two find t where sizes are as in the paper; a sudden step takes up to eight.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pairsieve.filters._balance_counts import t_for_rows

CANDIDATES = 64
"""t that one pass over the lists tries."""


def grid(most: int) -> list[int]:
    """Integers from 1 to ``most``, even in log t, both ends among them."""
    found: list[int] = np.unique(np.rint(np.geomspace(1, most, CANDIDATES)).astype(np.int64)).tolist()
    return found


def bracket(ts: Sequence[int], reaches: Sequence[bool], known: tuple[int, int | None]) -> tuple[int, int | None]:
    """The greatest t known to miss the target (0: none) and the smallest known to reach it (None: none yet)."""
    low, high = known
    for t, is_enough in zip(ts, reaches, strict=True):
        if is_enough:
            return low, t
        low = t
    return low, high


def closer(low: int, high: int, sizes: Sequence[tuple[int, float]], target: int) -> list[int]:
    """Candidates within (low, high): all, or dense about the interpolated t and even elsewhere."""
    if high - low - 1 <= CANDIDATES:
        return list(range(low + 1, high))
    ts, rows = _curve(sizes)
    near = min(max(t_for_rows(ts, rows, target), low + 1), high - 1)
    steps = [1 << k for k in range((high - low).bit_length())][: CANDIDATES // 2 - 4]
    dense = {near, *(near - step for step in steps), *(near + step for step in steps)}
    inside = {t for t in dense if low < t < high}
    even = np.linspace(low, high, CANDIDATES - len(inside) + 2).astype(np.int64)[1:-1].tolist()
    return sorted(inside | {t for t in even if low < t < high})


def _curve(sizes: Sequence[tuple[int, float]]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    ordered = sorted(sizes)
    return np.array([t for t, _ in ordered], np.int64), np.array([rows for _, rows in ordered], np.float64)
