"""What the explorer answers, as JSON values: the run at a glance, pairs, moved thresholds, stories, comparison, search.

One user, one run or two.  Questions about thresholds are worked on one at a time; one that is overtaken is given up.
"""

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from threading import Lock
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
from numpy.typing import NDArray

from pairsieve.filters._expressions import columns_of
from pairsieve.filters.base import deciding_settings
from pairsieve.pipelines.explore_compare import Comparison
from pairsieve.pipelines.explore_cuts import Cut, Histogram, as_line, cuts_of, histogram, notch, recipe_line
from pairsieve.pipelines.explore_cuts import changed as filter_changed
from pairsieve.pipelines.explore_images import Thumbnails, places
from pairsieve.pipelines.explore_ladder import UNMEASURED, Ladder, SupersededError, Walk
from pairsieve.pipelines.explore_query import Pairs, nearest
from pairsieve.pipelines.explore_story import story
from pairsieve.pipelines.explore_table import VERDICT, LoadedRun
from pairsieve.pipelines.progress import Stage
from pairsieve.pipelines.search import Query, search
from pairsieve.schemas import uid
from pairsieve.schemas.columns import OF_ADDED
from pairsieve.schemas.errors import PairsieveError, UserError

SIDES_SHOWN = 24
"""Pairs that change sides are shown so many each way."""
MOST_UIDS = 20_000_000
FOUND = 60
"""Pairs that a search gives."""
CARD = ("uid", "shard", "row", "url", "text", "dropped_by", "reason")


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


