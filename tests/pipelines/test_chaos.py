"""Runs of the demo's recipe killed once in the wait for each kind of file: what was finished stays, and the end is the
reference's.

Two directories take the strikes in turn, so that few runs begin from nothing; ``python -m tests.benchmarks.chaos`` has
30 points and more pairs, each point with a directory of its own.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pairsieve.pipelines.run import run
from tests import support_processes
from tests.support import digests, numbered_rows, recipe, write_csv
from tests.support_chaos import (
    SEED,
    TABLE,
    VICTIMS,
    Point,
    Reference,
    World,
    kind,
    of_each_kind,
    punish,
    reference,
    world,
)
from tests.support_processes import Run, kill, left, members

PAIRS = 600
DIRECTORIES = 2
STEPS = ("caption_words", "same_row", "download", "image_shape", "same_image", "clip_score")
KINDS = {
    *(".workers", ".lock", "run.yaml", "pairs/N.parquet", "pairs/_pool.json"),
    *(f"scores/{step}/N.parquet" for step in STEPS),
    *("derived/same_row/N.parquet", "derived/same_image/N.parquet", "verdicts/N.parquet"),
    *("subset.npy", "dataset/N.parquet", "dataset/_manifest.json", "catalog.duckdb"),
}
"""Every phase of a run, by what it writes."""


@dataclass(frozen=True)
class Stage:
    """A served world and the uninterrupted run over it."""

    world: World
    wanted: Reference

    def struck(self, directory: int) -> list[Point]:
        """The points of one directory, in the order of the run."""
        return list(of_each_kind(self.wanted, SEED)[directory::DIRECTORIES])


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """One world for all."""
    folder = tmp_path_factory.mktemp("chaos")
    with world(folder, PAIRS) as served:
        yield Stage(served, reference(served, folder / "reference"))
    shutil.rmtree(folder)


def test_every_phase_and_everybody_is_struck(stage: Stage) -> None:
    """The points fall into the wait for each kind of file that a run writes, and each victim is struck twice."""
    struck = of_each_kind(stage.wanted, SEED)
    assert {kind(stage.wanted.names[stage.wanted.place(point).files]) for point in struck} == KINDS
    assert {kind(name) for name in stage.wanted.outputs} <= KINDS
    assert min(Counter(point.victim for point in struck).values()) >= 2
    assert {point.victim for point in struck} == set(VICTIMS)


def test_points_of_the_benchmark_strike_everybody() -> None:
    """30 points, on both axes, every victim five times."""
    assert len(TABLE) == 30
    assert {axis: sum(p.axis == axis for p in TABLE) for axis in ("files", "time")} == {"files": 15, "time": 15}
    assert {sum(p.victim == victim for p in TABLE) for victim in VICTIMS} == {5}


@pytest.mark.timeout(900)
@pytest.mark.parametrize("directory", range(DIRECTORIES))
def test_struck_runs_end_as_the_reference(stage: Stage, directory: int) -> None:
    """After every strike the same command goes on; every file ends with the reference's bytes, none twice written."""
    struck = stage.struck(directory)
    report = punish(stage.world, stage.wanted, stage.world.folder / f"run-{directory}", struck)
    assert not report.faults, f"{stage.wanted.table(struck)}\n" + "\n".join(report.faults)
    assert [point for point, _ in report.strikes] == struck


def test_a_run_that_hangs_says_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing done for long enough: every thread's stack is in the message."""
    monkeypatch.setattr(support_processes, "PATIENCE", 1.0)
    code = "import threading\ndef forever(): threading.Event().wait()\nforever()"
    stuck = Run([sys.executable, "-c", code], os.environ, tmp_path / "run")
    with pytest.raises(AssertionError, match=r"(?s)hangs with 0 files;.*in forever"):
        stuck.end()


