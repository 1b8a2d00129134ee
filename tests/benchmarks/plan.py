"""What `pairsieve plan` costs where there are very many shards: CPU-seconds and peak memory, one run.

    python -m tests.benchmarks.plan [files] [row groups in a file]

A Parquet list in ``files`` files of small row groups, each a shard; then a run directory with a score file a
shard for each of two steps, written as a run writes them but without syncing each.
"""

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pairsieve.pipelines.ingest import in_place_shards
from pairsieve.pipelines.parts import PartWriter, part_name
from pairsieve.pipelines.pools import save_manifest
from pairsieve.pipelines.run import load
from pairsieve.pipelines.store import Store
from pairsieve.schemas import columns

ROWS = 10
"""Pairs in a shard."""


def recipe(folder: Path) -> dict[str, Any]:
    """Two steps that measure, one that ranks the pool."""
    return {
        "pool": {"urls": {"path": f"{folder}/pool", "shard_rows": ROWS}},
        "filters": [{"caption_words": {"least": 3}}, "image_shape", {"clip_score": {"column": "score", "top": 0.3}}],
        "output": {"subset": "subset.npy"},
    }


def make_pool(folder: Path, files: int, groups: int) -> None:
    """Files of equal row groups."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    count = ROWS * groups
    for i in range(files):
        table = {
            "uid": [f"{i:016x}{row:016x}" for row in range(count)],
            "url": [f"http://example.org/{i}/{row}.jpg" for row in range(count)],
            "text": ["a picture of something"] * count,
            "score": rng.random(count, dtype=np.float32),
            "width": rng.integers(50, 2000, count).astype(np.int32),
            "height": rng.integers(50, 2000, count).astype(np.int32),
        }
        pq.write_table(pa.table(table), folder / f"{i:05d}.parquet", row_group_size=ROWS)


def make_run(folder: Path) -> None:
    """Score files for every shard: what they hold is of no matter to a plan, what their footers say is."""
    pool, plan, _ = load(recipe(folder))
    store = Store(str(folder / "run"))
    store.write(".lock", b"")
    shards = list(in_place_shards(pool, pool.tasks() or []))
    save_manifest(store, pool.identity(), shards)
    with patch("os.fsync"):
        for step in plan.steps[:2]:
            schema = columns.scores(step.stored)
            for shard in shards:
                values = [pa.array(["0" * 32] * ROWS), pa.array([shard.index] * ROWS, pa.int32())]
                values += [pa.array(range(ROWS), pa.int32())]
                values += [pa.array([900] * ROWS).cast(field.type) for field in list(schema)[3:]]
                with PartWriter(store, step, shard, part_name(step.id, shard.index, 0)) as writer:
                    writer.write(pa.record_batch(values, schema=schema))


def plan(folder: Path, *arguments: str) -> None:
    """One plan in a process of its own."""
    code = (
        "import resource, sys\n"
        "sys.argv = ['pairsieve', 'plan', *sys.argv[1:]]\n"
        "from pairsieve.pipelines.cli import main\n"
        "try:\n    main()\n"
        "finally:\n    print('peak', resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)\n"
    )
    began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-c", code, str(folder / "recipe.yaml"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    peak = int(done.stderr.rsplit("peak ", 1)[1]) / 1024
    said = " ".join(a for a in arguments if not a.startswith(str(folder)))
    print(f"plan {said:24} {time.monotonic() - began:6.1f} s  {cpu:6.1f} CPU-s  {peak:6.0f} MB at the peak")


def main(files: int, groups: int) -> None:
    """Make both, plan both."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_pool(folder / "pool", files, groups)
        (folder / "recipe.yaml").write_text(str(recipe(folder)))
        print(f"{files:,} files of {groups:,} row groups: {files * groups:,} shards", flush=True)
        plan(folder, "--sample", "0")
        plan(folder)
        make_run(folder)
        count = sum(1 for _ in (folder / "run" / "scores").rglob("*.parquet"))
        print(f"a run directory with {count:,} score files", flush=True)
        plan(folder, "--out", str(folder / "run"), "--sample", "0")
        plan(folder, "--out", str(folder / "run"), "--set", "filters.caption_words.least=2")


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:] or ("1000", "100")))
