"""Train at one of DataComp's scales: the command for open_clip's trainer, its record, and running it.

``OUT/NAME/track.json`` holds every setting and the command, and open_clip's own log and checkpoints lie
beside it.  The same call continues after a stop, from the latest checkpoint.  Cost: a few seconds before the training.
"""

import json
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pairsieve.pipelines.storage_errors import explained
from pairsieve.pipelines.store import Store
from pairsieve.pipelines.track_benchmarks import evaluations
from pairsieve.pipelines.track_scales import Scale, Trainer, arguments, batch_of_gpu, samples_of_checkpoint, steps
from pairsieve.pipelines.track_shards import Data
from pairsieve.schemas.errors import MissingExtraError, PairsieveError, UserError

RECORD, RESULTS, LATEST = "track.json", "evaluation", "epoch_latest.pt"
LONGEST = 131_000
"""Bytes of one argument; Linux takes 131,072."""
GRACE_S = 60
"""Seconds that a training which is told to stop may take."""
_PLACEMENT = (
    "nodes",
    "gpus",
    "batch_of_gpu",
    "accum_freq",
    "log_every",
    "report_to",
    "versions",
    "evaluate",
    "command",
)
"""What may be another when a training is continued."""
_NEEDED = ("open_clip_train", "webdataset", "pandas")


@dataclass(frozen=True, slots=True)
class Plan:
    """One training: its folder, the command, and the record of all that decides what comes out."""

    folder: Path
    command: tuple[str, ...]
    record: Mapping[str, Any]
    trainer: Trainer

    @property
    def text(self) -> str:
        """The command as a shell takes it."""
        return shlex.join(self.command)

    @property
    def latest(self) -> Path:
        """The checkpoint that open_clip continues from."""
        return self.folder / "checkpoints" / LATEST

    @property
    def last(self) -> Path:
        """The checkpoint of the finished training."""
        return self.folder / "checkpoints" / f"epoch_{self.trainer.checkpoints}.pt"


def make_plan(
    scale: Scale, trainer: Trainer, data: Data, out: str, name: str | None = None, rendezvous: str | None = None
) -> Plan:
    """Everything about a training; touches nothing.  Raises ``UserError`` for what does not fit together."""
    logs, name = _logs(out), name or f"{scale.name}_scale"
    if name != Path(name).name or name.startswith((".", "-")):
        raise UserError(f"--name {name!r}: is no name of a folder; give letters and digits")
    given = arguments(scale, trainer, train_data=data.train_data, factors=data.factors, logs=str(logs), name=name)
    if any(len(part.encode()) > LONGEST for part in given):
        raise UserError("--data: too many runs of shards for one command; pairsieve reshard writes them without gaps")
    # torchrun takes --logs for a short form of two options of its own, unless -- ends them
    command = (*_launcher(trainer, rendezvous), "-m", "--", "open_clip_train.main", *given)
    return Plan(logs / name, command, _record(scale, trainer, data, command, logs / name), trainer)


def _record(scale: Scale, trainer: Trainer, data: Data, command: Sequence[str], folder: Path) -> dict[str, Any]:
    """The content of ``track.json``."""
    return {
        **{("scale" if key == "name" else key): value for key, value in asdict(scale).items()},
        "differs_from_datacomp": scale.differences(),
        **asdict(trainer),
        "batch_of_gpu": batch_of_gpu(scale, trainer),
        "samples_of_checkpoint": samples_of_checkpoint(scale, trainer),
        "steps": steps(scale, trainer),
        "data": _data_record(data),
        "versions": {package: _version(package) for package in ("open_clip_torch", "torch", "webdataset")},
        "command": list(command),
        "evaluate": evaluations(scale.model, folder / "checkpoints" / LATEST, folder / RESULTS),
    }


def _logs(out: str) -> Path:
    """The folder for open_clip's ``--logs``, absolute: the command may be run elsewhere."""
    if not out.strip():
        raise UserError("--out is empty; name a folder")
    if "://" in out or "::" in out:
        raise UserError(f"--out {out}: open_clip writes checkpoints to a local or mounted folder; name one")
    return Path(out).expanduser().absolute()


