"""What a run would measure, told by replaying verdicts from stored scores without writing anything.

Where a score is not there yet, a pair may stay or go: it goes on as a maybe, with the verdict that the
last run gave it there, else as likely to stay as the pairs whose score is known.  While there is no maybe
among the pairs that a step lacks, its count is exact.  Cost: that of verdicts (0.1-0.5 µs a row and step),
and 1-3 ms a score file.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from pairsieve.filters.base import PoolFilter
from pairsieve.pipelines import pool_rounds, tasks
from pairsieve.pipelines.added import make_added
from pairsieve.pipelines.groups import group
from pairsieve.pipelines.pools import PoolShard
from pairsieve.pipelines.reasons import Before, Cause
from pairsieve.pipelines.shard import Context, Rows, Shard
from pairsieve.pipelines.step import Step
from pairsieve.schemas import uid
from pairsieve.schemas.errors import PairsieveError

Mask = NDArray[np.bool_]
T = TypeVar("T")
ENOUGH = 100
"""Pairs whose verdict is known from which their kept share stands for the others'."""


@dataclass
class Chances:
    """The rows of a shard: which may still be there, which are for certain, and how likely each is."""

    possible: Mask
    sure: Mask
    weight: NDArray[np.float64]
    scale: float

    def drop(self, rows: NDArray[np.int64], for_certain: bool) -> None:
        """Rows with the verdict to go; unless it is certain they stay possible."""
        self.weight[rows] = 0
        if for_certain:
            self.possible[rows] = False


@dataclass
class Span:
    """Pairs, as likely as they are; and at least and at most, whatever the maybes turn out to be."""

    likely: float = 0.0
    least: float = 0.0
    most: float = 0.0

    def add(self, rows: Mask, sure: Mask, weight: NDArray[np.float64], scale: float) -> None:
        """Count some rows of a shard."""
        self.likely += scale * float(weight[rows].sum())
        self.least += scale * int((rows & sure).sum())
        self.most += scale * int(rows.sum())


@dataclass
class Outlook:
    """A step's figures over the replayed shards, scaled to all; pairs, unless said otherwise.

    ``is_bound``: likelihoods are missing, so that all are upper bounds.  ``stored`` are rows in valid files,
    ``causes`` (pairs, shards).
    """

    reach: Span = field(default_factory=Span)
    reused: Span = field(default_factory=Span)
    todo: Span = field(default_factory=Span)
    stored: float = 0.0
    decided: int = 0
    kept: int = 0
    is_bound: bool = False
    causes: dict[Cause, tuple[float, float]] = field(default_factory=dict)

    def blame(self, cause: Cause, pairs: float, shards: float) -> None:
        """Count pairs of one shard to be measured."""
        before = self.causes.get(cause, (0.0, 0.0))
        self.causes[cause] = (before[0] + pairs, before[1] + shards)


@dataclass
class _Look:
    """What is stored of a step for a shard: the rows measured, and those whose verdict can be told."""

    measured: Mask
    known: Mask


