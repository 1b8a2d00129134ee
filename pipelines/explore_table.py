"""A run as one DuckDB table: every candidate's light columns and verdict in the pool's order, ``rowid`` its number.

Made once, when the explorer starts, in a temporary folder: the run is only read.  Columns come shard by shard from the
run's own readers, so nothing is joined: about 4 µs a pair, and about the room of the light columns on disk.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pairsieve.filters.base import GroupFilter, NearFilter, PoolFilter, WithinFilter
from pairsieve.pipelines.added import added_name
from pairsieve.pipelines.cluster import finished
from pairsieve.pipelines.overlay import Overlay
from pairsieve.pipelines.plan import Plan
from pairsieve.pipelines.pools import PoolShard
from pairsieve.pipelines.progress import Reporter
from pairsieve.pipelines.provenance import manifest
from pairsieve.pipelines.shard import Context, Shard
from pairsieve.pipelines.sql import quote
from pairsieve.pipelines.step import Step
from pairsieve.pipelines.tasks import verdicts_name
from pairsieve.schemas import columns
from pairsieve.schemas.errors import PairsieveError, UserError
from pairsieve.schemas.run import RunManifest

Mask = NDArray[np.bool_]
PAIR = {"uid": pa.string(), "shard": pa.int32(), "row": pa.int32()}
VERDICT = {name: pa.string() for name in ("dropped_by", "reason", "duplicate_of")}


@dataclass
class Decided:
    """What a step would decide of each pair of the pool, whatever the steps before it say.

    ``known``: all that its verdict reads is stored; ``stays`` only tells where that is so.
    """

    known: Mask
    stays: Mask


@dataclass(frozen=True)
class LoadedRun:
    """A finished run in a table of a DuckDB database; ``decided`` has what a step's own columns alone decide."""

    root: str
    table: str
    context: Context
    shards: Sequence[PoolShard]
    manifest: RunManifest
    types: Mapping[str, pa.DataType]
    rows: int
    added: int
    given: Mask
    fate: NDArray[np.int16]
    decided: Mapping[str, Decided]

    @property
    def plan(self) -> Plan:
        """The plan of the run."""
        return self.context.plan


def is_alone(step: Step) -> bool:
    """Whether a pair's own columns decide, not what else is in the scope."""
    return not step.sees_scope


def is_keyed(step: Step) -> bool:
    """Whether it keeps one pair of those with an equal key: grouping again is a matter of stored keys."""
    return isinstance(step.filter, GroupFilter) and not isinstance(step.filter, NearFilter | WithinFilter)


def is_summed(step: Step) -> bool:
    """Whether a summary of small columns of the scope decides, such as a top fraction."""
    return isinstance(step.filter, PoolFilter) and step.sees_scope and not (step.derives or step.summary_reads)


def key_table(table: str, step: Step) -> str:
    """Name of the table with the keys of a step, by number of the pair."""
    return f"{table}_keys_{step.id}"


def load_run(root: str, scratch: str, con: duckdb.DuckDBPyConnection, table: str, progress: Reporter) -> LoadedRun:
    """Read a finished run into ``table`` and one table of keys a step that has such; raises ``UserError``."""
    context, shards = finished(root)
    found = manifest(context.store)
    settled = {record.id: record.settled for record in found.steps if record.settled is not None}
    context = replace(context, store=Overlay(root, scratch), settled=settled)
    loader = _Loader(context, con, table)
    rows = sum(shard.rows for shard in shards)
    with progress.stage(f"read {root}", rows) as stage, ThreadPoolExecutor(1) as ahead:
        waiting = [ahead.submit(loader.read, shard) for shard in shards[:1]]
        for i, shard in enumerate(shards):
            read = waiting.pop().result()
            if i + 1 < len(shards):
                waiting.append(ahead.submit(loader.read, shards[i + 1]))
            loader.insert(read)
            stage.advance(shard.rows)
    return LoadedRun(root, table, context, shards, found, *loader.finish(rows))


@dataclass
class _Read:
    """One shard."""

    pairs: pa.Table
    keys: Mapping[str, pa.Table]
    added: pa.Table | None
    given: Mask
    decided: Mapping[str, Decided]


