"""Thumbnails of a run's stored images: read where they lie when they are asked for, decoded under guard, made anew.

A browser never sees stored bytes, which anybody may have written.  About 5 ms an image, mostly the row group around it.
"""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import replace
from threading import BoundedSemaphore, Lock

import cv2
import numpy as np
import pyarrow as pa
import simplejpeg

from pairsieve.filters._decode_memory import DecodeMemory
from pairsieve.filters._images import BrokenImageError, Pixels, Size, decode_image
from pairsieve.pipelines.added import added_name
from pairsieve.pipelines.pools import PoolShard, Sources
from pairsieve.pipelines.shard import Context, Shard
from pairsieve.schemas.columns import IMAGE
from pairsieve.schemas.errors import PairsieveError

SIDES = (240, 800)
"""Pixels of the longer side: in the grid, and beside a pair's story."""
_HELD = 64 << 20
_AT_ONCE = 2
_DECODING = 1 << 30
_QUALITY = 82
_MOST_PIXELS = 64_000_000


class NoPictureError(Exception):
    """There is no image to show; the text says why."""


class Thumbnails:
    """JPEGs of the pairs of a run, the latest of them held."""

    def __init__(self, context: Context, shards: list[PoolShard]) -> None:
        """Nothing is opened yet."""
        self._context, self._shards = context, shards
        self._held: OrderedDict[tuple[int, int, int], bytes] = OrderedDict()
        self._bytes, self._lock, self._room = 0, Lock(), BoundedSemaphore(_AT_ONCE)
        self._memory = DecodeMemory(_DECODING)

    @property
    def are_there(self) -> bool:
        """Whether the run has images at all."""
        return IMAGE in self._context.plan.types

    def get(self, shard: int, row: int, side: int) -> bytes:
        """A JPEG of at most ``side`` pixels; raises ``NoPictureError``."""
        key = (shard, row, side)
        with self._lock:
            if key in self._held:
                self._held.move_to_end(key)
                return self._held[key]
        with self._room:
            made = self._made(self._stored(shard, row), side)
        with self._lock:
            self._hold(key, made)
        return made

    def _hold(self, key: tuple[int, int, int], made: bytes) -> None:
        if key not in self._held:
            self._held[key] = made
            self._bytes += len(made)
        while self._bytes > _HELD:
            self._bytes -= len(self._held.popitem(last=False)[1])

    def _stored(self, index: int, row: int) -> bytes:
        """The image's file; an added pair has its parent's."""
        if not self.are_there:
            raise NoPictureError("this run has no images")
        record = self._shards[index]
        context = replace(self._context, sources=Sources())  # threads share none
        try:
            if row >= record.rows:
                row = context.store.table(added_name(index), ["parent_row"])["parent_row"][row - record.rows].as_py()
            with Shard(context, record) as shard:
                values: pa.Array = shard.heavy(IMAGE, row, row + 1, "explore")
        except (PairsieveError, OSError, pa.ArrowException) as error:
            raise NoPictureError(str(error).splitlines()[0]) from None
        finally:
            context.sources.close()
        found = values[0].as_py() if len(values) else None
        if not found:
            raise NoPictureError("no image was stored")
        return bytes(found)

    def _made(self, data: bytes, side: int) -> bytes:
        try:
            pixels = decode_image(data, _MOST_PIXELS, lambda size: _within(size, side), memory=self._memory).pixels
        except BrokenImageError as error:
            raise NoPictureError(str(error)) from None
        return _jpeg(pixels, side)


def _within(size: Size, side: int) -> Size:
    """The size of a picture shrunk to a longer side, at least a pixel both ways."""
    scale = min(1.0, side / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _jpeg(pixels: Pixels, side: int) -> bytes:
    colours = np.repeat(pixels[:, :, None], 3, axis=2) if pixels.ndim == 2 else pixels[:, :, :3]
    wanted = _within((colours.shape[1], colours.shape[0]), side)
    small = cv2.resize(np.ascontiguousarray(colours), wanted, interpolation=cv2.INTER_AREA)
    return bytes(simplejpeg.encode_jpeg(np.ascontiguousarray(small), quality=_QUALITY, colorspace="RGB"))


def places(pair: Mapping[str, object]) -> tuple[int, int]:
    """Shard and row of a pair."""
    return int(str(pair["shard"])), int(str(pair["row"]))