class Replay:
    """The steps of a plan over some shards of a run; ``context.store`` should be an ``Overlay``.

    ``shares`` are kept shares by step from elsewhere, where the stored scores tell too little.
    """

    def __init__(
        self,
        context: Context,
        shards: Sequence[PoolShard],
        scales: Sequence[float],
        is_whole: bool,
        shares: Mapping[str, float],
        was: Before,
    ) -> None:
        """Nothing is read yet; ``is_whole``: these are all shards of the pool."""
        self.context, self.shards, self.is_whole = context, shards, is_whole
        self._scales, self._shares, self._was = scales, shares, was
        self.is_bound = False
        self.rows: list[Chances] = []
        self.added: list[Chances] = []
        self._digests: list[int] = []
        self._given: list[Mask] = []

    def run(self) -> list[Outlook]:
        """One outlook a step; ``rows`` are then the chances to be kept, ``added`` those of pairs that are added."""
        self._start()
        return [self._step(k, step) for k, step in enumerate(self.context.plan.steps)]

    @property
    def is_certain(self) -> bool:
        """Whether the verdict of every row is known."""
        return self.is_whole and not any((rows.possible & ~rows.sure).any() for rows in (*self.rows, *self.added))

    def tally(self) -> tasks.Tally:
        """What is kept, where that is certain."""
        total = tasks.Tally(0, 0, {})
        for (shard, record), rows in zip(self._each(), self.rows, strict=True):
            digest = tasks.kept_digest(rows.possible, shard.light("uid"), record.index)
            total += tasks.Tally(record.rows, int(rows.possible.sum()), {}, digest)
        for rows, digest in zip(self.added, self._digests, strict=True):
            total += tasks.Tally(0, int(rows.possible.sum()), {}, digest, len(rows.possible))
        return total

    def _start(self) -> None:
        for (shard, _), scale in zip(self._each(), self._scales, strict=True):
            alive = shard.start().alive
            self._given.append(alive)
            self.rows.append(Chances(alive.copy(), alive.copy(), alive.astype(np.float64), scale))

    def _each(self) -> Iterator[tuple[Shard, PoolShard]]:
        for record in self.shards:
            with Shard(self.context, record) as shard:
                yield shard, record

    def _step(self, k: int, step: Step) -> Outlook:
        looks = [self._look(shard, step) for shard, _ in self._each()]
        found = self._count(k, step, looks)
        is_certain = self._settle(step, looks)
        if step.adds:
            self._add(step, looks, is_certain)
        try:
            self._decide(step, looks, is_certain, found)
        except PairsieveError:
            raise
        except Exception as error:  # whatever a filter of the user's raises
            text = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise PairsieveError(f"{step.id}: keep() failed on stored scores: {text}") from error
        self._go_on(step, looks, found)
        return found

    def _look(self, shard: Shard, step: Step) -> _Look:
        whole = np.ones(shard.record.rows, bool)
        measured = shard.parts(step).measured if step.measures else whole
        known = measured.copy()
        reads = (*step.keep_reads, *step.summary_reads)
        for producer in {p.id: p for p in map(self.context.plan.producer, reads) if p is not None}.values():
            known &= shard.parts(producer).measured if producer.measures else True
        return _Look(measured, known)

    def _count(self, k: int, step: Step, looks: Sequence[_Look]) -> Outlook:
        """Who reaches the step, and who of them it has measured."""
        found = Outlook(is_bound=self.is_bound)
        for record, rows, look, given in zip(self.shards, self.rows, looks, self._given, strict=True):
            is_all = step.of_pool and step.measures
            sure, possible = (given, given) if is_all else (rows.sure, rows.possible)
            weight = given.astype(np.float64) if is_all else rows.weight
            lacks = possible & ~look.measured
            found.reach.add(possible, sure, weight, rows.scale)
            found.reused.add(possible & look.measured, sure, weight, rows.scale)
            found.todo.add(lacks, sure, weight, rows.scale)
            found.stored += rows.scale * int(look.measured.sum()) if step.measures else 0
            if lacks.any():
                found.blame(self._was.cause(k, step, record), rows.scale * float(weight[lacks].sum()), rows.scale)
        return found

    def _settle(self, step: Step, looks: Sequence[_Look]) -> bool:
        """Let the step see the whole pool as far as it is known; whether its verdicts are then certain."""
        made = step.filter
        if not step.sees_scope:
            return True
        is_pool = step.of_pool and isinstance(made, PoolFilter)
        scopes = self._given if is_pool else [rows.possible for rows in self.rows]
        sures = self._given if is_pool else [rows.sure for rows in self.rows]
        is_certain = self.is_whole and all(
            not (scope & ~(sure & look.known)).any() for scope, sure, look in zip(scopes, sures, looks, strict=True)
        )
        if isinstance(made, PoolFilter):
            self._pool(step, [scope & look.known for scope, look in zip(scopes, looks, strict=True)])
        elif self.is_whole:
            for (shard, _), scope, look in zip(self._each(), scopes, looks, strict=True):
                tasks.write_candidates(shard, step, np.flatnonzero(scope & look.known))
            group(self.context.store, step)
        elif step.id not in self._was.grouped:
            for look in looks:  # nothing tells which pairs share a key
                look.known[:] = False
        return is_certain

    def _pool(self, step: Step, scopes: Sequence[Mask]) -> None:
        """A pool filter's rounds, and what it derives."""

        def each(task: Callable[[Shard, Step, Rows], T]) -> Iterator[T]:
            for (shard, _), scope in zip(self._each(), scopes, strict=True):
                yield task(shard, step, np.flatnonzero(scope))

        pool_rounds.settle(self.context, step, lambda: each(pool_rounds.summarize))
        if step.derives:
            self.context.store.remove(f"derived/{step.id}")
            deque(each(pool_rounds.derive), maxlen=0)

    def _add(self, step: Step, looks: Sequence[_Look], is_certain: bool) -> None:
        """Pairs that are added: as likely as their parents were to reach the step, if they stay."""
        for (shard, record), rows, look in zip(self._each(), self.rows, looks, strict=True):
            added = make_added(shard, step)
            parents = added.table["parent_row"].to_numpy()
            stays = added.reasons.is_null().to_numpy(zero_copy_only=False)
            sure = stays & rows.sure[parents] & look.known[parents] & is_certain
            self.added.append(Chances(stays, sure, rows.weight[parents] * stays, rows.scale))
            numbers = uid.to_numbers(added.table["uid"].combine_chunks())[stays]
            self._digests.append(tasks.digest(numbers, record.rows + np.flatnonzero(stays), record.index))

    def _decide(self, step: Step, looks: Sequence[_Look], is_certain: bool, found: Outlook) -> None:
        for (shard, _), rows, look in zip(self._each(), self.rows, looks, strict=True):
            those = np.flatnonzero(rows.possible & look.known)
            stays = pc.is_null(shard.decide(step, those, {})).to_numpy(zero_copy_only=False)
            found.decided += len(those)
            found.kept += int(stays.sum())
            rows.drop(those[~stays], is_certain)
            if not is_certain:
                rows.sure[those] = False

    def _go_on(self, step: Step, looks: Sequence[_Look], found: Outlook) -> None:
        """Pairs whose score is not known stay if they did in the last run, else as likely as those whose is."""
        share = self._shares.get(step.id)
        if found.decided >= ENOUGH or (share is None and found.decided):
            share = found.kept / found.decided
        for record, rows, look in zip(self.shards, self.rows, looks, strict=True):
            gap = np.flatnonzero(rows.possible & ~look.known)
            if not len(gap):
                continue
            past = self._was.stayed(step, record)
            chance = np.full(len(gap), np.nan) if past is None else past[gap]
            self.is_bound |= share is None and bool(np.isnan(chance).any())
            rows.sure[gap] = False
            rows.weight[gap] *= np.nan_to_num(chance, nan=1.0 if share is None else share)
