"""Run a recipe: ingest, passes, verdicts, outputs.  The same command continues a run that was stopped.

The driver holds one small record per shard; everything else is read and written by the shard
functions in ``tasks``, through whichever engine is chosen.
"""

import fcntl
import os
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import yaml

from pairsieve.filters.base import GroupFilter, PoolFilter, deciding_settings
from pairsieve.pipelines import accounting, catalog, dataset, recipe_file, tasks
from pairsieve.pipelines.engine import Engine, Needs
from pairsieve.pipelines.engine_local import LocalEngine
from pairsieve.pipelines.groups import group
from pairsieve.pipelines.ingest import ingest, open_pool
from pairsieve.pipelines.plan import Plan, Step, make_plan
from pairsieve.pipelines.pools import Pool, PoolShard, ShardTask
from pairsieve.pipelines.progress import Reporter, Silent
from pairsieve.pipelines.recipe import check
from pairsieve.pipelines.shard import Context
from pairsieve.pipelines.store import Store
from pairsieve.pipelines.subset import write_subset
from pairsieve.schemas.errors import MissingExtraError, RunBusyError, UserError
from pairsieve.schemas.run import DatasetFile, PoolRecord, RunManifest, StepRecord

EngineName = Literal["auto", "local", "ray"]
PACKAGES = ("pairsieve", "pyarrow", "duckdb", "numpy")
LARGE_POOL = 5_000_000
"""Candidates from which ``--engine auto`` takes Ray."""


@dataclass(frozen=True)
class Result:
    """A finished run: where it lies, its plan, the tally of its verdicts."""

    root: str
    plan: Plan
    tally: tasks.Tally
    settled: Mapping[str, Mapping[str, Any]]

    @property
    def rows(self) -> int:
        """Candidates."""
        return self.tally.rows

    @property
    def kept(self) -> int:
        """Pairs that stayed."""
        return self.tally.kept

    @cached_property
    def funnel(self) -> list[tuple[str, int, int]]:
        """(step, pairs that reached it, pairs that it dropped), the pool first."""
        lost: dict[str, int] = {}
        for (step, _), count in self.tally.dropped.items():
            lost[step] = lost.get(step, 0) + count
        found, left = [], self.rows
        for step in ("pool", *(s.id for s in self.plan.steps)):
            found.append((step, left, lost.get(step, 0)))
            left -= lost.get(step, 0)
        return found

    def query(self, sql: str) -> pa.Table:
        """A DuckDB query over the run's views."""
        return catalog.query(self.root, sql)


def load(
    recipe: str | Path | Mapping[str, Any], overrides: Sequence[str] = ()
) -> tuple[Pool, Plan, recipe_file.Source]:
    """A recipe (file, shipped name, or data) with its pool opened and its plan made."""
    if isinstance(recipe, Mapping):
        source = recipe_file.from_data(recipe, overrides)
    else:
        source = recipe_file.read(recipe, overrides)
    checked, filters = check(source)
    pool = open_pool(checked)
    return pool, make_plan(source, checked, filters, pool.types()), source


def run(
    recipe: str | Path | Mapping[str, Any],
    out: str | Path,
    *,
    overrides: Sequence[str] = (),
    engine: EngineName = "auto",
    ray_address: str | None = None,
    workers: int | None = None,
    progress: Reporter | None = None,
) -> Result:
    """Run a recipe into a directory (local or any fsspec URL), or continue there; gives the finished run.

    ``recipe`` is a file, the name of a shipped recipe, or the recipe as data.  Raises
    ``RecipeError``, ``PoolError`` or ``MissingExtraError`` before anything runs, ``RunBusyError``
    where another process works in ``out``, ``ShardError`` when shards failed and the rest is done.
    """
    pool, plan, source = load(recipe, overrides)
    store = _open_run(str(out), pool)
    if engine == "local" and ray_address is not None:
        raise UserError(f"--ray-address {ray_address} goes with --engine ray, not local")
    with _locked(store):
        store.clean()
        store.remove(catalog.CATALOG)
        runner = Runner(store, pool, plan, progress or Silent())
        with Engines(engine, store, ray_address, workers) as engines:
            return runner.run(engines, source)


