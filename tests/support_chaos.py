"""Kill runs of the demo at seeded points and resume them; used by ``test_chaos`` and ``benchmarks/chaos.py``.

A point is a place on the way of an uninterrupted reference run: after so many finished files, and so far
into the wait for the next one.  The suite has a point for each kind of file that a run writes, so that every phase is
struck once (``of_each_kind``).  The benchmark has many: half of them are spread evenly over the files (they fall
into barriers, verdicts and the dataset), half over the time (they fall into downloads and the model).
"""

import hashlib
import os
import random
import re
import sys
import time
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Literal
from unittest.mock import patch

from pairsieve.pipelines.demo_pool import DemoPool, build_pool, write_url_list
from pairsieve.pipelines.demo_replies import reply_to
from pairsieve.pipelines.demo_server import serve
from tests.support_processes import SIGNALS, Place, Run, Victim, files, left

OTHERS = (".lock", "catalog.duckdb", "costs.json")
"""Files that depend on the machine and the day."""
Stamps = dict[str, tuple[int, int]]

SEED = 3
POINTS = 30
VICTIMS = tuple(SIGNALS)
LONG = 1.0
"""Seconds: a longer wait for a file draws no more points of the time axis than this."""
DEEPEST = 1.5
"""Seconds into a wait at which to strike at the latest."""


@dataclass(frozen=True)
class Point:
    """Where to strike, as a share of the reference's files or of its time, and whom.

    ``again`` is for a double kill: seconds from the start of the resumed run.
    """

    number: int
    axis: Literal["files", "time"]
    share: float
    victim: Victim
    again: float


def points(seed: int, count: int) -> tuple[Point, ...]:
    """Evenly spread with jitter on both axes; every victim equally often, in random order."""
    rng = random.Random(seed)
    victims = [VICTIMS[i % len(VICTIMS)] for i in range(count)]
    rng.shuffle(victims)
    half = count // 2
    shares = [0.98 * ((i % half) + rng.random()) / half for i in range(count)]  # what is later meets a finished run
    return tuple(
        Point(i, "files" if i < half else "time", round(shares[i], 4), victims[i], round(rng.uniform(0.7, 3), 2))
        for i in range(count)
    )


TABLE = points(SEED, POINTS)


@dataclass(frozen=True)
class Reference:
    """An uninterrupted run: its files as they were finished, and their digests in the end.

    ``waits``: seconds waited for each of them, and for the end.
    """

    names: tuple[str, ...]
    waits: tuple[float, ...]
    outputs: Mapping[str, str]

    def place(self, point: Point) -> Place:
        """Where a point lies."""
        weights = [1.0 if point.axis == "files" else min(wait, LONG) for wait in self.waits]
        ends = list(accumulate(weights))
        at = point.share * ends[-1]
        n = bisect_right(ends, at)
        # not deep into a long wait: the struck run may be on a quieter machine than the reference was
        deepest = DEEPEST if n < len(self.waits) - 1 else 0.0  # after the last file a run has little left to do
        return Place(n, (at - ends[n] + weights[n]) / weights[n] * min(self.waits[n], deepest))

    def order(self, point: Point) -> tuple[int, float]:
        """Points by their place."""
        place = self.place(point)
        return place.files, place.delay

    def table(self, struck: Sequence[Point]) -> str:
        """The points with their places, for messages."""
        places = [(point, self.place(point)) for point in struck]
        return "\n".join(f"{p.number:2} {p.victim:9} after {at.files} files and {at.delay:.3f} s" for p, at in places)


def kind(name: str) -> str:
    """The phase that a file tells of: its name without numbers."""
    return re.sub(r"\d+", "N", name)


def of_each_kind(wanted: Reference, seed: int) -> tuple[Point, ...]:
    """A point in the wait for one file of each kind, in the order of the run; the victims take turns.

    Which file of its kind, how far into the wait and who comes first are drawn by seed and kind.
    """
    places: dict[str, list[int]] = {}
    for number, name in enumerate(wanted.names):
        places.setdefault(kind(name), []).append(number)
    found, first = list[Point](), random.Random(seed).randrange(len(VICTIMS))
    for turn, (what, numbers) in enumerate(places.items()):
        rng = random.Random(f"{seed} {what}")
        share = (rng.choice(numbers) + rng.uniform(0.05, 0.95)) / len(wanted.waits)
        victim = VICTIMS[(first + turn) % len(VICTIMS)]
        found.append(Point(turn, "files", share, victim, round(rng.uniform(0.7, 3), 2)))
    return tuple(sorted(found, key=wanted.order))


@dataclass(frozen=True)
class World:
    """A served demo pool and the command that runs its recipe."""

    folder: Path
    pairs: int

    def start(self, out: Path) -> Run:
        """The demo's recipe with two workers, in six shards, with time enough for a loaded machine."""
        pool = f'pool.urls={{"path": "{self.folder}/urls.parquet", "shard_rows": {-(-self.pairs // 6)}}}'
        sets = ["--set", pool, "--set", "filters.download.timeout=60", "--engine", "local", "--workers", "2"]
        command = [sys.executable, "-m", "pairsieve", "run", "demo", "--out", str(out), *sets]
        (self.folder / "tmp").mkdir(exist_ok=True)  # what killed runs leave there goes with the folder
        home = {"PYTHONPATH": str(Path(__file__).parents[1]), "TMPDIR": str(self.folder / "tmp")}
        return Run(command, {**os.environ, **home}, out)


