"""What a run would find in its directory: per step the pairs re-used and those to measure, and why.

The directory is only read.  Small runs are replayed whole, so that their counts are exact; of large ones
an evenly spread sample of shards is, half-done shards and done ones each in their share.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pairsieve.pipelines import dataset, heads
from pairsieve.pipelines.figures import Figure, Kind, size
from pairsieve.pipelines.ingest import Ingest, in_place_shards, ingest
from pairsieve.pipelines.overlay import Overlay
from pairsieve.pipelines.plan import Plan
from pairsieve.pipelines.pools import Pool, PoolShard, ShardTask, load_manifest
from pairsieve.pipelines.reasons import Before, Cause, before
from pairsieve.pipelines.replay import Outlook, Replay, Span
from pairsieve.pipelines.shard import Context
from pairsieve.pipelines.sizes import PoolSize, spread
from pairsieve.pipelines.step import Step
from pairsieve.pipelines.store import Store
from pairsieve.schemas import columns
from pairsieve.schemas.errors import DamagedFileError, UserError
from pairsieve.schemas.run import DatasetManifest

FEW = 64
"""Shards that are replayed at least, if there are so many."""
FILES, ROWS = 2048, 5_000_000
"""Up to so many score files and pairs, a local run is replayed whole: some ten seconds."""
SMALL = 64_000_000
"""Bytes of a changed text pool that is read again to see which shards differ."""
ATTEMPTS = 3


@dataclass(frozen=True)
class StepReuse:
    """One step: pairs that reach it, of them re-used and to measure, and why; bytes of a stored pair in files."""

    id: str
    reach: Figure
    reused: Figure
    todo: Figure
    why: tuple[str, ...]
    pair_bytes: float | None


@dataclass(frozen=True)
class Reuse:
    """What a run directory gives: steps, pairs kept at the end, and what happens to its other files.

    ``dataset_bytes`` are those of a pair in the dataset that is there: in its file, and in memory.
    """

    state: str
    shards: int
    replayed: int
    steps: tuple[StepReuse, ...]
    kept: Figure
    dataset: str
    is_dataset_kept: bool
    dataset_bytes: tuple[float, float] | None
    leftovers: tuple[str, ...]
    warnings: tuple[str, ...]


class RunDirectory:
    """A run directory that a plan looks into; nothing in it is written, replaced or removed."""

    def __init__(self, pool: Pool, tasks: Sequence[ShardTask] | None, plan: Plan, root: str, scratch: str) -> None:
        """``tasks`` are the pool's; ``scratch`` is an empty local folder.  Raises ``UserError`` for a file."""
        self.pool, self.tasks, self.plan = pool, tasks, plan
        self.store = Overlay(root, scratch)
        self.real = Store(root)
        if self.real.local and Path(self.real.base).is_file():
            raise UserError(f"--out {root}: is a file; name a directory for the run")
        self.shards: list[PoolShard] = []

    @property
    def is_run(self) -> bool:
        """Whether any run has been here."""
        return any(self.real.exists(name) for name in ("run.yaml", "pairs", "scores"))

    def reuse(self, shares: Mapping[str, float], pool_size: PoolSize) -> Reuse | None:
        """What the run at hand would re-use; None where the pool changed and is too large to be read for it."""
        for attempt in range(ATTEMPTS):
            try:
                return self._reuse(shares, pool_size)
            except DamagedFileError:  # hidden now, as a run would remove it
                if attempt + 1 == ATTEMPTS:
                    raise
        return None

    def _reuse(self, shares: Mapping[str, float], pool_size: PoolSize) -> Reuse | None:
        known = self._shards(pool_size)
        if known is None and self.tasks is None:
            return None
        count = len(known) if known is not None else len(self.tasks or ())
        was = before(self.real, self.plan, known, count)
        chosen = self._choose(count, sum(s.rows for s in known) if known is not None else None, was)
        if known is not None:
            shards = [known[i] for i in chosen]
        else:
            assert self.tasks is not None
            shards = [Ingest(self.pool, self.store)(self.tasks[i]) for i in chosen]
        self.shards = shards
        context = Context(self.store, self.plan, self.pool)
        scales = list(chosen.values())
        replay = Replay(context, shards, scales, len(chosen) == count, shares, was)
        try:
            return self._result(replay, replay.run(), was, known, count)
        finally:
            context.opened.close()

    def heads(self, store: Store, rows: int, left_out: Set[str]) -> list[PoolShard]:
        """Head rows of the shards that were seen, as shards in ``store``, with what is stored of them.

        Steps ``left_out`` lose theirs, so that trying the recipe measures them.
        """
        seeds = [step for step in self.plan.steps if step.measures and step.id not in left_out]
        return heads.of_run(Context(self.store, self.plan, self.pool), self.shards, seeds, store, rows)

    def _shards(self, pool_size: PoolSize) -> list[PoolShard] | None:
        """All shards of the pool as a run would list them; None where that means to read a large pool."""
        known = load_manifest(self.store, self.pool.identity())
        if known is not None:
            return known
        if self.tasks is not None and all(task.rows is not None for task in self.tasks):
            return list(in_place_shards(self.pool, self.tasks))
        if len(self.tasks) <= FEW if self.tasks is not None else pool_size.bytes <= SMALL:
            return ingest(self.pool, self.store, _one_by_one)
        return None

    def _choose(self, count: int, rows: int | None, was: Before) -> dict[int, float]:
        """Shards to replay, each with the number of shards that it stands for."""
        files = count * max(1, sum(step.measures for step in self.plan.steps))
        if count <= FEW or (self.real.local and rows is not None and files <= FILES and rows <= ROWS):
            return dict.fromkeys(range(count), 1.0)
        progress = np.zeros(count, np.int16)
        for held in was.files.values():
            progress[[i for i in held if i < count]] += 1
        found: dict[int, float] = {}
        for stage in np.unique(progress):
            alike = np.flatnonzero(progress == stage)
            those = spread(len(alike), max(2, round(FEW * len(alike) / count)))
            found |= {int(alike[i]): len(alike) / len(those) for i in those}
        return found

    def _result(
        self, replay: Replay, found: Sequence[Outlook], was: Before, known: list[PoolShard] | None, count: int
    ) -> Reuse:
        steps = tuple(
            self._step(step, look, replay.is_whole) for step, look in zip(self.plan.steps, found, strict=True)
        )
        kept = Span()
        for rows in (*replay.rows, *replay.added):
            kept.add(rows.possible, rows.sure, rows.weight, rows.scale)
        is_done = replay.is_certain and not any(step.todo.value for step in steps)
        is_anew = any(cause.kind in ("new", "stale") for look in found for cause in look.causes)
        is_dataset_kept, text = self._dataset(replay, known, is_done, is_anew)
        return Reuse(
            state="a finished run" if was.is_finished else "a run that was stopped",
            shards=count,
            replayed=len(replay.shards),
            steps=steps,
            kept=_figure(kept, replay.is_whole, replay.is_bound),
            dataset=text,
            is_dataset_kept=is_dataset_kept,
            dataset_bytes=_pair_bytes(_manifest(self.real)),
            leftovers=tuple(self._leftovers()),
            warnings=tuple(self._warnings(found)),
        )

    def _step(self, step: Step, look: Outlook, is_whole: bool) -> StepReuse:
        todo = _figure(look.todo, is_whole, look.is_bound)
        ranked = sorted(look.causes.items(), key=lambda item: -item[1][0])
        why = tuple(_reason(cause, *numbers, len(ranked) > 1, todo.kind) for cause, numbers in ranked)
        held = sum(self.real.sizes(f"scores/{step.id}", ".parquet").values()) if look.stored else 0
        pair_bytes = held / look.stored if look.stored else None
        reach, reused = (_figure(span, is_whole, look.is_bound) for span in (look.reach, look.reused))
        return StepReuse(step.id, reach, reused, todo, why, pair_bytes)

    def _dataset(self, replay: Replay, known: list[PoolShard] | None, is_done: bool, is_anew: bool) -> tuple[bool, str]:
        """Whether the dataset stays as it is, and what happens to it."""
        output = self.plan.recipe.output.dataset
        old = _manifest(self.real)
        if output is None:
            return False, "removed: this recipe writes none" if self.real.exists("dataset") else ""
        if not is_done or known is None:
            text = "rewritten: what is measured changes" if is_anew else "rewritten if other pairs are kept than now"
            return False, "written" if old is None else text
        tally = replay.tally()
        if dataset.current(self.store, dataset.fingerprint(replay.context, known, tally)) is not None:
            return True, f"kept as it is ({tally.kept:,} pairs), once its checksums are verified"
        return False, "written" if old is None else f"rewritten: {self._why(old, tally.kept)}"

    def _why(self, old: DatasetManifest, kept: int) -> str:
        if old.rows != kept:
            return f"{kept:,} pairs are kept instead of {old.rows:,}"
        if old.seed != self.plan.recipe.seed:
            return f"seed changed from {old.seed} to {self.plan.recipe.seed}"
        if {f.file: f.size for f in old.files} != self.real.sizes("dataset", ".parquet"):
            return "its files are not as they were written"
        types = dataset.dataset_types(self.plan)
        if set(old.columns) != set(columns.dataset(types).names):
            return "its columns changed"
        return "its settings or the pairs that are kept changed"

    def _leftovers(self) -> Iterator[str]:
        """Scores of steps that the recipe does not have."""
        wanted = {step.id for step in self.plan.steps if step.measures}
        for name in self.real.names("scores"):
            sizes = self.real.sizes(f"scores/{name}", ".parquet") if name not in wanted else {}
            if sizes:
                held = f"{len(sizes):,} files, {size(sum(sizes.values()))}"
                yield f"scores/{name}: no step of this recipe; its scores ({held}) stay, for when it comes back"

    def _warnings(self, found: Sequence[Outlook]) -> Iterator[str]:
        """Images and embeddings that would be replaced."""
        for step, look in zip(self.plan.steps, found, strict=True):
            stale = {cause: pairs for cause, (pairs, _) in look.causes.items() if cause.kind in ("stale", "pool")}
            if step.is_light or sum(stale.values()) < 1:
                continue
            cause = max(stale, key=lambda c: stale[c])
            count = Figure(sum(stale.values()), "exact" if look.todo.least == look.todo.most else "about")
            what = "fetched" if step.name == "download" else "measured"
            heavy = ", ".join(name for name in step.stored if name not in step.light)
            held = size(sum(self.real.sizes(f"scores/{step.id}", ".parquet").values()))
            yield (
                f"{step.id}: {cause.text}, so {count} pairs are {what} again and replace what is stored "
                f"(column {heavy}; {held} in all); another --out keeps it"
            )


