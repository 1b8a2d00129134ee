"""Runs on a Ray of several nodes: nodes come and go, and every output file has the bytes of a local run."""

import json
import pickle
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pyarrow
import pytest

import pairsieve
from pairsieve.filters._host_limits import shared
from pairsieve.pipelines import ray_workers
from pairsieve.pipelines.engine import Needs
from pairsieve.pipelines.engine_ray import RayEngine
from pairsieve.pipelines.pools import ShardTask
from pairsieve.pipelines.ray_worker import Site, code_digest, problem
from pairsieve.pipelines.run import run
from pairsieve.pipelines.runner import Result
from pairsieve.pipelines.store import Store
from pairsieve.schemas.errors import PairsieveError, UserError
from tests.support import digests, numbered_rows, write_csv
from tests.support_cluster import SHARD, Log, Nodes, meanwhile, wait_for

COUNT = 2
SHARDS = 14


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    """Three nodes for all tests here: a head without CPUs and two of one CPU; workers find the tests' filters."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        found = Nodes(COUNT)
        yield found
        found.shutdown()


@pytest.fixture(autouse=True)
def _two_nodes(nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test begins with as many nodes as the first, and looks for new ones often."""
    nodes.restore(COUNT)
    monkeypatch.setattr(ray_workers, "LOOK", 0.5)


@pytest.fixture
def log(tmp_path: Path) -> Log:
    """What was measured, and where."""
    return Log(tmp_path / "log")


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    """14 shards; no two begin with the same caption."""
    rows = [{**row, "text": f"caption number {i}"} for i, row in enumerate(numbered_rows(SHARDS * SHARD))]
    return write_csv(tmp_path / "list.csv", rows)


def made(pool: Path, log: Log, name: str = "Traced", **settings: Any) -> dict[str, Any]:
    """A recipe with a traced step, a barrier, and all outputs."""
    steps = [
        {f"tests.support_cluster:{name}": {"log": str(log.path), **settings}},
        {"exact_duplicates": {"by": "text"}},
        {"clip_score": {"column": "score", "top": 0.5}},
    ]
    return {
        "pool": {"urls": {"path": str(pool), "shard_rows": SHARD}},
        "filters": steps,
        "output": {"dataset": {"rows_per_file": 40}, "subset": "kept.npy"},
    }


def on_ray(recipe: dict[str, Any], out: Path | str, nodes: Nodes) -> Result:
    """The run on the cluster."""
    return run(recipe, out, engine="ray", ray_address=nodes.address)


@pytest.mark.parametrize("name", ["TracedModel"])
def test_lost_node_costs_its_unfinished_shard(nodes: Nodes, pool: Path, log: Log, tmp_path: Path, name: str) -> None:
    """A node lost in the middle: the run ends well, only the shard it held is done again, the bytes are the same."""

    def lose_a_node() -> None:
        wait_for(lambda: len(log.lines("begun")) >= 3)
        log.hold(nodes.ids[0])
        ((_, node),) = wait_for(lambda: log.lines("held"))
        nodes.kill(node)

    recipe = made(pool, log, name)
    with meanwhile(lose_a_node):
        on_ray(recipe, tmp_path / "ray", nodes)
    ((held, _),) = log.lines("held")
    begun = Counter(caption for caption, _ in log.lines("begun"))
    assert begun.pop(held) == 2
    assert set(begun.values()) == {1}
    assert len(begun) == SHARDS - 1
    log.release()
    run(recipe, tmp_path / "local", engine="local", workers=1)
    assert digests(tmp_path / "ray") == digests(tmp_path / "local")


def test_lost_nodes_do_not_count_as_attempts(nodes: Nodes, pool: Path, log: Log, tmp_path: Path) -> None:
    """A shard whose node is lost three times is done at the fourth try."""
    log.hold(stuck := "caption number 40")

    nodes.restore(COUNT + 3)

    def lose_three_nodes() -> None:
        for lost in range(3):
            nodes.kill(wait_for(lambda: log.lines("held")[lost:])[0][1])  # noqa: B023 (called at once)
        wait_for(lambda: len(log.lines("held")) == 4)
        log.release()

    with meanwhile(lose_three_nodes):
        result = on_ray(made(pool, log), tmp_path / "ray", nodes)
    begun = Counter(caption for caption, _ in log.lines("begun"))
    assert begun.pop(stuck) == 4
    assert set(begun.values()) == {1}
    assert result.rows == SHARDS * SHARD


def test_new_node_gets_work(nodes: Nodes, pool: Path, log: Log, tmp_path: Path) -> None:
    """A node that joins during a pass takes part in it."""
    for node in nodes.ids:
        log.hold(node)
    with subprocess.Popen(command(made(pool, log), tmp_path, nodes)) as running:
        wait_for(lambda: len(log.lines("held")) == COUNT)
        new = nodes.add()
        wait_for(lambda: new in {node for _, node in log.lines("begun")})
        log.release()
        assert running.wait(100) == 0


