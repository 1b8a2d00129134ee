"""One shard of a run as img2dataset writes it: a tar of the images, a Parquet file with every row, counts as JSON.

Names, keys, columns and statuses are img2dataset's.  Bytes depend on the run alone: its three times are 0.  Cost: the
images are read and written once, 0.1 CPU-ms for one of 31 KB; memory is a row group of about 8 MB and the shard's light
columns, 0.2 kB a row.
"""

import hashlib
import heapq
import io
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import ceil, log10
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pairsieve.filters._codes import Code, status
from pairsieve.filters._headers import HEAD_BYTES, sniff
from pairsieve.pipelines.export_parts import ending_of
from pairsieve.pipelines.export_source import AGAIN
from pairsieve.pipelines.export_tars import as_json
from pairsieve.pipelines.parts import part_name
from pairsieve.pipelines.pools import PairsFile, Pool, PoolShard, Sources
from pairsieve.pipelines.reshard_job import FileEntry, stats_name
from pairsieve.pipelines.reshard_write import Whole
from pairsieve.pipelines.storage_errors import first_line, is_exhausted
from pairsieve.pipelines.store import Store
from pairsieve.pipelines.tar_write import entry, tail
from pairsieve.pipelines.tasks import verdicts_name
from pairsieve.schemas import columns
from pairsieve.schemas.columns import IMAGE
from pairsieve.schemas.errors import DamagedFileError

OWN = ("key", "status", "error_message", "width", "height", "original_width", "original_height")
HASHES = ("md5", "sha256", "sha512")
RESERVED = frozenset({*OWN, *HASHES, "caption", "url", "exif"})
"""Columns that img2dataset writes itself."""
SOME = 8192
"""Rows that are looked at one by one at a time."""
_OUTCOME = pa.schema([("status", pa.string()), ("error_message", pa.string())])
_SIZES = ("width", "height", "original_width", "original_height")


@dataclass(frozen=True)
class Layout:
    """What an export has: columns of the pool besides url and text, those of the download step by their own names.

    ``rows`` are those of the largest shard, which decide the keys; ``width`` the digits of shard numbers.
    """

    step: str
    fingerprint: str
    before: tuple[str, ...]
    """Steps before the download."""
    others: Mapping[str, pa.DataType]
    stored: Mapping[str, str]
    rows: int
    width: int
    downloaded: bool

    def key(self, shard: int, row: int) -> str:
        """img2dataset's ``compute_key``."""
        exponent = ceil(log10(self.rows))
        return f"{10**exponent * shard + row:0{exponent + self.width}d}"

    def names(self, shard: int) -> tuple[str, str, str]:
        """The tar, the Parquet file and the counts of a shard."""
        name = f"{shard:0{self.width}d}"
        return f"{name}.tar", f"{name}.parquet", stats_name(f"{name}.tar")

    def schema(self) -> pa.Schema:
        """Of the Parquet files."""
        told = [pa.field(name, kind) for name, kind in self.others.items()]
        texts = [pa.field(name, pa.string()) for name in ("caption", "url", *OWN[:3])]
        sizes = [pa.field(name, pa.int32()) for name in _SIZES]
        more = [pa.field(name, pa.string()) for name in ("exif", *HASHES) if name in self.stored]
        return pa.schema([*told, *texts, *sizes, *more])


