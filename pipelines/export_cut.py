"""Cut the samples of a dataset into parts of equal size, in the dataset's order, which is that of the keyed hash.

Where a pair gives several samples its first ones all come before the second ones, so that a batch seldom holds an
image twice.  Cost: nothing that grows with the rows.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pairsieve.pipelines.export_survey import Seen


@dataclass(frozen=True)
class Slice:
    """Some samples of one file: of the rows that give more than ``number`` samples, ``count`` from ``start`` on.

    ``before`` is how often the file's first uid stood at the end of the files before it.
    """

    file: int
    number: int
    start: int
    count: int
    before: int


@dataclass(frozen=True)
class Part:
    """One part of the export, and how many there are."""

    index: int
    of: int
    slices: tuple[Slice, ...]

    @property
    def rows(self) -> int:
        """Samples."""
        return sum(one.count for one in self.slices)


def total(seen: Sequence[Seen]) -> int:
    """Samples of all files."""
    return sum(sum(one.rounds) for one in seen)


def cut(seen: Sequence[Seen], count: int) -> list[Part]:
    """So many parts, whose sizes differ by one at most; there must be a sample for each."""
    rows = total(seen)
    found: list[list[Slice]] = [[] for _ in range(count)]
    end = part = 0
    for whole in _segments(seen):
        taken = 0
        while taken < whole.count:
            left = (part + 1) * rows // count - end - taken
            if not left:
                part += 1
                continue
            size = min(left, whole.count - taken)
            found[part].append(Slice(whole.file, whole.number, taken, size, whole.before))
            taken += size
        end += taken
    return [Part(i, count, tuple(slices)) for i, slices in enumerate(found)]


def _segments(seen: Sequence[Seen]) -> Iterator[Slice]:
    """The first samples of all files, the second ones, …."""
    before = _before(seen)
    for number in range(max((len(one.rounds) for one in seen), default=0)):
        for one, times in zip(seen, before, strict=True):
            if number < len(one.rounds):
                yield Slice(one.index, number, 0, one.rounds[number], times)


def _before(seen: Sequence[Seen]) -> list[int]:
    """How often the first uid of each file stood at the end of those before it."""
    found, last, trail = [], "", 0
    for one in seen:
        found.append(trail if one.first == last else 0)
        trail = one.trail + (found[-1] if one.trail == one.rows else 0)
        last = one.last
    return found
