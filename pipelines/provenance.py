"""Why a pair was kept or dropped, and how two runs differ: answered from what the runs stored."""

from dataclasses import dataclass, replace
from typing import Any

import duckdb
from rich.console import RenderableType
from rich.table import Table

from pairsieve.pipelines import catalog
from pairsieve.pipelines.describe import cells, printable
from pairsieve.pipelines.near import RUN_FILE, no_run
from pairsieve.pipelines.run_file import last_run
from pairsieve.pipelines.store import Store
from pairsieve.schemas import uid as uids
from pairsieve.schemas.errors import UserError
from pairsieve.schemas.run import RunManifest, StepRecord

_SOME = 'pairsieve query {root} "SELECT uid, text, dropped_by FROM scores LIMIT 5" shows some'
LONG, SHOWN = 12, 4
"""A longer list is shown by its first few."""


@dataclass(frozen=True)
class Chapter:
    """One step of a pair's story: what it measured, what it decides by, and what came of it."""

    step: str
    measured: dict[str, Any]
    decides_by: dict[str, Any]
    outcome: str


@dataclass(frozen=True)
class Survivor:
    """The pair that a duplicate lost to, and what came of it in the end."""

    uid: str
    dropped_by: str | None
    reason: str | None


@dataclass(frozen=True)
class Story:
    """A candidate with the given uid; a pool that lists a pair twice has two of them."""

    pair: dict[str, Any]
    chapters: tuple[Chapter, ...]
    dropped_by: str | None
    reason: str | None
    survivor: Survivor | None = None


@dataclass(frozen=True)
class Difference:
    """How the kept pairs of two runs differ.

    ``only_one`` and ``only_other`` count the pairs that one run alone keeps, by (what the other run
    did with them, its reason); ``not in the pool`` where it never saw them.
    """

    one: int
    other: int
    both: int
    only_one: dict[tuple[str, str], int]
    only_other: dict[tuple[str, str], int]

    @property
    def jaccard(self) -> float:
        """Pairs in both over pairs in either; 1 for two empty runs."""
        either = self.one + self.other - self.both
        return self.both / either if either else 1.0


def manifest(store: Store) -> RunManifest:
    """The manifest of a run; raises ``UserError`` where there is none, or a damaged one."""
    if not store.exists("run.yaml"):
        raise no_run(store.root, RUN_FILE)
    found = last_run(store)
    if found is None:
        raise UserError(f"{store.root}: run.yaml is damaged; run the recipe again, which measures nothing")
    return found


_PAIR = """
    SELECT p.* EXCLUDE (reason), v.dropped_by, v.reason, v.duplicate_of
    FROM pairs p JOIN verdicts v USING (shard, row) WHERE p.uid = ? ORDER BY shard, row
"""


def why(root: str, uid: str) -> list[Story]:
    """The stories of a uid, one per place in the pool; raises ``UserError`` for an unknown one."""
    if not uids.is_uid(uid):
        raise UserError(f"{uid!r} is no uid; give its 32 hex characters; {_SOME.format(root=root)}")
    steps = manifest(Store(root)).steps
    with catalog.connect(root) as con:
        found = [_story(con, pair, steps) for pair in _rows(con, _PAIR, [uid])]
        found += [_story_of_added(con, pair, steps) for pair in _added(con, uid)]
    if not found:
        raise UserError(f"{root}: no candidate has uid {uid}; {_SOME.format(root=root)}")
    return found


_ADDED = """
    SELECT a.*, v.dropped_by, v.reason FROM added a JOIN verdicts v USING (shard, row)
    WHERE a.uid = ? ORDER BY shard, row
"""
_PARENT = "SELECT p.* EXCLUDE (reason), NULL AS duplicate_of FROM pairs p WHERE p.shard = ? AND p.row = ?"


