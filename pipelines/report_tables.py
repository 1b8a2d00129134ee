"""Tables of a report: hosts, picture sizes, entries of a metadata balance, downloads, texts that models wrote.

Hosts are counted in a sample of about ``SAMPLE`` pairs, all else exactly.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pairsieve.pipelines import hosts as host_facts
from pairsieve.pipelines.report_charts import JOINED
from pairsieve.pipelines.report_source import Source
from pairsieve.pipelines.sql import quote
from pairsieve.schemas.errors import PairsieveError

SAMPLE = 500_000
TOP = 15
EXAMPLES = 8
_SIDE = 1 << 32
TEXT = 240
"""Characters of a text that are shown."""
_HOST = r"lower(regexp_extract(url, '^[A-Za-z][A-Za-z0-9+.-]*://(?:[^/?#@]*@)?([^/?#:]*)', 1))"


@dataclass(frozen=True)
class Counted:
    """Values with their pairs and how many of these are kept; ``rows`` pairs and ``values`` values in all."""

    top: tuple[tuple[str, int, int], ...]
    rows: int
    values: int
    is_sample: bool = False


def hosts(source: Source) -> Counted | None:
    """The hosts of most URLs."""
    if "url" not in source.columns.get("pairs", {}):
        return None
    ((rows,),) = source.rows("SELECT count(*) FROM pairs WHERE url IS NOT NULL")
    every = max(1, rows // SAMPLE)
    what = f"(SELECT shard, row, {_HOST} AS host FROM pairs WHERE url IS NOT NULL AND hash(shard, row) % {every} = 0)"
    return _counted(source, f"left(host, 100) AS value, d FROM {JOINED.format(view=what)}", every > 1)


def sizes(source: Source) -> tuple[str, Counted] | None:
    """The commonest sizes of pictures, and where they are from."""
    for view in (*(f"scores_{step.id}" for step in source.steps), "pairs"):
        for first, second in (("original_width", "original_height"), ("width", "height")):
            if first in source.columns.get(view, {}) and second in source.columns[view]:
                sides = [f"TRY_CAST({quote(name)} AS UINTEGER)" for name in (first, second)]
                value = f"{sides[0]}::UBIGINT * {_SIDE} + {sides[1]}"  # a number: words would take three times as long
                what = f"(SELECT shard, row, {value} AS size FROM {quote(view)})"
                found = _counted(
                    source, f"size AS value, d FROM {JOINED.format(view=what)} WHERE size IS NOT NULL", False
                )
                named = tuple((_size(int(size)), pairs, kept) for size, pairs, kept in found.top)
                return f"{first}, {second} of {view}", replace(found, top=named)
    return None


def _size(both: int) -> str:
    width, height = divmod(both, _SIDE)
    return f"{width} × {height}"


def _counted(source: Source, sql: str, is_sample: bool) -> Counted:
    found = source.rows(f"""
        WITH counted AS (
            SELECT value, count(*) AS pairs, count(*) FILTER (d = {source.kept}) AS kept
            FROM (SELECT {sql}) GROUP BY value
        )
        SELECT value, pairs, kept, sum(pairs) OVER ()::BIGINT, count(*) OVER ()
        FROM counted ORDER BY pairs DESC, value LIMIT {TOP}
    """)
    rows, values = found[0][3:] if found else (0, 0)
    return Counted(tuple((str(value), pairs, kept) for value, pairs, kept, *_ in found), rows, values, is_sample)


@dataclass(frozen=True)
class Balance:
    """Entries of a metadata balance.  ``parts`` are (name, entries, matches, kept matches); entries are
    (name, language, count, probability, kept)."""

    step: str
    t: Any
    parts: tuple[tuple[str, int, int, int], ...]
    head: tuple[tuple[Any, ...], ...]
    edge: tuple[tuple[Any, ...], ...]
    tail: tuple[tuple[Any, ...], ...]


_PARTS = """
    SELECT CASE WHEN count = 0 THEN 'match nothing' WHEN probability < 1 THEN 'head: thinned'
                ELSE 'tail: whole' END AS part,
           count(*), sum(count)::BIGINT, sum(kept)::BIGINT FROM {view} GROUP BY part ORDER BY part