def command(recipe: dict[str, Any], folder: Path, nodes: Nodes) -> list[str]:
    """The run as a command."""
    file = folder / "recipe.json"
    file.write_text(json.dumps(recipe))
    start = [sys.executable, "-m", "pairsieve", "run", str(file), "--out", str(folder / "ray"), "--quiet"]
    return [*start, "--ray-address", nodes.address]


@pytest.mark.parametrize("name", ["Traced"])
def test_shard_that_kills_its_worker_is_tried_three_times(
    nodes: Nodes, pool: Path, log: Log, tmp_path: Path, name: str
) -> None:
    """It is named, all others are done, the exit code is 1; after mending, only it is measured."""
    recipe = made(pool, log, name, crash="caption number 60")
    done = subprocess.run(command(recipe, tmp_path, nodes), capture_output=True, text=True, timeout=200)
    assert done.returncode == 1
    assert f"error: {name} + exact_duplicates, shard 00003 failed: killed its worker 3 times; all others" in done.stderr
    begun = Counter(caption for caption, _ in log.lines("begun"))
    assert begun.pop("caption number 60") == 3
    assert set(begun.values()) == {1}
    assert len(list((tmp_path / "ray" / "scores" / name).glob("*.parquet"))) == SHARDS - 1


def test_run_without_a_place_for_workers_ends(
    nodes: Nodes, pool: Path, log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The only node with enough memory is lost and none like it comes: a line that says so, not a hang."""
    monkeypatch.setattr(ray_workers, "PATIENCE", 3.0)
    large = nodes.add(gigabytes=8)
    log.hold(large)

    def lose_the_large_node() -> None:
        wait_for(lambda: log.lines("held"))
        nodes.kill(large)

    with (
        meanwhile(lose_the_large_node),
        pytest.raises(PairsieveError, match=r"needs 1 CPU, 4.0 GiB of memory .* this Ray has 1.0 GiB .* resumes"),
    ):
        on_ray(made(pool, log, gigabytes=4), tmp_path / "ray", nodes)
    assert {node for _, node in log.lines("begun")} == {large}


def test_run_waits_where_others_hold_the_cluster(
    nodes: Nodes,
    pool: Path,
    log: Log,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It says what it waits for, and goes on when they leave; a Ray that it has joined stays as it was."""
    import ray

    monkeypatch.setattr(ray_workers, "PATIENCE", 1.0)
    ray.init(address=nodes.address, log_to_driver=False, logging_level="ERROR")
    others = [ray.remote(Log).options(num_cpus=1).remote(tmp_path) for _ in nodes.ids]
    ray.get([other.lines.remote("any") for other in others])

    def leave() -> None:
        wait_for(lambda: "waits for a worker: others use the cluster" in caplog.text)
        for other in others:
            ray.kill(other)

    try:
        with meanwhile(leave):
            on_ray(made(pool, log), tmp_path / "ray", nodes)
        assert ray.is_initialized()
    finally:
        ray.shutdown()


def test_address_of_a_job_counts(
    nodes: Nodes, pool: Path, log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a job of the cluster, where Ray sets ``RAY_ADDRESS``, a run works there unless told otherwise."""
    monkeypatch.setenv("RAY_ADDRESS", nodes.address)
    run(made(pool, log), tmp_path / "ray")
    assert {node for _, node in log.lines("begun")} <= set(nodes.ids)
    run(made(pool, log), tmp_path / "local", engine="local", workers=1)
    assert "here" in {node for _, node in log.lines("begun")}


def test_gpu_that_no_node_has_is_refused_before_anything_runs(nodes: Nodes, pool: Path, tmp_path: Path) -> None:
    """The line names the step, what it needs and what to do; nothing is ingested."""
    recipe = {"pool": {"urls": {"path": str(pool)}}, "filters": [{"tests.support_cluster:Demanding": {"gpus": 1}}]}
    with pytest.raises(
        UserError, match=r"Demanding needs 1 CPU, 1 GPU for each worker, and this Ray has no GPU; .*auto"
    ):
        on_ray(recipe, tmp_path / "ray", nodes)
    assert not (tmp_path / "ray" / "pairs").exists()


def test_storage_that_workers_do_not_share_is_refused(nodes: Nodes, pool: Path, log: Log) -> None:
    """A run directory that lies in the driver's memory: node, path, next step; nothing is ingested."""
    with pytest.raises(UserError, match=r"node .* \(and 1 more\): memory://r/1 is not the storage .* --out must be"):
        on_ray(made(pool, log), "memory://r/1", nodes)
    assert not fsspec.filesystem("memory").exists("/r/1/pairs")


def test_pool_that_workers_cannot_read_is_refused(nodes: Nodes, log: Log, tmp_path: Path) -> None:
    """A pool that lies in the driver's memory: node, file, next step."""
    fsspec.filesystem("memory").pipe("/p/list.csv", b"url,text\nhttp://e.org/1,a b c\n")
    recipe = {"pool": {"urls": {"path": "memory://p/list.csv"}}, "filters": ["caption_words"]}
    with pytest.raises(UserError, match=r"node .*: the pool's /p/list.csv cannot be read .* must lie where every node"):
        on_ray(recipe, tmp_path / "ray", nodes)


def test_filter_that_workers_cannot_import_is_refused(
    nodes: Nodes, pool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A filter of the user's that only the driver finds: node, class, how code reaches workers."""
    text = (Path(__file__).parents[1] / "support_cluster.py").read_text()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "only_here.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path / "mine")
    recipe = {"pool": {"urls": {"path": str(pool)}}, "filters": ["only_here:Demanding"]}
    with pytest.raises(UserError, match=r"node .* the filter only_here:Demanding cannot be imported .* --working-dir"):
        on_ray(recipe, tmp_path / "ray", nodes)


def test_pairsieve_reaches_nodes_that_have_another(nodes: Nodes, pool: Path, log: Log, tmp_path: Path) -> None:
    """A node with an older copy works with the driver's: the package is sent along."""
    old = shutil.copytree(Path(str(pairsieve.__file__)).parent, tmp_path / "old" / "pairsieve")
    (old / "pipelines" / "tasks.py").write_text("raise RuntimeError('this copy is not to be used')")
    node = nodes.add(path=f"{old.parent}:{Path(__file__).parents[2]}")
    on_ray(made(pool, log), tmp_path / "ray", nodes)
    assert node in {where for _, where in log.lines("begun")}


def test_worker_of_a_later_node_is_checked_too(nodes: Nodes, tmp_path: Path) -> None:
    """A worker that starts where another pairsieve is installed says so before it gets an item."""
    engine = RayEngine(Store(str(tmp_path)), nodes.address)
    engine._site = {**site(tmp_path), "code": "another"}
    try:
        with pytest.raises(UserError, match=r"node .*: another pairsieve than the driver's is installed"):
            list(engine.map(str, [ShardTask(0, "a")], Needs(), "pass"))
    finally:
        engine.close()


def test_limits_of_hosts_are_shared_by_the_nodes_with_cpus(nodes: Nodes) -> None:
    """Two nodes have half of a rate each, and half of the connections, but one at least; the head has no workers."""
    import ray

    ray.init(address=nodes.address, log_to_driver=False, logging_level="ERROR")
    try:
        found = ray.get(ray.remote(lambda: (shared(5, 10.0), shared(1, None), shared(None, 0.5))).remote())
    finally:
        ray.shutdown()
    assert found == ((2, 5.0), (1, None), (None, 0.25))


def site(folder: Path) -> Site:
    """What a run in a folder asks of its nodes."""
    store = Store(str(folder))
    store.write("mark", b"1")
    return {
        "code": code_digest(),
        "versions": {"pyarrow": pyarrow.__version__},
        "classes": [("pairsieve.filters.where", "Where")],
        "root": store.root,
        "store": pickle.dumps(store),
        "mark": ("mark", b"1"),
        "first": f"{folder}/mark",
        "pool": pickle.dumps((store.fs, f"{folder}/mark")),
        "models": [(f"{folder}/mark", 1)],
    }


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({}, None),
        ({"code": "x"}, "another pairsieve than the driver's is installed; install the same one on every node"),
        ({"versions": {"pyarrow": "25.0.0"}}, "but the driver has 25.0.0; every node must have the same, or bytes"),
        ({"versions": {"torchtastic": "1"}}, "torchtastic none, but the driver has 1; every node must have the same"),
        ({"classes": [("pairsieve.filters.where", "Gone")]}, "where:Gone cannot be imported (AttributeError"),
        ({"store": b"x"}, "cannot be used (UnpicklingError"),
        ({"mark": ("mark", b"2")}, "is not the storage that the driver writes to; --out must be storage that"),
        ({"pool": b"x"}, "/mark cannot be read (UnpicklingError"),
        (
            {"models": [("/no/model.pt", 1)]},
            "the model file /no/model.pt is missing; the same must lie under this path",
        ),
        ({"models": [(__file__, 1)]}, "test_cluster.py is another than the driver's; the same must lie under"),
    ],
)
def test_what_is_wrong_on_a_node_is_said_in_a_line(tmp_path: Path, change: dict[str, Any], says: str | None) -> None:
    """Code, classes, storage, pool and models are looked at in this order."""
    found = problem({**site(tmp_path), **change})  # type: ignore[typeddict-item]
    assert (found is None) if says is None else (says in str(found and found.line))
