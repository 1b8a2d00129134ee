"""metadata_balance over synthetic match lists: CPU a row, peak memory, and the same pairs from any shards.

    python -m tests.benchmarks.balance [--rows 100000000] [--folder DIR] [--engine]
    python -m tests.benchmarks.balance --paper 4000000

Writes Parquet shards of uid and matched_entries (Zipfian over 500,000 entries, 5 ids a row, 2 % without any) to a
folder that it removes, 0.06 GB a million rows.  Two processes play the engine at filter level: they read batches
of shards, the driver merges and settles.  First a hundredth of the rows, then a tenth, then all; t is to the rows as
20,000 to 1.6 B.  All rows are balanced once more, cut differently and in another order, and the kept uids compared
by a digest.  ``--engine`` does it in a real run too, without its dataset.
"""

import argparse
import contextlib
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial, reduce
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pairsieve.filters._balance_counts import estimated_rows, most_rows
from pairsieve.filters._balance_summary import Round
from pairsieve.filters.metadata_balance import MetadataBalance
from pairsieve.schemas import uid
from tests.support_balance import paper_pairs, play

ENTRIES, SHARD_ROWS, BATCH = 500_000, 1_000_000, 131_072
MEAN = 5
RUN = """
import json, sys
from pairsieve.pipelines.run import run
if __name__ == "__main__":
    print(run(json.loads(sys.argv[1]), sys.argv[2], workers=2).kept)
"""
KERNELS = "pairsieve.filters._balance_rounds"
Part = tuple[Path, int, int]
"""A file, its first row and the row after its last."""


def write_shard(folder: Path, number: int, rows: int) -> Path:
    """One file; the ids of a text ascend and differ."""
    chance = np.random.default_rng(number)
    sizes = chance.poisson(MEAN, rows) * (chance.random(rows) > 0.02)
    # of rank r the chance is about 1 / r: the inverse of its distribution
    ids = np.exp(chance.random(int(sizes.sum()), np.float32) * np.float32(np.log(ENTRIES))).astype(np.int64) - 1
    keys = np.sort(np.repeat(np.arange(rows), sizes) * ENTRIES + ids)
    keys = keys[np.diff(keys, prepend=-1) > 0]  # numpy.unique takes six times as long
    offsets = np.searchsorted(keys, np.arange(rows + 1) * ENTRIES).astype(np.int32)
    numbers = np.empty((rows, 2), ">u8")
    numbers[:, 0], numbers[:, 1] = uid_half(number, rows), np.arange(rows)
    text = np.frombuffer(numbers.tobytes().hex().encode(), np.uint8)
    names = pa.Array.from_buffers(
        pa.string(), rows, [None, pa.py_buffer(np.arange(rows + 1, dtype=np.int32) * 32), pa.py_buffer(text)]
    )
    column = pa.ListArray.from_arrays(offsets, (keys % ENTRIES).astype(np.int32))
    path = folder / f"{number:05d}.parquet"
    blank = pa.repeat(pa.scalar(b""), rows)
    table = pa.table({"uid": names, "matched_entries": column, "text": blank.cast(pa.string()), "image": blank})
    pq.write_table(table, path, row_group_size=rows, use_dictionary=["text", "image"])
    return path


def uid_half(number: int, rows: int) -> Any:
    """The high halves of a shard's uids: hashes, as real ones."""
    numbers = np.zeros(rows, uid.PAIR_DTYPE)
    numbers["f0"], numbers["f1"] = number, np.arange(rows)
    return uid.keyed_hash_of(numbers, 0)


def batches(part: Part) -> Iterator[pa.RecordBatch]:
    """The rows of a part in batches."""
    path, start, stop = part
    at = 0
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(BATCH, columns=["uid", "matched_entries"]):
            first, last = max(start - at, 0), min(stop - at, batch.num_rows)
            at += batch.num_rows
            if last > first:
                yield batch.slice(first, last - first)


