"""The command ``pairsieve explore``."""

import resource
import webbrowser
from importlib.util import find_spec
from typing import Annotated

import typer

from pairsieve.pipelines.cli_options import QuietOption, run_arg
from pairsieve.pipelines.cli_output import note
from pairsieve.schemas.errors import MissingExtraError

_SHARE = 0.8
"""Of the machine's memory: beyond it a query fails, instead of the machine."""


def explore(
    run_dir: Annotated[str, run_arg()],
    other: Annotated[str | None, run_arg("another one, to compare it with", "OTHER")] = None,
    port: Annotated[int, typer.Option(min=0, max=65_535, help="port on this machine; 0: any free one")] = 0,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="open the address in a browser")] = True,
    quiet: QuietOption = False,
) -> None:
    """Look at a run in the browser: its pairs, its thresholds, another run beside it; from this machine only."""
    if missing := [name for name in ("fastapi", "uvicorn") if find_spec(name) is None]:
        raise MissingExtraError(f"explore needs {', '.join(missing)}: pip install 'pairsieve[explore]'")
    from pairsieve.pipelines.explore import opened, serve
    from pairsieve.pipelines.progress import reporter

    _bound_memory()

    def ready(address: str) -> None:
        print(f"open {address}", flush=True)
        note("only this machine reaches it, and only with that address; Ctrl-C ends it")
        if browser:
            webbrowser.open(address)

    with opened(run_dir, other, reporter(quiet)) as session:
        serve(session, port, ready)


def _bound_memory() -> None:
    """Let the process ask for no more than a share of the machine's memory."""
    from pairsieve.pipelines import machine

    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    wanted = int(machine.memory() * _SHARE)
    resource.setrlimit(resource.RLIMIT_DATA, (wanted if most == resource.RLIM_INFINITY else min(wanted, most), most))
