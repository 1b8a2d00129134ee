"""Summaries of the balance's rounds: what a batch adds, and how two are merged.  Sums of integers, in any order."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pairsieve.schemas.errors import UserError

UNITS = 1 << 30
"""A probability of 1 in the sums' fixed point; a pair is off by at most 2^-31."""
MOST_ENTRIES = 1 << 26
"""Without metadata, ids must be below: a damaged one would ask for a vector that long."""
Vector = NDArray[np.int64]


@dataclass(frozen=True)
class Tally:
    """Counts of entries: a vector from id 0 on, or, where few occur, ``ids`` int64, ascending, and their counts.

    A vector ends where its counts end; merging pads it.
    """

    counts: Vector
    ids: Vector | None = None

    @classmethod
    def of(cls, counts: Vector) -> "Tally":
        """A vector in its shorter form: entries that occur, where they are fewer than half."""
        ids = np.flatnonzero(counts)
        return cls(counts) if 2 * len(ids) >= len(counts) else cls(counts[ids], ids)

    def __add__(self, other: "Tally") -> "Tally":
        """Both; a sparse one goes into a vector, two sparse ones stay sparse until they fill half of one."""
        if self.ids is None and other.ids is None:
            return Tally(_padded(self.counts, len(other.counts)) + _padded(other.counts, len(self.counts)))
        if self.ids is not None and other.ids is not None:
            return self._joined(self.ids, other, other.ids)
        return other._with(self) if self.ids is not None else self._with(other)

    def _joined(self, own: Vector, other: "Tally", others: Vector) -> "Tally":
        ids, place = np.unique(np.concatenate([own, others]), return_inverse=True)
        counts = np.zeros(len(ids), np.int64)
        np.add.at(counts, place, np.concatenate([self.counts, other.counts]))
        found = Tally(counts, ids)
        return Tally(found.vector(0)) if len(ids) and 2 * len(ids) >= int(ids[-1]) + 1 else found

    def _with(self, sparse: "Tally") -> "Tally":
        """A vector and some entries."""
        assert sparse.ids is not None
        counts = self.vector(int(sparse.ids[-1]) + 1 if len(sparse.ids) else 0)
        counts[sparse.ids] += sparse.counts
        return Tally(counts)

    def vector(self, least: int) -> Vector:
        """A new vector of at least ``least`` entries."""
        if self.ids is None:
            return _padded(self.counts, least).copy()
        found = np.zeros(max(least, int(self.ids[-1]) + 1 if len(self.ids) else 0), np.int64)
        found[self.ids] = self.counts
        return found


@dataclass(frozen=True)
class Seen:
    """Round of counting: pairs, those with an entry, texts, those with an entry; the ids' bounds; the counts."""

    rows: int
    matched_rows: int
    texts: int
    matched_texts: int
    least: int
    most: int
    tally: Tally

    def __add__(self, other: "Seen") -> "Seen":
        return Seen(
            self.rows + other.rows,
            self.matched_rows + other.matched_rows,
            self.texts + other.texts,
            self.matched_texts + other.matched_texts,
            min(self.least, other.least),
            max(self.most, other.most),
            self.tally + other.tally,
        )


@dataclass(frozen=True)
class Sizes:
    """Σπ of each candidate t in units of 2^-30: Python's integers, as 8 billion pairs fill 63 bits."""

    totals: tuple[int, ...]

    def __add__(self, other: "Sizes") -> "Sizes":
        return Sizes(tuple(a + b for a, b in zip(self.totals, other.totals, strict=True)))


@dataclass(frozen=True)
class Drawn:
    """Of the chosen t: Σπ and Σπ(1 - π) in units of 2^-30, the pairs that stay, and the counts among these."""

    expected: int
    variance: int
    rows: int
    tally: Tally

    def __add__(self, other: "Drawn") -> "Drawn":
        expected, variance = self.expected + other.expected, self.variance + other.variance
        return Drawn(expected, variance, self.rows + other.rows, self.tally + other.tally)


@dataclass(frozen=True)
class Round:
    """What one pass over the lists found; each part is there if the round asks for it."""

    seen: Seen | None = None
    sizes: Sizes | None = None
    drawn: Drawn | None = None

    def __add__(self, other: "Round") -> "Round":
        return Round(
            None if self.seen is None or other.seen is None else self.seen + other.seen,
            None if self.sizes is None or other.sizes is None else self.sizes + other.sizes,
            None if self.drawn is None or other.drawn is None else self.drawn + other.drawn,
        )


def _padded(counts: Vector, least: int) -> Vector:
    return np.pad(counts, (0, max(0, least - len(counts))))


def check_ids(column: str, least: int, most: int, entries: int) -> None:
    """Raise ``UserError`` for ids that are no places in the metadata."""
    if least < 0 or most >= entries:
        limit = f"ids are 0 to {entries - 1} here; was it matched with other metadata?"
        raise UserError(f"entries: column {column!r} holds the entry id {least if least < 0 else most}, and {limit}")
