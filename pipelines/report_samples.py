"""Which pairs a report shows: at score quantiles, nearest to each threshold, by reason, kept ones, duplicates.

All are chosen by values and hashes of places, so that the same run shows the same pairs.  What is nearest to a
threshold is exact: the counts by bin tell between which values to look, and only those pairs are sorted.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pairsieve.pipelines.report_charts import JOINED, Chart, Sample
from pairsieve.pipelines.report_cuts import Cut
from pairsieve.pipelines.report_source import Source
from pairsieve.pipelines.sql import quote, text

QUANTILES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
NEAREST = 6
BY_REASON = 6
KEPT = 24
REASONS = 60
"""Reasons that have samples, the most frequent; the others are counted."""
CLUSTERS, MEMBERS = 6, 6
"""Clusters of either kind, and duplicates of each, that are shown."""


@dataclass(frozen=True)
class Pick:
    """A pair that is shown: its place, and what is said of it there."""

    shard: int
    row: int
    note: str = ""
    value: float | None = None


@dataclass(frozen=True)
class Reason:
    """Why pairs went, how many, and some of them; ``step`` None: those that stay."""

    step: str | None
    reason: str
    pairs: int
    picks: tuple[Pick, ...]


@dataclass(frozen=True)
class Cluster:
    """Pairs that lost to one: how many, and some of them, the survivor first."""

    step: str
    survivor: str
    pairs: int
    picks: tuple[Pick, ...]


def at_quantiles(chart: Chart, sample: Sample) -> tuple[Pick, ...]:
    """Pairs of a sample at the quantiles of a column, of those that reached the step which cuts it."""
    values = np.ma.filled(np.ma.asarray(sample[chart.sql]).astype(np.float64), np.nan)
    fits = np.isfinite(values) & (sample["d"] >= (chart.step if chart.step is not None else -(1 << 15)))
    rows = np.flatnonzero(fits)
    rows = rows[np.argsort(values[rows], kind="stable")]
    places = dict.fromkeys(round(q * (len(rows) - 1)) for q in QUANTILES) if len(rows) else {}
    names = {round(q * (len(rows) - 1)): q for q in QUANTILES}
    return tuple(
        Pick(int(sample["shard"][rows[i]]), int(sample["row"][rows[i]]), _named(names[i]), float(values[rows[i]]))
        for i in places
    )


def _named(quantile: float) -> str:
    return {0.0: "least", 0.5: "median", 1.0: "greatest"}.get(quantile, f"{quantile:.0%} below")


def at_cut(source: Source, chart: Chart, cut: Cut) -> tuple[tuple[Pick, ...], tuple[Pick, ...]]:
    """The pairs nearest to a threshold among those that reached its step: that fail it, and that pass it."""
    low, high = _between(chart, cut)
    value = f"{cut.sql}::DOUBLE"
    what = f"""
        (SELECT shard, row, {cut.sql} AS value, ({cut.test}) AS passes FROM {quote(cut.view)}
         WHERE isfinite({value}) AND {value} BETWEEN {low!r} AND {high!r})
    """
    found = source.rows(f"""
        SELECT s.shard, s.row, value::DOUBLE, passes FROM {JOINED.format(view=what)} WHERE d >= {cut.step}
        QUALIFY row_number() OVER (
            PARTITION BY passes ORDER BY abs(value::DOUBLE - {cut.limit}::DOUBLE), s.shard, s.row
        ) <= {NEAREST}
        ORDER BY value, s.shard, s.row
    """)
    picks = [(Pick(shard, row, "", value), passes) for shard, row, value, passes in found]
    return tuple(pick for pick, passes in picks if not passes), tuple(pick for pick, passes in picks if passes)


def _between(chart: Chart, cut: Cut) -> tuple[float, float]:
    """Values between which there are enough pairs on either side of a threshold, by the counts of bins."""
    if chart.axis is None:
        return chart.least, chart.most
    edges, counts = chart.axis.edges(), [0] * (chart.axis.bins + 2)
    for (fate, place, _), pairs in chart.counts.items():
        if place is not None and fate >= cut.step:
            counts[place + 1] += pairs
    bounds = [chart.least, *edges, chart.most]  # counts[i] lie between bounds[i] and bounds[i + 1]
    at = next((i for i in range(len(counts)) if bounds[i + 1] > cut.value), len(counts) - 1)
    first, last = at, at
    while first > 0 and sum(counts[first:at]) < NEAREST:
        first -= 1
    while last < len(counts) - 1 and sum(counts[at + 1 : last + 1]) < NEAREST:
        last += 1
    slack = 1e-9 * max(1.0, abs(chart.least), abs(chart.most))  # edges are rounded as no value is
    return min(chart.least, bounds[0]) if not first else bounds[first] - slack, bounds[last + 1] + slack


_REASONS = """
    SELECT dropped_by, reason, count(*),
           arg_min({{'shard': shard, 'row': row}}, hash(shard, row, {seed}::BIGINT), {most})
    FROM verdicts GROUP BY ALL
