"""The commands ``pairsieve retry`` and ``pairsieve hosts``."""

import json
from dataclasses import asdict
from typing import Annotated

import typer


def retry(
    run_dir: Annotated[str, typer.Argument(help="a run with a download step", metavar="RUN")],
    reasons: Annotated[
        str | None, typer.Option(help="such as timeout,dns,429; default: all that another day may change")
    ] = None,
    step: Annotated[list[str] | None, typer.Option(help="download step; default: all of them")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="such as filters.download.timeout=60")
    ] = None,
    engine: Annotated[str, typer.Option(help="auto, local or ray")] = "auto",
    ray_address: Annotated[str | None, typer.Option(help="address of a Ray cluster")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="worker processes; default: one a CPU")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="show no progress")] = False,
) -> None:
    """Download again, in place, what failed for some reasons; verdicts and outputs follow."""
    from pairsieve.pipelines import cli
    from pairsieve.pipelines.demo import funnel_table
    from pairsieve.pipelines.progress import reporter
    from pairsieve.pipelines.retry import USUAL
    from pairsieve.pipelines.retry import retry as ask_again

    with cli._resumable():
        result = ask_again(
            run_dir,
            USUAL if reasons is None else reasons.split(","),
            steps=step or (),
            overrides=set_ or (),
            engine=cli._engine(engine),
            ray_address=ray_address,
            workers=workers,
            progress=reporter(quiet),
        )
    cli._console().print(funnel_table(result))
    cli._console().print(f"kept {result.kept:,} of {result.rows:,} pairs; the run: {result.root}", soft_wrap=True)


def hosts(
    run_dir: Annotated[str, typer.Argument(help="a finished run with a download step", metavar="RUN")],
    step: Annotated[str, typer.Option(help="which, where it has another name or there are several")] = "download",
    top: Annotated[int, typer.Option(min=1, help="hosts to list")] = 20,
    by: Annotated[str, typer.Option(help="order of hosts: urls, failed, bytes or seconds")] = "urls",
    json_: Annotated[bool, typer.Option("--json", help="one JSON object instead of tables")] = False,
) -> None:
    """Show what became of a run's URLs: by reason, and by host with requests, bytes and times."""
    from pairsieve.pipelines import cli
    from pairsieve.pipelines.hosts import page, report

    found = report(run_dir, step, top, by)
    if json_:
        print(json.dumps(asdict(found), indent=2, ensure_ascii=False))
        return
    for table in page(found):
        cli._console().print(table, markup=False)
