"""The command line.  Nothing a user types ends in a traceback: an error is one line, exit code 1 or 2."""

import csv
import json
import os
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
import typer
from rich.console import Console
from rich.table import Table

from pairsieve.pipelines.captions_cli import captions
from pairsieve.pipelines.download_cli import hosts, retry
from pairsieve.pipelines.export_cli import export
from pairsieve.pipelines.metadata_cli import metadata
from pairsieve.pipelines.search_cli import search
from pairsieve.pipelines.storage_errors import explain, is_exhausted
from pairsieve.pipelines.track_cli import track
from pairsieve.schemas.errors import MissingExtraError, PairsieveError, UserError

DEBUG = "PAIRSIEVE_DEBUG"
"""Environment variable that lets an unforeseen error end in its traceback."""

app = typer.Typer(
    name="pairsieve",
    help="Build image-text datasets from recipes; keep a verdict for every pair.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

RecipeArg = Annotated[str, typer.Argument(help="recipe file, or the name of a shipped recipe", metavar="RECIPE")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="override a value of the recipe")
]
EngineOption = Annotated[str, typer.Option(help="auto, local or ray")]
AddressOption = Annotated[str | None, typer.Option(help="address of a Ray cluster; implies --engine ray")]
WorkersOption = Annotated[int | None, typer.Option(min=1, help="worker processes; default: one a CPU")]
OutOption = Annotated[str, typer.Option(help="run directory, local or any fsspec URL")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="show no progress")]


def main() -> None:
    """Entry point: run the command and turn errors into one line and an exit code."""
    try:
        app()
    except PairsieveError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output left; say nothing more
        sys.exit(0)
    except OSError as error:
        if is_exhausted(error):
            print(f"error: {explain(error, 'this machine')}", file=sys.stderr)
            sys.exit(1)
        print(f"error: {error.filename or ''}: {error.strerror or error}", file=sys.stderr)
        sys.exit(2)
    except Exception as error:
        if os.environ.get(DEBUG):
            raise
        text = " ".join(f"{type(error).__name__}: {error}".split())[:500]
        print(f"error: {text}; this is a defect of pairsieve, {DEBUG}=1 shows where", file=sys.stderr)
        sys.exit(1)


@app.command()
def run(
    recipe: RecipeArg,
    out: OutOption,
    set_: SetOption = None,
    engine: EngineOption = "auto",
    ray_address: AddressOption = None,
    workers: WorkersOption = None,
    quiet: QuietOption = False,
) -> None:
    """Run a recipe, or continue one that was stopped."""
    from pairsieve.pipelines.demo import funnel_table
    from pairsieve.pipelines.progress import reporter
    from pairsieve.pipelines.run import run as run_recipe

    with _resumable():
        result = run_recipe(
            recipe,
            out,
            overrides=set_ or (),
            engine=_engine(engine),
            ray_address=ray_address,
            workers=workers,
            progress=reporter(quiet),
        )
    _console().print(funnel_table(result))
    pairs = f"{result.rows + result.added:,} pairs" + (f", {result.added:,} of them added" if result.added else "")
    _console().print(f"kept {result.kept:,} of {pairs}; the run: {result.root}", soft_wrap=True)