def _added(con: duckdb.DuckDBPyConnection, uid: str) -> list[dict[str, Any]]:
    """Pairs of the uid that a step added."""
    has = con.execute("SELECT 1 FROM duckdb_views() WHERE view_name = 'added'").fetchall()
    return _rows(con, _ADDED, [uid]) if has else []


def _story_of_added(con: duckdb.DuckDBPyConnection, pair: dict[str, Any], steps: tuple[StepRecord, ...]) -> Story:
    """The story of its parent, up to the step that added it, which decides on it."""
    end = {name: pair.pop(name) for name in ("dropped_by", "reason")}
    parent = _rows(con, _PARENT, [pair["shard"], pair.pop("parent_row")])[0]
    story = _story(con, parent | end, steps)
    own = {name: pair[name] for name in ("text_source", "text_score")}
    story = replace(story, chapters=(*story.chapters[:-1], replace(story.chapters[-1], measured=own)))
    return replace(story, pair={**pair, **{name: value for name, value in parent.items() if name not in pair}})


def _story(con: duckdb.DuckDBPyConnection, pair: dict[str, Any], steps: tuple[StepRecord, ...]) -> Story:
    dropped_by, reason, better = (pair.pop(name) for name in ("dropped_by", "reason", "duplicate_of"))
    chapters, is_alive = [], dropped_by != "pool"
    for step in steps:
        outcome = "not reached" if not is_alive else f"dropped: {reason}" if dropped_by == step.id else "stays"
        chapters.append(Chapter(step.id, _measured(con, step.id, pair), step.deciding | (step.settled or {}), outcome))
        is_alive = is_alive and dropped_by != step.id
    names = [step.id for step in steps]
    survivor = None if better is None else _survivor(con, better, names[names.index(dropped_by) + 1 :])
    return Story(pair, tuple(chapters), dropped_by, reason, survivor)


_SURVIVOR = """
    SELECT dropped_by, reason FROM verdicts
    WHERE uid = $uid AND (dropped_by IS NULL OR list_contains($later, dropped_by))
    ORDER BY shard, row LIMIT 1
"""


def _survivor(con: duckdb.DuckDBPyConnection, uid: str, later: list[str]) -> Survivor | None:
    """What came of a pair that stayed at a step, given the steps behind that.

    None where it did not stay: runs of earlier versions may name one that lost to a third.
    """
    found = con.execute(_SURVIVOR, {"uid": uid, "later": later}).fetchall()
    return Survivor(uid, *found[0]) if found else None


def _measured(con: duckdb.DuckDBPyConnection, step: str, pair: dict[str, Any]) -> dict[str, Any]:
    """What a step stored for a pair, duplicates' survivor included; empty where it stored nothing."""
    found: dict[str, Any] = {}
    for view in (f"scores_{step}", f"derived_{step}"):
        if con.execute("SELECT count(*) FROM duckdb_views() WHERE view_name = ?", [view]).fetchall() == [(0,)]:
            continue
        for row in _rows(con, f'SELECT * FROM "{view}" WHERE shard = ? AND row = ?', [pair["shard"], pair["row"]]):
            found |= {name: value for name, value in row.items() if name not in ("uid", "shard", "row")}
    return found


def _rows(con: duckdb.DuckDBPyConnection, sql: str, parameters: list[Any]) -> list[dict[str, Any]]:
    return con.sql(sql, params=parameters).to_arrow_table().to_pylist()  # type: ignore[no-any-return]


_DIFF = """
    WITH verdicts AS (
        SELECT 'one' AS run, uid, dropped_by, reason FROM read_parquet($one, hive_partitioning = false)
        UNION ALL SELECT 'other', uid, dropped_by, reason FROM read_parquet($other, hive_partitioning = false)
    ),
    pairs AS (
        SELECT uid, run, bool_or(dropped_by IS NULL) AS kept, min(dropped_by) AS step, min(reason) AS reason
        FROM verdicts GROUP BY uid, run
    ),
    sides AS (
        SELECT uid,
               coalesce(bool_or(kept) FILTER (run = 'one'), false) AS in_one,
               coalesce(bool_or(kept) FILTER (run = 'other'), false) AS in_other,
               coalesce(min(step) FILTER (NOT kept), 'not in the pool') AS step,
               coalesce(min(reason) FILTER (NOT kept), '') AS reason
        FROM pairs GROUP BY uid
    )
    SELECT in_one, in_other, step, reason, count(*) FROM sides WHERE in_one OR in_other
    GROUP BY ALL ORDER BY count(*) DESC, step, reason
"""


