"""The commands ``pairsieve run``, ``plan`` and ``demo``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pairsieve.pipelines import cli_complete as complete
from pairsieve.pipelines.cli_options import (
    ENGINES,
    AddressOption,
    EngineOption,
    Job,
    JsonOption,
    OutOption,
    QuietOption,
    RecipeArg,
    SetOption,
    WorkersOption,
    chosen,
    takes_job,
)
from pairsieve.pipelines.cli_output import emit, resumable
from pairsieve.schemas.errors import ExitCode, MissingExtraError, UserError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import RenderableType

    from pairsieve.pipelines.runner import Result


@takes_job
def run(recipe: RecipeArg, out: OutOption, *, job: Job, set_: SetOption = None, json_: JsonOption = False) -> None:
    """Run a recipe, or continue one that was stopped."""
    from pairsieve.pipelines.cli_documents import run_document
    from pairsieve.pipelines.hints import after_run
    from pairsieve.pipelines.run import run as run_recipe

    with resumable():
        result = run_recipe(recipe, out, overrides=set_ or (), **job.settings)
    emit(json_, lambda: run_document(result), lambda: run_page(result))
    after_run(result, out, is_quiet=job.quiet or json_)


def run_page(result: "Result") -> "Iterator[RenderableType]":
    """The funnel, and what was kept."""
    from pairsieve.pipelines.funnel import funnel_table

    yield funnel_table(result)
    pairs = f"{result.rows + result.added:,} pairs" + (f", {result.added:,} of them added" if result.added else "")
    yield f"kept {result.kept:,} of {pairs}; the run: {result.root}"


def plan(
    recipe: RecipeArg,
    out: Annotated[
        str | None,
        typer.Option(help="run directory, to see what it re-uses; nothing is written", autocompletion=complete.runs),
    ] = None,
    set_: SetOption = None,
    sample: Annotated[
        int, typer.Option(min=0, max=10_000_000, help="pairs to try for costs; 0: no fetching, no model")
    ] = 256,
    engine: EngineOption = "auto",
    ray_address: AddressOption = None,
    workers: WorkersOption = None,
    json_: JsonOption = False,
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
    if chosen("--engine", engine, ENGINES) == "local" and is_cluster:
        raise UserError(f"--ray-address {ray_address} goes with --engine ray, not local")
    report = estimate(
        pool, made, out=out, sample_rows=sample, workers=workers, is_cluster=is_cluster, progress=reporter()
    )
    idle = {step.id for step in report.steps if step.cost is None}
    refusals = refused(made, local_capacity() if ray_address is None else _capacity_at(ray_address), idle)
    emit(json_, lambda: plan_json(made, report, refusals), lambda: plan_page(made, report, refusals))
    if refusals:
        raise typer.Exit(ExitCode.MISTAKE)


def _capacity_at(address: str) -> Any:
    """What the nodes of a Ray cluster have."""
    from importlib.util import find_spec

    if find_spec("ray") is None:
        raise MissingExtraError("--ray-address needs Ray: pip install 'pairsieve[ray]'")
    from pairsieve.pipelines.engine_ray import capacity_at

    return capacity_at(address)


def demo(
    out: OutOption = "runs/demo",
    pairs: Annotated[int, typer.Option(min=40, max=1_000_000, help="size of the synthetic pool")] = 3000,
    engine: EngineOption = "ray",
    workers: WorkersOption = None,
    quiet: QuietOption = False,
    json_: JsonOption = False,
) -> None:
    """Curate a synthetic world with planted defects, served from loopback; needs no network."""
    from pairsieve.pipelines.cli_documents import demo_document
    from pairsieve.pipelines.demo import page, run_demo
    from pairsieve.pipelines.hints import after_run
    from pairsieve.pipelines.progress import reporter
    from pairsieve.pipelines.report import report

    if "://" in out:
        raise UserError(f"--out {out}: the demo writes to a local directory")
    where = chosen("--engine", engine, ENGINES)
    with resumable():
        outcome = run_demo(Path(out), pairs=pairs, engine=where, workers=workers, progress=reporter(quiet))
        file = report(out, progress=reporter(quiet)).file
    emit(
        json_,
        lambda: demo_document(outcome, file),
        lambda: (*page(outcome), f"its report, to open in a browser: {file}"),
    )
    after_run(outcome.result, out, is_quiet=quiet or json_, has_report=True)