"""
_ENTRIES = """
    SELECT coalesce(left(entry, 80), '#' || entry_id), language, count, probability, kept FROM {view}
    WHERE {where} ORDER BY {order}, entry_id LIMIT {top}
"""


def balances(source: Source) -> Iterator[Balance]:
    """Head and tail of every metadata_balance."""
    for step in source.steps:
        view = f"{step.id}_entries"
        if "probability" in source.columns.get(view, {}):
            name = quote(view)
            asked = (
                ("probability < 1", "count DESC"),
                ("probability >= 1 AND count > 0", "count DESC"),
                ("count > 0", "count"),
            )
            lists = [
                tuple(source.rows(_ENTRIES.format(view=name, where=where, order=order, top=TOP)))
                for where, order in asked
            ]
            parts = tuple(source.rows(_PARTS.format(view=name)))
            yield Balance(step.id, (step.settled or {}).get("t"), parts, *lists)


def downloads(source: Source) -> Iterator[host_facts.Report]:
    """Reasons, times and hosts of steps that fetched, as ``pairsieve hosts`` tells them."""
    for step in source.steps:
        if f"facts_{step.id}" in source.columns and not source.state:
            try:
                yield host_facts.report(source.store.root, step.id, TOP)
            except PairsieveError as error:
                source.unread.append(f"downloads of {step.id}: {error}")


@dataclass(frozen=True)
class Texts:
    """A pair with the texts that models wrote of it: (column, text, score, fate)."""

    shard: int
    row: int
    texts: tuple[tuple[str, str, float | None, str], ...]


_ADDED = """
    WITH parents AS (
        SELECT DISTINCT shard, parent_row FROM added ORDER BY hash(shard, parent_row), shard, parent_row LIMIT {most}
    )
    SELECT a.shard, a.parent_row, a.text_source, left(a.text, {length}), a.text_score, coalesce(v.reason, 'kept')
    FROM added a JOIN parents p USING (shard, parent_row) JOIN verdicts v ON a.shard = v.shard AND a.row = v.row
    ORDER BY a.shard, a.parent_row, a.row
"""
_WRITTEN = """
    SELECT shard, row, {column} FROM {view} WHERE len({column}) > 0 ORDER BY hash(shard, row), shard, row LIMIT {most}
"""


def added(source: Source) -> list[Texts]:
    """Some of the parents of pairs that were added, with all of their texts."""
    if "added" not in source.columns:
        return []
    return _gathered(source.rows(_ADDED.format(most=EXAMPLES, length=TEXT)))


def written(source: Source) -> Iterator[tuple[str, list[Texts]]]:
    """Some texts of every column of texts that a step wrote."""
    for step in source.steps:
        columns = source.columns.get(f"scores_{step.id}", {})
        for column in (name for name, kind in columns.items() if kind == "VARCHAR[]"):
            sql = _WRITTEN.format(column=quote(column), view=quote(f"scores_{step.id}"), most=EXAMPLES)
            found = [
                (a, b, column, str(text or "")[:TEXT], None, "")
                for a, b, texts in source.rows(sql)
                for text in texts[:4]
            ]
            if found:
                yield column, _gathered(found)


def _gathered(rows: Sequence[tuple[Any, ...]]) -> list[Texts]:
    """Rows of one pair together."""
    found: dict[tuple[int, int], list[tuple[str, str, float | None, str]]] = {}
    for shard, row, *rest in rows:
        found.setdefault((shard, row), []).append((rest[0], rest[1], rest[2], rest[3]))
    return [Texts(*place, tuple(texts)) for place, texts in found.items()]