class _Loader:
    """Reads shards, and inserts them in their order."""

    def __init__(self, context: Context, con: duckdb.DuckDBPyConnection, table: str) -> None:
        """The tables are made, empty."""
        self._context, self._con, self._table = context, con, table
        self._plan = context.plan
        beside = set(context.pool.beside_tables())
        self._types = {seen: kind for seen, kind in self._plan.pool_types.items() if _is_shown(kind)}
        self._types = {seen: k for seen, k in self._types.items() if self._plan.pool_names[seen] not in beside}
        for step in self._plan.steps:
            own = step.stored | {name: step.derived[name] for name in step.shown}
            self._types |= {n: kind for n, kind in own.items() if _is_shown(kind) and n not in step.keys}
        self._adds = self._plan.adding is not None
        extra = {columns.PARENT: pa.string(), columns.TEXT_SOURCE: pa.string(), columns.TEXT_SCORE: pa.float32()}
        self.types = PAIR | {n: _plain(k) for n, k in self._types.items()} | (extra if self._adds else {}) | VERDICT
        _create(con, table, self.types)
        for step in self._plan.steps:
            if is_keyed(step):
                _create(con, key_table(table, step), {"number": pa.int64()} | {k: step.stored[k] for k in step.keys})
        self._number = 0
        self._added: list[pa.Table] = []
        self._reads: list[tuple[Mask, Mapping[str, Decided]]] = []

    def read(self, record: PoolShard) -> _Read:
        """All that is wanted of a shard; verdicts as they were written."""
        with Shard(self._context, record) as shard:
            found = {name: _cast(shard.light(name), kind) for name, kind in PAIR.items()}
            found |= {name: _cast(self._column(shard, name), _plain(kind)) for name, kind in self._types.items()}
            verdicts = self._context.store.table(verdicts_name(record.index), list(VERDICT))
            verdicts = verdicts.cast(pa.schema(list(VERDICT.items())))
            if verdicts.num_rows < record.rows:
                raise UserError(
                    f"{self._context.store.root}: verdicts of shard {record.index} are cut off; run it again"
                )
            own = verdicts.slice(0, record.rows)
            pairs = pa.table({**found, **{n: own[n] for n in VERDICT}})
            decided = {step.id: self._decide(shard, step) for step in self._plan.steps}
            return _Read(
                self._ordered(pairs),
                {s.id: self._keys(shard, s) for s in self._plan.steps if is_keyed(s)},
                self._of_added(record, pairs, verdicts.slice(record.rows)),
                shard.start().alive,
                decided,
            )

    def _column(self, shard: Shard, name: str) -> pa.Array:
        step = self._plan.producer(name)
        is_list = step is not None and name in step.stored and name not in step.light
        return shard.heavy(name, 0, shard.record.rows, "explore") if is_list else shard.light(name)

    def _ordered(self, pairs: pa.Table) -> pa.Table:
        """All columns of the table; of the pool's own pairs none has a parent."""
        for name in self.types:
            if name not in pairs.schema.names:
                pairs = pairs.append_column(name, pa.nulls(pairs.num_rows, self.types[name]))
        return pairs.select(list(self.types))

    def _of_added(self, record: PoolShard, pairs: pa.Table, verdicts: pa.Table) -> pa.Table | None:
        """The pairs that a step added to the shard's: all but what is of their text they have from their parents."""
        if not self._adds or not verdicts.num_rows:
            return None
        added = self._context.store.table(added_name(record.index))
        parents = pairs.take(added["parent_row"])
        own = {n: added[n].cast(self.types[n]) for n in added.schema.names if n in self.types}
        nothing = {n: pa.nulls(len(parents), self.types[n]) for n in self._plan.about_texts if n in self.types}
        found = {n: parents[n] for n in parents.schema.names} | nothing | own | {n: verdicts[n] for n in VERDICT}
        return pa.table({name: found[name] for name in self.types})

    def _keys(self, shard: Shard, step: Step) -> pa.Table:
        """The keys of the pairs that were measured; ``number`` is the row of the shard."""
        rows = np.flatnonzero(shard.parts(step).measured)
        keys = {key: shard.light(key).take(pa.array(rows)) for key in step.keys}
        return pa.table({"number": pa.array(rows, pa.int64()), **keys})

    def _decide(self, shard: Shard, step: Step) -> Decided:
        known = np.ones(shard.record.rows, bool)
        for producer in {
            p.id: p for p in map(self._plan.producer, (*step.keep_reads, *step.summary_reads)) if p
        }.values():
            known &= shard.parts(producer).measured if producer.measures else True
        if step.measures:
            known &= shard.parts(step).measured
        stays = np.zeros(shard.record.rows, bool)
        if is_alone(step):
            rows = np.flatnonzero(known)
            try:
                stays[rows] = shard.decide(step, rows, {}).is_null().to_numpy(zero_copy_only=False)
            except PairsieveError:
                raise
            except Exception as error:  # whatever a filter of the user's raises
                text = str(error).splitlines()[0] if str(error) else type(error).__name__
                raise PairsieveError(f"{step.id}: keep() failed on stored scores: {text}") from error
        return Decided(known, stays)

    def insert(self, read: _Read) -> None:
        """Append a shard that was read."""
        _insert(self._con, self._table, read.pairs)
        for step in self._plan.steps:
            if is_keyed(step):
                keys = read.keys[step.id]
                numbers = pa.array(keys["number"].to_numpy() + self._number)
                _insert(self._con, key_table(self._table, step), keys.set_column(0, "number", numbers))
        self._number += read.pairs.num_rows
        if read.added is not None:
            self._added.append(read.added)
        self._reads.append((read.given, read.decided))

    def finish(
        self, rows: int
    ) -> tuple[Mapping[str, pa.DataType], int, int, Mask, NDArray[np.int16], Mapping[str, Decided]]:
        """Append what was added; gives the rest of a ``LoadedRun``."""
        for table in self._added:
            _insert(self._con, self._table, table)
        given = np.concatenate([np.zeros(0, bool), *(given for given, _ in self._reads)])
        decided = {}
        for step in self._plan.steps:
            known = np.concatenate([np.zeros(0, bool), *(d[step.id].known for _, d in self._reads)])
            stays = np.concatenate([np.zeros(0, bool), *(d[step.id].stays for _, d in self._reads)])
            decided[step.id] = Decided(known, stays)
        self._reads = []
        added = sum(table.num_rows for table in self._added)
        return self.types, rows, added, given, self._fates(rows), decided

    def _fates(self, rows: int) -> NDArray[np.int16]:
        """The place of the step that dropped each pair of the pool; the number of steps: kept; -1: the pool did."""
        names = ["pool", *(step.id for step in self._plan.steps)]
        cases = " ".join(f"WHEN '{name}' THEN {i - 1}" for i, name in enumerate(names))
        sql = f"SELECT CAST(CASE dropped_by {cases} ELSE {len(names) - 1} END AS SMALLINT) AS fate FROM {self._table}"
        found = self._con.sql(sql).to_arrow_table()["fate"].to_numpy()
        return np.asarray(found[:rows], np.int16)


