"""Pool ``pairs``: Parquet files with image bytes beside captions.  The images stay where they are.

A shard is a run of whole row groups.  Ingesting reads the light columns and, only where a row group
says that it holds null images, the image column.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pairsieve.pipelines.pools import (
    GIVEN_UID,
    ImageReader,
    Pool,
    PoolShard,
    ShardTask,
    identity_of,
    list_files,
    outer_names,
    pick,
    reason_where,
)
from pairsieve.pipelines.store import filesystem, open_parquet
from pairsieve.schemas import uid
from pairsieve.schemas.columns import IMAGE, is_heavy
from pairsieve.schemas.errors import PoolError
from pairsieve.schemas.recipe import PairsPool


class Pairs(Pool):
    """See ``PairsPool`` for the settings."""

    def __init__(self, spec: PairsPool) -> None:
        """List the files and read the footer of the first; raises ``PoolError``."""
        self.spec = spec
        self.fs, self.files = list_files(spec.path, (".parquet",))
        schema = _open(self.files[0], self.fs).schema_arrow
        self.source_types = dict(zip(schema.names, schema.types, strict=True))

    @cached_property
    def named(self) -> dict[str, str]:
        """Column of the pool -> column of the source; ``image`` is among them."""
        spec, names, where = self.spec, list(self.source_types), self.files[0]
        fixed = {
            "url": pick(spec.url_col, names, "url_col", where) if spec.url_col != "url" or "url" in names else None,
            "text": pick(spec.caption_col, names, "caption_col", where, ("caption", "txt")),
            IMAGE: pick(spec.image_col, names, "image_col", where, ("jpg", "jpeg", "png", "webp")),
            GIVEN_UID: pick(spec.uid_col, names, "uid_col", where) or self._ready_uids(),
        }
        others = [n for n in names if n not in fixed.values() and not is_heavy(self.source_types[n])]
        if spec.columns is not None:
            others = [str(pick(n, names, "columns", where)) for n in spec.columns]
        return {o: t for o, t in fixed.items() if t} | {o: t for t, o in outer_names(others, where).items()}

    def _ready_uids(self) -> str | None:
        if self.source_types.get("uid") != pa.string():
            return None
        with _open(self.files[0], self.fs) as file:
            head = next(file.iter_batches(1000, columns=["uid"]), None)
        return "uid" if head is not None and uid.first_bad(head["uid"]) is None else None

    def types(self) -> dict[str, pa.DataType]:
        light = {o: self.source_types[t] for o, t in self.named.items() if o not in ("url", "text", IMAGE, GIVEN_UID)}
        return {"url": pa.string(), "text": pa.string(), IMAGE: pa.binary()} | light

    def identity(self) -> str:
        return identity_of(self.fs, self.files, self.spec.model_dump())

    def tasks(self) -> list[ShardTask] | None:
        found: list[ShardTask] = []
        for path in self.files:
            with _open(path, self.fs) as file:
                sizes = [file.metadata.row_group(g).num_rows for g in range(file.metadata.num_row_groups)]
            for groups in _runs(sizes, self.spec.shard_rows):
                found.append(ShardTask(len(found), self.fs.unstrip_protocol(path), groups))
        return found

    def ingest(self, task: ShardTask) -> pa.Table:
        light = {o: t for o, t in self.named.items() if o != IMAGE}
        fs, path = filesystem(task.path)
        with _open(path, fs) as file:
            _check_columns(file, [*light.values(), self.named[IMAGE]], path)
            table = _read_groups(file, task.groups, list(light.values()), path)
            no_image = self._null_images(file, task.groups)
        found = {ours: table[theirs] for ours, theirs in light.items()}
        blank = pa.nulls(table.num_rows, pa.string())
        head = {
            "url": found.get("url", blank).cast(pa.string()),
            "text": found.get("text", blank).cast(pa.string()),
            "reason": reason_where(no_image, "no_image"),
        }
        return pa.table(head | {name: values for name, values in found.items() if name not in head})

    def _null_images(self, file: pq.ParquetFile, groups: Sequence[int]) -> pa.Array:
        """Where the image is null; read only from row groups whose statistics do not rule it out."""
        masks = []
        for g in groups:
            meta = file.metadata.row_group(g)
            if _null_count(meta, self.named[IMAGE]) == 0:
                masks.append(pa.repeat(pa.scalar(False), meta.num_rows))
            else:
                batches = file.iter_batches(256, row_groups=[g], columns=[self.named[IMAGE]], use_threads=False)
                masks += [pc.is_null(_bytes(batch.column(0))) for batch in batches]
        return pa.concat_arrays(masks) if masks else pa.array([], pa.bool_())

    def images(self, shard: PoolShard, pairs: Callable[[list[str]], pa.Table]) -> ImageReader | None:
        fs, path = filesystem(str(shard.media))
        return ParquetImages(_open(path, fs), shard.groups, self.named[IMAGE])


class ParquetImages(ImageReader):
    """Image bytes of some row groups, streamed forward; a row group is decoded batch by batch."""

    def __init__(self, file: pq.ParquetFile, groups: Sequence[int], column: str, rows: int = 256) -> None:
        """Start before the first row of the first group."""
        self._file, self._groups, self._column, self._rows = file, groups, column, rows
        self._start = 0
        self._batches = self._stream(0)
        self._held: list[pa.Array] = []
        self._have = 0

    def read(self, start: int, stop: int) -> pa.Array:
        self._skip_to(start)
        while self._start + self._have < stop:
            batch = _bytes(next(self._batches).column(0))
            self._held.append(batch)
            self._have += len(batch)
        whole = pa.concat_arrays(self._held) if self._held else pa.array([], pa.binary())
        offset = start - self._start
        self._held, self._have = [whole.slice(stop - self._start)], self._have - (stop - self._start)
        self._start = stop
        return whole.slice(offset, stop - start)

    def _skip_to(self, start: int) -> None:
        """Drop what lies before ``start``; whole row groups before it are not read at all."""
        if start < self._start + self._have or start == self._start:
            return
        first = 0
        for i, g in enumerate(self._groups):
            size = self._file.metadata.row_group(g).num_rows
            if first + size > start:
                if first > self._start + self._have:
                    self._batches, self._held, self._have, self._start = self._stream(i), [], 0, first
                return
            first += size

    def _stream(self, first: int) -> Iterator[pa.RecordBatch]:
        return iter(
            self._file.iter_batches(
                self._rows, row_groups=list(self._groups[first:]), columns=[self._column], use_threads=False
            )
        )

    def close(self) -> None:
        self._file.close()


def _bytes(images: pa.Array) -> pa.Array:
    """Plain binary, also from {bytes, path} structs as Hugging Face datasets write them."""
    if pa.types.is_struct(images.type):
        images = pc.struct_field(images, "bytes")
    return images.cast(pa.binary())


def _open(path: str, fs: Any) -> pq.ParquetFile:
    try:
        return open_parquet(fs, path)
    except (pa.ArrowInvalid, OSError) as error:
        raise PoolError(f"{path}: no readable Parquet file: {str(error).splitlines()[0]}") from None


def _check_columns(file: pq.ParquetFile, names: Sequence[str], path: str) -> None:
    for name in names:
        if name not in file.schema_arrow.names:
            raise PoolError(f"{path}: no column {name!r}, which the first file of the pool has")


def _read_groups(file: pq.ParquetFile, groups: Sequence[int], names: list[str], path: str) -> pa.Table:
    try:
        return file.read_row_groups(list(groups), columns=names, use_threads=False).combine_chunks()
    except (pa.ArrowInvalid, OSError) as error:
        raise PoolError(f"{path}: {str(error).splitlines()[0]}") from None


def _null_count(meta: Any, column: str) -> int | None:
    """Nulls in a row group's column by its statistics; None = unknown."""
    for i in range(meta.num_columns):
        part = meta.column(i)
        if part.path_in_schema in (column, f"{column}.bytes"):
            stats = part.statistics
            return stats.null_count if stats is not None and stats.has_null_count else None
    return None


def _runs(sizes: Sequence[int], rows: int) -> list[tuple[int, ...]]:
    """Consecutive row groups of at least ``rows`` rows together."""
    found: list[tuple[int, ...]] = []
    held: list[int] = []
    have = 0
    for g, size in enumerate(sizes):
        held.append(g)
        have += size
        if have >= rows or g == len(sizes) - 1:
            found.append(tuple(held))
            held, have = [], 0
    return found
