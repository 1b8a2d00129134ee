"""The commands ``pairsieve query``, ``why`` and ``diff``: what a finished run answers."""

import csv
import json
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from pairsieve.pipelines import cli_complete as complete
from pairsieve.pipelines.cli_options import JsonOption, RunArg, chosen, run_arg
from pairsieve.pipelines.cli_output import cell, emit, note, plain, print_json, show
from pairsieve.schemas.errors import QueryError, UserError

if TYPE_CHECKING:
    import pyarrow as pa

FORMATS = ("auto", "table", "csv", "jsonl")


def query(
    run_dir: RunArg,
    sql: Annotated[
        str,
        typer.Argument(help="DuckDB SQL over pairs, scores, verdicts, clusters, dataset, scores_<step>", metavar="SQL"),
    ],
    format_: Annotated[
        str,
        typer.Option("--format", help="auto, table, csv or jsonl", autocompletion=complete.one_of(*FORMATS)),
    ] = "auto",
    json_: JsonOption = False,
) -> None:
    """Ask a finished run anything, in SQL."""
    from pairsieve.pipelines.catalog import query as run_query
    from pairsieve.pipelines.cli_documents import query_document

    kind = chosen("--format", format_, FORMATS)
    if json_ and kind != "auto":
        raise UserError(f"--json is one document; leave it or --format {kind} out")
    try:
        found = run_query(run_dir, sql)
    except QueryError as error:
        raise QueryError(f'{error}; pairsieve query {run_dir} "SHOW ALL TABLES" lists what there is') from None
    if json_:
        print_json(query_document(found))
    else:
        _print(found, ("table" if sys.stdout.isatty() else "csv") if kind == "auto" else kind)
    if not found.num_rows and sys.stderr.isatty():
        note("no row: the query is answered, and nothing fits it")


def why(
    run_dir: RunArg,
    uid: Annotated[str, typer.Argument(help="32 hex characters", metavar="UID")],
    json_: JsonOption = False,
) -> None:
    """Tell a pair's whole story: every step, its scores, the thresholds in force, the verdict."""
    from pairsieve.pipelines.cli_documents import why_document
    from pairsieve.pipelines.provenance import story_page
    from pairsieve.pipelines.provenance import why as find

    stories = find(run_dir, uid.strip().lower())
    emit(json_, lambda: why_document(uid, stories), lambda: (part for story in stories for part in story_page(story)))


def diff(
    one: Annotated[str, run_arg(metavar="RUN_A")],
    other: Annotated[str, run_arg("another", metavar="RUN_B")],
    json_: JsonOption = False,
) -> None:
    """Compare what two runs keep: overlap, and what only one keeps, by the other's verdict."""
    from pairsieve.pipelines.cli_documents import diff_document
    from pairsieve.pipelines.provenance import diff as compare
    from pairsieve.pipelines.provenance import diff_page

    found = compare(one, other)
    emit(json_, lambda: diff_document(found, one, other), lambda: diff_page(found, one, other))


def _print(table: "pa.Table", kind: str) -> None:
    """Rows as a table, as csv, or as a JSON document a line."""
    from pairsieve.pipelines.cli_documents import records

    if kind == "jsonl":
        for record in records(table):
            print(json.dumps(plain(record), ensure_ascii=False, allow_nan=False))
        return
    rows = zip(*(column.to_pylist() for column in table.columns), strict=True)  # by place: names may repeat
    if kind == "csv":
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(table.column_names)
        writer.writerows([cell(value) for value in row] for row in rows)
    else:
        _print_table(table.column_names, [[str(cell(value)) for value in row] for row in rows])


def _print_table(names: list[str], rows: list[list[str]]) -> None:
    from rich.table import Table

    from pairsieve.pipelines.describe import cells

    shown = Table()
    for name in names:
        shown.add_column(name, overflow="fold")
    for row in rows:
        shown.add_row(*cells(*row))
    show([shown])
