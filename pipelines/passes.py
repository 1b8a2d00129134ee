"""One pass over one shard: measure what is lacking, chunk by chunk, and commit each step's new part.

A chunk is as many rows as fit: 131,072 of small columns, a filter's batch where images are at hand.
"""

import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from pairsieve.filters.base import AnyFilter, batches
from pairsieve.pipelines.costs import Cost
from pairsieve.pipelines.parts import LIGHT_ROWS, PartWriter, scatter
from pairsieve.pipelines.shard import HEAVY_ROWS, POOL, Rows, Shard, at
from pairsieve.pipelines.step import Step
from pairsieve.schemas import columns
from pairsieve.schemas.errors import PairsieveError

FEATURE_BYTES = 33_554_432


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
        if name in self.fresh and np.array_equal(self.fresh[name][0], rows):
            return self.fresh[name][1]
        if columns.is_heavy(kind):
            return at(self._whole_heavy(name), rows - self.start)
        stored = self.shard.light(name)
        if name not in self.fresh:
            return at(stored, rows)
        old = stored.slice(self.start, self.stop - self.start)
        return at(self._overlay(name, old), rows - self.start)

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
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.whole: dict[str, tuple[Rows, pa.Array]] = {}

    def run(self) -> dict[str, Cost]:
        """What each step newly measured."""
        rows = self._chunk_rows()
        with ExitStack() as stack:
            for _, step in self.steps:
                if step.measures:
                    name = self.shard.parts(step).next_name
                    writer = PartWriter(self.shard.context.store, step, self.shard.record, name)
                    self.writers[step.id] = stack.enter_context(writer)
            self._measure_whole()
            for start in range(0, self.shard.record.rows, rows):
                self._chunk(Chunk(self.shard, start, min(start + rows, self.shard.record.rows)))
        return {step: Cost(w.rows, self.seconds[step], w.bytes) for step, w in self.writers.items() if w.rows}

    def _chunk_rows(self) -> int:
        """Many rows of small columns; as many images as a step likes to give at once, few where a file gives them."""
        types = self.shard.context.plan.types
        fresh = {name for _, step in self.steps for name in step.stored}
        read = {name for _, step in self.steps if not step.filter.whole_shard for name in step.reads}
        heavy = {name for name in fresh | read if columns.is_heavy(types.get(name, pa.string()))}
        if not heavy:
            return LIGHT_ROWS
        if not heavy <= fresh:
            return stored_rows([types[name] for name in heavy - fresh])
        return max(step.filter.batch_rows for _, step in self.steps if not heavy.isdisjoint(step.stored))

    def _measure_whole(self) -> None:
        """Steps that want all pairs at once: they read the pool alone, whatever the verdicts, so they come first."""
        for _, step in self.steps:
            if step.measures and step.filter.whole_shard:
                chunk = Chunk(self.shard, 0, self.shard.record.rows)
                self._measure(chunk, step)
                self.whole |= chunk.fresh

    def _chunk(self, chunk: Chunk) -> None:
        for name, (rows, values) in self.whole.items():
            first, last = (int(i) for i in np.searchsorted(rows, [chunk.start, chunk.stop]))
            if last > first:
                chunk.fresh[name] = (rows[first:last], values.slice(first, last - first))
        for k, step in self.steps:
            if step.measures and not step.filter.whole_shard:
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
        began = time.perf_counter()
        measured = _score(made, step, batch)
        self.seconds[step.id] += time.perf_counter() - began
        for stored, values in measured.items():
            chunk.fresh[stored] = (rows, values)
        head = [
            batch["uid"],
            pa.repeat(pa.scalar(self.shard.record.index, pa.int32()), len(rows)),
            pa.array(rows, pa.int32()),
        ]
        arrays = [*head, *measured.values()]
        self.writers[step.id].write(pa.record_batch(arrays, schema=columns.scores(step.stored)))


def stored_rows(kinds: Sequence[pa.DataType]) -> int:
    """Rows of stored large columns to hold at once: few images, some 32 MB of features, many short lists."""
    kinds = [kind for kind in kinds if columns.is_heavy(kind) and not columns.is_items(kind)]
    if not all(pa.types.is_fixed_size_list(kind) and pa.types.is_primitive(kind.value_type) for kind in kinds):
        return HEAVY_ROWS
    width = sum(int(kind.list_size) * int(kind.value_type.bit_width) // 8 for kind in kinds)
    return min(LIGHT_ROWS, max(HEAVY_ROWS, FEATURE_BYTES // max(1, width)))


def _score(made: AnyFilter, step: Step, batch: pa.RecordBatch) -> dict[str, pa.Array]:
    """A step's columns under their stored names; raises ``PairsieveError`` where the filter breaks its contract."""
    rows = batch.num_rows if made.whole_shard else made.batch_rows
    pieces = [made.score(part) for part in batches(batch, rows)]
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
