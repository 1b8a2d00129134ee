"""One epoch of open_clip's own trainer on what was exported: it sees every pair once, with its caption."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import pairsieve
from pairsieve.pipelines.export_files import STRIPPED
from tests.support_exports import make_run, pictures

HOSTILE = [
    "NA",
    "null",
    "007",
    "tab\there",
    "line\nline",
    '"quoted"',
    "",
    "\0nul",
    "<|endoftext|>",
    "x" * 100_000,
    "日本 é",
]
COUNT, BATCH = 48, 8


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 pairs, some with hostile captions; a null caption and a broken image besides."""
    texts = [*HOSTILE, *(f"thing {i}" for i in range(COUNT - len(HOSTILE))), None, "page"]
    return make_run(tmp_path_factory.mktemp("run"), [*pictures(COUNT + 1), b"<html>"], texts, rows_per_file=17)


@pytest.mark.parametrize("kind, data", [("webdataset", "{00000000..00000003}.tar"), ("csv", "train.csv")])
def test_an_epoch_sees_every_pair_once(run: Path, tmp_path: Path, kind: str, data: str) -> None:
    """The trainer counts 48 samples without being told, and tokenizes each caption once."""
    pytest.importorskip("webdataset")  # --no-deps beside braceexpand
    pairsieve.export(run, tmp_path / "out", "csv" if kind == "csv" else "webdataset", workers=1)
    seen = tmp_path / "seen"
    trainer = Path(__file__).parents[1] / "support_trainer.py"
    command = [
        sys.executable,
        str(trainer),
        str(seen),
        "--dataset-type",
        kind,
        "--train-data",
        f"{tmp_path}/out/{data}",
    ]
    command += ["--workers", "2", "--batch-size", str(BATCH)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-2000:]
    steps = re.findall(r"Train Epoch: 0 \[ *(\d+)/(\d+) ", done.stdout + done.stderr)
    assert steps[-1] == (str(COUNT), str(COUNT)) and len(steps) == COUNT // BATCH
    assert "Handling webdataset error" not in done.stderr
    captions = [json.loads(line) for line in seen.read_text().splitlines()]
    wanted = [*HOSTILE, *(f"thing {i}" for i in range(COUNT - len(HOSTILE)))]
    if kind == "csv":
        captions = [text.removesuffix(STRIPPED) for text in captions]
        wanted = [text.replace("\0", " ") for text in wanted]
    assert sorted(captions) == sorted(wanted)