@contextmanager
def world(folder: Path, pairs: int) -> Iterator[World]:
    """Serve a demo pool on loopback, each reply rendered once.

    Slow and endless answers are 404s here: a timeout depends on the machine, so it has no place in a
    comparison of bytes.
    """
    pool = without_timeouts(build_pool(pairs))
    with ThreadPoolExecutor(2) as threads:
        replies = dict(zip(pool.by_path, threads.map(partial(reply_to, pool), pool.by_path), strict=True))
    kept = patch("pairsieve.pipelines.demo_server.reply_to", lambda pool, path: replies.get(path))
    with kept, serve(pool) as server:
        write_url_list(pool, server.url, folder / "urls.parquet")
        yield World(folder, pairs)


def without_timeouts(pool: DemoPool) -> DemoPool:
    """The pool with dead links in the place of slow and endless answers."""
    timed = ("slow_response", "endless_response")
    return replace(pool, pairs=tuple(replace(p, defect="not_found") if p.defect in timed else p for p in pool.pairs))


def outputs(run: Path) -> dict[str, str]:
    """SHA-256 of everything that a run left, leftovers included, but what holds times or DuckDB's own bytes."""
    found = sorted(p for p in run.rglob("*") if p.is_file() and p.name not in OTHERS)
    found = [p for p in found if p.relative_to(run).parts[0] != "facts"]  # times, as in costs.json
    return {str(p.relative_to(run)): hashlib.sha256(p.read_bytes()).hexdigest() for p in found}


def scores(run: Path) -> Stamps:
    """Inode and time of every finished score file."""
    found = files(run / "scores", "scores/")
    return {name: (stat.st_ino, stat.st_mtime_ns) for name, stat in found.items()}


def reference(world: World, out: Path) -> Reference:
    """Run without interruption."""
    run = world.start(out)
    code = run.end()
    if code:
        raise AssertionError(f"the reference ended with {code}: {run.said()}")
    times = [run.start, *run.reached, run.ended]
    return Reference(run.names, tuple(late - early for early, late in pairwise(times)), outputs(out))


@dataclass
class Report:
    """What happened to one directory: the files at each strike, and everything that is not as it should be."""

    strikes: list[tuple[Point, int]] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


def punish(world: World, wanted: Reference, out: Path, struck: Sequence[Point]) -> Report:
    """Start, strike at each point, go on with the same command, and in the end compare with the reference."""
    report, runs, before = Report(), [world.start(out)], Stamps()
    try:
        for point in struck:
            _strike(world, wanted, point, runs, report)
            before |= scores(out)
            _compare_finished(wanted, out, point, report)
        if runs[-1].process.poll() is not None and struck and struck[-1].victim != "worker":
            runs.append(world.start(out))
        _finish(runs[-1], wanted, before, report)
        orphans = [pid for run in runs for pid in left(run.process.pid, 10)]
        if orphans:
            report.faults.append(f"{len(orphans)} processes are left over")
    finally:
        for run in runs:
            run.kill()
    return report


def _strike(world: World, wanted: Reference, point: Point, runs: list[Run], report: Report) -> None:
    """One point: on the run at hand, or on a resumed one where that was struck down."""
    if runs[-1].process.poll() is not None:
        runs.append(world.start(runs[-1].out))
    if not runs[-1].reach(wanted.place(point)) and not _reach_repetition(world, runs):
        code = runs[-1].process.returncode
        report.faults.append(f"{point}: the run ended with {code} before it was struck: {runs[-1].said()}")
        return
    run = runs[-1]
    report.strikes.append((point, run.look()))
    run.strike(point.victim)
    if run.look():  # before that Python itself is starting
        _judge_end(run, point, report)
    if point.victim == "twice":
        runs.append(world.start(run.out))
        if runs[-1].reach(Place(0, point.again)):
            runs[-1].strike("session")


def _reach_repetition(world: World, runs: list[Run]) -> bool:
    """Where a run was done before its strike, start it once more and wait for the first file that it makes anew."""
    if runs[-1].process.returncode:
        return False
    time.sleep(0.2)  # so that the files of the run before do not count as the next one's
    runs.append(world.start(runs[-1].out))
    return runs[-1].reach(Place(runs[-1].look() + 1, 0.0))


def _judge_end(run: Run, point: Point, report: Report) -> None:
    """Ctrl-C has its exit code, unless all was done; nobody sees a traceback."""
    code = run.process.returncode
    if point.victim == "interrupt" and code != 130 and not (run.out / "catalog.duckdb").exists():
        report.faults.append(f"{point}: ended with {code}, not 130: {run.said()}")
    if "Traceback" in run.said():
        report.faults.append(f"{point}: {run.said()}")


def _compare_finished(wanted: Reference, out: Path, point: Point, report: Report) -> None:
    """What is finished at a strike has the reference's bytes already."""
    for name in files(out / "scores", "scores/"):
        if hashlib.sha256((out / name).read_bytes()).hexdigest() != wanted.outputs.get(name):
            report.faults.append(f"{point}: {name} is not the reference's")


def _finish(run: Run, wanted: Reference, before: Stamps, report: Report) -> None:
    code = run.end()
    if code:
        report.faults.append(f"the resumed run ended with {code}: {run.said()}")
    found = outputs(run.out)
    names = sorted(found.keys() | wanted.outputs.keys())
    report.faults += [f"{name} differs" for name in names if found.get(name) != wanted.outputs.get(name)]
    if not (run.out / "catalog.duckdb").exists():
        report.faults.append("catalog.duckdb is missing")
    after = scores(run.out)
    report.faults += [f"{name} was touched after it was finished" for name in before if after.get(name) != before[name]]
