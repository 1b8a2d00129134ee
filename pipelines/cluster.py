"""k-means over the embeddings of the pairs that a finished run kept: the centroids that ``image_cluster`` assigns to.

DataComp's settings: raw float32 vectors, squared distances, 20 iterations, centroids begun at random
vectors, no subsampling by faiss.  The vectors lie in memory (4 bytes a value, so 37 GB for 12 million
of 768); an iteration costs 2·n·K·d operations, on all CPUs or, with a faiss that has them, GPUs.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pairsieve.filters._tensors import Matrix, check_column, matrix_of
from pairsieve.filters.base import UnknownColumnError
from pairsieve.pipelines import machine
from pairsieve.pipelines.near import CATALOG, no_run
from pairsieve.pipelines.pools import PoolShard, load_manifest
from pairsieve.pipelines.progress import Reporter, Silent, Stage
from pairsieve.pipelines.provenance import manifest
from pairsieve.pipelines.run import load
from pairsieve.pipelines.shard import HEAVY_ROWS, Context, Shard
from pairsieve.pipelines.store import Store, filesystem, is_local
from pairsieve.pipelines.tasks import verdicts_name
from pairsieve.schemas import uid
from pairsieve.schemas.errors import MissingExtraError, UserError

MAX_POINTS = 10_000_000
"""Vectors a centroid that faiss would use at most: DataComp's value, which is all of them."""
_SPARE = 1.25
"""Memory taken, over that of the vectors."""


@dataclass(frozen=True)
class Trained:
    """What was trained: float32[K, d] centroids; the vectors used; kept pairs of the sample that had none."""

    centroids: Matrix
    vectors: int
    missing: int


def train(
    features: Matrix, clusters: int, iterations: int = 20, seed: int = 0, max_points_per_centroid: int = MAX_POINTS
) -> Matrix:
    """float32[clusters, d] centroids of float32[n, d] vectors, by faiss's k-means (Lloyd) under squared distance.

    On CPUs the same vectors in the same order give the same bits, with as many threads
    (``OMP_NUM_THREADS``) on a machine of the same kind; GPUs give no such promise.  Raises
    ``UserError`` where there are fewer vectors than clusters, ``MissingExtraError`` without faiss.
    """
    if len(features) < clusters:
        raise UserError(f"--clusters {clusters}: there are only {len(features)} vectors; ask for fewer")
    _need_faiss()
    import faiss

    trainer = faiss.Kmeans(
        features.shape[1],
        clusters,
        niter=iterations,
        seed=seed,
        min_points_per_centroid=1,  # fewer than faiss likes are the user's choice
        max_points_per_centroid=max_points_per_centroid,
        gpu=faiss.get_num_gpus(),
    )
    trainer.train(features)
    return np.array(trainer.centroids, np.float32)


def _need_faiss() -> None:
    if find_spec("faiss") is None:
        raise MissingExtraError("k-means needs faiss: pip install 'pairsieve[cluster]'")


def cluster(
    run: str,
    features: str,
    clusters: int,
    *,
    iterations: int = 20,
    sample: float = 1.0,
    seed: int = 0,
    progress: Reporter | None = None,
) -> Trained:
    """Train on a list column of the pairs that a finished run kept.

    ``sample`` is the fraction of them that is used, chosen by a hash of seed and uid.  Raises
    ``UserError`` where the run is not finished, its pool has changed, the column holds no
    embeddings, or the vectors do not fit into memory or are fewer than the clusters.
    """
    progress = progress or Silent()
    _need_faiss()
    context, shards = finished(run)
    if features not in context.plan.types:
        raise UserError(f"--features: {UnknownColumnError(features, context.plan.types)}")
    try:
        width = check_column(context.plan.types[features], features)
    except ValueError as error:
        raise UserError(f"--features: {error}") from None
    chosen = [(shard, _chosen(context.store, shard, sample, seed)) for shard in shards]
    rows = sum(len(each) for _, each in chosen)
    if rows < clusters:
        raise UserError(f"--clusters {clusters}: the run kept only {rows} pairs of the sample; ask for fewer")
    with progress.stage(f"read {features}", rows) as stage:
        vectors = _gathered(_read(context, chosen, features), rows, width, stage)
    with progress.stage(f"k-means, {iterations} iterations", len(vectors)) as stage:
        centroids = train(vectors, clusters, iterations, seed)
        stage.advance(len(vectors))  # faiss tells nothing in between
    return Trained(centroids, len(vectors), rows - len(vectors))


