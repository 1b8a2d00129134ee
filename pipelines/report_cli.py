"""The command ``pairsieve report``."""

import json
from dataclasses import asdict
from typing import Annotated

import typer


def report(
    run_dir: Annotated[str, typer.Argument(help="a run, finished or not", metavar="RUN")],
    out: Annotated[str | None, typer.Option(help="file to write; default: report.html in the run")] = None,
    json_: Annotated[bool, typer.Option("--json", help="say what was counted as one JSON object")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="show no progress")] = False,
) -> None:
    """Write one HTML file that shows a run: funnel, thresholds, distributions, samples, duplicates."""
    from pairsieve.pipelines import cli
    from pairsieve.pipelines.progress import reporter
    from pairsieve.pipelines.report import report as write_report

    made = write_report(run_dir, out, progress=reporter(quiet))
    if json_:
        print(json.dumps(asdict(made), indent=2, ensure_ascii=False))
        return
    for line in (*made.state, *(f"not read: {line}" for line in made.unread)):
        cli._console().print(line, soft_wrap=True, markup=False)
    size = f"{made.bytes / 1e6:.1f} MB"
    cli._console().print(f"{made.file} ({size}): open it in a browser", soft_wrap=True, markup=False)
