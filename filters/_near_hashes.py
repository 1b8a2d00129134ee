"""The nearest evaluation set by perceptual hashes, for columns of hashes and of images."""

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pairsieve.filters._hamming import words
from pairsieve.filters._phash import mirror_bits
from pairsieve.filters._phash_pictures import picture_hashes
from pairsieve.filters._reference_hashes import Hashes, Kind
from pairsieve.filters._reference_pictures import is_image, is_stored, reference_hashes, stored_hashes
from pairsieve.filters.base import AnyFilter
from pairsieve.filters.near_duplicate_image import NearDuplicateImage


class NearHashes:
    """Hashes of evaluation sets; ``find`` is its one job."""

    def __init__(self, sets: Mapping[str, Sequence[str]], key: str | None, kind: Kind, radius: int) -> None:
        """Files of each set; raises ``UserError`` as ``reference_hashes``."""
        hashes, places, _ = reference_hashes(sets, key, kind)
        if kind.mirrored:  # mirror images of references are references too
            hashes = np.concatenate([hashes, hashes ^ words(mirror_bits(kind.bits)[None])])
            places = np.tile(places, 2)
        self._kind, self._hashes = kind, Hashes(hashes, places, radius)

    def find(self, column: pa.Array) -> tuple[NDArray[np.int16], NDArray[np.int32], NDArray[np.bool_]]:
        """Distance and place of the set as ``Hashes.find``, and which rows have no hash: of these they mean nothing."""
        kind = self._kind
        if is_stored(column.type, kind.bits):
            hashes, lost = stored_hashes(column)
        else:
            images = (image.as_py() for image in column)
            hashes, lost = picture_hashes(images, kind.bits, kind.mirrored, kind.fast)
        return *self._hashes.find(words(hashes)), lost


def check_hash_column(kind: pa.DataType, column: str, bits: int, may_be_images: bool) -> None:
    """Refuse a column that is neither of such hashes nor, where it may be, of images; raises ``ValueError``."""
    if is_stored(kind, bits) or (may_be_images and (is_image(kind) or pa.types.is_null(kind))):
        return
    if is_stored(kind, other := 320 - bits):
        raise ValueError(f"column {column!r} has hashes of {other} bits; set 'bits: {other}'")
    what = "the bytes of images" if may_be_images else f"hashes of {bits} bits"
    raise ValueError(f"column {column!r} is {kind}, not {what}")


def check_hashes_before(column: str, kind: Kind, earlier: Sequence[AnyFilter]) -> None:
    """Refuse hashes that earlier steps made in another way; raises ``ValueError``."""
    found = [(made.bits, made.mirrored) for made in earlier if isinstance(made, NearDuplicateImage)]
    if found and (kind.bits, kind.mirrored) not in found:
        bits, mirrored = found[-1]
        made = f"'bits: {bits}' and 'mirrored: {str(mirrored).lower()}'"
        raise ValueError(f"column {column!r} has hashes with {made}; set the same here")
