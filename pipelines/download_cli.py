"""The commands ``pairsieve retry`` and ``pairsieve hosts``."""

from dataclasses import asdict
from typing import Annotated

import typer

from pairsieve.pipelines import cli_complete as complete
from pairsieve.pipelines.cli_options import Job, JsonOption, SetOption, one_of, run_arg, takes_job
from pairsieve.pipelines.cli_output import emit, resumable

ORDERS = ("urls", "failed", "bytes", "seconds")


@takes_job
def retry(
    run_dir: Annotated[str, run_arg("a run with a download step")],
    *,
    job: Job,
    reasons: Annotated[
        str | None,
        typer.Option(
            help="such as timeout,dns,429; default: all that another day may change", autocompletion=complete.reasons
        ),
    ] = None,
    step: Annotated[list[str] | None, typer.Option(help="download step; default: all of them")] = None,
    set_: SetOption = None,
    json_: JsonOption = False,
) -> None:
    """Download again, in place, what failed for some reasons; verdicts and outputs follow."""
    from pairsieve.pipelines.cli_documents import run_document
    from pairsieve.pipelines.retry import USUAL
    from pairsieve.pipelines.retry import retry as ask_again
    from pairsieve.pipelines.run_cli import run_page

    wanted = USUAL if reasons is None else reasons.split(",")
    with resumable():
        result = ask_again(run_dir, wanted, steps=step or (), overrides=set_ or (), **job.settings)
    emit(json_, lambda: run_document(result), lambda: run_page(result))


def hosts(
    run_dir: Annotated[str, run_arg("a finished run with a download step")],
    step: Annotated[str, typer.Option(help="which, where it has another name or there are several")] = "download",
    top: Annotated[int, typer.Option(min=1, max=10_000_000, help="hosts to list")] = 20,
    by: Annotated[str, one_of(values=ORDERS, what="order of hosts")] = "urls",
    json_: JsonOption = False,
) -> None:
    """Show what became of a run's URLs: by reason, and by host with requests, bytes and times."""
    from pairsieve.pipelines.hosts import page, report

    found = report(run_dir, step, top, by)
    emit(json_, lambda: asdict(found), lambda: page(found))