class RunSession:
    """One run."""

    def __init__(self, loaded: LoadedRun, pairs: Pairs, ladder: Ladder | None, embeddings: str | None) -> None:
        """``ladder``: None where thresholds are not moved; ``embeddings``: a column that can be searched."""
        self.loaded, self.pairs, self.ladder, self._embeddings = loaded, pairs, ladder, embeddings
        self.images = Thumbnails(loaded.context, list(loaded.shards))
        self._latest, self._lock = 0, Lock()
        self._looked_at = lru_cache(32)(self._look)

    def overview(self) -> dict[str, Any]:
        """The run at a glance."""
        tally = self.pairs.tally()
        return {
            "root": self.loaded.root,
            "pairs": self.loaded.rows + self.loaded.added,
            "kept": sum(count for by, _, count in tally if by is None),
            "has_images": self.images.are_there,
            "embeddings": self._embeddings,
            "columns": self._columns(),
            "funnel": self._funnel(tally),
        }

    def _columns(self) -> list[dict[str, Any]]:
        from_step = {name: step.id for step in self.loaded.plan.steps for name in step.given}
        return [
            {"name": n, "from": from_step.get(n, "verdict" if n in VERDICT else "pool"), "is_number": _is_number(kind)}
            for n, kind in self.pairs.types.items()
        ]

    def _funnel(self, tally: Sequence[tuple[str | None, str | None, int]]) -> list[dict[str, Any]]:
        """The pool and every step: who reached it, who went there and why, and what can be moved."""
        found, left = [], self.loaded.rows
        names = ["pool", *(step.id for step in self.loaded.plan.steps)]
        for k, name in enumerate(names, -1):
            step = self.loaded.plan.steps[k] if k >= 0 else None
            reasons = [{"reason": reason, "pairs": n} for by, reason, n in tally if by == name]
            gone = sum(n for by, _, n in tally if by == name)
            left += self.loaded.added if step is not None and step.adds else 0
            cuts = [] if step is None else [self._cut(cut) for cut in cuts_of(step)]
            is_taken = step is not None and self.ladder is not None and step.id in self.ladder.taken
            row = {"step": name, "filter": step.name if step else "pool", "reached": left, "dropped": gone}
            shown = [] if is_taken or self.ladder is None else cuts
            found.append({**row, "reasons": reasons, "cuts": shown, "is_taken": is_taken})
            left -= gone
        return found

    def _cut(self, cut: Cut) -> dict[str, Any]:
        shown = ("setting", "value", "is_integer", "may_be_unset", "column", "on_scale", "is_share", "says")
        return {name: getattr(cut, name) for name in shown}

    def page(
        self, where: str, order: str | None, descending: bool, start: int, rows: int, columns: Sequence[str]
    ) -> dict[str, Any]:
        """A page of pairs and how many there are in all."""
        count, numbers = self.pairs.page(where, order, descending, start, rows)
        return {"count": count, "pairs": self.cards(numbers, columns)}

    def cards(self, numbers: Sequence[int], columns: Sequence[str] = ()) -> list[dict[str, Any]]:
        """What a card shows of pairs."""
        names = [n for n in dict.fromkeys((*CARD, *columns)) if n in self.pairs.types]
        return self.pairs.pairs(numbers, names)

    def story(self, number: int) -> dict[str, Any]:
        """A pair's story; raises ``UserError`` where there is none."""
        found = story(self.loaded, self.pairs, number)
        if found is None:
            raise UserError(f"there is no pair {number}")
        return found

    def thumbnail(self, number: int, side: int) -> bytes:
        """The pair's image as JPEG; raises ``UserError`` or ``NoPictureError``."""
        found = self.pairs.pairs([number], ["shard", "row"])
        if not found:
            raise UserError(f"there is no pair {number}")
        return self.images.get(*places(found[0]), side)

    def moved(self, asked: Moved) -> dict[str, Any]:
        """What becomes of the pairs with other settings of a step; raises ``SupersededError`` if overtaken."""
        ladder = self._ladder()
        self._latest = max(self._latest, asked.ticket)
        with self._lock:
            if asked.ticket < self._latest:
                raise SupersededError
            k, cut = self._find(asked)
            made = self.loaded.plan.steps[k].filter
            if changes := {name: value for name, value in asked.changes.items() if value != self._now(k, name)}:
                made = filter_changed(self.loaded.plan.steps[k], changes)
            walk = ladder.walk(k, made, lambda: asked.ticket < self._latest)
            return self._sides(ladder, k, cut, walk, changes)

    def prepare(self, stage: Stage) -> None:
        """Hold what the first move of each threshold would otherwise wait for."""
        for step in self.loaded.plan.steps:
            for cut in cuts_of(step) if self.ladder is not None and step.id not in self.ladder.taken else ():
                self.moved(Moved(step.id, cut.setting, {}, 0))
            stage.advance(1)

    def _ladder(self) -> Ladder:
        if self.ladder is None:
            raise UserError("thresholds of this run cannot be moved")
        return self.ladder

    def _find(self, asked: Moved) -> tuple[int, Cut]:
        for k, step in enumerate(self.loaded.plan.steps):
            if step.id == asked.step:
                known = {cut.setting: cut for cut in cuts_of(step)}
                if asked.setting in known and set(asked.changes) <= set(known):
                    return k, known[asked.setting]
        raise UserError(f"{asked.step}.{asked.setting}: there is no such threshold")

    def _now(self, k: int, setting: str) -> Any:
        return deciding_settings(self.loaded.plan.steps[k].filter).get(setting)

    def _sides(self, ladder: Ladder, k: int, cut: Cut, walk: Walk, changes: Mapping[str, Any]) -> dict[str, Any]:
        """Counts, and the pairs that change sides, those nearest to the cut first."""
        seen = self._looked_at(k, cut.column, float(cut.value) if cut.on_scale and cut.value is not None else None)
        now = _stays(walk.fate if seen.is_whole else walk.fate[seen.numbers], k)
        mark = self._mark(k, cut, walk, changes)
        gained, lost = np.flatnonzero(now & ~seen.before), np.flatnonzero(seen.before & ~now)
        return {
            "reached": len(seen.numbers),
            "stays": [seen.stays, seen.stays + len(gained) - len(lost)],
            "kept": [self._kept(self.loaded.fate), self._kept(walk.fate)],
            "gained": self._side(seen, gained, cut, mark, walk),
            "lost": self._side(seen, lost, cut, mark, walk),
            "unmeasured": self._unmeasured(walk),
            "taken": walk.taken,
            "mark": mark,
            "histogram": None if seen.bins is None else seen.bins.counts(gained, lost),
            "range": self._range(cut, seen),
            "line": recipe_line(self.loaded.manifest, k, changes),
            "set": [f"--set filters.{cut.step}.{n}={'null' if v is None else v}" for n, v in changes.items()],
        }

    def _kept(self, fate: NDArray[np.int16]) -> int:
        return int(np.count_nonzero(fate == len(self.loaded.plan.steps)))

    def _look(self, k: int, column: str | None, mark: float | None) -> "_Seen":
        """What a step saw, and its values of a column; the last few are held."""
        ladder = self._ladder()
        numbers = np.flatnonzero(ladder.measured(k))
        before = self.loaded.fate[numbers] > k
        if column is None:
            return _Seen(numbers.astype(np.int32), before, None, None, len(numbers) == self.loaded.rows)
        taken = ladder.column(column).take(pa.array(numbers))
        values = pc.fill_null(taken.cast(pa.float64(), safe=False), float("nan")).to_numpy(zero_copy_only=False)
        bins = histogram(values, [] if mark is None else [mark], _is_whole(taken.type), before)
        small = values.astype(np.float32)
        held = small if np.array_equal(small, values, equal_nan=True) else values
        return _Seen(numbers.astype(np.int32), before, held, bins, len(numbers) == self.loaded.rows)

    def _side(
        self, seen: "_Seen", places_: NDArray[np.int64], cut: Cut, mark: float | None, walk: Walk
    ) -> dict[str, Any]:
        values = None if seen.values is None else seen.values[places_]
        few = nearest(values, seen.numbers[places_].astype(np.int64), mark, SIDES_SHOWN)
        cards = self.cards(few, [cut.column] if cut.column else [])
        for card in cards:
            card["then"] = self._fate(int(walk.fate[card["number"]]))
        return {"count": len(places_), "pairs": cards}

    def _fate(self, fate: int) -> str:
        steps = self.loaded.plan.steps
        if fate <= UNMEASURED:
            return f"not yet measured by {steps[UNMEASURED - fate].id}"
        return "kept" if fate == len(steps) else f"dropped by {steps[fate].id}"

    def _unmeasured(self, walk: Walk) -> list[dict[str, Any]]:
        """Pairs that would newly reach a step which never measured them."""
        counts = np.bincount(UNMEASURED - walk.fate[walk.fate <= UNMEASURED].astype(np.int64))
        return [{"step": self.loaded.plan.steps[k].id, "pairs": int(counts[k])} for k in np.flatnonzero(counts)]

    def _mark(self, k: int, cut: Cut, walk: Walk, changes: Mapping[str, Any]) -> float | None:
        """Where the cut lies among the values of its column."""
        if cut.on_scale:
            value = changes.get(cut.setting, cut.value)
            return None if value is None else float(value)
        settled = walk.settled.get(cut.step) or self.loaded.context.settled.get(cut.step) or {}
        found = settled.get("threshold")
        return None if found is None else float(found)

    def _range(self, cut: Cut, seen: "_Seen") -> dict[str, float]:
        """What a slider of the setting goes through."""
        if cut.is_share:
            return {"low": 0.0, "high": 1.0, "step": 0.001}
        if seen.bins is not None:
            low, high = seen.bins.low, seen.bins.high
            return {"low": low, "high": high, "step": notch(low, high, cut.is_integer)}
        most = max(10.0, 2.0 * float(cut.value or 0)) if cut.is_integer else max(1.0, 2.0 * float(cut.value or 0))
        return {"low": 0.0, "high": most, "step": notch(0.0, most, cut.is_integer)}

    def where_step(self, where: str) -> dict[str, Any]:
        """The condition as a step of a recipe, and where it may stand; raises ``UserError`` where it cannot."""
        if not where.strip():
            raise UserError("write a condition first")
        self.pairs.condition(where)
        used = columns_of(where, self.pairs.types)
        if known := [n for n in used if n in (*VERDICT, *OF_ADDED, "shard", "row")]:
            raise UserError(f"{known[0]} is known only after a run, so a recipe cannot ask for it; leave it out")
        places = [i for i, step in enumerate(self.loaded.plan.steps) if set(used) & set(step.given)]
        after = self.loaded.plan.steps[places[-1]].id if places else None
        return {"line": as_line({"where": where.strip()}), "after": after}

    def uids(self, where: str, kind: str) -> bytes:
        """The uids for which the condition is true: DataComp's subset format, or a CSV file."""
        found = self.pairs.uids(where, MOST_UIDS)
        out = io.BytesIO()
        if kind == "npy":
            np.save(out, uid.sorted_subset(uid.to_numbers(found["uid"].combine_chunks())))
        else:
            pa_csv.write_csv(found, out)
        return out.getvalue()

    def search(self, text: str) -> dict[str, Any]:
        """The pairs whose embeddings are nearest to a text; raises ``UserError``."""
        if self._embeddings is None:
            raise UserError("this run has no embeddings to search; give clip_score 'embeddings: true'")
        found = search(self.loaded.root, Query(text), embeddings=self._embeddings, top=FOUND)
        starts = np.cumsum([0, *(shard.rows for shard in self.loaded.shards)])
        numbers = [int(starts[hit.shard]) + hit.row for hit in found.hits]
        cards = self.cards(numbers)
        for card, hit in zip(cards, found.hits, strict=True):
            card["similarity"] = round(hit.score, 4)
        return {"pairs": cards, "column": found.column, "model": found.model, "vectors": found.vectors}


