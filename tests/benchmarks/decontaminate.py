"""Decontamination against bare matrix products, and captions per CPU-second.

    python -m tests.benchmarks.decontaminate embeddings [vectors] [references] [width]
    python -m tests.benchmarks.decontaminate captions [captions] [references]
    python -m tests.benchmarks.decontaminate hashes [hashes] [references]

The bare products are torch's and numpy's of the same float32 matrices, in the same blocks and in one thread, with
the greatest of each row; captions are synthetic, 5 to 30 words of a Zipf vocabulary, a tenth of them of the references.
Hashes are those of synthetic pictures, a tenth of them near a reference, against faiss, which compares all.
"""

import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pairsieve.filters import _phash
from pairsieve.filters._assign import CPU_BLOCK
from pairsieve.filters.decontaminate import Decontaminate


def measured(name: str, rows: int, work: Callable[[], object]) -> float:
    """CPU-seconds of some work."""
    before, began = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    work()
    after = resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(f"{name:34} {cpu:7.2f} CPU-s {time.perf_counter() - began:7.2f} s {rows / cpu:12,.0f} a CPU-s", flush=True)
    return cpu


def unit(rows: int, width: int, seed: int) -> NDArray[np.float32]:
    """Vectors in a cone, as embeddings of images are."""
    found = np.random.default_rng(seed).standard_normal((rows, width), np.float32) + np.float32(0.5)
    return np.asarray(found / np.linalg.norm(found, axis=1, keepdims=True), np.float32)


def numpy_products(vectors: NDArray[np.float32], references: NDArray[np.float32]) -> None:
    """The greatest product of each row, a block at a time."""
    rows, size = CPU_BLOCK
    for start in range(0, len(vectors), rows):
        best = np.full(len(vectors[start : start + rows]), -np.inf, np.float32)
        for first in range(0, len(references), size):
            np.maximum(best, (vectors[start : start + rows] @ references[first : first + size].T).max(axis=1), out=best)


def torch_products(vectors: NDArray[np.float32], references: NDArray[np.float32]) -> None:
    """The same with torch."""
    import torch

    here, there = torch.from_numpy(vectors), torch.from_numpy(references)
    rows, size = CPU_BLOCK
    with torch.inference_mode():
        for start in range(0, len(here), rows):
            best = torch.full((len(here[start : start + rows]),), -torch.inf)
            for first in range(0, len(there), size):
                torch.maximum(best, (here[start : start + rows] @ there[first : first + size].T).amax(dim=1), out=best)


def embeddings(rows: int, count: int, width: int) -> None:
    """The filter and both products in turn, three times."""
    import torch

    torch.set_num_threads(1)
    vectors, references = unit(rows, width, 0), unit(count, width, 1)
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), width)
    pairs = pa.record_batch({"x": column})
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder) / "a.npy", references)
        made = Decontaminate(
            by="embeddings", references={"a": f"{folder}/a.npy"}, column="x", threshold=0.6, device="cpu"
        )
        measured("open", count, made.open)
    for _ in range(3):
        product = measured("torch product and maximum", rows, lambda: torch_products(vectors, references))
        other = measured("numpy product and maximum", rows, lambda: numpy_products(vectors, references))
        whole = measured("decontaminate", rows, lambda: made.score(pairs))
        print(f"{product / whole:.0%} of torch's speed, {other / whole:.0%} of numpy's")
    small = measured(
        "decontaminate, 256 a call", rows, lambda: [made.score(pairs.slice(i, 256)) for i in range(0, rows, 256)]
    )
    print(f"{product / small:.0%} of torch's speed; peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10} MB")


