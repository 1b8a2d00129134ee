"""Which of a pair's texts is drawn: the same rule for exports and for the training loader."""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import accumulate
from math import inf

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray


def usable(weights: pa.Array) -> NDArray[np.float64]:
    """float64[n] of weights: null, negative, not a number and infinite ones are 0."""
    found = weights.cast(pa.float64()).fill_null(0).to_numpy(zero_copy_only=False)
    return np.where((found > 0) & np.isfinite(found), found, 0.0)


def place(weights: Sequence[float], draw: float) -> int:
    """The place that a number in [0, 1) draws by the weights, of which there is one at least; all 0: evenly.

    Sums are those of one pair: in sums over many, small weights after large ones would be lost.
    """
    sums = list(accumulate(weights))
    if not 0 < sums[-1] < inf:
        sums = [float(i) for i in range(1, len(sums) + 1)]
    return min(bisect_right(sums, draw * sums[-1]), bisect_left(sums, sums[-1]))
