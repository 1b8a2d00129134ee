"""Filters that tell where and when they measured, for tests of runs on several nodes; a small Ray cluster."""

import _thread
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any, ClassVar

import pyarrow as pa

from pairsieve.filters.base import Filter, Resources

SHARD = 20
"""Pairs a shard: see ``traced``."""


class Traced(Filter):
    """Log each shard with the node that begins it; stop, or kill the worker, where the test says so."""

    reads = ("text",)
    writes: ClassVar[Mapping[str, pa.DataType]] = {"traced": pa.string()}

    log: str
    crash: str = ""
    gigabytes: int = 0

    def resources(self) -> Resources:
        """Memory, where a test asks for it."""
        return Resources(memory=self.gigabytes * 2**30)

    def score(self, pairs: pa.RecordBatch) -> dict[str, pa.Array]:
        """Say where, then do nothing much."""
        import ray

        first = pairs["text"][0].as_py()
        node = ray.get_runtime_context().get_node_id() if ray.is_initialized() else "here"
        self._say(f"begun|{first}|{node}")
        if first == self.crash:
            os.kill(os.getpid(), signal.SIGSEGV)
        time.sleep(0.1)
        holds = [Path(self.log).with_name(f"hold-{what}") for what in (node, first)]
        if any(hold.exists() for hold in holds):
            self._say(f"held|{first}|{node}")
        while any(hold.exists() for hold in holds):
            time.sleep(0.05)
        return {"traced": pairs["text"]}

    def _say(self, line: str) -> None:
        with Path(self.log).open("a") as file:
            file.write(line + "\n")

    def keep(self, pairs: pa.RecordBatch) -> pa.Array:
        """Keep all."""
        return pa.repeat(pa.scalar(True), pairs.num_rows)


class TracedModel(Traced):
    """The same, as a filter that holds a model."""

    loads_model: ClassVar[bool] = True


class Demanding(Filter):
    """Needs what the test says, and measures nothing really."""

    writes: ClassVar[Mapping[str, pa.DataType]] = {"Demanding": pa.bool_()}

    cpus: float = 1
    gpus: float = 0
    gigabytes: int = 0
    gpu_optional: bool = False

    def resources(self) -> Resources:
        """As set."""
        return Resources(self.cpus, self.gpus, self.gigabytes * 2**30, self.gpu_optional)

    def score(self, pairs: pa.RecordBatch) -> dict[str, pa.Array]:
        """True for each pair."""
        return {"Demanding": pa.repeat(pa.scalar(True), pairs.num_rows)}

    def keep(self, pairs: pa.RecordBatch) -> pa.Array:
        """Keep all."""
        return pairs["Demanding"]


class Log:
    """What ``Traced`` has said."""

    def __init__(self, path: Path) -> None:
        """No line yet."""
        self.path = path

    def lines(self, kind: str) -> list[tuple[str, str]]:
        """(first caption, node) of each line of a kind, in order."""
        text = self.path.read_text() if self.path.is_file() else ""
        found = [line.split("|") for line in text.split("\n")[:-1]]
        return [(caption, node) for said, caption, node in found if said == kind]

    def hold(self, what: str) -> None:
        """Shards that a node begins from now on, or the one that begins with a caption, do not end."""
        self.path.with_name(f"hold-{what}").touch()

    def release(self) -> None:
        """They all end."""
        for file in self.path.parent.glob("hold-*"):
            file.unlink()


@contextmanager
def meanwhile(work: Callable[[], None]) -> Iterator[None]:
    """Do something in a thread beside the block; what it raises ends the block."""
    raised: list[BaseException] = []

    def quiet() -> None:
        try:
            work()
        except BaseException as error:
            raised.append(error)
            _thread.interrupt_main()  # or the block waits for what does not come

    thread = Thread(target=quiet, daemon=True)
    thread.start()
    try:
        yield
    except KeyboardInterrupt:
        thread.join()
        raise raised[0] from None
    thread.join(60)
    assert not thread.is_alive()


def wait_for(is_so: Callable[[], Any], seconds: float = 90) -> Any:
    """What the function gives, once it gives anything."""
    until = time.monotonic() + seconds
    while not (found := is_so()):
        assert time.monotonic() < until, "what the test waits for did not happen"
        time.sleep(0.05)
    return found


class Nodes:
    """A Ray cluster of nodes on this machine: a head without CPUs, where the driver is, and nodes of one CPU."""

    def __init__(self, count: int) -> None:
        """Start them; nodes that die are missed after some seconds, not half a minute."""
        from ray.cluster_utils import Cluster

        self._cluster = Cluster(
            initialize_head=True,
            head_node_args={
                "num_cpus": 0,
                "object_store_memory": 80 * 2**20,
                "include_dashboard": False,
                "_system_config": {"health_check_period_ms": 500, "health_check_failure_threshold": 4},
            },
        )
        self.address = str(self._cluster.address)
        self._nodes: dict[str, Any] = {}
        for _ in range(count):
            self.add()

    def add(self, gigabytes: int = 1, path: str | None = None) -> str:
        """One more node, whose workers may import from elsewhere; gives its id."""
        env = {"PYTHONPATH": path} if path else None
        node = self._cluster.add_node(
            num_cpus=1, object_store_memory=80 * 2**20, memory=gigabytes * 2**30, env_vars=env
        )
        self._nodes[str(node.node_id)] = node
        return str(node.node_id)

    def kill(self, node: str) -> None:
        """All processes of a node end at once, as when its machine is lost."""
        self._cluster.remove_node(self._nodes.pop(node), allow_graceful=False)

    @property
    def ids(self) -> list[str]:
        """Nodes with CPUs."""
        return list(self._nodes)

    def restore(self, count: int) -> None:
        """As many nodes as at first."""
        while len(self._nodes) > count:
            self.kill(self.ids[-1])
        while len(self._nodes) < count:
            self.add()

    def shutdown(self) -> None:
        """Stop all of them."""
        import ray

        ray.shutdown()
        self._cluster.shutdown()
