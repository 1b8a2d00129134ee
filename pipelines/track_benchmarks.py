"""How a trained model is evaluated on DataComp's tasks: commands of the two tools that have their data.

DataComp's ``evaluate.py`` has all 40 tasks.  clip_benchmark (1.6.2) has 31 of the 38 that count, on the same files;
its retrieval is on other files, and it has none of the metrics by region, income or class of WILDS, Dollar Street
and GeoDE.
Neither command sends anything: ``evaluate.py --submit`` would, to addresses written in its code.
"""

from pathlib import Path

from pairsieve.pipelines.track_tasks import TASKS

EVALSETS = "EVALSETS"
"""Stands for the folder that DataComp's ``download_evalsets.py`` fills."""
_OF_CLASSES = ("acc1", "mean_per_class_recall")
"""What clip_benchmark measures of a classification."""


def evaluations(model: str, checkpoint: Path, out: Path) -> dict[str, list[str]]:
    """The commands by tool, for a checkpoint of open_clip's trainer; results go to ``out``."""
    return {"datacomp": datacomp(model, checkpoint, out), "clip_benchmark": clip_benchmark(model, checkpoint, out)}


def datacomp(model: str, checkpoint: Path, out: Path) -> list[str]:
    """DataComp's own evaluation, to be run in its checkout; writes ``eval_results.jsonl``.

    ``--use_model`` names the checkpoint in place of the pickle that DataComp's training leaves; retrieval fails
    without ``--data_dir``.
    """
    places = ["--train_output_dir", str(out), "--data_dir", EVALSETS]
    return ["python", "evaluate.py", *places, "--use_model", f"{model} {checkpoint}"]


def clip_benchmark(model: str, checkpoint: Path, out: Path) -> list[str]:
    """The tasks whose main metric clip_benchmark has, on DataComp's files, in full precision as DataComp has it."""
    tasks = [f"wds/{task.key}" for task in TASKS if task.metric in _OF_CLASSES]
    root = f"{EVALSETS}/wds_{{dataset_cleaned}}_test"
    weights = ["--model", model, "--pretrained", str(checkpoint), "--no_amp"]
    return [
        "clip_benchmark",
        "eval",
        *weights,
        "--dataset_root",
        root,
        "--output",
        f"{out}/{{dataset}}.json",
        "--dataset",
        *tasks,
    ]
