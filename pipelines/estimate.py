"""What a run would do and cost: pool, steps, re-used scores, time, bytes, from stored rates or a sample.

Time is that of measuring: reading, verdicts and writing the dataset come on top, some microseconds a pair
and the speed of the disk.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from pairsieve.filters.base import GroupFilter
from pairsieve.pipelines import costs, machine
from pairsieve.pipelines.costs import Cost
from pairsieve.pipelines.figures import Figure, Kind, wilson
from pairsieve.pipelines.heads import take
from pairsieve.pipelines.plan import Plan
from pairsieve.pipelines.plan_report import Report, StepCost, StepPlan
from pairsieve.pipelines.pools import Pool
from pairsieve.pipelines.progress import Reporter
from pairsieve.pipelines.reuse import Reuse, RunDirectory, StepReuse
from pairsieve.pipelines.sample import Sample, Trial, sample
from pairsieve.pipelines.sizes import PoolSize, pool_size
from pairsieve.pipelines.step import Step
from pairsieve.pipelines.store import Store

SAMPLE = 256
"""Pairs that a plan tries, unless told otherwise."""


def estimate(
    pool: Pool,
    plan: Plan,
    *,
    out: str | None = None,
    sample_rows: int = SAMPLE,
    workers: int | None = None,
    is_cluster: bool = False,
    progress: Reporter,
) -> Report:
    """Plan a run into ``out``: look there, try a sample where costs are not known, and reckon.

    ``sample_rows`` 0 tries nothing.  ``is_cluster``: without ``workers`` their number is not known here.
    """
    with TemporaryDirectory() as folder:
        tasks = pool.tasks()
        size = pool_size(pool, tasks, plan)
        here = RunDirectory(pool, tasks, plan, out, _folder(folder, "overlay")) if out is not None else None
        here = here if here is not None and here.is_run else None
        found = here.reuse({}, size) if here is not None else None
        rates = costs.load(here.real) if here is not None else {}
        tried = None
        if sample_rows and (unknown := _unknown(plan, found, rates)):
            store = Store(_folder(folder, "sample"))
            if here is not None and found is not None:
                taken, whole = here.heads(store, sample_rows, unknown), None
            else:
                taken, whole = take(pool, tasks, store, sample_rows)
            tried = sample(pool, plan, store, taken, whole, progress)
        if found is not None and tried is not None and here is not None and not _is_exact(found):
            found = here.reuse(tried.shares, size)
        if size.rows is None and tried is not None and tried.shard_rows is not None:
            size = replace(size, rows=Figure(tried.shard_rows * len(tasks or ()), "about"))
        count = workers or (None if is_cluster else machine.cpus())
        unread = here is not None and found is None
        return Reckoning(plan, size, found, tried, rates, count, unread).report(out)


def _folder(root: str, name: str) -> str:
    path = Path(root) / name
    path.mkdir()
    return str(path)


def _is_exact(found: Reuse) -> bool:
    return all(step.todo.kind == "exact" for step in found.steps) and found.kept.kind == "exact"


def _unknown(plan: Plan, found: Reuse | None, rates: Mapping[str, Cost]) -> set[str]:
    """The steps that are to measure pairs at a rate that nobody has measured yet."""
    todo = {step.id for step in found.steps if step.todo.value} if found else {step.id for step in plan.steps}
    return {step.id for step in plan.steps if step.id in todo and step.fingerprint not in rates}


class Reckoning:
    """Puts sizes, stored scores, measured rates and a sample together."""

    def __init__(
        self,
        plan: Plan,
        size: PoolSize,
        found: Reuse | None,
        tried: Sample | None,
        rates: Mapping[str, Cost],
        workers: int | None,
        is_pool_unread: bool,
    ) -> None:
        """Nothing is reckoned yet."""
        self.plan, self.found, self.tried, self.rates = plan, found, tried, rates
        self.size, self.workers, self.is_pool_unread = size, workers, is_pool_unread

    @property
    def rows(self) -> float | None:
        """Candidates of the pool."""
        return self.size.rows.value if self.size.rows else None

    def report(self, out: str | None) -> Report:
        """All of it."""
        work = self.found.steps if self.found else tuple(self._fresh())
        steps = tuple(
            StepPlan(step.id, one, self._cost(step, one)) for step, one in zip(self.plan.steps, work, strict=True)
        )
        kept = self.found.kept if self.found else self._kept()
        final, sort = self._dataset(kept)
        return Report(
            out=out,
            reuse=self.found,
            is_pool_unread=self.is_pool_unread,
            size=self.size,
            workers=self.workers,
            sample=self.tried,
            steps=steps,
            kept=kept,
            dataset_bytes=final,
            sort_bytes=sort,
            disk_bytes=self._disk(steps, final, sort),
            notes=tuple(self._notes(steps)),
        )

    def _fresh(self) -> list[StepReuse]:
        """Steps of a run that finds nothing: what reaches each goes by the sample's kept shares."""
        pool = reach = self._given()
        found: list[StepReuse] = []
        for step in self.plan.steps:
            reach_it = pool if step.of_pool and step.measures else reach
            todo = reach_it if step.measures else Figure(0)
            why = ("never measured",) if step.measures else ()
            if self.is_pool_unread and step.measures:
                todo, why = _bound(todo), ("the pool changed; where its pairs are the same, scores are re-used",)
            found.append(StepReuse(step.id, reach_it, Figure(0), todo, why, None))
            reach = self._left(step, reach)
        return found

    def _left(self, step: Step, reach: Figure) -> Figure:
        """What a step leaves of the pairs that reach it; all of them where nobody knows."""
        trial = self.tried.steps.get(step.id) if self.tried else None
        if reach.kind == "unknown":
            return reach
        if trial is None or trial.error is not None:
            return _bound(reach)
        share = trial.kept / trial.reached if trial.reached else 1.0
        return Figure(reach.value * share, "at most about" if reach.is_bound else "about")

    def _given(self) -> Figure:
        """Pairs that the pool can give: a list may hold lines that are none, a tar a sample without an image."""
        if self.size.given is not None:
            return Figure(self.size.given)
        if self.size.rows is None:
            return Figure(0.0, "unknown")
        if self.tried is None:
            return Figure(self.size.rows.value, "at most" if self.size.rows.kind == "exact" else "at most about")
        return Figure(self.size.rows.value * self.tried.given / self.tried.rows, "about")

    def _kept(self) -> Figure | None:
        """Pairs that stay, with the sampling error of the whole."""
        if self.tried is None or self.rows is None:
            return None
        if not self.plan.steps:
            return self._given()
        decided = self.tried.rows + self.tried.added
        scale = self.rows * decided / self.tried.rows
        least, most = (scale * share for share in wilson(self.tried.kept, decided))
        is_bound = any(trial.error for trial in self.tried.steps.values())
        value = self.rows * self.tried.kept / self.tried.rows
        return Figure(most, "at most about") if is_bound else Figure(value, "about", least, most)

    def _cost(self, step: Step, work: StepReuse) -> StepCost | None:
        pairs = work.todo.value
        if not step.measures or not pairs:
            return None
        trial = self.tried.steps.get(step.id) if self.tried else None
        stored = self._bytes(step, work, trial, pairs)
        known = self.rates.get(step.fingerprint)
        if known is not None and known.rows:
            worker = known.seconds / known.rows * pairs
            source = f"this run: {known.rows:,} pairs"
            needs = step.filter.resources()
            gpus = 0.0 if needs.gpu_optional else needs.gpus
            wall = self._wall(worker, 0.0, gpus)
            return StepCost(source, known.seconds / known.rows, worker, wall, worker * gpus or None, stored)
        if trial is None:
            return StepCost("not tried (--sample 0)", bytes=stored)
        if trial.error is not None:
            return StepCost(f"not known: {trial.error}", bytes=stored)
        if not trial.measured:
            return StepCost("not known: no pair of the sample reached it", bytes=stored)
        return self._tried(step, trial, pairs, stored)

    def _tried(self, step: Step, trial: Trial, pairs: float, stored: float | None) -> StepCost:
        seconds, source = trial.seconds, f"sample: {trial.measured:,} pairs"
        if trial.waits_for > 1:
            seconds *= min(1.0, trial.batch / trial.waits_for)
            seconds = max(seconds, trial.cpu_seconds / max(1.0, step.filter.resources().cpus))
            source += f"; if {trial.waits_for} are under way at a time"
        if step.filter.resources().gpus and not trial.gpus:
            source += " on CPU"
        worker = seconds * pairs
        wall = self._wall(worker, trial.cpu_seconds * pairs, trial.gpus)
        gpu = worker * trial.gpus if trial.gpus else None
        return StepCost(source, seconds, worker, wall, gpu, stored)

    def _wall(self, worker: float, cpu: float, gpus: float) -> float | None:
        """Workers share the pairs, but not more cores than there are; those with a GPU each need one."""
        if gpus:
            return worker
        if self.workers is None:
            return None
        shards = self.size.shards.value if self.size.shards else self.workers
        return max(worker / max(1.0, min(self.workers, shards)), cpu / max(machine.cpus(), self.workers))

    def _bytes(self, step: Step, work: StepReuse, trial: Trial | None, pairs: float) -> float | None:
        """Bytes of the new scores: by those stored already, else by the sample, else as they were in memory."""
        known = self.rates.get(step.fingerprint)
        if work.pair_bytes:
            return work.pair_bytes * pairs
        if trial is not None and trial.measured:
            return trial.pair_bytes * pairs
        return known.bytes / known.rows * pairs if known is not None and known.rows else None

    def _dataset(self, kept: Figure | None) -> tuple[Figure | None, Figure | None]:
        """Bytes of the dataset and of sorting it: by a sample's pairs, else by those that are there."""
        weights = None
        if self.tried is not None and self.tried.dataset_bytes is not None and self.tried.sort_bytes is not None:
            weights = self.tried.dataset_bytes, self.tried.sort_bytes
        elif self.found is not None:
            weights = self.found.dataset_bytes
        is_kept = self.found is not None and self.found.is_dataset_kept
        if kept is None or weights is None or is_kept or self.plan.recipe.output.dataset is None:
            return None, None
        least, most = (None if n is None else n * weights[0] for n in (kept.least, kept.most))
        kind: Kind = "at most about" if kept.is_bound else "about"
        return Figure(kept.value * weights[0], kind, least, most), Figure(kept.value * weights[1], kind)

    def _disk(self, steps: tuple[StepPlan, ...], final: Figure | None, sort: Figure | None) -> Figure | None:
        """Bytes that a run adds at its peak; None where a part of it is not known, or nothing is added."""
        new = [step.cost.bytes for step in steps if step.cost is not None]
        is_kept = self.found is not None and self.found.is_dataset_kept
        lacks_final = final is None and not is_kept and self.plan.recipe.output.dataset is not None
        if None in new or lacks_final or self.rows is None or (self.found is None and self.tried is None):
            return None
        total = sum(n for n in new if n is not None)
        if self.found is None and self.tried is not None:
            total += self.rows * (self.tried.verdict_bytes + self.tried.copy_bytes)
        total += sum(figure.value for figure in (final, sort) if figure is not None)
        return Figure(total, "about") if total else None

    def _trials(self) -> Iterable[tuple[str, Trial]]:
        return self.tried.steps.items() if self.tried else ()

    def _notes(self, steps: tuple[StepPlan, ...]) -> list[str]:
        """What the figures do not tell."""
        found = [f"{name}: could not be tried: {t.error}" for name, t in self._trials() if t.error is not None]
        is_tried = self.found is None and self.tried is not None
        if is_tried and any(isinstance(step.filter, GroupFilter) for step in self.plan.steps):
            found.append("duplicates: a sample meets few of the pool's; fewer pairs may stay than it says")
        if is_tried and (few := [step.id for step in self.plan.steps if step.derives]):
            found.append(f"{', '.join(few)}: counts of a sample are small; fewer pairs may stay than it says")
        if any(step.cost is not None and step.cost.gpu_seconds for step in steps):
            found.append("GPU steps: wall time is for one GPU")
        return found


def _bound(figure: Figure) -> Figure:
    """The number as an upper bound."""
    return Figure(figure.value, "at most" if figure.kind in ("exact", "at most") else "at most about")
