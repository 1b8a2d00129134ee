"""Pool ``img2dataset``: its output folder, read in place, captions and failed rows kept.

Its Parquet file of a shard gives the columns; the images lie in the tar beside it, in the folder
beside it, or in the Parquet file itself, by its output format.
"""

from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pairsieve.pipelines.pool_pairs import ParquetImages
from pairsieve.pipelines.pool_webdataset import TarImages, read_index
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
)
from pairsieve.pipelines.store import filesystem, open_parquet
from pairsieve.schemas import uid
from pairsieve.schemas.columns import IMAGE, LOCATORS
from pairsieve.schemas.errors import PoolError
from pairsieve.schemas.recipe import Img2datasetPool

FORMATS = ("jpg", "png", "webp")


class Img2dataset(Pool):
    """See ``Img2datasetPool`` for the settings."""

    def __init__(self, spec: Img2datasetPool) -> None:
        """List the shards and read the head of the first; raises ``PoolError``."""
        self.spec = spec
        self.fs, self.files = list_files(spec.path, (".parquet",))
        schema = _schema(self.fs, self.files[0])
        self.source_types = dict(zip(schema.names, schema.types, strict=True))
        names, where = list(self.source_types), self.files[0]
        self.image_col = next((n for n in FORMATS if n in names and pa.types.is_binary(self.source_types[n])), None)
        self.caption = pick(spec.caption_col, names, "caption_col", where, ("text",)) if self._has_caption() else None
        others = [n for n in names if n not in ("url", self.caption, self.image_col, "uid")]
        self.named = {ours: theirs for theirs, ours in outer_names(others, where).items()}

    def _has_caption(self) -> bool:
        """Without a caption column the tar's txt members are the captions."""
        names = {n.casefold() for n in self.source_types}
        return self.spec.caption_col != "caption" or bool(names & {"caption", "text"})

    def types(self) -> dict[str, pa.DataType]:
        others = {ours: self.source_types[theirs] for ours, theirs in self.named.items()}
        return {"url": pa.string(), "text": pa.string(), IMAGE: pa.binary()} | others

    def identity(self) -> str:
        return identity_of(self.fs, self.files, self.spec.model_dump())

    def tasks(self) -> list[ShardTask] | None:
        return [ShardTask(i, self._media(path)) for i, path in enumerate(self.files)]

    def _media(self, path: str) -> str:
        """The tar, folder or Parquet file that holds a shard's images."""
        stem = path.removesuffix(".parquet")
        places = [path] if self.image_col else [f"{stem}.tar", stem]
        for place in places:
            if self.fs.exists(place):
                return str(self.fs.unstrip_protocol(place))
        raise PoolError(
            f"{stem}.tar is missing beside {path}; download that shard again, or move its Parquet file away"
        )

    def ingest(self, task: ShardTask) -> pa.Table:
        table = self._read(self.files[task.index])
        names = set(table.column_names)
        rows = table.num_rows
        head = {
            "url": table["url"].cast(pa.string()) if "url" in names else pa.nulls(rows, pa.string()),
            "text": table[self.caption].cast(pa.string()) if self.caption else pa.nulls(rows, pa.string()),
            "reason": pc.if_else(pc.equal(table["status"], "success"), pa.scalar(None, pa.string()), table["status"]),
        }
        found = pa.table(head | {ours: table[theirs] for ours, theirs in self.named.items()})
        if "uid" in names and uid.first_bad(table["uid"].cast(pa.string())) is None:
            found = found.append_column(GIVEN_UID, table["uid"].cast(pa.string()))
        return self._locate(found, task.path) if task.path.endswith(".tar") else found

    def _read(self, path: str) -> pa.Table:
        try:
            with open_parquet(self.fs, path) as file:
                names = [n for n in file.schema_arrow.names if n != self.image_col]
                table = file.read(columns=names, use_threads=False)
        except (pa.ArrowInvalid, OSError) as error:
            raise PoolError(f"{path}: no readable Parquet file: {str(error).splitlines()[0]}") from None
        missing = [n for n in (*self.named.values(), "key", "status") if n not in names]
        if missing:
            raise PoolError(f"{path}: no column {missing[0]!r}; is this a folder that img2dataset wrote?")
        return table.combine_chunks()

    def _locate(self, table: pa.Table, media: str) -> pa.Table:
        """Add where each image lies in the tar; a success without an image gets a reason."""
        samples = {s.key.rsplit("/", 1)[-1]: s for s in read_index(media, FORMATS, "txt", "json")}
        found = [samples.get(str(key)) for key in table["key"].to_pylist()]
        offset = pa.array([s.offset if s else None for s in found], pa.int64())
        size = pa.array([s.size if s else None for s in found], pa.int64())
        lost = pc.if_else(pc.is_null(offset), "no_image", pa.scalar(None, pa.string()))
        table = table.set_column(2, "reason", pc.coalesce(table["reason"].combine_chunks(), lost))
        if self.caption is None:
            table = table.set_column(1, "text", pa.array([s.text if s else None for s in found], pa.string()))
        return table.append_column(LOCATORS[0], offset).append_column(LOCATORS[1], size)

    def images(self, shard: PoolShard, pairs: Callable[[list[str]], pa.Table]) -> ImageReader | None:
        media = str(shard.media)
        if media.endswith(".tar"):
            return TarImages(media, pairs(list(LOCATORS)))
        fs, path = filesystem(media)
        if self.image_col:
            file = open_parquet(fs, path)
            return ParquetImages(file, range(file.metadata.num_row_groups), self.image_col)
        keys = [
            None if reason else key for key, reason in zip(*pairs(["key", "reason"]).to_pydict().values(), strict=True)
        ]
        return FolderImages(fs, path, keys)


class FolderImages(ImageReader):
    """Image files of img2dataset's ``files`` format: ``<shard>/<key>.jpg``."""

    def __init__(self, fs: Any, path: str, keys: list[str | None]) -> None:
        """List the folder once."""
        self._fs = fs
        self._keys = keys
        self._files = {str(p).rsplit("/", 1)[-1]: str(p) for p in fs.ls(path, detail=False)}

    def read(self, start: int, stop: int) -> pa.Array:
        names = [self._name(key) for key in self._keys[start:stop]]
        return pa.array([self._fs.cat_file(name) if name else None for name in names], pa.binary())

    def _name(self, key: str | None) -> str | None:
        return next((self._files[f"{key}.{e}"] for e in FORMATS if key and f"{key}.{e}" in self._files), None)


def _schema(fs: Any, path: str) -> pa.Schema:
    try:
        with open_parquet(fs, path) as file:
            return file.schema_arrow
    except (pa.ArrowInvalid, OSError) as error:
        raise PoolError(f"{path}: no readable Parquet file: {str(error).splitlines()[0]}") from None