@app.command()
def plan(
    recipe: RecipeArg,
    out: Annotated[str | None, typer.Option(help="run directory, to see what it re-uses; nothing is written")] = None,
    set_: SetOption = None,
    sample: Annotated[int, typer.Option(min=0, help="pairs to try for costs; 0: no fetching, no model")] = 256,
    engine: EngineOption = "auto",
    ray_address: AddressOption = None,
    workers: WorkersOption = None,
    json_: Annotated[bool, typer.Option("--json", help="one JSON object instead of tables")] = False,
) -> None:
    """Check a recipe and show what a run of it would measure, why, and what it would cost."""
    from pairsieve.pipelines.capacity import local_capacity
    from pairsieve.pipelines.capacity import refusals as refused
    from pairsieve.pipelines.estimate import estimate
    from pairsieve.pipelines.plan_page import plan_json, plan_page
    from pairsieve.pipelines.progress import reporter
    from pairsieve.pipelines.run import load, open_run

    pool, made, _ = load(recipe, set_ or ())
    if out is not None:
        open_run(out, pool)
    is_cluster = ray_address is not None
    if _engine(engine) == "local" and is_cluster:
        raise UserError(f"--ray-address {ray_address} goes with --engine ray, not local")
    report = estimate(
        pool, made, out=out, sample_rows=sample, workers=workers, is_cluster=is_cluster, progress=reporter()
    )
    idle = {step.id for step in report.steps if step.cost is None}
    refusals = refused(made, local_capacity() if ray_address is None else _capacity_at(ray_address), idle)
    if json_:
        print(json.dumps(plan_json(made, report, refusals), indent=2, ensure_ascii=False))
    else:
        for part in plan_page(made, report, refusals):
            _console().print(part)
    if refusals:
        raise typer.Exit(2)


@app.command()
def query(
    run_dir: Annotated[str, typer.Argument(help="a finished run", metavar="RUN")],
    sql: Annotated[
        str, typer.Argument(help="DuckDB SQL over pairs, scores, verdicts, clusters, dataset, scores_<step>")
    ],
    format_: Annotated[str, typer.Option("--format", help="auto, table, csv or jsonl")] = "auto",
) -> None:
    """Ask a finished run anything, in SQL."""
    from pairsieve.pipelines.catalog import query as run_query

    if format_ not in ("auto", "table", "csv", "jsonl"):
        raise UserError(f"--format {format_}: there are auto, table, csv, jsonl")
    kind = ("table" if sys.stdout.isatty() else "csv") if format_ == "auto" else format_
    _show(run_query(run_dir, sql), kind)


@app.command()
def why(
    run_dir: Annotated[str, typer.Argument(help="a finished run", metavar="RUN")],
    uid: Annotated[str, typer.Argument(help="32 hex characters", metavar="UID")],
) -> None:
    """Tell a pair's whole story: every step, its scores, the thresholds in force, the verdict."""
    from pairsieve.pipelines.provenance import story_page
    from pairsieve.pipelines.provenance import why as stories

    for story in stories(run_dir, uid):
        for part in story_page(story):
            _console().print(part, markup=False)


@app.command()
def diff(
    one: Annotated[str, typer.Argument(help="a finished run", metavar="RUN_A")],
    other: Annotated[str, typer.Argument(help="another", metavar="RUN_B")],
) -> None:
    """Compare what two runs keep: overlap, and what only one keeps, by the other's verdict."""
    from pairsieve.pipelines.provenance import diff as compare
    from pairsieve.pipelines.provenance import diff_page

    for part in diff_page(compare(one, other), one, other):
        _console().print(part, markup=False)


@app.command()
def reshard(
    subset: Annotated[str, typer.Argument(help="DataComp subset: sorted u8,u8 records in .npy", metavar="SUBSET")],
    shards: Annotated[str, typer.Argument(help="folder or glob of tars or Parquet files", metavar="SHARDS")],
    out: Annotated[str, typer.Argument(help="folder of the training shards, local or any fsspec URL", metavar="OUT")],
    format_: Annotated[str, typer.Option("--format", help="tar or parquet")] = "tar",
    rows_per_shard: Annotated[int, typer.Option(min=1, help="samples a shard; none has more")] = 10_000,
    seed: Annotated[int, typer.Option(help="of the shuffle")] = 0,
    allow_missing: Annotated[bool, typer.Option("--allow-missing", help="write what there is")] = False,
    engine: EngineOption = "auto",
    ray_address: AddressOption = None,
    workers: WorkersOption = None,
    quiet: QuietOption = False,
) -> None:
    """Write the samples that a subset names into equal, shuffled training shards, or continue."""
    from pairsieve.pipelines.progress import reporter
    from pairsieve.pipelines.reshard import reshard as write_shards
    from pairsieve.pipelines.reshard import summary

    if format_ not in ("tar", "parquet"):
        raise UserError(f"--format {format_}: there are tar, parquet")
    with _resumable():
        result = write_shards(
            subset,
            shards,
            out,
            format="tar" if format_ == "tar" else "parquet",
            rows_per_shard=rows_per_shard,
            seed=seed,
            allow_missing=allow_missing,
            engine=_engine(engine),
            ray_address=ray_address,
            workers=workers,
            progress=reporter(quiet),
        )
    for line in summary(result):
        _console().print(line, soft_wrap=True, markup=False)


