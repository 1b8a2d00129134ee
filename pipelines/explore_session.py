"""What the explorer answers, as JSON values: the run at a glance, pairs, moved thresholds, stories, comparison, search.

One user, one run or two.
"""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv

from pairsieve.filters._expressions import columns_of
from pairsieve.pipelines.explore_compare import Comparison
from pairsieve.pipelines.explore_cuts import Cut, as_line
from pairsieve.pipelines.explore_images import Thumbnails, places
from pairsieve.pipelines.explore_ladder import Ladder
from pairsieve.pipelines.explore_moves import Moves
from pairsieve.pipelines.explore_query import Pairs
from pairsieve.pipelines.explore_story import story
from pairsieve.pipelines.explore_table import VERDICT, LoadedRun
from pairsieve.pipelines.search import Query, search
from pairsieve.schemas import uid
from pairsieve.schemas.columns import OF_ADDED
from pairsieve.schemas.errors import UserError

MOST_UIDS = 20_000_000
FOUND = 60
"""Pairs that a search gives."""
CARD = ("uid", "shard", "row", "url", "text", "dropped_by", "reason")


class RunSession:
    """One run."""

    def __init__(self, loaded: LoadedRun, pairs: Pairs, ladder: Ladder | None, embeddings: str | None) -> None:
        """``ladder``: None where thresholds are not moved; ``embeddings``: a column that can be searched."""
        self.loaded, self.pairs, self._embeddings = loaded, pairs, embeddings
        self.images = Thumbnails(loaded.context, list(loaded.shards))
        self._moves = None if ladder is None else Moves(loaded, ladder, self.cards)

    def overview(self) -> dict[str, Any]:
        """The run at a glance."""
        tally = self._tally
        return {
            "root": self.loaded.root,
            "pairs": self.loaded.rows + self.loaded.added,
            "kept": sum(count for by, _, count in tally if by is None),
            "has_images": self.images.are_there,
            "embeddings": self._embeddings,
            "columns": self._columns(),
            "funnel": self._funnel(tally),
        }

    @cached_property
    def _tally(self) -> list[tuple[str | None, str | None, int]]:
        return self.pairs.tally()

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
            cuts = [] if step is None or self._moves is None else [_shown(cut) for cut in self._moves.cuts(k)]
            is_taken = step is not None and self._moves is not None and self._moves.is_taken(k)
            row = {"step": name, "filter": step.name if step else "pool", "reached": left, "dropped": gone}
            found.append({**row, "reasons": reasons, "cuts": cuts, "is_taken": is_taken})
            left -= gone
        return found

    @property
    def moves(self) -> Moves:
        """Its thresholds; raises ``UserError`` where they are not moved."""
        if self._moves is None:
            raise UserError("thresholds of this run cannot be moved")
        return self._moves

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
    has_changed: Callable[[], bool] = lambda: False

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


def _shown(cut: Cut) -> dict[str, Any]:
    names = ("setting", "value", "is_integer", "may_be_unset", "column", "on_scale", "is_share", "says")
    return {name: getattr(cut, name) for name in names}


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))