def _is_shown(kind: pa.DataType) -> bool:
    """Whether the table has a column of this type: no bytes and no embeddings."""
    return not columns.is_heavy(kind) or columns.is_listed(kind)


def _plain(kind: pa.DataType) -> pa.DataType:
    """The type as DuckDB takes it: half floats widened, dictionaries spelled out."""
    if kind == pa.float16():
        return pa.float32()
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _cast(values: pa.Array, kind: pa.DataType) -> pa.Array:
    return values if values.type == kind else values.cast(kind)


def _create(con: duckdb.DuckDBPyConnection, table: str, types: Mapping[str, pa.DataType]) -> None:
    empty = pa.schema(list(types.items())).empty_table()
    con.register("incoming", empty)
    con.execute(f"CREATE TABLE {quote(table)} AS SELECT * FROM incoming")
    con.unregister("incoming")


def _insert(con: duckdb.DuckDBPyConnection, table: str, rows: pa.Table) -> None:
    con.register("incoming", rows)
    con.execute(f"INSERT INTO {quote(table)} SELECT * FROM incoming")
    con.unregister("incoming")


def column_array(con: duckdb.DuckDBPyConnection, loaded: LoadedRun, name: str) -> pa.Array:
    """A column of the pool's own pairs as filters saw it, in the order of the table."""
    sql = f"SELECT {quote(name)} AS value FROM {quote(loaded.table)} LIMIT {loaded.rows}"
    kind = {"uid": pa.string(), **loaded.plan.types}[name]
    return _cast(con.sql(sql).to_arrow_table()["value"].combine_chunks(), kind)
