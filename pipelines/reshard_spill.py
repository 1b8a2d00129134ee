"""Read one input shard once, and leave the samples that a subset wants as sorted runs.

Cost of a tar: 10 to 20 µs a sample for its headers and uid, and a copy of what is wanted.
"""

import json
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Literal

import numpy as np
import pyarrow as pa
import xxhash
from numpy.typing import NDArray

from pairsieve.pipelines.parquet_source import open_source
from pairsieve.pipelines.reshard_flaws import Flaws
from pairsieve.pipelines.reshard_inputs import Input, local_copy
from pairsieve.pipelines.reshard_parquet import ParquetSource
from pairsieve.pipelines.reshard_sources import Rows, Source, Stretch, TarSource
from pairsieve.pipelines.reshard_subset import Subset
from pairsieve.pipelines.sorted_runs import SLICE, write_run
from pairsieve.pipelines.storage_errors import first_line, is_exhausted
from pairsieve.pipelines.store import Store, filesystem
from pairsieve.pipelines.tar_scan import open_tar
from pairsieve.pipelines.tar_write import entry
from pairsieve.schemas import uid
from pairsieve.schemas.errors import PoolError

Format = Literal["tar", "parquet"]
Columns = Mapping[str, tuple[str, pa.DataType]]
"""Column of a training shard -> (column of the source, type)."""
PAYLOAD = "payload"
"""Column of a run for tars: a sample as it will stand in the archive."""
HEAD = (("_key", pa.uint64()), ("uid", pa.string()), ("copy", pa.int32()))
"""Columns that every run begins with, and is sorted by."""


@dataclass(frozen=True)
class Taken:
    """What one input shard gave: runs, samples in it, samples taken, those it holds twice, those that cannot be used.

    A sample without a uid is among the latter, whether or not it was wanted: nobody knows.  ``flawed``
    names the first few of each flaw.
    ``checksum`` is the XXH3-128 of the file.  ``error`` says why the shard cannot be read.
    """

    runs: tuple[str, ...] = ()
    samples: int = 0
    taken: int = 0
    repeated: int = 0
    flaws: Mapping[str, int] = field(default_factory=dict)
    flawed: Mapping[str, Sequence[str]] = field(default_factory=dict)
    checksum: str = ""
    error: str | None = None


@dataclass(frozen=True)
class Wanted:
    """The samples of a shard that the subset names: row, uid, first record, number of copies."""

    rows: Rows
    uids: tuple[str, ...]
    first: NDArray[np.int64]
    count: NDArray[np.int64]

    def within(self, start: int, stop: int) -> "Wanted":
        """Those of some rows."""
        return self.at(np.flatnonzero((self.rows >= start) & (self.rows < stop)))

    def at(self, places: NDArray[np.int64]) -> "Wanted":
        """Some of them."""
        uids = tuple(self.uids[i] for i in places.tolist())
        return Wanted(self.rows[places], uids, self.first[places], self.count[places])

    def new(self, seen: set[int]) -> "Wanted":
        """The first of each uid that is not in ``seen``, by its first record, where it is put."""
        place = {first: i for i, first in reversed(list(enumerate(self.first.tolist()))) if first not in seen}
        seen.update(place)
        return self.at(np.array(sorted(place.values()), np.int64))


