"""The driver of a run: ingest, passes, verdicts, outputs, in this order.

It holds one small record per shard; everything else is read and written by the shard functions in
``tasks``, through whichever engine is chosen.
"""

import json
import platform
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from typing import Any, TypeAlias, TypeVar

import numpy as np
import pyarrow as pa
import yaml

from pairsieve.filters.base import PoolFilter, deciding_settings
from pairsieve.pipelines import (
    accounting,
    added,
    catalog,
    costs,
    dataset,
    dataset_spill,
    pool_rounds,
    recipe_file,
    replaced,
    subset,
    tail,
    tasks,
)
from pairsieve.pipelines.capacity import needs_of
from pairsieve.pipelines.costs import Cost
from pairsieve.pipelines.engine import ATTEMPTS, Needs
from pairsieve.pipelines.engines import Engines
from pairsieve.pipelines.facts import Noticed
from pairsieve.pipelines.forget import MARK, Forget, Wanted
from pairsieve.pipelines.groups import group
from pairsieve.pipelines.ingest import ingest
from pairsieve.pipelines.lock import Check
from pairsieve.pipelines.plan import Plan
from pairsieve.pipelines.pools import Pool, PoolShard, ShardTask
from pairsieve.pipelines.progress import Reporter
from pairsieve.pipelines.run_file import last_run
from pairsieve.pipelines.shard import Context
from pairsieve.pipelines.step import Step
from pairsieve.pipelines.store import Store
from pairsieve.schemas.errors import DamagedFileError
from pairsieve.schemas.recipe import DatasetOutput, Output
from pairsieve.schemas.run import DatasetFile, PoolRecord, RunManifest, StepRecord

T = TypeVar("T")
Count: TypeAlias = Callable[[Mapping[str, Cost], Mapping[str, pa.Table]], None]
"""Takes what a shard measured and noticed, step by step."""
PACKAGES = ("pairsieve", "pyarrow", "duckdb", "numpy")


@dataclass(frozen=True)
class Result:
    """A finished run: where it lies, its plan, the tally of its verdicts.

    ``measured`` counts the pairs that this call measured, by step; those measured before are re-used.
    """

    root: str
    plan: Plan
    tally: tasks.Tally
    settled: Mapping[str, Mapping[str, Any]]
    measured: Mapping[str, int]

    @property
    def rows(self) -> int:
        """Candidates of the pool."""
        return self.tally.rows

    @property
    def added(self) -> int:
        """Pairs that the last step added."""
        return self.tally.added

    @property
    def kept(self) -> int:
        """Pairs that stayed."""
        return self.tally.kept

    @cached_property
    def funnel(self) -> list[tuple[str, int, int]]:
        """(step, pairs that it decided on, pairs that it dropped), the pool first; with what the last one added."""
        lost: dict[str, int] = {}
        for (step, _), count in self.tally.dropped.items():
            lost[step] = lost.get(step, 0) + count
        found, left = [], self.rows
        for step in ("pool", *(s.id for s in self.plan.steps)):
            left += self.added if self.plan.adding and step == self.plan.adding[1].id else 0
            found.append((step, left, lost.get(step, 0)))
            left -= lost.get(step, 0)
        return found

    def query(self, sql: str) -> pa.Table:
        """A DuckDB query over the run's views."""
        return catalog.query(self.root, sql)


