"""Datasets to train from, in row groups of any size, and what a loader hands out of them."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import strategies as st

from pairsieve.pipelines.feed_order import Layout, Order
from pairsieve.pipelines.feed_plan import Piece, Topology, divide
from pairsieve.pipelines.store import Store
from pairsieve.schemas import columns
from pairsieve.schemas.run import DatasetFile, DatasetManifest
from tests.support_phash import encoded, scene

FAR = 1 << 60
"""A window that holds anything."""


def uid_of(number: int) -> str:
    """The uid of a numbered row."""
    return f"{number:032x}"


def pictures(count: int, side: int = 40) -> list[bytes]:
    """Small JPEGs, eight different ones of several shapes in turn."""
    few = [encoded(scene(i, side + 3 * i, side + 20 - 2 * i), quality=85) for i in range(8)]
    return [few[i % len(few)] for i in range(count)]


def write_dataset(
    folder: str | Path, groups: Sequence[Sequence[int]], images: Sequence[bytes | None] = (), **more: pa.Array
) -> str:
    """``dataset/`` of a run, as ``pipelines.dataset`` writes it: a file for each list of rows of its groups.

    Row n has ``uid_of(n)``, the text ``text n`` and, where none are given, an image of the bytes ``image n``.
    """
    store, files, at = Store(str(folder)), [], 0
    rows = sum(map(sum, groups))
    texts = pa.array([f"text {i}" for i in range(rows)])
    pixels = pa.array(images or [f"image {i}".encode() for i in range(rows)], pa.binary())
    whole = pa.table({"uid": [uid_of(i) for i in range(rows)], "image": pixels, "text": texts, **more})
    schema = columns.dataset({field.name: field.type for field in whole.schema})
    for number, sizes in enumerate(groups):
        table = whole.slice(at, sum(sizes)).select(schema.names)
        files.append(_write_file(store, f"{number:05d}.parquet", table.cast(schema), sizes))
        at += sum(sizes)
    manifest = DatasetManifest(
        version=columns.VERSION,
        fingerprint=hashlib.sha256(repr((groups, schema)).encode()).hexdigest()[:32],
        seed=0,
        rows=rows,
        columns={field.name: str(field.type) for field in schema},
        files=tuple(files),
    )
    store.write_json("dataset/_manifest.json", manifest.model_dump(mode="json"))
    return str(folder)


def _write_file(store: Store, name: str, table: pa.Table, sizes: Sequence[int]) -> DatasetFile:
    at = 0
    with store.create_sealed(f"dataset/{name}", table.schema, {"pairsieve.version": columns.VERSION}) as writer:
        for rows in sizes:
            writer.write_table(table.slice(at, rows).combine_chunks(), row_group_size=rows)
            at += rows
    size = store.content(f"dataset/{name}").size
    return DatasetFile(file=name, rows=at, row_groups=tuple(sizes), bytes=table.nbytes, size=size, checksum="")


def numbers(batches: Iterable[Mapping[str, Any]]) -> list[list[int]]:
    """The rows of each batch."""
    return [[int(uid, 16) for uid in batch["uid"]] for batch in batches]


def flat(lists: Iterable[Sequence[int]]) -> list[int]:
    """All of them."""
    return [number for one in lists for number in one]


def layouts(most: int = 30) -> st.SearchStrategy[Layout]:
    """Row groups of up to 9 rows, each of 10 bytes."""
    sizes = st.lists(st.integers(1, 9), min_size=1, max_size=most)
    return sizes.map(lambda rows: Layout(np.array(rows), 10 * np.array(rows)))


def topologies() -> st.SearchStrategy[Topology]:
    """Few ranks and workers, small batches."""
    return st.builds(Topology, st.integers(1, 4), st.integers(1, 4), st.integers(1, 7), st.booleans())


def order_of(layout: Layout, window: int, **settings: Any) -> Order:
    """An epoch's order."""
    return Order(layout, settings.pop("seed", 1), settings.pop("epoch", 2), window, **settings)


def rows_in(order: Order, pieces: Iterable[Piece]) -> list[int]:
    """The dataset's rows that some pieces hand out, in order."""
    found = []
    for piece in pieces:
        for chunk in order.chunks(piece):
            starts = order.layout.starts[order.groups[chunk.entries.slots]]
            found += (starts + chunk.entries.rows).tolist()
    return found


def streams(
    order: Order, pieces: Sequence[Piece], topology: Topology, steps: int | None = None
) -> list[list[list[int]]]:
    """Of each rank the batches of its first steps: from its workers in turn, as torch's loader takes them."""
    division, rows = divide(pieces, topology), sum(piece.rows for piece in pieces)
    batches = topology.batches(rows)
    found = []
    for shares in division.shares:
        cut = [_batched(rows_in(order, share), topology.batch_size) for share in shares]
        found.append([cut[i % topology.workers][i // topology.workers] for i in range(batches)][:steps])
    return found


def _batched(rows: list[int], size: int) -> list[list[int]]:
    return [rows[i : i + size] for i in range(0, len(rows), size)]