"""


def by_reason(source: Source) -> list[Reason]:
    """All reasons with their counts, in the order of the steps, the most frequent with samples; last what stays."""
    if "verdicts" not in source.columns:
        return []
    order = {step: k for k, step in enumerate((*("pool", *(step.id for step in source.steps)), None))}
    found = source.rows(_REASONS.format(seed=source.manifest.seed, most=KEPT))
    found.sort(key=lambda row: (order.get(row[0], -1), -row[2], str(row[1])))
    least = sorted((row[2] for row in found), reverse=True)[:REASONS][-1:] or [0]
    return [
        Reason(step, str(reason or ""), pairs, _some(picks, step) if pairs >= least[0] else ())
        for step, reason, pairs, picks in found
    ]


def _some(places: Sequence[dict[str, int]], step: str | None) -> tuple[Pick, ...]:
    return tuple(Pick(place["shard"], place["row"]) for place in places[: KEPT if step is None else BY_REASON])


_GROUPS = """
    CREATE TEMP TABLE groups AS SELECT dropped_by AS step, duplicate_of AS survivor, count(*) AS pairs
    FROM verdicts WHERE duplicate_of IS NOT NULL GROUP BY ALL
"""
_LARGEST = "SELECT step, survivor, pairs FROM groups ORDER BY pairs DESC, step, survivor LIMIT {most}"
_RANDOM = "SELECT step, survivor, pairs FROM groups ORDER BY hash(survivor, {seed}), step, survivor LIMIT {most}"
_SIZES = """
    SELECT step, count(*), sum(pairs)::BIGINT, max(pairs), count(*) FILTER (pairs = 1) FROM groups
    GROUP BY step ORDER BY list_position({steps}, step)
"""
_MEMBERS = """
    SELECT step, survivor, v.shard, v.row FROM chosen c JOIN verdicts v
    ON v.duplicate_of = c.survivor AND v.dropped_by = c.step
    QUALIFY row_number() OVER (PARTITION BY step, survivor ORDER BY v.shard, v.row) <= {members}
    ORDER BY step, survivor, v.shard, v.row
"""
_SURVIVORS = """
    SELECT step, survivor, v.shard, v.row FROM chosen c JOIN verdicts v ON v.uid = c.survivor
    WHERE v.dropped_by IS NULL OR list_position({steps}, v.dropped_by) > list_position({steps}, step)
    QUALIFY row_number() OVER (PARTITION BY step, survivor ORDER BY v.shard, v.row) = 1
"""


@dataclass(frozen=True)
class Duplicates:
    """Of each step: clusters, pairs that lost, most of one cluster, clusters of two; the largest and random ones."""

    steps: tuple[tuple[str, int, int, int, int], ...] = ()
    largest: tuple[Cluster, ...] = ()
    others: tuple[Cluster, ...] = ()


def duplicates(source: Source) -> Duplicates:
    """Clusters of duplicates, whatever step found them."""
    if "duplicate_of" not in source.columns.get("verdicts", {}):
        return Duplicates()
    steps = f"[{', '.join(text(step) for step in ('pool', *(step.id for step in source.steps)))}]"
    source.con.execute(_GROUPS)
    largest = source.rows(_LARGEST.format(most=CLUSTERS))
    known = {row[:2] for row in largest}
    random = source.rows(_RANDOM.format(most=2 * CLUSTERS, seed=f"{source.manifest.seed}::BIGINT"))
    random = [row for row in random if row[:2] not in known][:CLUSTERS]
    made = {(c.step, c.survivor): c for c in _clusters(source, [*largest, *random], steps)}
    return Duplicates(
        tuple((str(a), b, c, d, e) for a, b, c, d, e in source.rows(_SIZES.format(steps=steps))),
        tuple(made[row[:2]] for row in largest),
        tuple(made[row[:2]] for row in random),
    )


def _clusters(source: Source, chosen: Sequence[tuple[Any, ...]], steps: str) -> Iterator[Cluster]:
    source.con.execute("CREATE TEMP TABLE chosen (step VARCHAR, survivor VARCHAR)")
    if chosen:
        source.con.executemany("INSERT INTO chosen VALUES (?, ?)", [list(row[:2]) for row in chosen])
    picks: dict[tuple[str, str], list[Pick]] = {row[:2]: [] for row in chosen}
    for step, survivor, shard, row in source.rows(_SURVIVORS.format(steps=steps)):
        picks[step, survivor].append(Pick(shard, row, "stays"))
    for step, survivor, shard, row in source.rows(_MEMBERS.format(members=MEMBERS)):
        picks[step, survivor].append(Pick(shard, row, "duplicate"))
    source.con.execute("DROP TABLE chosen")
    yield from (Cluster(step, survivor, pairs, tuple(picks[step, survivor])) for step, survivor, pairs in chosen)
