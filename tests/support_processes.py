"""Processes of a run under test: start it, watch its files, strike it, and find what is left of it.  Linux only."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pairsieve.pipelines.progress import Silent, Stage
from pairsieve.pipelines.run import run

Victim = Literal["session", "interrupt", "terminate", "driver", "worker", "twice"]
SIGNALS: dict[Victim, signal.Signals] = {
    "session": signal.SIGKILL,
    "interrupt": signal.SIGINT,
    "terminate": signal.SIGTERM,
    "driver": signal.SIGKILL,
    "worker": signal.SIGKILL,
    "twice": signal.SIGKILL,
}
"""Every process, as a machine that goes down; every process, as Ctrl-C; the driver alone, twice; one worker; and
every process, then those of the resumed run."""
PATIENCE = 120.0
"""Seconds of stillness after which a run hangs."""
LOOK = 0.005
SAMPLE = 1.0
"""Seconds between two looks at what processes do."""
BUSY = 0.02
"""CPU-seconds a second from which processes do more than look whether there is something to do."""


@dataclass(frozen=True)
class Place:
    """A point on the timeline of the reference: finished files, then seconds."""

    files: int
    delay: float


class Stillness:
    """For how long a session's processes have done nothing.

    Wall time would call a run hanging that only waits: on a busy machine for a CPU, or for a disk that others write
    gigabytes to.  Such processes are runnable, or in uninterruptible sleep; those that hang are neither.
    """

    def __init__(self, session: int) -> None:
        """They are doing something now."""
        self._session = session
        self._since = self._looked = time.monotonic()
        self._ticks = 0

    def moved(self) -> None:
        """There is other evidence that they do something."""
        self._since = time.monotonic()

    def seconds(self) -> float:
        """Since they last did something; looks at them once in ``SAMPLE`` seconds."""
        now = time.monotonic()
        if now - self._looked >= SAMPLE:
            found = stats(self._session)
            ticks = sum(one.ticks for one in found.values())
            worked = abs(ticks - self._ticks) / os.sysconf("SC_CLK_TCK") / (now - self._looked)
            if worked >= BUSY or any(one.state in "RD" for one in found.values()):
                self._since = now
            self._looked, self._ticks = now, ticks
        return now - self._since


class Run:
    """A started command: its progress in finished files, its processes, its end."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], out: Path) -> None:
        """Start it in a session of its own."""
        self.out = out
        self.errors = out.with_name(f"{out.name}.stderr")
        self.start = time.time()
        self.ended = 0.0
        self.reached: list[float] = []
        self._seen: dict[str, None] = {}
        with self.errors.open("w") as errors:
            self.process = subprocess.Popen(
                command,
                env={**environment, "PYTHONFAULTHANDLER": "1"},  # says where it hangs when it is aborted
                stdout=subprocess.DEVNULL,
                stderr=errors,
                start_new_session=True,
            )
        self._still = Stillness(self.process.pid)

    @property
    def names(self) -> tuple[str, ...]:
        """Finished files in the order in which they were seen."""
        return tuple(self._seen)

    def look(self) -> int:
        """Finished files so far: what an earlier run measured counts, what every run makes anew counts when it is."""
        now = time.time()
        for name, stat in files(self.out).items():
            lasts = name.startswith(("pairs/", "scores/", "dataset/"))
            if not name.startswith(("_work/", "costs.json", "facts/")) and (lasts or stat.st_mtime > self.start - 0.1):
                self._seen[name] = None
        if len(self._seen) > len(self.reached):
            self._still.moved()
        self.reached += [now] * (len(self._seen) - len(self.reached))
        return len(self._seen)

    def reach(self, place: Place) -> bool:
        """Wait for a place; false if the run ended before."""
        while self.process.poll() is None:
            count = self.look()
            since = self.start if not place.files else self.reached[place.files - 1] if count >= place.files else None
            if since is not None and time.time() >= since + place.delay:
                return True
            self._give_up_when_hanging()
            time.sleep(LOOK)
        return False

    def end(self) -> int:
        """Wait for the end; gives the exit code."""
        while self.process.poll() is None:
            self.look()
            self._give_up_when_hanging()
            time.sleep(LOOK)
        self.look()
        self.ended = time.time()
        return int(self.process.returncode)

    def _give_up_when_hanging(self) -> None:
        if self._still.seconds() > PATIENCE:
            for pid in members(self.process.pid):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGABRT)
            time.sleep(1)
            self.kill()
            raise AssertionError(f"the run hangs with {len(self._seen)} files; {self.said()}")

    def said(self) -> str:
        """What it wrote to standard error."""
        return self.errors.read_text()

    def strike(self, victim: Victim) -> None:
        """Send the signal; waits for the driver's end, unless only a worker is struck."""
        if victim == "worker":
            self._strike_worker()
            return
        number = SIGNALS[victim]
        if victim in ("driver", "terminate"):
            self.process.send_signal(number)
        else:
            os.killpg(self.process.pid, number)
        still = Stillness(self.process.pid)
        while self.process.poll() is None:
            if still.seconds() > 30:
                self.kill()
                raise AssertionError(f"the driver survived {number.name} by 30 s; {self.said()}")
            time.sleep(LOOK)

    def _strike_worker(self) -> None:
        """SIGKILL the youngest worker; before the first there is none, so wait for it."""
        while self.process.poll() is None:
            if found := workers(self.process.pid):
                with suppress(ProcessLookupError):
                    os.kill(max(found), signal.SIGKILL)
                return
            self.look()
            time.sleep(LOOK)

    def kill(self) -> None:
        """End every process of the run, whatever became of its driver."""
        kill(self.process)