@app.command()
def cluster(
    run_dir: Annotated[str, typer.Argument(help="a finished run; the pairs it kept are used", metavar="RUN")],
    features: Annotated[str, typer.Option(help="column of embeddings")],
    clusters: Annotated[int, typer.Option(min=1, max=2**31 - 1, help="how many centroids")],
    out: Annotated[str, typer.Option(help="centroids, as .npy")],
    iterations: Annotated[int, typer.Option(min=1, help="of k-means")] = 20,
    sample: Annotated[float, typer.Option(min=0, max=1, help="fraction of the pairs, by hash of seed and uid")] = 1.0,
    seed: Annotated[int, typer.Option(min=0, max=2**31 - 1, help="of the sample and of the first centroids")] = 0,
    quiet: QuietOption = False,
) -> None:
    """Train centroids for image_cluster on a run's kept pairs: k-means, as DataComp has it."""
    from pairsieve.pipelines.cluster import check_out, save
    from pairsieve.pipelines.cluster import cluster as train
    from pairsieve.pipelines.progress import reporter

    check_out(out)
    found = train(
        run_dir, features, clusters, iterations=iterations, sample=sample, seed=seed, progress=reporter(quiet)
    )
    save(out, found.centroids)
    lost = f", {found.missing:,} had no embedding" if found.missing else ""
    _console().print(f"{clusters:,} centroids from {found.vectors:,} pairs{lost}: {out}", soft_wrap=True)


app.command()(metadata)
app.command()(search)
app.command()(retry)
app.command()(hosts)
app.add_typer(captions, name="captions")
app.add_typer(track, name="track")
app.add_typer(export, name="export")


@app.command()
def balance(
    source: Annotated[str, typer.Argument(help="a run with metadata_balance, or counts: .json, .parquet")],
    t: Annotated[str | None, typer.Option("--t", help="what this t would keep; 20k is 20000")] = None,
    tail_share: Annotated[float | None, typer.Option(min=0, max=1, help="the t whose tail has this share")] = None,
    target_rows: Annotated[str | None, typer.Option(help="the t that keeps so many; 400M is 400000000")] = None,
    matched_rows: Annotated[str | None, typer.Option(help="with a file: pairs that match an entry")] = None,
    step: Annotated[str | None, typer.Option(help="which step, where a run has several")] = None,
    top: Annotated[int, typer.Option(min=0, help="most frequent entries to list")] = 20,
    out: Annotated[str | None, typer.Option(help="write entries with their probabilities here, as Parquet")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="only tell; nothing is written")] = False,
) -> None:
    """Show head and tail of a balance, and what another t would keep: from counts, in seconds."""
    from pairsieve.pipelines.balance import choose, read_counts, save
    from pairsieve.pipelines.balance_page import balance_page

    if out is not None and dry_run:
        raise UserError(f"--dry-run writes nothing; leave it or --out {out} out")
    counts = read_counts(source, step, _amount("--matched-rows", matched_rows))
    found = choose(counts, _amount("--t", t), tail_share, _amount("--target-rows", target_rows))
    for part in balance_page(counts, found, top):
        _console().print(part, soft_wrap=isinstance(part, str), markup=False)
    if out is not None:
        save(out, counts, found)


@app.command()
def filters(name: Annotated[str | None, typer.Argument(help="one filter, in full")] = None) -> None:
    """List the filters, or describe one with its settings."""
    from pairsieve.pipelines.describe import filter_page, filters_table

    for part in [filters_table()] if name is None else filter_page(name):
        _console().print(part, soft_wrap=isinstance(part, str), markup=False)


