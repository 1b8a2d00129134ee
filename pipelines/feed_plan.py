"""Who hands out which rows of an epoch: a pure function of sizes, which needs no data and no talk between ranks.

What is left of an epoch is a list of pieces.  A list is divided into equal shares by ranks, and a rank's share by its
workers so that its batches come from them in turn.  What is left after some steps of every rank is a list again, so a
state that is saved by any rank can be divided among any other number of ranks and workers; among the same number it is
divided exactly as before.  Cost: some microseconds for each worker of the world.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple


class Piece(NamedTuple):
    """Places ``first`` to ``last`` of the shuffled rows ``start`` to ``stop`` of an epoch.

    Rows are counted in the order in which they are read, places in that in which they are handed out: a span is
    shuffled by itself, so a piece of it can be gone on with knowing its span alone.
    """

    start: int
    stop: int
    first: int
    last: int

    @property
    def rows(self) -> int:
        """How many rows the piece hands out."""
        return self.last - self.first

    @property
    def is_untouched(self) -> bool:
        """Whether it is a whole span, of which nothing has been handed out."""
        return self.first == 0 and self.last == self.stop - self.start


Pieces = tuple[Piece, ...]


def whole(start: int, stop: int) -> Piece:
    """An untouched span."""
    return Piece(start, stop, 0, stop - start)


def rows_of(pieces: Iterable[Piece]) -> int:
    """Rows of some pieces."""
    return sum(piece.rows for piece in pieces)


@dataclass(frozen=True)
class Topology:
    """Who trains: ranks, the workers of each, and how many rows make a batch."""

    world: int
    workers: int
    batch_size: int
    drop_last: bool

    def batches(self, rows: int) -> int:
        """Batches of each rank, given the rows that are left for all: equally many for every rank."""
        share = rows // self.world
        return share // self.batch_size if self.drop_last else -(-share // self.batch_size)

    def handed_out(self, rows: int, worker: int, steps: int) -> int:
        """Rows that a worker gives in the first steps of its rank, which take their batches from the workers in turn.

        The last batch of an epoch may be short.
        """
        batches = self.batches(rows)
        steps = min(steps, batches)
        turns = max(0, -(-(steps - worker) // self.workers))
        has_last = steps == batches and turns > 0 and (batches - 1) % self.workers == worker
        missing = max(0, batches * self.batch_size - rows // self.world)
        return turns * self.batch_size - (missing if has_last else 0)


@dataclass(frozen=True)
class Division:
    """Shares: of each rank those of its workers and what it leaves (``drop_last``); and what rests of all."""

    shares: tuple[tuple[Pieces, ...], ...]
    left: tuple[Pieces, ...]
    rest: Pieces


def divide(pieces: Sequence[Piece], topology: Topology) -> Division:
    """Equal shares of what is left; fewer than ``world`` rows rest, and with ``drop_last`` short batches too."""
    stock, rows = _Stock(pieces), rows_of(pieces)
    shares, left = [], []
    for _ in range(topology.world):
        batches = topology.batches(rows)
        counts = [topology.handed_out(rows, worker, batches) for worker in range(topology.workers)]
        shares.append(tuple(stock.take(count) for count in counts))
        left.append(stock.take(rows // topology.world - sum(counts)))
    return Division(tuple(shares), tuple(left), stock.take(rows_of(stock.pieces)))


def after(pieces: Sequence[Piece], topology: Topology, steps: int) -> Pieces:
    """What is left after some steps of every rank.

    Of each rank the worker whose turn is next stands first, so that the same topology goes on where it was.
    """
    division, rows = divide(pieces, topology), rows_of(pieces)
    steps = min(steps, topology.batches(rows))
    turns = [(steps + i) % topology.workers for i in range(topology.workers)]
    found: list[Piece] = []
    for shares, left in zip(division.shares, division.left, strict=True):
        for worker in turns:
            found += remaining(shares[worker], topology.handed_out(rows, worker, steps))
        found += left
    return (*found, *division.rest)


def remaining(pieces: Sequence[Piece], rows: int) -> Pieces:
    """What is left of a share when some rows of it have been handed out."""
    found = []
    for piece in pieces:
        gone = min(rows, piece.rows)
        rows -= gone
        if gone < piece.rows:
            found.append(piece._replace(first=piece.first + gone))
    return tuple(found)


class _Stock:
    """Pieces that are taken from the front."""

    def __init__(self, pieces: Iterable[Piece]) -> None:
        self.pieces = deque(piece for piece in pieces if piece.rows)

    def take(self, rows: int) -> Pieces:
        """The next pieces of so many rows in all; the last of them is cut."""
        found = []
        while rows:
            piece = self.pieces.popleft()
            if piece.rows > rows:
                piece, rest = _cut(piece, rows)
                self.pieces.appendleft(rest)
            rows -= piece.rows
            found.append(piece)
        return tuple(found)


def _cut(piece: Piece, rows: int) -> tuple[Piece, Piece]:
    """An untouched span becomes two, which read different row groups; an opened one has its order already."""
    if piece.is_untouched:
        middle = piece.start + rows
        return whole(piece.start, middle), whole(middle, piece.stop)
    return piece._replace(last=piece.first + rows), piece._replace(first=piece.first + rows)
