"""The Ray engine: Ray Data over shards, a row a shard, on this machine or a cluster.

Only small records pass through Ray; workers read, score and commit shards themselves.  Starting Ray
on a laptop costs about 10 CPU-seconds, each task 13 CPU-milliseconds.  Tasks that hold models run in a pool of
actors of fixed size with fractional CPUs: actors that occupy every CPU would hang the run.
"""

import logging
import os
import pickle
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar
from uuid import uuid4

from pairsieve.pipelines.engine import ATTEMPTS, Failure, Needs, Task, guarded, label_of, raise_for
from pairsieve.pipelines.store import Store
from pairsieve.schemas.errors import PairsieveError, UserError

Item = TypeVar("Item")
Result = TypeVar("Result")

_SETTINGS = {
    "RAY_DATA_PARQUET_FOOTER_NUM_ACTORS": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
}
OBJECT_STORE = 512 * 1024 * 1024


class RayEngine:
    """Runs tasks on Ray; ``address`` None = a cluster of our own on this machine, stopped at the end."""

    name = "ray"

    def __init__(self, store: Store, address: str | None = None, workers: int | None = None) -> None:
        """Start or join Ray; raises ``PairsieveError`` where it cannot be reached."""
        for name, value in _SETTINGS.items():
            os.environ.setdefault(name, value)
        import ray

        self._ray = ray
        self._owns = not ray.is_initialized()
        self._ledger = Ledger(store, uuid4().hex)
        if self._owns:
            _start(ray, address, workers)
        self.workers = max(1, int(workers or ray.cluster_resources().get("CPU", 1)))
        self.gpus = float(ray.cluster_resources().get("GPU", 0))

    def map(
        self, task: Task[Item, Result], items: Sequence[Item], needs: Needs, label: str
    ) -> Iterator[tuple[int, Result]]:
        """See ``Engine.map``."""
        if not items:
            return
        failures: list[Failure] = []
        for row in self._rows(task, items, needs, label):
            result = pickle.loads(row["result"])  # written by our own task a moment ago
            if isinstance(result, Failure):
                failures.append(result)
            else:
                yield int(row["i"]), result
        raise_for(failures)

    def _rows(
        self, task: Task[Item, Result], items: Sequence[Item], needs: Needs, label: str
    ) -> Iterator[dict[str, Any]]:
        from ray.data import ActorPoolStrategy, TaskPoolStrategy

        token = uuid4().hex[:8]
        rows = [{"i": i, "item": pickle.dumps(item), "label": f"{label}\0{token}"} for i, item in enumerate(items)]
        _quiet(self._ray)
        data = self._ray.data.from_items(rows, override_num_blocks=len(rows))
        if needs.gpus > self.gpus and not needs.gpu_optional:
            has = f"this Ray has {self.gpus:g}"
            raise UserError(f"{label} needs {needs.gpus:g} GPU, and {has}; write device: auto, or join another")
        gpus = min(needs.gpus, self.gpus)
        if needs.stateful:
            size = max(1, min(int(self.gpus / gpus) if gpus else self.workers, len(items)))
            # all actors together leave one CPU free, or Ray Data finds no slot for its own tasks
            cpus = min(needs.cpus, max(0.1, (self.cpus - 1) / size)) if self.cpus > 1 else 0.5
            mapped = data.map(
                _Worker,
                fn_args=(pickle.dumps(task), self._ledger),
                compute=ActorPoolStrategy(size=size),
                num_cpus=cpus,
                num_gpus=gpus or None,
            )
        else:
            mapped = data.map(
                _run,
                fn_args=(pickle.dumps(task), self._ledger),
                compute=TaskPoolStrategy(size=min(self.workers, len(items))),
            )
        yield from mapped.iter_rows()

    @property
    def cpus(self) -> float:
        """CPUs of the cluster."""
        return float(self._ray.cluster_resources().get("CPU", 1))

    def close(self) -> None:
        """Stop the Ray that this engine started; leave one that it joined."""
        if self._owns:
            self._ray.shutdown()


class Ledger:
    """Attempts at each item: Ray alone retries for ever what kills its worker."""

    def __init__(self, store: Store, run: str) -> None:
        """A fresh ledger for each run, so that a killed driver costs no item its tries."""
        self._store, self._run = store, run

    def attempt(self, name: str) -> int:
        """How often the item was begun before now."""
        for n in range(ATTEMPTS + 1):
            path = f"_work/attempts/{self._run}/{name}.{n}"
            mark = uuid4().hex.encode()
            if self._store.exists(path):
                continue
            with self._store.create(path, exclusive=True) as file:
                file.write(mark)
            if self._store.read(path) == mark:
                return n
        return ATTEMPTS


def _run(row: dict[str, Any], task: bytes, ledger: Ledger) -> dict[str, Any]:
    """In a Ray worker: one item; the result travels as bytes."""
    return _guard(row, pickle.loads(task), ledger)


class _Worker:
    """A Ray actor that keeps its task, and with it the opened models.

    The task comes with each call, not with the constructor, whose arguments Ray may lose before it
    restarts an actor (ray-project/ray#53727).
    """

    def __init__(self) -> None:
        """No task yet."""
        self._payload = b""
        self._task: Callable[[Any], Any] | None = None

    def __call__(self, row: dict[str, Any], payload: bytes, ledger: Ledger) -> dict[str, Any]:
        """One item."""
        if self._task is None or payload != self._payload:
            self._payload, self._task = payload, pickle.loads(payload)
        return _guard(row, self._task, ledger)


def _guard(row: dict[str, Any], task: Callable[[Any], Any], ledger: Ledger) -> dict[str, Any]:
    item = pickle.loads(row["item"])
    label, _, token = row["label"].partition("\0")
    name = label_of(label, item)
    if ledger.attempt(f"{token}-{row['i']}") >= ATTEMPTS:
        result: Any = Failure(name, f"killed its worker {ATTEMPTS} times", False)
    else:
        result = guarded(task, item, name)
    return {"i": row["i"], "result": pickle.dumps(result)}


def _start(ray: Any, address: str | None, workers: int | None) -> None:
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address is None:
        options |= {"include_dashboard": False, "object_store_memory": OBJECT_STORE, "num_cpus": workers}
    try:
        with _stderr_closed():
            ray.init(address=address or "local", **options)
    except (ConnectionError, ValueError, RuntimeError) as error:
        where = address or "on this machine"
        raise PairsieveError(
            f"Ray {where} cannot be reached: {str(error).splitlines()[0]}; check --ray-address"
        ) from None


@contextmanager
def _stderr_closed() -> Iterator[None]:
    """Keep Ray's C++ greeting ("Set ray log level from …") off the terminal; its errors come as exceptions."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _quiet(ray: Any) -> None:
    """No bars and no banners: progress is ours."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
