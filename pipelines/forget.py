"""Forget what was measured of some pairs, so that the next run measures them again; all others keep their values.

A part of a shard's scores that holds such a row is written anew without it, as is what steps measured from its
columns; no other file is touched.  Costs a copy of the parts that hold such rows, in the memory of a row group.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pairsieve.pipelines.parts import footer, part_name, valid
from pairsieve.pipelines.plan import Plan
from pairsieve.pipelines.pools import PoolShard
from pairsieve.pipelines.shard import Context, Rows, Shard
from pairsieve.pipelines.step import Step
from pairsieve.pipelines.store import Store
from pairsieve.schemas import columns

MARK = "retry.json"
"""Written when all shards have forgotten what they should."""


@dataclass(frozen=True)
class Wanted:
    """Which pairs to forget: those of which a column of these steps has one of these values."""

    steps: tuple[str, ...]
    column: str
    values: tuple[str, ...]

    def written(self) -> bytes:
        """What ``MARK`` holds."""
        return (json.dumps({"steps": self.steps, "column": self.column, "values": self.values}) + "\n").encode()

    def is_done(self, store: Store) -> bool:
        """Whether a run that was stopped has forgotten just these."""
        return store.exists(MARK) and store.read(MARK) == self.written()


@dataclass
class Forget:
    """Forget the wanted pairs of a shard; gives their number."""

    context: Context
    wanted: Wanted

    def __call__(self, record: PoolShard) -> int:
        """Those that read a step's columns first: a kill in between must not leave their old values behind."""
        return sum(self._of(record, step) for step in self.context.plan.steps if step.id in self.wanted.steps)

    def _of(self, record: PoolShard, step: Step) -> int:
        with Shard(self.context, record) as shard:
            stored = step.writes[self.wanted.column][0]
            chosen = pc.is_in(shard.light(stored), pa.array(self.wanted.values, pa.string()))
            rows = np.flatnonzero(chosen.to_numpy(zero_copy_only=False))
        if len(rows):
            for dependent in reversed([step, *readers(self.context.plan, step)]):
                self._rewrite(record, dependent, rows)
        return len(rows)

    def _rewrite(self, record: PoolShard, step: Step, rows: Rows) -> None:
        """Every part of a step's scores, from the last to the first, so that no part loses the one before it."""
        store, part = self.context.store, 0
        while store.exists(part_name(step.id, record.index, part + 1)):
            part += 1
        for number in range(part, -1, -1):
            name = part_name(step.id, record.index, number)
            file = valid(store, name, step, record) if store.exists(name) else None
            if file is None:  # the next run removes it
                continue
            with file:
                left = self._left(file, rows)
                if left == file.metadata.num_rows:
                    continue
                if left == 0 and number == part:
                    store.remove(name)
                    part -= 1
                else:
                    self._copy(file, name, step, record, rows)

    def _left(self, file: pq.ParquetFile, rows: Rows) -> int:
        """Rows of a part that stay."""
        found = file.read(columns=["row"], use_threads=False)["row"].to_numpy()
        return int((~np.isin(found, rows)).sum())

    def _copy(self, file: pq.ParquetFile, name: str, step: Step, record: PoolShard, rows: Rows) -> None:
        """A part without some rows, under the same name."""
        gone, schema = pa.array(rows, pa.int32()), columns.scores(step.stored)
        with self.context.store.create_sealed(name, schema, footer(step, record), exclusive=False) as writer:
            for group in range(file.metadata.num_row_groups):
                table = file.read_row_group(group, use_threads=False)
                stay = table.filter(pc.invert(pc.is_in(table["row"], gone))).cast(schema)
                if stay.num_rows:
                    writer.write_table(stay, row_group_size=stay.num_rows)


def readers(plan: Plan, step: Step) -> Sequence[Step]:
    """Later steps that measure something of a step's columns, or of such steps' columns; in the plan's order."""
    given, found = set(step.given), list[Step]()
    for other in plan.steps[plan.steps.index(step) + 1 :]:
        if not given.isdisjoint(other.reads):
            given |= set(other.given)
            found.append(other)
    return [other for other in found if other.measures]
