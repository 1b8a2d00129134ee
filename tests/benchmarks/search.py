"""Search stored vectors exactly: vectors a CPU-second from a run's files, beside the bare product in memory.

    python -m tests.benchmarks.search [vectors] [width] [threads]

Writes files of 10,000 pairs (float16, as ``clip_score`` does with ``embeddings: true``) and DataComp metadata with
features into a temporary folder: twice 2 bytes a number.  Parts of the time: reading; bringing to float32; products.
Captions of 20 pairs come out of a run of the same size.
"""

import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from pairsieve.filters._vectors import vectors_of
from pairsieve.pipelines.progress import Silent
from pairsieve.pipelines.provenance import manifest
from pairsieve.pipelines.run import run
from pairsieve.pipelines.search import _hits
from pairsieve.pipelines.search_columns import column_of
from pairsieve.pipelines.search_scan import Piece, StepFile, nearest
from pairsieve.pipelines.store import Store
from tests import support_datacomp

SHARD, FILE = 10_000, 100_000
MOST = 20


def vectors(count: int, width: int, seed: int) -> NDArray[np.float16]:
    """Unit vectors."""
    found = np.random.default_rng(seed).standard_normal((count, width), dtype=np.float32)
    return np.asarray(found / np.linalg.norm(found, axis=1, keepdims=True), np.float16)


def step_files(store: Store, count: int, width: int) -> Iterator[StepFile]:
    """What a step stores, with row groups of 8 MB."""
    for shard in range(count // SHARD):
        name = f"scores/clip/{shard:05d}.parquet"
        column = pa.FixedSizeListArray.from_arrays(pa.array(vectors(SHARD, width, shard).ravel()), width)
        places = {"uid": [f"{shard * SHARD + i:032x}" for i in range(SHARD)], "shard": np.full(SHARD, shard, np.int32)}
        table = pa.table({**places, "row": np.arange(SHARD, dtype=np.int32), "clip_image": column})
        with store.create_sealed(name, table.schema, {}) as writer:
            writer.write_table(table, row_group_size=max(64, 8_000_000 // (2 * width)))
        yield StepFile(store, name, "clip_image")


def datacomp_run(folder: Path, count: int, width: int) -> Store:
    """A finished run over metadata with features, stored plain as DataComp's are."""
    for number in range(max(1, count // FILE)):
        rows = min(FILE, count)
        arrays = {"b32_img": vectors(rows, width, number)}
        pairs = support_datacomp.pairs(rows, number * rows)
        support_datacomp.write_shard(folder / "pool", f"{number:032x}", pairs, arrays, group=SHARD, compressed=False)
    recipe = support_datacomp.recipe(folder / "pool", "caption_words", shard_rows=SHARD)
    run(recipe, folder / "run", engine="local")
    return Store(str(folder / "run"))


def timed(name: str, pieces: list[Piece], query: NDArray[np.float32], threads: int, count: int) -> None:
    """Vectors a CPU-second and a second, the best of three."""
    best = (float("inf"), float("inf"))
    for _ in range(3):
        wall, cpu = time.perf_counter(), time.process_time()
        found = nearest(pieces, query, MOST, None, threads, Silent())
        best = min(best, (time.process_time() - cpu, time.perf_counter() - wall))
        assert found.vectors == count
    print(f"{name} | {count / best[0]:,.0f} | {count / best[1]:,.0f}", flush=True)


def parts(files: list[StepFile], query: NDArray[np.float32], width: int) -> None:
    """What reading, converting and multiplying cost, each alone on one thread."""
    torch.set_num_threads(1)
    seconds, rows, wanted = np.zeros(3), 0, torch.from_numpy(query)
    for file in files[:10]:
        stretches = file.stretches(None)
        while True:
            began = time.process_time()
            if (stretch := next(stretches, None)) is None:
                break
            read = time.process_time()
            pieces = [vectors_of(stretch.column.slice(i, 512), width) for i in range(0, len(stretch.column), 512)]
            converted = time.process_time()
            for piece in pieces:
                _ = (piece @ wanted) / torch.linalg.vector_norm(piece, dim=1)
            rows += len(stretch.column)
            seconds += [read - began, converted - read, time.process_time() - converted]
    names = ("read", "to float32", "products")
    print("µs a vector: " + ", ".join(f"{n} {s / rows * 1e6:.2f}" for n, s in zip(names, seconds, strict=True)))


def main() -> None:
    """One line a source, and the parts."""
    count, width, threads = ([int(text) for text in sys.argv[1:]] + [200_000, 512, 1][len(sys.argv) - 1 :])[:3]
    query = vectors(1, width, 10**6)[0].astype(np.float32)
    print(f"{count:,} vectors of {width} float16, {threads} threads\nsource | a CPU-second | a second")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = list(step_files(Store(str(folder / "steps")), count, width))
        timed("files of a step", list(files), query, threads, count)
        parts(files, query, width)
        store = datacomp_run(folder, count, width)
        column = column_of(store, manifest(store), "b32_img")
        timed("DataComp's .npz", list(column.pieces), query, threads, count)
        entries = nearest(column.pieces, query, MOST, None, threads, Silent()).entries
        began = time.perf_counter()
        _hits(store, entries)
        print(f"captions and verdicts of {MOST}: {time.perf_counter() - began:.2f} s")


if __name__ == "__main__":
    main()
