"""The command ``pairsieve doctor``."""

from typing import Annotated

import typer

from pairsieve.pipelines.cli_options import JsonOption, run_arg
from pairsieve.pipelines.cli_output import emit
from pairsieve.schemas.errors import ExitCode


def doctor(
    run_dir: Annotated[str | None, run_arg("where a run is, or is to be; default: the current folder")] = None,
    json_: JsonOption = False,
) -> None:
    """Look at this machine: what is installed, GPU, Ray, disk, network.  Exit code 1 where no run can work."""
    from pairsieve.pipelines.doctor import document, examine, page, probes

    findings = list(examine(probes(run_dir)))
    emit(json_, lambda: document(findings), lambda: page(findings))
    if any(one.state == "problem" for one in findings):
        raise typer.Exit(ExitCode.FAILED)
