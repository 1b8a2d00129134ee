"""Passes over a metadata pool, against the same work written by hand in plain pyarrow; CPU-seconds, one run.

    python tests/benchmarks/engine.py [rows]

Both read one Parquet list, count words, take shape and score, find the exact top 30 % of the pool, and
write what they measured, verdicts with reasons, and the kept uids.  pairsieve also copies the pool's
light columns into the run, accounts for every row, and can be stopped and continued; the hand-written
script can do none of that.
"""

import resource
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

ROWS = 1_000_000
SHARD = 100_000
RECIPE = """
from pairsieve import run
run(
    {{
        "pool": {{"urls": {{"path": "{folder}/pool.parquet", "shard_rows": {shard}}}}},
        "filters": [
            {{"caption_words": {{"least": 3}}}},
            {{"image_shape": {{"shortest": 200}}}},
            {{"clip_score": {{"column": "score", "top": 0.3, "of": "pool"}}}},
        ],
        "output": {{"subset": "subset.npy"}},
    }},
    "{folder}/run",
    engine="local",
    workers=1,
)
"""


def main(rows: int) -> None:
    """Time both and print the ratio."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_pool(folder / "pool.parquet", rows)
        idle = cpu_seconds("import pairsieve.pipelines.run")
        ours = cpu_seconds(RECIPE.format(folder=folder, shard=SHARD)) - idle
        before = usage()
        by_hand(folder)
        plain = usage() - before
        shutil.rmtree(folder / "run")
    print(f"{rows:,} pairs, one worker, start-up of {idle:.1f} CPU-s left out")
    print(f"pairsieve      {ours:6.2f} CPU-s  {rows / ours / 1e6:5.2f} M pairs/s")
    print(f"plain pyarrow  {plain:6.2f} CPU-s  {rows / plain / 1e6:5.2f} M pairs/s")
    print(f"ratio          {ours / plain:6.2f}")


def make_pool(path: Path, rows: int) -> None:
    """Captions of 1 to 13 words, sizes, a score."""
    rng = np.random.default_rng(0)
    words = np.array(
        ["red", "blue", "dog", "cat", "a", "the", "photo", "of", "in", "on", "large", "small", "house", "tree", "water"]
    )
    counts = rng.integers(1, 14, rows)
    flat = words[rng.integers(0, len(words), counts.sum())].tolist()
    ends = np.concatenate([[0], np.cumsum(counts)])
    texts = [" ".join(flat[ends[i] : ends[i + 1]]) for i in range(rows)]
    high, low = rng.integers(0, 2**63, rows), rng.integers(0, 2**63, rows)
    table = {
        "uid": [f"{a:016x}{b:016x}" for a, b in zip(high, low, strict=True)],
        "url": [f"http://example.org/{i}.jpg" for i in range(rows)],
        "text": texts,
        "score": rng.random(rows, dtype=np.float32),
        "width": rng.integers(50, 2000, rows).astype(np.int32),
        "height": rng.integers(50, 2000, rows).astype(np.int32),
    }
    pq.write_table(pa.table(table), path, row_group_size=SHARD)


def by_hand(folder: Path) -> None:
    """What a careful engineer would write for this one recipe."""
    file = pq.ParquetFile(folder / "pool.parquet")
    scores = np.sort(file.read(columns=["score"], use_threads=False)["score"].to_numpy())[::-1]
    threshold = pa.scalar(scores[int(len(scores) * 0.3)], pa.float32())
    kept = []
    for g in range(file.num_row_groups):
        table = file.read_row_group(g, use_threads=False)
        words = pc.list_value_length(pc.utf8_split_whitespace(pc.utf8_trim_whitespace(table["text"])))
        short = pc.min_element_wise(table["width"], table["height"])
        ratio = pc.divide(
            pc.max_element_wise(table["width"], table["height"]).cast(pa.float64()), short.cast(pa.float64())
        )
        tests = (pc.less(words, 3), pc.less(short, 200), pc.greater(ratio, 3.0), pc.less(table["score"], threshold))
        names = ("too_few_words", "too_small", "too_narrow", "below_top")
        reason = pc.case_when(pc.make_struct(*tests), *names)
        out = {"uid": table["uid"], "words": words, "short_side": short, "aspect": ratio, "reason": reason}
        pq.write_table(pa.table(out), folder / f"hand-{g}.parquet", compression="zstd", use_dictionary=["reason"])
        kept.append(table["uid"].filter(pc.is_null(reason)))
    uids = np.sort(np.array(pa.chunked_array([c for k in kept for c in k.chunks]).to_pylist()))
    pairs = np.frombuffer(bytes.fromhex("".join(uids.tolist())), ">u8").astype("<u8").view("u8,u8")
    np.save(folder / "hand.npy", pairs)


def cpu_seconds(code: str) -> float:
    """User and system time of a Python process of its own, children included."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", code], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def usage() -> float:
    """User and system time of this process so far."""
    now = resource.getrusage(resource.RUSAGE_SELF)
    return now.ru_utime + now.ru_stime


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else ROWS)
