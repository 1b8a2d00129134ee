"""What a report shows, gathered from a run in the order in which it is read: counts, samples, pictures.

The room of a page is shared out here: thresholds first, then reasons and what is kept, duplicates, quantiles.
"""

import shlex
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

from pairsieve.pipelines import report_funnel, report_page, report_samples, report_tables
from pairsieve.pipelines.progress import Reporter
from pairsieve.pipelines.report_charts import SAMPLE, Chart, Sample, charts
from pairsieve.pipelines.report_cuts import Cut, cuts
from pairsieve.pipelines.report_images import Images
from pairsieve.pipelines.report_pairs import pairs
from pairsieve.pipelines.report_samples import Duplicates, Pick, Reason
from pairsieve.pipelines.report_source import Source
from pairsieve.pipelines.store import Store

NAME = "report.html"
"""The usual name of a report, in its run."""
TILES = 600
"""Pairs that are shown, each with a picture, at most."""
REASONS = 300
LISTED = 200
"""Columns without a chart that are named."""


@dataclass(frozen=True)
class Near:
    """The pairs nearest to a threshold, that fail it and that pass it."""

    cut: Cut
    fail: tuple[Pick, ...]
    passing: tuple[Pick, ...]


@dataclass
class Entry:
    """A chart with the pairs beside it."""

    chart: Chart
    drawn: Any = None
    near: tuple[Near, ...] = ()
    quantiles: tuple[Pick, ...] = ()

    @property
    def reached(self) -> int:
        """Pairs that reached the step whose thresholds are drawn."""
        return self.chart.pairs(self.chart.step or 0)


