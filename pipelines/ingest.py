"""Open a recipe's pool and bring its shards into the run: once, and again only when the pool changed."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa

from pairsieve.pipelines.pool_img2dataset import Img2dataset
from pairsieve.pipelines.pool_pairs import Pairs
from pairsieve.pipelines.pool_urls import Urls
from pairsieve.pipelines.pool_webdataset import Webdataset
from pairsieve.pipelines.pools import Pool, PoolShard, ShardTask, complete, load_manifest, save_manifest, write_pairs
from pairsieve.pipelines.store import Store
from pairsieve.schemas.errors import PoolError
from pairsieve.schemas.recipe import Img2datasetPool, PairsPool, Recipe, UrlsPool, WebdatasetPool

Run = Callable[[Callable[[ShardTask], PoolShard], Sequence[ShardTask]], Iterator[PoolShard]]


def open_pool(recipe: Recipe) -> Pool:
    """The pool of a recipe; raises ``PoolError`` where there is nothing to read."""
    spec = recipe.pool
    if isinstance(spec, UrlsPool):
        return Urls(spec)
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
    shards = _stream(pool.stream(), store) if tasks is None else run(Ingest(pool, store), tasks)
    found = sorted(shards, key=lambda shard: shard.index)
    if not sum(shard.rows for shard in found):
        raise PoolError("the pool is empty: its files hold no row")
    save_manifest(store, identity, found)
    return found


def _stream(tables: Iterable[pa.Table], store: Store) -> Iterator[PoolShard]:
    for i, table in enumerate(tables):
        yield write_pairs(store, complete(table, i, f"shard {i} of the pool"), i, None, ())
