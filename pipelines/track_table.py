"""The table of the nano track: a line a recipe, the mean of its seeds, how far they spread, and what it gains."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

from pairsieve.pipelines.nano_settings import METRICS
from pairsieve.pipelines.track import PREFIX, Row, short

if TYPE_CHECKING:
    from rich.table import Table

BASE = f"{PREFIX}no_filter"
"""What the others are compared with."""
AVERAGE = "average"


@dataclass(frozen=True)
class Line:
    """One recipe over its seeds.

    ``spread`` is the standard deviation of the seeds' averages (of a sample), None for a single one; ``gain`` the mean
    average less that of no filtering, None without it.  ``is_clear``: the gain is more than twice the spreads of both.
    """

    recipe: str
    kept: int
    pairs: int
    seeds: int
    metrics: dict[str, float]
    averages: tuple[float, ...]
    spread: float | None
    gain: float | None
    is_clear: bool

    @property
    def average(self) -> float:
        """The mean over metrics and seeds."""
        return self.metrics[AVERAGE]


def lines(rows: Sequence[Row]) -> list[Line]:
    """A line for each recipe, in the order of the rows."""
    by_recipe: dict[str, list[Row]] = {}
    for row in rows:
        by_recipe.setdefault(row.recipe, []).append(row)
    base = by_recipe.get(BASE)
    return [_line(found, base) for found in by_recipe.values()]


def _line(rows: Sequence[Row], base: Sequence[Row] | None) -> Line:
    averages, spread = _averages(rows), _spread(_averages(rows))
    gain, is_clear = None, False
    if base is not None and base[0].recipe != rows[0].recipe:
        gain = fmean(averages) - fmean(_averages(base))
        spreads = [spread, _spread(_averages(base))]
        is_clear = all(s is not None and abs(gain) > 2 * s for s in spreads)
    names = [name for name in (*METRICS, AVERAGE) if name in rows[0].metrics]  # rows that were read are in any order
    means = {name: fmean(row.metrics[name] for row in rows) for name in names}
    one = rows[0]
    return Line(one.recipe, one.kept, one.pairs, len(rows), means, averages, spread, gain, is_clear)


def _averages(rows: Sequence[Row]) -> tuple[float, ...]:
    return tuple(row.metrics[AVERAGE] for row in rows)


def _spread(averages: Sequence[float]) -> float | None:
    return stdev(averages) if len(averages) > 1 else None


def cells(line: Line) -> list[str]:
    """A line as text: recipe, kept, metrics, average with its spread, gain (a star where it is clear)."""
    spread = "" if line.spread is None else f" ±{line.spread:.3f}"
    gain = "" if line.gain is None else f"{line.gain:+.3f}{'*' if line.is_clear else ''}"
    metrics = [f"{value:.3f}" for name, value in line.metrics.items() if name != AVERAGE]
    return [short(line.recipe), f"{line.kept:,}", *metrics, f"{line.average:.3f}{spread}", gain]


def titles(of: Sequence[Line]) -> list[str]:
    """Names of the columns of ``cells``."""
    metrics = [name.replace("_", " ") for name in of[0].metrics if name != AVERAGE] if of else []
    return ["recipe", "pairs", *metrics, AVERAGE, "gain"]


def rich_table(of: Sequence[Line]) -> Table:
    """For a terminal."""
    from rich.table import Table
    from rich.text import Text

    table = Table()
    for place, title in enumerate(titles(of)):
        table.add_column(title, justify="right" if place else "left")
    for line in of:
        first, *others = cells(line)
        table.add_row(Text(first), *others)
    return table


def markdown(of: Sequence[Line]) -> str:
    """For a page."""
    heads = titles(of)
    rule = ["---", *["---:"] * (len(heads) - 1)]
    return "".join(f"| {' | '.join(row)} |\n" for row in [heads, rule, *(cells(line) for line in of)])


def as_json(of: Sequence[Line]) -> list[dict[str, Any]]:
    """Every figure, unrounded."""
    return [
        {
            "recipe": line.recipe,
            "kept": line.kept,
            "pairs": line.pairs,
            "seeds": line.seeds,
            **line.metrics,
            "averages": line.averages,
            "spread": line.spread,
            "gain": line.gain,
            "is_clear": line.is_clear,
        }
        for line in of
    ]
