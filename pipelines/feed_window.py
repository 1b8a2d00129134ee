"""The row groups that an order needs, in memory from when they are due until nothing comes of them any more.

Threads read ``READAHEAD`` groups before they are due, and no more, so memory is what ``Layout.window`` counts on.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, NamedTuple, TypeVar

import numpy as np

from pairsieve.pipelines.feed_order import READAHEAD, Chunk, Entries, Order
from pairsieve.pipelines.feed_plan import Piece

T = TypeVar("T")


class _Due(NamedTuple):
    """A chunk of a piece, the slots that it needs, and those that no chunk of the piece has needed before."""

    piece: int
    chunk: Chunk
    slots: list[int]
    new: list[int]


def windows(
    order: Order, pieces: Sequence[Piece], read: Callable[[int], T]
) -> Iterator[tuple[Entries, Mapping[int, T]]]:
    """What comes next, and the groups that it comes from by their slot; ``read`` is given a slot, in a thread."""
    with ThreadPoolExecutor(READAHEAD, "pairsieve-feed") as pool:
        try:
            yield from _Window(_dues(order, pieces), lambda slot: pool.submit(read, slot))
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _dues(order: Order, pieces: Sequence[Piece]) -> Iterator[_Due]:
    for number, piece in enumerate(pieces):
        known: set[int] = set()
        for chunk in order.chunks(piece):
            slots = np.unique(chunk.entries.slots).tolist()
            yield _Due(number, chunk, slots, [slot for slot in slots if slot not in known])
            known.update(slots)


class _Window(Generic[T]):
    """Groups that are held, by piece and slot, and chunks whose groups are being read."""

    def __init__(self, dues: Iterator[_Due], submit: Callable[[int], "Future[T]"]) -> None:
        self._dues, self._submit = dues, submit
        self._held: dict[tuple[int, int], Future[T]] = {}
        self._waiting: deque[_Due] = deque()
        self._next = next(dues, None)

    def __iter__(self) -> Iterator[tuple[Entries, Mapping[int, T]]]:
        while self._waiting or self._next is not None:
            if not self._waiting:
                self._accept()
            due = self._waiting.popleft()
            while self._next is not None and self._ahead() + len(self._next.new) <= READAHEAD:
                self._accept()
            yield due.chunk.entries, {slot: self._held[due.piece, slot].result() for slot in due.slots}
            for slot in due.chunk.finished.tolist():
                self._held.pop((due.piece, slot), None)

    def _ahead(self) -> int:
        return sum(len(due.new) for due in self._waiting)

    def _accept(self) -> None:
        assert self._next is not None
        for slot in self._next.new:
            self._held[self._next.piece, slot] = self._submit(slot)
        self._waiting.append(self._next)
        self._next = next(self._dues, None)