class Gathered:
    """What the page shows, in the order in which it is read from the run."""

    def __init__(self, source: Source, progress: Reporter) -> None:
        """Read all of it."""
        self.source, self.progress = source, progress
        self.cuts = cuts(source)
        rows = source.manifest.pool.rows
        with progress.stage("report: counts", rows) as stage:
            self.reasons: list[Reason] = []
            with source.section("verdicts by reason"):
                self.reasons = report_samples.by_reason(source)
            self.funnel = report_funnel.funnel(source, self.reasons, self.cuts)
            found, samples, self.left_out = charts(source, self.cuts)
            stage.advance(rows)
        with progress.stage("report: samples", rows) as stage:
            self._choose(found, samples)
            self._tables()
            stage.advance(rows)
        places = {(pick.shard, pick.row) for pick in self._picks()}
        with progress.stage("report: pictures", len(places)) as stage:
            images = Images(source)
            self.pairs = pairs(source, places, images)
            self.images_are = images.where
            stage.advance(len(places))

    def _choose(self, found: Sequence[Chart], samples: dict[str, Sample]) -> None:
        """The pairs beside the charts, and those of the other sections, as far as there is room."""
        self.entries = [Entry(chart) for chart in found]
        self.room = TILES // 2  # however many steps cut, the rest of the page has the other half
        for entry in (entry for entry in self.entries if entry.chart.cuts):
            with self.source.section(f"pairs near a threshold of {entry.chart.column}"):
                entry.near = tuple(self._near(entry.chart, cut) for cut in entry.chart.cuts)
        self.room += TILES - TILES // 2
        self.reasons = [self._roomy(reason) for reason in reversed(self.reasons)][::-1]  # those that stay first
        self.duplicates = Duplicates()
        with self.source.section("duplicates"):
            self.duplicates = report_samples.duplicates(self.source)
            clusters = (*self.duplicates.largest, *self.duplicates.others)
            self.room -= sum(len(cluster.picks) for cluster in clusters)
        for entry in (entry for entry in self.entries if entry.chart.axis is not None):
            picks = report_samples.at_quantiles(entry.chart, samples[entry.chart.view])
            entry.quantiles = self._take(picks)

    def _near(self, chart: Chart, cut: Cut) -> Near:
        below, above = report_samples.at_cut(self.source, chart, cut) if chart.axis else ((), ())
        return Near(cut, self._take(below), self._take(above))

    def _roomy(self, reason: Reason) -> Reason:
        return Reason(reason.step, reason.reason, reason.pairs, self._take(reason.picks))

    def _take(self, picks: tuple[Pick, ...]) -> tuple[Pick, ...]:
        """The picks, while there is room for them."""
        found = picks if len(picks) <= self.room else ()
        self.room -= len(found)
        return found

    def _tables(self) -> None:
        source = self.source
        self.hosts = self.sizes = None
        self.balances: list[report_tables.Balance] = []
        self.texts: list[tuple[str, list[report_tables.Texts]]] = []
        with source.section("hosts"):
            self.hosts = report_tables.hosts(source)
        with source.section("sizes"):
            self.sizes = report_tables.sizes(source)
        with source.section("metadata entries"):
            self.balances = list(report_tables.balances(source))
        with source.section("texts"):
            self.texts = [("Pairs that were added", report_tables.added(source)), *report_tables.written(source)]
        self.downloads = list(report_tables.downloads(source))

    def _picks(self) -> Iterator[Pick]:
        for entry in self.entries:
            yield from entry.quantiles
            for near in entry.near:
                yield from (*near.fail, *near.passing)
        for picks in (each.picks for each in self.reasons):
            yield from picks
        for picks in (each.picks for each in (*self.duplicates.largest, *self.duplicates.others)):
            yield from picks
        for _, some in self.texts:
            yield from (Pick(each.shard, each.row) for each in some)

    @cached_property
    def judged(self) -> int:
        """Pairs that have a verdict."""
        return sum(reason.pairs for reason in self.reasons)

    def content(self) -> dict[str, Any]:
        """All that the template asks for."""
        source, kept = self.source, [reason for reason in self.reasons if reason.step is None]
        steps = [step.id for step in source.steps]
        for i, entry in enumerate(self.entries):
            name = steps[entry.chart.step] if entry.chart.step is not None else ""
            entry.drawn = report_page.drawn(entry.chart, f"c{i}", source.kept, report_page.visible(name, 40))
        dropped = [reason for reason in self.reasons if reason.step is not None]
        found = {
            **self._head(),
            "kept": sum(reason.pairs for reason in kept),
            "judged": self.judged,
            "steps": steps,
            "funnel": self.funnel,
            "cut_charts": [entry for entry in self.entries if entry.chart.cuts],
            "other_charts": [entry for entry in self.entries if not entry.chart.cuts],
            "left_out": self.left_out[:LISTED],
            "more_left_out": len(self.left_out[LISTED:]),
            "dropped": _most_frequent(dropped),
            "more_reasons": len(dropped[REASONS:]),
            "kept_picks": [pick for reason in kept for pick in reason.picks],
            "duplicates": self.duplicates,
            "balances": self.balances,
            "hosts": self.hosts,
            "sizes": self.sizes,
            "downloads": self.downloads,
            "texts": self.texts,
            "pairs": self.pairs,
            "images_are": self.images_are,
            "volumes": report_funnel.volumes(source, NAME),
            "models": list(report_funnel.models(source)),
            "recipe": source.manifest.recipe,
            "settled": {step.id: step.settled for step in source.steps if step.settled},
            "unread": source.unread,
        }
        return found | {"contents": list(_contents(found))}

    def _head(self) -> dict[str, Any]:
        """Of what run this is, and how to ask it."""
        source = self.source
        where = "." if source.store.local else source.store.root
        added = [line for line in self.funnel[-1:] if line.filter and self.judged > source.manifest.pool.rows]
        state = list(source.state)
        if source.state and self.judged < source.manifest.pool.rows:
            state.append(f"{self.judged:,} of {source.manifest.pool.rows:,} pairs have a verdict")
        return {
            "name": source.store.base.rstrip("/").rpartition("/")[2] or source.store.root,
            "when": _when(source.store),
            "state": state,
            "versions": source.manifest.versions,
            "seed": source.manifest.seed,
            "shards": source.manifest.pool.shards,
            "added_count": self.judged - source.manifest.pool.rows if added else 0,
            "shell": lambda command, *words: " ".join(
                ["pairsieve", command, shlex.quote(where), *map(shlex.quote, words)]
            ),
            "why": f"pairsieve why {shlex.quote(where)} UID",
            "sample_size": SAMPLE,
            "places": {view: "of the pool" if view == "pairs" else view.partition("_")[2] for view in source.columns},
        }


def _most_frequent(reasons: list[Reason]) -> list[Reason]:
    """As many as have room, in the order of the steps."""
    places = sorted(range(len(reasons)), key=lambda i: -reasons[i].pairs)[:REASONS]
    return [reasons[i] for i in sorted(places)]


_TITLES = (
    ("funnel", "Funnel", ("funnel",)),
    ("thresholds", "Thresholds", ("cut_charts",)),
    ("distributions", "Distributions", ("other_charts", "left_out")),
    ("dropped", "Dropped, by reason", ("dropped",)),
    ("kept", "Kept", ("kept_picks",)),
    ("duplicates", "Duplicates", ("has_duplicates",)),
    ("metadata", "Metadata entries", ("balances",)),
    ("texts", "Texts that models wrote", ("has_texts",)),
    ("sources", "Sources", ("hosts", "sizes", "downloads")),
    ("files", "Files and versions", ("volumes",)),
    ("recipe", "Recipe", ("recipe",)),
)


def _contents(found: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The sections that the page has: id and title."""
    more = {"has_duplicates": found["duplicates"].steps, "has_texts": any(some for _, some in found["texts"])}
    for ident, title, parts in _TITLES:
        if any({**found, **more}[part] for part in parts):
            yield ident, title


def _when(store: Store) -> str:
    """When the run was last written, to the minute; nothing where a filesystem does not tell."""
    with suppress(OSError, NotImplementedError, AttributeError, ValueError):
        found = store.fs.modified(store.path("run.yaml"))
        return found.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC") if isinstance(found, datetime) else ""
    return ""
