"""The shard functions that engines run: the same ones, whatever the engine.

Each is a picklable object called with one shard's record; what it returns is small.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pairsieve.filters.base import GroupFilter, NearFilter, WithinFilter
from pairsieve.pipelines import clusters, pool_rounds, within
from pairsieve.pipelines.added import Added, added_name, make_added, with_added
from pairsieve.pipelines.costs import Cost
from pairsieve.pipelines.parts import scatter
from pairsieve.pipelines.passes import PassRunner
from pairsieve.pipelines.pools import PoolShard
from pairsieve.pipelines.shard import ALIVE, Context, Frame, Shard, at, derived_name
from pairsieve.pipelines.step import Step
from pairsieve.pipelines.subset import write_records
from pairsieve.schemas import columns, uid


@dataclass(frozen=True)
class PassRecord:
    """What a pass did on a shard: pairs still alive at its end, what each step newly measured, left and noticed."""

    alive: int
    measured: Mapping[str, Cost]
    left: Mapping[str, int]
    noticed: Mapping[str, pa.Table]


@dataclass
class ScorePass:
    """Measure what one pass lacks on a shard; with ``may_leave`` steps may leave pairs that take long."""

    context: Context
    steps: range
    may_leave: bool = False

    def __call__(self, record: PoolShard) -> PassRecord:
        """Run and commit."""
        with Shard(self.context, record) as shard:
            runner = PassRunner(shard, [(k, self.context.plan.steps[k]) for k in self.steps], self.may_leave)
            measured = runner.run()
            return PassRecord(int(runner.frame.alive.sum()), measured, runner.left, runner.noticed())


@dataclass
class Summarize:
    """One round of a pool filter on a shard; gives the shard's summary."""

    context: Context
    step: int

    def __call__(self, record: PoolShard) -> Any:
        """Summarize the step's scope."""
        step = self.context.plan.steps[self.step]
        with Shard(self.context, record) as shard:
            return pool_rounds.summarize(shard, step, _scope(shard, self.step))


@dataclass
class Derive:
    """Write what a pool filter gives each pair of its scope in a shard."""

    context: Context
    step: int

    def __call__(self, record: PoolShard) -> None:
        """Derive and write."""
        with Shard(self.context, record) as shard:
            pool_rounds.derive(shard, self.context.plan.steps[self.step], _scope(shard, self.step))


@dataclass
class Candidates:
    """Write the keys of the pairs that reach a group filter, for the grouping; gives their number."""

    context: Context
    step: int

    def __call__(self, record: PoolShard) -> int:
        """Write one work file; it is removed after the grouping."""
        with Shard(self.context, record) as shard:
            rows = _scope(shard, self.step)
            write_candidates(shard, self.context.plan.steps[self.step], rows)
        return len(rows)


def write_candidates(shard: Shard, step: Step, rows: NDArray[np.int64]) -> None:
    """Write the keys of some rows as a work file."""
    if isinstance(step.filter, NearFilter):
        clusters.write_keys(shard, step, rows, work_name(step, shard.record.index))
        return
    if isinstance(step.filter, WithinFilter):
        within.write_members(shard, step, rows, work_name(step, shard.record.index))
        return
    names = [*columns.PLACE, *step.stored, *(n for n in step.keep_reads if n not in columns.PLACE)]
    take = pa.array(rows)
    table = pa.table({name: shard.light(name).take(take) for name in names})
    shard.context.store.write_table(work_name(step, shard.record.index), table)


def work_name(step: Step, shard: int) -> str:
    """Work file of a group filter."""
    return f"_work/{step.id}/{shard:05d}.parquet"


def _scope(shard: Shard, k: int) -> NDArray[np.int64]:
    """The rows that a pool or group filter looks at: survivors; ``of: pool``, all that the pool could give."""
    step = shard.context.plan.steps[k]
    if step.of_pool and not isinstance(step.filter, GroupFilter):
        return np.flatnonzero(shard.start().alive)
    return np.flatnonzero(shard.replay(k).alive)


@dataclass(frozen=True)
class Tally:
    """Verdicts of a shard, or of many: candidates of the pool, kept, and drops by (step, reason); pairs ``added``.

    ``kept_digest`` is a sum of hashes over the kept pairs and their places, so it has no order.
    """

    rows: int
    kept: int
    dropped: Mapping[tuple[str, str], int]
    kept_digest: int = 0
    added: int = 0

    def __add__(self, other: "Tally") -> "Tally":
        """Both together."""
        dropped = dict(Counter(self.dropped) + Counter(other.dropped))
        digest = (self.kept_digest + other.kept_digest) % 2**64
        return Tally(self.rows + other.rows, self.kept + other.kept, dropped, digest, self.added + other.added)


@dataclass(frozen=True)
class VerdictRecord:
    """What the last stage did on a shard: tally, records in the subset, what each step newly measured and noticed."""

    tally: Tally
    records: int
    measured: Mapping[str, Cost]
    noticed: Mapping[str, pa.Table]


