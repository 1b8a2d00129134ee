"""What a plan tells: per step what is re-used, measured and spent; for the whole what stays and what it weighs."""

from dataclasses import dataclass

from pairsieve.pipelines.figures import Figure
from pairsieve.pipelines.reuse import Reuse, StepReuse
from pairsieve.pipelines.sample import Sample
from pairsieve.pipelines.sizes import PoolSize


@dataclass(frozen=True)
class StepCost:
    """What a step costs for the pairs that it has to measure.

    ``seconds`` are a pair's of one worker; ``worker_seconds``, ``wall_seconds`` and ``gpu_seconds`` are for all
    of them; None = not known, ``source`` says why, or where the figures come from.
    """

    source: str
    seconds: float | None = None
    worker_seconds: float | None = None
    wall_seconds: float | None = None
    gpu_seconds: float | None = None
    bytes: float | None = None

    @property
    def is_known(self) -> bool:
        """Whether a time is known."""
        return self.worker_seconds is not None


@dataclass(frozen=True)
class StepPlan:
    """One step of a plan: what it would measure, and at what cost (None: nothing to measure)."""

    id: str
    work: StepReuse
    cost: StepCost | None


@dataclass(frozen=True)
class Report:
    """What a run would do.

    ``disk_bytes`` are what it adds at its peak: scores, verdicts, a copy of the pool's light columns, the
    dataset and the room for sorting it.
    """

    out: str | None
    reuse: Reuse | None
    is_pool_unread: bool
    size: PoolSize
    workers: int | None
    sample: Sample | None
    steps: tuple[StepPlan, ...]
    kept: Figure | None
    dataset_bytes: Figure | None
    sort_bytes: Figure | None
    disk_bytes: Figure | None
    notes: tuple[str, ...]

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a user would regret not to have been told."""
        return self.reuse.warnings if self.reuse else ()
