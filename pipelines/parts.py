"""What a step measured for one shard: one Parquet file, or several where later runs measured more pairs.

``scores/<step>/00012.parquet`` is the first part, ``00012.1.parquet`` the next.  A part counts only
if its footer names the step's fingerprint and the shard's; any other is stale and is removed.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pairsieve.pipelines.plan import Step
from pairsieve.pipelines.pools import PoolShard
from pairsieve.pipelines.store import Store
from pairsieve.schemas import columns

GROUP_BYTES = 8_000_000
"""Row groups of image-bearing files: one sensible read."""
LIGHT_ROWS = 131_072


def part_name(step: str, shard: int, part: int) -> str:
    """File of one part."""
    return f"scores/{step}/{shard:05d}{f'.{part}' if part else ''}.parquet"


def footer(step: Step, shard: PoolShard) -> dict[str, str]:
    """What identifies a part: schema version, the step's fingerprint, the shard's."""
    return {
        "pairsieve.version": columns.VERSION,
        "pairsieve.step": step.fingerprint,
        "pairsieve.pairs": shard.fingerprint,
    }


class Parts:
    """The parts of one step and shard: which rows are measured, and their columns by row of the shard."""

    def __init__(self, store: Store, step: Step, shard: PoolShard) -> None:
        """Open the valid parts; remove stale and broken ones, with all that follow them."""
        self._store, self._step, self._shard = store, step, shard
        self._files = list(self._open())
        rows = [f.read(columns=["row"], use_threads=False)["row"].to_numpy() for f in self._files]
        self._rows: NDArray[np.int32] = np.concatenate(rows) if rows else np.empty(0, np.int32)
        self._starts = np.cumsum([0, *(len(r) for r in rows)])
        self._readers: dict[str, list[Forward]] = {}
        self.measured: NDArray[np.bool_] = np.zeros(shard.rows, bool)
        self.measured[self._rows] = True
        self._place = np.full(shard.rows, -1, np.int64)
        self._place[self._rows] = np.arange(len(self._rows))

    def _open(self) -> Iterator[pq.ParquetFile]:
        wanted = footer(self._step, self._shard)
        part = 0
        while self._store.exists(name := part_name(self._step.id, self._shard.index, part)):
            file = _valid(self._store, name, wanted)
            if file is None:
                self._remove_from(part)
                return
            yield file
            part += 1

    def _remove_from(self, part: int) -> None:
        while self._store.exists(name := part_name(self._step.id, self._shard.index, part)):
            self._store.remove(name)
            part += 1

    @property
    def next_name(self) -> str:
        """File of the next part."""
        return part_name(self._step.id, self._shard.index, len(self._files))

    def light(self, stored: str) -> pa.Array:
        """A light column for every row of the shard; null where it is not measured."""
        tables = [f.read(columns=[stored], use_threads=False)[stored] for f in self._files]
        kind = self._step.stored[stored]
        chunks = [chunk for column in tables for chunk in column.chunks]
        values = pa.concat_arrays(chunks) if chunks else pa.array([], kind)
        return values.take(pa.array(self._place, mask=self._place < 0))

    def heavy(self, stored: str, start: int, stop: int) -> pa.Array:
        """A heavy column for rows ``start`` to ``stop``; call with growing ranges."""
        readers = self._readers.setdefault(stored, [Forward(f, stored) for f in self._files])
        pieces, places = [], []
        for reader, first, last in zip(readers, self._starts, self._starts[1:], strict=False):
            rows = self._rows[first:last]
            low, high = (int(i) for i in np.searchsorted(rows, [start, stop]))
            pieces.append(reader.read(low, high))
            places.append(rows[low:high])
        return scatter(pieces, places, start, stop, self._step.stored[stored])

    def close(self) -> None:
        """Close all files."""
        for file in self._files:
            file.close()


def _valid(store: Store, name: str, wanted: Mapping[str, str]) -> pq.ParquetFile | None:
    try:
        file = store.parquet(name)
    except (pa.ArrowInvalid, OSError):
        return None
    found = {k.decode(): v.decode() for k, v in (file.schema_arrow.metadata or {}).items()}
    if all(found.get(key) == value for key, value in wanted.items()):
        return file
    file.close()
    return None


def scatter(
    pieces: Sequence[pa.Array], places: Sequence[NDArray[Any]], start: int, stop: int, kind: pa.DataType
) -> pa.Array:
    """Values by row from pieces that cover some rows each; null where none does."""
    index = np.full(stop - start, -1, np.int64)
    rows = np.concatenate(places) if places else np.empty(0, np.int64)
    index[rows - start] = np.arange(len(rows))
    values = pa.concat_arrays(pieces) if pieces else pa.array([], kind)
    return values.take(pa.array(index, mask=index < 0))


class Forward:
    """Rows of one column of a Parquet file, read forward; row groups that are skipped are not read."""

    def __init__(self, file: pq.ParquetFile, column: str) -> None:
        """Nothing is read yet."""
        sizes = [file.metadata.row_group(g).num_rows for g in range(file.metadata.num_row_groups)]
        self._file, self._column = file, column
        self._ends = np.cumsum([0, *sizes])
        self._group = -1
        self._held: pa.Array = pa.array([])

    def read(self, start: int, stop: int) -> pa.Array:
        """Rows ``start`` to ``stop`` of the file."""
        pieces = []
        for g in range(len(self._ends) - 1):
            low, high = max(start, int(self._ends[g])), min(stop, int(self._ends[g + 1]))
            if low < high:
                pieces.append(self._load(g).slice(low - int(self._ends[g]), high - low))
        return pa.concat_arrays(pieces) if pieces else pa.array([], self._kind())

    def _load(self, group: int) -> pa.Array:
        if group != self._group:
            table = self._file.read_row_group(group, columns=[self._column], use_threads=False)
            self._held, self._group = table[self._column].combine_chunks(), group
        return self._held

    def _kind(self) -> pa.DataType:
        return self._file.schema_arrow.field(self._column).type


class PartWriter:
    """Writes a new part; it appears under its name when all is written, unless another writer was first."""

    def __init__(self, store: Store, step: Step, shard: PoolShard, name: str) -> None:
        """Nothing is opened before the first row."""
        self._store, self._name = store, name
        self._schema = columns.scores(step.stored).with_metadata(footer(step, shard))
        self._stack = ExitStack()
        self._writer: pq.ParquetWriter | None = None
        self._held: list[pa.RecordBatch] = []
        self._bytes = 0
        self._rows = 0
        self.rows = 0

    def write(self, batch: pa.RecordBatch) -> None:
        """Add rows; columns as in the schema."""
        self._held.append(batch)
        self._rows += batch.num_rows
        self._bytes += batch.nbytes
        self.rows += batch.num_rows
        if self._bytes >= GROUP_BYTES or self._rows >= LIGHT_ROWS:
            self._flush()

    def _flush(self) -> None:
        if self._held:
            table = pa.Table.from_batches(self._held, self._schema)
            self._open().write_table(table, row_group_size=_group_rows(table))
        self._held, self._bytes, self._rows = [], 0, 0

    def _open(self) -> pq.ParquetWriter:
        if self._writer is None:
            file: IO[bytes] = self._stack.enter_context(self._store.create(self._name, exclusive=True))
            self._writer = self._stack.enter_context(parquet_writer(file, self._schema))
        return self._writer

    def __enter__(self) -> "PartWriter":
        """The writer."""
        return self

    def __exit__(self, *error: Any) -> None:
        """Commit, or leave nothing behind after an error."""
        if error[0] is None:
            self._flush()
        self._stack.__exit__(*error)


def parquet_writer(file: IO[bytes], schema: pa.Schema) -> pq.ParquetWriter:
    """Heavy columns plain and uncompressed (image bytes do not compress), the others zstd."""
    light = [f.name for f in schema if not columns.is_heavy(f.type)]
    compression = {f.name: "zstd" if f.name in light else "none" for f in schema}
    nested = [f.name for f in schema if pa.types.is_nested(f.type)]
    return pq.ParquetWriter(
        file,
        schema,
        compression="zstd" if nested else compression,  # nested columns are named by their leaves
        use_dictionary=columns.repeating(schema),
        write_page_index=True,
    )


def _group_rows(table: pa.Table) -> int:
    """Rows of a row group of about ``GROUP_BYTES``."""
    mean = max(1, table.nbytes // max(1, table.num_rows))
    return int(min(LIGHT_ROWS, max(64, GROUP_BYTES // mean)))
