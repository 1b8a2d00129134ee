"""One shard of a run: load columns, replay verdicts, and run a pass over it.

Verdicts are never stored between passes: they are comparisons over stored columns, replayed
wherever they are needed, so they always agree with the recipe at hand.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pairsieve.filters.base import AnyFilter, Filter, GroupFilter, Opened, PoolFilter, batches
from pairsieve.pipelines.parts import Parts, PartWriter, scatter
from pairsieve.pipelines.plan import Plan, Step
from pairsieve.pipelines.pools import ImageReader, Pool, PoolShard, pairs_name
from pairsieve.pipelines.store import Store
from pairsieve.schemas import columns
from pairsieve.schemas.errors import AccountingError, PairsieveError

ALIVE = -1
POOL = -2
"""Values of ``Frame.dropped_by`` besides the index of a step."""

HEAVY_ROWS = 256
"""Rows whose stored images are held in memory at once."""

Rows = NDArray[np.int64]


@dataclass
class Context:
    """What every task of a run needs.  Travels to workers; opened models stay where they are."""

    store: Store
    plan: Plan
    pool: Pool
    settled: dict[str, dict[str, Any]] = field(default_factory=dict)
    opened: Opened = field(default_factory=Opened)

    def __getstate__(self) -> dict[str, Any]:
        """Without what is opened."""
        return {**self.__dict__, "opened": Opened()}


@dataclass
class Frame:
    """The verdicts so far, by row of the shard: the step's index (or ALIVE, POOL), and the reason.

    Reasons are few, so a row holds an index into ``reasons``; ``reasons[0]`` is None.
    """

    dropped_by: NDArray[np.int16]
    reason: NDArray[np.int32]
    reasons: list[str | None]

    @classmethod
    def of_pool(cls, reason: pa.Array) -> "Frame":
        """The verdicts before the first step: a row with a reason is one that the pool could not give."""
        frame = cls(np.full(len(reason), ALIVE, np.int16), np.zeros(len(reason), np.int32), [None])
        frame.drop(np.arange(len(reason)), POOL, reason)
        return frame

    @property
    def alive(self) -> NDArray[np.bool_]:
        """Rows that no step has dropped."""
        return np.asarray(self.dropped_by == ALIVE)

    def drop(self, rows: Rows, step: int, reasons: pa.Array) -> None:
        """Record the verdict of a step on some rows; a null reason keeps."""
        if reasons.null_count == len(reasons):
            return
        encoded = reasons.dictionary_encode()
        known = {reason: i for i, reason in enumerate(self.reasons)}
        codes = np.array([known.setdefault(r, len(known)) for r in encoded.dictionary.to_pylist()], np.int32)
        self.reasons = list(known)
        lost = np.asarray(pc.is_valid(reasons).to_numpy(zero_copy_only=False), bool)
        self.dropped_by[rows[lost]] = step
        self.reason[rows[lost]] = codes[pc.drop_null(encoded.indices).to_numpy()]


class Shard:
    """Columns of one shard, of the pool and of every step, loaded when they are first asked for."""

    def __init__(self, context: Context, record: PoolShard) -> None:
        """Open nothing yet."""
        self.context, self.record = context, record
        self._light: dict[str, pa.Array] = {}
        self._parts: dict[str, Parts] = {}
        self._images: ImageReader | None = None

    def __enter__(self) -> "Shard":
        """The shard."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        """Close all files."""
        for parts in self._parts.values():
            parts.close()
        if self._images is not None:
            self._images.close()

    def parts(self, step: Step) -> Parts:
        """What a step has measured so far."""
        if step.id not in self._parts:
            self._parts[step.id] = Parts(self.context.store, step, self.record)
        return self._parts[step.id]

    def pairs(self, names: list[str]) -> pa.Table:
        """Light columns of the pool."""
        return self.context.store.table(pairs_name(self.record.index), names)

    def light(self, name: str) -> pa.Array:
        """A light column for the whole shard, null where it is not measured."""
        if name not in self._light:
            step = self.context.plan.producer(name)
            if step is None:
                stored = self.context.plan.pool_names.get(name, name)
                self._light[name] = self.pairs([stored])[stored].combine_chunks()
            else:
                self._light[name] = self.parts(step).light(name)
        return self._light[name]

    def heavy(self, name: str, start: int, stop: int) -> pa.Array:
        """A heavy column for a range of rows; ranges must grow."""
        step = self.context.plan.producer(name)
        if step is not None:
            return self.parts(step).heavy(name, start, stop)
        if name != columns.IMAGE:  # a list or bytes column of the pool lies in pairs/
            return self.light(name).slice(start, stop - start)
        if self._images is None:
            self._images = self.context.pool.images(self.record, self.pairs)
        assert self._images is not None, name
        return self._images.read(start, stop)

    def start(self) -> Frame:
        """The verdicts before the first step."""
        return Frame.of_pool(self.pairs(["reason"])["reason"].combine_chunks())

    def replay(self, until: int) -> Frame:
        """The verdicts of the first ``until`` steps."""
        frame = self.start()
        for k, step in enumerate(self.context.plan.steps[:until]):
            rows = np.flatnonzero(frame.alive)
            if step.measures and not self.parts(step).measured[rows].all():
                raise AccountingError(
                    f"shard {self.record.index}: {step.id} has not measured every pair that reached it"
                )
            frame.drop(rows, k, self.decide(step, rows, {}))
        return frame

    def decision_batch(self, step: Step, rows: Rows, fresh: Mapping[str, pa.Array]) -> pa.RecordBatch:
        """The columns that ``keep`` and ``summarize`` see; ``fresh`` holds columns just measured for ``rows``."""
        take = pa.array(rows)
        found: dict[str, pa.Array] = {"uid": self.light("uid").take(take)}
        for name in step.keep_reads:
            found[name] = self.light(name).take(take) if name not in fresh else fresh[name]
        for stored, own in step.light.items():
            found[own] = fresh[stored] if stored in fresh else self.light(stored).take(take)
        return pa.record_batch(found)

    def decide(self, step: Step, rows: Rows, fresh: Mapping[str, pa.Array]) -> pa.Array:
        """Why each of the rows goes; null = it stays."""
        if isinstance(step.filter, GroupFilter):
            return self._duplicate_reasons(step, rows)
        batch = self.decision_batch(step, rows, fresh)
        made = self.context.opened.get(step.id, step.filter) if not step.filter.loads_model else step.filter
        return reasons(_keep(made, batch, self.context.settled.get(step.id, {})), len(rows), step)

    def _duplicate_reasons(self, step: Step, rows: Rows) -> pa.Array:
        name = derived_name(step.id, self.record.index)
        if not self.context.store.exists(name):
            return pa.nulls(len(rows), pa.string())
        table = self.context.store.table(name, ["row", "duplicate_by"])
        reason = table["duplicate_by"].combine_chunks()
        return scatter([reason], [table["row"].to_numpy()], 0, self.record.rows, pa.string()).take(pa.array(rows))


def derived_name(step: str, shard: int) -> str:
    """File of what depends on other pairs: rebuilt by every run."""
    return f"derived/{step}/{shard:05d}.parquet"


def _keep(made: AnyFilter, batch: pa.RecordBatch, settled: Mapping[str, Any]) -> pa.Array:
    if isinstance(made, PoolFilter):
        return made.keep(batch, settled)
    assert isinstance(made, Filter)
    return made.keep(batch)


def reasons(verdict: Any, rows: int, step: Step) -> pa.Array:
    """A filter's verdict as reasons; raises ``PairsieveError`` where it is neither kind that the contract allows."""
    if isinstance(verdict, pa.ChunkedArray):
        verdict = verdict.combine_chunks()
    if not isinstance(verdict, pa.Array) or len(verdict) != rows:
        raise PairsieveError(f"{step.id}: keep() must return an Arrow array with one value a pair")
    if pa.types.is_boolean(verdict.type):
        said = pc.if_else(verdict, pa.scalar(None, pa.string()), pa.scalar("false"))
        return pc.if_else(pc.is_null(verdict), pa.scalar("null"), said)
    if pa.types.is_string(verdict.type) or pa.types.is_large_string(verdict.type) or pa.types.is_null(verdict.type):
        return verdict.cast(pa.string())
    raise PairsieveError(f"{step.id}: keep() must return booleans or reasons (strings), not {verdict.type}")


