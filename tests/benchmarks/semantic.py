"""Decide within clusters: CPU of ``semantic_duplicates`` beside the bare products of the same shape.

    python -m tests.benchmarks.semantic [members of a cluster ...]

Vectors of 512, one thread; a fifth of them lie near to another.  The bare products are those of all pairs of blocks
on or below the diagonal, which is what the rule needs at least.
"""

import sys
import time

import numpy as np
import torch

from pairsieve.filters._cosines import BLOCK, first_alike, normalised
from pairsieve.filters._products import fixed

WIDTH = 512


def members(count: int) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    """Unit vectors; the last fifth are noisy copies of others."""
    rng = np.random.default_rng(0)
    found = rng.normal(size=(count, WIDTH)).astype(np.float32)
    copies = count // 5
    found[-copies:] = found[rng.integers(0, count - copies, copies)] + 0.1 * rng.normal(size=(copies, WIDTH))
    return normalised(found)


def bare(vectors: np.ndarray[tuple[int, int], np.dtype[np.float32]]) -> None:
    """The products alone."""
    there = torch.from_numpy(vectors)
    with fixed():
        for row in range(0, len(there), BLOCK):
            for column in range(0, min(row + BLOCK, len(there)), BLOCK):
                _ = there[row : row + BLOCK] @ there[column : column + BLOCK].T


def cpu(what: object, *arguments: object) -> float:
    """CPU-seconds of a call, the best of three."""
    assert callable(what)
    best = float("inf")
    for _ in range(3):
        began = time.process_time()
        what(*arguments)
        best = min(best, time.process_time() - began)
    return best


def main() -> None:
    """One line a size."""
    print("members | ours, CPU-s | products, CPU-s | ratio | million pairs a CPU-s")
    for count in [int(text) for text in sys.argv[1:]] or [1000, 5000, 20_000]:
        vectors = members(count)
        ours = cpu(first_alike, vectors, 0.9, torch.device("cpu"))
        products = cpu(bare, vectors)
        print(f"{count} | {ours:.3f} | {products:.3f} | {ours / products:.2f} | {count * count / 2e6 / ours:.0f}")


if __name__ == "__main__":
    main()
