"""What commands print: results go to standard output, as text for people or as one JSON document for programs.

Progress, notes and errors go to standard error.  Rich is imported when something is shown, so that ``--help`` and
completions do without.
"""

import json
import math
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import typer

from pairsieve.schemas.errors import ExitCode

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

LONGEST_BYTES = 32
"""Bytes of more are shown by their number: an image must not flood the terminal."""
_WIDTH = 120
"""Of lines in a pipe or a file."""


def emit(
    as_json: bool, document: Callable[[], Mapping[str, Any]], page: "Callable[[], Iterable[RenderableType]]"
) -> None:
    """Print a result: its JSON document, or its page."""
    if as_json:
        print_json(document())
    else:
        show(page())


def show(page: "Iterable[RenderableType]") -> None:
    """Print tables and lines; brackets in them are no markup, and lines are not broken."""
    out = console()
    for part in page:
        out.print(part, soft_wrap=isinstance(part, str), markup=False)


def print_json(document: Mapping[str, Any]) -> None:
    """Print one JSON document, in ASCII where standard output takes nothing else."""
    text = json.dumps(plain(document), indent=2, ensure_ascii=False, allow_nan=False)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(plain(document), indent=2, allow_nan=False)
    print(text)


def plain(value: Any) -> Any:
    """A value as JSON has it: NaN and infinity are null, bytes hex or their number, what JSON lacks is text."""
    if isinstance(value, Mapping):
        return {str(name): plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(inner) for inner in value]
    value = value.tolist() if hasattr(value, "tolist") else value  # numpy's numbers and arrays
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, bytes):
        return cell(value)
    if value is None or isinstance(value, bool | int | list):
        return value
    return value.as_posix() if isinstance(value, PurePath) else str(value)


def cell(value: Any) -> Any:
    """A value as a table or a csv file has it."""
    if isinstance(value, bytes):
        return value.hex() if len(value) <= LONGEST_BYTES else f"<{len(value)} bytes>"
    return value if isinstance(value, int | float | str | None) else str(value)


def note(line: str) -> None:
    """One line to standard error, beside the result."""
    print(line, file=sys.stderr, flush=True)


def console() -> "Console":
    """Standard output; a pipe or file gets lines of up to 120 characters."""
    from rich.console import Console

    found = Console(highlight=False)
    return found if found.is_terminal else Console(highlight=False, width=_WIDTH)


@contextmanager
def resumable() -> Iterator[None]:
    """Ctrl-C, or a scheduler's SIGTERM, stops a run with a line, not a traceback; its workers end with it."""
    signal.signal(signal.SIGTERM, _terminated)
    try:
        yield
    except KeyboardInterrupt as stop:
        note("stopped; the same command continues")
        raise typer.Exit(ExitCode.TERMINATED if stop.args else ExitCode.INTERRUPTED) from None


def _terminated(*_: Any) -> None:
    raise KeyboardInterrupt("terminated")
