"""The balance of a run, or what it would be, as text."""

from dataclasses import dataclass

import numpy as np
from rich.console import RenderableType
from rich.table import Table

from pairsieve.filters import _balance_counts as maths
from pairsieve.pipelines.balance import Choice, Counts
from pairsieve.pipelines.describe import cells

WHAT = {"zero": "match nothing", "tail": "at most t", "head": "more than t"}


def balance_page(of: Counts, choice: Choice, top: int) -> list[RenderableType]:
    """Head and tail, the most frequent entries, sizes."""
    found: list[RenderableType] = [_parts(of, choice)]
    if top and len(of.counts):
        found.append(_entries(of, choice, top))
    return [*found, *_lines(of, choice)]


def _parts(of: Counts, choice: Choice) -> Table:
    table = Table(title=f"{len(of.counts):,} entries at t = {choice.t:,}")
    for name in ("entries that", "entries", "of all", "matches", "of all"):
        table.add_column(name, justify="left" if name == "entries that" else "right")
    entries, matches = max(1, len(of.counts)), max(1, int(of.counts.sum()))
    for part in choice.parts:
        share = f"{part.entries / entries:.1%}", f"{part.matches / matches:.1%}"
        table.add_row(WHAT[part.name], f"{part.entries:,}", share[0], f"{part.matches:,}", share[1])
    return table


@dataclass(frozen=True)
class Entry:
    """An entry at a t: pairs that match it, the chance of each, those a run kept (None where this t is no run's)."""

    name: str
    language: str | None
    pairs: int
    probability: float
    kept: int | None


def most_frequent(of: Counts, choice: Choice, top: int) -> list[Entry]:
    """The most frequent entries, the first first."""
    order = np.argsort(-of.counts, kind="stable")[:top]
    is_run = of.kept is not None and choice.t == of.settled.get("t")
    chances = maths.probabilities(of.counts, choice.ts)
    return [
        Entry(
            name=str(of.names[int(i)].as_py()) if of.names is not None else f"#{i}",
            language=str(of.languages[int(i)].as_py()) if of.reference and of.languages is not None else None,
            pairs=int(of.counts[i]),
            probability=float(chances[i]),
            kept=int(of.kept[i]) if is_run and of.kept is not None else None,
        )
        for i in order
    ]


def _entries(of: Counts, choice: Choice, top: int) -> Table:
    """The most frequent entries: counts before, the probability, and after a run."""
    found = most_frequent(of, choice, top)
    is_run = found[0].kept is not None
    table = Table(title=f"the {len(found):,} most frequent")
    columns = ["entry", *(["language"] if of.reference else []), "pairs", "probability", *(["kept"] if is_run else [])]
    for name in columns:
        table.add_column(name, justify="left" if name in ("entry", "language") else "right", overflow="fold")
    for entry in found:
        row = [entry.name, *([str(entry.language)] if of.reference else [])]
        row += [f"{entry.pairs:,}", f"{entry.probability:.3g}"]
        row += [] if entry.kept is None else [f"{entry.kept:,}"]
        table.add_row(*cells(*row))
    return table


def _lines(of: Counts, choice: Choice) -> list[str]:
    """Sizes, a line each."""
    total = int(of.counts.sum())
    up_to = int(of.counts[of.counts <= choice.ts].sum()) / total if total else 0.0
    found = [f"tail share: {choice.tail_share:.2%} of {total:,} matches (counts below t; up to t: {up_to:.2%})"]
    if of.matched is not None:
        found.append(f"pairs that match: {of.matched:,}")
    is_run = choice.t == of.settled.get("t") and "expected_rows" in of.settled
    if is_run and of.record is not None and of.record.deciding.get("online"):
        found.append("online: every pair with an entry stays; a loader draws by these probabilities in every epoch")
        found.append(f"expected in an epoch: {float(of.settled['expected_rows']):,.0f} pairs")
    elif is_run:
        expected, sd, kept = (float(of.settled[name]) for name in ("expected_rows", "sd_rows", "kept_rows"))
        away = f", {(kept - expected) / sd:+.2f} of them away" if sd else ""
        found.append(f"expected: {expected:,.0f} pairs, standard deviation {sd:,.0f}; kept: {kept:,.0f}{away}")
    elif choice.rows is not None:
        found.append(f"expected: about {choice.rows:,.0f} pairs ({choice.source})")
    else:
        found.append(f"expected: {choice.source}")
    return [*found, f"the expected size is at most {choice.most_rows:,}, the sum of min(count, t)"]