class Runner:
    """The driver of one run."""

    def __init__(
        self,
        store: Store,
        pool: Pool,
        plan: Plan,
        progress: Reporter,
        check_lock: Check,
        forget: Wanted | None = None,
    ) -> None:
        """Nothing happens yet; ``check_lock`` raises where another run took the directory over."""
        self.store, self.plan, self.progress, self.check_lock = store, plan, progress, check_lock
        self.wanted = forget
        self.context = Context(store, plan, pool)
        self.shards: list[PoolShard] = []
        self.measured = dict.fromkeys((step.id for step in plan.steps if step.measures), 0)
        self.old_subset = _subset_of(store)
        self.records = 0

    def run(self, engines: Engines, source: recipe_file.Source) -> Result:
        """All of it, in order; again where a file of the run proves damaged, which removes it."""
        for attempt in range(ATTEMPTS):
            try:
                tally = self._all(engines, source)
                break
            except DamagedFileError as error:
                if attempt + 1 == ATTEMPTS:
                    raise
                self.progress.say(f"{error}; it is made again")
            finally:
                self.context.opened.close()  # what this process itself opened
        self.check_lock()
        self._write_run_file(source)
        catalog.write_catalog(self.store, self.plan, self.context.pool, self.shards)
        self.store.remove("_work")
        self.store.remove(MARK)
        self.store.remove_attempts()  # of workers that were killed while the run went on
        return Result(self.store.root, self.plan, tally, self.context.settled, self.measured)

    def _all(self, engines: Engines, source: recipe_file.Source) -> tasks.Tally:
        self.engine = engines.for_ingest()
        self._ingest()
        self.engine = engines.for_passes(self.plan, self.rows)
        if told := replaced.notice(self.store, source.data):
            self.progress.say(told)
        self._remove_old_outputs()
        self._write_run_file(source)
        self._forget()
        for k, step in enumerate(self.plan.steps):
            for note in step.filter.prepare():
                self.progress.say(f"{step.id}: {note}")
            if step.settles_early:
                self._settle(k, step)
        *earlier, last = self.plan.passes or [range(0)]
        for steps in earlier if self._ends_open(last) else self.plan.passes:
            self._pass(steps)
        tally = self._verdicts(last if self._ends_open(last) else range(0))
        self._outputs(tally)
        return tally

    def _forget(self) -> None:
        """What was measured of some pairs, unless a run that was stopped has done so."""
        if self.wanted is None or self.wanted.is_done(self.store):
            return
        found = sum(self._each(Forget(self.context, self.wanted), Needs(), "forget"))
        self.store.write(MARK, self.wanted.written())
        self.progress.say(f"{', '.join(self.wanted.steps)}: {found:,} pairs are measured again")

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

    def _each(
        self, task: Callable[[PoolShard], T], needs: Needs, name: str, kept: Callable[[T], int] | None = None
    ) -> Iterator[T]:
        """A task on every shard; results as they come, so that the driver holds none of them.

        ``kept`` reads a result's survivors, for the progress.
        """
        return (result for _, result in self._each_of(task, self.shards, needs, name, kept))

    def _each_of(
        self,
        task: Callable[[PoolShard], T],
        shards: Sequence[PoolShard],
        needs: Needs,
        name: str,
        kept: Callable[[T], int] | None = None,
    ) -> Iterator[tuple[PoolShard, T]]:
        """As ``_each``, on some shards, each with its result."""
        done = alive = 0
        with self.progress.stage(name, sum(shard.rows for shard in shards)) as stage:
            for i, result in self.engine.map(task, shards, needs, name):
                self.check_lock()
                done += shards[i].rows
                alive += kept(result) if kept else 0
                stage.advance(shards[i].rows, f"{alive / done:.1%} kept" if kept and done else "")
                yield shards[i], result

    def _ends_open(self, steps: range) -> bool:
        """Whether a pass ends without a barrier or pairs that are left, so that verdicts can be written on the way."""
        chosen = [self.plan.steps[k] for k in steps]
        return bool(chosen) and not chosen[-1].is_barrier and not any(step.filter.leaves for step in chosen)

    def _pass(self, steps: range) -> None:
        """Measure what a pass lacks, then what its last step needs of the whole pool."""
        if any(self.plan.steps[k].measures for k in steps):
            with self._counting() as count:
                self._sweeps(steps, count)
        last = self.plan.steps[steps[-1]]
        if not last.is_barrier:
            return
        if isinstance(last.filter, PoolFilter):
            self._settle(steps[-1], last)
        else:
            deque(self._each(tasks.Candidates(self.context, steps[-1]), Needs(), f"{last.id}: keys"), maxlen=0)
            needs = needs_of([last])
            group(self.store, last, lambda task, items: (r for _, r in self.engine.map(task, items, needs, last.id)))

    def _sweeps(self, steps: range, count: Count) -> None:
        """A pass over all shards; while steps have left pairs, those of the first such step, and the pass again."""
        shards = self.shards
        task = tasks.ScorePass(self.context, steps, may_leave=True)
        while shards:
            left: dict[int, Mapping[str, int]] = {}
            for shard, record in self._each_of(task, shards, *self._work(steps), lambda r: r.alive):
                count(record.measured, record.noticed)
                if record.left:
                    left[shard.index] = record.left
            shards = [shard for shard in shards if shard.index in left]
            first = next((k for k in steps if any(self.plan.steps[k].id in found for found in left.values())), None)
            if first is not None:
                own = self.plan.steps[first].id
                self._tail(
                    first, [(shard, found) for shard in shards if (found := left[shard.index].get(own, 0))], count
                )
                if not any(self.plan.steps[k].measures for k in steps if k > first):
                    return

    def _tail(self, k: int, left: Sequence[tuple[PoolShard, int]], count: Count) -> None:
        """The pairs that a step left, those of many shards together."""
        step = self.plan.steps[k]
        found = tail.groups(left)
        with self.progress.stage(f"{step.id}: slow ones", sum(rows for _, rows in left)) as stage:
            for _, record in self.engine.map(
                tail.Tail(self.context, k), found, needs_of([step]), f"{step.id}: slow ones"
            ):
                self.check_lock()
                count(record.measured, record.noticed)
                stage.advance(sum(cost.rows for cost in record.measured.values()))

    def _work(self, steps: range) -> tuple[Needs, str]:
        """What the workers of a pass need, and what it is called."""
        chosen = [self.plan.steps[k] for k in steps if self.plan.steps[k].measures]
        return needs_of(chosen), " + ".join(step.id for step in chosen)

    @contextmanager
    def _counting(self) -> Iterator[Count]:
        """Gather what the shards of a pass measured and noticed; written down even if some of them fail."""
        new: dict[str, Cost] = {}
        noticed = Noticed({step.id: step.filter for step in self.plan.steps})

        def count(measured: Mapping[str, Cost], facts: Mapping[str, pa.Table]) -> None:
            noticed.add(facts)
            for step, cost in measured.items():
                new[step] = new.get(step, Cost()) + cost

        try:
            yield count
        finally:
            fingerprints = {step.id: step.fingerprint for step in self.plan.steps}
            self.measured.update({step: self.measured[step] + cost.rows for step, cost in new.items()})
            if new:
                costs.add(self.store, {fingerprints[step]: cost for step, cost in new.items()})
            for line in noticed.advice():
                self.progress.say(line)

    def _settle(self, k: int, step: Step) -> None:
        """Rounds of summaries until the filter knows enough, then what its pairs get from them."""
        self.store.remove(f"derived/{step.id}")
        summarize = tasks.Summarize(self.context, k)
        pool_rounds.settle(self.context, step, lambda: self._each(summarize, Needs(), f"{step.id}: summary"))
        if step.derives:
            deque(self._each(tasks.Derive(self.context, k), Needs(), f"{step.id}: pairs"), maxlen=0)
        pool_rounds.write_tables(self.context, step)
        for note in pool_rounds.notes(self.context, step):
            self.progress.say(f"{step.id}: {note}")

    def _verdicts(self, steps: range) -> tasks.Tally:
        """The verdict of every candidate, after the last pass where that is still to run."""
        needs, name = self._work(steps)
        tally, self.records = tasks.Tally(0, 0, {}), 0
        self.store.remove(subset.FOLDER)
        with self._counting() as count:
            task = tasks.Verdicts(self.context, steps)
            for record in self._each(task, needs, f"{name} + verdicts".removeprefix(" + "), lambda r: r.tally.kept):
                count(record.measured, record.noticed)
                tally += record.tally
                self.records += record.records
        names = {f"{shard.index:05d}.parquet" for shard in self.shards}
        self._remove_stale("verdicts", names)
        adds = self.plan.adding is not None
        self._remove_stale(added.FOLDER, names if adds else set())
        accounting.check(self.store, self.shards, tally, adds)
        return tally

    def _remove_old_outputs(self) -> None:
        """What an earlier recipe left and this one will not replace; at once, while run.yaml still names it."""
        if self.old_subset not in (None, self.plan.recipe.output.subset):
            self.store.remove(str(self.old_subset))
        for name in self.store.names("derived"):
            if name not in {step.id for step in self.plan.steps if step.keys or isinstance(step.filter, PoolFilter)}:
                self.store.remove(f"derived/{name}")

    def _outputs(self, tally: tasks.Tally) -> None:
        output = self.plan.recipe.output
        if output.subset is not None:
            subset.write_subset(self.store, output.subset, self.records)
        if output.dataset is None:
            self.store.remove("dataset")
        else:
            self._dataset(output.dataset, tally)

    def _dataset(self, output: DatasetOutput, tally: tasks.Tally) -> None:
        fingerprint = dataset.fingerprint(self.context, self.shards, tally)
        if self._is_current(fingerprint):
            return
        self.store.remove(dataset.MANIFEST)
        types, folder = dataset.dataset_types(self.plan), dataset.workplace(self.store, fingerprint)
        spill = dataset_spill.Spill(self.context, types, folder)
        runs = [run for found in self._each(spill, Needs(), "dataset: sort") for run in found]
        files = dataset.cut(self.store, runs, output.rows_per_file, output.file_bytes)
        entries: list[DatasetFile] = []
        with self.progress.stage("dataset: write", tally.kept) as stage:
            for i, entry in self.engine.map(dataset.Assemble(self.store, types, folder), files, Needs(), "dataset"):
                entries.append(entry)
                stage.advance(sum(rows for _, _, rows in files[i].slices))
        self._remove_stale("dataset", {entry.file for entry in entries})
        dataset.write_manifest(self.store, fingerprint, self.plan, entries)

    def _is_current(self, fingerprint: str) -> bool:
        """Whether the finished dataset is there, bit by bit where it lies on a disk."""
        found = dataset.current(self.store, fingerprint)
        if found is None or not self.store.local:  # object stores keep checksums of their own
            return found is not None
        with self.progress.stage("dataset: verify", found.rows) as stage:
            are_whole = True
            for i, is_whole in self.engine.map(dataset.Verify(self.store), found.files, Needs(), "dataset"):
                are_whole &= is_whole
                stage.advance(found.files[i].rows)
        return are_whole

    def _remove_stale(self, folder: str, wanted: set[str]) -> None:
        """Files of an earlier recipe that this one does not have."""
        for name in self.store.names(folder, ".parquet"):
            if name not in wanted:
                self.store.remove(f"{folder}/{name}")

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
        return StepRecord(
            id=step.id,
            filter=step.name,
            fingerprint=step.fingerprint,
            measures=json.loads(step.identity) if step.measures else None,
            deciding=deciding,
            settled=plain,
        )


def _part_before(name: str) -> str | None:
    """``00012.2.parquet`` -> ``00012.1.parquet`` -> ``00012.parquet`` -> None."""
    shard, *rest = name.removesuffix(".parquet").split(".")
    if not rest:
        return None
    part = int(rest[0]) - 1
    return f"{shard}.{part}.parquet" if part else f"{shard}.parquet"


def _subset_of(store: Store) -> str | None:
    """The subset file that an earlier run in this directory wrote, by its manifest."""
    last = last_run(store)
    if last is None:
        return None
    output = last.recipe.get("output")
    try:
        return "subset.npy" if output is None else Output.model_validate(output).subset
    except ValueError:  # another version's
        return None


def _plain(settled: Mapping[str, Any]) -> dict[str, Any]:
    """What a reader wants to know of it; the digits of a radix search and long vectors are not."""
    return {n: v for n, v in settled.items() if n not in ("prefix", "rank") and not isinstance(v, np.ndarray)}
