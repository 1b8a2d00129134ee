"""Pool ``webdataset``: tars read in place, captions kept, nothing unpacked."""

import tarfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pairsieve.pipelines.pools import GIVEN_UID, ImageReader, Pool, PoolShard, ShardTask, identity_of, list_files
from pairsieve.pipelines.store import filesystem
from pairsieve.pipelines.tar_index import Sample, index
from pairsieve.pipelines.text_lines import first_line
from pairsieve.schemas import uid
from pairsieve.schemas.columns import IMAGE, LOCATORS
from pairsieve.schemas.errors import PoolError
from pairsieve.schemas.recipe import WebdatasetPool


class Webdataset(Pool):
    """See ``WebdatasetPool`` for the settings.

    Columns: ``key`` (the sample's name), ``json`` (its JSON member as text), ``url`` from that JSON.
    A ``uid`` in the JSON is kept where all samples of the tar have one; without a URL the pair is
    identified by tar and key.
    """

    def __init__(self, spec: WebdatasetPool) -> None:
        """List the tars; raises ``PoolError``."""
        self.spec = spec
        self.endings = tuple(_ending(e) for e in spec.image_ext), _ending(spec.text_ext), _ending(spec.json_ext)
        self.fs, self.files = list_files(spec.path, (".tar",))
        for path in self.files:
            if not path.lower().endswith(".tar"):
                raise PoolError(f"{path}: only plain .tar files can be read in place; unpack or recompress it first")

    def types(self) -> dict[str, pa.DataType]:
        return {"url": pa.string(), "text": pa.string(), IMAGE: pa.binary(), "key": pa.string(), "json": pa.string()}

    def identity(self) -> str:
        return identity_of(self.fs, self.files, self.spec.model_dump())

    def tasks(self) -> list[ShardTask] | None:
        return [ShardTask(i, self.fs.unstrip_protocol(path)) for i, path in enumerate(self.files)]

    def ingest(self, task: ShardTask) -> pa.Table:
        samples = read_index(task.path, *self.endings)
        for sample in samples:
            if sample.text is None:
                sample.text = next(filter(None, (_string(sample.fields.get(n)) for n in self.spec.json_text)), None)
        columns = {
            "url": [_string(s.fields.get("url")) for s in samples],
            "text": [s.text for s in samples],
            "reason": [s.reason or ("no_image" if s.offset is None else None) for s in samples],
            "key": [s.key for s in samples],
            "json": [s.json for s in samples],
        }
        arrays = {name: pa.array(values, pa.string()) for name, values in columns.items()}
        return pa.table(arrays | locators(samples) | {GIVEN_UID: _uids(samples, arrays, task.path)})

    def images(self, shard: PoolShard, pairs: Callable[[list[str]], pa.Table]) -> ImageReader | None:
        return TarImages(str(shard.media), pairs(list(LOCATORS)))


class TarImages(ImageReader):
    """Image bytes of a tar by offset and size; remote ranges are fetched together."""

    def __init__(self, url: str, places: pa.Table) -> None:
        """``places`` holds ``LOCATORS`` of every row of the shard."""
        self._fs, self._path = filesystem(url)
        self._offset = places[LOCATORS[0]].to_pylist()
        self._size = places[LOCATORS[1]].to_pylist()

    def read(self, start: int, stop: int) -> pa.Array:
        rows = [i for i in range(start, stop) if self._offset[i] is not None]
        starts = [self._offset[i] for i in rows]
        ends = [self._offset[i] + self._size[i] for i in rows]
        found = self._fs.cat_ranges([self._path] * len(rows), starts, ends, on_error="raise") if rows else []
        images: list[bytes | None] = [None] * (stop - start)
        for i, content in zip(rows, found, strict=True):
            images[i - start] = content
        return pa.array(images, pa.binary())


def read_index(url: str, image_ext: tuple[str, ...], text_ext: str, json_ext: str) -> list[Sample]:
    """The samples of one tar; raises ``PoolError`` with its name where it is broken."""
    fs, path = filesystem(url)
    try:
        with fs.open(path, "rb") as file:
            return list(index(file, image_ext, text_ext, json_ext))
    except (tarfile.TarError, OSError, EOFError, ValueError, IndexError, RecursionError) as error:
        # tarfile lets whatever a forged header leads to through
        raise PoolError(f"{path}: broken tar: {first_line(error)}; fetch it again, or leave it out") from None


def locators(samples: Sequence[Sample]) -> dict[str, pa.Array]:
    """Where each sample's image lies."""
    values = ([s.offset for s in samples], [s.size for s in samples])
    return {name: pa.array(v, pa.int64()) for name, v in zip(LOCATORS, values, strict=True)}


def _uids(samples: Sequence[Sample], columns: Mapping[str, pa.Array], path: str) -> pa.Array:
    """The uids of the JSON members where every sample has one, else of (url or tar/key, text)."""
    found = [s.fields.get("uid") for s in samples]
    if found and all(isinstance(value, str) and uid.is_uid(value) for value in found):
        return pa.array(found, pa.string())
    tar = path.rsplit("/", 1)[-1]
    places = pa.array([f"{tar}/{s.key}" for s in samples], pa.string())
    return uid.of_pairs(pc.coalesce(columns["url"], places), columns["text"])


def _ending(wanted: str) -> str:
    """An ending as members are compared: without the dot, in lower case."""
    return wanted.lower().removeprefix(".")


def _string(value: Any) -> str | None:
    """A JSON string or number as text, without what UTF-8 cannot hold; a list or mapping is no text."""
    if not isinstance(value, str | int | float) or isinstance(value, bool):
        return None
    return str(value).encode("utf-8", errors="replace").decode()
