"""Rows on their way between tasks, through the run's own storage: an all-to-all exchange that any engine can run.

A task writes one file with a batch of rows for each part; a later task reads its batch of every file, so that it
holds one part.  A task that is repeated writes the same file again.  Bytes are written and read once (LZ4); files
are as many as tasks, requests tasks times parts.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pairsieve.pipelines.store import Store

Each: TypeAlias = Callable[[Callable[[Any], Any], Sequence[Any]], Iterator[Any]]
"""Runs a task on many items, in whatever processes; the built-in ``map`` is one."""


@dataclass(frozen=True)
class Part:
    """One part of what is exchanged."""

    index: int


@dataclass(frozen=True)
class File:
    """One file of several."""

    index: int
    name: str


def parts(count: int) -> list[Part]:
    """So many parts."""
    return [Part(i) for i in range(count)]


def share(values: NDArray[np.uint64], count: int) -> NDArray[np.int64]:
    """Which of ``count`` equal shares each value belongs to, by a hash: int64[n]."""
    mixed = (values ^ (values >> np.uint64(32))) * np.uint64(0x9E3779B97F4A7C15)
    return ((mixed >> np.uint64(33)) % np.uint64(count)).astype(np.int64)


def send(store: Store, name: str, rows: pa.Table, to: NDArray[Any], count: int) -> None:
    """Write a file with the rows for each of ``count`` parts: ``to[i]`` is the part of row i; rows keep their order."""
    to = to.astype(np.uint16) if count <= 1 << 16 else to  # which numpy sorts by radix
    order = np.argsort(to, kind="stable")
    edges = np.searchsorted(to[order], np.arange(count + 1))
    batch = rows.combine_chunks().take(pa.array(order)).combine_chunks()
    options = pa.ipc.IpcWriteOptions(compression="lz4")
    with (
        store.create(name, exclusive=False) as file,
        pa.ipc.new_file(file, batch.schema, options=options) as writer,
    ):
        for first, last in pairwise(edges):
            some = batch.slice(first, last - first).to_batches()
            writer.write_batch(some[0] if some else pa.RecordBatch.from_pylist([], schema=batch.schema))


def receive(store: Store, folder: str, part: int) -> pa.Table:
    """A part's rows of all files of a folder, by the names of the files; there must be a file."""
    batches = [_batch(store, f"{folder}/{name}", part) for name in store.names(folder, ".arrow")]
    return pa.Table.from_batches(batches).combine_chunks()


def write(store: Store, name: str, rows: pa.Table) -> None:
    """Write a file of one part."""
    send(store, name, rows, np.zeros(len(rows), np.int64), 1)


def read(store: Store, name: str) -> pa.Table:
    """A file of one part."""
    return pa.Table.from_batches([_batch(store, name, 0)])


def _batch(store: Store, name: str, part: int) -> pa.RecordBatch:
    if store.local:
        with pa.memory_map(store.path(name)) as file:
            return pa.ipc.open_file(file).get_batch(part)
    with store.fs.open(store.path(name), "rb") as file:
        return pa.ipc.open_file(file).get_batch(part)
