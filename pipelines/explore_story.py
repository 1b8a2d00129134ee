"""A pair's story from the explorer's table: every step's scores, thresholds and verdict, and the pairs around it."""

from collections.abc import Sequence
from typing import Any

from pairsieve.pipelines.explore_query import Pairs, as_json
from pairsieve.pipelines.explore_table import VERDICT, LoadedRun
from pairsieve.pipelines.sql import quote
from pairsieve.schemas.columns import OF_ADDED, PARENT

MOST = 50
"""Other pairs that are named."""


def story(loaded: LoadedRun, pairs: Pairs, number: int) -> dict[str, Any] | None:
    """The story as JSON values; None where there is no such pair.  Its verdicts are those of ``pairsieve why``."""
    found = pairs.pairs([number])
    if not found:
        return None
    pair = found[0]
    of_steps = {name for step in loaded.plan.steps for name in step.given}
    own = {n: v for n, v in pair.items() if n not in of_steps and n not in VERDICT and n not in OF_ADDED}
    return {
        "pair": own,
        "text_source": pair.get("text_source"),
        "chapters": _chapters(loaded, pair),
        "dropped_by": pair["dropped_by"],
        "reason": pair["reason"],
        "survivor": _survivor(loaded, pairs, pair),
        "duplicates": [] if pair["duplicate_of"] == pair["uid"] else _named(pairs, "duplicate_of", pair["uid"]),
        "parents": _named(pairs, "uid", pair[PARENT])[:1] if pair.get(PARENT) else [],
        "added": _named(pairs, PARENT, pair["uid"]) if PARENT in pairs.types else [],
    }


def _survivor(loaded: LoadedRun, pairs: Pairs, pair: dict[str, Any]) -> list[dict[str, Any]]:
    """The pair that it lost to: of those with that uid, in a pool that lists it twice, the one that stayed there."""
    if not pair["duplicate_of"]:
        return []
    names = [step.id for step in loaded.plan.steps]
    stayed = (None, *names[names.index(pair["dropped_by"]) + 1 :])
    return [other for other in _named(pairs, "uid", pair["duplicate_of"]) if other["dropped_by"] in stayed][:1]


def _chapters(loaded: LoadedRun, pair: dict[str, Any]) -> list[dict[str, Any]]:
    chapters, dropped_by = [], pair["dropped_by"]
    is_alive = dropped_by != "pool"
    for step, record in zip(loaded.plan.steps, loaded.manifest.steps, strict=True):
        state = "not reached" if not is_alive else "dropped" if dropped_by == step.id else "stays"
        names = [name for name in step.given if name in pair]
        hidden = [name for name in step.given if name not in pair and name not in step.keys]
        deciding = {
            n: v for n, v in (record.deciding | (record.settled or {})).items() if v is not None and v is not False
        }
        chapters.append(
            {
                "step": step.id,
                "filter": record.filter,
                "measured": {name: pair[name] for name in names if pair[name] is not None},
                "not_shown": hidden,
                "decides_by": {n: _said(value) for n, value in deciding.items() if value not in (None, False, "")},
                "state": state,
                "reason": pair["reason"] if state == "dropped" else None,
            }
        )
        is_alive = is_alive and dropped_by != step.id
    return chapters


def _said(value: Any) -> Any:
    """A setting as it is shown."""
    return ", ".join(map(str, value)) if isinstance(value, Sequence) and not isinstance(value, str) else as_json(value)


def _named(pairs: Pairs, column: str, value: str) -> list[dict[str, Any]]:
    """Pairs with a value in a column of uids."""
    sql = f"SELECT rowid FROM {quote(pairs.table)} WHERE {quote(column)} = ? ORDER BY rowid LIMIT {MOST}"
    numbers = [int(number) for (number,) in pairs.rows(sql, [value])]
    return pairs.pairs(numbers, ["uid", "shard", "row", "text", "dropped_by", "reason"])