def summarized(made: MetadataBalance, settled: dict[str, Any], part: Part) -> tuple[Round, float, int]:
    """The summary of a part, its CPU-seconds, and the peak memory of the process in MB."""
    began = time.process_time()
    found = reduce(made.merge, (made.summarize(batch, settled) for batch in batches(part)))
    return found, time.process_time() - began, peak()


def decided(made: MetadataBalance, settled: dict[str, Any], part: Part) -> tuple[int, int, float, int]:
    """Kept pairs of a part, their digest, CPU-seconds and peak memory."""
    began, kept, digest = time.process_time(), 0, 0
    for batch in batches(part):
        reasons = made.keep(pa.record_batch(made.derive(batch, settled)), settled)
        stays = reasons.is_null()
        kept += reasons.null_count
        hashes = uid.keyed_hash(batch["uid"].filter(stays), 1)
        digest = (digest + int(hashes.sum(dtype=np.uint64))) % 2**64
    return kept, digest, time.process_time() - began, peak()


def ready() -> ProcessPoolExecutor:
    """Two fresh processes, so that peaks are their own, with the kernels loaded, which takes 0.6 s each."""
    return ProcessPoolExecutor(2, get_context("spawn"), initializer=import_module, initargs=(KERNELS,))


def peak() -> int:
    """Greatest resident memory of this process so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def balance(pool: ProcessPoolExecutor, made: MetadataBalance, parts: list[Part]) -> dict[str, Any]:
    """Rounds, then verdicts; prints a line."""
    settled: dict[str, Any] = {}
    began, cpu, rss, rounds = time.perf_counter(), [], 0, 0
    own = time.process_time()
    while not made.is_settled(settled):
        total: Round | None = None
        for found, seconds, memory in pool.map(partial(summarized, made, settled), parts):
            total = found if total is None else made.merge(total, found)
            cpu.append(seconds)
            rss = max(rss, memory)
        assert total is not None
        settled, rounds = made.settle(total, settled), rounds + 1
    kept = digest = 0
    for some, part_digest, seconds, memory in pool.map(partial(decided, made, settled), parts):
        kept, digest = kept + some, (digest + part_digest) % 2**64
        cpu.append(seconds)
        rss = max(rss, memory)
    assert kept == settled["kept_rows"]
    rows, seconds = settled["rows"], sum(cpu) + time.process_time() - own
    off = (kept - settled["expected_rows"]) / settled["sd_rows"]
    print(
        f"{rows:>11,} rows, t {settled['t']:>6,} ({rounds} rounds): {seconds * 1e6 / rows:5.2f} CPU-s a million rows, "
        f"{time.perf_counter() - began:6.1f} s; peak {rss} MB a worker, {peak()} MB the driver; "
        f"kept {kept:,} of {settled['matched_rows']:,}, {off:+.2f} sd from {settled['expected_rows']:,.1f}; "
        f"digest {digest:016x}",
        flush=True,
    )
    return settled | {"digest": digest}


def engine_run(folder: Path, out: Path, settled: dict[str, Any]) -> None:
    """The same in a run of its own process, which must keep as many."""
    pairs = {"path": str(folder), "columns": ["matched_entries"], "shard_rows": SHARD_ROWS}
    steps = [{"metadata_balance": {"t": settled["t"]}}]
    made = {"pool": {"pairs": pairs}, "filters": steps, "output": {"subset": "subset.npy"}}
    began = time.perf_counter()
    command = [sys.executable, "-c", RUN, json.dumps(made), str(out)]
    seen: dict[int, tuple[float, int]] = {}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        while process.poll() is None:
            seen |= looked(process.pid)
            time.sleep(0.5)
        assert process.stdout is not None
        kept = int(process.stdout.read().split()[-1])
    peaks = {pid: memory for pid, (_, memory) in seen.items()}
    driver = peaks.pop(process.pid)
    cpu = sum(seconds for seconds, _ in seen.values())
    print(
        f"run: {time.perf_counter() - began:.0f} s, {cpu * 1e6 / settled['rows']:.2f} CPU-s a million rows with ingest "
        f"and verdicts; peak {max(peaks.values())} MB a worker, {driver} MB the driver; kept {kept:,}"
    )
    assert kept == settled["kept_rows"]


def looked(session: int) -> dict[int, tuple[float, int]]:
    """CPU-seconds and peak memory in MB of the processes of a session, as far as they got; Linux only."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, StopIteration):  # it ended meanwhile
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            if int(fields[3]) == session:
                lines = (folder / "status").read_text().splitlines()
                memory = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
                ticks = int(fields[11]) + int(fields[12])
                found[int(folder.name)] = ticks / os.sysconf("SC_CLK_TCK"), memory // 1024
    return found


