"""Put one output shard together from its slices of the sorted runs.

Cost: the shard's bytes are copied once and hashed; memory holds one shard a worker, mapped where it is local.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pairsieve.pipelines.dataset import write_file
from pairsieve.pipelines.reshard_cut import Planned
from pairsieve.pipelines.reshard_job import FileEntry
from pairsieve.pipelines.reshard_spill import HEAD, PAYLOAD, Format
from pairsieve.pipelines.sorted_runs import read_run
from pairsieve.pipelines.store import Store
from pairsieve.pipelines.tar_write import tail
from pairsieve.schemas import columns
from pairsieve.schemas.errors import DamagedFileError
from pairsieve.schemas.run import DatasetFile

_ORDER = [(name, "ascending") for name, _ in HEAD]


@dataclass(frozen=True)
class Written:
    """One output shard: name, samples, bytes, SHA-256; and its entry in the manifest of a Parquet dataset."""

    file: str
    rows: int
    size: int
    sha256: str
    dataset: DatasetFile | None = None


@dataclass
class Write:
    """Write one output shard, and note it in ``folder`` for a job that is stopped."""

    store: Store
    folder: str
    format: Format
    kinds: Mapping[str, pa.DataType]
    width: int

    def __call__(self, file: Planned) -> Written:
        """Read the slices, sort, write; a shard that a stopped job has finished is taken as it is."""
        name = f"{file.index:0{self.width}d}.{self.format}"
        slices = file.slices(self.store)
        note, source = f"{self.folder}/{file.index:05d}.done.json", _digest(slices)
        if (known := self._known(note, source)) is not None:
            return known
        self.store.remove(note)
        table = pa.concat_tables([read_run(self.store, *part) for part in slices])
        order = pc.sort_indices(table.select([k for k, _ in _ORDER]), sort_keys=_ORDER)
        found = self._tar(name, table, order) if self.format == "tar" else self._parquet(name, table, order)
        entry = None if found.dataset is None else found.dataset.model_dump(mode="json")
        self.store.write_json(note, {**found.__dict__, "dataset": entry, "source": source})
        return found

    def _known(self, note: str, source: str) -> Written | None:
        """What the note says, if it is of the same slices and the file is still as it was written."""
        if not self.store.exists(note):
            return None
        found = json.loads(self.store.read(note))
        if found.pop("source") != source or not self.store.exists(found["file"]):
            return None
        entry = found.pop("dataset")
        known = Written(**found, dataset=None if entry is None else DatasetFile.model_validate(entry))
        return known if Whole(self.store)(known) else None

    def _tar(self, name: str, table: pa.Table, order: pa.Array) -> Written:
        digest, size = hashlib.sha256(), 0
        with self.store.create(name, exclusive=False) as out:
            for part in _payloads(table[PAYLOAD], order.to_pylist()):
                digest.update(part)
                size += out.write(part)
            end = tail(size)
            digest.update(end)
            size += out.write(end)
        return Written(name, len(table), size, digest.hexdigest())

    def _parquet(self, name: str, table: pa.Table, order: pa.Array) -> Written:
        self.store.remove(name)  # of another cut, or damaged
        entry = write_file(self.store, name, table, order, columns.dataset(self.kinds))
        digest = hashlib.sha256(self.store.content(name)).hexdigest()
        return Written(name, entry.rows, entry.size, digest, entry)


@dataclass
class Whole:
    """Whether an output shard is as it was written, bit by bit."""

    store: Store

    def __call__(self, file: Written | FileEntry) -> bool:
        """Hash it: 1.6 GB/s."""
        try:
            content = self.store.content(file.file)
        except (FileNotFoundError, DamagedFileError):
            return False
        return content.size == file.size and hashlib.sha256(content).hexdigest() == file.sha256


def _payloads(column: pa.ChunkedArray, order: Sequence[int]) -> Iterator[memoryview]:
    """The values in an order, without a copy."""
    views: list[Any] = []
    for chunk in column.chunks:
        _, offsets, values = chunk.buffers()
        ends = memoryview(offsets).cast("q")[chunk.offset : chunk.offset + len(chunk) + 1].tolist()
        content = memoryview(values)
        views += [content[a:b] for a, b in pairwise(ends)]
    for row in order:
        yield views[row]


def _digest(slices: Sequence[tuple[str, int, int]]) -> str:
    """What decides the content of an output shard."""
    return hashlib.sha256(repr(slices).encode()).hexdigest()