def check_out(out: str) -> None:
    """Raise ``UserError`` where centroids cannot be written: said before hours of training, not after."""
    if not out:
        raise UserError("--out is empty; name a .npy file for the centroids")
    fs, path = filesystem(out)
    if is_local(fs) and Path(path).is_dir():
        raise UserError(
            f"--out {out}: is a folder; give the name of a .npy file, such as {out.rstrip('/')}/centroids.npy"
        )
    if not out.endswith(".npy"):
        raise UserError(f"--out {out}: centroids are written as .npy; give such a name")
    folder = Path(path).parent
    if is_local(fs) and not folder.is_dir():
        raise UserError(f"--out {out}: there is no folder {folder}; create it, or name another")
    if is_local(fs) and not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(f"--out {out}: nothing can be written to the folder {folder}; name another")


def save(out: str, centroids: Matrix) -> None:
    """Write a ``.npy`` file (a path or any fsspec URL) as a whole; raises as ``check_out``."""
    check_out(out)
    folder, _, name = out.rpartition("/")
    with Store(folder or ("/" if out.startswith("/") else ".")).create(name, exclusive=False) as file:
        np.save(file, centroids)


def finished(run: str) -> tuple[Context, list[PoolShard]]:
    """A finished run with its pool, to be read."""
    store = Store(run)
    if not store.exists(CATALOG):
        raise no_run(run)
    pool, plan, _ = load(manifest(store).recipe)
    shards = load_manifest(store, pool.identity())
    if shards is None:
        raise UserError(f"{run}: the pool is not as the run read it; run the recipe again")
    return Context(store, plan, pool), shards


def _chosen(store: Store, shard: PoolShard, sample: float, seed: int) -> NDArray[np.int64]:
    """The rows of a shard that the run kept and the sample takes."""
    verdicts = store.table(verdicts_name(shard.index), ["uid", "dropped_by"])
    kept = pc.is_null(verdicts["dropped_by"]).to_numpy()
    if sample < 1:
        kept &= uid.keyed_hash(verdicts["uid"].combine_chunks(), seed) < np.uint64(sample * 2**64)
    return np.flatnonzero(kept)


def _read(context: Context, chosen: Sequence[tuple[PoolShard, NDArray[np.int64]]], name: str) -> Iterator[pa.Array]:
    """The column for the chosen rows, in the order of the pool."""
    for record, rows in chosen:
        with Shard(context, record) as shard:
            for start in range(0, record.rows, HEAVY_ROWS):
                stop = min(start + HEAVY_ROWS, record.rows)
                here = rows[np.searchsorted(rows, start) : np.searchsorted(rows, stop)]
                if len(here):
                    yield shard.heavy(name, start, stop).take(pa.array(here - start))


def _gathered(parts: Iterable[pa.Array], rows: int, width: int | None, stage: Stage) -> Matrix:
    """float32[n, width] of at most ``rows`` embeddings; rows of the column that have none are left out."""
    found, used = None, 0
    for part in parts:
        stage.advance(len(part))
        width = width or _width_of(part)
        if width is None:
            continue
        if found is None:
            found = _room(rows, width)
        vectors, is_good = matrix_of(part, width)
        taken = int(is_good.sum())
        found[used : used + taken] = vectors[is_good]
        used += taken
    return np.empty((0, 1), np.float32) if found is None else found[:used]


def _width_of(part: pa.Array) -> int | None:
    """The width of the first embedding, where there is one."""
    lengths = pc.list_value_length(part).drop_null()
    return next((n for n in lengths.to_pylist() if n), None)


def _room(rows: int, width: int) -> Matrix:
    """An empty matrix; raises ``UserError`` where it would not fit."""
    needed, there = int(rows * width * 4 * _SPARE), machine.memory()
    if needed > there:
        share = 0.9 * there / needed
        text = f"{rows} vectors of {width} need {needed >> 30} GiB of memory, and there are {there >> 30}"
        raise UserError(f"--sample: {text}; use a part of them, such as --sample {share:.2g}")
    return np.empty((rows, width), np.float32)
