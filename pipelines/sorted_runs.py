"""Sorted runs of an external sort: Arrow files that are written once, and read slice by slice where they are needed."""

from collections.abc import Iterable

import pyarrow as pa
import pyarrow.ipc as ipc

from pairsieve.pipelines.store import Store

SLICE = 64
"""Rows of a record batch: a reader of some rows reads no more than this many besides."""


def write_run(store: Store, name: str, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> None:
    """Write ``<name>.arrow``; every batch but the last holds ``SLICE`` rows."""
    with store.create(f"{name}.arrow", exclusive=False) as file, ipc.new_file(file, schema) as out:
        for batch in batches:
            out.write_batch(batch)


def read_run(store: Store, run: str, start: int, rows: int) -> pa.Table:
    """Some rows of a run; only the slices that hold them are read."""
    name = store.path(f"{run}.arrow")
    with pa.memory_map(name) if store.local else store.fs.open(name, "rb") as file:
        reader = ipc.open_file(file)
        first, last = start // SLICE, (start + rows - 1) // SLICE
        table = pa.Table.from_batches([reader.get_batch(i) for i in range(first, last + 1)])
        return table.slice(start - first * SLICE, rows)