def _figure(span: Span, is_whole: bool, is_bound: bool) -> Figure:
    """Exact where all shards were seen and no maybe is among the pairs."""
    if is_whole and span.least == span.most:
        return Figure(span.least)
    bounds = (span.least, span.most, 3) if is_whole else (None, None)
    if not is_bound:
        return Figure(span.likely, "about", *bounds)
    return Figure(span.most, "at most" if is_whole else "at most about", *bounds)


def _reason(cause: Cause, pairs: float, shards: float, is_counted: bool, kind: Kind) -> str:
    """A cause as a line; with its number of pairs where there are several."""
    text = cause.say(shards)
    return f"{Figure(pairs, 'exact' if kind == 'exact' else 'about')}: {text}" if is_counted else text


def _manifest(store: Store) -> DatasetManifest | None:
    try:
        return DatasetManifest.model_validate_json(store.read(dataset.MANIFEST))
    except (OSError, ValueError):
        return None


def _pair_bytes(old: DatasetManifest | None) -> tuple[float, float] | None:
    if old is None or not old.rows:
        return None
    return sum(f.size for f in old.files) / old.rows, sum(f.bytes for f in old.files) / old.rows


def _one_by_one(task: Callable[[ShardTask], PoolShard], items: Sequence[ShardTask]) -> Iterator[PoolShard]:
    return map(task, items)