@dataclass
class Verdicts:
    """Run the last pass on a shard, where it is still to run, and write the verdicts: one row per candidate."""

    context: Context
    steps: range

    def __call__(self, record: PoolShard) -> VerdictRecord:
        """Measure, decide, write."""
        names = [step.id for step in self.context.plan.steps]
        with Shard(self.context, record) as shard:
            measured: Mapping[str, Cost] = {}
            noticed: Mapping[str, pa.Table] = {}
            if self.steps:
                runner = PassRunner(shard, [(k, self.context.plan.steps[k]) for k in self.steps])
                measured, frame, noticed = runner.run(), runner.frame, runner.noticed()
            else:
                frame = shard.replay(len(names))
            head = [shard.light(name) for name in columns.PLACE]
            added = self._added(shard)
            if added is not None:
                frame = with_added(frame, added, len(names) - 1)
                head = [
                    pa.concat_arrays([own, *added.table[n].chunks]) for n, own in zip(columns.PLACE, head, strict=True)
                ]
            self._write(record, frame, head, names)
            kept = np.flatnonzero(frame.alive)
            numbers = uid.to_numbers(at(head[0], kept))
            records = self._write_records(shard, kept if added is None else added.parents(kept, record.rows), numbers)
        count = len(frame.alive) - record.rows
        tally = Tally(record.rows, len(kept), _count(frame, names), digest(numbers, kept, record.index), count)
        return VerdictRecord(tally, records, measured, noticed)

    def _added(self, shard: Shard) -> Added | None:
        """The pairs that the last step adds, written; None where it adds none."""
        if self.context.plan.adding is None:
            return None
        added = make_added(shard, self.context.plan.adding[1])
        self.context.store.write_table(added_name(shard.record.index), added.table)
        return added

    def _write_records(self, shard: Shard, rows: NDArray[np.int64], numbers: NDArray[np.void]) -> int:
        """The subset's records of kept pairs, given the rows that their columns are in."""
        output = self.context.plan.recipe.output
        if output.subset is None:
            return 0
        copies = None if output.copies is None else shard.light(output.copies).take(pa.array(rows))
        return write_records(self.context.store, shard.record.index, numbers, copies)

    def _write(self, record: PoolShard, frame: Frame, head: Sequence[pa.Array], names: Sequence[str]) -> None:
        place = pa.array(_place(frame.dropped_by) - 1, mask=frame.alive)
        by = pa.DictionaryArray.from_arrays(place, pa.array(["pool", *names]))
        arrays = [*head, by, frame.encoded_reasons(), self._duplicate_of(record, frame)]
        fields = [field.with_type(a.type) for field, a in zip(columns.VERDICTS, arrays, strict=True)]
        self.context.store.write_table(verdicts_name(record.index), pa.table(arrays, schema=pa.schema(fields)))

    def _duplicate_of(self, record: PoolShard, frame: Frame) -> pa.Array:
        """The uid that each duplicate lost to, null for all other rows."""
        uids, rows = [], []
        for k, step in enumerate(self.context.plan.steps):
            if step.keys and (frame.dropped_by == k).any():
                table = self.context.store.table(derived_name(step.id, record.index), ["row", "duplicate_of"])
                uids.append(table["duplicate_of"].combine_chunks())
                rows.append(table["row"].to_numpy())
        return scatter(uids, rows, 0, len(frame.alive), pa.string())


def _place(dropped_by: NDArray[np.int16]) -> NDArray[np.int16]:
    """ALIVE, POOL, step 0, step 1, … as 0, 1, 2, 3, …"""
    place = dropped_by + np.int16(2)
    place ^= place < 2  # POOL is -2, ALIVE -1
    return place


def _count(frame: Frame, names: Sequence[str]) -> dict[tuple[str, str], int]:
    """Drops by (step, reason)."""
    width = len(frame.reasons)
    lost = np.flatnonzero(frame.dropped_by != ALIVE)
    counts = np.bincount(_place(frame.dropped_by[lost]).astype(np.int64) * width + frame.reason[lost])
    found = [(*divmod(int(code), width), int(counts[code])) for code in np.flatnonzero(counts)]
    return {(["pool", *names][place - 1], str(frame.reasons[reason])): count for place, reason, count in found}


def kept_digest(alive: NDArray[np.bool_], uids: pa.Array, shard: int) -> int:
    """A sum of hashes over the kept pairs of a shard and their places."""
    kept = np.flatnonzero(alive)
    return digest(uid.to_numbers(at(uids, kept)), kept, shard)


def digest(numbers: NDArray[np.void], kept: NDArray[np.int64], shard: int) -> int:
    """The same from the uids of the kept rows."""
    hashes = uid.keyed_hash_of(numbers, shard)
    return int((hashes * (2 * kept.astype(np.uint64) + 1)).sum(dtype=np.uint64))


def verdicts_name(shard: int) -> str:
    """File of a shard's verdicts."""
    return f"verdicts/{shard:05d}.parquet"
