"""Keep one of the images that look alike (re-encoded, resized, recompressed), wherever they lie.

By the Hamming distance of DCT perceptual hashes.  Decoding is the cost: a JPEG of 512×512 takes 0.3 CPU-ms in grey and
small (0.9 in full), its resizing to what is hashed 0.1 ms (0.4 for 256 bits), hash and keys 3 µs (8).  Linking is the
engine's: about 4 CPU-seconds a million hashes, a fifth of them near another.
"""

from collections.abc import Mapping
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import Field, model_validator

from pairsieve.filters import _hamming, _phash
from pairsieve.filters._phash_pictures import picture_hashes
from pairsieve.filters._preferred import Preferred
from pairsieve.filters.base import NearFilter, Threshold

_RADIUS = {64: 4, 256: 14}


class NearDuplicateImage(Preferred, NearFilter):
    """Link images whose perceptual hashes differ in few bits; the best pair of each cluster stays.

    ``phash`` is ImageHash's ``phash`` of the upright picture (EXIF orientation applied, on white, first frame): 8 or
    32 bytes.  It is null, and the pair stays, where the image is missing, broken, cut or too large, and where it is
    flat (blank, stripes or a slope along one axis), as all such pictures would be alike.  ``decode: exact`` gives
    ImageHash's very bits; with ``fast`` those of a JPEG differ from it by 0.6 of 64 on average, or 1.4 of 256.

    ``mirrored`` links mirror images (left and right) too.  ``phash`` is then another hash of the same frequencies:
    those of odd columns are compared with zero, the others with their median, so that a mirror turns over the bits
    of odd columns and no other.  Images are alike where one or the other orientation is within the distance.

    Crops, borders and rotations are not found: Pillow resizes columns and rows in turn and rounds between, so a hash
    of the turned picture is not exactly a turned hash.

    Every pair within ``radius`` has a key in common up to 4 of 64 bits and 15 of 256; beyond, 99 % of pairs at 24
    and 88 % at 31.  Of those that share a key each is compared with the best and with the one before it, so two
    that lie between others in every key they share may be missed: of random hashes a fifth (half) of which is near
    another, 0.002 % (0.04 %) of what should go.
    The reason is ``near_duplicate_image``.
    """

    reads = ("image",)
    batch_rows = 256
    extra = "dedup"

    bits: Literal[64, 256] = Field(64, description="bits of the hash")
    radius: int | None = Field(
        None, ge=0, le=31, description="distance that keys are made for; null: 4 of 64 bits (the most), 14 of 256 (31)"
    )
    distance: Threshold[int | None] = Field(None, ge=0, description="bits that may differ; null: radius (the most)")
    mirrored: bool = Field(False, description="also link mirror images")
    decode: Literal["fast", "exact"] = Field("fast", description="fast: JPEGs are decoded small and grey")

    @model_validator(mode="after")
    def _in_reach(self) -> "NearDuplicateImage":
        widest = _hamming.WIDEST[self.bits]
        if self._radius > widest:
            hint = "; take 'bits: 256' for more" if self.bits == 64 else ""
            raise ValueError(f"'radius' of {self.bits} bits is at most {widest}{hint}")
        if self._distance > self._radius:
            raise ValueError(f"'distance' is at most 'radius', here {self._radius}: raise 'radius' too")
        return self

    @property
    def _radius(self) -> int:
        return _RADIUS[self.bits] if self.radius is None else self.radius

    @property
    def _distance(self) -> int:
        return self._radius if self.distance is None else self.distance

    @property
    def key_column(self) -> str:
        return "phash_keys"

    @property
    def reason(self) -> str:
        return "near_duplicate_image"

    def needs(self) -> tuple[str, ...]:
        return ("numba",)  # which the engine links with

    def compared(self, available: Mapping[str, pa.DataType]) -> tuple[str, ...]:
        return ("phash",)

    def outputs(self, available: Mapping[str, pa.DataType]) -> dict[str, pa.DataType]:
        count = len(_hamming.masks(self.bits, self._radius))
        return {"phash": pa.binary(self.bits // 8), "phash_keys": pa.list_(pa.uint64(), count)}

    def check(self, available: Mapping[str, pa.DataType]) -> None:
        kind = available["image"]
        tests = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view, pa.types.is_null)
        if not any(test(kind) for test in tests):
            raise ValueError(f"column 'image' is {kind}, not the bytes of images")
        self.check_preferred(available)

    def score(self, pairs: pa.RecordBatch) -> dict[str, pa.Array]:
        hashes, lost = self.hashes(pairs)
        found = _hamming.keys(_hamming.words(hashes), _hamming.masks(self.bits, self._radius), self._mirror)
        types, nulls = self.outputs({}), pa.array(lost)
        stored = pa.FixedSizeBinaryArray.from_buffers(types["phash"], len(hashes), [None, pa.py_buffer(hashes)])
        lists = pa.FixedSizeListArray.from_arrays(pa.array(found.ravel()), type=types["phash_keys"])
        return {
            name: pc.if_else(nulls, pa.scalar(None, types[name]), values)
            for name, values in (("phash", stored), ("phash_keys", lists))
        }

    def hashes(self, pairs: pa.RecordBatch) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """The hash of each pair's image, uint8[n, bytes], and whether it has none, bool[n]."""
        return picture_hashes(
            (image.as_py() for image in pairs["image"]), self.bits, self.mirrored, self.decode == "fast"
        )

    @property
    def _mirror(self) -> _hamming.Words | None:
        return _hamming.words(_phash.mirror_bits(self.bits)[None]) if self.mirrored else None

    def alike(self, one: pa.RecordBatch, other: pa.RecordBatch) -> NDArray[np.bool_]:
        left, right = (_stored(ends["phash"]) for ends in (one, other))
        near = _hamming.distances(left, right) <= self._distance
        if self._mirror is not None:
            near |= _hamming.distances(left ^ self._mirror, right) <= self._distance
        return near


def _stored(hashes: pa.Array) -> _hamming.Words:
    """A column of hashes as words."""
    width = hashes.type.byte_width
    values = np.frombuffer(hashes.buffers()[1], np.uint8, len(hashes) * width, hashes.offset * width)
    return _hamming.words(values.reshape(-1, width))
