"""One shard of a run: load columns and replay verdicts.

Verdicts are never stored between passes: they are comparisons over stored columns, replayed
wherever they are needed, so they always agree with the recipe at hand.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pairsieve.filters.base import AnyFilter, Filter, GroupFilter, Opened, PoolFilter, first_reason
from pairsieve.pipelines.parts import Parts, scatter
from pairsieve.pipelines.plan import Plan
from pairsieve.pipelines.pools import HeavyReader, LightReader, PairsFile, Pool, PoolShard, Sources
from pairsieve.pipelines.step import Step
from pairsieve.pipelines.store import Store
from pairsieve.schemas import columns
from pairsieve.schemas.errors import AccountingError, DamagedFileError, PairsieveError

ALIVE = -1
POOL = -2
LEFT = -3
"""Values of ``Frame.dropped_by`` besides the index of a step; ``LEFT``: a step left the pair, until a later pass."""

HEAVY_ROWS = 256
"""Rows whose stored images are held in memory at once."""

Rows = NDArray[np.int64]


@dataclass
class Context:
    """What every task of a run needs.  Travels to workers; opened models and files stay where they are."""

    store: Store
    plan: Plan
    pool: Pool
    settled: dict[str, dict[str, Any]] = field(default_factory=dict)
    opened: Opened = field(default_factory=Opened)
    sources: Sources = field(default_factory=Sources)

    def __getstate__(self) -> dict[str, Any]:
        """Without what is opened."""
        return {**self.__dict__, "opened": Opened(), "sources": Sources()}


@dataclass
class Frame:
    """The verdicts so far, by row of the shard: the step's index (or ALIVE, POOL), and the reason.

    Reasons are few, so a row holds an index into ``reasons``; ``reasons[0]`` is None.
    """

    dropped_by: NDArray[np.int16]
    reason: NDArray[np.int32]
    reasons: list[str | None]

    @classmethod
    def of_rows(cls, rows: int) -> "Frame":
        """All alive."""
        return cls(np.full(rows, ALIVE, np.int16), np.zeros(rows, np.int32), [None])

    @property
    def alive(self) -> NDArray[np.bool_]:
        """Rows that no step has dropped."""
        return np.asarray(self.dropped_by == ALIVE)

    def encoded_reasons(self) -> pa.DictionaryArray:
        """The reason of every row; the dictionary is sorted, so that it tells nothing of the order of the work."""
        used = [int(code) for code in np.flatnonzero(np.bincount(self.reason)) if code]
        used.sort(key=lambda code: str(self.reasons[code]))
        place = np.full(len(self.reasons), -1, np.int32)
        place[used] = np.arange(len(used))
        code = place[self.reason]
        names = pa.array([self.reasons[i] for i in used], pa.string())
        return pa.DictionaryArray.from_arrays(pa.array(code, mask=code < 0), names)

    def drop(self, rows: Rows, step: int, reasons: pa.Array) -> None:
        """Record the verdict of a step on some rows; a null reason keeps."""
        if reasons.null_count == len(reasons):
            return
        encoded = reasons if pa.types.is_dictionary(reasons.type) else reasons.dictionary_encode()
        known = {reason: i for i, reason in enumerate(self.reasons)}
        codes = np.array([known.setdefault(r, len(known)) for r in encoded.dictionary.to_pylist()], np.int32)
        self.reasons = list(known)
        lost = rows[pc.is_valid(reasons).to_numpy(zero_copy_only=False)]
        self.dropped_by[lost] = step
        self.reason[lost] = codes[pc.drop_null(encoded.indices).to_numpy()]


class Shard:
    """Columns of one shard, of the pool and of every step, loaded when they are first asked for."""

    def __init__(self, context: Context, record: PoolShard) -> None:
        """Open nothing yet."""
        self.context, self.record = context, record
        self._light: dict[str, pa.Array] = {}
        self._parts: dict[str, Parts] = {}
        self._pairs: LightReader | None = None
        self._readers: dict[tuple[str, str], HeavyReader] = {}

    def __enter__(self) -> "Shard":
        """The shard."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        """Close all files."""
        for parts in self._parts.values():
            parts.close()
        for reader in self._readers.values():
            reader.close()
        if self._pairs is not None:
            self._pairs.close()

    def parts(self, step: Step) -> Parts:
        """What a step has measured so far."""
        if step.id not in self._parts:
            self._parts[step.id] = Parts(self.context.store, step, self.record)
        return self._parts[step.id]

    def pairs(self, names: list[str]) -> pa.Table:
        """Light columns of the pool, by its own names."""
        if self._pairs is None:
            is_copied = bool(self.record.checksum)
            self._pairs = PairsFile(self.context.store, self.record) if is_copied else self._in_place()
        return self._pairs.read(names)

    def _in_place(self) -> LightReader:
        return self.context.pool.light(self.record, self.context.sources)

    def light(self, name: str) -> pa.Array:
        """A light column for the whole shard, null where it is not measured."""
        if name not in self._light:
            step = self.context.plan.producer(name)
            if step is not None and name in step.derived:
                self._light |= self._derived(step)
            else:
                self._light[name] = self._of_pool(name) if step is None else self.parts(step).light(name)
        return self._light[name]

    def _derived(self, step: Step) -> dict[str, pa.Array]:
        """All that a pool filter derived, null outside its scope."""
        name = derived_name(step.id, self.record.index)
        if not self.context.store.exists(name):  # no pair of the shard is in the scope
            return {stored: pa.nulls(self.record.rows, kind) for stored, kind in step.derived.items()}
        table = self.context.store.table(name, ["row", *step.derived])
        places = [table["row"].to_numpy()]
        return {
            stored: scatter([table[stored].combine_chunks()], places, 0, self.record.rows, kind)
            for stored, kind in step.derived.items()
        }

    def _of_pool(self, name: str) -> pa.Array:
        if name == columns.SHARD.name:
            return pa.repeat(pa.scalar(self.record.index, pa.int32()), self.record.rows)
        if name == columns.ROW.name:
            return pa.array(np.arange(self.record.rows, dtype=np.int32))
        stored = self.context.plan.pool_names.get(name, name)
        return self.pairs([stored])[stored].combine_chunks()

    def heavy(self, name: str, start: int, stop: int, by: str = "") -> pa.Array:
        """A heavy column for a range of rows; ranges must grow, for each who reads."""
        step = self.context.plan.producer(name)
        if step is not None and name not in step.derived:
            return self._stored(step, name, start, stop, by)
        if step is None and (by, name) not in self._readers and (opened := self._reader(name)) is not None:
            self._readers[by, name] = opened
        if (by, name) in self._readers:
            return self._readers[by, name].read(start, stop)
        return self.light(name).slice(start, stop - start)  # a list or bytes column of the pool's tables, or derived

    def _reader(self, name: str) -> HeavyReader | None:
        """A reader of the pool's images or features."""
        pool, stored = self.context.pool, self.context.plan.pool_names.get(name, name)
        return pool.images(self.record, self.pairs) if name == columns.IMAGE else pool.features(self.record, stored)

    def _stored(self, step: Step, name: str, start: int, stop: int, by: str) -> pa.Array:
        """A heavy column that a step stored; raises ``DamagedFileError``, and removes it, where pages are damaged."""
        try:
            return self.parts(step).heavy(name, start, stop, by)
        except (pa.ArrowException, OSError) as error:
            self.parts(step).remove()
            text = str(error).split("\n")[0]
            raise DamagedFileError(f"scores/{step.id}, shard {self.record.index:05d}: {text}") from None

    def start(self) -> Frame:
        """The verdicts before the first step: a row with a reason is one that the pool could not give."""
        frame = Frame.of_rows(self.record.rows)
        if self.record.checksum:  # a shard without a file of its own has no such row
            frame.drop(np.arange(self.record.rows), POOL, self.light("reason"))
        return frame

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

    def decision_batch(
        self, step: Step, rows: Rows, fresh: Mapping[str, pa.Array], with_derived: bool = False
    ) -> pa.RecordBatch:
        """The small columns that ``keep`` and ``summarize`` see; ``fresh`` are those just measured for ``rows``."""
        wanted: dict[str, str | None] = {**dict.fromkeys(step.keep_reads), **step.light}
        wanted |= {stored: own for own, (stored, _) in step.derives.items()} if with_derived else {}
        found = {}
        for stored, own in wanted.items():
            found[own or stored] = fresh[stored] if stored in fresh else at(self.light(stored), rows)
        return _batch(found, len(rows))

    def decide(self, step: Step, rows: Rows, fresh: Mapping[str, pa.Array]) -> pa.Array:
        """Why each of the rows goes; null = it stays."""
        if isinstance(step.filter, GroupFilter):
            return self._duplicate_reasons(step, rows)
        batch = self.decision_batch(step, rows, fresh, with_derived=True)
        made = self.context.opened.get(step.id, step.filter) if not step.filter.loads_model else step.filter
        return reasons(_keep(made, batch, self.context.settled.get(step.id, {})), len(rows), step)

    def _duplicate_reasons(self, step: Step, rows: Rows) -> pa.Array:
        name = derived_name(step.id, self.record.index)
        if not self.context.store.exists(name):
            return pa.nulls(len(rows), pa.string())
        table = self.context.store.table(name, ["row", "duplicate_by"])
        reason = table["duplicate_by"].combine_chunks()
        return scatter([reason], [table["row"].to_numpy()], 0, self.record.rows, pa.string()).take(pa.array(rows))


def at(values: pa.Array, rows: Rows) -> pa.Array:
    """The values of some ascending rows; rows without a gap are not copied."""
    if len(rows) and int(rows[-1]) - int(rows[0]) + 1 == len(rows):
        return values.slice(int(rows[0]), len(rows))
    return values.take(pa.array(rows))


def derived_name(step: str, shard: int) -> str:
    """File of what depends on other pairs: rebuilt by every run."""
    return f"derived/{step}/{shard:05d}.parquet"


def _batch(found: Mapping[str, pa.Array], rows: int) -> pa.RecordBatch:
    """A batch that knows its length even where a verdict needs no column at all."""
    if found:
        return pa.record_batch(dict(found))
    return pa.record_batch([pa.nulls(rows)], names=["_"])


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
        return first_reason(rows, (pc.is_null(verdict), "null"), (pc.invert(verdict), "false"))
    if pa.types.is_dictionary(verdict.type) and pa.types.is_string(verdict.type.value_type):
        return verdict
    if pa.types.is_string(verdict.type) or pa.types.is_large_string(verdict.type) or pa.types.is_null(verdict.type):
        return verdict.cast(pa.string())
    raise PairsieveError(f"{step.id}: keep() must return booleans or reasons (strings), not {verdict.type}")
