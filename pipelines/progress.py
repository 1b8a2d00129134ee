"""Progress of a run: bars with rows, kept share, rate and time left on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class Stage(Protocol):
    """One stage of a run under way."""

    def advance(self, rows: int, note: str = "") -> None:
        """Some rows are done; ``note`` says what came of them."""
        ...


class Reporter(Protocol):
    """Shows stages to somebody, or to nobody."""

    def stage(self, name: str, rows: int) -> AbstractContextManager[Stage]:
        """A stage over so many rows."""
        ...

    def say(self, line: str) -> None:
        """One line."""
        ...


class Silent:
    """Shows nothing: for library use."""

    @contextmanager
    def stage(self, name: str, rows: int) -> Iterator[Stage]:
        """Nothing to see."""
        yield self

    def advance(self, rows: int, note: str = "") -> None:
        """Nothing to see."""

    def say(self, line: str) -> None:
        """Nothing to say."""


class Lines:
    """Plain lines: one when a stage ends, and one every ``every`` seconds."""

    def __init__(self, every: float = 30.0) -> None:
        """Write to stderr, so that stdout stays for results."""
        self._every = every

    @contextmanager
    def stage(self, name: str, rows: int) -> Iterator[Stage]:
        """Announce the end of the stage."""
        stage = _LineStage(self, name, rows, self._every)
        yield stage
        stage.finish()

    def say(self, line: str) -> None:
        """One line on stderr."""
        print(line, file=sys.stderr, flush=True)


class _LineStage:
    def __init__(self, out: Lines, name: str, rows: int, every: float) -> None:
        self._out, self._name, self._rows, self._every = out, name, rows, every
        self._done, self._note = 0, ""
        self._began = self._said = time.monotonic()

    def advance(self, rows: int, note: str = "") -> None:
        self._done += rows
        self._note = note or self._note
        now = time.monotonic()
        if now - self._said >= self._every:
            self._said = now
            self._say(now)

    def finish(self) -> None:
        self._say(time.monotonic())

    def _say(self, now: float) -> None:
        seconds = max(now - self._began, 1e-3)
        rate = self._done / seconds
        left = f", {(self._rows - self._done) / rate:,.0f} s left" if rate and self._done < self._rows else ""
        note = f", {self._note}" if self._note else ""
        whole = f" of {self._rows:,}" if self._rows else ""
        self._out.say(f"{self._name}: {self._done:,}{whole} pairs, {rate:,.0f}/s{left}{note}")


class Bars:
    """Live bars on a terminal."""

    def __init__(self, console: Console) -> None:
        """Draw on the console."""
        self._console = console

    @contextmanager
    def stage(self, name: str, rows: int) -> Iterator[Stage]:
        """One bar for the stage; it stays when the stage is done."""
        shown = (
            TextColumn("{task.description:<34}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        with Progress(*shown, console=self._console) as progress:
            yield _BarStage(progress, name, rows)

    def say(self, line: str) -> None:
        """One line above the bars."""
        self._console.print(line, markup=False, highlight=False)


class _BarStage:
    def __init__(self, progress: Progress, name: str, rows: int) -> None:
        self._progress, self._began, self._done = progress, time.monotonic(), 0
        self._task = progress.add_task(name, total=rows or None, rate="", note="")

    def advance(self, rows: int, note: str = "") -> None:
        self._done += rows
        rate = self._done / max(time.monotonic() - self._began, 1e-3)
        self._progress.update(self._task, advance=rows, rate=f"{rate:,.0f}/s", note=note)


def reporter(quiet: bool = False) -> Reporter:
    """Bars on a terminal, lines elsewhere, nothing with ``quiet``."""
    if quiet:
        return Silent()
    console = Console(stderr=True)
    return Bars(console) if console.is_terminal else Lines()
