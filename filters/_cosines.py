"""Which vectors of a list have an earlier one within a cosine distance: exact, in blocks, at the speed of the product.

Float32 products find those that are near; where a product lies within its rounding error of the limit,
float64 decides.  So the answer depends on the vectors, not on blocks, threads or the BLAS.  2·n²/2·d operations.
"""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pairsieve.filters._products import fixed

if TYPE_CHECKING:
    import torch

Matrix = NDArray[np.float32]
BLOCK = 1024
"""Rows and columns of one product: 4 MB."""


def normalised(vectors: Matrix) -> Matrix:
    """float32[n, d] of length 1; zeros stay zeros."""
    lengths = np.sqrt(np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64))
    return np.asarray(vectors / np.where(lengths > 0, lengths, 1.0)[:, None], np.float32)


def first_alike(vectors: Matrix, least: float, device: "torch.device") -> NDArray[np.int64]:
    """int64[n]: the first earlier vector whose product is above ``least``; -1 where there is none.

    ``vectors`` float32[n, d] of length 1.
    """
    import torch

    found = np.full(len(vectors), -1, np.int64)
    there = torch.from_numpy(np.require(vectors, requirements=["C", "W"])).to(device)
    slack = 2.0**-23 * (vectors.shape[1] + 4)
    with fixed():
        for row in range(0, len(vectors), BLOCK):
            rows = there[row : row + BLOCK]
            for column in range(0, row + len(rows), BLOCK):
                columns = there[column : column + BLOCK]
                near = ((rows @ columns.T) > least - slack).nonzero().cpu().numpy()
                _settle(vectors, found, near + np.array([row, column]), least)
    return found


def _settle(vectors: Matrix, found: NDArray[np.int64], near: NDArray[np.int64], least: float) -> None:
    """Note the first of each row's earlier vectors that float64 finds above the limit."""
    near = near[(near[:, 1] < near[:, 0]) & (found[near[:, 0]] < 0)]
    for start in range(0, len(near), BLOCK * 4):
        one, other = near[start : start + BLOCK * 4].T
        products = np.einsum("ij,ij->i", vectors[one].astype(np.float64), vectors[other].astype(np.float64))
        one, other = one[products > least], other[products > least]
        new = found[one] < 0
        one, other = one[new], other[new]
        first = np.unique(one, return_index=True)[1]  # pairs come by row, then column
        found[one[first]] = other[first]
