"""The command ``pairsieve track score``."""

from typing import TYPE_CHECKING, Annotated

import typer

from pairsieve.pipelines.cli_options import JsonOption
from pairsieve.pipelines.cli_output import emit

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import RenderableType
    from rich.table import Table

    from pairsieve.pipelines.track_score import Figure, Scored

_TITLES = {"imagenet": "ImageNet", "shifts": "shifts", "vtab": "VTAB", "retrieval": "retrieval", "average": "average"}
_SHOWN = 5


def score(
    results: Annotated[
        list[str], typer.Argument(help="eval_results.jsonl, files of clip_benchmark, a wide .csv; folders of them")
    ],
    allow_missing: Annotated[bool, typer.Option("--allow-missing", help="average what there is, marked *")] = False,
    tasks: Annotated[bool, typer.Option("--tasks", help="each task's value too")] = False,
    json_: JsonOption = False,
) -> None:
    """Average results of DataComp's tasks as DataComp does: ImageNet, shifts, VTAB, retrieval, all 38."""
    from pairsieve.pipelines.track_results import read
    from pairsieve.pipelines.track_score import as_json
    from pairsieve.pipelines.track_score import score as score_one

    scored = [score_one(found, allow_missing) for found in read(results)]
    emit(json_, lambda: {"models": [as_json(one) for one in scored]}, lambda: _page(scored, tasks))


def _page(scored: "list[Scored]", tasks: bool) -> "Iterator[RenderableType]":
    yield _figures_table(scored)
    if tasks:
        yield _tasks_table(scored)
    yield from (line for one in scored for line in _lines(one))


def _figures_table(scored: "list[Scored]") -> "Table":
    from rich.table import Table
    from rich.text import Text

    table = Table()
    table.add_column("model", overflow="fold")
    for title in _TITLES.values():
        table.add_column(title, justify="right")
    for one in scored:
        table.add_row(Text(one.results.label), *(_cell(one.figures[name]) for name in _TITLES))
    return table


def _cell(figure: "Figure") -> str:
    """Three digits, as DataComp publishes; a star where tasks are missing."""
    if figure.value is None:
        return "–"
    return f"{figure.value:.3f}" + ("" if figure.count == figure.of else f"* ({figure.count} of {figure.of})")


def _tasks_table(scored: "list[Scored]") -> "Table":
    from rich.table import Table
    from rich.text import Text

    from pairsieve.pipelines.track_tasks import AVERAGED

    table = Table()
    table.add_column("task")
    for one in scored:
        table.add_column(Text(one.results.label), justify="right", overflow="fold")
    for task in AVERAGED:
        values = (one.results.values.get(task.name) for one in scored)
        table.add_row(task.name, *("–" if value is None else f"{value:.4f}" for value in values))
    return table


def _lines(one: "Scored") -> list[str]:
    """What a reader should know beside the figures."""
    told = []
    if one.missing:
        told.append(f"without {_some(one.missing)}")
    if one.results.unknown:
        told.append(f"not DataComp's, left out: {_some([repr(name) for name in dict.fromkeys(one.results.unknown)])}")
    return [f"{one.results.label}: {line}" for line in [*told, *one.results.notes]]


def _some(names: "list[str] | tuple[str, ...]") -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
