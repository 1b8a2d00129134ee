"""Pool ``img2dataset``: its output folder, read in place, captions and failed rows kept.

Its Parquet file of a shard gives the columns; the images lie in the tar beside it, in the folder
beside it, or in the Parquet file itself, by its output format.
"""

from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pairsieve.pipelines.parquet_source import as_text, as_type, batches, open_source, plain_types
from pairsieve.pipelines.pool_pairs import ParquetImages, null_images, ready_uids
from pairsieve.pipelines.pool_webdataset import TarImages, locators, read_index
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
from pairsieve.pipelines.tar_index import Sample
from pairsieve.schemas.columns import IMAGE
from pairsieve.schemas.errors import PoolError
from pairsieve.schemas.recipe import Img2datasetPool

FORMATS = ("jpg", "png", "webp")
_ITS_OWN = ("key", "status")


class Img2dataset(Pool):
    """See ``Img2datasetPool`` for the settings."""

    def __init__(self, spec: Img2datasetPool) -> None:
        """List the shards and read the head of the first; raises ``PoolError``."""
        self.spec = spec
        self.fs, self.files = list_files(spec.path, (".parquet",))
        where = self.files[0]
        with open_source(self.fs, where) as file:
            self.source_types = plain_types(file.schema_arrow, where)
        names = list(self.source_types)
        self._check(names, where)
        self.image_col = next((n for n in FORMATS if n in names and _is_bytes(self.source_types[n])), None)
        self.caption = pick(spec.caption_col, names, "caption_col", where, ("text",)) if self._has_caption() else None
        self.url = "url" if "url" in names else None
        self.given = ready_uids(self.fs, where, self.source_types)
        others = [n for n in names if n not in (self.url, self.caption, self.image_col, self.given)]
        self.named = {ours: theirs for theirs, ours in outer_names(others, where).items()}

    def _has_caption(self) -> bool:
        """Without a caption column the tar's txt members are the captions."""
        names = {n.casefold() for n in self.source_types}
        return self.spec.caption_col != "caption" or bool(names & {"caption", "text"})

    def types(self) -> dict[str, pa.DataType]:
        others = {ours: self.source_types[theirs] for ours, theirs in self.named.items()}
        return {"url": pa.string(), "text": pa.string(), IMAGE: pa.binary()} | others

    def identity(self) -> str:
        media = [self._media(path) for path in self.files]
        return identity_of(self.fs, sorted({*self.files, *media}), self.spec.model_dump())

    def tasks(self) -> list[ShardTask] | None:
        return [ShardTask(i, str(self.fs.unstrip_protocol(self._media(path)))) for i, path in enumerate(self.files)]

    def _media(self, path: str) -> str:
        """The tar, folder or Parquet file that holds a shard's images."""
        stem = path.removesuffix(".parquet")
        places = [path] if self.image_col else [f"{stem}.tar", stem]
        for place in places:
            if self.fs.exists(place):
                return place
        raise PoolError(
            f"{stem}.tar is missing beside {path}; download that shard again, or move its Parquet file away"
        )

    def ingest(self, task: ShardTask) -> pa.Table:
        path = self.files[task.index]
        table, has_image = self._read(path)
        rows = table.num_rows
        head = {
            "url": table[self.url] if self.url else pa.nulls(rows, pa.string()),
            "text": table[self.caption] if self.caption else pa.nulls(rows, pa.string()),
            "reason": reason_where(pa.repeat(pa.scalar(False), rows), ""),
        }
        found = pa.table(head | {ours: table[theirs] for ours, theirs in self.named.items()})
        if self.given:
            found = found.append_column(GIVEN_UID, table[self.given])
        if task.path.endswith(".tar"):
            found, has_image = self._locate(found, table["key"], task.path)
        elif has_image is None:
            fs, folder = filesystem(task.path)
            names = FolderImages(fs, folder, _names(table["key"])).names(0, rows)
            has_image = pa.array([name is not None for name in names], pa.bool_())
        reason = pc.coalesce(_failure(table["status"]), reason_where(pc.invert(has_image), "no_image"))
        return found.set_column(2, "reason", reason)

    def _read(self, path: str) -> tuple[pa.Table, pa.Array | None]:
        """A shard's light columns in the types of the first; and which rows have an image, if it holds them itself."""
        with open_source(self.fs, path) as file:
            self._check(file.schema_arrow.names, path)
            names = [n for n in self.source_types if n != self.image_col]
            pieces = [pa.Table.from_batches([b]) for b in batches(file, path, 65_536, columns=names)]
            table = pa.concat_tables(pieces) if pieces else file.schema_arrow.empty_table().select(names)
            lost = self.image_col and null_images(file, range(file.metadata.num_row_groups), self.image_col, path)
        texts = (self.url, self.caption, self.given)
        kinds = {n: pa.string() if n in texts else self.source_types[n] for n in names}
        arrays = {n: as_type(table[n].combine_chunks(), kind, f"{path}: column {n!r}") for n, kind in kinds.items()}
        return pa.table(arrays), None if lost is None else pc.invert(lost)

    def _check(self, names: Sequence[str], path: str) -> None:
        wanted = (*_ITS_OWN, *self.source_types)
        if missing := [n for n in wanted if n not in names]:
            raise PoolError(f"{path}: no column {missing[0]!r}; is this a folder that img2dataset wrote?")

    def _locate(self, table: pa.Table, keys: pa.ChunkedArray, media: str) -> tuple[pa.Table, pa.Array]:
        """Add where each image lies in the tar; and whether it has one."""
        is_number = pa.types.is_integer(keys.type)
        samples = {_bare(s.key.rsplit("/", 1)[-1], is_number): s for s in read_index(media, FORMATS, "txt", "json")}
        found = [samples.get(_bare(name, is_number)) or Sample("") for name in _names(keys)]
        if self.caption is None:
            table = table.set_column(1, "text", pa.array([s.text for s in found], pa.string()))
        for name, values in locators(found).items():
            table = table.append_column(name, values)
        return table, pa.array([s.offset is not None for s in found], pa.bool_())

    def images(self, shard: PoolShard, pairs: Callable[[list[str]], pa.Table]) -> ImageReader | None:
        media = str(shard.media)
        if media.endswith(".tar"):
            return TarImages(media, pairs(["media_offset", "media_size"]))
        fs, path = filesystem(media)
        if self.image_col:
            return ParquetImages(fs, path, None, self.image_col)
        table = pairs(["key", "reason"])
        return FolderImages(fs, path, _names(table["key"]), pc.is_valid(table["reason"]).to_pylist())


