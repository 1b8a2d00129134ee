"""A few rows of some shards of a pool, as small shards of their own: what a plan tries a recipe on.

The chosen shards' light columns are read whole, of a tar its index; images are left where they lie, and
rows that have some are therefore the first of their shard.
"""

from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import replace
from itertools import islice

import numpy as np
import pyarrow as pa

from pairsieve.pipelines.ingest import in_place_shards
from pairsieve.pipelines.parquet_source import open_source
from pairsieve.pipelines.parts import PartWriter, part_name
from pairsieve.pipelines.pool_urls import Urls
from pairsieve.pipelines.pools import Pool, PoolShard, ShardTask, complete, pairs_name, write_pairs
from pairsieve.pipelines.shard import Context, Shard
from pairsieve.pipelines.sizes import SMALL, spread
from pairsieve.pipelines.step import Step
from pairsieve.pipelines.store import Store
from pairsieve.schemas import columns
from pairsieve.schemas.errors import DamagedFileError

SHARDS, MOST_SHARDS = 4, 64
"""Places that a sample is taken from; more only where shards are too small."""


def take(
    pool: Pool, tasks: Sequence[ShardTask] | None, store: Store, rows: int
) -> tuple[list[PoolShard], float | None]:
    """About ``rows`` rows from evenly spread places, and the rows of a whole shard where such were read."""
    if tasks is None:
        return list(_of_list(pool, store, rows)), None
    typical = max(1, min((task.count for task in tasks[:1000] if task.count), default=rows))
    chosen = [tasks[i] for i in spread(len(tasks), min(MOST_SHARDS, max(SHARDS, -(-rows // typical))))]
    each = -(-rows // len(chosen))
    found = [_head(pool, store, task, i, each) for i, task in enumerate(chosen)]
    return [shard for shard, _ in found], sum(whole for _, whole in found) / len(found)


def _head(pool: Pool, store: Store, task: ShardTask, index: int, rows: int) -> tuple[PoolShard, int]:
    """The first rows of a shard, and how many it has."""
    if task.rows is not None:
        (whole,) = in_place_shards(pool, [task])
        return replace(whole, index=index, rows=min(rows, whole.rows)), whole.rows
    table = pool.ingest(task)
    head = complete(table.slice(0, rows), index, task.path)
    return write_pairs(store, head, index, task.path, task.groups), table.num_rows


def _of_list(pool: Pool, store: Store, rows: int) -> Iterator[PoolShard]:
    """Rows of a list that runs read from front to end; it holds no images, so that any rows will do."""
    tables = list(_row_groups(pool) if isinstance(pool, Urls) and pool.kind == "parquet" else _text(pool, rows))
    pieces = -(-SHARDS // max(1, len(tables)))
    each = -(-rows // max(1, pieces * len(tables)))
    index = 0
    for table in tables:
        for start in spread(table.num_rows, pieces):
            first = max(0, min(start - each // 2, table.num_rows - each))
            piece = complete(table.slice(first, each), index, pool.files[0])
            yield write_pairs(store, piece, index, None, ())
            index += 1


def _row_groups(pool: Urls) -> Iterator[pa.Table]:
    """Evenly spread row groups of some files."""
    places: list[ShardTask] = []
    for i in spread(len(pool.files), SHARDS):
        with open_source(pool.fs, pool.files[i]) as file:
            where = pool.fs.unstrip_protocol(pool.files[i])
            places += [ShardTask(len(places), where, (g,)) for g in range(file.metadata.num_row_groups)]
    yield from (pool.ingest(places[i]) for i in spread(len(places), SHARDS))


def _text(pool: Pool, rows: int) -> Iterator[pa.Table]:
    """All of a small list; of a large one the heads of some files."""
    if sum(int(pool.fs.info(path).get("size") or 0) for path in pool.files) <= SMALL:
        yield pa.concat_tables(pool.stream()).combine_chunks()
        return
    for i in spread(len(pool.files), SHARDS):
        only = copy(pool)
        only.files = [pool.files[i]]
        yield from islice((table.slice(0, rows) for table in only.stream()), 1)


def of_run(
    context: Context, records: Sequence[PoolShard], steps: Sequence[Step], store: Store, rows: int
) -> list[PoolShard]:
    """Head rows of shards of a run, with what these steps have measured of them: it is not measured again."""
    chosen = [records[i] for i in spread(len(records), SHARDS)]
    found = []
    for index, record in enumerate(chosen):
        with Shard(context, record) as shard:
            count = min(record.rows, -(-rows // len(chosen)))
            mini = replace(record, index=index, rows=count)
            if record.checksum:
                head = context.store.table(pairs_name(record.index)).slice(0, count)
                mini = write_pairs(store, head, index, record.media, record.groups)
            for step in steps:
                _copy(shard, step, mini, store)
            found.append(mini)
    return found


def _copy(shard: Shard, step: Step, mini: PoolShard, store: Store) -> None:
    """What a step has measured of the head; nothing where its pages prove damaged."""
    rows = pa.array(np.flatnonzero(shard.parts(step).measured[: mini.rows]), pa.int32())
    try:
        arrays = [
            (shard.heavy(n, 0, mini.rows) if n not in step.light else shard.light(n)).take(rows) for n in step.stored
        ]
    except DamagedFileError:
        return
    place = [shard.light("uid").take(rows), pa.repeat(pa.scalar(mini.index, pa.int32()), len(rows)), rows]
    with PartWriter(store, step, mini, part_name(step.id, mini.index, 0)) as writer:
        if len(rows):
            writer.write(pa.record_batch([*place, *arrays], schema=columns.scores(step.stored)))