@dataclass
class Spill:
    """Leave the wanted samples of a shard as runs below ``folder``; ``columns`` where the output is Parquet."""

    store: Store
    subset: Subset
    folder: str
    seed: int
    format: Format
    columns: Columns

    def __call__(self, shard: Input) -> Taken:
        """What a stopped job has left, or read the shard; one that cannot be read is tried again by the next job."""
        note = f"{self.folder}/{shard.key}.json"
        if self.store.exists(note):
            found = json.loads(self.store.read(note))
            return Taken(**{**found, "runs": tuple(found["runs"])})
        try:
            taken = self._read(shard)
        except (tarfile.TarError, PoolError, OSError, ValueError, IndexError, RecursionError, EOFError) as error:
            if is_exhausted(error):
                raise
            return Taken(error=first_line(error))
        self.store.write_json(note, asdict(taken))
        return taken

    def _read(self, shard: Input) -> Taken:
        with local_copy(shard.url) as path, self._open(path, shard) as (source, checksum):
            wanted = self._wanted(source)
            flaws = Flaws()
            for row in np.flatnonzero(~source.has_uid).tolist():
                flaws.add(source.nameless(row), source.name(row))
            runs: list[str] = []
            usable, seen = 0, set[int]()
            for stretch in source.stretches(wanted.rows):
                found = _usable(stretch, wanted.within(stretch.start, stretch.stop), flaws, source)
                usable += len(found.rows)
                part = found.new(seen)
                if len(part.rows):
                    runs.append(f"{self.folder}/{shard.key}-{len(runs)}")
                    self._write(runs[-1], stretch, part)
            counts = (len(source.has_uid), len(seen), usable - len(seen))
            return Taken(tuple(runs), *counts, flaws.counts, flaws.names, checksum)

    @contextmanager
    def _open(self, path: str, shard: Input) -> Iterator[tuple[Source, str]]:
        """The source, and the digest of its file."""
        if not shard.name.lower().endswith(".tar"):
            fs, _ = filesystem(path)
            with open_source(fs, path) as file, pa.memory_map(path) as content:
                digest = xxhash.xxh3_128_hexdigest(content.read_buffer())
                yield ParquetSource(file, path, self.columns), digest
            return
        with open_tar(path) as content:
            yield TarSource(content), xxhash.xxh3_128_hexdigest(content)

    def _wanted(self, source: Source) -> Wanted:
        """What the subset names, in the order of the shard."""
        first, count = self.subset.find(source.numbers)
        rows = np.flatnonzero((count > 0) & source.has_uid)
        return Wanted(rows, tuple(uid.from_numbers(source.numbers[rows])), first[rows], count[rows])

    def _write(self, name: str, stretch: Stretch, part: Wanted) -> None:
        """One run, and its keys for the cut."""
        order = _Order(part, self.seed)
        keys = pa.table({"_key": order.key, "first": part.first[order.of], "copy": order.copy}).append_column(
            "place", pa.array(np.arange(len(order.of)))
        )
        keys = keys.append_column("run", pa.repeat(pa.scalar(name), len(keys)))
        write_run(self.store, name, self.schema(), self._batches(stretch, part, order))
        self.store.write_table(f"{name}.keys.parquet", keys)

    def schema(self) -> pa.Schema:
        """Of a run."""
        if self.format == "tar":
            return pa.schema([*HEAD, (PAYLOAD, pa.large_binary())])
        kinds = [(name, kind if name != "image" else pa.large_binary()) for name, (_, kind) in self.columns.items()]
        return pa.schema([*HEAD, *kinds])

    def _batches(self, stretch: Stretch, part: Wanted, order: "_Order") -> Iterator[pa.RecordBatch]:
        for start in range(0, len(order.of), SLICE):
            places, copies = order.of[start : start + SLICE], order.copy[start : start + SLICE]
            uids = [part.uids[i] for i in places.tolist()]
            head = [pa.array(order.key[start : start + SLICE]), pa.array(uids), pa.array(copies)]
            yield pa.record_batch([*head, *self._body(stretch, part.rows[places], uids, copies)], schema=self.schema())

    def _body(self, stretch: Stretch, rows: Rows, uids: Sequence[str], copies: NDArray[np.int32]) -> list[pa.Array]:
        if self.format == "parquet":
            return [column.combine_chunks() for column in stretch.table(rows).columns]
        each = zip(rows.tolist(), uids, copies.tolist(), strict=True)
        return [_joined([entry(f"{number}-{copy}", stretch.members(row, number)) for row, number, copy in each])]


def _joined(values: Sequence[Sequence[bytes]]) -> pa.Array:
    """large_binary of values that come in parts, copied once."""
    ends = np.cumsum([0, *(sum(map(len, parts)) for parts in values)], dtype=np.int64)
    content = b"".join(part for parts in values for part in parts)
    buffers = [None, pa.py_buffer(ends), pa.py_buffer(content)]
    return pa.LargeBinaryArray.from_buffers(pa.large_binary(), len(values), buffers)


class _Order:
    """The copies of some samples in the order of their keys: place in ``Wanted``, number of the copy, key."""

    def __init__(self, part: Wanted, seed: int) -> None:
        of = np.repeat(np.arange(len(part.rows)), part.count)
        copy = np.arange(len(of)) - np.repeat(np.cumsum(part.count) - part.count, part.count)
        key = uid.copy_hash(uid.keyed_hash(pa.array(part.uids, pa.string()), seed)[of], copy)
        order = np.lexsort((copy, part.first[of], key))
        self.of, self.copy, self.key = of[order], copy[order].astype(np.int32), key[order]


def _usable(stretch: Stretch, part: Wanted, flaws: Flaws, source: Source) -> Wanted:
    """Samples without a flaw; the others are counted."""
    rows = part.rows.tolist()
    found = [stretch.flaw(row, number) for row, number in zip(rows, part.uids, strict=True)]
    for row, flaw in zip(rows, found, strict=True):
        if flaw is not None:
            flaws.add(flaw, source.name(row))
    return part.at(np.array([i for i, flaw in enumerate(found) if flaw is None], np.int64))