@dataclass
class Chunk:
    """Rows ``start`` to ``stop`` of a shard during a pass, with the columns measured in this chunk."""

    shard: Shard
    start: int
    stop: int
    fresh: dict[str, tuple[Rows, pa.Array]] = field(default_factory=dict)
    _heavy: dict[str, pa.Array] = field(default_factory=dict)

    def column(self, name: str, rows: Rows) -> pa.Array:
        """A column for some rows of the chunk."""
        kind = self.shard.context.plan.types.get(name, pa.string())
        if columns.is_heavy(kind):
            return self._whole_heavy(name).take(pa.array(rows - self.start))
        stored = self.shard.light(name)
        if name not in self.fresh:
            return stored.take(pa.array(rows))
        old = stored.slice(self.start, self.stop - self.start)
        return self._overlay(name, old).take(pa.array(rows - self.start))

    def _whole_heavy(self, name: str) -> pa.Array:
        if name not in self._heavy:
            old = self.shard.heavy(name, self.start, self.stop)
            self._heavy[name] = self._overlay(name, old) if name in self.fresh else old
        return self._heavy[name]

    def _overlay(self, name: str, old: pa.Array) -> pa.Array:
        """Stored values with the fresh ones laid over them."""
        rows, values = self.fresh[name]
        if old.null_count == len(old):
            return scatter([values], [rows], self.start, self.stop, values.type)
        index = np.arange(len(old))
        index[rows - self.start] = len(old) + np.arange(len(rows))
        return pa.concat_arrays([old, values]).take(pa.array(index))


