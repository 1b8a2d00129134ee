"""Try a recipe on a few pairs: what a pair costs in each step, and how many stay.

The steps really run, with their filters, one after the other in this process, on the heads of some shards
(``heads``); what they write lies in a scratch folder.  A step that fails or needs a GPU that is not there is left out
with all that read its columns, and the others go on without its verdict.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from statistics import median

import pyarrow.parquet as pq

from pairsieve.filters.base import GroupFilter, PoolFilter
from pairsieve.pipelines import dataset, dataset_spill, pool_rounds, tasks
from pairsieve.pipelines.groups import group
from pairsieve.pipelines.parts import part_name
from pairsieve.pipelines.plan import Plan
from pairsieve.pipelines.pools import Pool, PoolShard, pairs_name
from pairsieve.pipelines.progress import Reporter
from pairsieve.pipelines.shard import Context, Shard
from pairsieve.pipelines.step import Step
from pairsieve.pipelines.store import Store
from pairsieve.schemas.errors import PairsieveError, PoolError

CPU = 1.0
"""CPU-seconds from which they tell how many cores a step takes; below, they are mostly those of opening files."""


@dataclass(frozen=True)
class Trial:
    """What a sample told of one step.

    ``seconds`` and ``cpu_seconds`` are for one pair, of one worker; ``pair_bytes`` of a stored pair in files.
    ``waits_for`` are the pairs that a worker can have under way while it waits for others (1: it computes),
    ``batch`` those that a shard of the sample gave it.
    ``error`` says why the step was not tried, and everything else is then empty.
    """

    reached: int = 0
    kept: int = 0
    measured: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    pair_bytes: float = 0.0
    waits_for: int = 1
    batch: float = 0.0
    gpus: float = 0.0
    error: str | None = None


@dataclass(frozen=True)
class Sample:
    """What a sample told: pairs taken and given by the pool, each step's trial, bytes of a pair by file kind.

    ``shard_rows`` are the pairs of a whole shard, as far as shards were read for it.
    """

    rows: int
    shards: int
    shard_rows: float | None
    given: int
    kept: int
    steps: Mapping[str, Trial]
    copy_bytes: float
    verdict_bytes: float
    dataset_bytes: float | None
    sort_bytes: float | None
    added: int = 0

    @property
    def shares(self) -> dict[str, float]:
        """Kept share of the steps that were tried on any pair."""
        return {name: t.kept / t.reached for name, t in self.steps.items() if t.reached and t.error is None}


class Tryout:
    """Runs the steps of a plan on a sample's shards, in ``store``."""

    def __init__(self, store: Store, pool: Pool, plan: Plan, shards: Sequence[PoolShard]) -> None:
        """Nothing runs yet."""
        self.store, self.shards = store, shards
        self.context = Context(store, plan, pool)
        self.trials: dict[str, Trial] = {}

    def run(self, shard_rows: float | None) -> Sample:
        """Try every step."""
        try:
            k = 0
            while k < len(self.context.plan.steps):
                k += self._try(k, self.context.plan.steps[k])
            return self._sample(shard_rows)
        finally:
            self.context.opened.close()

    def _try(self, k: int, step: Step) -> int:
        """One step; 1 where it worked, 0 where it is no longer in the plan."""
        try:
            if (why := lacks_gpu(step)) is not None:
                raise PairsieveError(why)
            trial = self._measure(k, step) if step.measures else Trial()
            self._settle(k, step)
            for record in self.shards:  # its verdicts work too
                with Shard(self.context, record) as shard:
                    shard.replay(k + 1)
        except Exception as error:  # whatever a filter, a model hub or a driver raises
            self._leave_out(step, _line(error))
            return 0
        self.trials[step.id] = trial
        return 1

    def _measure(self, k: int, step: Step) -> Trial:
        self.context.opened.get(step.id, step.filter)  # loading a model is not what a pair costs
        rates: list[float] = []
        pairs, cpu = 0, 0.0
        for record in self.shards:
            began = time.process_time()
            cost = tasks.ScorePass(self.context, range(k, k + 1))(record).measured.get(step.id)
            if cost is not None:
                cpu += time.process_time() - began
                pairs += cost.rows
                rates.append(cost.seconds / cost.rows)
        return Trial(
            measured=pairs,
            seconds=median(rates) if rates else 0.0,
            cpu_seconds=cpu / pairs if cpu >= CPU else 0.0,
            pair_bytes=self._bytes([part_name(step.id, shard.index, 0) for shard in self.shards]) / max(1, pairs),
            waits_for=int(getattr(step.filter, "concurrency", 1)),
            batch=pairs / max(1, len(rates)),
            gpus=step.filter.resources().gpus if has_gpu(step) else 0.0,
        )

    def _settle(self, k: int, step: Step) -> None:
        """What the step decides over the whole sample."""
        if isinstance(step.filter, PoolFilter):
            summarize = tasks.Summarize(self.context, k)
            pool_rounds.settle(self.context, step, lambda: map(summarize, self.shards))
            for record in self.shards if step.derives else ():
                tasks.Derive(self.context, k)(record)
        elif isinstance(step.filter, GroupFilter):
            for record in self.shards:
                tasks.Candidates(self.context, k)(record)
            group(self.store, step)

    def _leave_out(self, step: Step, error: str) -> None:
        """Go on without a step, and without those that read its columns."""
        self.trials[step.id] = Trial(error=error)
        lost, left = set(step.given), []
        for other in self.context.plan.steps:
            if other.id == step.id:
                continue
            if lost.isdisjoint((*other.reads, *other.keep_reads, *other.summary_reads)):
                left.append(other)
            else:
                lost |= set(other.given)
                self.trials[other.id] = Trial(error=f"it reads what {step.id} measures")
        self.context.plan = replace(self.context.plan, steps=tuple(left))

    def _sample(self, shard_rows: float | None) -> Sample:
        """Count who reached what, and what files weigh."""
        plan = self.context.plan
        task = tasks.Verdicts(self.context, range(0))
        tally = reduce(lambda one, other: one + other, (task(record).tally for record in self.shards))
        lost: dict[str, int] = {}
        for (name, _), count in tally.dropped.items():
            lost[name] = lost.get(name, 0) + count
        reached = given = tally.rows - lost.get("pool", 0)
        for step in plan.steps:
            reached += tally.added if step.adds else 0
            kept = reached - lost.get(step.id, 0)
            self.trials[step.id] = replace(self.trials[step.id], reached=reached, kept=kept)
            reached = kept
        copied = [pairs_name(shard.index) for shard in self.shards if shard.checksum]
        verdicts = [tasks.verdicts_name(shard.index) for shard in self.shards]
        sort, final = self._dataset(plan, tally.kept)
        return Sample(
            rows=tally.rows,
            shards=len(self.shards),
            shard_rows=shard_rows,
            given=given,
            kept=tally.kept,
            steps=self.trials,
            copy_bytes=self._bytes(copied) / max(1, tally.rows),
            verdict_bytes=self._bytes(verdicts) / max(1, tally.rows),
            dataset_bytes=final,
            sort_bytes=sort,
            added=tally.added,
        )

    def _dataset(self, plan: Plan, kept: int) -> tuple[float | None, float | None]:
        """Bytes of a kept pair while it is sorted, and in its training shard; None where none was kept."""
        if not kept or plan.recipe.output.dataset is None:
            return None, None
        types, folder = dataset.dataset_types(plan), dataset.workplace(self.store, "sample")
        spill = dataset_spill.Spill(self.context, types, folder)
        runs = [run for record in self.shards for run in spill(record)]
        files = dataset.cut(self.store, runs, None, 1 << 62)
        names = [f"dataset/{dataset.Assemble(self.store, types, folder)(file).file}" for file in files]
        return sum(run.bytes for run in runs) / kept, self._bytes(names) / kept

    def _bytes(self, names: Sequence[str]) -> float:
        """Bytes of the columns in Parquet files: of a few pairs the rest of a file would be the most."""
        return sum(_column_bytes(self.store.parquet(name)) for name in names if self.store.exists(name))


