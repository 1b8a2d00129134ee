"""Where the local engine works: in the driver while that is cheaper than starting workers."""

import os
import time
from dataclasses import dataclass

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