class Runner:
    """The driver of one run."""

    def __init__(self, store: Store, pool: Pool, plan: Plan, progress: Reporter) -> None:
        """Nothing happens yet."""
        self.store, self.plan, self.progress = store, plan, progress
        self.context = Context(store, plan, pool)
        self.shards: list[PoolShard] = []
        self.old_subset = _subset_of(store)

    def run(self, engines: "Engines", source: recipe_file.Source) -> Result:
        """All of it, in order."""
        self.engine = engines.for_ingest()
        self._ingest()
        self.engine = engines.for_passes(self.plan, self.rows)
        self._write_run_file(source)
        for steps in self.plan.passes:
            self._pass(steps)
        tally = self._verdicts()
        self._outputs(tally)
        self._write_run_file(source)
        catalog.write_catalog(self.store, self.plan)
        self.store.remove("_work")
        return Result(self.store.root, self.plan, tally, self.context.settled)

    def _ingest(self) -> None:
        def through_engine(task: Callable[[ShardTask], PoolShard], items: Sequence[ShardTask]) -> Iterator[PoolShard]:
            return (shard for _, shard in self.engine.map(task, items, Needs(), "pool"))

        with self.progress.stage("pool", 0) as stage:
            self.shards = ingest(self.context.pool, self.store, through_engine)
            stage.advance(self.rows)
        self._remove_lost_shards()

    def _remove_lost_shards(self) -> None:
        """Scores of shards that the pool no longer has: no task would ever look at them."""
        for step in self.store.names("scores"):
            for name in self.store.names(f"scores/{step}", ".parquet"):
                if not name[:5].isdigit() or int(name.split(".")[0]) >= len(self.shards):
                    self.store.remove(f"scores/{step}/{name}")
                elif (before := _part_before(name)) is not None and not self.store.exists(f"scores/{step}/{before}"):
                    self.store.remove(f"scores/{step}/{name}")  # a part without the one before it is not read

    @property
    def rows(self) -> int:
        """Candidates of the pool."""
        return sum(shard.rows for shard in self.shards)

    def _map(
        self, task: Callable[[PoolShard], Any], needs: Needs, name: str, kept: Callable[[Any], int] | None = None
    ) -> list[Any]:
        """A task on every shard; results in shard order.  ``kept`` reads a result's survivors, for the progress."""
        found: list[Any] = [None] * len(self.shards)
        done = alive = 0
        with self.progress.stage(name, self.rows) as stage:
            for i, result in self.engine.map(task, self.shards, needs, name):
                found[i] = result
                done += self.shards[i].rows
                alive += kept(result) if kept else 0
                stage.advance(self.shards[i].rows, f"{alive / done:.1%} kept" if kept and done else "")
        return found

    def _pass(self, steps: range) -> None:
        chosen = [self.plan.steps[k] for k in steps]
        if any(step.measures for step in chosen):
            name = " + ".join(step.id for step in chosen if step.measures)
            self._map(tasks.ScorePass(self.context, steps), _needs(chosen), name, lambda record: int(record.alive))
        last = chosen[-1]
        if not last.is_barrier:
            return
        if isinstance(last.filter, PoolFilter):
            self._settle(steps[-1], last.filter)
        else:
            assert isinstance(last.filter, GroupFilter)
            self._map(tasks.Candidates(self.context, steps[-1]), Needs(), f"{last.id}: keys")
            group(self.store, last)

    def _settle(self, k: int, made: PoolFilter) -> None:
        """Rounds of summaries until the filter knows enough."""
        step = self.plan.steps[k]
        settled: dict[str, Any] = {}
        while not made.is_settled(settled):
            self.context.settled[step.id] = settled
            summary: Any = None
            for found in self._map(tasks.Summarize(self.context, k), Needs(), f"{step.id}: summary"):
                summary = found if summary is None else made.merge(summary, found)
            settled = made.settle(summary, settled)
        self.context.settled[step.id] = settled

    def _verdicts(self) -> tasks.Tally:
        tallies = self._map(tasks.Verdicts(self.context), Needs(), "verdicts", lambda tally: int(tally.kept))
        self._remove_stale("verdicts", {f"{shard.index:05d}.parquet" for shard in self.shards})
        tally = tasks.total(tallies)
        accounting.check(self.store, self.shards, tally)
        return tally

    def _outputs(self, tally: tasks.Tally) -> None:
        output = self.plan.recipe.output
        if self.old_subset not in (None, output.subset):
            self.store.remove(str(self.old_subset))
        if output.subset is not None:
            write_subset(self.store, output.subset, tally.kept)
        if output.dataset is None:
            self.store.remove("dataset")
            return
        fingerprint = self._dataset_fingerprint(tally)
        if dataset.is_current(self.store, fingerprint):
            return
        self.store.remove(dataset.MANIFEST)
        types = dataset.dataset_types(self.plan)
        runs = [
            run for found in self._map(dataset.Spill(self.context, types), Needs(), "dataset: sort") for run in found
        ]
        files = dataset.cut(self.store, runs, output.dataset.rows_per_file, output.dataset.file_bytes)
        entries: list[DatasetFile] = []
        with self.progress.stage("dataset: write", tally.kept) as stage:
            for i, entry in self.engine.map(dataset.Assemble(self.store, types), files, Needs(), "dataset"):
                entries.append(entry)
                stage.advance(sum(rows for _, _, rows in files[i].slices))
        self._remove_stale("dataset", {entry.file for entry in entries})
        dataset.write_manifest(self.store, fingerprint, self.plan, entries)

    def _remove_stale(self, folder: str, wanted: set[str]) -> None:
        """Files of an earlier recipe that this one does not have."""
        for name in self.store.names(folder, ".parquet"):
            if name not in wanted:
                self.store.remove(f"{folder}/{name}")

    def _dataset_fingerprint(self, tally: tasks.Tally) -> str:
        output = self.plan.recipe.output.dataset
        assert output is not None
        steps = [step.fingerprint for step in self.plan.steps]
        parts = (tally.kept, tally.kept_digest, self.plan.recipe.seed, output.model_dump_json(), steps)
        pool = [shard.fingerprint for shard in self.shards]
        types = {name: str(kind) for name, kind in dataset.dataset_types(self.plan).items()}
        return dataset.digest(repr((parts, pool, types)))

    def _write_run_file(self, source: recipe_file.Source) -> None:
        content = RunManifest(
            recipe=source.data,
            seed=self.plan.recipe.seed,
            versions={name: version(name) for name in PACKAGES} | {"python": platform.python_version()},
            pool=PoolRecord(rows=self.rows, shards=len(self.shards)),
            steps=tuple(self._step_record(step) for step in self.plan.steps),
        )
        text = yaml.safe_dump(content.model_dump(mode="json"), sort_keys=False)
        self.store.write("run.yaml", text.encode())

    def _step_record(self, step: Step) -> StepRecord:
        settled = self.context.settled.get(step.id)
        plain = None if settled is None else _plain(settled)
        deciding = deciding_settings(step.filter)
        return StepRecord(id=step.id, filter=step.name, fingerprint=step.fingerprint, deciding=deciding, settled=plain)