def _column_bytes(file: pq.ParquetFile) -> int:
    with file:
        groups = [file.metadata.row_group(g) for g in range(file.metadata.num_row_groups)]
        return sum(int(g.column(i).total_compressed_size) for g in groups for i in range(g.num_columns))


def lacks_gpu(step: Step) -> str | None:
    """Why a step cannot be tried on this machine; None where it can."""
    needs = step.filter.resources()
    if needs.gpus and not needs.gpu_optional and not has_gpu(step):
        return "it needs a GPU, and this machine has none"
    return None


def has_gpu(step: Step) -> bool:
    """Whether a step that takes GPUs finds one here; PyTorch is asked, and loaded for it."""
    if not step.filter.resources().gpus:
        return False
    try:
        import torch
    except ImportError:
        return False
    return bool(torch.cuda.is_available())


def _line(error: Exception) -> str:
    """An error as one line."""
    text = str(error).strip().split("\n")[0][:300]
    return text if isinstance(error, PairsieveError) and text else f"{type(error).__name__}: {text}".rstrip(": ")


def sample(
    pool: Pool, plan: Plan, store: Store, taken: Sequence[PoolShard], shard_rows: float | None, progress: Reporter
) -> Sample:
    """Try a plan on some small shards in ``store``; ``shard_rows`` are the pairs of a whole one."""
    shards = [shard for shard in taken if shard.rows]
    if not shards:
        raise PoolError("the pool is empty: its files hold no row; check pool path")
    progress.say(f"trying the recipe on {sum(s.rows for s in shards):,} pairs (--sample 0 leaves it out)")
    return Tryout(store, pool, plan, shards).run(shard_rows)
