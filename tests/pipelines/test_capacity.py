"""What passes need against what machines have: refused before anything runs, or fitted."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from pairsieve.pipelines import capacity, engine_local, machine
from pairsieve.pipelines.engine import Capacity, Failure, Failures, Machine, Needs
from pairsieve.pipelines.engine_local import LocalEngine
from pairsieve.pipelines.plan import Plan
from pairsieve.pipelines.pools import ShardTask
from pairsieve.pipelines.run import load, run
from pairsieve.schemas.errors import ShardError, UserError
from tests.support import numbered_rows, recipe, write_csv

GIB = 2**30
LAPTOP = Capacity((Machine(4, 0, 8 * GIB),), "this machine")
CLUSTER = Capacity((Machine(16, 0, 64 * GIB), Machine(4, 2, 32 * GIB), Machine(4, 2, 32 * GIB)), "this Ray")


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    """Three shards."""
    return write_csv(tmp_path / "list.csv", numbered_rows(250))


@pytest.fixture
def planned(pool: Path) -> Callable[..., Plan]:
    """The plan of demanding steps ``a``, ``b``, … in one pass."""

    def plan(*steps: dict[str, Any]) -> Plan:
        named = zip(steps, "abc", strict=False)
        return load(recipe(pool, *({"tests.support_cluster:Demanding": {**s, "as": name}} for s, name in named)))[1]

    return plan


@pytest.mark.parametrize(
    ("step", "says"),
    [
        ({}, None),
        ({"cpus": 4, "gigabytes": 8}, None),
        ({"gpus": 1, "gpu_optional": True}, None),
        ({"gpus": 1}, "a needs 1 CPU, 1 GPU for each worker, and this machine has no GPU; write device: auto"),
        ({"cpus": 8}, "a needs 8 CPUs for each worker, and this machine has 4 CPUs at most; lower what it asks for"),
        ({"gigabytes": 9}, "a needs 1 CPU, 9.0 GiB of memory for each worker, and this machine has 8.0 GiB at most;"),
    ],
)
def test_step_that_no_machine_holds_is_named(
    planned: Callable[..., Plan], step: dict[str, Any], says: str | None
) -> None:
    """One line: the step, what it needs, what there is, what to do."""
    found = capacity.refusals(planned(step), LAPTOP)
    assert len(found) == (says is not None)
    assert all(line.startswith(str(says)) and line.endswith("(--ray-address)") for line in found)


def test_one_node_must_have_all_of_it(planned: Callable[..., Plan]) -> None:
    """CPUs of one node and GPUs of another do not add up."""
    (line,) = capacity.refusals(planned({"cpus": 8, "gpus": 1}), CLUSTER)
    assert "this Ray has no single node with all of it" in line
    assert not capacity.refusals(planned({"cpus": 4, "gpus": 2, "gigabytes": 32}), CLUSTER)


def test_steps_that_fit_alone_but_not_together_are_named_together(planned: Callable[..., Plan]) -> None:
    """A worker holds the models of its whole pass."""
    (line,) = capacity.refusals(planned({"gigabytes": 5}, {"gigabytes": 5}), LAPTOP)
    assert line.startswith("a + b needs 1 CPU, 10.0 GiB of memory for each worker, and this machine has 8.0 GiB")


def test_steps_that_are_measured_are_not_refused(planned: Callable[..., Plan]) -> None:
    """A run that was scored on another machine can be decided anew on this one."""
    plan = planned({"gpus": 1}, {"gigabytes": 9})
    assert len(capacity.refusals(plan, LAPTOP)) == 2
    assert not capacity.refusals(plan, LAPTOP, {"a", "b"})


def test_run_is_refused_before_anything_runs(pool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the local engine too, and with the automatic choice, which would take Ray for a GPU."""
    monkeypatch.setattr(machine, "gpus", lambda: 0)
    made = recipe(pool, {"tests.support_cluster:Demanding": {"gpus": 1}})
    for engine in ("local", "auto"):
        with pytest.raises(UserError, match="Demanding needs 1 CPU, 1 GPU for each worker, and this machine has no"):
            run(made, tmp_path / "run", engine=engine)
    assert not (tmp_path / "run" / "pairs").exists()


@pytest.mark.parametrize(
    ("needs", "slots"),
    [
        (Needs(), 24),
        (Needs(cpus=0.1), 240),
        (Needs(cpus=3), 7),
        (Needs(gpus=0.5), 8),
        (Needs(memory=20 * GIB), 5),
        (Needs(cpus=0, gpus=2), 2),
        (Needs(cpus=0), 24),
    ],
)
def test_slots_are_those_of_each_node(needs: Needs, slots: int) -> None:
    """A worker lies on one node."""
    assert CLUSTER.slots(needs) == slots


