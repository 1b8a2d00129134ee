"""What a step measured for one shard: one Parquet file, or several where later runs measured more pairs.

``scores/<step>/00012.parquet`` is the first part, ``00012.1.parquet`` the next.  A part counts only
if its footer names the step's fingerprint and the shard's, and its checksum holds; any other is removed.
The footer also says in JSON what the fingerprint covers (``pairsieve.measured``), so a stale file can say why, and
which rows the step left for the tail pass (``pairsieve.left``), so that a run that continues does not ask for them
with little patience once more.
"""

import base64
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pairsieve.pipelines.pools import PoolShard
from pairsieve.pipelines.step import Step
from pairsieve.pipelines.store import Store
from pairsieve.schemas import columns
from pairsieve.schemas.errors import DamagedFileError

GROUP_BYTES = 8_000_000
"""Row groups of image-bearing files: one sensible read."""
LIGHT_ROWS = 131_072
LEFT_KEY = "pairsieve.left"


def part_name(step: str, shard: int, part: int) -> str:
    """File of one part."""
    return f"scores/{step}/{shard:05d}{f'.{part}' if part else ''}.parquet"


def footer(step: Step, shard: PoolShard) -> dict[str, str]:
    """What identifies a part: schema version, the step's fingerprint and what it covers, the shard's fingerprint."""
    return {
        "pairsieve.version": columns.VERSION,
        "pairsieve.step": step.fingerprint,
        "pairsieve.measured": step.identity,
        "pairsieve.pairs": shard.fingerprint,
    }


class Parts:
    """The parts of one step and shard: which rows are measured, and their columns by row of the shard."""

    def __init__(self, store: Store, step: Step, shard: PoolShard) -> None:
        """Open the valid parts; remove stale and broken ones, with all that follow them."""
        self._store, self._step, self._shard = store, step, shard
        self._files = list(self._open())
        self._light = self._read_light()
        self._rows: NDArray[np.int32] = self._light["row"].to_numpy()
        self._starts = np.cumsum([0, *(f.metadata.num_rows for f in self._files)])
        self._readers: dict[tuple[str, str], list[Forward]] = {}
        self.measured: NDArray[np.bool_] = np.zeros(shard.rows, bool)
        self.measured[self._rows] = True
        self.left = _left(self._files, shard.rows) & ~self.measured
        is_whole = len(self._files) == 1 and len(self._rows) == shard.rows
        self._place = None if is_whole else self._places()

    def _open(self) -> Iterator[pq.ParquetFile]:
        part = 0
        while self._store.exists(name := part_name(self._step.id, self._shard.index, part)):
            file = valid(self._store, name, self._step, self._shard)
            if file is None:
                self._remove_from(part)
                return
            yield file
            part += 1

    def _remove_from(self, part: int) -> None:
        while self._store.exists(name := part_name(self._step.id, self._shard.index, part)):
            self._store.remove(name)
            part += 1

    def _read_light(self) -> pa.Table:
        """Everything small, in one read a file: what verdicts compare."""
        schema = pa.schema([columns.ROW, *(pa.field(n, self._step.stored[n]) for n in self._step.light)])
        tables = [f.read(columns=schema.names, use_threads=False).select(schema.names) for f in self._files]
        return pa.concat_tables([schema.empty_table(), *(t.cast(schema) for t in tables)]).combine_chunks()

    def _places(self) -> pa.Array:
        """Where in the files each row of the shard is; null where it is not measured."""
        place = np.full(self._shard.rows, -1, np.int64)
        place[self._rows] = np.arange(len(self._rows))
        return pa.array(place, mask=place < 0)

    @property
    def next_name(self) -> str:
        """File of the next part."""
        return part_name(self._step.id, self._shard.index, len(self._files))

    def light(self, stored: str) -> pa.Array:
        """A light column for every row of the shard; null where it is not measured."""
        values = self._light[stored].combine_chunks()
        return values if self._place is None else values.take(self._place)

    def heavy(self, stored: str, start: int, stop: int, by: str) -> pa.Array:
        """A heavy column for rows ``start`` to ``stop``; who reads calls with growing ranges."""
        readers = self._readers.setdefault((by, stored), [Forward(f, stored) for f in self._files])
        pieces, places = [], []
        for reader, first, last in zip(readers, self._starts, self._starts[1:], strict=False):
            rows = self._rows[first:last]
            low, high = (int(i) for i in np.searchsorted(rows, [start, stop]))
            pieces.append(reader.read(low, high))
            places.append(rows[low:high])
        return scatter(pieces, places, start, stop, self._step.stored[stored])

    def remove(self) -> None:
        """Close and remove all parts: one of them proved damaged while it was read."""
        self.close()
        self._remove_from(0)

    def close(self) -> None:
        """Close all files."""
        for file in self._files:
            file.close()


