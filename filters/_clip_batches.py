"""Rows of one shape on their way through one tower of a model: collected, padded, run, handed back.

Every batch has the same shape, the last one too, so that a row's bits do not depend on how many others came with it.
On a GPU rows are collected in pinned memory, copied beside the computing, and fetched when a later batch is on its
way: the caller waits only where it is three batches ahead.  Where the device's memory does not hold a batch, it is run
in halves from then on; scores of other shapes may differ in the last bit.
"""

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pairsieve.filters._products import fixed
from pairsieve.schemas.errors import UserError

if TYPE_CHECKING:
    import torch

SLOTS = 3
"""Batches on a GPU's way: one that is collected, one that is copied, one that is computed."""

Encode = Callable[["torch.Tensor"], "torch.Tensor"]


@dataclass
class Rows:
    """Where embeddings arrive: float32[n, d], NaN where none was asked for, and how many are still on their way."""

    count: int
    missing: int = 0
    values: NDArray[np.float32] | None = None

    def part(self, at: NDArray[np.int64] | slice) -> "Rows":
        """Some of those that have arrived."""
        return Rows(len(np.arange(self.count)[at]), 0, None if self.values is None else self.values[at])

    def take(self, at: NDArray[np.int64], found: NDArray[np.float32]) -> None:
        """Some that have arrived."""
        if self.values is None:
            self.values = np.full((self.count, found.shape[1]), np.nan, np.float32)
        self.values[at] = found
        self.missing -= len(at)


@dataclass
class _Slot:
    """Memory for a batch, on the host and on the device, and the rows in it: (first, last, where to, which there)."""

    host: "torch.Tensor"
    device: "torch.Tensor"
    filled: int = 0
    owners: list[tuple[int, int, Rows, NDArray[np.int64]]] = field(default_factory=list)
    result: "torch.Tensor | None" = None
    done: Any = None


class Batches:
    """Batches of ``size`` rows of ``shape`` through ``encode``, which gives float32[n, d]."""

    def __init__(self, encode: Encode, shape: tuple[int, ...], dtype: Any, size: int, device: "torch.device") -> None:
        """Memory is taken at the first row."""
        self._encode, self._device, self.size = encode, device, size
        self._shape, self._dtype = (size, *shape), dtype
        self._free: deque[_Slot] = deque()
        self._running: deque[_Slot] = deque()
        self._slots, self._rows = 0, size

    @property
    def rows_at_once(self) -> int:
        """Rows that the device is given: ``size``, or what is left of it when its memory was too small."""
        return self._rows

    def put(self, rows: NDArray[Any], to: Rows, at: NDArray[np.int64]) -> None:
        """Take rows whose embeddings go to places ``at``; full batches are run."""
        to.missing += len(at)
        done = 0
        while done < len(rows):
            slot = self._slot()
            count = min(self.size - slot.filled, len(rows) - done)
            slot.host.numpy()[slot.filled : slot.filled + count] = rows[done : done + count]
            slot.owners.append((slot.filled, slot.filled + count, to, at[done : done + count]))
            slot.filled, done = slot.filled + count, done + count
            if slot.filled == self.size:
                self._run_or_forget()

    def flush(self) -> None:
        """Run what is collected, padded by whatever lies there, and hand back everything."""
        if self._free and self._free[0].filled:
            self._run_or_forget()
        while self._running:
            self._collect()

    def reset(self) -> None:
        """Forget rows of a caller who did not come back."""
        while self._running:
            self._collect()
        for slot in self._free:
            slot.filled, slot.owners = 0, []

    def _slot(self) -> _Slot:
        """The one to be filled; waits for the device where it is far behind."""
        if not self._free:
            most = SLOTS if self._device.type == "cuda" else 1
            if self._slots < most:
                self._free.append(self._new())
                self._slots += 1
            else:
                self._collect()
        return self._free[0]

    def _new(self) -> _Slot:
        import torch

        is_cuda = self._device.type == "cuda"
        host = torch.zeros(self._shape, dtype=self._dtype, pin_memory=is_cuda)
        slot = _Slot(host, torch.empty(self._shape, dtype=self._dtype, device=self._device) if is_cuda else host)
        if is_cuda:  # the memory may still be in use by what ran before; the copies are on a stream of their own
            torch.cuda.synchronize(self._device)
        return slot

    def _run_or_forget(self) -> None:
        """Run the collected batch; one that fails is gone, so that the next caller finds room."""
        try:
            self._run()
        except BaseException:
            self.reset()
            raise

    def _run(self) -> None:
        """Send the collected batch on its way; on a CPU it has arrived then."""
        import torch

        slot = self._free[0]
        if self._device.type != "cuda":
            slot.result = self._encoded(slot.device)
            self._running.append(self._free.popleft())
            self._collect()
            return
        copies = _copies(self._device)
        with torch.cuda.stream(copies):
            slot.device.copy_(slot.host, non_blocking=True)
        torch.cuda.current_stream(self._device).wait_stream(copies)
        found = self._encoded(slot.device)
        slot.result = torch.empty(found.shape, dtype=torch.float32, pin_memory=True)
        slot.result.copy_(found, non_blocking=True)
        slot.done = torch.cuda.Event()  # type: ignore[no-untyped-call]
        slot.done.record()
        self._running.append(self._free.popleft())

    def _encoded(self, batch: "torch.Tensor") -> "torch.Tensor":
        """Embeddings of a batch, in as many parts as the device's memory asks for."""
        import torch

        while True:
            try:
                with repeatable():
                    found = [self._encode(part) for part in torch.split(batch, self._rows)]
                    return found[0] if len(found) == 1 else torch.cat(found)
            except torch.OutOfMemoryError as error:
                if self._rows == 1:
                    why = str(error).split("\n")[0]
                    raise UserError(f"the model does not fit into the device's memory with one pair: {why}") from None
                self._rows //= 2
            if self._device.type == "cuda":  # outside of the handler, which holds on to what did not fit
                torch.cuda.empty_cache()

    def _collect(self) -> None:
        """Hand back the rows of the oldest batch."""
        slot = self._running.popleft()
        if slot.done is not None:
            slot.done.synchronize()
        assert slot.result is not None
        found = slot.result.numpy()
        for first, last, to, at in slot.owners:
            to.take(at, found[first:last])
        slot.filled, slot.owners, slot.result, slot.done = 0, [], None, None
        self._free.append(slot)


@contextmanager
def repeatable() -> Iterator[None]:
    """True float32, one thread, no algorithm chosen by a stopwatch; the process's own settings come back."""
    import torch

    with fixed(), torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
        yield


@cache
def _copies(device: "torch.device") -> Any:
    """The stream on which a process copies to a device."""
    import torch

    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