def captions(rows: int, count: int) -> None:
    """Reading references, and captions of several kinds."""
    rng = np.random.default_rng(0)
    vocabulary = np.array([f"word{i}" if i % 50 else f"wörter{i}" for i in range(60_000)])
    known = _texts(rng, vocabulary, count)
    texts = [*_texts(rng, vocabulary, rows - rows // 10), *known[: rows // 10]]
    pairs = pa.record_batch({"text": pa.array(texts)})
    print(f"{pairs['text'].nbytes / rows:.0f} bytes a caption")
    with tempfile.TemporaryDirectory() as folder:
        pq.write_table(pa.table({"text": known}), f"{folder}/a.parquet")
        for n in (13, 5, 1):
            made = Decontaminate(by="captions", references={"a": f"{folder}/a.parquet"}, threshold=0.5, ngram=n)
            measured(f"open, n = {n}", count, made.open)
            made.score(pairs.slice(0, 10))
            measured(f"decontaminate, n = {n}", rows, lambda made=made: [made.score(b) for b in _batches(pairs)])  # type: ignore[misc]
    print(f"peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10} MB")


def pictures(count: int, bits: int, seed: int) -> NDArray[np.uint8]:
    """Hashes of grey pictures with large and small shades, uint8[n, bytes]."""
    rng, side = np.random.default_rng(seed), _phash.side(bits)
    found = []
    for start in range(0, count, 4096):
        rows = min(4096, count - start)
        shades = [np.kron(rng.random((rows, n, n)), np.ones((1, side // n, side // n))) / n for n in (4, 8, 16)]
        grey = 255 * np.sum(shades, axis=0) / 0.44
        found.append(_phash.hashes(grey.astype(np.uint8))[0])
    return np.concatenate(found)


def hashes(rows: int, count: int) -> None:
    """A stored column within several radii."""
    import faiss

    faiss.omp_set_num_threads(1)
    for bits, radii in ((64, (4, 8, 12)), (256, (14, 31))):
        references, found = pictures(count, bits, 0), pictures(rows, bits, 1)
        flips = np.packbits(np.random.default_rng(2).random((rows // 10, bits)) < 3 / bits, axis=1)
        found[: rows // 10] = references[: rows // 10] ^ flips
        column = pa.FixedSizeBinaryArray.from_buffers(pa.binary(bits // 8), rows, [None, pa.py_buffer(found)])
        flat, some = faiss.IndexBinaryFlat(bits), found[:2000]
        flat.add(references)
        measured(f"{bits} bits: faiss, all compared", len(some), lambda: flat.search(some, 1))  # noqa: B023
        for radius in radii:
            with tempfile.TemporaryDirectory() as folder:
                np.save(f"{folder}/a.npy", references)
                made = Decontaminate(
                    by="hashes", references={"a": f"{folder}/a.npy"}, column="h", radius=radius, bits=bits
                )
                made.open()
            made.score(pa.record_batch({"h": column[:2]}))
            pairs = pa.record_batch({"h": column})
            measured(f"{bits} bits within {radius}", rows, lambda: made.score(pairs))  # noqa: B023
            distances = made.score(pairs.slice(0, 2000))["decontaminate_distance"].to_numpy()
            assert (distances == np.minimum(flat.search(some, 1)[0][:, 0], radius + 1)).all()


def _texts(rng: np.random.Generator, vocabulary: NDArray[np.str_], rows: int) -> list[str]:
    sizes = rng.integers(5, 31, rows)
    words = vocabulary[np.minimum(rng.zipf(1.2, sizes.sum()) - 1, len(vocabulary) - 1)]
    return [" ".join(part) + "." for part in np.split(words, np.cumsum(sizes)[:-1])]


def _batches(pairs: pa.RecordBatch) -> list[pa.RecordBatch]:
    return [pairs.slice(i, 8192) for i in range(0, pairs.num_rows, 8192)]


if __name__ == "__main__":
    what, numbers = sys.argv[1], [int(number) for number in sys.argv[2:]]
    if what == "embeddings":
        embeddings(*[*numbers, *(4096, 200_000, 512)[len(numbers) :]])
    elif what == "hashes":
        hashes(*[*numbers, *(100_000, 100_000)[len(numbers) :]])
    else:
        captions(*[*numbers, *(500_000, 500_000)[len(numbers) :]])
