"""What a run must come to, in plain Python: verdicts, values and who is measured, from the documented rules alone.

Shares no code with pairsieve but the spelling of a recipe.  One pair at a time, so for small pools only.
"""

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

Place: TypeAlias = tuple[int, int]
"""Shard and row."""
Number: TypeAlias = int | float | None


@dataclass(frozen=True)
class Row:
    """A line of the pool's list; a ``bad`` one is no record, so it has nothing."""

    url: str | None
    text: str | None
    score: float | None
    bad: bool = False

    def __post_init__(self) -> None:
        """Nothing can be read from a bad line."""
        if self.bad:
            for name in ("url", "text", "score"):
                object.__setattr__(self, name, None)

    @property
    def reason(self) -> str | None:
        """Why the pool itself cannot give it."""
        if self.bad:
            return "bad_line"
        return None if self.url and self.url.strip() else "no_url"

    @property
    def uid(self) -> str:
        """128 bits of SHA-256 over (url, text), the url's length first."""
        length = -1 if self.url is None else len(self.url.encode())
        return hashlib.sha256(f"{length}:{self.url or ''}{self.text or ''}".encode()).hexdigest()[:32]


@dataclass(frozen=True)
class Step:
    """One filter at one place; ``key`` follows it through edits, ``name`` is its ``as:``."""

    key: int
    name: str
    of_pool: bool = False

    def spec(self, log: str) -> dict[str, Any]:
        """As a recipe spells it."""
        raise NotImplementedError

    def common(self, **settings: Any) -> dict[str, Any]:
        """The settings that every step has, and its own that are set."""
        given = {name: value for name, value in settings.items() if value is not None}
        return {"as": self.name, **({"of": "pool"} if self.of_pool else {}), **given}


@dataclass(frozen=True)
class Words(Step):
    """``caption_words``."""

    least: int = 0
    most: int = 64

    def spec(self, log: str) -> dict[str, Any]:
        """As a recipe spells it."""
        return {"caption_words": self.common(least=self.least, most=self.most)}


@dataclass(frozen=True)
class Counted(Step):
    """``tests.support_filters:Counted``; ``adds`` is the key of an earlier step that measures."""

    unit: int = 1
    adds: int | None = None
    column: str | None = None
    least: int = 0

    def spec(self, log: str) -> dict[str, Any]:
        """As a recipe spells it."""
        files = {"log": log, "breaks": f"{log}.breaks"}
        own = self.common(unit=self.unit, adds=self.column, least=self.least, tag=str(self.key), **files)
        return {"tests.support_filters:Counted": own}


@dataclass(frozen=True)
class Where(Step):
    """``where``, one of a few expressions; ``reads`` is the key of an earlier step that measures."""

    form: str = "score >= {k}"
    k: float = 0.0
    reads: int | None = None
    column: str | None = None

    def spec(self, log: str) -> dict[str, Any]:
        """As a recipe spells it."""
        return {"where": self.common(expression=self.form.format(k=self.k, column=self.column or "score"))}


FORMS: dict[str, Callable[[Row, Number, float], bool | None]] = {
    "score >= {k}": lambda row, value, k: None if row.score is None else row.score >= k,
    "score < {k} OR text IS NULL": lambda row, value, k: (
        True if row.text is None else None if row.score is None else row.score < k
    ),
    "length(text) > {k} * 4": lambda row, value, k: None if row.text is None else len(row.text) > k * 4,
    "{column} >= {k} * 4": lambda row, value, k: None if value is None else value >= k * 4,
    "{column} IS NOT NULL": lambda row, value, k: value is not None,
}
"""Expressions over the pair and one measured column, with their value in three-valued logic."""


@dataclass(frozen=True)
class Duplicates(Step):
    """``exact_duplicates``."""

    by: tuple[tuple[str, ...], ...] | None = None
    prefer: str | None = None

    def spec(self, log: str) -> dict[str, Any]:
        """As a recipe spells it."""
        by = None if self.by is None else [list(key) for key in self.by]
        return {"exact_duplicates": self.common(by=by, prefer=self.prefer)}


PREFER: dict[str | None, Callable[[Row], tuple[Any, ...]]] = {
    None: lambda row: (),
    "score DESC": lambda row: (row.score is None, -(row.score or 0)),
    "score": lambda row: (row.score is None, row.score or 0),
    "length(text) DESC, score": lambda row: (
        row.text is None,
        -len(row.text or ""),
        row.score is None,
        row.score or 0,
    ),
}
"""ORDER BY lists: DuckDB puts nulls last."""


@dataclass(frozen=True)
class Top(Step):
    """``clip_score`` over the pool's column ``score``."""

    top: float | None = None
    least: float | None = None

    def spec(self, log: str) -> dict[str, Any]:
        """As a recipe spells it."""
        return {"clip_score": self.common(column="score", top=self.top, min=self.least)}


