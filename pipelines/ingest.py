"""Open a recipe's pool and bring its shards into the run: once, and again only when the pool changed."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import chain

import pyarrow as pa

from pairsieve.pipelines.pool_datacomp import Datacomp
from pairsieve.pipelines.pool_img2dataset import Img2dataset
from pairsieve.pipelines.pool_pairs import Pairs
from pairsieve.pipelines.pool_urls import Urls
from pairsieve.pipelines.pool_webdataset import Webdataset
from pairsieve.pipelines.pools import (
    Pool,
    PoolShard,
    ShardTask,
    complete,
    load_manifest,
    save_manifest,
    stamp,
    write_pairs,
)
from pairsieve.pipelines.store import Store, filesystem
from pairsieve.schemas.errors import PoolError
from pairsieve.schemas.recipe import DatacompPool, Img2datasetPool, PairsPool, Recipe, UrlsPool, WebdatasetPool

Run = Callable[[Callable[[ShardTask], PoolShard], Sequence[ShardTask]], Iterator[PoolShard]]


def open_pool(recipe: Recipe) -> Pool:
    """The pool of a recipe; raises ``PoolError`` where there is nothing to read."""
    spec = recipe.pool
    if isinstance(spec, UrlsPool):
        return Urls(spec)
    if isinstance(spec, DatacompPool):
        return Datacomp(spec)
    if isinstance(spec, PairsPool):
        return Pairs(spec)
    if isinstance(spec, WebdatasetPool):
        return Webdataset(spec)
    assert isinstance(spec, Img2datasetPool)
    return Img2dataset(spec)


@dataclass(frozen=True)
class Ingest:
    """Ingest one shard: the task that engines run."""

    pool: Pool
    store: Store

    def __call__(self, task: ShardTask) -> PoolShard:
        """Read, number and write one shard's light columns."""
        table = complete(self.pool.ingest(task), task.index, task.path)
        return write_pairs(self.store, table, task.index, task.path, task.groups)


def ingest(pool: Pool, store: Store, run: Run) -> list[PoolShard]:
    """The shards of a pool, ingested where an earlier run has not; raises ``PoolError`` for an empty pool."""
    identity = pool.identity()
    known = load_manifest(store, identity)
    if known is not None:
        return known
    store.remove("pairs")
    tasks = pool.tasks()
    if tasks is None:
        shards: Iterable[PoolShard] = _stream(pool.stream(), store)
    else:
        copied = [task for task in tasks if task.rows is None]
        shards = chain(in_place_shards(pool, tasks), run(Ingest(pool, store), copied))
    found = sorted(shards, key=lambda shard: shard.index)
    if not sum(shard.rows for shard in found):
        raise PoolError("the pool is empty: its files hold no row; check pool path")
    save_manifest(store, identity, found)
    return found


def in_place_shards(pool: Pool, tasks: Sequence[ShardTask]) -> Iterator[PoolShard]:
    """Records of the shards that need no copy: they are what their source file is, and how the recipe reads it."""
    stamps: dict[str, str] = {}
    for task in tasks:
        if task.rows is not None:
            if task.path not in stamps:
                stamps[task.path] = stamp(*filesystem(task.path))
            content = f"{stamps[task.path]}{task.groups!r}{pool.reading()}"
            yield PoolShard(task.index, task.rows, task.path, task.groups, sha256(content.encode()).hexdigest()[:32])


def _stream(tables: Iterable[pa.Table], store: Store) -> Iterator[PoolShard]:
    for i, table in enumerate(tables):
        yield write_pairs(store, complete(table, i, f"shard {i} of the pool"), i, None, ())
