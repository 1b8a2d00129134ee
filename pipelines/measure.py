"""One step of a pass on a stream of chunks: what it lacks is measured, checked, written, and laid over the chunk.

A filter may take chunks ahead of those it gives back, so that reading and decoding go on while a device computes.
"""

import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from pairsieve.filters.base import LEFT as LEFT_COLUMN
from pairsieve.filters.base import AnyFilter, batches
from pairsieve.pipelines.chunk import Chunk
from pairsieve.pipelines.parts import PartWriter
from pairsieve.pipelines.pools import PoolShard
from pairsieve.pipelines.shard import LEFT, POOL, Frame, Rows
from pairsieve.pipelines.step import Step
from pairsieve.schemas import columns
from pairsieve.schemas.errors import PairsieveError

Measured = Mapping[str, pa.Array]


@dataclass
class _Given:
    """A chunk that a filter has: the rows to measure, in ``count`` slices, and what came back of them."""

    chunk: Chunk
    rows: Rows
    count: int
    pieces: list[Measured] = field(default_factory=list)

    @property
    def is_done(self) -> bool:
        return len(self.pieces) == self.count


class Measure:
    """A step and the part of its scores that a pass writes for one shard.

    With ``may_leave`` the filter may leave pairs, ``left`` of them: they go no further in this pass.
    """

    def __init__(self, step: Step, made: AnyFilter, frame: Frame, writer: PartWriter, may_leave: bool = False) -> None:
        """Nothing is measured yet."""
        self.step, self.made, self.frame, self.writer = step, made, frame, writer
        self.score = made.score_first if may_leave else made.score_all
        self.may_leave = may_leave
        self.seconds = 0.0
        self.left = 0
        self._given: deque[_Given] = deque()

    def through(self, chunks: Iterator[Chunk]) -> Iterator[Chunk]:
        """The chunks, with the step's columns; raises ``PairsieveError`` where the filter breaks its contract."""
        found = self.score(self._clocked(self._slices(chunks), -1))
        for values in self._clocked(found, 1):
            yield from self._done()
            if not self._given:
                raise PairsieveError(f"{self.step.id}: score_all() gave more than it was given")
            self._given[0].pieces.append(values)
            yield from self._done()
        yield from self._done()
        if self._given:
            raise PairsieveError(f"{self.step.id}: score_all() gave less than it was given")

    def _done(self) -> Iterator[Chunk]:
        while self._given and self._given[0].is_done:
            given = self._given.popleft()
            if given.count:
                self._write(given)
            yield given.chunk

    def _slices(self, chunks: Iterator[Chunk]) -> Iterator[pa.RecordBatch]:
        """What is to measure, in batches that the filter likes."""
        for chunk in chunks:
            rows = self._lacking(chunk)
            if not len(rows):
                self._given.append(_Given(chunk, rows, 0))
                continue
            names = ("uid", *self.step.reads)
            batch = pa.record_batch({name: chunk.column(name, rows, self.step.id) for name in names})
            slices = list(batches(batch, len(rows) if self.made.whole_shard else self.made.batch_rows))
            self._given.append(_Given(chunk, rows, len(slices)))
            yield from slices

    def _lacking(self, chunk: Chunk) -> Rows:
        """Rows that reach the step and are not measured."""
        scope = slice(chunk.start, chunk.stop)
        wanted = self.frame.dropped_by[scope] != POOL if self.step.of_pool else self.frame.alive[scope]
        parts = chunk.shard.parts(self.step)
        lacking = wanted & ~parts.measured[scope]
        if self.may_leave and (again := lacking & parts.left[scope]).any():  # by a run that was stopped before its tail
            self._leave(chunk.start + np.flatnonzero(again))
            lacking &= ~again
        return chunk.start + np.flatnonzero(lacking)

    def _write(self, given: _Given) -> None:
        measured = joined(self.step, given.pieces, len(given.rows))
        rows = given.rows
        if left := self._left(given):
            rows, measured = self._without(left, rows, measured)
        for stored, values in measured.items():
            given.chunk.fresh[stored] = (rows, values)
        uids = given.chunk.column("uid", rows)
        self.writer.write(score_batch(self.step, given.chunk.shard.record, uids, rows, measured))

    def _left(self, given: _Given) -> list[pa.Array]:
        """What was left of a chunk, bool, in pieces; empty where nothing was."""
        found = [piece[LEFT_COLUMN] for piece in given.pieces if LEFT_COLUMN in piece]
        return found if any(piece.true_count for piece in found) else []

    def _without(self, left: Sequence[pa.Array], rows: Rows, measured: Measured) -> tuple[Rows, dict[str, pa.Array]]:
        """The rows that were measured; those that were left go no further."""
        stay = np.concatenate([~piece.to_numpy(zero_copy_only=False) for piece in left])
        self._leave(rows[~stay])
        return rows[stay], {stored: values.filter(pa.array(stay)) for stored, values in measured.items()}

    def _leave(self, rows: Rows) -> None:
        self.frame.dropped_by[rows] = LEFT
        self.writer.leave(rows)
        self.left += len(rows)

    def _clocked(self, stream: Iterator[Any], sign: int) -> Iterator[Any]:
        """The stream; the time it takes is added to ``seconds``, or taken off: that of others within ours."""
        while True:
            began = time.perf_counter()
            try:
                item = next(stream)
            except StopIteration:
                return
            finally:
                self.seconds += sign * (time.perf_counter() - began)
            yield item


def score_batch(step: Step, shard: PoolShard, uids: pa.Array, rows: Rows, measured: Measured) -> pa.RecordBatch:
    """Some rows of a part: their places, and what was measured of them under its stored names."""
    places = [pa.repeat(pa.scalar(shard.index, pa.int32()), len(rows)), pa.array(rows, pa.int32())]
    return pa.record_batch([uids, *places, *measured.values()], schema=columns.scores(step.stored))


def joined(step: Step, pieces: Sequence[Measured], rows: int) -> dict[str, pa.Array]:
    """A step's columns under their stored names."""
    found: dict[str, pa.Array] = {}
    for own, (stored, kind) in step.writes.items():
        try:
            arrays = [_plain(piece[own]).cast(kind) for piece in pieces]
        except (KeyError, pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise PairsieveError(f"{step.id}: score() must give {own!r} as {kind}: {error}") from None
        found[stored] = pa.concat_arrays(arrays)
        if len(found[stored]) != rows:
            raise PairsieveError(f"{step.id}: score() gave {len(found[stored])} values of {own!r} for {rows} pairs")
    return found


def _plain(values: Any) -> pa.Array:
    return values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
