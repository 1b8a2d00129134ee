"""The centroid with the greatest inner product, for many vectors: exact, and at the speed of the matrix product.

Float32 products of blocks find the few centroids that can be the greatest; where they are several,
float64 decides.  So the answer depends on the vector and the centroids alone: not on the other
vectors, block sizes, threads, the BLAS or the device.  About 450 vectors a CPU-second for 100,000
centroids of 768; memory is the centroids twice and one block.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pairsieve.filters._products import device_of, fixed

if TYPE_CHECKING:
    import torch

Matrix = NDArray[np.float32]

CPU_BLOCK = (512, 4096)
GPU_BLOCK = (8192, 16_384)
"""Vectors and centroids of one product: 8 MB, which a CPU's caches hold; 512 MB on a GPU."""
_MANY = 1 << 20
"""So many candidates are held before they are settled."""
_AT_ONCE = 4096
"""So many are multiplied in float64 at once."""
_ULP = 2.0**-24
_LEAST = 2.0**-126


@dataclass(frozen=True)
class Candidates:
    """Centroids that may be the greatest: int64 row of the vector, int64 id of the centroid, float32 product."""

    row: NDArray[np.int64]
    id: NDArray[np.int64]
    product: Matrix

    def at(self, where: NDArray[np.bool_] | NDArray[np.int64]) -> "Candidates":
        """Some of them."""
        return Candidates(self.row[where], self.id[where], self.product[where])

    def __add__(self, other: "Candidates") -> "Candidates":
        """Both."""
        row, id_ = np.concatenate((self.row, other.row)), np.concatenate((self.id, other.id))
        return Candidates(row, id_, np.concatenate((self.product, other.product)))


class Assigner:
    """Centroids on a device; ``assign`` is its one job."""

    def __init__(self, centroids: Matrix, device: str = "cpu") -> None:
        """``centroids`` float32[K, d], finite; raises ``UserError`` where ``cuda`` is asked for and there is none."""
        import torch

        self._device = device_of(device)
        self._block = GPU_BLOCK if self._device.type == "cuda" else CPU_BLOCK
        self.centroids = centroids
        self._there = torch.from_numpy(_writable(centroids)).to(self._device)
        self._longest = float(_lengths(centroids).max())

    def assign(self, vectors: Matrix) -> NDArray[np.int32]:
        """int32[n]: for each vector the id of the centroid with the greatest product, the lowest of equals.

        ``vectors`` float32[n, d], finite.  -1 where a product leaves float32's range.
        """
        found = np.empty(len(vectors), np.int32)
        with fixed():
            for start in range(0, len(vectors), self._block[0]):
                part = vectors[start : start + self._block[0]]
                found[start : start + len(part)] = self._assign(part)
        return found

    def _assign(self, vectors: Matrix) -> NDArray[np.int64]:
        """One block of vectors against all centroids."""
        import torch

        length = _lengths(vectors)
        slack = torch.from_numpy(self._slack(length)).to(self._device)
        best = torch.full_like(slack, -np.inf)
        held = Candidates(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32))
        for found in self._near(vectors, best, slack):
            held += found
            if len(held.row) > _MANY:
                held = self._settle(vectors, held, (best - slack).cpu().numpy())
        held = self._settle(vectors, held, (best - slack).cpu().numpy())
        ids = np.zeros(len(vectors), np.int64)  # 0: all products of a vector of zeros are equal
        ids[held.row] = held.id
        ids[~np.isfinite(best.cpu().numpy())] = -1
        return ids

    def _slack(self, length: NDArray[np.float64]) -> Matrix:
        """How far below the greatest float32 product that of the greatest centroid may be; -inf for zeros.

        Twice the error bound of an inner product, whatever the order of its sums (Higham, Accuracy
        and Stability of Numerical Algorithms, 3.1), with room for float64's and for products that
        are flushed to zero.
        """
        terms = self.centroids.shape[1] + 4
        error = terms * _ULP / (1 - terms * _ULP) * self._longest * length + terms * _LEAST
        return np.where(length > 0, 2 * error, -np.inf).astype(np.float32)

    def _near(self, vectors: Matrix, best: "torch.Tensor", slack: "torch.Tensor") -> Iterator[Candidates]:
        """For each block of centroids those within reach of the best so far; ``best`` is brought up to date."""
        import torch

        there = torch.from_numpy(_writable(vectors)).to(self._device)
        for first in range(0, len(self._there), self._block[1]):
            products = there @ self._there[first : first + self._block[1]].T
            greatest = products.amax(dim=1)
            torch.maximum(best, greatest, out=best)  # also NaN, the sum of infinities
            rows = (greatest >= best - slack).nonzero().squeeze(1)
            near = products[rows]
            row, column = (near >= (best - slack)[rows, None]).nonzero(as_tuple=True)
            product = near[row, column]
            yield Candidates(rows[row].cpu().numpy(), (column + first).cpu().numpy(), product.cpu().numpy())

    def _settle(self, vectors: Matrix, held: Candidates, least: Matrix) -> Candidates:
        """One candidate a row: the only one of at least ``least``, or the greatest by float64, or the lowest id."""
        held = held.at(held.product >= least[held.row])
        is_one_of_many = np.bincount(held.row, minlength=len(least))[held.row] > 1
        exact = np.zeros(len(held.row))
        many = held.at(is_one_of_many)
        exact[is_one_of_many] = _products(vectors, self.centroids, many)
        order = np.lexsort((held.id, -exact, held.row))
        held = held.at(order)
        return held.at(np.diff(held.row, prepend=-1) > 0)


def _writable(values: Matrix) -> Matrix:
    """The array, copied where torch would warn that nothing may be written to it."""
    return np.require(values, requirements=["C", "W"])


def _lengths(vectors: Matrix) -> NDArray[np.float64]:
    """float64[n]: Euclidean lengths."""
    return np.asarray(np.sqrt(np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64)))


def _products(vectors: Matrix, centroids: Matrix, pairs: Candidates) -> NDArray[np.float64]:
    """float64[n] inner products of pairs.  Terms are exact; numpy adds those of a row in an order of their own."""
    found = np.empty(len(pairs.row))
    for start in range(0, len(found), _AT_ONCE):
        here = slice(start, start + _AT_ONCE)
        terms = vectors[pairs.row[here]].astype(np.float64) * centroids[pairs.id[here]]
        found[here] = terms.sum(axis=1)
    return found
