"""Which engine a run takes, and when: local processes unless an address, a GPU or a large pool asks for Ray."""

import os
from collections.abc import Sequence
from contextlib import ExitStack
from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal

import fsspec

from pairsieve.filters.base import AnyFilter
from pairsieve.pipelines.capacity import require
from pairsieve.pipelines.engine import Engine
from pairsieve.pipelines.engine_local import LocalEngine
from pairsieve.pipelines.lock import WORKERS
from pairsieve.pipelines.plan import Plan
from pairsieve.pipelines.pools import Pool
from pairsieve.pipelines.store import Store
from pairsieve.schemas.errors import MissingExtraError

if TYPE_CHECKING:
    from pairsieve.pipelines.engine_ray import RayEngine

EngineName = Literal["auto", "local", "ray"]
LARGE_POOL = 5_000_000
"""Candidates from which ``--engine auto`` takes Ray."""


class Engines(ExitStack):
    """Chooses the engine of a run, and closes what it opened.

    ``auto`` is this machine, unless there is an address, a step that needs a GPU of its own, or
    (known after ingest) a pool of ``LARGE_POOL`` candidates and Ray installed.
    """

    def __init__(self, name: EngineName, store: Store, ray_address: str | None, workers: int | None) -> None:
        """Start nothing yet."""
        super().__init__()
        ray_address = ray_address or os.environ.get("RAY_ADDRESS")  # as in a job on a cluster
        self._name: EngineName = "ray" if name == "auto" and ray_address is not None else name
        self._store, self._address, self._workers = store, ray_address, workers
        self._new: Sequence[AnyFilter] = ()
        self._local: LocalEngine | None = None
        self._ray: RayEngine | None = None

    def check(self, plan: Plan, pool: Pool) -> None:
        """Refuse what these machines cannot run, before anything does; a step with scores may have nothing to do."""
        done = self._store.names("scores")
        self._new = [step.filter for step in plan.steps if step.id not in done]
        self.use([step.filter for step in plan.steps], pool.fs, pool.files[0])
        require(plan, self.for_ingest().capacity(), done)

    def use(self, filters: Sequence[AnyFilter], fs: fsspec.AbstractFileSystem, first: str) -> None:
        """What the work needs on every node: filters with their models, and the input, by its first file."""
        self._inputs = (filters, fs, first)

    def for_ingest(self) -> Engine:
        """Before the size of the pool is known."""
        return self._start_ray() if self._name == "ray" else self._start_local()

    def for_passes(self, plan: Plan, rows: int) -> Engine:
        """With the size known."""
        resources = [step.filter.resources() for step in plan.steps]
        needs_gpu = any(r.gpus and not r.gpu_optional for r in resources)
        is_large = rows >= LARGE_POOL and find_spec("ray") is not None
        is_ray = self._name == "ray" or (self._name == "auto" and (needs_gpu or is_large))
        return self._start_ray() if is_ray else self._start_local()

    def _start_local(self) -> Engine:
        if self._local is None:
            hold = self._store.path(WORKERS) if self._store.local else None
            self._local = LocalEngine(self._workers, hold, self._imports())
            self.callback(self._local.close)
        return self._local

    def _imports(self) -> list[str]:
        """Modules of our own filters that have measured nothing here yet, and what those import when opened."""
        ours = [made for made in self._new if type(made).__module__.startswith("pairsieve.")]
        return list(dict.fromkeys(name for made in ours for name in (type(made).__module__, *made.imports())))

    def _start_ray(self) -> Engine:
        if find_spec("ray") is None:
            raise MissingExtraError("--engine ray needs Ray: pip install 'pairsieve[ray]'")
        if self._ray is None:
            from pairsieve.pipelines.engine_ray import RayEngine

            self._ray = RayEngine(self._store, self._address, self._workers)
            self.callback(self._ray.close)
            self._ray.check(*self._inputs)
        return self._ray