def diff(one: str, other: str) -> Difference:
    """Compare the kept pairs of two finished runs by uid; raises ``UserError`` where one is not finished."""
    files = {}
    stores = {"one": Store(one), "other": Store(other)}
    for name, store in stores.items():
        if not store.exists(catalog.CATALOG):
            raise no_run(store.root)
        files[name] = [store.url(f"verdicts/{n}") for n in store.names("verdicts", ".parquet")]
    with duckdb.connect() as con:
        for store in stores.values():
            protocols = store.fs.protocol
            known = protocols if isinstance(protocols, str) else protocols[0]
            if not store.local and not con.filesystem_is_registered(known):
                con.register_filesystem(store.fs)
        found = con.execute(_DIFF, files).fetchall()
    only_one = {(step, reason): n for a, b, step, reason, n in found if a and not b}
    only_other = {(step, reason): n for a, b, step, reason, n in found if b and not a}
    both = sum(n for a, b, *_, n in found if a and b)
    return Difference(both + sum(only_one.values()), both + sum(only_other.values()), both, only_one, only_other)


def story_page(story: Story) -> list[RenderableType]:
    """A story as a table, a row a step."""
    table = Table(title=f"{story.pair['uid']}, shard {story.pair['shard']}, row {story.pair['row']}")
    for name in ("step", "measured", "decides by", "outcome"):
        table.add_column(name, overflow="fold")
    for chapter in story.chapters:
        row = (chapter.step, _listed(chapter.measured), _listed(chapter.decides_by), chapter.outcome)
        table.add_row(*cells(*row))
    place = ("uid", "shard", "row")
    about = printable(_listed({name: value for name, value in story.pair.items() if name not in place}))
    end = _end(story.dropped_by, story.reason)
    if (better := story.survivor) is not None:
        end += f", a duplicate of {better.uid}, which was {_end(better.dropped_by, better.reason)}"
    return [about, table, end]


def _end(dropped_by: str | None, reason: str | None) -> str:
    return "kept" if dropped_by is None else f"dropped by {dropped_by}: {reason}"


def diff_page(found: Difference, one: str, other: str) -> list[RenderableType]:
    """The comparison: sizes, overlap, and a table of what only one run keeps."""
    table = Table(title="kept by one run only")
    for name in ("kept by", "what the other run did with it", "reason"):
        table.add_column(name, overflow="fold")
    table.add_column("pairs", justify="right")
    for run, only in ((one, found.only_one), (other, found.only_other)):
        for (step, reason), count in only.items():
            table.add_row(*cells(run, step, reason, f"{count:,}"))
    sizes = f"{one}: {found.one:,} kept; {other}: {found.other:,} kept; both: {found.both:,}"
    return [f"{sizes}; Jaccard {found.jaccard:.4f}", table]


def _listed(values: dict[str, Any]) -> str:
    return "\n".join(f"{name}: {_shown(value)}" for name, value in values.items() if value is not None)


def _shown(value: Any) -> str:
    """A value as people read it: bytes in hex, of long ones how many, of long lists the first few."""
    if isinstance(value, bytes):
        return value.hex() if len(value) <= 32 else f"<{len(value)} bytes>"
    if isinstance(value, list | tuple):
        some = [_shown(one) for one in value[: SHOWN if len(value) > LONG else LONG]]
        return f"[{', '.join(some)}{f', … {len(value):,} in all' if len(value) > LONG else ''}]"
    return str(value)
