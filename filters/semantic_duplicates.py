"""Drop pairs whose embedding is too near to a better one's: SemDeDup.

Measuring assigns each embedding to a centroid (``pairsieve cluster`` trains them); deciding compares the members of
a cluster: 2·n²/2·d operations for n of them, so the number of clusters sets the cost, N²/K·d in all.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field, PrivateAttr

from pairsieve.filters._assign import Assigner
from pairsieve.filters._cosines import first_alike, normalised
from pairsieve.filters._preferred import Preferred
from pairsieve.filters._products import device_of, resources_of
from pairsieve.filters._tensors import (
    Matrix,
    as_matrix,
    check_column,
    check_rows,
    embedding_files,
    load_embeddings,
    matrix_of,
    peek,
)
from pairsieve.filters.base import Resources, Runtime, Threshold, UnknownColumnError, WithinFilter
from pairsieve.schemas.errors import UserError

CLUSTER, SIMILARITY = "semantic_cluster", "semantic_similarity"


class SemanticDuplicates(Preferred, WithinFilter):
    """Of two embeddings in one cluster whose cosine is above 1 - ``epsilon`` only the better one's pair may stay.

    The members of a cluster are taken by ``prefer``, the best first; one goes that is too near to any before it,
    also to one that goes itself.  Without ``prefer`` those farthest from the centroid come first, SemDeDup's
    "keep hard".  ``semantic_cluster`` is the centroid with the greatest cosine, ``semantic_similarity`` that cosine.
    Duplicates that lie in two clusters are not found.  Pairs without an embedding (null, of another width, not
    finite, zero) stay.  Reason: ``semantic_duplicate``.

    Source: Abbas et al., "SemDeDup: Data-efficient learning at web-scale through semantic deduplication" (2023).
    """

    writes = {CLUSTER: pa.int32(), SIMILARITY: pa.float32()}
    batch_rows = 8192
    extra = "cluster"
    loads_model = True

    features: str = Field("l14_img", description="column of embeddings: lists of floats")
    centroids: str = Field(description="matrix of centroids: .npy, .npz, or torch.save (.pt)")
    epsilon: Threshold[float] = Field(ge=0, le=2, description="pairs with a cosine above 1 minus this are duplicates")
    device: Runtime[Literal["auto", "cpu", "cuda"]] = Field("auto", description="auto: the GPU where there is one")

    _assigner: Assigner | None = PrivateAttr(None)

    @property
    def group_column(self) -> str:
        return CLUSTER

    @property
    def reason(self) -> str:
        return "semantic_duplicate"

    def needs(self) -> tuple[str, ...]:
        return ("torch",)

    def inputs(self, available: Mapping[str, pa.DataType]) -> tuple[str, ...]:
        return (self.features,)

    def preferable(self, available: Mapping[str, pa.DataType]) -> dict[str, pa.DataType]:
        return {**available, **self.writes}

    def check(self, available: Mapping[str, pa.DataType]) -> None:
        if self.features not in available:
            raise UnknownColumnError(self.features, available)
        width = check_column(available[self.features], self.features)
        for file, values, is_whole in peek(embedding_files(self.centroids)):
            found = _directed(as_matrix(values if is_whole else values[:1], f"centroids: {file}"), file)
            if width not in (None, found.shape[1]):
                text = f"vectors of width {found.shape[1]}, and column {self.features!r} has width {width}"
                raise ValueError(f"centroids: {file} holds {text}")
        self.check_preferred(available)

    def files(self) -> tuple[str, ...]:
        return tuple(str(Path(name)) for name in embedding_files(self.centroids))

    def resources(self) -> Resources:
        return resources_of(self.device)

    def order(self) -> str:
        return super().order() or SIMILARITY

    def compared(self, available: Mapping[str, pa.DataType]) -> tuple[str, ...]:
        return (self.features,)

    def open(self) -> None:
        centroids = _directed(load_embeddings(self.centroids), self.centroids)
        self._assigner = Assigner(normalised(centroids), self.device)

    def close(self) -> None:
        self._assigner = None

    def score(self, pairs: pa.RecordBatch) -> dict[str, pa.Array]:
        assert self._assigner is not None
        width = self._assigner.centroids.shape[1]
        check_rows(pairs[self.features], width, self.features, "the centroids have")
        vectors, is_good = matrix_of(pairs[self.features], width)
        is_good &= vectors.any(axis=1)
        unit = normalised(vectors[is_good])
        cluster, similarity = np.full(len(vectors), -1, np.int32), np.zeros(len(vectors), np.float32)
        cluster[is_good] = self._assigner.assign(unit)
        centroids = self._assigner.centroids[cluster[is_good]]
        similarity[is_good] = np.einsum("ij,ij->i", unit.astype(np.float64), centroids.astype(np.float64))
        is_missing = cluster < 0
        return {CLUSTER: pa.array(cluster, mask=is_missing), SIMILARITY: pa.array(similarity, mask=is_missing)}

    def losers(self, members: pa.RecordBatch) -> NDArray[np.int64]:
        width = _width(members[self.features])
        vectors, _ = matrix_of(members[self.features], width)
        return first_alike(normalised(vectors), 1.0 - self.epsilon, device_of(self.device))


def _directed(centroids: Matrix, file: str) -> Matrix:
    """The centroids; raises ``UserError`` where one is all zeros, which has a cosine with nothing."""
    is_zero = ~centroids.any(axis=1)
    if is_zero.any():
        row, count = int(is_zero.argmax()), int(is_zero.sum())
        text = f"row {row} is all zeros" if count == 1 else f"{count:,} rows are all zeros, row {row} the first"
        raise UserError(f"centroids: {file}: {text}; train them with 'pairsieve cluster'")
    return centroids


def _width(vectors: Any) -> int:
    """All members have vectors, of one width."""
    kind = vectors.type
    return int(kind.list_size) if pa.types.is_fixed_size_list(kind) else len(vectors[0])