def _launcher(trainer: Trainer, rendezvous: str | None) -> tuple[str, ...]:
    """``torchrun`` with one process a GPU; several nodes meet at ``HOST:PORT`` with the same command on each."""
    start = ("torchrun", "--nproc-per-node", str(trainer.gpus))
    if trainer.nodes == 1:
        return (*start, "--standalone")
    host, _, port = (rendezvous or "").rpartition(":")
    if not host or not port.isdecimal():
        raise UserError(
            f"--nodes {trainer.nodes}: name where they meet, --rendezvous HOST:PORT, a free port of one of them"
        )
    meeting = ("--rdzv-backend", "c10d", "--rdzv-endpoint", f"{host}:{port}")
    return (*start, "--nnodes", str(trainer.nodes), *meeting)


def _data_record(data: Data) -> list[dict[str, Any]]:
    weights = data.weights or (None,) * len(data.sources)
    return [
        {
            "folder": one.folder,
            "ranges": list(one.ranges),
            "shards": one.shards,
            "samples": one.samples,
            "weight": weight,
        }
        for one, weight in zip(data.sources, weights, strict=True)
    ]


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def write_record(plan: Plan) -> None:
    """Write ``track.json``, and make the folder for results.

    Raises ``UserError`` where the folder holds the checkpoints of another training.
    """
    store = Store(str(plan.folder))
    if plan.latest.exists() and store.exists(RECORD):
        _check_same(store, plan)
    elif plan.latest.exists():
        raise UserError(f"{plan.folder}: holds checkpoints of nobody knows what; choose another --name or --out")
    with explained(store.root):
        store.write_json(RECORD, plan.record)
        (plan.folder / RESULTS).mkdir(exist_ok=True)


def _check_same(store: Store, plan: Plan) -> None:
    """open_clip would go on from another training's checkpoint without a word."""
    try:
        held = json.loads(store.read(RECORD))
        theirs = {key: held[key] for key in plan.record}
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{store.root}/{RECORD}: not readable; choose another --name, or remove the folder") from None
    ours = json.loads(json.dumps(plan.record))
    for key in (key for key in ours if key not in _PLACEMENT and ours[key] != theirs[key]):
        said = f"{key} {_short(theirs[key])}, not {_short(ours[key])}"
        raise UserError(f"{store.root}: holds another training ({said}); choose another --name, or remove the folder")


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def check_machine(plan: Plan) -> None:
    """Raise an error of one line where this machine cannot run the command."""
    if missing := [name for name in _NEEDED if find_spec(name) is None]:
        raise MissingExtraError(f"training needs {missing[0]}: pip install 'open_clip_torch[training]'")
    reports, device, world = plan.trainer.report_to, plan.trainer.device, plan.trainer.world
    if reports is not None and find_spec(reports) is None:
        raise MissingExtraError(f"--report-to {reports}: pip install {reports}")
    if device != "cuda":
        if world > 1:
            raise UserError(f"--device {device}: open_clip trains in one process there, not {world}")
        return
    import torch

    if (found := torch.cuda.device_count()) < plan.trainer.gpus:
        raise UserError(
            f"{plan.record['scale']}: {plan.trainer.gpus} GPUs asked for, {found} found by torch; "
            "run this where they are, or --print the command for there"
        )


def train(plan: Plan) -> bool:
    """Write the record and run the command, its output as it comes; False where the training was finished already.

    Raises ``PairsieveError`` where it ends before its last checkpoint.  Stopped by a signal, it ends too.
    """
    check_machine(plan)
    write_record(plan)
    if plan.last.exists():
        return False
    code = _run([str(Path(sys.executable).with_name("torchrun")), *plan.command[1:]])
    if code or not _is_done(plan):
        raise PairsieveError(
            f"training ended with exit code {code} before {plan.last.name}; {plan.folder}/out.log says why; "
            "the same command continues"
        )
    return True


def _is_done(plan: Plan) -> bool:
    """Whether the last checkpoint is there: open_clip ends with 0 also where it refuses to start.

    A node that shares no folder with the first one has no checkpoints, and knows only its own exit code.
    """
    return plan.last.exists() or (plan.trainer.nodes > 1 and not plan.last.parent.exists())


def _run(command: Sequence[str]) -> int:
    try:
        process = subprocess.Popen(command)
    except OSError as error:
        raise UserError(f"{command[0]}: {error.strerror}; is torch installed in this environment?") from None
    try:
        return process.wait()
    except BaseException:  # Ctrl-C or SIGTERM: nothing goes on behind the user's back
        process.terminate()
        try:
            process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        raise