@app.command()
def schema() -> None:
    """Print the JSON Schema of recipes, for editors."""
    from pairsieve.pipelines.describe import json_schema

    print(json.dumps(json_schema(), indent=2))


@app.command()
def demo(
    out: OutOption = "runs/demo",
    pairs: Annotated[int, typer.Option(min=40, max=1_000_000, help="size of the synthetic pool")] = 3000,
    engine: EngineOption = "ray",
    workers: WorkersOption = None,
    quiet: QuietOption = False,
) -> None:
    """Curate a synthetic world with planted defects, served from loopback; needs no network."""
    from pairsieve.pipelines.demo import run_demo, show
    from pairsieve.pipelines.progress import reporter

    if "://" in out:
        raise UserError(f"--out {out}: the demo writes to a local directory")
    with _resumable():
        outcome = run_demo(Path(out), pairs=pairs, engine=_engine(engine), workers=workers, progress=reporter(quiet))
    show(outcome, _console())


def _amount(option: str, text: str | None) -> int | None:
    """A whole number of at least 1, as ``20000``, ``20_000``, ``20k``, ``1.6B``."""
    if text is None:
        return None
    match = re.fullmatch(r"([0-9][0-9_,]*(?:\.[0-9]+)?)([kKmMbBgG]?)", text)
    factor = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9, "g": 10**9}[match[2].lower()] if match else 0
    value = Decimal(re.sub("[_,]", "", match[1])) * factor if match else Decimal(0)
    if value != int(value) or not 1 <= value <= 2**53:
        raise UserError(f"{option} {text}: give a whole number from 1, such as 20000, 20k or 1.6B")
    return int(value)


def _capacity_at(address: str) -> Any:
    """What the nodes of a Ray cluster have."""
    if find_spec("ray") is None:
        raise MissingExtraError("--ray-address needs Ray: pip install 'pairsieve[ray]'")
    from pairsieve.pipelines.engine_ray import capacity_at

    return capacity_at(address)


@contextmanager
def _resumable() -> Iterator[None]:
    """Ctrl-C, or a scheduler's SIGTERM, stops a run with a line, not a traceback; its workers end with it."""
    signal.signal(signal.SIGTERM, _terminated)
    try:
        yield
    except KeyboardInterrupt as stop:
        print("stopped; the same command continues", file=sys.stderr)
        raise typer.Exit(143 if stop.args else 130) from None


def _terminated(*_: Any) -> None:
    raise KeyboardInterrupt("terminated")


def _engine(name: str) -> Any:
    if name not in ("auto", "local", "ray"):
        raise UserError(f"--engine {name}: there are auto, local, ray")
    return name


def _console() -> Console:
    """Standard output; a pipe or file gets lines of up to 120 characters."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=120)


def _show(table: pa.Table, kind: str) -> None:
    rows = list(zip(*(column.to_pylist() for column in table.columns), strict=True))  # by place: names may repeat
    if kind == "jsonl":
        names = [n if n not in table.column_names[:i] else f"{n}_{i}" for i, n in enumerate(table.column_names)]
        for row in rows:
            print(json.dumps(dict(zip(names, row, strict=True)), default=_plain, ensure_ascii=False))
    elif kind == "csv":
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(table.column_names)
        writer.writerows([_plain(value) for value in row] for row in rows)
    else:
        shown = Table()
        for name in table.column_names:
            shown.add_column(name, overflow="fold")
        for row in rows:
            shown.add_row(*(str(_plain(value)) for value in row))
        _console().print(shown, markup=False)


def _plain(value: Any) -> Any:
    """A cell as text: bytes by their length, so that an image does not flood the terminal."""
    if isinstance(value, bytes):
        return value.hex() if len(value) <= 32 else f"<{len(value)} bytes>"
    return value if isinstance(value, int | float | str | None) else str(value)