def kill(process: "subprocess.Popen[Any]") -> None:
    """End every process of the session that a process leads."""
    for pid in members(process.pid):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()


@dataclass(frozen=True)
class Stat:
    """What the kernel says of a process: its parent, its state as a letter, ticks of CPU time so far."""

    parent: int
    state: str
    ticks: int


def stats(session: int) -> dict[int, Stat]:
    """Living processes of a session."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                told = (entry / "stat").read_text().rpartition(")")[2].split()
                if int(told[3]) == session and told[0] != "Z":
                    found[int(entry.name)] = Stat(int(told[1]), told[0], int(told[11]) + int(told[12]))
    return found


def members(session: int) -> dict[int, int]:
    """Living processes of a session, with their parents."""
    return {pid: one.parent for pid, one in stats(session).items()}


def left(session: int, seconds: float) -> list[int]:
    """Processes of a session that do not end, and have done nothing for so long."""
    still = Stillness(session)
    while (found := list(members(session))) and still.seconds() < seconds:
        time.sleep(0.05)
    return found


def workers(driver: int) -> list[int]:
    """Processes of a driver's session that it did not start itself: those of its fork server."""
    parents = members(os.getsid(driver))
    return [pid for pid, parent in parents.items() if parents.get(parent) == driver]


def files(folder: Path, inside: str = "") -> dict[str, os.stat_result]:
    """Finished files below a folder by relative path; one that goes meanwhile is left out."""
    found: dict[str, os.stat_result] = {}
    with suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                found |= files(Path(entry.path), f"{inside}{entry.name}/")
            elif not entry.name.endswith(".tmp"):
                with suppress(FileNotFoundError):
                    found[inside + entry.name] = entry.stat()
    return found


class IdleDeath(Silent):
    """Kill one of this process's workers before the stage ``verdicts``, when it has nothing to do."""

    @contextmanager
    def stage(self, name: str, rows: int) -> Iterator[Stage]:
        """Strike, then go on."""
        if name == "verdicts":
            os.kill(workers(os.getpid())[0], signal.SIGKILL)
            time.sleep(0.3)
            print("killed a worker before verdicts")
        yield self


def run_with_idle_deaths(recipe: Mapping[str, Any], out: str) -> None:
    """A run of a process of its own, with two workers."""
    run(recipe, out, workers=2, engine="local", progress=IdleDeath())
