"""What a search found, as a table or JSON."""

from dataclasses import asdict
from typing import Any

from rich.console import RenderableType
from rich.table import Table

from pairsieve.pipelines.describe import cells
from pairsieve.pipelines.search import Found, Hit

LONGEST = 300
"""Characters of a caption or address that are shown."""


def search_page(found: Found) -> list[RenderableType]:
    """A row a pair, the best first; captions without control characters."""
    table = Table()
    table.add_column("score", justify="right")
    for name in ("uid", "verdict", "caption", "url"):
        table.add_column(name, overflow="fold", min_width=32 if name == "uid" else None)
    for hit in found.hits:
        table.add_row(*cells(f"{hit.score:.4f}", hit.uid, verdict(hit), shown(hit.text), shown(hit.url)))
    return [table, f"{len(found.hits):,} of {found.vectors:,} embeddings in {found.column}, by {found.model}"]


def search_json(found: Found) -> dict[str, Any]:
    """The same for programs."""
    hits = [asdict(hit) | {"kept": hit.dropped_by is None} for hit in found.hits]
    return {"column": found.column, "model": found.model, "vectors": found.vectors, "hits": hits}


def verdict(hit: Hit) -> str:
    """Kept, or what dropped it and why."""
    return "kept" if hit.dropped_by is None else f"{hit.dropped_by}: {hit.reason}"


def shown(text: str | None) -> str:
    """Text that is safe on a terminal: whoever wrote a caption must not write to the screen."""
    kept = "".join(c if c.isprintable() else " " for c in (text or "")[: LONGEST + 1])
    return kept if len(kept) <= LONGEST else f"{kept[: LONGEST - 1]}…"