@dataclass
class Outcome:
    """Verdicts by place (None = kept), and for each step by key the places it measures and the values."""

    rows: dict[Place, Row]
    verdicts: dict[Place, tuple[str, str] | None]
    measured: dict[int, list[Place]] = field(default_factory=dict)
    values: dict[int, dict[Place, Number]] = field(default_factory=dict)

    @property
    def alive(self) -> list[Place]:
        """Pairs that no step has dropped so far."""
        return [place for place, verdict in self.verdicts.items() if verdict is None]

    @property
    def given(self) -> list[Place]:
        """Pairs that the pool could give."""
        return [place for place, row in self.rows.items() if row.reason is None]


def places(rows: Sequence[Row], shard_rows: int) -> dict[Place, Row]:
    """The pool in its shards."""
    return {divmod(i, shard_rows): row for i, row in enumerate(rows)}


def judge(rows: Sequence[Row], shard_rows: int, steps: Sequence[Step]) -> Outcome:
    """The outcome of a recipe."""
    pool = places(rows, shard_rows)
    found = Outcome(pool, {place: ("pool", row.reason) if row.reason else None for place, row in pool.items()})
    for step in steps:
        scope = found.given if step.of_pool else found.alive
        found.measured[step.key] = scope
        found.values[step.key] = {place: _value(step, pool[place], found, place) for place in scope}
        for place, reason in list(_reasons(step, found)):
            found.verdicts[place] = (step.name, reason)
    return found


def _value(step: Step, row: Row, found: Outcome, place: Place) -> Number:
    if isinstance(step, Words):
        return None if row.text is None else len(row.text.split())
    if isinstance(step, Counted):
        other = 0 if step.adds is None else found.values[step.adds].get(place)
        return None if row.text is None or other is None else len(row.text) * step.unit + other
    return None


def _reasons(step: Step, found: Outcome) -> Iterator[tuple[Place, str]]:
    """Who goes, and why."""
    if isinstance(step, Duplicates):
        yield from _duplicates(step, found)
        return
    threshold = _threshold(step, found) if isinstance(step, Top) else None
    for place in found.alive:
        reason = _reason(step, found, place, threshold)
        if reason is not None:
            yield place, reason


def _reason(step: Step, found: Outcome, place: Place, threshold: float | None) -> str | None:
    row, value = found.rows[place], found.values[step.key].get(place)
    if isinstance(step, Words):
        many = "too_many_words" if value is not None and value > step.most else None
        return "null_text" if value is None else "too_few_words" if value < step.least else many
    if isinstance(step, Counted):
        return "null" if value is None else None if value >= step.least else "false"
    if isinstance(step, Where):
        read = row.score if step.reads is None else found.values[step.reads].get(place)
        says = FORMS[step.form](row, read, step.k)
        return "null" if says is None else None if says else "false"
    assert isinstance(step, Top)
    if step.top is None and step.least is None:
        return None
    if row.score is None:
        return "no_score"
    low = "below_top" if threshold is not None and row.score < threshold else None
    return "below_min" if step.least is not None and row.score < step.least else low


def _threshold(step: Top, found: Outcome) -> float | None:
    """The (floor(n·top)+1)-th largest score of the scope; None where that rank falls among missing ones."""
    if step.top is None:
        return None
    scope = found.measured[step.key]
    real = sorted((s for place in scope if (s := found.rows[place].score) is not None), reverse=True)
    rank = math.floor(len(scope) * step.top)
    return real[rank] if rank < len(real) else None


def _duplicates(step: Duplicates, found: Outcome) -> Iterator[tuple[Place, str]]:
    """Of all survivors that share a key, the first stays; keys apply one after the other."""
    left = found.alive
    for key in step.by or (("url", "text"),):
        groups: dict[tuple[str, ...], list[Place]] = {}
        for place in left:
            values = tuple(getattr(found.rows[place], name) for name in key)
            if None not in values:
                groups.setdefault(values, []).append(place)
        for members in groups.values():
            best = min(members, key=lambda p: (*PREFER[step.prefer](found.rows[p]), found.rows[p].uid, p))
            for place in members:
                if place != best:
                    left = [p for p in left if p != place]
                    yield place, f"same_{'_'.join(key)}"


def connected(steps: Sequence[Step]) -> tuple[Step, ...]:
    """Steps whose columns are there: what reads a step that is gone, or comes later, reads the pool instead."""
    done: dict[int, Step] = {}
    found: list[Step] = []
    for step in steps:
        if isinstance(step, Counted):
            there = _column(step.adds, done)
            step = replace(step, adds=step.adds if there else None, column=there, of_pool=step.of_pool and not there)
        elif isinstance(step, Where):
            there = _column(step.reads, done)
            step = replace(step, reads=step.reads if there else None, column=there)
        done[step.key] = step
        found.append(step)
    return tuple(found)


def _column(key: int | None, done: Mapping[int, Step]) -> str | None:
    """The column of an earlier step that measures a number: it bears the step's name."""
    step = None if key is None else done.get(key)
    return step.name if isinstance(step, Words | Counted) else None
