"""The page of a report from what was gathered: Jinja with everything escaped, one style sheet, no script.

Texts of strangers are shown as they are, but for control characters, which get their visible signs, and overrides of
the writing direction, which get their code point.
"""

import base64
import hashlib
import math
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from itertools import pairwise
from typing import Any

import jinja2
import yaml

from pairsieve.pipelines import figures, svg
from pairsieve.pipelines.recipe_public import public
from pairsieve.pipelines.report_charts import UNDECIDED, Chart
from pairsieve.pipelines.report_cuts import Cut
from pairsieve.pipelines.sql import quote

HERE = "pairsieve.pipelines"
NAME = 60
"""Characters of a column's name, a step's or a reason."""
SIGNS = {">=": "≥", ">": ">", "<=": "≤", "<": "<"}
_SIGNS = {"Cc": "control", "Cf": "format", "Cs": "surrogate", "Co": "private", "Zl": "line", "Zp": "paragraph"}
_KEPT_FORMATS = frozenset("\u200d\u200c")
"""Joiners that scripts and emoji need."""


def visible(value: object, most: int | None = None) -> str:
    """A text with what would not be seen made visible; longer ones end in an ellipsis."""
    string = str(value)
    string = string if most is None or len(string) <= most else f"{string[: most - 1]}…"
    if string.isspace():
        string = string.replace(" ", "␠")
    return "".join(_sign(c) if unicodedata.category(c) in _SIGNS else c for c in string)


def _sign(c: str) -> str:
    """What stands for a character without a shape."""
    if c in _KEPT_FORMATS:
        return c
    if c in "\n\r\t":
        return {"\n": "⏎", "\r": "␍", "\t": "⇥"}[c]
    return chr(0x2400 + ord(c)) if ord(c) < 0x20 else f"⟨U+{ord(c):04X}⟩"


def share(part: float, whole: float) -> str:
    """A share as people read it: ``12.3%``, ``<0.1%``."""
    if not whole:
        return "–"
    found = part / whole
    if 0 < found < 0.001:
        return "<0.1%"
    return ">99.9%" if 0.999 < found < 1 else f"{found:.1%}"


@dataclass(frozen=True)
class Drawn:
    """A chart as the page shows it; ``sides`` are (what the threshold does, pairs) of those that reached its step."""

    chart: Chart
    picture: Any
    legend: tuple[tuple[str, str, int], ...]
    sides: tuple[tuple[str, int], ...]
    sql: str

    @property
    def cuts(self) -> tuple[Cut, ...]:
        """The thresholds that are drawn."""
        return self.chart.cuts


def drawn(chart: Chart, ident: str, kept: int, step_name: str) -> Drawn:
    """A chart as SVG with its legend."""
    series = _series(chart, kept, step_name)
    found = _bars(chart, series)
    totals = tuple((name, look, sum(bar.parts[i].count for bar in found)) for i, (name, look, _) in enumerate(series))
    legend = tuple(line for line in totals if line[2])
    reached = chart.step if chart.step is not None else UNDECIDED
    missing = sum(n for (d, b, _), n in chart.counts.items() if b is None and d >= reached)
    legend += (("without a value", "none", missing),) if missing else ()
    name = visible(chart.column, NAME)
    marks = [svg.Mark(_edge(chart, cut), f"{SIGNS[cut.sign]} {svg.number(cut.value)}") for cut in chart.cuts]
    said = ", ".join(f"{line[2]:,} {line[0]}" for line in legend)
    title = f"Distribution of {name}"
    if not found:
        picture = None
    elif chart.axis is None:
        picture = svg.bars(ident, title, said, found)
    else:
        values = f"from {svg.number(chart.least)} to {svg.number(chart.most)}"
        picture = svg.histogram(ident, title, f"{values}: {said}", found, marks, chart.axis.is_log)
    return Drawn(chart, picture, legend, _sides(chart), _asked(chart))


def _edge(chart: Chart, cut: Cut) -> float:
    """Where a threshold is drawn: beside the bar of a whole number, not through it."""
    if chart.axis is None or chart.axis.is_log or chart.axis.width != 1 or chart.kind in ("FLOAT", "DOUBLE"):
        return cut.value
    return math.ceil(cut.value) - 0.5 if cut.sign in (">=", "<") else math.floor(cut.value) + 0.5


def _series(chart: Chart, kept: int, step: str) -> list[tuple[str, str, range]]:
    """(name, class, fates) of what a bar is stacked of."""
    if chart.step is None:
        found = [("kept", "kept", range(kept, kept + 1)), ("dropped", "later", range(-1, kept))]
    else:
        later = range(chart.step + 1, kept)
        found = [("kept", "kept", range(kept, kept + 1)), ("dropped by later steps", "later", later)]
        found.append((f"dropped by {step}", "lost", range(chart.step, chart.step + 1)))
    return [*found, ("not decided yet", "open", range(UNDECIDED, UNDECIDED + 1))]


