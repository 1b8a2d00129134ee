"""Assignment to centroids against a bare matrix product of the same shape: CPU-seconds of one run.

    python -m tests.benchmarks.image_cluster [vectors] [centroids] [width]

The bare product has the same blocks and one thread, and its result is thrown away.
"""

import resource
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from pairsieve.filters._assign import CPU_BLOCK, Assigner


def measured(work: Callable[[], object], products: int, name: str, flops: int) -> float:
    """CPU-seconds of some work."""
    before, began = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    work()
    after = resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    wall = time.perf_counter() - began
    print(
        f"{name:28} {cpu:7.1f} CPU-s {wall:7.1f} s {products / cpu:8.0f} a CPU-s {flops / cpu / 1e9:6.1f} GFLOP/CPU-s"
    )
    return cpu


def bare(vectors: torch.Tensor, centroids: torch.Tensor, rows: int, block: int) -> None:
    """The products alone, a block at a time."""
    for start in range(0, len(vectors), rows):
        for first in range(0, len(centroids), block):
            torch.matmul(vectors[start : start + rows], centroids[first : first + block].T)


def unit(rows: int, width: int, seed: int) -> NDArray[np.float32]:
    """Vectors in a cone, as embeddings of images are."""
    found = np.random.default_rng(seed).standard_normal((rows, width)).astype(np.float32) + np.float32(0.5)
    return np.asarray(found / np.linalg.norm(found, axis=1, keepdims=True), np.float32)


def main(rows: int, clusters: int, width: int) -> None:
    """Both in turn, three times."""
    vectors, centroids = unit(rows, width, 0), unit(clusters, width, 1)
    torch.set_num_threads(1)
    assigner, flops = Assigner(centroids), 2 * rows * clusters * width
    there = torch.from_numpy(vectors), torch.from_numpy(centroids)
    ratios = []
    for _ in range(3):
        alone = measured(lambda: bare(*there, *CPU_BLOCK), rows, f"products, {CPU_BLOCK}", flops)
        whole = measured(lambda: assigner.assign(vectors), rows, "assignment", flops)
        ratios.append(alone / whole)
    parts = [vectors[start : start + 256] for start in range(0, rows, 256)]
    small = measured(lambda: [assigner.assign(part) for part in parts], rows, "assignment, 256 a call", flops)
    shares = ", ".join(f"{ratio:.0%}" for ratio in ratios)
    print(f"the assignment runs at {shares} of the product's speed; 256 a call, as passes do: {alone / small:.0%}")


if __name__ == "__main__":
    main(*map(int, (*sys.argv[1:], *("4096", "100000", "768")[len(sys.argv) - 1 :])))