def _part_before(name: str) -> str | None:
    """``00012.2.parquet`` -> ``00012.1.parquet`` -> ``00012.parquet`` -> None."""
    shard, *rest = name.removesuffix(".parquet").split(".")
    if not rest:
        return None
    part = int(rest[0]) - 1
    return f"{shard}.{part}.parquet" if part else f"{shard}.parquet"


def _subset_of(store: Store) -> str | None:
    """The subset file that an earlier run in this directory wrote, by its manifest."""
    try:
        recipe = RunManifest.model_validate(yaml.safe_load(store.read("run.yaml"))).recipe
    except (OSError, ValueError, yaml.YAMLError):  # none yet, or damaged
        return None
    output = recipe.get("output")
    return "subset.npy" if output is None else output.get("subset")


def _plain(settled: Mapping[str, Any]) -> dict[str, Any]:
    """What a reader wants to know of it; the digits of a radix search are not."""
    return {name: value for name, value in settled.items() if name not in ("prefix", "rank")}


def _needs(steps: Sequence[Step]) -> Needs:
    """The most that any step of a pass needs."""
    resources = [step.filter.resources() for step in steps if step.measures]
    return Needs(
        max((r.cpus for r in resources), default=1.0),
        max((r.gpus for r in resources), default=0.0),
        any(step.filter.loads_model for step in steps if step.measures),
        all(r.gpu_optional for r in resources if r.gpus),
    )