@dataclass
class Session:
    """The run, another one to compare with, and whether either changed on disk since it was loaded."""

    one: RunSession
    other: RunSession | None = None
    comparison: Comparison | None = None
    stamp: Callable[[str], str] = str
    stamps: tuple[str, ...] = ()

    def has_changed(self) -> bool:
        """Whether a run on disk is no longer the one that was loaded."""
        try:
            return self.stamps != tuple(self.stamp(root) for root in self._roots())
        except (PairsieveError, OSError):
            return True

    def _roots(self) -> list[str]:
        return [run.loaded.root for run in (self.one, self.other) if run is not None]

    def compare(self) -> Comparison:
        """The comparison; raises ``UserError`` where there is one run only."""
        if self.comparison is None:
            raise UserError("give a second run to compare with: pairsieve explore RUN OTHER")
        return self.comparison

    def run(self, name: str) -> RunSession:
        """``one`` or ``other``; raises ``UserError``."""
        found = {"one": self.one, "other": self.other}.get(name)
        if found is None:
            raise UserError("there is no such run here")
        return found

    def overview(self) -> dict[str, Any]:
        """Both at a glance."""
        other = None if self.other is None else self.other.overview()
        shared = [] if self.comparison is None else self.comparison.shared()
        return {"one": self.one.overview(), "other": other, "shared": shared}

    def compared(self, side: str, step: str | None, reason: str | None, start: int, rows: int) -> dict[str, Any]:
        """Pairs of a side, each as the run sees it that keeps it, else the first; ``run`` says which."""
        found = self.compare().pairs(side, step, reason, start, rows)
        cards = []
        for one, other in found["numbers"]:
            name = "other" if one is None or (side == "other" and other is not None) else "one"
            (card,) = self.run(name).cards([one if name == "one" else other])
            theirs = other if name == "one" else one
            verdict = self.run("other" if name == "one" else "one").cards([theirs]) if theirs is not None else []
            cards.append(card | {"run": name, "there": verdict[0] if verdict else None})
        return {"count": found["count"], "pairs": cards}


def _stays(fate: NDArray[np.int16], k: int) -> NDArray[np.bool_]:
    """Whether a pair gets past step ``k``, even if a later step never measured it."""
    return np.asarray((fate > k) | (fate < UNMEASURED - k))


def _is_whole(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind))


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))
