"""The command line.  Nothing a user types ends in a traceback: an error is one line, exit code 1 or 2.

``pairsieve --help`` imports the signatures of all commands and nothing that they need to work.
"""

import os
import sys
from collections.abc import Callable
from typing import Annotated

import typer

from pairsieve.pipelines import (
    ask_cli,
    balance_cli,
    cli_start,
    cluster_cli,
    describe_cli,
    doctor_cli,
    download_cli,
    explore_cli,
    init_cli,
    metadata_cli,
    report_cli,
    reshard_cli,
    run_cli,
    search_cli,
)
from pairsieve.pipelines.captions_cli import captions
from pairsieve.pipelines.cli_output import note
from pairsieve.pipelines.export_cli import export
from pairsieve.pipelines.storage_errors import explain, is_exhausted, refusal
from pairsieve.pipelines.track_cli import track
from pairsieve.schemas.errors import EXIT_CODES, ExitCode, PairsieveError

DEBUG = "PAIRSIEVE_DEBUG"
"""Environment variable that lets an unforeseen error end in its traceback."""
_NAME = "pairsieve"

app = typer.Typer(
    name=_NAME,
    help="Build image-text datasets from recipes; keep a verdict for every pair.",
    epilog="\b\nExit codes:\n" + "\n".join(f"  {code:<4} {what}" for code, what in EXIT_CODES.items()),
    invoke_without_command=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def main() -> None:
    """Entry point: run the command and turn errors into one line and an exit code."""
    try:
        sys.exit(app(prog_name=_NAME, standalone_mode=False))
    except PairsieveError as error:
        _end(str(error), error.exit_code)
    except typer.TyperException as error:  # a mistake in what was typed
        text = error.format_message()
        if text.startswith("Usage:"):  # a group of commands alone shows its help
            note(text)
            sys.exit(ExitCode.MISTAKE)
        _end(_usage(text, error), ExitCode.MISTAKE)
    except (typer.Abort, KeyboardInterrupt):
        note("\nstopped" if sys.stderr.isatty() else "stopped")  # the question's line has not ended
        sys.exit(ExitCode.INTERRUPTED)
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output left; say nothing more
        sys.exit(ExitCode.DONE)
    except OSError as error:
        if is_exhausted(error):
            _end(str(explain(error, "this machine")), ExitCode.FAILED)
        _end(refusal(error), ExitCode.MISTAKE)
    except Exception as error:
        if os.environ.get(DEBUG):
            raise
        text = " ".join(f"{type(error).__name__}: {error}".split())[:500]
        _end(f"{text}; this is a defect of pairsieve, {DEBUG}=1 shows where", ExitCode.FAILED)


def _end(line: str, code: int) -> None:
    """Say one line and end; names in it may be anybody's, so nothing in them reaches the terminal but text."""
    note("error: " + "".join(c if c.isprintable() else " " for c in line))
    sys.exit(code)


def _usage(text: str, error: typer.TyperException) -> str:
    """What is wrong with the command, and who knows more: the help of the command that was meant."""
    text = " ".join(text.split()).rstrip(".?")
    parameter = getattr(error, "param", None)
    if text.startswith("Missing") and parameter is not None and parameter.help:
        text += f" ({parameter.help})"
    context = getattr(error, "ctx", None)
    return f"{text}; {context.command_path if context else _NAME} --help shows how"


def _version(is_asked: bool) -> None:
    if is_asked:
        from importlib.metadata import version

        print(f"{_NAME} {version(_NAME)}")
        raise typer.Exit


@app.callback()
def _start(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        print(cli_start.page())


_COMMANDS: tuple[Callable[..., None], ...] = (
    init_cli.init,
    run_cli.run,
    run_cli.plan,
    ask_cli.query,
    ask_cli.why,
    ask_cli.diff,
    report_cli.report,
    search_cli.search,
    explore_cli.explore,
    download_cli.retry,
    download_cli.hosts,
    balance_cli.balance,
    reshard_cli.reshard,
    cluster_cli.cluster,
    metadata_cli.metadata,
    describe_cli.filters,
    describe_cli.schema,
    run_cli.demo,
    doctor_cli.doctor,
)
for _command in _COMMANDS:
    app.command()(_command)
app.add_typer(captions, name="captions")
app.add_typer(track, name="track")
app.add_typer(export, name="export")