def test_a_run_that_works_does_not_hang(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However little it finishes, and however slow the machine is."""
    monkeypatch.setattr(support_processes, "PATIENCE", 0.4)
    monkeypatch.setattr(support_processes, "SAMPLE", 0.1)
    code = "import time\nwhile time.process_time() < 1: pass"
    assert Run([sys.executable, "-c", code], os.environ, tmp_path / "run").end() == 0


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    """800 pairs, 8 shards."""
    return write_csv(tmp_path / "list.csv", numbered_rows(800))


@contextmanager
def started(made: dict[str, Any], out: Path) -> Iterator["subprocess.Popen[Any]"]:
    """A run with two workers in a session of its own; whatever is left of it in the end is killed."""
    file = out.with_suffix(".yaml")
    file.write_text(json.dumps(made))
    command = [sys.executable, "-m", "pairsieve", "run", str(file), "--out", str(out), "--workers", "2", "--quiet"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    with out.with_suffix(".stderr").open("w") as errors:
        process = subprocess.Popen(command, env=environment, start_new_session=True, stderr=errors)
    try:
        yield process
    finally:
        kill(process)


def wait_for(path: Path, process: "subprocess.Popen[Any]") -> None:
    """Until a file is there."""
    while not path.exists():
        assert process.poll() is None, "the run ended before it could be struck"
        time.sleep(0.02)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_workers_go_with_their_driver(pool: Path, tmp_path: Path, how: signal.Signals) -> None:
    """Workers whose driver is gone end by themselves within seconds."""
    step = {"tests.support_filters:Deliberate": {"value": 1, "seconds": 1}}
    with started(recipe(pool, step), tmp_path / "run") as process:
        wait_for(tmp_path / "run" / "scores" / "Deliberate" / "00000.parquet", process)
        process.send_signal(how)
        process.wait(30)
        assert not left(process.pid, 15)


def test_workers_go_though_nobody_asks_for_their_driver(pool: Path, tmp_path: Path) -> None:
    """A killed driver that its parent has not waited for is dead all the same."""
    step = {"tests.support_filters:Deliberate": {"value": 1, "seconds": 1}}
    with started(recipe(pool, step), tmp_path / "run") as process:
        wait_for(tmp_path / "run" / "scores" / "Deliberate" / "00000.parquet", process)
        process.send_signal(signal.SIGKILL)
        assert not left(process.pid, 15)
        assert process.returncode is None


@pytest.mark.parametrize("delay", [0.02, 0.15, 0.3])
def test_workers_that_are_starting_go_too(pool: Path, tmp_path: Path, delay: float) -> None:
    """A SIGTERM that comes while workers start is one line: no worker is left to find its driver gone."""
    step = {"tests.support_filters:Deliberate": {"value": 1, "seconds": 1}}
    with started(recipe(pool, step), tmp_path / "run") as process:
        while len(members(process.pid)) < 3:  # the driver, its resource tracker, its fork server
            assert process.poll() is None
            time.sleep(0.001)
        time.sleep(delay)
        process.terminate()
        assert process.wait(30) == 143
        assert not left(process.pid, 15)
    assert (tmp_path / "run.stderr").read_text().splitlines() == ["stopped; the same command continues"]


def test_orphans_leave_a_later_run_alone(pool: Path, tmp_path: Path) -> None:
    """Workers whose driver was killed do not put their scores in the place of a later recipe's."""
    made = [
        recipe(pool, {"tests.support_filters:Deliberate": {"value": v, "seconds": s}}) for v, s in ((1, 1.5), (2, 0))
    ]
    with started(made[0], tmp_path / "run") as process:
        wait_for(tmp_path / "run" / "scores" / "Deliberate" / "00000.parquet", process)
        process.kill()
        process.wait()
        later = run(made[1], tmp_path / "run", workers=1)
        left(process.pid, 8)  # whatever an orphan still does is done by then
        found = later.query("SELECT deliberate, count(*) AS n FROM scores GROUP BY 1")
    assert found.to_pylist() == [{"deliberate": 2, "n": 800}]


def test_worker_may_die_between_passes(pool: Path, tmp_path: Path) -> None:
    """A worker that dies while it has nothing to do is replaced; the run ends with the same bytes."""
    made = recipe(pool, "caption_words", {"clip_score": {"column": "score", "top": 0.5}})
    code = (
        "import json; from tests.support_processes import run_with_idle_deaths; "
        f"run_with_idle_deaths(json.loads({json.dumps(made)!r}), {str(tmp_path / 'struck')!r})"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "killed a worker before verdicts" in done.stdout
    run(made, tmp_path / "fresh", workers=1)
    assert digests(tmp_path / "struck") == digests(tmp_path / "fresh")