class PassRunner:
    """Measures what a pass lacks on one shard, and commits each step's new part."""

    def __init__(self, shard: Shard, steps: Sequence[tuple[int, Step]]) -> None:
        """Replay what comes before the pass."""
        self.shard, self.steps = shard, steps
        self.frame = shard.replay(steps[0][0])
        self.writers: dict[str, PartWriter] = {}

    def run(self) -> dict[str, int]:
        """Rows newly measured by each step."""
        rows = self._chunk_rows()
        with ExitStack() as stack:
            for _, step in self.steps:
                if step.measures:
                    name = self.shard.parts(step).next_name
                    writer = PartWriter(self.shard.context.store, step, self.shard.record, name)
                    self.writers[step.id] = stack.enter_context(writer)
            for start in range(0, self.shard.record.rows, rows):
                self._chunk(Chunk(self.shard, start, min(start + rows, self.shard.record.rows)))
        return {step: writer.rows for step, writer in self.writers.items()}

    def _chunk_rows(self) -> int:
        """As many rows as any step likes at once, but few where images come from a file into memory."""
        wanted = max((step.filter.batch_rows for _, step in self.steps if step.measures), default=131_072)
        fresh = {name for _, step in self.steps for name in step.stored}
        types = self.shard.context.plan.types
        loads = any(
            columns.is_heavy(types.get(name, pa.string())) and name not in fresh
            for _, step in self.steps
            for name in step.reads
        )
        return min(wanted, HEAVY_ROWS) if loads else wanted

    def _chunk(self, chunk: Chunk) -> None:
        for k, step in self.steps:
            if step.measures:
                self._measure(chunk, step)
            if not step.is_barrier:
                rows = chunk.start + np.flatnonzero(self.frame.alive[chunk.start : chunk.stop])
                fresh = {n: chunk.column(n, rows) for n in (*step.keep_reads, *step.light) if n in chunk.fresh}
                self.frame.drop(rows, k, self.shard.decide(step, rows, fresh))

    def _measure(self, chunk: Chunk, step: Step) -> None:
        scope = slice(chunk.start, chunk.stop)
        wanted = self.frame.dropped_by[scope] != POOL if step.of_pool else self.frame.alive[scope]
        rows = chunk.start + np.flatnonzero(wanted & ~self.shard.parts(step).measured[scope])
        if not len(rows):
            return
        batch = pa.record_batch({name: chunk.column(name, rows) for name in ("uid", *step.reads)})
        made = self.shard.context.opened.get(step.id, step.filter)
        measured = _score(made, step, batch)
        for stored, values in measured.items():
            chunk.fresh[stored] = (rows, values)
        head = [
            batch["uid"],
            pa.repeat(pa.scalar(self.shard.record.index, pa.int32()), len(rows)),
            pa.array(rows, pa.int32()),
        ]
        arrays = [*head, *measured.values()]
        self.writers[step.id].write(pa.record_batch(arrays, schema=columns.scores(step.stored)))


def _score(made: AnyFilter, step: Step, batch: pa.RecordBatch) -> dict[str, pa.Array]:
    """A step's columns under their stored names; raises ``PairsieveError`` where the filter breaks its contract."""
    pieces = [made.score(part) for part in batches(batch, made.batch_rows)]
    found: dict[str, pa.Array] = {}
    for own, (stored, kind) in step.writes.items():
        try:
            arrays = [_plain(piece[own]).cast(kind) for piece in pieces]
        except (KeyError, pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise PairsieveError(f"{step.id}: score() must give {own!r} as {kind}: {error}") from None
        found[stored] = pa.concat_arrays(arrays)
        if len(found[stored]) != batch.num_rows:
            raise PairsieveError(
                f"{step.id}: score() gave {len(found[stored])} values of {own!r} for {batch.num_rows} pairs"
            )
    return found


def _plain(values: Any) -> pa.Array:
    return values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
