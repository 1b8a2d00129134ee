"""Moved thresholds as JSON values: new counts, a histogram with the cut, pairs that change sides, the recipe's line.

Questions are worked on one at a time; one that a later one overtakes is given up.  Of each step and column that was
looked at about 11 bytes a pair are held.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from threading import Lock
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pairsieve.filters.base import deciding_settings
from pairsieve.pipelines.explore_cuts import Cut, Histogram, changed, cuts_of, histogram, notch, recipe_line
from pairsieve.pipelines.explore_ladder import UNMEASURED, Ladder, SupersededError, Walk
from pairsieve.pipelines.explore_query import nearest
from pairsieve.pipelines.explore_table import LoadedRun
from pairsieve.pipelines.progress import Stage
from pairsieve.schemas.errors import UserError

SIDES_SHOWN = 24
"""Pairs that change sides are shown so many each way."""

Cards: TypeAlias = Callable[[Sequence[int], Sequence[str]], list[dict[str, Any]]]
"""What is shown of pairs: their numbers, and further columns."""


@dataclass(frozen=True)
class Moved:
    """A question: settings of a step as they would be, and which of them is looked at."""

    step: str
    setting: str
    changes: Mapping[str, float | int | None]
    ticket: int


@dataclass(frozen=True)
class _Seen:
    """The pairs that a step decided on in the run: their numbers, whether they stayed, values of a column.

    ``is_whole``: they are all pairs of the pool.
    """

    numbers: NDArray[np.int32]
    before: NDArray[np.bool_]
    values: NDArray[np.floating[Any]] | None
    bins: Histogram | None
    is_whole: bool

    @cached_property
    def stays(self) -> int:
        """How many stayed."""
        return int(np.count_nonzero(self.before))


class Moves:
    """The thresholds of one run."""

    def __init__(self, loaded: LoadedRun, ladder: Ladder, cards: Cards) -> None:
        """Nothing is moved yet."""
        self._loaded, self.ladder, self._cards = loaded, ladder, cards
        self._steps = loaded.plan.steps
        self._latest, self._lock = 0, Lock()
        self._held: dict[tuple[int, str | None], _Seen] = {}

    def cuts(self, k: int) -> list[Cut]:
        """What can be moved of a step."""
        return [] if self.is_taken(k) else cuts_of(self._steps[k])

    def is_taken(self, k: int) -> bool:
        """Whether a step keeps the verdicts of the run, whatever comes."""
        return self._steps[k].id in self.ladder.taken

    def moved(self, asked: Moved) -> dict[str, Any]:
        """What becomes of the pairs with other settings of a step; raises ``SupersededError`` if overtaken."""
        self._latest = max(self._latest, asked.ticket)
        with self._lock:
            if asked.ticket < self._latest:
                raise SupersededError
            k, cut = self._find(asked)
            step, now = self._steps[k], deciding_settings(self._steps[k].filter)
            changes = {name: value for name, value in asked.changes.items() if value != now.get(name)}
            made = changed(step, changes) if changes else step.filter
            walk = self.ladder.walk(k, made, lambda: asked.ticket < self._latest)
            return self._sides(k, cut, walk, changes)

    def prepare(self, stage: Stage) -> None:
        """Hold what the first move of each threshold would otherwise wait for."""
        for k, step in enumerate(self._steps):
            for cut in self.cuts(k):
                self.moved(Moved(step.id, cut.setting, {}, 0))
            stage.advance(1)

    def _find(self, asked: Moved) -> tuple[int, Cut]:
        for k, step in enumerate(self._steps):
            if step.id == asked.step:
                known = {cut.setting: cut for cut in self.cuts(k)}
                if asked.setting in known and set(asked.changes) <= set(known):
                    return k, known[asked.setting]
        raise UserError(f"{asked.step}.{asked.setting}: there is no such threshold")

    def _sides(self, k: int, cut: Cut, walk: Walk, changes: Mapping[str, Any]) -> dict[str, Any]:
        """Counts, and the pairs that change sides, those nearest to the cut first."""
        if (k, cut.column) not in self._held:
            self._held[k, cut.column] = self._look(k, cut.column)
        seen = self._held[k, cut.column]
        now = _stays(walk.fate if seen.is_whole else walk.fate[seen.numbers], k)
        mark = self._mark(k, cut, walk, changes)
        gained, lost = np.flatnonzero(now & ~seen.before), np.flatnonzero(seen.before & ~now)
        return {
            "reached": len(seen.numbers),
            "stays": [seen.stays, seen.stays + len(gained) - len(lost)],
            "kept": [self._kept(self._loaded.fate), self._kept(walk.fate)],
            "gained": self._side(seen, gained, cut, mark, walk),
            "lost": self._side(seen, lost, cut, mark, walk),
            "unmeasured": self._unmeasured(walk),
            "taken": walk.taken,
            "mark": mark,
            "histogram": None if seen.bins is None else seen.bins.counts(gained, lost),
            "range": self._range(cut, seen),
            "line": recipe_line(self._loaded.manifest, k, changes),
            "set": [f"--set filters.{cut.step}.{n}={'null' if v is None else v}" for n, v in changes.items()],
        }

    def _kept(self, fate: NDArray[np.int16]) -> int:
        return int(np.count_nonzero(fate == len(self._steps)))

    def _look(self, k: int, column: str | None) -> _Seen:
        """What a step saw, and its values of a column."""
        numbers = np.flatnonzero(self.ladder.measured(k))
        before, is_whole = self._loaded.fate[numbers] > k, len(numbers) == self._loaded.rows
        if column is None:
            return _Seen(numbers.astype(np.int32), before, None, None, is_whole)
        taken = self.ladder.column(column).take(pa.array(numbers))
        values = pc.fill_null(taken.cast(pa.float64(), safe=False), float("nan")).to_numpy(zero_copy_only=False)
        marks = [float(c.value) for c in self.cuts(k) if c.column == column and c.on_scale and c.value is not None]
        bins = histogram(values, marks, pa.types.is_integer(taken.type), before)
        small = values.astype(np.float32)
        held = small if np.array_equal(small, values, equal_nan=True) else values
        return _Seen(numbers.astype(np.int32), before, held, bins, is_whole)

    def _side(self, seen: _Seen, those: NDArray[np.int64], cut: Cut, mark: float | None, walk: Walk) -> dict[str, Any]:
        values = None if seen.values is None else seen.values[those]
        few = nearest(values, seen.numbers[those].astype(np.int64), mark, SIDES_SHOWN)
        cards = self._cards(few, [cut.column] if cut.column else [])
        for card in cards:
            card["then"] = self._fate(int(walk.fate[card["number"]]))
        return {"count": len(those), "pairs": cards}

    def _fate(self, fate: int) -> str:
        steps = self._steps
        if fate <= UNMEASURED:
            return f"not yet measured by {steps[UNMEASURED - fate].id}"
        return "kept" if fate == len(steps) else f"dropped by {steps[fate].id}"

    def _unmeasured(self, walk: Walk) -> list[dict[str, Any]]:
        """Pairs that would newly reach a step which never measured them."""
        counts = np.bincount(UNMEASURED - walk.fate[walk.fate <= UNMEASURED].astype(np.int64))
        return [{"step": self._steps[k].id, "pairs": int(counts[k])} for k in np.flatnonzero(counts)]

    def _mark(self, k: int, cut: Cut, walk: Walk, changes: Mapping[str, Any]) -> float | None:
        """Where the cut lies among the values of its column."""
        if cut.on_scale:
            value = changes.get(cut.setting, cut.value)
            return None if value is None else float(value)
        settled = walk.settled.get(cut.step) or self._loaded.context.settled.get(cut.step) or {}
        found = settled.get("threshold")
        return None if found is None else float(found)

    def _range(self, cut: Cut, seen: _Seen) -> dict[str, float]:
        """What a slider of the setting goes through."""
        if cut.is_share:
            return {"low": 0.0, "high": 1.0, "step": 0.001}
        if seen.bins is not None:
            low, high = seen.bins.low, seen.bins.high
            return {"low": low, "high": high, "step": notch(low, high, cut.is_integer)}
        most = max(10.0, 2.0 * float(cut.value or 0)) if cut.is_integer else max(1.0, 2.0 * float(cut.value or 0))
        return {"low": 0.0, "high": most, "step": notch(0.0, most, cut.is_integer)}


def _stays(fate: NDArray[np.int16], k: int) -> NDArray[np.bool_]:
    """Whether a pair gets past step ``k``, even if a later step never measured it."""
    return np.asarray((fate > k) | (fate < UNMEASURED - k))