@dataclass
class WriteShard:
    """Write one shard, and note it in ``folder`` for an export that is stopped; gives its three files."""

    run: Store
    pool: Pool
    out: Store
    folder: str
    layout: Layout

    def __call__(self, record: PoolShard) -> list[FileEntry]:
        """Write it; what a stopped export has finished is taken as it is."""
        note = f"{self.folder}/{record.index:05d}.part.json"
        if self.out.exists(note):
            known = [FileEntry.model_validate(one) for one in json.loads(self.out.read(note))]
            if all(Whole(self.out)(one) for one in known):
                return known
            self.out.remove(note)
        found = self._write(record)
        self.out.write_json(note, [one.model_dump(mode="json") for one in found])
        return found

    def _write(self, record: PoolShard) -> list[FileEntry]:
        name, table_name, told_name = self.layout.names(record.index)
        with self._parts(record) as parts:
            table, is_kept = self._table(record, parts)
            tar = self._tar(name, table, is_kept, parts)
        sink = io.BytesIO()
        pq.write_table(table, sink, compression="zstd")
        return [
            tar,
            self._whole(table_name, sink.getvalue(), len(table)),
            self._whole(told_name, _stats(table), 0),
        ]

    def _whole(self, name: str, content: bytes, rows: int) -> FileEntry:
        self.out.write(name, content)
        return FileEntry(file=name, rows=rows, size=len(content), sha256=hashlib.sha256(content).hexdigest())

    @contextmanager
    def _parts(self, record: PoolShard) -> Iterator[list[pq.ParquetFile]]:
        """The files of what the step measured of the shard; raises ``DamagedFileError`` if they are not as written."""
        found: list[pq.ParquetFile] = []
        try:
            while self.run.exists(name := part_name(self.layout.step, record.index, len(found))):
                found.append(self.run.sealed(name, is_light=False))
                told = found[-1].metadata.metadata or {}
                if told.get(b"pairsieve.step", b"").decode() != self.layout.fingerprint:
                    raise DamagedFileError(f"{self.run.root}/{name}: is of other settings than run.yaml says; {AGAIN}")
            yield found
        except (pa.ArrowException, OSError) as error:
            if is_exhausted(error):
                raise
            where = f"{self.run.root}/{part_name(self.layout.step, record.index, 0)}"
            raise DamagedFileError(f"{where}: is not as it was written ({first_line(error)}); {AGAIN}") from None
        finally:
            for part in found:
                part.close()

    def _table(self, record: PoolShard, parts: Sequence[pq.ParquetFile]) -> tuple[pa.Table, NDArray[np.bool_]]:
        """Every row, as img2dataset's Parquet has it; and which have their image in the tar."""
        pairs = self._pairs(record)
        verdicts = self.run.table(verdicts_name(record.index), ["dropped_by", "reason"]).slice(0, record.rows)
        found = self._found(record, parts)
        has_image = _true(pc.equal(found["download_code"], Code.SUCCESS.value))
        is_kept = has_image & (self.layout.downloaded | _true(pc.is_null(verdicts["dropped_by"])))
        outcomes = self._outcomes(is_kept, has_image, verdicts, found)
        columns_ = {name: pairs[name] for name in self.layout.others}
        columns_ |= {"caption": pairs["text"], "url": pairs["url"]}
        columns_ |= {"key": [self.layout.key(record.index, row) for row in range(record.rows)]}
        columns_ |= {"status": outcomes["status"], "error_message": outcomes["error_message"]}
        names = [name for name in (*_SIZES, "exif", *HASHES) if name in found.column_names]
        columns_ |= {name: _where(found[name], is_kept) for name in names}
        schema = self.layout.schema()
        return pa.table([_array(columns_[field.name], field.type) for field in schema], schema=schema), is_kept

    def _found(self, record: PoolShard, parts: Sequence[pq.ParquetFile]) -> pa.Table:
        """Light columns of the step under their own names."""
        light = {name: own for own, name in self.layout.stored.items() if own != IMAGE}
        return _measured(parts, list(light), record.rows).rename_columns(list(light.values()))

    def _outcomes(
        self, is_kept: NDArray[np.bool_], has_image: NDArray[np.bool_], verdicts: pa.Table, found: pa.Table
    ) -> pa.Table:
        """status and error_message of every row; ``SOME`` rows at a time are Python's."""
        table = pa.table(
            {
                "is_kept": is_kept,
                "dropped_by": verdicts["dropped_by"],
                "reason": verdicts["reason"],
                "told": _text(found["status"]),
                "why": _text(found["error_message"]),
                "has": has_image,
            }
        )
        made = (
            pa.Table.from_pylist([self._outcome(**row) for row in batch.to_pylist()], _OUTCOME)
            for batch in table.to_batches(max_chunksize=SOME)
        )
        return pa.concat_tables([_OUTCOME.empty_table(), *made])

    def _outcome(
        self, is_kept: bool, dropped_by: str | None, reason: str | None, told: str | None, why: str | None, has: bool
    ) -> dict[str, str | None]:
        """status and error_message: of a pair that another step dropped, that step and its reason.

        The thresholds of the download itself are told in img2dataset's words: ``image too small``.
        """
        if is_kept:
            return _told(status(Code.SUCCESS), None)
        if dropped_by == self.layout.step and has and reason is not None:
            return _told(status(Code.IMAGE_TOO_SMALL), reason.replace("_", " "))
        if dropped_by == self.layout.step:
            return _told(told or status(Code.NULL_URL), why or reason)
        early = dropped_by == "pool" or dropped_by in self.layout.before
        return _told(status(Code.NULL_URL if early else Code.IMAGE_TOO_SMALL), f"{dropped_by}: {reason}")

    def _pairs(self, record: PoolShard) -> pa.Table:
        sources = Sources()
        reader = PairsFile(self.run, record) if record.checksum else self.pool.light(record, sources)
        try:
            return reader.read(list(dict.fromkeys(("url", "text", *self.layout.others))))
        finally:
            reader.close()
            sources.close()

    def _tar(
        self, name: str, table: pa.Table, is_kept: NDArray[np.bool_], parts: Sequence[pq.ParquetFile]
    ) -> FileEntry:
        """The samples in the order of the rows."""
        digest, size, rows, told = hashlib.sha256(), 0, 0, Told(table)
        with self.out.create(name, exclusive=False) as file:
            for row, image in _images(parts, self.layout.stored[IMAGE]):
                if not is_kept[row]:
                    continue
                rows += 1
                for piece in self._sample(told.row(row), image):
                    digest.update(piece)
                    size += file.write(piece)
            end = tail(size)
            digest.update(end)
            size += file.write(end)
        return FileEntry(file=name, rows=rows, size=size, sha256=digest.hexdigest())

    def _sample(self, told: Mapping[str, Any], image: bytes) -> list[bytes]:
        ending = ending_of(sniff(image[:HEAD_BYTES]) or "jpeg")
        caption = (told["caption"] or "").encode()
        return entry(told["key"], [(ending, image), ("json", as_json(dict(told))), ("txt", caption)])