def _left(files: Sequence[pq.ParquetFile], rows: int) -> NDArray[np.bool_]:
    """The rows that the step left when these files were written, bool[rows]."""
    found = np.zeros(rows, bool)
    for file in files:
        if packed := (file.metadata.metadata or {}).get(LEFT_KEY.encode()):
            bits = np.frombuffer(zlib.decompress(base64.b64decode(packed)), np.uint8)
            found |= np.unpackbits(bits, count=rows).astype(bool)
    return found


def valid(store: Store, name: str, step: Step, shard: PoolShard) -> pq.ParquetFile | None:
    """A part that counts, opened; None for one that is stale or damaged."""
    try:
        file = store.sealed(name, step.is_light)
    except (DamagedFileError, pa.ArrowInvalid):
        return None
    found = {k.decode(): v.decode() for k, v in (file.metadata.metadata or {}).items() if k.startswith(b"pairsieve.")}
    names = [*columns.PLACE, *step.stored]  # another step of the same filter may have changed them
    if file.schema_arrow.names == names and all(found.get(k) == value for k, value in footer(step, shard).items()):
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
        self.part = int(name.rsplit("/", 1)[-1].split(".")[1]) if name.count(".") > 1 else 0
        self._schema = columns.scores(step.stored)
        self._footer = footer(step, shard)
        self._stack = ExitStack()
        self._writer: pq.ParquetWriter | None = None
        self._held: list[pa.RecordBatch] = []
        self._bytes = 0
        self._rows = 0
        self._left = np.zeros(shard.rows, bool)
        self.rows = self.bytes = 0

    def leave(self, rows: NDArray[np.int64]) -> None:
        """Rows of the shard that the step left for later; they are noted where a part is written at all."""
        self._left[rows] = True

    def write(self, batch: pa.RecordBatch) -> None:
        """Add rows; columns as in the schema."""
        self._held.append(batch)
        self._rows += batch.num_rows
        self._bytes += batch.nbytes
        self.rows += batch.num_rows
        self.bytes += batch.nbytes
        if self._bytes >= GROUP_BYTES or self._rows >= LIGHT_ROWS:
            self._flush()

    def _flush(self) -> None:
        if self._held:
            table = pa.Table.from_batches(self._held, self._schema)
            self._open().write_table(table, row_group_size=_group_rows(table))
        self._held, self._bytes, self._rows = [], 0, 0

    def _open(self) -> pq.ParquetWriter:
        if self._writer is None:
            self._writer = self._stack.enter_context(self._store.create_sealed(self._name, self._schema, self._footer))
        return self._writer

    def __enter__(self) -> "PartWriter":
        """The writer."""
        return self

    def __exit__(self, *error: Any) -> None:
        """Commit, or leave nothing behind after an error."""
        if error[0] is not None:
            self._stack.__exit__(*error)
            return
        with self._stack:  # the last rows may find the disk full
            self._flush()
            if self._left.any():
                packed = zlib.compress(np.packbits(self._left).tobytes())
                self._footer[LEFT_KEY] = base64.b64encode(packed).decode()


def _group_rows(table: pa.Table) -> int:
    """Rows of a row group of about ``GROUP_BYTES``."""
    mean = max(1, table.nbytes // max(1, table.num_rows))
    return int(min(LIGHT_ROWS, max(64, GROUP_BYTES // mean)))
