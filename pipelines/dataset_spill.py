"""Kept pairs of a shard as sorted runs: the first half of an external sort by hash(seed, uid).

Work files of about 128 MB, each in the order of the dataset; pairs that a step added stand beside their parents'
images.  Each kept byte is written once; memory is a run's, and one chunk of images.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pairsieve.pipelines.added import read_added
from pairsieve.pipelines.passes import stored_rows
from pairsieve.pipelines.pools import PoolShard
from pairsieve.pipelines.shard import Context, Shard
from pairsieve.pipelines.sorted_runs import SLICE, write_run
from pairsieve.pipelines.tasks import verdicts_name
from pairsieve.schemas import columns, uid
from pairsieve.schemas.errors import AccountingError

RUN_BYTES = 134_217_728
KEY = pa.field("_key", pa.uint64())
ORDER = [("_key", "ascending"), ("uid", "ascending"), ("shard", "ascending"), ("row", "ascending")]


@dataclass(frozen=True)
class Run:
    """A sorted run of kept pairs: work file, rows, bytes."""

    name: str
    rows: int
    bytes: int


@dataclass(frozen=True)
class KeptAdded:
    """Added pairs that stay, in the order of their parents."""

    table: pa.Table

    def between(self, start: int, stop: int) -> pa.Table:
        """Those whose parents are in a range of rows."""
        first, last = np.searchsorted(self.table["parent_row"].to_numpy(), [start, stop])
        return self.table.slice(first, last - first)


@dataclass
class Spill:
    """Write a shard's kept pairs as sorted runs; gives the runs."""

    context: Context
    types: Mapping[str, pa.DataType]
    folder: str

    def __call__(self, record: PoolShard) -> list[Run]:
        """The runs that a stopped run has left, or new ones."""
        done = f"{self.folder}/{record.index:05d}.json"
        if self.context.store.exists(done):
            return [Run(*run) for run in json.loads(self.context.store.read(done))]
        runs = self._sort(record)
        self.context.store.write_json(done, [[run.name, run.rows, run.bytes] for run in runs])
        return runs

    def _sort(self, record: PoolShard) -> list[Run]:
        """Read the shard forward, cutting a run whenever enough is held."""
        verdicts = self.context.store.table(verdicts_name(record.index), ["dropped_by"])
        kept = np.flatnonzero(pc.is_null(verdicts["dropped_by"]).to_numpy())
        more = self._kept_added(record, kept)
        runs: list[Run] = []
        held, size_held = list[pa.RecordBatch](), 0
        with Shard(self.context, record) as shard:
            size = stored_rows(list(self.types.values()))
            for start in range(0, record.rows, size):
                stop = min(start + size, record.rows)
                rows = kept[np.searchsorted(kept, start) : np.searchsorted(kept, stop)]
                added = None if more is None else more.between(start, stop)
                for batch in self._batches(shard, start, stop, rows, added):
                    held.append(batch)
                    size_held += batch.nbytes
                    if size_held >= RUN_BYTES:
                        runs.append(self._write(held, record.index, len(runs)))
                        held, size_held = [], 0
        return [*runs, self._write(held, record.index, len(runs))] if held else runs

    def _kept_added(self, record: PoolShard, kept: Any) -> KeptAdded | None:
        """The pairs that a step added to the shard and that stay."""
        if self.context.plan.adding is None:
            return None
        return KeptAdded(read_added(self.context.store, record.index, kept[kept >= record.rows] - record.rows))

    def _batches(
        self, shard: Shard, start: int, stop: int, own: NDArray[np.int64], added: pa.Table | None
    ) -> Iterator[pa.RecordBatch]:
        """Kept rows of a range, then pairs that were added to pairs of it, some of their images at a time."""
        if not len(own) and not added:
            return
        heavy = {n: shard.heavy(n, start, stop) for n, kind in self.types.items() if columns.is_heavy(kind)}
        sizes = row_bytes(heavy.values(), stop - start)
        for first, last in cut_by_bytes(sizes[own - start]):
            yield self._batch(shard, start, own[first:last], heavy, None)
        if added is not None:
            for first, last in cut_by_bytes(sizes[added["parent_row"].to_numpy() - start]):
                some = added.slice(first, last - first)
                yield self._batch(shard, start, some["parent_row"].to_numpy(), heavy, some)

    def _batch(
        self, shard: Shard, start: int, rows: NDArray[np.int64], heavy: Mapping[str, pa.Array], added: pa.Table | None
    ) -> pa.RecordBatch:
        """Kept rows, or added pairs by the rows of their parents."""
        take = pa.array(rows)
        found = {name: shard.light(name).take(take) for name in columns.PLACE}
        is_adding = self.context.plan.adding is not None
        for name, kind in self.types.items():
            if is_adding and name in columns.OF_ADDED:
                is_source = name == columns.TEXT_SOURCE
                found[name] = pa.repeat(pa.scalar("text"), len(rows)) if is_source else pa.nulls(len(rows), kind)
            elif name in heavy:
                found[name] = heavy[name].take(pa.array(rows - start))
            else:
                found[name] = shard.light(name).take(take)
        if columns.IMAGE in found and found[columns.IMAGE].null_count:
            raise AccountingError(f"shard {shard.record.index}: a kept pair has no image")
        if added is not None:
            found = _with_texts(found, added, self.context.plan.about_texts)
        found[KEY.name] = pa.array(uid.keyed_hash(found["uid"], self.context.plan.recipe.seed))
        return pa.record_batch(found)

    def _write(self, held: Sequence[pa.RecordBatch], shard: int, number: int) -> Run:
        table = pa.Table.from_batches(held).combine_chunks()
        table = table.take(pc.sort_indices(table, sort_keys=ORDER))
        name = f"{self.folder}/{shard:05d}-{number}"
        write_run(self.context.store, name, table.schema, table.to_batches(SLICE))
        keys = table.select([KEY.name, *columns.PLACE]).append_column("run", pa.repeat(pa.scalar(name), len(table)))
        self.context.store.write_table(f"{name}.keys.parquet", keys)
        return Run(name, table.num_rows, table.nbytes)


def _with_texts(found: Mapping[str, pa.Array], added: pa.Table, lost: Set[str]) -> dict[str, pa.Array]:
    """The columns of added pairs: their parents' but for what is about the text."""
    whole = {name: pa.nulls(len(added), a.type) if name in lost else a for name, a in found.items()}
    return whole | {n: added[n].combine_chunks().cast(found[n].type) for n in added.schema.names if n in found}


def row_bytes(arrays: Iterable[pa.Array], rows: int) -> NDArray[np.int64]:
    """Bytes of each row of some large columns, about."""
    found = np.zeros(rows, np.int64)
    for array in arrays:
        kind = array.type
        if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
            found += pc.binary_length(array).fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
        else:
            found += array.nbytes // max(1, rows)
    return found


def cut_by_bytes(sizes: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Ranges of rows of about ``RUN_BYTES`` at most, one row at least."""
    ends, first = np.cumsum(sizes), 0
    while first < len(sizes):
        before = int(ends[first - 1]) if first else 0
        last = max(first + 1, int(np.searchsorted(ends, before + RUN_BYTES, side="right")))
        yield first, last
        first = last
