"""Where the local engine works: in the driver while that is cheaper than starting workers."""

import os
import pickle
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from pairsieve.pipelines import engine_local
from pairsieve.pipelines.engine import Needs
from pairsieve.pipelines.engine_local import LocalEngine


@dataclass(frozen=True)
class Where:
    """Gives the process that runs it."""

    seconds: float = 0.0

    def __call__(self, item: int) -> int:
        """After some time."""
        time.sleep(self.seconds)
        return os.getpid()


def places(engine: LocalEngine, task: Where, items: int, needs: Needs | None = None) -> list[bool]:
    """For each item whether it ran in this process."""
    try:
        found = dict(engine.map(task, range(items), needs or Needs(), "where"))
    finally:
        engine.close()
    return [found[i] == os.getpid() for i in range(items)]


@pytest.fixture(autouse=True)
def _two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pairsieve.pipelines.machine.cpus", lambda: 2)


def test_short_work_stays() -> None:
    """No worker is started for it."""
    assert all(places(LocalEngine(), Where(), 50))


def test_long_work_goes_to_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """After two items that tell how long it takes."""
    monkeypatch.setattr(engine_local, "START", 0.05)
    found = places(LocalEngine(), Where(0.02), 12)
    assert found[0] and not any(found[2:])


@pytest.mark.parametrize(("workers", "needs"), [(2, Needs()), (None, Needs(is_light=False))])
def test_what_may_not_run_here(workers: int | None, needs: Needs) -> None:
    """Where the user chose a number of workers, and with images, large models or a user's own code."""
    assert not any(places(LocalEngine(workers), Where(), 5, needs))


def test_large_results_do_not_go_through_the_pipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They come back whole, in files that are gone then; a worker killed while it sends would block all others."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    engine = LocalEngine(workers=2)
    sizes = [5_000_000, 3, 70_000, 2048]
    found = dict(engine.map(bytes, sizes, Needs(), "zeros"))
    engine.close()
    assert found == {i: bytes(size) for i, size in enumerate(sizes)}
    assert not list(tmp_path.glob("pairsieve-*"))


def test_a_message_is_short(tmp_path: Path) -> None:
    """What a worker sends is written to a pipe as a whole or not at all: at most 4096 bytes."""
    task = tmp_path / "task"
    task.write_bytes(pickle.dumps(bytes))
    for size in (0, 1500, 2500, 10**6):
        sent = engine_local._call(str(task), size, "zeros")
        assert len(pickle.dumps(sent)) < 4000
        assert engine_local._fetched(sent) == bytes(size)
    assert list(tmp_path.iterdir()) == [task]
