"""Zero-shot labels and heads on stored embeddings: CPU-µs a pair, one thread.

    python -m tests.benchmarks.embeddings [pairs]

Random embeddings (float16), class vectors and weights of the published shapes; the best of five rounds, after the file
is read.
"""

import sys
import time
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa

from pairsieve.filters.aesthetic import Aesthetic
from pairsieve.filters.base import AnyFilter
from pairsieve.filters.nsfw import Nsfw
from pairsieve.filters.zero_shot import ZeroShot

AESTHETIC = (768, 1024, 128, 64, 16, 1)
NSFW = {"B/32": (512, 32, 32, 1), "L/14": (768, 64, 512, 256, 1)}


def main() -> None:
    """Print a line for each."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 65_536
    with TemporaryDirectory() as name:
        folder = Path(name)
        for labels in (10, 1000):
            classes = write(folder / f"classes{labels}.npy", np.random.default_rng(1).standard_normal((labels, 768)))
            made = ZeroShot(labels=tuple(f"label {i}" for i in range(labels)), classes=classes, device="cpu")
            said(f"zero_shot, {labels} labels", made, 768, count)
        said("aesthetic, linear", Aesthetic(weights=head(folder, (768, 1)), device="cpu"), 768, count)
        said("aesthetic, MLP", Aesthetic(weights=head(folder, AESTHETIC), device="cpu"), 768, count)
        for model, shape in NSFW.items():
            said(f"nsfw, {model}", Nsfw(weights=head(folder, shape), device="cpu"), shape[0], count)


def write(path: Path, values: np.ndarray) -> str:
    """A file of vectors."""
    np.save(path, values.astype(np.float32))
    return str(path)


def head(folder: Path, widths: tuple[int, ...]) -> str:
    """A file of layers of these widths."""
    rng, arrays = np.random.default_rng(2), {}
    for i, (before, after) in enumerate(pairwise(widths)):
        arrays[f"layers.{2 * i}.weight"] = (rng.standard_normal((after, before)) / before**0.5).astype(np.float32)
        arrays[f"layers.{2 * i}.bias"] = np.zeros(after, np.float32)
    path = folder / f"{'-'.join(map(str, widths))}.npz"
    np.savez(path, **arrays)
    return str(path)


def said(what: str, made: AnyFilter, width: int, count: int) -> None:
    """Time ``score``."""
    made.open()
    vectors = np.random.default_rng(0).standard_normal((count, width)).astype(np.float16)
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), width)
    pairs = pa.record_batch({"clip_image": column})
    took = []
    for _ in range(5):
        began = time.process_time()
        for start in range(0, count, made.batch_rows):
            made.score(pairs.slice(start, made.batch_rows))
        took.append(time.process_time() - began)
    print(f"{what:<24} {1e6 * min(took) / count:8.2f} CPU-µs a pair", flush=True)


if __name__ == "__main__":
    main()
