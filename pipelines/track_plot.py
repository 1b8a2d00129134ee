"""The picture of the nano track: a bar for each recipe's average, a dot for each seed, as SVG without any library."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from pairsieve.pipelines.track import short
from pairsieve.pipelines.track_table import BASE, Line

LEFT, WIDTH, RIGHT, STEP, TOP = 210, 460, 90, 26, 34
"""Pixels: names, bars, figures, a line, the title."""
STYLE = (
    "text{font:13px system-ui,sans-serif;fill:#57606a}.bar{fill:#4f8fd6}.base{fill:#9aa4ae}"
    ".seed{fill:#1f2328;stroke:#fff}.grid{stroke:#8888}"
    "@media(prefers-color-scheme:dark){text{fill:#b6bfc8}.seed{fill:#f0f3f6;stroke:#0d1117}}"
)


def svg(lines: Sequence[Line]) -> str:
    """A self-contained picture, light and dark; names are escaped."""
    height = TOP + STEP * len(lines) + 24
    size = f'viewBox="0 0 {LEFT + WIDTH + RIGHT} {height}" width="{LEFT + WIDTH + RIGHT}" height="{height}"'
    title = "Average of eight metrics by recipe; dots are seeds"
    body = "".join(_bar(line, TOP + STEP * place) for place, line in enumerate(lines))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-label="{title}" {size}><style>{STYLE}</style>\n'
        f'<text x="0" y="18">{title}</text>\n{_grid(height)}{body}</svg>\n'
    )


def _x(value: float) -> float:
    return LEFT + WIDTH * value


def _grid(height: int) -> str:
    return "".join(
        f'<line class="grid" x1="{_x(v):.0f}" x2="{_x(v):.0f}" y1="{TOP - 6}" y2="{height - 20}"/>'
        f'<text x="{_x(v):.0f}" y="{height - 5}" text-anchor="middle">{v:g}</text>\n'
        for v in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    )


def _bar(line: Line, y: int) -> str:
    """Name, bar, seeds and figure."""
    kind = "base" if line.recipe == BASE else "bar"
    dots = "".join(f'<circle class="seed" cx="{_x(v):.1f}" cy="{y + 9}" r="3.5"/>' for v in line.averages)
    last = max([line.average, *line.averages])
    return (
        f'<text x="{LEFT - 8}" y="{y + 14}" text-anchor="end">{escape(short(line.recipe))}</text>'
        f'<rect class="{kind}" x="{LEFT}" y="{y}" width="{WIDTH * line.average:.1f}" height="18" rx="2"/>{dots}'
        f'<text x="{_x(last) + 10:.0f}" y="{y + 14}">{line.average:.3f} · {line.kept:,}</text>\n'
    )
