"""Distributions of a run's columns: exact counts by bin, split by what became of the pairs.

A view is read three times, whatever its columns: least and greatest values, a sample of about ``SAMPLE`` pairs that
decides bins and scales, and all pairs' counts in one query.  Ten million pairs of six columns take 10 CPU-seconds.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pairsieve.pipelines.report_cuts import NUMBERS, Cut
from pairsieve.pipelines.report_source import POOL, Source
from pairsieve.pipelines.sql import quote

SAMPLE = 50_000
"""Pairs of a sample, about; all of a smaller run."""
BINS = 56
DISTINCT = 300
"""A column of words with more distinct values in the sample is text, which has no distribution."""
CHARTS = 120
TOGETHER = 8
"""Charts of a query."""
CHARACTERS = "characters of text"
LEFT_OUT = frozenset({"uid", "shard", "row", "url", "text", "reason", "parent", "parent_row", "duplicate_of", "sha256"})
UNDECIDED = POOL - 1
"""The fate of pairs of an unfinished run that have no verdict yet."""
Sample = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Axis:
    """Equal bins from ``low`` on, of the value or, on a log scale, its natural logarithm."""

    low: float
    width: float
    bins: int
    is_log: bool = False

    def edges(self) -> list[float]:
        """The bounds of the bins, as values."""
        found = [self.low + self.width * i for i in range(self.bins + 1)]
        return [math.exp(edge) for edge in found] if self.is_log else found


@dataclass(frozen=True)
class Chart:
    """One column.  With ``cuts``, all of one step, the pairs are those that reached the step.

    ``counts`` are pairs by (fate, bin, whether the cuts let them pass); bin -1 and ``axis.bins`` hold what lies
    outside, None what has no value.  A column of words has them by word instead, and no axis.
    """

    view: str
    column: str
    sql: str
    kind: str
    cuts: tuple[Cut, ...] = ()
    axis: Axis | None = None
    least: float = math.nan
    most: float = math.nan
    counts: Mapping[tuple[int, Any, bool | None], int] = field(default_factory=dict)

    @property
    def step(self) -> int | None:
        """The step whose cuts are drawn."""
        return self.cuts[0].step if self.cuts else None

    def pairs(self, low: int = UNDECIDED, high: int = 1 << 15, passes: bool | str | None = "any") -> int:
        """Pairs whose fate lies between, both included; those that the cuts let pass, or not, or cannot judge."""
        return sum(n for (d, _, p), n in self.counts.items() if low <= d <= high and passes in ("any", p))


def charts(source: Source, cuts: Sequence[Cut]) -> tuple[list[Chart], dict[str, Sample], list[str]]:
    """A chart for each step and column that it cuts, then for each other column; samples by view; columns without."""
    others: list[str] = []
    steps = [f"{kind}_{step.id}" for step in source.steps for kind in ("scores", "derived")]
    views = ("pairs", *(name for name in steps if name in source.columns))
    wanted = [chart for view in views for chart in _wanted(source, view, cuts, others)]
    wanted.sort(key=lambda chart: (chart.step is None, chart.step or 0))  # stable: else as they come
    others += [chart.column for chart in wanted[CHARTS:]]
    found: list[Chart] = []
    samples: dict[str, Sample] = {}
    for view in views:
        with source.section(f"distributions of {view}"):
            if here := [chart for chart in wanted[:CHARTS] if chart.view == view]:
                samples[view] = _sample(source, view, here)
                found += _of_view(source, view, here, samples[view], others)
    return sorted(found, key=lambda chart: (chart.step is None, chart.step or 0)), samples, others


def _of_view(source: Source, view: str, wanted: list[Chart], sample: Sample, others: list[str]) -> Iterator[Chart]:
    """The charts of one view, counted a few at a time."""
    wanted = [made for chart in wanted if (made := _if_countable(chart, sample, others))]
    wanted = [_with_bins(chart, sample) for chart in _with_bounds(source, view, wanted)]
    for start in range(0, len(wanted), TOGETHER):
        yield from _counted(source, view, wanted[start : start + TOGETHER])


def _wanted(source: Source, view: str, cuts: Sequence[Cut], others: list[str]) -> Iterator[Chart]:
    """What a view has to draw: each column, by every step that cuts it; and what is computed of several columns."""
    here = [cut for cut in cuts if cut.view == view]
    plain = {name: kind for name, kind in source.columns.get(view, {}).items() if name not in LEFT_OUT}
    for name, kind in plain.items():
        if kind not in (*NUMBERS, "VARCHAR", "BOOLEAN") or kind == "UBIGINT":
            others.append(name)
            continue
        by_step = _by_step([cut for cut in here if cut.sql == quote(name)])
        yield from (Chart(view, name, quote(name), kind, those) for those in by_step or [()])
    for those in _by_step([cut for cut in here if cut.column not in plain]):
        yield Chart(view, those[0].column, those[0].sql, those[0].kind, those)
    if view == "pairs" and source.columns.get(view, {}).get("text") == "VARCHAR":
        yield Chart(view, CHARACTERS, 'length("text")', "BIGINT")


def _by_step(cuts: Sequence[Cut]) -> list[tuple[Cut, ...]]:
    """The cuts of each step and column together."""
    keys = dict.fromkeys((cut.step, cut.sql) for cut in cuts)
    return [tuple(cut for cut in cuts if (cut.step, cut.sql) == key) for key in keys]


JOINED = "{view} s LEFT JOIN fate f ON (s.shard::BIGINT << 32 | s.row) = f.place"


def _sample(source: Source, view: str, wanted: Sequence[Chart]) -> Sample:
    """Some pairs' place, fate and columns (``c0``, ``c1`` … by SQL), the same ones every time."""
    rows = source.manifest.pool.rows
    if view != "pairs":
        ((rows,),) = source.rows(f"SELECT count(*) FROM {quote(view)}")
    every = max(1, rows // SAMPLE)
    names = dict.fromkeys(chart.sql for chart in wanted)
    columns = ", ".join(f"{sql} AS c{i}" for i, sql in enumerate(names))
    what = f"(SELECT shard, row, {columns} FROM {quote(view)} WHERE hash(shard, row) % {every} = 0)"
    found = source.table(
        f"SELECT s.shard, s.row, coalesce(f.d, {UNDECIDED}) AS d, s.* EXCLUDE (shard, row) "
        f"FROM {JOINED.format(view=what)} ORDER BY s.shard, s.row"
    )
    return {name: found[f"c{i}"] for i, name in enumerate(names)} | {n: found[n] for n in ("shard", "row", "d")}


def _is_word(chart: Chart) -> bool:
    return chart.kind in ("VARCHAR", "BOOLEAN")


def _if_countable(chart: Chart, sample: Sample, others: list[str]) -> Chart | None:
    """The chart; None for a column of texts."""
    if _is_word(chart) and len(set(np.ma.compressed(np.ma.asarray(sample[chart.sql])).tolist())) > DISTINCT:
        others.append(chart.column)
        return None
    return chart


def _with_bounds(source: Source, view: str, made: Sequence[Chart]) -> list[Chart]:
    """The charts with the least and greatest value of each column of numbers."""
    names = dict.fromkeys(chart.sql for chart in made if not _is_word(chart))
    if not names:
        return list(made)
    values = [f"{name}::DOUBLE" for name in names]
    asked = ", ".join(f"{least}({v}) FILTER (isfinite({v}))" for v in values for least in ("min", "max"))
    (found,) = source.rows(f"SELECT {asked} FROM {quote(view)}")
    bounds = {name: found[2 * i : 2 * i + 2] for i, name in enumerate(names)}
    return [
        chart
        if _is_word(chart) or bounds[chart.sql][0] is None
        else replace(chart, least=bounds[chart.sql][0], most=bounds[chart.sql][1])
        for chart in made
    ]


def _with_bins(chart: Chart, sample: Sample) -> Chart:
    """The chart with its bins, where it has numbers."""
    if _is_word(chart) or math.isnan(chart.least):
        return chart
    values = np.ma.compressed(np.ma.asarray(sample[chart.sql])).astype(np.float64)
    is_whole = chart.kind not in ("FLOAT", "DOUBLE")
    return replace(chart, axis=axis_of(values[np.isfinite(values)], chart.least, chart.most, is_whole))


def axis_of(sample: NDArray[np.float64], least: float, most: float, is_whole: bool) -> Axis:
    """Bins for values between two bounds: round ones, without far outliers, logarithmic where values span decades."""
    low, middle, high = np.quantile(sample, [0.001, 0.5, 0.999]) if len(sample) else (least, least, most)
    is_log = bool(least > 0 and most > 3 and high > 30 * max(low, 1e-300) and high > 3 * middle)
    if is_log:
        least, most, low, high = (math.log(value) for value in (least, most, max(low, least), high))
    spread = max(high - low, 1e-300)
    least = least if low - least <= spread else low - spread / 10
    most = most if most - high <= spread else high + spread / 10
    width = (most - least) / BINS if is_log else _round_width((most - least) / BINS, is_whole)
    if width <= 0 or not math.isfinite(width):
        return Axis(least - 0.5, 1.0, 1)
    first = least if is_log else math.floor(least / width) * width
    first -= 0.5 * width if is_whole and width == 1 and not is_log else 0
    return Axis(first, width, max(1, min(2 * BINS, math.floor((most - first) / width) + 1)), is_log)


def _round_width(width: float, is_whole: bool) -> float:
    """The next of 1, 2, 2.5 and 5 times a power of ten, a whole number for whole numbers."""
    if width <= 0 or not math.isfinite(width):
        return 1.0 if is_whole else 0.0
    power = 10.0 ** math.floor(math.log10(width))
    found = next(power * step for step in (1, 2, 2.5, 5, 10) if power * step >= width * 0.999)
    return max(1.0, float(round(found))) if is_whole else found


def _counted(source: Source, view: str, made: Sequence[Chart]) -> Iterator[Chart]:
    """The charts with the counts of all pairs of the view."""
    keys = [(_bin(source, chart), _passes(chart)) for chart in made]
    inner = ", ".join(f"{b} AS b{i}, {p} AS p{i}" for i, (b, p) in enumerate(keys))
    sets = ", ".join(f"(d, b{i}, p{i})" for i in range(len(made)))
    shown = ", ".join(f"b{i}, p{i}, grouping(b{i})" for i in range(len(made)))
    what = f"(SELECT shard, row, {inner} FROM {quote(view)})"
    sql = f"""
        SELECT coalesce(d, {UNDECIDED}), count(*), {shown} FROM {JOINED.format(view=what)}
        GROUP BY GROUPING SETS ({sets})
    """
    counts: list[dict[tuple[int, Any, bool | None], int]] = [{} for _ in made]
    for fate, pairs, *values in source.rows(sql):
        i = next(i for i in range(len(made)) if not values[3 * i + 2])
        key = (fate, values[3 * i], values[3 * i + 1])
        counts[i][key] = counts[i].get(key, 0) + pairs
    yield from (replace(chart, counts=found) for chart, found in zip(made, counts, strict=True) if found)


def _bin(source: Source, chart: Chart) -> str:
    """SQL of the bin, or of the word with rare ones together."""
    if chart.kind == "BOOLEAN":
        return f"{chart.sql}::VARCHAR"
    if chart.kind == "VARCHAR":
        return f"left({chart.sql}, 200)"
    if chart.axis is None:
        return "NULL::INTEGER"
    value = f"{chart.sql}::DOUBLE"
    x = f"CASE WHEN {value} > 0 THEN ln({value}) ELSE {chart.axis.low - 1e9!r} END" if chart.axis.is_log else value
    place = f"floor(({x} - {chart.axis.low!r}) / {chart.axis.width!r})"
    return f"CASE WHEN isfinite({value}) THEN greatest(-1, least({chart.axis.bins}, {place}))::INTEGER END"


def _passes(chart: Chart) -> str:
    return " AND ".join(f"({cut.test})" for cut in chart.cuts) or "NULL::BOOLEAN"
