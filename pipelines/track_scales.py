"""DataComp's scales: which model is trained, how long, and how open_clip's trainer is told so.

Source: ``scale_configs.py`` and ``train.py`` of github.com/mlfoundations/datacomp; bfloat16 at xlarge is of the
paper (arXiv 2304.14108).  DataComp leaves beta2 to open_clip below xlarge, which takes 0.98 for a ViT.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from difflib import get_close_matches

from pairsieve.schemas.errors import UserError


@dataclass(frozen=True, slots=True)
class Scale:
    """What is fixed at a scale; ``samples`` are those seen, ``batch_size`` is that of all GPUs together."""

    name: str
    model: str
    batch_size: int
    samples: int
    lr: float = 5e-4
    warmup: int = 500
    beta2: float = 0.98
    precision: str = "amp"

    def differences(self) -> list[str]:
        """The settings that are not DataComp's at this scale."""
        return [one.name for one in fields(self) if getattr(self, one.name) != getattr(SCALES[self.name], one.name)]


SCALES: Mapping[str, Scale] = {
    scale.name: scale
    for scale in (
        Scale("debug", "ViT-B-32", 1024, 128_000, lr=1e-4),
        Scale("small", "ViT-B-32", 4096, 12_800_000),
        Scale("medium", "ViT-B-32", 4096, 128_000_000),
        Scale("large", "ViT-B-16", 8192, 1_280_000_000),
        Scale("xlarge", "ViT-L-14", 90_112, 12_800_000_000, 1e-3, 10_000, 0.95, "amp_bfloat16"),
    )
}


def scale_of(name: str) -> Scale:
    """A scale by its name; raises ``UserError``."""
    if name not in SCALES:
        near = get_close_matches(name, SCALES, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(SCALES)}"
        raise UserError(f"no scale {name!r}; {hint}")
    return SCALES[name]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trainer:
    """How a scale is trained here: machines, and the options of DataComp's ``train.py`` with its defaults.

    ``workers`` are data loaders of each GPU, ``checkpoints`` the parts that training is cut into,
    ``save_frequency`` after how many of them one more is kept (0: the latest and the last).
    """

    gpus: int = 1
    nodes: int = 1
    workers: int = 4
    accum_freq: int = 1
    checkpoints: int = 5
    save_frequency: int = 0
    log_every: int = 100
    seed: int = 0
    grad_clip_norm: float | None = None
    imagenet_val: str | None = None
    report_to: str | None = None
    device: str = "cuda"

    @property
    def world(self) -> int:
        """GPUs of all nodes."""
        return self.gpus * self.nodes


def batch_of_gpu(scale: Scale, trainer: Trainer) -> int:
    """Pairs that a GPU takes at once; raises ``UserError`` where the batch cannot be cut so (DataComp rounds down)."""
    parts = trainer.world * trainer.accum_freq
    if scale.batch_size % parts:
        near = [n for n in range(1, 2 * parts) if scale.batch_size % n == 0]
        best = min(near, key=lambda n: (abs(n - parts), n))
        raise UserError(
            f"{scale.name}: the batch of {scale.batch_size:,} cannot be cut into {parts:,} ({trainer.nodes} nodes × "
            f"{trainer.gpus} GPUs × {trainer.accum_freq} accumulated); {best:,} parts would do"
        )
    return scale.batch_size // parts


def samples_of_checkpoint(scale: Scale, trainer: Trainer) -> int:
    """The samples of one of open_clip's epochs; raises ``UserError`` where there would be none."""
    if scale.samples < trainer.checkpoints:
        raise UserError(f"--checkpoints {trainer.checkpoints}: more than the {scale.samples:,} samples; give fewer")
    return scale.samples // trainer.checkpoints


def steps(scale: Scale, trainer: Trainer) -> int:
    """Optimizer steps of the whole training, as open_clip counts them.

    It rounds the batches of a checkpoint up to a multiple of the data loaders, so that steps, and with them the
    learning rate's course, depend on ``workers``: 0.5 % more than asked for at small with 4 of them.
    """
    forward = batch_of_gpu(scale, trainer) * trainer.world
    loaders = max(1, trainer.workers)
    batches = math.ceil(math.ceil(samples_of_checkpoint(scale, trainer) / forward) / loaders) * loaders
    return batches // trainer.accum_freq * trainer.checkpoints


def arguments(
    scale: Scale, trainer: Trainer, *, train_data: str, factors: str | None, logs: str, name: str
) -> list[str]:
    """The arguments of open_clip's trainer, each as DataComp's ``train.py`` gives it."""
    values: dict[str, object] = {
        "--model": scale.model,
        "--train-data": train_data,
        "--train-data-upsampling-factors": factors,
        "--dataset-type": "webdataset",
        "--train-num-samples": samples_of_checkpoint(scale, trainer),
        "--epochs": trainer.checkpoints,
        "--batch-size": batch_of_gpu(scale, trainer),
        "--accum-freq": trainer.accum_freq,
        "--lr": scale.lr,
        "--warmup": scale.warmup,
        "--beta2": scale.beta2,
        "--precision": scale.precision,
        "--grad-clip-norm": trainer.grad_clip_norm,
        "--seed": trainer.seed,
        "--workers": trainer.workers,
        "--imagenet-val": trainer.imagenet_val,
        "--save-frequency": trainer.save_frequency,
        "--log-every-n-steps": trainer.log_every,
        "--report-to": trainer.report_to,
        "--device": None if trainer.device == "cuda" else trainer.device,
        "--logs": logs,
        "--name": name,
        "--resume": "latest",
    }
    switches = ("dataset-resampled", "local-loss", "gather-with-grad", "grad-checkpointing", "ddp-static-graph")
    given = [part for flag, value in values.items() if value is not None for part in (flag, str(value))]
    return [*given, *(f"--{switch}" for switch in switches), "--save-most-recent"]
