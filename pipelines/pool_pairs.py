"""Pool ``pairs``: Parquet files with image bytes beside captions.  The images stay where they are.

A shard is a run of whole row groups.  Ingesting reads the light columns and, only where a row group
says that it holds null images, the image column.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pairsieve.pipelines.in_place import runs
from pairsieve.pipelines.parquet_source import as_text, as_type, batches, open_source, plain_types, read_groups
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
from pairsieve.pipelines.store import filesystem
from pairsieve.pipelines.tables import check_columns
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
        with open_source(self.fs, self.files[0]) as file:
            self.source_types = plain_types(file.schema_arrow, self.files[0])

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
        check_images(str(fixed[IMAGE]), self.source_types[str(fixed[IMAGE])], where)
        others = [n for n in names if n not in fixed.values() and not is_heavy(self.source_types[n])]
        if spec.columns is not None:
            others = [str(pick(n, names, "columns", where)) for n in dict.fromkeys(spec.columns)]
        return {o: t for o, t in fixed.items() if t} | {o: t for t, o in outer_names(others, where).items()}

    def _ready_uids(self) -> str | None:
        return ready_uids(self.fs, self.files[0], self.source_types)

    def types(self) -> dict[str, pa.DataType]:
        light = {o: self.source_types[t] for o, t in self.named.items() if o not in ("url", "text", IMAGE, GIVEN_UID)}
        return {"url": pa.string(), "text": pa.string(), IMAGE: pa.binary()} | light

    def identity(self) -> str:
        return identity_of(self.fs, self.files, self.spec.model_dump())

    def tasks(self) -> list[ShardTask] | None:
        found: list[ShardTask] = []
        for path in self.files:
            with open_source(self.fs, path) as file:
                sizes = [file.metadata.row_group(g).num_rows for g in range(file.metadata.num_row_groups)]
            for groups in runs(sizes, self.spec.shard_rows):
                count = sum(sizes[g] for g in groups)
                found.append(ShardTask(len(found), self.fs.unstrip_protocol(path), groups, count=count))
        return found

    def ingest(self, task: ShardTask) -> pa.Table:
        light = {o: t for o, t in self.named.items() if o != IMAGE}
        fs, path = filesystem(task.path)
        with open_source(fs, path) as file:
            check_columns(file.schema_arrow.names, [*light.values(), self.named[IMAGE]], path)
            image = self.named[IMAGE]
            check_images(image, file.schema_arrow.field(image).type, path)
            table = read_groups(file, task.groups, list(dict.fromkeys(light.values())), path)
            no_image = null_images(file, task.groups, image, path)
        found = {
            ours: as_type(table[theirs].combine_chunks(), self._type(ours), f"{path}: column {theirs!r}")
            for ours, theirs in light.items()
        }
        blank = pa.nulls(table.num_rows, pa.string())
        head = {
            "url": found.get("url", blank),
            "text": found.get("text", blank),
            "reason": reason_where(no_image, "no_image"),
        }
        return pa.table(head | {name: values for name, values in found.items() if name not in head})

    def _type(self, ours: str) -> pa.DataType:
        return pa.string() if ours in ("url", "text", GIVEN_UID) else self.source_types[self.named[ours]]

    def images(self, shard: PoolShard, pairs: Callable[[list[str]], pa.Table]) -> ImageReader | None:
        fs, path = filesystem(str(shard.media))
        return ParquetImages(fs, path, shard.groups, self.named[IMAGE])


class ParquetImages(ImageReader):
    """Image bytes of some row groups, streamed forward; a row group is decoded batch by batch."""

    def __init__(self, fs: Any, path: str, groups: Sequence[int] | None, column: str, rows: int = 256) -> None:
        """Start before the first row of the first group; ``groups`` None = all of the file."""
        with ExitStack() as stack:
            self._file = stack.enter_context(open_source(fs, path))
            self._groups = range(self._file.metadata.num_row_groups) if groups is None else groups
            self._open = stack.pop_all()
        self._path, self._column, self._rows = path, column, rows
        self._start = 0
        self._batches = self._stream(0)
        self._held: list[pa.Array] = []
        self._have = 0

    def read(self, start: int, stop: int) -> pa.Array:
        if start == stop:
            return pa.array([], pa.binary())
        self._skip_to(start)
        while self._start + self._have < stop:
            self._more()
            self._drop(start)
        whole = pa.concat_arrays(self._held) if self._held else pa.array([], pa.binary())
        offset = start - self._start
        self._held, self._have = [whole.slice(stop - self._start)], self._have - (stop - self._start)
        self._start = stop
        return whole.slice(offset, stop - start)

    def _more(self) -> None:
        batch = next(self._batches, None)
        if batch is None:
            raise PoolError(f"{self._path}: fewer images than rows; it changed during the run: start the run again")
        self._held.append(_bytes(batch.column(0)))
        self._have += len(self._held[-1])

    def _drop(self, start: int) -> None:
        """Hold no batch that ends before ``start``."""
        while self._held and self._start + len(self._held[0]) <= start:
            gone = len(self._held.pop(0))
            self._start, self._have = self._start + gone, self._have - gone

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
        groups = list(self._groups[first:])
        return batches(self._file, self._path, self._rows, row_groups=groups, columns=[self._column])

    def close(self) -> None:
        self._open.close()


def ready_uids(fs: Any, path: str, types: Mapping[str, pa.DataType]) -> str | None:
    """A column ``uid`` counts as ready uids if the head of the first file holds nothing else."""
    if "uid" not in types or types["uid"] != pa.string():
        return None
    with open_source(fs, path) as file:
        head = next(batches(file, path, 1000, columns=["uid"]), None)
    is_ready = head is not None and uid.first_bad(as_text(head["uid"], path)) is None
    return "uid" if is_ready else None


def check_images(name: str, kind: pa.DataType, path: str) -> None:
    """Raise ``PoolError`` for a column that cannot hold image bytes."""
    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        kind = kind.field("bytes").type
    is_bytes = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view, pa.types.is_fixed_size_binary)
    if not any(test(kind) for test in is_bytes):
        raise PoolError(f"{path}: column {name!r} holds {kind}, not image bytes; set image_col, or use pool urls")


def null_images(file: pq.ParquetFile, groups: Sequence[int], column: str, path: str) -> pa.Array:
    """Where the image is null; read only from row groups whose statistics do not rule it out."""
    masks = []
    for g in groups:
        meta = file.metadata.row_group(g)
        if _null_count(meta, column) == 0:
            masks.append(pa.repeat(pa.scalar(False), meta.num_rows))
        else:
            found = batches(file, path, 256, row_groups=[g], columns=[column])
            masks += [pc.is_null(_bytes(batch.column(0))) for batch in found]
    return pa.concat_arrays(masks) if masks else pa.array([], pa.bool_())


def _bytes(images: pa.Array) -> pa.Array:
    """Plain binary, also from {bytes, path} structs as Hugging Face datasets write them."""
    if pa.types.is_struct(images.type):
        images = pc.struct_field(images, "bytes")
    return images.cast(pa.binary())


def _null_count(meta: Any, column: str) -> int | None:
    """Nulls in a row group's column by its statistics; None = unknown."""
    for i in range(meta.num_columns):
        part = meta.column(i)
        if part.path_in_schema in (column, f"{column}.bytes"):
            stats = part.statistics
            return stats.null_count if stats is not None and stats.has_null_count else None
    return None
