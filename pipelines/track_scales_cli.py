"""The commands ``pairsieve track small``, ``medium``, ``large``, ``xlarge`` and ``debug``."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pairsieve.pipelines.cli_options import chosen
from pairsieve.pipelines.cli_output import resumable
from pairsieve.schemas.errors import UserError

if TYPE_CHECKING:
    from pairsieve.pipelines.track_command import Plan
    from pairsieve.pipelines.track_scales import Scale
    from pairsieve.pipelines.track_shards import Data

PRECISIONS = ("amp", "amp_bf16", "amp_bfloat16", "bf16", "fp16", "fp32")
REPORTS = ("wandb", "tensorboard")
DEVICES = ("cuda", "cpu")
_TRIAL = "trial, no longer DataComp's"


def scale_command(name: str) -> Callable[..., None]:
    """The command of one scale; ``name`` is one of ``track_scales.SCALES``."""

    def command(
        data: Annotated[str, typer.Option(help="folders of tars: A or A::B; of reshard, export or img2dataset")],
        out: Annotated[str, typer.Option(help="folder of logs and checkpoints, shared by all nodes")],
        data_weights: Annotated[str | None, typer.Option(help="how often a shard of A, of B is drawn: 1::0.5")] = None,
        allow_missing: Annotated[bool, typer.Option("--allow-missing", help="train on the shards there are")] = False,
        name_: Annotated[str | None, typer.Option("--name", help="folder in OUT; default: as SCALE_scale")] = None,
        nproc_per_node: Annotated[int | None, typer.Option(min=1, help="GPUs of a node; default: all here")] = None,
        nodes: Annotated[int, typer.Option(min=1, help="run the same command on each")] = 1,
        rendezvous: Annotated[str | None, typer.Option(help="with several nodes: HOST:PORT of one of them")] = None,
        workers: Annotated[int, typer.Option(min=0, help="data loaders of a GPU")] = 4,
        accum_freq: Annotated[int, typer.Option(min=1, help="parts of a GPU's batch, one after the other")] = 1,
        precision: Annotated[str | None, typer.Option(help=f"{', '.join(PRECISIONS)}; default: the scale's")] = None,
        checkpoints: Annotated[int, typer.Option(min=1, help="parts of the training, resumed from")] = 5,
        save_frequency: Annotated[int, typer.Option(min=0, help="keep every so manieth; 0: latest and last")] = 0,
        seed: Annotated[int, typer.Option(min=0, help="of weights and data")] = 0,
        grad_clip_norm: Annotated[float | None, typer.Option(min=0, help="as in DataComp's training")] = None,
        imagenet_val: Annotated[str | None, typer.Option(help="ImageNet's validation images, by class")] = None,
        report_to: Annotated[str | None, typer.Option(help="wandb or tensorboard")] = None,
        log_every: Annotated[int, typer.Option(min=1, help="steps")] = 100,
        dry_run: Annotated[bool, typer.Option("--dry-run", help="show settings and command; write nothing")] = False,
        print_: Annotated[bool, typer.Option("--print", help="write the record, print the command, end")] = False,
        model: Annotated[str | None, typer.Option(help=f"{_TRIAL}: open_clip's name")] = None,
        batch_size: Annotated[int | None, typer.Option(min=1, help=f"{_TRIAL}: pairs, of all GPUs")] = None,
        train_num_samples: Annotated[int | None, typer.Option(min=1, help=f"{_TRIAL}: seen")] = None,
        lr: Annotated[float | None, typer.Option(min=0, help=f"{_TRIAL}: learning rate")] = None,
        warmup: Annotated[int | None, typer.Option(min=0, help=f"{_TRIAL}: steps")] = None,
        device: Annotated[str, typer.Option(help=f"{_TRIAL}: cuda or cpu")] = "cuda",
    ) -> None:
        from pairsieve.pipelines.track_command import make_plan
        from pairsieve.pipelines.track_scales import Trainer, scale_of
        from pairsieve.pipelines.track_shards import find_data

        for option, value, known in (("--precision", precision, PRECISIONS), ("--report-to", report_to, REPORTS)):
            if value is not None:
                chosen(option, value, known)
        chosen("--device", device, DEVICES)
        if dry_run and print_:
            raise UserError("--dry-run shows the command too; leave --print out")
        trial = {"model": model, "batch_size": batch_size, "samples": train_num_samples, "lr": lr, "warmup": warmup}
        scale = _changed(scale_of(name), {**trial, "precision": precision})
        trainer = Trainer(
            gpus=_gpus(nproc_per_node, device),
            nodes=nodes,
            workers=workers,
            accum_freq=accum_freq,
            checkpoints=checkpoints,
            save_frequency=save_frequency,
            log_every=log_every,
            seed=seed,
            grad_clip_norm=grad_clip_norm,
            imagenet_val=None if imagenet_val is None else str(Path(imagenet_val).expanduser().absolute()),
            report_to=report_to,
            device=device,
        )
        found = find_data(data, data_weights, allow_missing)
        plan = make_plan(scale, trainer, found, out, name_, rendezvous)
        _tell(plan, found)
        if dry_run:
            print(json.dumps(plan.record, indent=2, ensure_ascii=False))
            print(plan.text)
        elif print_:
            _print(plan)
        else:
            _train(plan)

    command.__doc__ = f"Train CLIP at DataComp's scale {name}, by open_clip: {_what(name)}."
    return command


def _what(name: str) -> str:
    from pairsieve.pipelines.track_scales import scale_of

    scale = scale_of(name)
    return f"{scale.model}, {scale.samples:,} samples seen, batches of {scale.batch_size:,}"


def _changed(scale: "Scale", changes: dict[str, object]) -> "Scale":
    return replace(scale, **{key: value for key, value in changes.items() if value is not None})  # type: ignore[arg-type]


def _gpus(asked: int | None, device: str) -> int:
    """Those asked for, else those that torch finds here, else 1: the command may be for elsewhere."""
    from importlib.util import find_spec

    if asked is not None or device != "cuda" or find_spec("torch") is None:
        return asked or 1
    import torch

    return max(1, torch.cuda.device_count())


def _tell(plan: "Plan", data: "Data") -> None:
    """What is going to be trained, beside the output: standard output is the command's and the record's."""
    seen, record = data.samples, plan.record
    often = f", each {record['samples'] / seen:,.1f} times" if seen else ""
    lines = [note for source in data.sources for note in source.notes]
    if differs := record["differs_from_datacomp"]:
        lines.append(f"not DataComp's {record['scale']}: {', '.join(differs)}")
    count = sum(source.shards for source in data.sources)
    shards = f"{count:,} shard{'s' if count > 1 else ''}"
    lines.append(
        f"{record['scale']}: {record['model']}, {record['samples']:,} samples of {shards}{often}; "
        f"{record['steps']:,} steps of {plan.trainer.world:,} × {record['batch_of_gpu']:,} pairs; {plan.folder}"
    )
    for line in lines:
        typer.echo(line, err=True)


def _print(plan: "Plan") -> None:
    from pairsieve.pipelines.track_command import write_record

    write_record(plan)
    print(plan.text)


def _train(plan: "Plan") -> None:
    import shlex

    from pairsieve.pipelines.track_command import train

    with resumable():
        ran = train(plan)
    typer.echo(f"{'trained' if ran else 'was trained already'}: {plan.last}", err=True)
    typer.echo(f"evaluate, in a checkout of DataComp: {shlex.join(plan.record['evaluate']['datacomp'])}", err=True)
