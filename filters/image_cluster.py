"""Keep pairs whose image lies in a cluster that some target image lies in: DataComp's image-based filter.

The assignment is nearly all of the cost: 0.15 GFLOP a pair for 100,000 centroids of 768, which is
450 pairs a CPU-second.  A worker opens the filter by assigning the targets too: save their clusters
with :func:`target_clusters` once where that takes long.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import Field, PrivateAttr

from pairsieve.filters._assign import Assigner
from pairsieve.filters._cache import cached
from pairsieve.filters._products import resources_of
from pairsieve.filters._tensors import (
    FileNames,
    all_files,
    as_matrix,
    check_column,
    check_rows,
    embedding_files,
    load_array,
    load_embeddings,
    matrix_of,
    peek,
)
from pairsieve.filters.base import Filter, Resources, Runtime, UnknownColumnError, first_reason
from pairsieve.schemas.errors import UserError

CACHED_BYTES = 50_000_000
"""Files of centroids and targets of more bytes take minutes to assign on a CPU."""


class ImageCluster(Filter):
    """Assign the image's embedding to a centroid; keep pairs whose centroid a target embedding is assigned to too.

    A centroid is the one with the greatest inner product, the lowest of equals; neither side is
    normalised, as in DataComp.  Products are those of float32 values, compared exactly, so that the
    result is the same on every machine.  Reasons: ``no_features`` (null, of another width, or not
    finite), ``other_cluster``.
    """

    writes = {"image_cluster": pa.int32(), "in_target_cluster": pa.bool_()}
    batch_rows = 8192
    extra = "cluster"
    loads_model = True

    features: str = Field("l14_img", description="column of embeddings: lists of floats")
    centroids: str = Field(description="matrix of centroids: .npy, .npz, or torch.save (.pt)")
    targets: FileNames = Field(
        description="files or globs of target embeddings, or of cluster ids (one dimension of integers)"
    )
    key: str | None = Field(
        None, description="array of a target file with several; default: its only one, else image_features"
    )
    device: Runtime[Literal["auto", "cpu", "cuda"]] = Field("auto", description="auto: the GPU where there is one")

    _assigner: Assigner | None = PrivateAttr(None)
    _is_target: NDArray[np.bool_] | None = PrivateAttr(None)

    def needs(self) -> tuple[str, ...]:
        return ("torch",)

    def inputs(self, available: Mapping[str, pa.DataType]) -> tuple[str, ...]:
        return (self.features,)

    def check(self, available: Mapping[str, pa.DataType]) -> None:
        if self.features not in available:
            raise UnknownColumnError(self.features, available)
        width = check_column(available[self.features], self.features)
        centroids = _looked_at(self.centroids)
        for file, shape in centroids:
            if width not in (None, shape[1]):
                text = f"{shape[0]} × {shape[1]}, and column {self.features!r} has width {width}"
                raise ValueError(f"centroids: {file} holds {text}")
        self._check_targets(centroids)

    def _check_targets(self, centroids: list[tuple[str, tuple[int, int]]]) -> None:
        """Refuse targets that do not belong to the centroids, as far as a look at both tells."""
        if len(centroids) < len(embedding_files(self.centroids)):
            return  # too large to be read twice
        clusters, width = sum(shape[0] for _, shape in centroids), centroids[0][1][1]
        for file, values, is_whole in peek(all_files(self.targets), self.key):
            _fit(values if is_whole else values[:1], file, clusters, width)

    def files(self) -> tuple[str, ...]:
        return (*embedding_files(self.centroids), *all_files(self.targets))

    def resources(self) -> Resources:
        return resources_of(self.device)

    def open(self) -> None:
        assigner = Assigner(load_embeddings(self.centroids), self.device)
        self._assigner, self._is_target = assigner, np.zeros(len(assigner.centroids), np.bool_)
        self._is_target[self._target_ids(assigner)] = True

    def _target_ids(self, assigner: Assigner) -> NDArray[np.int32]:
        """The clusters of the targets: from the cache where there are many to assign."""
        make = partial(_target_ids, assigner, self.targets, self.key)
        size = sum(Path(file).stat().st_size for file in self.files())
        return cached(f"target clusters, {self.key}", self.files(), make) if size > CACHED_BYTES else make()

    def close(self) -> None:
        self._assigner = self._is_target = None

    def score(self, pairs: pa.RecordBatch) -> dict[str, pa.Array]:
        assert self._assigner is not None and self._is_target is not None
        width = self._assigner.centroids.shape[1]
        check_rows(pairs[self.features], width, self.features, "the centroids have")
        vectors, is_good = matrix_of(pairs[self.features], width)
        cluster = np.full(len(vectors), -1, np.int32)
        cluster[is_good] = self._assigner.assign(vectors[is_good])
        is_missing = cluster < 0
        return {
            "image_cluster": pa.array(cluster, mask=is_missing),
            "in_target_cluster": pa.array(self._is_target[cluster], mask=is_missing),
        }

    def keep(self, pairs: pa.RecordBatch) -> pa.Array:
        return first_reason(
            pairs.num_rows,
            (pc.is_null(pairs["image_cluster"]), "no_features"),
            (pc.invert(pairs["in_target_cluster"]), "other_cluster"),
        )


def target_clusters(
    centroids: str, targets: str | tuple[str, ...], key: str | None = None, device: str = "auto"
) -> NDArray[np.int32]:
    """int32[n], sorted: the clusters that the targets lie in, to be saved with ``numpy.save`` and given as targets.

    Arguments as the settings of :class:`ImageCluster`; raises ``UserError`` for files that cannot be used.
    """
    return _target_ids(Assigner(load_embeddings(centroids), device), targets, key)


def _target_ids(assigner: Assigner, targets: str | tuple[str, ...], key: str | None) -> NDArray[np.int32]:
    found = [_ids_of(assigner, file, key) for file in all_files(targets)]
    ids = np.unique(np.concatenate(found))
    return ids[ids >= 0].astype(np.int32)


def _ids_of(assigner: Assigner, file: str, key: str | None) -> NDArray[np.int64]:
    """The clusters that one file names, or whose embeddings it holds."""
    clusters, width = assigner.centroids.shape
    found = _fit(load_array(file, key), file, clusters, width)
    return (assigner.assign(found) if found.ndim == 2 else found).astype(np.int64)


def _fit(values: NDArray[Any], file: str, clusters: int, width: int) -> NDArray[Any]:
    """Cluster ids or a matrix; raises ``UserError`` for those of other centroids."""
    if values.ndim == 1 and values.dtype.kind in "iu":
        if len(values) and not 0 <= int(values.min()) <= int(values.max()) < clusters:
            raise UserError(f"targets: {file}: a cluster id is outside 0 to {clusters - 1}; it belongs to others")
        return values
    matrix = as_matrix(values, f"targets: {file}")
    if matrix.shape[1] != width:
        raise UserError(f"targets: {file}: embeddings of width {matrix.shape[1]}, and the centroids have {width}")
    return matrix


def _looked_at(centroids: str) -> list[tuple[str, tuple[int, int]]]:
    """Files of centroids with their shapes; raises ``UserError`` where they are no finite matrices."""
    found = []
    for file, values, is_whole in peek(embedding_files(centroids)):
        _, width = as_matrix(values if is_whole else values[:1], f"centroids: {file}").shape
        found.append((file, (len(values), width)))
    return found