class Engines(ExitStack):
    """Chooses the engine of a run, and closes what it opened.

    ``auto`` is this machine, unless there is an address, a step that needs a GPU of its own, or
    (known after ingest) a pool of ``LARGE_POOL`` candidates and Ray installed.
    """

    def __init__(self, name: EngineName, store: Store, ray_address: str | None, workers: int | None) -> None:
        """Start nothing yet."""
        super().__init__()
        self._name: EngineName = "ray" if name == "auto" and ray_address is not None else name
        self._store, self._address, self._workers = store, ray_address, workers
        self._local: LocalEngine | None = None
        self._ray: Engine | None = None

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
            self._local = LocalEngine(self._workers)
            self.callback(self._local.close)
        return self._local

    def _start_ray(self) -> Engine:
        if find_spec("ray") is None:
            raise MissingExtraError("--engine ray needs Ray: pip install 'pairsieve[ray]'")
        if self._ray is None:
            from pairsieve.pipelines.engine_ray import RayEngine

            self._ray = RayEngine(self._store, self._address, self._workers)
            self.callback(self._ray.close)
        return self._ray


OURS = ("pairs", "scores", "derived", "verdicts", "dataset", "_work")
"""Folders of a run: what they hold is written, replaced and removed by runs."""
MARK = ".lock"
"""The file by which a directory is known as a run's."""


def _open_run(out: str, pool: Pool) -> Store:
    """The store of a run; raises ``UserError`` where running there could touch somebody else's files."""
    if not out.strip():
        raise UserError("--out is empty; name a directory for the run")
    if odd := sorted(set(out) & set(",*?[]")):
        raise UserError(f"--out {out}: DuckDB reads {' '.join(odd)} in a path as a pattern; choose another name")
    store = Store(out)
    held = [name for name in OURS if store.exists(name)]
    if held and not store.exists(MARK):
        raise UserError(f"--out {out}: holds {held[0]!r}, which no run of pairsieve wrote; choose another directory")
    for file in pool.files:
        url = str(pool.fs.unstrip_protocol(file))
        if any(url.startswith(str(store.fs.unstrip_protocol(store.path(name))) + "/") for name in OURS):
            raise UserError(f"--out {out}: the pool's {file} lies in it, and the run would replace it; choose another")
    return store


@contextmanager
def _locked(store: Store) -> Iterator[None]:
    """One process at a time in a local run directory."""
    if not store.local:
        store.write(MARK, b"")
        yield
        return
    Path(store.base).mkdir(parents=True, exist_ok=True)
    with (Path(store.base) / MARK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise RunBusyError(
                f"{store.root}: another pairsieve works in this directory; wait for it, or use another --out"
            ) from None
        lock.write(str(os.getpid()))
        lock.flush()
        yield
