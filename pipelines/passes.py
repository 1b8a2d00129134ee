"""One pass over one shard: measure what is lacking, chunk by chunk, and commit each step's new part.

A chunk is as many rows as fit: 131,072 of small columns, a filter's batch where images are at hand.
"""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack

import numpy as np
import pyarrow as pa

from pairsieve.pipelines import facts
from pairsieve.pipelines.chunk import Chunk
from pairsieve.pipelines.costs import Cost
from pairsieve.pipelines.measure import Measure
from pairsieve.pipelines.parts import LIGHT_ROWS, PartWriter
from pairsieve.pipelines.shard import HEAVY_ROWS, Rows, Shard
from pairsieve.pipelines.step import Step
from pairsieve.schemas import columns

FEATURE_BYTES = 33_554_432


class PassRunner:
    """Measures what a pass lacks on one shard, and commits each step's new part.

    With ``may_leave`` steps may leave pairs for later: ``left`` says how many.
    """

    def __init__(self, shard: Shard, steps: Sequence[tuple[int, Step]], may_leave: bool = False) -> None:
        """Replay what comes before the pass."""
        self.shard, self.steps, self.may_leave = shard, steps, may_leave
        self.frame = shard.replay(steps[0][0])
        self.measures: dict[str, Measure] = {}
        self.whole: dict[str, tuple[Rows, pa.Array]] = {}

    def run(self) -> dict[str, Cost]:
        """What each step newly measured."""
        rows = self._chunk_rows()
        with ExitStack() as stack:
            for _, step in self.steps:
                if step.measures:
                    name = self.shard.parts(step).next_name
                    writer = PartWriter(self.shard.context.store, step, self.shard.record, name)
                    made = self.shard.context.opened.get(step.id, step.filter)
                    measure = Measure(step, made, self.frame, stack.enter_context(writer), self.may_leave)
                    self.measures[step.id] = measure
            self._measure_whole()
            deque(self._through(self._chunks(rows)), maxlen=0)
        found = ((step, m.writer, m.seconds) for step, m in self.measures.items())
        return {step: Cost(writer.rows, seconds, writer.bytes) for step, writer, seconds in found if writer.rows}

    @property
    def left(self) -> dict[str, int]:
        """Pairs that steps left, where any were."""
        return {step: m.left for step, m in self.measures.items() if m.left}

    def noticed(self) -> Mapping[str, pa.Table]:
        """What filters noticed of the work, written down for the shard; what it comes to, by step."""
        store, shard = self.shard.context.store, self.shard.record.index
        found = {}
        for step, m in self.measures.items():
            if (table := m.made.facts()) is not None:
                facts.write(store, step, shard, m.writer.part, table)
                found[step] = m.made.total(table)
        return found

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
                deque(self.measures[step.id].through(iter([chunk])), maxlen=0)
                self.whole |= chunk.fresh

    def _chunks(self, size: int) -> Iterator[Chunk]:
        """The shard in pieces, with what was measured of all of it."""
        for start in range(0, self.shard.record.rows, size):
            chunk = Chunk(self.shard, start, min(start + size, self.shard.record.rows))
            for name, (rows, values) in self.whole.items():
                first, last = (int(i) for i in np.searchsorted(rows, [chunk.start, chunk.stop]))
                if last > first:
                    chunk.fresh[name] = (rows[first:last], values.slice(first, last - first))
            yield chunk

    def _through(self, chunks: Iterator[Chunk]) -> Iterator[Chunk]:
        """Chunks that have passed every step; a step may be some chunks ahead of the next."""
        for k, step in self.steps:
            if step.measures and not step.filter.whole_shard:
                chunks = self.measures[step.id].through(chunks)
            if not step.is_barrier:
                chunks = self._decided(k, step, chunks)
        return chunks

    def _decided(self, k: int, step: Step, chunks: Iterator[Chunk]) -> Iterator[Chunk]:
        """The chunks, once a step has decided on them."""
        for chunk in chunks:
            rows = chunk.start + np.flatnonzero(self.frame.alive[chunk.start : chunk.stop])
            fresh = {n: chunk.column(n, rows) for n in (*step.keep_reads, *step.light) if n in chunk.fresh}
            self.frame.drop(rows, k, self.shard.decide(step, rows, fresh))
            yield chunk


def stored_rows(kinds: Sequence[pa.DataType]) -> int:
    """Rows of stored large columns to hold at once: few images, some 32 MB of features, many short lists."""
    widths = [_width(kind) for kind in kinds if columns.is_heavy(kind) and not columns.is_items(kind)]
    if None in widths:
        return HEAVY_ROWS
    return min(LIGHT_ROWS, max(HEAVY_ROWS, FEATURE_BYTES // max(1, sum(width or 0 for width in widths))))


def _width(kind: pa.DataType) -> int | None:
    """Bytes of a row of numbers, as of 1,024 doubles where the type does not say; None of anything else."""
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or not pa.types.is_primitive(kind.value_type):
        return None
    if pa.types.is_fixed_size_list(kind):
        return int(kind.list_size) * int(kind.value_type.bit_width) // 8
    return 8192
