"""The Ray engine: a shard an item, on actors of this machine or of a cluster.

Only small records pass through Ray; workers read, score and commit shards themselves.  Starting Ray on a
laptop costs about 4 CPU-seconds, a worker 1, an item 1.5 CPU-milliseconds (0.6 of them in the driver).
"""

import logging
import os
import pickle
import re
import socket
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from pairsieve.filters.base import AnyFilter
from pairsieve.pipelines import machine
from pairsieve.pipelines.capacity import fitted, refusal
from pairsieve.pipelines.engine import Capacity, Failure, Failures, Machine, Needs, Task
from pairsieve.pipelines.ray_check import package, problems, raise_for, site_of
from pairsieve.pipelines.ray_worker import Site
from pairsieve.pipelines.ray_workers import Workers
from pairsieve.pipelines.store import Store
from pairsieve.schemas.errors import PairsieveError, UserError

Item = TypeVar("Item")
Result = TypeVar("Result")

_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
}
OBJECT_STORE = 512 * 1024 * 1024
KNOCK = 10.0
"""Seconds in which the address of a cluster answers."""


class RayEngine:
    """Runs tasks on Ray; ``address`` None = a cluster of our own on this machine, stopped at the end."""

    name = "ray"

    def __init__(self, store: Store, address: str | None = None, workers: int | None = None) -> None:
        """Start or join Ray; raises ``PairsieveError`` where it cannot be reached."""
        for name, value in _SETTINGS.items():
            os.environ.setdefault(name, value)
        import ray

        self._ray, self._store, self._chosen = ray, store, workers
        self._address, self._owns = address, not ray.is_initialized()
        self._site: Site | None = None
        self._workers: Workers | None = None
        if self._owns:
            _start(ray, address, workers)

    def check(self, filters: Sequence[AnyFilter], fs: Any, first: str) -> None:
        """Raise ``UserError`` where a node lacks what the run needs; later nodes are checked as their workers start.

        To a cluster that has no pairsieve, or another, this one is sent; Ray keeps it with the job.
        """
        site = site_of(self._store, filters, fs, first)
        found = list(problems(self._ray, site))
        if self._owns and self._address and any(problem.is_code for _, problem in found):
            self._ray.shutdown()
            _start(self._ray, self._address, self._chosen, send=str(package()))
            found = list(problems(self._ray, site))
        raise_for(found)
        self._site = site

    def capacity(self) -> Capacity:
        """The nodes that are alive now and have CPUs to work with; a head often has none."""
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
        found = [Machine(r["CPU"], r.get("GPU", 0.0), int(r.get("memory", 0))) for r in nodes]
        return Capacity(tuple(found), "this Ray")

    def map(
        self, task: Task[Item, Result], items: Sequence[Item], needs: Needs, label: str
    ) -> Iterator[tuple[int, Result]]:
        """See ``Engine.map``; raises ``UserError`` where no node can hold a worker."""
        if not items:
            return
        workers = self._workers_for(needs, label)
        failures = Failures()
        for i, result in workers.run(self._ray.put(pickle.dumps(task)), items, label):
            if isinstance(result, Failure):
                failures.add(result)
                if result.stops:
                    break
            else:
                yield i, result
        failures.raise_if_any()

    def _workers_for(self, needs: Needs, label: str) -> Workers:
        """The workers of the task before where they suit; else they make room for others."""
        capacity = self.capacity()
        if line := refusal(label, needs, capacity):
            raise UserError(line)
        needs = fitted(needs, capacity)
        if self._workers is None or self._workers.needs != needs:
            self._stop_workers()
            self._workers = Workers(self._ray, needs, self._chosen, self._site, self.capacity)
        return self._workers

    def _stop_workers(self) -> None:
        if self._workers is not None:
            self._workers.close()
        self._workers = None

    def close(self) -> None:
        """Stop the workers, and the Ray that this engine started; leave one that it joined."""
        self._stop_workers()
        if self._owns:
            self._ray.shutdown()


def capacity_at(address: str) -> Capacity:
    """What a cluster has, asked from outside a run; raises ``PairsieveError`` where it cannot be reached."""
    with tempfile.TemporaryDirectory() as folder:
        engine = RayEngine(Store(folder), address)
        try:
            return engine.capacity()
        finally:
            engine.close()


def _start(ray: Any, address: str | None, workers: int | None, send: str | None = None) -> None:
    """Join, or start on this machine; ``send`` is a package that the workers shall import."""
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address is None:
        cpus = max(workers or 0, machine.cpus())  # a step may need several, whatever the number of workers
        options |= {"include_dashboard": False, "object_store_memory": OBJECT_STORE, "num_cpus": cpus}
    if send is not None:
        options["runtime_env"] = {"py_modules": [send]}
    try:
        if address is not None:
            _knock(address)
        with _stderr_closed():
            ray.init(address=address or "local", **options)
    except (OSError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
        where = f"at {address}" if address else "on this machine"
        line = str(error).strip().splitlines()[0]
        help_ = "check --ray-address, and RAY_AUTH_MODE=token where it asks for a token" if address else "see its logs"
        raise PairsieveError(f"Ray {where} cannot be reached: {line}; {help_}") from None


def _knock(address: str) -> None:
    """Raise ``OSError`` where nobody listens at ``host:port``: Ray itself would wait for minutes without a word."""
    named = re.fullmatch(r"(?:ray://)?([^/:\[\]]+|\[[0-9a-fA-F:]+\]):(\d{1,5})/?", address)
    if named and int(named[2]) < 65_536:
        socket.create_connection((named[1].strip("[]"), int(named[2])), timeout=KNOCK).close()


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
