"""How many pairs a pool has, before it is read: exact where footers tell, else by the bytes of its head.

A footer costs about a millisecond; of text lists at most four files' first megabytes are read.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import fsspec

from pairsieve.pipelines.figures import Figure
from pairsieve.pipelines.parquet_source import open_source
from pairsieve.pipelines.plan import Plan
from pairsieve.pipelines.pool_img2dataset import Img2dataset
from pairsieve.pipelines.pool_urls import Urls
from pairsieve.pipelines.pools import Pool, ShardTask
from pairsieve.pipelines.text_lines import PACKINGS

HEAD = 1 << 20
"""Bytes read of a text file, as it is stored."""
SMALL = 16_000_000
"""A text pool of at most so many bytes is read to the end."""


@dataclass(frozen=True)
class PoolSize:
    """Rows (None where nothing tells), shards, bytes of the input files; and the rows that are known to be pairs."""

    rows: Figure | None
    shards: Figure | None
    bytes: int
    given: int | None = None


def spread(count: int, wanted: int) -> list[int]:
    """At most ``wanted`` of ``count`` places, evenly spread."""
    wanted = min(count, wanted)
    return [(2 * i + 1) * count // (2 * wanted) for i in range(wanted)]


def pool_size(pool: Pool, tasks: Sequence[ShardTask] | None, plan: Plan) -> PoolSize:
    """The size of a pool."""
    sizes = [int(pool.fs.info(path).get("size") or 0) for path in pool.files]
    given: int | None = None
    rows: Figure | None = None  # of tars only their indexes tell
    if tasks is not None and all(task.count is not None for task in tasks):
        count = sum(task.count or 0 for task in tasks)
        given = count if all(task.rows is not None for task in tasks) else None
        rows = Figure(count)
    elif isinstance(pool, Img2dataset) or (isinstance(pool, Urls) and pool.kind == "parquet"):
        rows = Figure(sum(_footer_rows(pool.fs, path) for path in pool.files))
    elif tasks is None and sum(sizes) <= SMALL and not any(path.endswith(tuple(PACKINGS)) for path in pool.files):
        reasons = [table["reason"] for table in pool.stream()]
        rows, given = Figure(sum(map(len, reasons))), sum(reason.null_count for reason in reasons)
    elif tasks is None:
        rows = _by_bytes(pool, sizes)
    return PoolSize(rows, _shards(rows, tasks, plan), sum(sizes), given)


def _shards(rows: Figure | None, tasks: Sequence[ShardTask] | None, plan: Plan) -> Figure | None:
    if tasks is not None:
        return Figure(len(tasks))
    if rows is None:
        return None
    return Figure(-(-rows.value // plan.recipe.pool.shard_rows), rows.kind)


def _footer_rows(fs: fsspec.AbstractFileSystem, path: str) -> int:
    with open_source(fs, path) as file:
        return int(file.metadata.num_rows)


def _by_bytes(pool: Pool, sizes: Sequence[int]) -> Figure:
    """Lines a byte in the heads of some files, times all bytes."""
    heads = [_head(pool.fs, pool.files[i]) for i in spread(len(pool.files), 4)]
    lines, read = sum(n for n, _ in heads), sum(size for _, size in heads)
    return Figure(sum(sizes) * lines / max(1, read), "about")


def _head(fs: fsspec.AbstractFileSystem, path: str) -> tuple[int, int]:
    """(lines, bytes as stored) of the first megabyte of a file."""
    with ExitStack() as stack:
        raw: Any = stack.enter_context(fs.open(path, "rb"))
        packing = PACKINGS.get(path.rsplit(".", 1)[-1].lower())
        plain: Any = raw if packing is None else stack.enter_context(packing(raw))
        lines = 0
        while raw.tell() < HEAD and (block := plain.read(65_536)):
            lines += block.count(b"\n")
        return lines, max(1, raw.tell())