class Told:
    """Rows of a table as Python has them, asked for in order."""

    def __init__(self, table: pa.Table) -> None:
        """None is made yet."""
        self._table, self._start, self._held = table, 0, list[dict[str, Any]]()

    def row(self, row: int) -> dict[str, Any]:
        """A row; some at a time are made."""
        if not self._start <= row < self._start + len(self._held):
            self._start, self._held = row, self._table.slice(row, 1024).to_pylist()
        return self._held[row - self._start]


def _told(status_: str, message: str | None) -> dict[str, str | None]:
    return {"status": status_, "error_message": message}


def _measured(parts: Sequence[pq.ParquetFile], names: Sequence[str], rows: int) -> pa.Table:
    """Columns of the step by row of the shard; null where nothing was measured."""
    if not parts:
        return pa.table({name: pa.nulls(rows, pa.string()) for name in names})
    found = pa.concat_tables([part.read(columns=["row", *names], use_threads=False) for part in parts])
    place = np.full(rows, -1, np.int64)
    place[found["row"].to_numpy()] = np.arange(found.num_rows)
    return found.select(names).take(pa.array(place, mask=place < 0))


def _images(parts: Sequence[pq.ParquetFile], column: str) -> Iterator[tuple[int, bytes]]:
    """Row and image in the order of the rows: each part has that order, and those of several are merged."""
    return heapq.merge(*(_images_of(part, column) for part in parts), key=lambda one: one[0])


def _images_of(part: pq.ParquetFile, column: str) -> Iterator[tuple[int, bytes]]:
    for group in range(part.num_row_groups):
        table = part.read_row_group(group, columns=["row", column], use_threads=False)
        for row, image in zip(table["row"].to_pylist(), table[column], strict=True):
            if image.is_valid:
                yield row, image.as_py()


def _true(values: pa.ChunkedArray) -> NDArray[np.bool_]:
    return np.asarray(pc.fill_null(values, False).to_numpy(), np.bool_)


def _text(values: pa.ChunkedArray) -> pa.ChunkedArray:
    return values.cast(pa.string())


def _where(values: pa.ChunkedArray, is_kept: NDArray[np.bool_]) -> pa.ChunkedArray:
    return pc.if_else(pa.array(is_kept), values, pa.scalar(None, values.type))


def _array(values: Any, kind: pa.DataType) -> pa.Array:
    if isinstance(values, pa.ChunkedArray):
        return values.combine_chunks().cast(kind)
    return pa.array(values, kind)


def _stats(table: pa.Table) -> bytes:
    """What img2dataset counts of a shard; its times, which differ from run to run, are 0."""
    outcomes = Counter(table["status"].to_pylist())
    messages = ["success" if why is None else why for why in table["error_message"].to_pylist()]
    names = ("failed_to_download", "failed_to_resize")
    found: dict[str, Any] = {"count": table.num_rows, "successes": outcomes["success"]}
    found |= {name: outcomes[name] for name in names}
    found |= {"duration": 0.0, "start_time": 0.0, "end_time": 0.0, "status_dict": dict(Counter(messages).most_common())}
    return json.dumps(found, indent=4).encode()


def others_of(types: Mapping[str, pa.DataType]) -> dict[str, pa.DataType]:
    """The pool's columns that an export has besides url and text: uid, and light ones of free names."""
    names = [name for name, kind in types.items() if not columns.is_heavy(kind) and name not in ("url", "text", "uid")]
    return {"uid": pa.string()} | {name: types[name] for name in names if name not in RESERVED and name != IMAGE}
