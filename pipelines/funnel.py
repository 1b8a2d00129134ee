"""The funnel of a run as a table for a terminal: what each step got, dropped and left."""

from rich.table import Table

from pairsieve.pipelines.runner import Result


def funnel_table(result: Result) -> Table:
    """Pairs that reached each step, and what it dropped."""
    table = Table(title="Funnel")
    table.add_column("step")
    for name in ("reached", "dropped", "left", "of the pool"):
        table.add_column(name, justify="right")
    for step, reached, dropped in result.funnel:
        left = reached - dropped
        table.add_row(step, f"{reached:,}", f"{dropped:,}", f"{left:,}", f"{left / max(1, result.rows):.1%}")
    return table