@pytest.mark.parametrize(
    ("here", "chosen", "needs", "workers"),
    [
        (Machine(8, 0, 16 * GIB), None, Needs(), 8),
        (Machine(8, 0, 16 * GIB), None, Needs(cpus=3), 2),
        (Machine(8, 0, 16 * GIB), None, Needs(memory=6 * GIB), 2),
        (Machine(8, 0, 16 * GIB), 12, Needs(cpus=3), 12),
        (Machine(8, 0, 16 * GIB), 12, Needs(memory=6 * GIB), 2),
        (Machine(8, 0, 16 * GIB), None, Needs(gpus=1), 8),
        (Machine(8, 4, 16 * GIB), None, Needs(gpus=0.5), 2),
        (Machine(8, 1, 16 * GIB), None, Needs(memory=20 * GIB), 1),
    ],
)
def test_local_workers_fit_together(
    monkeypatch: pytest.MonkeyPatch, here: Machine, chosen: int | None, needs: Needs, workers: int
) -> None:
    """As many as fit into memory, CPUs and one GPU; a number that the user chose gives way to memory alone."""
    monkeypatch.setattr(machine, "cpus", lambda: int(here.cpus))
    monkeypatch.setattr(engine_local, "local_capacity", lambda: Capacity((here,), "this machine"))
    assert LocalEngine(chosen)._fit(needs) == workers


def _pid(task: ShardTask) -> int:
    """The process that does it."""
    return os.getpid()


def test_narrow_task_runs_in_few_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers of a wider task are not kept, each with a model of its own."""
    monkeypatch.setattr(engine_local, "local_capacity", lambda: Capacity((Machine(8, 0, 4 * GIB),), "this machine"))
    engine = LocalEngine(3)
    items = [ShardTask(i, "") for i in range(40)]
    try:
        list(engine.map(_pid, items, Needs(), "wide"))
        assert len({pid for _, pid in engine.map(_pid, items, Needs(memory=2 * GIB), "narrow")}) <= 2
    finally:
        engine.close()


def test_failures_name_the_first_and_count_the_rest() -> None:
    """In shard order, whatever order they came in; memory holds ten of them."""
    failures = Failures()
    for i in reversed(range(13)):
        failures.add(Failure(f"pass, shard {i:05d}", f"no {i}", False))
    assert len(failures.named) == 10
    with pytest.raises(ShardError, match=r"pass, shard 00000 \(and 00001, .*, 00009 and 3 more\) failed: no 0; all"):
        failures.raise_if_any()


def _group(folder: Path, files: Mapping[str, str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text)


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """A machine of 64 CPUs with control groups of the test's own."""
    monkeypatch.setattr(machine, "CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(machine, "OWN_GROUPS", tmp_path / "own")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))

    def own(lines: str) -> Path:
        (tmp_path / "own").write_text(lines)
        return tmp_path / "cgroup"

    return own


def test_limits_of_a_container_count(groups: Callable[[str], Path]) -> None:
    """Version 2: the quota and limit of any group on the way up; 1.5 CPUs are two workers."""
    root = groups("0::/pod/box\n")
    _group(root / "pod/box", {"cpu.max": "max 100000\n", "memory.max": "max\n"})
    _group(root / "pod", {"cpu.max": "150000 100000\n", "memory.max": "1000000\n"})
    assert (machine.cpus(), machine.memory()) == (2, 1_000_000)


def test_limits_of_an_old_container_count(groups: Callable[[str], Path]) -> None:
    """Version 1, where the path is that of the host and only the root is to be seen."""
    root = groups("4:memory:/docker/1\n2:cpu,cpuacct:/docker/1\n1:pids:/\n")
    _group(root / "cpu,cpuacct", {"cpu.cfs_quota_us": "300000\n", "cpu.cfs_period_us": "100000\n"})
    _group(root / "memory", {"memory.limit_in_bytes": "2000000\n"})
    assert (machine.cpus(), machine.memory()) == (3, 2_000_000)


def test_no_limit_is_the_machine(groups: Callable[[str], Path]) -> None:
    """Where nothing is set, or nothing can be read, the machine itself counts."""
    root = groups("0::/\n")
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert (machine.cpus(), machine.memory()) == (64, physical)
    _group(root / "cpu", {"cpu.cfs_quota_us": "-1\n", "cpu.cfs_period_us": "100000\n"})
    groups("2:cpu:/\n")
    assert machine.cpus() == 64


@pytest.mark.parametrize(
    ("devices", "env", "count"),
    [
        ((), {}, 0),
        (("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"), {}, 2),
        (("nvidia0", "nvidia1"), {"CUDA_VISIBLE_DEVICES": "1"}, 1),
        (("nvidia0",), {"CUDA_VISIBLE_DEVICES": ""}, 0),
        (("nvidia0", "nvidia1"), {"CUDA_VISIBLE_DEVICES": "0,-1,1"}, 1),
        (("nvidia0",), {"CUDA_VISIBLE_DEVICES": "NoDevFiles"}, 0),
        (("kfd", "dri/renderD128", "dri/renderD129"), {"HIP_VISIBLE_DEVICES": "0"}, 1),
        (("dxg",), {}, 1),
    ],
)
def test_gpus_are_counted_without_their_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, devices: tuple[str, ...], env: dict[str, str], count: int
) -> None:
    """Device files tell, less what is hidden from this process."""
    monkeypatch.setattr(machine, "DEVICES", tmp_path)
    for name in ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    for name in devices:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert machine.gpus() == count
