"""The command ``pairsieve report``."""

from typing import Annotated

import typer

from pairsieve.pipelines.cli_options import JsonOption, QuietOption, RunArg
from pairsieve.pipelines.cli_output import emit


def report(
    run_dir: RunArg,
    out: Annotated[str | None, typer.Option(help="file to write; default: report.html in the run")] = None,
    quiet: QuietOption = False,
    json_: JsonOption = False,
) -> None:
    """Write one HTML file that shows a run: funnel, thresholds, distributions, samples, duplicates."""
    from pairsieve.pipelines.progress import reporter
    from pairsieve.pipelines.report import report as write_report

    made = write_report(run_dir, out, progress=reporter(quiet))
    said = [*made.state, *(f"not read: {line}" for line in made.unread)]
    emit(json_, made.document, lambda: [*said, f"{made.file} ({made.bytes / 1e6:.1f} MB): open it in a browser"])