class FolderImages(ImageReader):
    """Image files of img2dataset's ``files`` format: ``<shard>/<key>.jpg``."""

    def __init__(self, fs: Any, path: str, keys: Sequence[str], failed: Sequence[bool] | None = None) -> None:
        """List the folder once."""
        self._fs = fs
        self._keys, self._failed = keys, failed or [False] * len(keys)
        self._files: dict[str, str] = {}
        for file in sorted((str(p) for p in fs.ls(path, detail=False)), reverse=True):
            key, _, ending = file.rsplit("/", 1)[-1].rpartition(".")
            if ending in FORMATS:
                self._files[key] = file
                self._files.setdefault(_bare(key, True), file)

    def names(self, start: int, stop: int) -> list[str | None]:
        """The file of each row."""
        rows = zip(self._keys[start:stop], self._failed[start:stop], strict=True)
        return [None if failed else self._files.get(key) for key, failed in rows]

    def read(self, start: int, stop: int) -> pa.Array:
        found = [None if name is None else self._fs.cat_file(name) for name in self.names(start, stop)]
        return pa.array(found, pa.binary())


def _names(keys: pa.ChunkedArray) -> list[str]:
    """Keys as text, however the Parquet file holds them."""
    return [str(key) for key in keys.to_pylist()]


def _bare(key: str, is_number: bool) -> str:
    """A key that was stored as a number has lost its leading zeros."""
    return (key.lstrip("0") or "0") if is_number else key


def _failure(status: pa.ChunkedArray) -> pa.ChunkedArray:
    """What img2dataset says of a row that has no image, else null."""
    said = as_text(status.combine_chunks(), "status")
    return pc.if_else(pc.equal(said, "success"), pa.scalar(None, pa.string()), said)


def _is_bytes(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))
