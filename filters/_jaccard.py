"""Jaccard similarity of pairs of texts: exact, of their sets of shingles, or as their signatures estimate it."""

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pairsieve.filters._minhash import Unit
from pairsieve.filters._normal_text import Normal


def exact(one: Normal, other: Normal, unit: Unit, n: int) -> npt.NDArray[np.float64]:
    """Jaccard similarity of the sets of shingles of text i of one and of the other; 0 where one of them is empty.

    Shingles are compared by 64-bit hashes, so a pair of captions is wrong with a chance of 10⁻¹⁵.
    """
    from pairsieve.filters._jaccard_kernels import similarities

    found = np.empty(len(one), np.float64)
    similarities(one.data, one.offsets, other.data, other.offsets, unit == "words", n, found)
    return found


def estimated(one: pa.Array, other: pa.Array) -> npt.NDArray[np.float64]:
    """The share of values that two signatures (fixed-size lists) have in common; 0 where one is null."""
    width = one.type.list_size
    a, b = (_values(each).reshape(-1, width) for each in (one, other))
    both = one.is_valid().to_numpy(zero_copy_only=False) & other.is_valid().to_numpy(zero_copy_only=False)
    return np.where(both, (a == b).mean(1), 0.0)


def _values(lists: pa.Array) -> npt.NDArray[np.uint32]:
    """The numbers of fixed-size lists, those of nulls too, whatever they are."""
    width = lists.type.list_size
    values: npt.NDArray[np.uint32] = lists.values.slice(lists.offset * width, len(lists) * width).to_numpy()
    return values