def _bars(chart: Chart, series: list[tuple[str, str, range]]) -> list[svg.Bar]:
    """What lies outside the axis goes into the bars at its ends; rare words share one."""
    counts: dict[Any, list[int]] = {}
    for (fate, place, _), pairs in chart.counts.items():
        if place is None:
            continue
        at = place if chart.axis is None else min(max(int(place), 0), chart.axis.bins - 1)
        parts = counts.setdefault(at, [0] * len(series))
        for i, (_, _, fates) in enumerate(series):
            parts[i] += pairs if fate in fates else 0
    named = [(name, look) for name, look, _ in series]
    if chart.axis is None:
        return _words(counts, named)
    if not counts:
        return []
    edges = chart.axis.edges()
    return [
        svg.Bar(f"{svg.number(low)} to {svg.number(high)}", _parts(counts.get(i, [0] * len(series)), named), low, high)
        for i, (low, high) in enumerate(pairwise(edges))
    ]


def _words(counts: Mapping[Any, list[int]], named: list[tuple[str, str]]) -> list[svg.Bar]:
    order = sorted((word for word in counts if sum(counts[word])), key=lambda word: (-sum(counts[word]), str(word)))
    found = [svg.Bar(visible(word, NAME) or "(empty)", _parts(counts[word], named)) for word in order[:WORDS]]
    if rest := order[WORDS:]:
        total = [sum(values) for values in zip(*(counts[word] for word in rest), strict=True)]
        found.append(svg.Bar(f"{len(rest):,} others", _parts(total, named)))
    return found


WORDS = 16
"""Words that have a bar of their own."""


def _parts(counts: list[int], named: list[tuple[str, str]]) -> tuple[svg.Part, ...]:
    return tuple(svg.Part(name, look, count) for (name, look), count in zip(named, counts, strict=True))


def _sides(chart: Chart) -> tuple[tuple[str, int], ...]:
    """Of pairs that reached the step: how many the thresholds of this column let pass."""
    if chart.step is None:
        return ()
    sides = (("pass", True), ("fail", False), ("without a value", None))
    found = tuple((name, chart.pairs(chart.step, passes=passes)) for name, passes in sides)
    return tuple(side for side in found if side[1] or side[0] != "without a value")


def _asked(chart: Chart) -> str:
    """A query that gives the same."""
    column = chart.sql
    if chart.axis is None:
        return f"SELECT {column}, count(*) FROM {quote(chart.view)} GROUP BY ALL ORDER BY 2 DESC"
    value = f"log10({column})" if chart.axis.is_log else column
    width = chart.axis.width / 2.302585092994046 if chart.axis.is_log else chart.axis.width
    start = f"SELECT floor({value} / {width:.6g}) * {width:.6g} AS bin, count(*) FROM {quote(chart.view)}"
    where = f" WHERE isfinite({column}::DOUBLE)"
    return f"{start}{where} GROUP BY ALL ORDER BY 1"


def render(content: Mapping[str, Any]) -> bytes:
    """The page as UTF-8: surrogates that some text holds do not stop it."""
    style = "\n".join(files(HERE).joinpath(name).read_text(encoding="utf-8") for name in ("look.css", "report.css"))
    digest = base64.b64encode(hashlib.sha256(f"\n{style}\n".encode()).digest()).decode()
    page = _environment().get_template("report.html").render(style=style, style_digest=digest, **content)
    return page.encode("utf-8", "replace")


def _environment() -> jinja2.Environment:
    made = jinja2.Environment(
        loader=jinja2.FunctionLoader(lambda name: files(HERE).joinpath(name).read_text(encoding="utf-8")),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        "count": lambda value: f"{value:,}",
        "many": lambda value, what: f"{value:,} {what}{'' if value == 1 else 's'}",
        "number": svg.number,
        "seen": visible,
        "size": figures.size,
        "duration": figures.duration,
        "seen_lines": visible_lines,
        "yaml": lambda value: visible_lines(
            yaml.safe_dump(public(value), sort_keys=False, allow_unicode=True, width=100)
        ),
    }
    made.globals |= {"share": share, "share_bar": svg.share_bar, "name_length": NAME, "signs": SIGNS}
    return made


def visible_lines(value: str) -> str:
    """``visible``, line by line."""
    return "\n".join(visible(line, 2000) for line in value.split("\n")[:2000])
