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

from pairsieve.filters.base import GroupFilter, PoolFilter
from pairsieve.pipelines.plan import Step
from pairsieve.pipelines.pools import PoolShard
from pairsieve.pipelines.shard import ALIVE, POOL, Context, Frame, PassRunner, Shard
from pairsieve.schemas import columns, uid


@dataclass(frozen=True)
class PassRecord:
    """What a pass did on a shard: pairs still alive at its end, rows newly measured by each step."""

    alive: int
    measured: Mapping[str, int]


@dataclass
class ScorePass:
    """Measure what one pass lacks on a shard."""

    context: Context
    steps: range

    def __call__(self, record: PoolShard) -> PassRecord:
        """Run and commit."""
        with Shard(self.context, record) as shard:
            runner = PassRunner(shard, [(k, self.context.plan.steps[k]) for k in self.steps])
            measured = runner.run()
            return PassRecord(int(runner.frame.alive.sum()), measured)


@dataclass
class Summarize:
    """One round of a pool filter on a shard; gives the shard's summary."""

    context: Context
    step: int

    def __call__(self, record: PoolShard) -> Any:
        """Summarize the step's scope."""
        step = self.context.plan.steps[self.step]
        assert isinstance(step.filter, PoolFilter)
        with Shard(self.context, record) as shard:
            rows = _scope(shard, self.step)
            batch = shard.decision_batch(step, rows, {})
            return step.filter.summarize(batch, self.context.settled.get(step.id, {}))


@dataclass
class Candidates:
    """Write the keys of the pairs that reach a group filter, for the grouping; gives their number."""

    context: Context
    step: int

    def __call__(self, record: PoolShard) -> int:
        """Write one work file; it is removed after the grouping."""
        step = self.context.plan.steps[self.step]
        with Shard(self.context, record) as shard:
            rows = _scope(shard, self.step)
            names = [*columns.PLACE, *step.stored, *(n for n in step.keep_reads if n not in columns.PLACE)]
            take = pa.array(rows)
            table = pa.table({name: shard.light(name).take(take) for name in names})
        self.context.store.write_table(work_name(step, record.index), table)
        return int(table.num_rows)


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
    """Verdicts of a shard, or of many: candidates, kept, and drops by (step, reason).

    ``kept_digest`` is a sum of hashes over the kept pairs and their places, so it has no order.
    """

    rows: int
    kept: int
    dropped: Mapping[tuple[str, str], int]
    kept_digest: int = 0

    def __add__(self, other: "Tally") -> "Tally":
        """Both together."""
        dropped = dict(Counter(self.dropped) + Counter(other.dropped))
        digest = (self.kept_digest + other.kept_digest) % 2**64
        return Tally(self.rows + other.rows, self.kept + other.kept, dropped, digest)


@dataclass
class Verdicts:
    """Write a shard's verdicts: one row per candidate; gives their tally."""

    context: Context

    def __call__(self, record: PoolShard) -> Tally:
        """Replay all steps and write."""
        names = [step.id for step in self.context.plan.steps]
        with Shard(self.context, record) as shard:
            frame = shard.replay(len(names))
            head = shard.pairs(list(columns.PLACE))
        by = pa.array([None, "pool", *names], pa.string()).take(pa.array(_place(frame.dropped_by)))
        reason = pa.array(frame.reasons, pa.string()).take(pa.array(frame.reason))
        verdicts = pa.table([*head.columns, by, reason], schema=columns.VERDICTS)
        self.context.store.write_table(verdicts_name(record.index), verdicts)
        return Tally(record.rows, by.null_count, _count(frame, names), _digest(frame, head["uid"], record.index))


def _place(dropped_by: NDArray[np.int16]) -> NDArray[np.int64]:
    """ALIVE, POOL, step 0, step 1, … as 0, 1, 2, 3, …"""
    return np.select([dropped_by == ALIVE, dropped_by == POOL], [0, 1], dropped_by.astype(np.int64) + 2)


def _count(frame: Frame, names: Sequence[str]) -> dict[tuple[str, str], int]:
    """Drops by (step, reason)."""
    width = len(frame.reasons)
    counts = np.bincount(_place(frame.dropped_by) * width + frame.reason)
    found = [(*divmod(int(code), width), int(counts[code])) for code in np.flatnonzero(counts) if code >= width]
    return {(["pool", *names][place - 1], str(frame.reasons[reason])): count for place, reason, count in found}


def _digest(frame: Frame, uids: pa.ChunkedArray, shard: int) -> int:
    """A sum of hashes over the kept pairs and their places."""
    kept = np.flatnonzero(frame.alive)
    hashes = uid.keyed_hash(uids.combine_chunks().take(pa.array(kept)), shard)
    return int((hashes * (2 * kept.astype(np.uint64) + 1)).sum(dtype=np.uint64))


def verdicts_name(shard: int) -> str:
    """File of a shard's verdicts."""
    return f"verdicts/{shard:05d}.parquet"


def total(tallies: Sequence[Tally]) -> Tally:
    """All tallies together."""
    found = Tally(0, 0, {})
    for tally in tallies:
        found += tally
    return found
