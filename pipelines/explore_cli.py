"""The command ``pairsieve explore``."""

import resource
import signal
import webbrowser
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

from pairsieve.pipelines.cli_options import QuietOption, run_arg
from pairsieve.pipelines.cli_output import note
from pairsieve.schemas.errors import ExitCode, MissingExtraError

_SHARE = 0.8
"""Of the machine's memory: beyond it loading fails, instead of the machine."""
_SHARE_OF_QUESTIONS = 0.25
_BESIDE = 2 << 30
"""What questions may take, all together, of the machine's memory, and beside it, for images and threads."""


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
    from pairsieve.pipelines import machine
    from pairsieve.pipelines.explore import opened, serve
    from pairsieve.pipelines.progress import reporter

    _bound_memory(int(machine.memory() * _SHARE))
    signal.signal(signal.SIGTERM, _ended)
    if signal.getsignal(signal.SIGHUP) == signal.SIG_DFL:  # else nohup
        signal.signal(signal.SIGHUP, lambda *_: signal.raise_signal(signal.SIGTERM))  # which the server knows

    def ready(address: str) -> None:
        print(f"open {address}", flush=True)
        note("only this machine reaches it, and only with that address; Ctrl-C ends it")
        if browser:
            webbrowser.open(address)

    with opened(run_dir, other, reporter(quiet)) as session:
        _bound_memory(_taken() + int(machine.memory() * _SHARE_OF_QUESTIONS) + _BESIDE)
        serve(session, port, ready)


def _ended(*_: Any) -> None:
    """A scheduler's SIGTERM, or a terminal that is gone: what lies in the temporary folder goes too."""
    raise SystemExit(ExitCode.TERMINATED)


def _taken() -> int:
    """Bytes of data that the process has by now, as the limit counts them; 0 where the system does not tell."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("VmData:")), 0)


def _bound_memory(wanted: int) -> None:
    """Let the process ask for no more than so much: what DuckDB's own account leaves out ends in an error too."""
    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (wanted if most == resource.RLIM_INFINITY else min(wanted, most), most))
