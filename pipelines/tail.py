"""The tail pass: measure the pairs that a step left because they take long, those of many shards together.

In the first sweep of a pass such pairs only cost their shard the patience of the step.  Here they have all the time
that they need, and wait for each other's sake alone: a group is as many shards as have ``GROUP`` such pairs.  What is
found is a further part of each shard's scores, committed shard by shard; the steps behind it then measure it like
any pair that was never measured.  A kill loses the shard at hand.
"""

import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from types import TracebackType

import numpy as np
import pyarrow as pa

from pairsieve.pipelines import facts
from pairsieve.pipelines.chunk import Chunk
from pairsieve.pipelines.costs import Cost
from pairsieve.pipelines.measure import joined, score_batch
from pairsieve.pipelines.parts import PartWriter
from pairsieve.pipelines.pools import PoolShard
from pairsieve.pipelines.shard import POOL, Context, Rows, Shard
from pairsieve.pipelines.step import Step

GROUP = 8192
"""Pairs of a group, unless one shard has more."""
SHARDS = 500
"""Shards of a group at most."""


@dataclass(frozen=True)
class Group:
    """Shards with pairs that were left; messages call the group by the first."""

    shards: tuple[PoolShard, ...]

    @property
    def index(self) -> int:
        """The first shard's."""
        return self.shards[0].index


def groups(left: Sequence[tuple[PoolShard, int]]) -> list[Group]:
    """Shards with the number of pairs that were left of each, in groups."""
    found: list[list[PoolShard]] = []
    held = GROUP
    for shard, count in left:
        if held + count > GROUP or len(found[-1]) == SHARDS:
            found.append([])
            held = 0
        found[-1].append(shard)
        held += count
    return [Group(tuple(shards)) for shards in found]


@dataclass(frozen=True)
class TailRecord:
    """What a group came to: cost, and what the filter noticed."""

    measured: Mapping[str, Cost]
    noticed: Mapping[str, pa.Table]


@dataclass(frozen=True)
class _Piece:
    """Some rows of one shard, as the filter gets them, and the part that they go to."""

    shard: PoolShard
    part: str
    rows: Rows
    given: pa.RecordBatch


@dataclass
class _Parts:
    """Writes parts one after the other; each is committed when the next begins."""

    context: Context
    step: Step
    rows: int = 0
    bytes: int = 0
    first: int = 0
    _stack: ExitStack = field(default_factory=ExitStack)
    _name: str = ""
    _writer: PartWriter | None = None

    def write_all(self, pieces: Sequence[_Piece], values: Mapping[str, pa.Array]) -> None:
        """What was measured of a batch, each piece to its part."""
        measured = joined(self.step, [values], sum(len(piece.rows) for piece in pieces))
        start = 0
        for piece in pieces:
            own = {stored: column.slice(start, len(piece.rows)) for stored, column in measured.items()}
            batch = score_batch(self.step, piece.shard, piece.given["uid"], piece.rows, own)
            self._writer_of(piece).write(batch)
            self.rows += batch.num_rows
            self.bytes += batch.nbytes
            start += len(piece.rows)

    def _writer_of(self, piece: _Piece) -> PartWriter:
        if self._writer is None or piece.part != self._name:
            self._stack.close()
            writer = PartWriter(self.context.store, self.step, piece.shard, piece.part)
            self.first = writer.part if self._writer is None else self.first
            self._name, self._writer = piece.part, self._stack.enter_context(writer)
        return self._writer

    def __enter__(self) -> "_Parts":
        """The writers."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        """Commit the last part, or leave nothing of it behind after an error."""
        self._stack.__exit__(kind, error, tb)


@dataclass
class Tail:
    """Measure what a step lacks on a group of shards, however long it takes."""

    context: Context
    step: int

    def __call__(self, group: Group) -> TailRecord:
        """Measure and commit."""
        began = time.perf_counter()
        step = self.context.plan.steps[self.step]
        made = self.context.opened.get(step.id, step.filter)
        under_way = deque[list[_Piece]]()
        with _Parts(self.context, step) as parts:
            for values in made.score_all(self._given(self._pieces(step, group), under_way, made.batch_rows)):
                parts.write_all(under_way.popleft(), values)
        if not parts.rows:
            return TailRecord({}, {})
        measured = {step.id: Cost(parts.rows, time.perf_counter() - began, parts.bytes)}
        noticed = made.facts()
        if noticed is None:
            return TailRecord(measured, {})
        facts.write(self.context.store, step.id, group.index, parts.first, noticed)
        return TailRecord(measured, {step.id: made.total(noticed)})

    def _pieces(self, step: Step, group: Group) -> Iterator[_Piece]:
        """What is lacking, shard by shard."""
        for record in group.shards:
            with Shard(self.context, record) as shard:
                rows = self._lacking(shard, step)
                chunk = Chunk(shard, 0, record.rows)
                for start in range(0, len(rows), step.filter.batch_rows):
                    own = rows[start : start + step.filter.batch_rows]
                    columns = {name: chunk.column(name, own, step.id) for name in ("uid", *step.reads)}
                    yield _Piece(record, shard.parts(step).next_name, own, pa.record_batch(columns))

    def _lacking(self, shard: Shard, step: Step) -> Rows:
        frame = shard.replay(self.step)
        wanted = frame.dropped_by != POOL if step.of_pool else frame.alive
        return np.flatnonzero(wanted & ~shard.parts(step).measured)

    def _given(self, pieces: Iterator[_Piece], under_way: deque[list[_Piece]], rows: int) -> Iterator[pa.RecordBatch]:
        """The pieces in batches of at most ``rows``; those that are given are put under way."""
        held: list[_Piece] = []
        for piece in pieces:
            if held and sum(len(p.rows) for p in held) + len(piece.rows) > rows:
                yield self._batch(held, under_way)
                held = []
            held.append(piece)
        if held:
            yield self._batch(held, under_way)

    def _batch(self, held: list[_Piece], under_way: deque[list[_Piece]]) -> pa.RecordBatch:
        under_way.append(held)
        return pa.concat_batches([piece.given for piece in held])
