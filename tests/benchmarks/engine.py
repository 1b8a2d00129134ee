"""What the engine itself costs: CPU-seconds against plain pyarrow, per shard and pass, and the driver's memory.

    python -m tests.benchmarks.engine [rows]

Overhead: pairsieve and hand-written scripts read one Parquet list with uids, count words, take shape and
score, find the exact top 30 % of the pool, and write what they measured, a reason for every dropped pair, and
the kept uids.  One script writes the tables that pairsieve writes (each step's scores and the verdicts, each
with uids), the other one table for all.  pairsieve also checksums, accounts for every row, and can be stopped
and continued.  Start-up (the same recipe over 1,000 pairs) is left out of the ratios and stands by itself.
"""

import json
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

ROWS = 5_000_000
SHARD = 100_000
LIGHT = [
    {"caption_words": {"least": 3}},
    {"image_shape": {"shortest": 200}},
    {"clip_score": {"column": "score", "top": 0.3, "of": "pool"}},
]
PASSES = [{"clip_score": {"as": f"top_{i}", "column": "score", "top": 0.9}} for i in range(4)]
RUN = """
import json, sys
from pairsieve import run
recipe, out, workers = json.loads(sys.argv[1]), sys.argv[2], int(sys.argv[3])
run(recipe, out, engine="local", workers=workers)
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def main(rows: int) -> None:
    """Print the tables."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        overhead(folder, rows)
        shards(folder)
        memory(folder, rows)


def overhead(folder: Path, rows: int) -> None:
    """The same work by pairsieve and by hand."""
    make_pool(folder / "tiny.parquet", 1000, SHARD)
    make_pool(folder / "pool.parquet", rows, SHARD)
    start, _ = pairsieve(folder, "tiny", LIGHT)
    ours = pairsieve(folder, "pool", LIGHT)[0] - start
    print(f"{rows:,} pairs in shards of {SHARD:,}, one worker; start-up: {start:.2f} CPU-s")
    print(f"pairsieve                   {ours:6.2f} CPU-s  {rows / ours / 1e6:5.2f} M pairs a CPU-s")
    for name, write in {"the same tables": three_tables, "one table": one_table}.items():
        before = usage()
        by_hand(folder, write)
        plain = usage() - before
        speed = f"{rows / plain / 1e6:5.2f} M pairs a CPU-s"
        print(f"by hand, {name:<18} {plain:6.2f} CPU-s  {speed}  ratio {ours / plain:.2f}")


def shards(folder: Path) -> None:
    """What a shard and a pass cost, from runs over many tiny shards."""
    few, many = 200, 1200
    found = {}
    for count in (few, many):
        make_pool(folder / f"{count}.parquet", 10 * count, 10)
        for steps in (LIGHT, PASSES):
            found[count, len(steps)] = pairsieve(folder, str(count), steps, shard_rows=10)[0]
    one = (found[many, 3] - found[few, 3]) / (many - few) * 1000
    four = (found[many, 4] - found[few, 4]) / (many - few) * 1000
    print(f"a shard with two measuring steps and verdicts: {one:.1f} CPU-ms")
    print(f"a shard with four top fractions one after the other (8 summaries, verdicts): {four:.1f} CPU-ms")


def memory(folder: Path, rows: int) -> None:
    """The driver's peak, by rows at the same number of shards, and by shards at the same number of rows."""
    shards = 50
    peaks = {}
    for count in (rows // 10, rows):
        make_pool(folder / "rows.parquet", count, count // shards)
        peaks[count] = pairsieve(folder, "rows", LIGHT, shard_rows=count // shards, workers=2)[1]
        print(f"driver with {count:,} rows in {shards} shards: {peaks[count] / 1e6:.0f} MB")
    for count in (2500, 10_000):  # below that DuckDB still takes memory that it keeps
        files = folder / f"shards-{count}"
        files.mkdir()
        for i in range(count // 50):  # a footer of its own for every 50 shards
            make_pool(files / f"{i:05d}.parquet", 500, 10)
        peaks[count] = pairsieve(folder, files.name, LIGHT, shard_rows=10, workers=2)[1]
        print(f"driver with {count:,} shards of 10 pairs: {peaks[count] / 1e6:.0f} MB")
    print(f"a shard more: {(peaks[10_000] - peaks[2500]) / 7500 / 1000:.2f} kB")


def pairsieve(
    folder: Path, pool: str, steps: Sequence[object], shard_rows: int = SHARD, workers: int = 1
) -> tuple[float, int]:
    """CPU-seconds of a run in a process of its own (children included), and its peak of memory in bytes."""
    path = folder / pool
    spec = {"path": str(path if path.is_dir() else f"{path}.parquet"), "shard_rows": shard_rows}
    recipe = {"pool": {"urls": spec}, "filters": steps, "output": {"subset": "subset.npy"}}
    with tempfile.TemporaryDirectory(dir=folder) as out:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        command = [sys.executable, "-c", RUN, json.dumps(recipe), out, str(workers)]
        said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return seconds, int(said) * 1024


def make_pool(path: Path, rows: int, group: int) -> None:
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
    pq.write_table(pa.table(table), path, row_group_size=group)


def by_hand(folder: Path, write: Callable[[Path, dict[str, pa.Array]], None]) -> None:
    """What a careful engineer would write for this one recipe."""
    file = pq.ParquetFile(folder / "pool.parquet")
    scores = np.sort(file.read(columns=["score"], use_threads=False)["score"].to_numpy())[::-1]
    threshold = pa.scalar(scores[int(len(scores) * 0.3)], pa.float32())
    kept = []
    for g in range(file.num_row_groups):
        table = file.read_row_group(g, columns=["uid", "text", "score", "width", "height"], use_threads=False)
        words = pc.list_value_length(pc.utf8_split_whitespace(pc.utf8_trim_whitespace(table["text"])))
        short = pc.min_element_wise(table["width"], table["height"])
        ratio = pc.divide(
            pc.max_element_wise(table["width"], table["height"]).cast(pa.float64()), short.cast(pa.float64())
        )
        tests = (pc.less(words, 3), pc.less(short, 200), pc.greater(ratio, 3.0), pc.less(table["score"], threshold))
        names = ("too_few_words", "too_small", "too_narrow", "below_top")
        reason = pc.case_when(pc.make_struct(*tests), *names)
        out = {"uid": table["uid"], "words": words, "short_side": short, "aspect": ratio, "reason": reason}
        write(folder / f"hand-{g}", out)
        kept.append(table["uid"].filter(pc.is_null(reason)))
    uids = np.sort(np.array(pa.chunked_array([c for k in kept for c in k.chunks]).to_pylist()))
    pairs = np.frombuffer(bytes.fromhex("".join(uids.tolist())), ">u8").astype("<u8").view("u8,u8")
    np.save(folder / "hand.npy", pairs)


def one_table(path: Path, found: dict[str, pa.Array]) -> None:
    """Everything side by side."""
    pq.write_table(pa.table(found), f"{path}.parquet", compression="zstd", use_dictionary=["reason"])


def three_tables(path: Path, found: dict[str, pa.Array]) -> None:
    """What each step measured, and the verdicts, each by uid."""
    for names in (("words",), ("short_side", "aspect"), ("reason",)):
        table = pa.table({name: found[name] for name in ("uid", *names)})
        pq.write_table(table, f"{path}-{names[0]}.parquet", compression="zstd", use_dictionary=["reason"])


def usage() -> float:
    """User and system time of this process so far."""
    now = resource.getrusage(resource.RUSAGE_SELF)
    return now.ru_utime + now.ru_stime


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else ROWS)
