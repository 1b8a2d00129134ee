"""The nearest embedding of evaluation sets: the greatest inner product, exactly, and which set it belongs to.

The search is that of ``_assign``: float32 products of blocks find the few that can be the greatest, float64 decides.
So neither the value nor the set depends on batches, threads, the BLAS or the device.  Memory is the
references once (float32), and the largest file again while they are read.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from pairsieve.filters._assign import Assigner
from pairsieve.filters._reference_files import embeddings_of
from pairsieve.filters._tensors import Matrix
from pairsieve.schemas.errors import UserError

AT_ONCE = 4096
"""Rows that are widened to float64 at once: 16 MB for a width of 512."""


class Nearest:
    """Embeddings of evaluation sets, on a device; ``find`` is its one job."""

    def __init__(
        self, sets: Mapping[str, Sequence[str]], key: str | None = None, is_unit: bool = True, device: str = "cpu"
    ) -> None:
        """Files of each set; ``is_unit``: both sides are divided by their lengths, so that products are cosines.

        Raises ``UserError`` with set and file for what cannot be used: see ``embeddings_of``; other widths; zeros
        where there is a length to divide by.
        """
        parts: list[Matrix] = []
        self._ends = np.zeros(len(sets), np.int64)
        for place, (name, files) in enumerate(sets.items()):
            for file in files:
                parts.append(_read(name, file, key, is_unit, parts[0].shape[1] if parts else None))
            self._ends[place] = sum(map(len, parts))
        self.is_unit = is_unit
        self._assigner = Assigner(_joined(parts), device)

    @property
    def width(self) -> int:
        """Numbers of an embedding."""
        return int(self._assigner.centroids.shape[1])

    def find(self, vectors: Matrix) -> tuple[Matrix, NDArray[np.int64]]:
        """float32[n], the greatest product of each vector, and int64[n], the place of the set that it is with.

        ``vectors`` float32[n, d], finite.  The value is the float64 product of the float32 vectors, rounded once; of
        equal ones the first set, in the order of the mapping, has it.  NaN and -1 where a product leaves float32's
        range, or where a vector of zeros has no direction to compare.
        """
        vectors, is_good = unit(vectors) if self.is_unit else (vectors, np.ones(len(vectors), np.bool_))
        with np.errstate(over="ignore"):  # what leaves float32's range is told from the result
            ids = self._assigner.assign(vectors).astype(np.int64)
            values = _products(vectors, self._assigner.centroids, ids).astype(np.float32)
        is_good &= (ids >= 0) & np.isfinite(values)
        places = np.searchsorted(self._ends, ids, side="right")
        return np.where(is_good, values, np.float32(np.nan)), np.where(is_good, places, -1)


def unit(vectors: Matrix) -> tuple[Matrix, NDArray[np.bool_]]:
    """float32[n, d], each vector divided by its length in float64, and bool[n]: which have one; zeros stay zeros."""
    found, has_length = np.zeros_like(vectors), np.zeros(len(vectors), np.bool_)
    for start in range(0, len(vectors), AT_ONCE):
        here = slice(start, start + AT_ONCE)
        wide = vectors[here].astype(np.float64)
        lengths = np.sqrt((wide * wide).sum(axis=1))
        has_length[here] = lengths > 0
        found[here] = wide / np.where(lengths > 0, lengths, 1)[:, None]
    return found, has_length


def _read(name: str, file: str, key: str | None, is_unit: bool, width: int | None) -> Matrix:
    """One file of a set, of the width of those before."""
    try:
        found = embeddings_of(file, key)
    except UserError as error:
        raise UserError(f"references: {name}: {error}") from None
    if width not in (None, found.shape[1]):
        text = f"embeddings of width {found.shape[1]}, those before have {width}; give one model's"
        raise UserError(f"references: {name}: {file}: {text}")
    if not is_unit:
        return found
    found, has_length = unit(found)
    if not has_length.all():
        where = f"references: {name}: {file}: row {int(has_length.argmin())}"
        raise UserError(f"{where} is all zeros, which has no cosine; leave it out, or set normalize: false")
    return found


def _joined(parts: list[Matrix]) -> Matrix:
    """All parts, which are let go one by one: pages of the result are taken as they are filled."""
    if len(parts) == 1:
        return parts.pop()
    found, end = np.empty((sum(map(len, parts)), parts[0].shape[1]), np.float32), 0
    parts.reverse()
    while parts:
        part = parts.pop()
        found[end : end + len(part)] = part
        end += len(part)
    return found


def _products(vectors: Matrix, others: Matrix, ids: NDArray[np.int64]) -> NDArray[np.float64]:
    """float64[n]: of each vector with one of the others; numpy adds the terms of a row in an order of their own."""
    found = np.empty(len(ids))
    for start in range(0, len(found), AT_ONCE):
        here = slice(start, start + AT_ONCE)
        found[here] = (vectors[here].astype(np.float64) * others[ids[here]]).sum(axis=1)
    return found
