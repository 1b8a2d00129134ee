"""Memory of batches: where it costs least to touch it for the first time.

A batch of 256 pictures is 38 MB that the allocator gives back to the system each time, and fresh pages of 4 KB cost as
much as copying a picture five times.  Workers write where the main process will read, so that nothing is copied there.
"""

import mmap
from math import prod

import torch
from torch.utils.data import get_worker_info

LARGE = 1 << 22
"""Bytes from which on huge pages pay."""


def new_bytes(*shape: int) -> torch.Tensor:
    """An uint8 tensor of any content: in a loader's worker in shared memory, else on huge pages where there are any."""
    size = prod(shape)
    if get_worker_info() is not None:
        shared = torch.UntypedStorage._new_shared(size)  # type: ignore[no-untyped-call]  # as torch's own collating
        return torch.empty(0, dtype=torch.uint8).set_(shared).view(shape)
    if size < LARGE or not hasattr(mmap, "MADV_HUGEPAGE"):
        return torch.empty(shape, dtype=torch.uint8)
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=torch.uint8).view(shape)
