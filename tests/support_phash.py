"""Pictures and hashes to find again: scenes, their files, planted neighbours, and clusters by brute force."""

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from pairsieve.filters import _hamming
from pairsieve.filters.near_duplicate_image import NearDuplicateImage

Bytes = NDArray[np.uint8]


def scene(seed: int, width: int = 320, height: int = 240, mode: str = "RGB") -> Image.Image:
    """A picture with large and small colours in it, as photographs have."""
    rng = np.random.default_rng(seed)
    sum_ = np.zeros((height, width, 3))
    for cells, weight in ((3, 1.0), (6, 0.6), (14, 0.35), (40, 0.15)):
        noise = Image.fromarray(rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
        sum_ += weight * np.asarray(noise.resize((width, height), Image.Resampling.BICUBIC), np.float64)
    return Image.fromarray((sum_ / 2.1).astype(np.uint8)).convert(mode)


def encoded(image: Image.Image, kind: str = "JPEG", **settings: Any) -> bytes:
    """The file of a picture."""
    out = io.BytesIO()
    image.save(out, kind, **settings)
    return out.getvalue()


def planted(count: int, bits: int, farthest: int, seed: int, share: float = 0.2) -> tuple[Bytes, NDArray[np.int64]]:
    """Random hashes, uint8[n, bytes], the last of which lie 1 to ``farthest`` bits from one of the others (its place).

    The places are int64[n], -1 for those that have none.
    """
    rng = np.random.default_rng(seed)
    found = rng.integers(0, 256, (count, bits // 8), dtype=np.uint8)
    near = int(count * share)
    of = np.full(count, -1)
    of[-near:] = rng.integers(0, count - near, near)
    flips = rng.random((near, bits)).argsort(axis=1) < rng.integers(1, farthest + 1, (near, 1))
    found[-near:] = found[of[-near:]] ^ np.packbits(flips, axis=1)
    return found, of


def clusters(hashes: Bytes, distance: int, mirror: _hamming.Words | None = None) -> NDArray[np.int64]:
    """The smallest place of each hash's component, all pairs compared."""
    words = _hamming.words(hashes)
    near = _gaps(words, words) <= distance
    if mirror is not None:
        near |= _gaps(words ^ mirror, words) <= distance
    _, labels = connected_components(coo_array(near), directed=False)
    _, first = np.unique(labels, return_index=True)
    return np.asarray(first[labels])


def _gaps(one: _hamming.Words, other: _hamming.Words) -> NDArray[np.int64]:
    return np.asarray(np.bitwise_count(one[:, None] ^ other[None]).sum(axis=2, dtype=np.int64))


class StoredHashes(NearDuplicateImage):
    """Takes hashes from the caption, in hex, instead of computing them."""

    reads = ("text",)

    def check(self, available: Mapping[str, pa.DataType]) -> None:
        """The caption is there."""
        assert "text" in available

    def hashes(self, pairs: pa.RecordBatch) -> tuple[Bytes, NDArray[np.bool_]]:
        """All captions' hashes."""
        found = [np.frombuffer(bytes.fromhex(text), np.uint8) for text in pairs["text"].to_pylist()]
        return np.array(found).reshape(-1, self.bits // 8), np.zeros(len(found), bool)
