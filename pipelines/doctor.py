"""Look at this machine for what a run needs: a line a finding, with the next step where one is needed.

Every probe has a deadline and none raises: what it cannot tell in time is a note.  Nothing is sent anywhere but one
name to the resolver; values of credentials are not read.  Some seconds, most of them torch's where there is a GPU.
"""

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from rich.console import RenderableType

State = Literal["ok", "note", "problem"]
Probe = Callable[[], "Iterable[Finding]"]
DEADLINE = 10.0
"""Seconds for all of them: they work side by side."""
_STYLES: dict[State, str] = {"ok": "green", "note": "yellow", "problem": "red"}


@dataclass(frozen=True)
class Finding:
    """One line.  A ``problem`` stops every run; a ``note`` some of them, or makes them slow."""

    topic: str
    state: State
    says: str
    next_step: str = ""


def ok(topic: str, says: str) -> Finding:
    """All is well."""
    return Finding(topic, "ok", says)


def note(topic: str, says: str, next_step: str = "") -> Finding:
    """Good to know."""
    return Finding(topic, "note", says, next_step)


def problem(topic: str, says: str, next_step: str) -> Finding:
    """No run can work so."""
    return Finding(topic, "problem", says, next_step)


def probes(run: str | None) -> dict[str, Probe]:
    """What is looked at, in this order; ``run`` is the directory that a run uses, or is to use."""
    from pairsieve.pipelines import doctor_disk, doctor_machine, doctor_network, doctor_packages

    folder = run or "."
    found: dict[str, Probe] = {
        "versions": doctor_packages.versions,
        "packages": doctor_packages.packages,
        "extras": doctor_packages.extras,
        "CPU": doctor_machine.cpu,
        "memory": doctor_machine.memory,
        "limits": doctor_machine.limits,
        "GPU": doctor_machine.gpu,
        "Ray": doctor_machine.ray,
        "disk": lambda: doctor_disk.folder(folder),
        "temporary folder": doctor_disk.temporary,
        "DNS": doctor_network.dns,
        "proxies": doctor_network.proxies,
        "object stores": doctor_network.object_stores,
        "clock": lambda: doctor_disk.clock(folder),
    }
    return found if run is None else {**found, "run": lambda: doctor_disk.run(run)}


def examine(found: Mapping[str, Probe], deadline: float = DEADLINE) -> Iterator[Finding]:
    """The findings of all probes, in their order; they work side by side."""
    until = time.monotonic() + deadline
    started = [(topic, _Asked(probe)) for topic, probe in found.items()]
    for topic, asked in started:
        yield from asked.answer(topic, until)


class _Asked:
    """A probe at work in a thread of its own: one that hangs in a system call is left behind."""

    def __init__(self, probe: Probe) -> None:
        self._findings: list[Finding] | None = None
        self._error = ""
        self._thread = threading.Thread(target=self._work, args=(probe,), daemon=True)
        self._thread.start()

    def _work(self, probe: Probe) -> None:
        try:
            self._findings = list(probe())
        except Exception as error:  # whatever a machine has in store
            self._error = " ".join(f"{type(error).__name__}: {error}".split())[:200]

    def answer(self, topic: str, until: float) -> list[Finding]:
        self._thread.join(max(0.0, until - time.monotonic()))
        if self._findings is not None:
            return self._findings
        return [note(topic, f"cannot be told: {self._error or 'no answer in time'}")]


def document(findings: Iterable[Finding]) -> dict[str, Any]:
    """For programs: whether runs can work, and every finding."""
    listed = [asdict(finding) for finding in findings]
    return {"is_able": all(one["state"] != "problem" for one in listed), "findings": listed}


def page(findings: Iterable[Finding]) -> "Iterator[RenderableType]":
    """For people: a line a finding, the next step below it."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False, padding=(0, 1))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for one in findings:
        says = Text(f"{one.says}\n→ {one.next_step}" if one.next_step else one.says)
        table.add_row(Text(one.state, style=_STYLES[one.state]), Text(one.topic), says)
    yield table
