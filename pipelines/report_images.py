"""Small pictures of some pairs of a run, for pages: decoded within limits, encoded anew, nothing of the file kept.

Only the row groups that hold wanted pairs are read, of one column.  A picture costs 2 to 10 CPU-ms and 1 to 5 kB; one
of more than ``MAX_PIXELS`` is not decoded.  What cannot be shown has its reason instead.
"""

import base64
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from itertools import groupby

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from pairsieve.filters._decode_memory import DecodeMemory
from pairsieve.filters._images import BrokenImageError, Pixels, Size, decode_image
from pairsieve.pipelines import machine
from pairsieve.pipelines.ingest import open_pool
from pairsieve.pipelines.overlay import Overlay
from pairsieve.pipelines.pools import PairsFile, Pool, PoolShard, Sources, load_manifest
from pairsieve.pipelines.report_source import Source
from pairsieve.pipelines.store import Store
from pairsieve.schemas.columns import IMAGE
from pairsieve.schemas.errors import PairsieveError
from pairsieve.schemas.recipe import POOLS, Recipe

SIDE = 128
"""Pixels of the longer side."""
PACKINGS = ((SIDE, 55), (SIDE, 25), (SIDE // 2, 25))
"""Sides and WebP qualities: the first whose file has room, which all but noise has at once."""
MOST_BYTES = 5000
"""Of a picture's file, so that those of a page have room whatever they show."""
MAX_PIXELS = 16_000_000
MEMORY = 512 << 20
"""Bytes that decoding may hold."""
FORWARD = 32
"""Rows of a pool's images that are read at once to get at one."""
Place = tuple[int, int]
"""Shard and row."""


@dataclass(frozen=True)
class Thumb:
    """A picture as a data URL with its own size, or why there is none."""

    source: str | None = None
    width: int = SIDE
    height: int = SIDE
    why: str = ""


class Images:
    """Where the images of a run lie: in the scores of the step that stored them, else in the pool."""

    def __init__(self, source: Source) -> None:
        """Find them; nothing is read.  ``where`` says what there is, or why there is nothing."""
        self._store = source.store
        steps = [step.id for step in source.steps if IMAGE in source.columns.get(f"scores_{step.id}", {})]
        self._step = steps[-1] if steps else None
        self._pool: tuple[Pool, list[PoolShard]] | None = None
        self.where = f"stored by {self._step}" if steps else "not part of this run"
        if not steps:
            self._open_pool(source)

    def _open_pool(self, source: Source) -> None:
        try:
            ((kind, settings),) = source.manifest.recipe["pool"].items()
            settings = {"path": settings} if isinstance(settings, str) else settings or {}
            pool = open_pool(Recipe(pool_kind=kind, pool=POOLS[kind].model_validate(settings)))
            if IMAGE not in pool.types():
                return
            shards = load_manifest(source.store, pool.identity())
        except (PairsieveError, LookupError, ValueError, OSError):
            self.where = "in the pool, which is not where it was"
            return
        self.where = "in the pool" if shards else "in the pool, which is not as the run read it"
        self._pool = (pool, shards) if shards else None

    @property
    def are_there(self) -> bool:
        """Whether any image can be had."""
        return self._step is not None or self._pool is not None

    @cached_property
    def _parts(self) -> dict[str, list[str]]:
        """Files of the step by shard."""
        found: dict[str, list[str]] = {}
        for name in self._store.names(f"scores/{self._step}", ".parquet"):
            found.setdefault(name.split(".")[0], []).append(f"scores/{self._step}/{name}")
        return found

    def thumbs(self, places: Iterable[Place]) -> dict[Place, Thumb]:
        """A picture, or the reason why there is none, of each place."""
        wanted = sorted(set(places)) if self.are_there else []
        memory, found = DecodeMemory(MEMORY), dict[Place, Thumb]()
        with ThreadPoolExecutor(machine.cpus()) as threads:
            for _, some in groupby(wanted, key=lambda place: place[0]):
                rows = list(some)
                images = self._read(rows)
                made = threads.map(lambda image: thumb(image, memory), images)
                found |= dict(zip(rows, made, strict=True))
        return found

    def _read(self, places: Sequence[Place]) -> Sequence[bytes | str]:
        """The images of some places of one shard, or why there is none."""
        try:
            if self._step is not None:
                names = self._parts.get(f"{places[0][0]:05d}", ())
                stored = dict(_stored(self._store, names, {row for _, row in places}))
                return [stored.get(row) or "no image was stored" for _, row in places]
            return list(self._of_pool(places))
        except (PairsieveError, pa.ArrowException, OSError, StopIteration):
            return ["the file with this image cannot be read"] * len(places)

    def _of_pool(self, places: Sequence[Place]) -> Iterator[bytes | str]:
        assert self._pool is not None
        pool, shards = self._pool
        shard = shards[places[0][0]]
        with tempfile.TemporaryDirectory() as scratch, closing(Sources()) as sources:
            store = Overlay(self._store.root, scratch)  # a damaged file is only told, not removed
            light = PairsFile(store, shard) if shard.checksum else pool.light(shard, sources)
            with closing(light):
                reader = pool.images(shard, lambda names: light.read(names))
                if reader is None:
                    raise PairsieveError("no images")
                with closing(reader):
                    for _, row in places:
                        image = reader.read(row, row + 1)[0].as_py()
                        yield image or "the pool has no image"


def _stored(store: Store, names: Iterable[str], rows: set[int]) -> Iterator[tuple[int, bytes | None]]:
    """Rows and images out of the parts of a shard; only row groups with wanted rows are read."""
    for name in names:
        with store.parquet(name) as file:
            for group in range(file.metadata.num_row_groups):
                if _may_hold(file, group, rows):
                    yield from _of_group(file, group, rows)


def _may_hold(file: pq.ParquetFile, group: int, rows: set[int]) -> bool:
    """Whether a row group's least and greatest row leave room for one of the wanted."""
    at = file.schema_arrow.get_field_index("row")
    found = file.metadata.row_group(group).column(at).statistics
    return found is None or not found.has_min_max or any(found.min <= row <= found.max for row in rows)


def _of_group(file: pq.ParquetFile, group: int, rows: set[int]) -> Iterator[tuple[int, bytes | None]]:
    here = file.read_row_group(group, columns=["row"])["row"].to_pylist()
    places = [i for i, row in enumerate(here) if row in rows]
    if places:
        images = file.read_row_group(group, columns=[IMAGE])[IMAGE].take(pa.array(places))
        yield from zip((here[i] for i in places), images.to_pylist(), strict=True)


def thumb(image: bytes | str, memory: DecodeMemory) -> Thumb:
    """The picture small, or why it cannot be shown: never an exception, whatever the bytes are."""
    if isinstance(image, str):
        return Thumb(why=image)
    try:
        pixels = decode_image(image, MAX_PIXELS, _small, memory).pixels
    except BrokenImageError as error:
        return Thumb(why=f"cannot be shown: {error.code.value}")
    colours = np.ascontiguousarray(pixels[:, :, :3] if pixels.ndim == 3 else pixels)
    made = (_packed(colours, side, quality) for side, quality in PACKINGS)
    return next((one for one in made if len(one.source or "") <= MOST_BYTES * 4 // 3), Thumb(why="cannot be shown"))


def _packed(colours: Pixels, side: int, quality: int) -> Thumb:
    width, height = _small((colours.shape[1], colours.shape[0]), side)
    small = cv2.resize(colours, (width, height), interpolation=cv2.INTER_AREA)
    out = BytesIO()
    Image.fromarray(small).convert("RGB").save(out, "WEBP", quality=quality, method=4)
    return Thumb(f"data:image/webp;base64,{base64.b64encode(out.getvalue()).decode()}", width, height)


def _small(size: Size, side: int = SIDE) -> Size:
    """The size of a picture whose longer side is reduced to ``side``; smaller ones stay."""
    scale = min(1.0, side / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
