"""Matrix products of embeddings: true float32, one thread, blocks of fixed shape.

The order of additions in a product depends on threads and shapes, so both are fixed: what a row gives
does not depend on its neighbours.  A CPU and a GPU differ in the last bits.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pairsieve.filters.base import Resources
from pairsieve.schemas.errors import UserError

if TYPE_CHECKING:
    import torch

Matrix = NDArray[np.float32]


def device_of(name: str) -> "torch.device":
    """The device of a setting; raises ``UserError`` where ``cuda`` is asked for and there is none."""
    import torch

    has_gpu = torch.cuda.is_available()
    if name == "cuda" and not has_gpu:
        raise UserError("device: cuda, but this worker has no GPU; write device: auto, or run where one is")
    return torch.device("cuda" if name != "cpu" and has_gpu else "cpu")


def resources_of(device: str) -> Resources:
    """What a worker needs for a setting: a GPU for ``cuda``, one where there is one for ``auto``."""
    return Resources(cpus=1, gpus=0.0 if device == "cpu" else 1.0, gpu_optional=device == "auto")


@contextmanager
def fixed() -> Iterator[None]:
    """No TF32, one thread, no gradients; the process's own settings come back."""
    import torch

    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    torch.set_num_threads(1)
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.inference_mode():
            yield
    finally:
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision(precision)


def blocks(rows: Matrix, size: int) -> Iterator[tuple[int, int, Matrix]]:
    """(first row, rows, block) of float32[size, d] blocks; the last is filled up with zeros."""
    for start in range(0, len(rows), size):
        part = rows[start : start + size]
        block = np.zeros((size, rows.shape[1]), np.float32)
        block[: len(part)] = part
        yield start, len(part), block