def paper(rows: int) -> None:
    """Pools whose counts are those of MetaCLIP's paper, at three spreads of matches over texts."""
    print("paper: 500,000 entries, 3.5 matches a text; head 3.2 %, 94.5 % of matches; kept 25 %, sd 4,035 of 1.6 B")
    for spread in (1.0, 1.2, 1.4):
        pairs, t = paper_pairs(rows, ENTRIES, spread)
        found = play(MetadataBalance(t=t), pairs).settled
        matched, counts, matches = found["matched_rows"], found["counts"], found["matches"]
        sd, bound = found["sd_rows"] * (1.6e9 / rows) ** 0.5, most_rows(counts, t) / matched
        print(
            f"sigma {spread}: t {t}, {matches / matched:.2f} matches a text; "
            f"head {found['head_entries'] / ENTRIES:.1%}, {found['head_matches'] / matches:.1%}; "
            f"tail share {found['tail_share']:.2%}; kept {found['kept_rows'] / matched:.1%}, sd {sd:,.0f} of 1.6 B; "
            f"sum of min(count, t) {bound:.1%}, estimate {estimated_rows(counts, t, matched) / matched:.1%}"
        )


def main(rows: int, folder: Path, with_engine: bool) -> None:
    """Write, balance a hundredth, a tenth and all; then all again in shards of another size."""
    shards = -(-rows // SHARD_ROWS)
    sizes = [min(SHARD_ROWS, rows - i * SHARD_ROWS) for i in range(shards)]
    pool_folder = folder / "pool"
    pool_folder.mkdir()
    with ready() as pool:
        began = time.perf_counter()
        files = list(pool.map(write_shard, [pool_folder] * shards, range(shards), sizes))
        print(f"written in {time.perf_counter() - began:.0f} s: {sum(f.stat().st_size for f in files) / 1e9:.1f} GB")
    whole = [(file, 0, size) for file, size in zip(files, sizes, strict=True)]
    for part in sorted({max(1, shards // 100), max(1, shards // 10), shards}):
        with ready() as pool:
            t = round(20_000 * min(part * SHARD_ROWS, rows) / 1.6e9)
            settled = balance(pool, MetadataBalance(t=max(1, t)), whole[:part])
    cut = [part for f, _, n in reversed(whole) for part in ((f, n // 3, n), (f, 0, n // 3))]
    with ready() as pool:
        other = balance(pool, MetadataBalance(t=settled["t"]), cut)
    print("the same pairs from both" if settled["digest"] == other["digest"] else "OTHER PAIRS")
    if with_engine:
        engine_run(pool_folder, folder / "run", settled)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--folder", type=Path, help="where the pool is written; default: a temporary folder")
    parser.add_argument("--engine", action="store_true", help="also in a real run")
    parser.add_argument("--paper", type=int, help="instead: so many rows with counts as in MetaCLIP's paper")
    given = parser.parse_args()
    if given.paper:
        paper(given.paper)
        sys.exit(0)
    place = Path(tempfile.mkdtemp(prefix="balance-", dir=given.folder))
    try:
        main(given.rows, place, given.engine)
    finally:
        shutil.rmtree(place)
