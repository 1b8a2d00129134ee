"""Small charts as SVG, without any library or script: histograms and bars of stacked counts, with thresholds.

Every chart has a title and a description for those who do not see it, and a title for each bar.  Colours are classes
(``kept``, ``later``, ``lost``, ``cut``), so that the page decides them.  All names are escaped.  Up to 15 kB each.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

WIDTH, HEIGHT = 360, 156
LEFT, RIGHT, TOP, BOTTOM = 10, 10, 30, 24
LINE = 19
"""Pixels of a line of bars."""
NAMES, FIGURES = 130, 62
"""Pixels of the names beside bars, and of the figures behind them."""
LONGEST = 19
"""Characters of a name beside a bar."""


@dataclass(frozen=True)
class Part:
    """A part of a stacked bar: what it is called, its class, its count."""

    name: str
    look: str
    count: int


@dataclass(frozen=True)
class Bar:
    """A bar from ``low`` to ``high``, or of a word; parts from the bottom."""

    name: str
    parts: tuple[Part, ...]
    low: float = 0.0
    high: float = 0.0

    @property
    def count(self) -> int:
        """All parts together."""
        return sum(part.count for part in self.parts)

    def said(self) -> str:
        """The bar in words."""
        some = [f"{part.count:,} {part.name}" for part in self.parts if part.count]
        return f"{self.name}: {', '.join(some) or 'none'}"


@dataclass(frozen=True)
class Mark:
    """A threshold: where it is, and what stands beside it."""

    at: float
    label: str


def number(value: float, digits: int = 4) -> str:
    """A value of an axis or a score: whole numbers with separators, others with so many digits that count."""
    if not math.isfinite(value):
        return str(value)
    if value == round(value) and abs(value) < 1e15:
        return f"{value:,.0f}"
    if 1e-4 <= abs(value) < 1e15:
        return f"{value:,.{max(0, digits - 1 - math.floor(math.log10(abs(value))))}f}".rstrip("0").rstrip(".")
    return f"{value:.3g}"


def histogram(
    ident: str, title: str, description: str, bars: Sequence[Bar], marks: Sequence[Mark] = (), is_log: bool = False
) -> Markup:
    """Bars side by side along a linear or a logarithmic axis; ``ident`` is unique in the page."""
    x = _scale(bars[0].low, bars[-1].high, is_log)
    most = max(1, *(bar.count for bar in bars))
    parts = [_label("quiet", LEFT, 10, f"{most:,}", "start"), _line("grid", LEFT, TOP, WIDTH - RIGHT, TOP)]
    for bar in bars:
        parts += _column(bar, x(bar.low), x(bar.high), most)
    base = HEIGHT - BOTTOM
    parts.append(_line("axis", LEFT, base, WIDTH - RIGHT, base))
    for tick in _ticks(bars[0].low, bars[-1].high, is_log):
        parts += [_line("axis", x(tick), base, x(tick), base + 4), _tick(x(tick), number(tick))]
    for mark in marks:
        parts += _mark(mark, x)
    return _svg(ident, title, description, HEIGHT, parts)


def _scale(low: float, high: float, is_log: bool) -> "Scale":
    return Scale(math.log(low), math.log(high), True) if is_log else Scale(low, high, False)


@dataclass(frozen=True)
class Scale:
    """From values to pixels."""

    low: float
    high: float
    is_log: bool

    def _on(self, value: float) -> float:
        return (math.log(value) if value > 0 else -math.inf) if self.is_log else value

    def holds(self, value: float) -> bool:
        """Whether a value lies on the axis."""
        return self.low <= self._on(value) <= self.high

    def __call__(self, value: float) -> float:
        """Where a value lies; the edge for one outside."""
        share = (self._on(value) - self.low) / ((self.high - self.low) or 1.0)
        return LEFT + (WIDTH - LEFT - RIGHT) * min(1.0, max(0.0, share))


def _ticks(low: float, high: float, is_log: bool) -> list[float]:
    """Round values between two, four or so."""
    if is_log:
        powers = range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1)
        every = max(1, len(powers) // 4)
        found = [10.0**p for p in powers][::every]
        return found if len(found) > 1 else sorted({low, high})
    step = 10.0 ** math.floor(math.log10((high - low) or 1.0))
    step = next(step * part for part in (0.2, 0.5, 1.0, 2.0, 5.0) if (high - low) / (step * part) <= 5.01)
    first = math.ceil(low / step - 1e-9)
    return [round((first + i) * step, 12) for i in range(int((high - first * step) / step + 1e-9) + 1)]


def _column(bar: Bar, left: float, right: float, most: int) -> Iterator[Markup]:
    """A stacked column, with a title; nothing for an empty one."""
    if not bar.count:
        return
    height, base = HEIGHT - TOP - BOTTOM, float(HEIGHT - BOTTOM)
    width = max(0.8, right - left - 0.6)
    yield Markup("<g><title>{}</title>").format(bar.said())
    for part in bar.parts:
        tall = height * part.count / most
        if part.count:
            base -= tall
            yield _rect(part.look, left + 0.3, base, width, tall)
    yield Markup("</g>")


def _mark(mark: Mark, x: Scale) -> Iterator[Markup]:
    """A line through the chart with its label on the side where there is room; an arrow to one beyond the axis."""
    at = x(mark.at)
    is_left = at > WIDTH / 2
    if x.holds(mark.at):
        yield _line("cut", at, 15, at, HEIGHT - BOTTOM)
        yield _label("cut", at + (-4 if is_left else 4), 25, mark.label, "end" if is_left else "start")
    else:
        text = f"{mark.label} →" if is_left else f"← {mark.label}"
        yield _label("cut", at, 25, text, "end" if is_left else "start")


def bars(ident: str, title: str, description: str, found: Sequence[Bar]) -> Markup:
    """Bars one below the other, with names and figures."""
    most = max(1, *(bar.count for bar in found))
    room, parts = WIDTH - NAMES - FIGURES, list[Markup]()
    for i, bar in enumerate(found):
        left, top = float(NAMES), i * LINE
        parts.append(_label("name", NAMES - 6, top + 13, _short(bar.name), "end"))
        parts.append(Markup("<g><title>{}</title>").format(bar.said()))
        for part in bar.parts:
            width = room * part.count / most
            if part.count:
                parts.append(_rect(part.look, left, top + 3, max(width, 0.8), LINE - 6))
                left += width
        parts += [Markup("</g>"), _label("quiet", left + 5, top + 13, f"{bar.count:,}", "start")]
    return _svg(ident, title, description, LINE * len(found) + 4, parts)


def _short(name: str) -> str:
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…"


def share_bar(share: float, look: str) -> Markup:
    """A bar within a cell of a table: nothing but the length, as the figure stands beside it."""
    width = 100 * min(1.0, max(0.0, share))
    text = '<svg class="share" aria-hidden="true" viewBox="0 0 100 8" preserveAspectRatio="none">{}{}</svg>'
    return Markup(text).format(_rect("ground", 0, 0, 100, 8), _rect(look, 0, 0, width, 8))


def _svg(ident: str, title: str, description: str, height: float, parts: Sequence[Markup]) -> Markup:
    text = (
        '<svg class="chart" role="img" aria-labelledby="{0}-t {0}-d" viewBox="0 0 {1} {2}">'
        '<title id="{0}-t">{3}</title><desc id="{0}-d">{4}</desc>{5}</svg>'
    )
    return Markup(text).format(ident, WIDTH, height, title, description, Markup("").join(parts))


def _rect(look: str, x: float, y: float, width: float, height: float) -> Markup:
    text = '<rect class="{}" x="{:.4g}" y="{:.4g}" width="{:.4g}" height="{:.4g}"/>'
    return Markup(text.format(escape(look), x, y, width, height))


def _line(look: str, x1: float, y1: float, x2: float, y2: float) -> Markup:
    return Markup(f'<line class="{escape(look)}" x1="{x1:.4g}" y1="{y1:.4g}" x2="{x2:.4g}" y2="{y2:.4g}"/>')


def _label(look: str, x: float, y: float, text: str, anchor: str) -> Markup:
    return Markup('<text class="{}" x="{}" y="{}" text-anchor="{}">{}</text>').format(
        look, f"{x:.4g}", f"{y:.4g}", anchor, text
    )


def _tick(x: float, text: str) -> Markup:
    """The label of a tick, which stays within the picture."""
    anchor = "start" if x < LEFT + 15 else "end" if x > WIDTH - RIGHT - 15 else "middle"
    return _label("quiet", x, HEIGHT - 8, text, anchor)
