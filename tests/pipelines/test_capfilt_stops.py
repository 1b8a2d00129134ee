"""Captions, their scores and the pairs made of them are the same bytes whatever the workers, batches and kills."""

import os
import sys
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from pairsieve import run
from tests.support_capfilt import model
from tests.support_pools import photo
from tests.support_processes import Run

ROWS, SHARDS = 20, 10
SCORES = ("scores/caption", "scores/itm", "scores/clip_score", "derived/choose", "added", "verdicts", "dataset")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """CapFilt over 20 images in ten shards, with three captions each and CLIP scores beside."""
    folder = tmp_path_factory.mktemp("pool")
    images: list[bytes | None] = [photo(40 + 3 * i, 60 - i) for i in range(ROWS)]
    images[5], images[9] = b"\xff\xd8 no image", None
    table = {"image": pa.array(images, pa.binary()), "text": [f"a photo of dog {i}" for i in range(ROWS)]}
    pq.write_table(pa.table(table), folder / "pool.parquet", row_group_size=ROWS // SHARDS)
    return {
        "pool": {"pairs": {"path": str(folder / "pool.parquet"), "shard_rows": ROWS // SHARDS}},
        "filters": [
            {"caption": {"model": str(model("blip")), "count": 3}},
            {"itm": {"model": str(model("blip-itm")), "texts": ["caption"], "min": None}},
            {"clip_score": {"model": str(model("clip")), "texts": ["caption"]}},
            {"choose": {"texts": ["text", "caption"], "by": "itm", "above": 0.32}},
        ],
        "output": {"dataset": {"rows_per_file": 7}, "subset": "kept.npy"},
    }


@pytest.fixture(scope="module")
def reference(recipe: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, bytes]:
    """The files of a run with one worker."""
    out = tmp_path_factory.mktemp("reference") / "run"
    result = run(recipe, out, engine="local", workers=1)
    assert 0 < result.kept < result.rows + result.added
    return files(out)


def files(out: Path) -> dict[str, bytes]:
    """Everything that is to be the same."""
    found = [path for folder in SCORES for path in sorted((out / folder).glob("*.parquet"))]
    return {str(path.relative_to(out)): path.read_bytes() for path in [*found, out / "kept.npy"]}


def test_two_workers_and_other_shards_of_work(
    recipe: dict[str, Any], reference: Mapping[str, bytes], tmp_path: Path
) -> None:
    """Two workers share the shards in no order."""
    run(recipe, tmp_path / "run", engine="local", workers=2)
    assert files(tmp_path / "run") == reference


def test_other_batches_write_the_same_captions(
    recipe: dict[str, Any], reference: Mapping[str, bytes], tmp_path: Path
) -> None:
    """One image at a time, and five."""
    wanted = [pq.read_table(pa.BufferReader(reference[f"scores/caption/{i:05d}.parquet"])) for i in range(SHARDS)]
    for size in (1, 5):
        steps = [{"caption": recipe["filters"][0]["caption"] | {"batch_size": size}}]
        out = tmp_path / str(size)
        run({**recipe, "filters": steps}, out, engine="local", workers=1)
        found = [pq.read_table(out / f"scores/caption/{i:05d}.parquet") for i in range(SHARDS)]
        assert [t.to_pylist() for t in found] == [t.to_pylist() for t in wanted]


def test_a_killed_run_goes_on_to_the_same_bytes(
    recipe: dict[str, Any], reference: Mapping[str, bytes], tmp_path: Path
) -> None:
    """Killed while it writes captions."""
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    command = [sys.executable, "-m", "pairsieve", "run", str(tmp_path / "recipe.yaml"), "--out", str(tmp_path / "run")]
    command += ["--engine", "local", "--workers", "1"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    struck = Run(command, environment, tmp_path / "run")
    captioned = partial((tmp_path / "run/scores/caption").glob, "*.parquet")
    while struck.process.poll() is None and not list(captioned()):
        time.sleep(0.005)
    struck.strike("session")
    assert 1 <= len(list(captioned())) < SHARDS, struck.said()
    assert Run(command, environment, tmp_path / "run").end() == 0
    assert files(tmp_path / "run") == reference
