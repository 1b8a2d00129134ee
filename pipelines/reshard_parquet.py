"""Parquet shards as a source of samples: img2dataset's, or those of a run's ``dataset/``.

The uids are read first; of the row groups only those that hold a wanted sample.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pairsieve.pipelines.dataset_spill import RUN_BYTES
from pairsieve.pipelines.parquet_source import as_text, as_type, batches, open_source, plain_types, read_groups
from pairsieve.pipelines.pool_pairs import check_images
from pairsieve.pipelines.pools import outer_names, pick
from pairsieve.pipelines.reshard_flaws import NO_IMAGE
from pairsieve.pipelines.reshard_sources import Member, Rows, Source, Stretch, as_uid, row_members
from pairsieve.pipelines.store import filesystem
from pairsieve.schemas import uid
from pairsieve.schemas.columns import IMAGE, is_heavy
from pairsieve.schemas.errors import PoolError


def parquet_columns(url: str) -> dict[str, tuple[str, pa.DataType]]:
    """Column of a training shard -> (column of the source, type), from the head of the first file."""
    fs, path = filesystem(url)
    with open_source(fs, path) as file:
        types = plain_types(file.schema_arrow, path)
    names = list(types)
    if "uid" not in names:
        raise PoolError(f"{path}: no column 'uid'; a subset names samples by their uid: download with it, as DataComp")
    image = str(pick(IMAGE, names, "image column", path, ("jpg", "jpeg", "png", "webp")))
    check_images(image, types[image], path)
    text = str(pick("text", names, "caption column", path, ("caption", "txt")))
    others = [name for name in names if name not in (image, text, "uid")]
    found = {IMAGE: (image, pa.binary()), "text": (text, pa.string())}
    return found | {ours: (theirs, types[theirs]) for theirs, ours in outer_names(others, path).items()}


class ParquetSource(Source):
    """One open Parquet file."""

    def __init__(self, file: pq.ParquetFile, path: str, columns: Mapping[str, tuple[str, pa.DataType]]) -> None:
        """Read the uids; raises ``PoolError`` for a broken file, or one without the columns of the first."""
        self._file, self._path, self._columns = file, path, columns
        for theirs in ("uid", *(name for name, _ in columns.values())):
            if theirs not in file.schema_arrow.names:
                raise PoolError(f"{path}: no column {theirs!r}, which the first file has; leave it out")
        sizes = [file.metadata.row_group(g).num_rows for g in range(file.metadata.num_row_groups)]
        self._ends = np.cumsum([0, *sizes])
        table = read_groups(file, range(len(sizes)), ["uid"], path)
        self.numbers, self.has_uid = _numbers(as_text(table["uid"].combine_chunks(), f"{path}: column 'uid'"))

    def name(self, row: int) -> str:
        return f"row {row}"

    def stretches(self, rows: Rows) -> Iterator[Stretch]:
        held: list[pa.Table] = []
        start = 0
        for group in np.unique(np.searchsorted(self._ends, rows, side="right") - 1).tolist():
            at = int(self._ends[group])
            names = [theirs for theirs, _ in self._columns.values()]
            for batch in batches(self._file, self._path, 256, row_groups=[group], columns=list(dict.fromkeys(names))):
                if held and (start + sum(map(len, held)) != at or sum(t.nbytes for t in held) >= RUN_BYTES):
                    yield ParquetStretch(start, pa.concat_tables(held))
                    held = []
                start = start if held else at
                held.append(self._fit(batch))
                at += batch.num_rows
        if held:
            yield ParquetStretch(start, pa.concat_tables(held))

    def _fit(self, batch: pa.RecordBatch) -> pa.Table:
        """Columns by our names and in the first file's types."""
        found = {}
        for ours, (theirs, kind) in self._columns.items():
            values = batch[theirs]
            if ours == IMAGE:
                found[ours] = _images(values)
            else:
                found[ours] = as_type(values, kind, f"{self._path}: column {theirs!r}")
        return pa.table(found)


class ParquetStretch(Stretch):
    """Some rows in memory."""

    def __init__(self, start: int, table: pa.Table) -> None:
        """Row ``start`` of the file is the first of the table."""
        self.start, self.stop = start, start + len(table)
        self._table = table.combine_chunks()
        self._light = [f.name for f in table.schema if f.name == IMAGE or not is_heavy(f.type)]

    def flaw(self, row: int, number: str) -> str | None:
        return None if self._table[IMAGE][row - self.start].is_valid else NO_IMAGE

    def members(self, row: int, number: str) -> list[Member]:
        found: dict[str, Any] = self._table.select(self._light).slice(row - self.start, 1).to_pylist()[0]
        return row_members(found, number)

    def table(self, rows: Rows) -> pa.Table:
        return self._table.take(pa.array(rows - self.start))


def _numbers(values: pa.Array) -> tuple[NDArray[np.void], NDArray[np.bool_]]:
    """uids as numbers; and where they are uids at all."""
    try:
        return uid.to_numbers(values), np.ones(len(values), bool)
    except ValueError:
        found = [as_uid(value) for value in values.to_pylist()]
    has_uid = np.array([value is not None for value in found], bool)
    return uid.to_numbers(pa.array([value or "0" * 32 for value in found], pa.string())), has_uid


def _images(values: pa.Array) -> pa.Array:
    """Image bytes, also from {bytes, path} structs as Hugging Face datasets write them."""
    if pa.types.is_struct(values.type):
        values = pc.struct_field(values, "bytes")
    return values.cast(pa.large_binary())
