"""The small grey picture that a perceptual hash is computed from, out of the bytes of an image file.

Upright by its EXIF orientation, on white, the first frame, as ``_images`` decodes; then grey (ITU-R 601) and resized
with Lanczos whatever its shape, as ImageHash does.  A JPEG's decoder can give a smaller grey picture at once
(``fast``): a fifth of the cost for 64 bits and two fifths for 256, and bits that differ by 0.6 of 64 on average (at
most 4 of 120 pictures' at any quality), 1.4 of 256 (at most 8).  The interpreter lock is free while decoding.
"""

from collections.abc import Iterable
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, JpegImagePlugin

from pairsieve.filters import _exif, _phash
from pairsieve.filters._headers import HEAD_BYTES, read_header, sniff
from pairsieve.filters._images import MAX_PIXELS, BrokenImageError, decode

Grey = NDArray[np.uint8]

_DRAFT = 4
"""Sides of the wanted picture that a small decoded one has at least; with 2 bits differ by 1.1 of 64, with 8 by 0.1."""
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def small(data: bytes, side: int, fast: bool, max_pixels: int = MAX_PIXELS) -> Grey | None:
    """The picture as uint8[side, side]; null where the bytes give none, whatever the reason.

    ``fast``: a JPEG is decoded in grey at 1/2, 1/4 or 1/8 of its size where that leaves four times ``side`` both
    ways; its colour profile is not applied.  All else is decoded in full.
    """
    grey = drafted(data, side, max_pixels) if fast and sniff(data[:HEAD_BYTES]) == "jpeg" else None
    try:
        grey = grey or Image.fromarray(decode(data, max_pixels)).convert("L")
    except BrokenImageError:
        return None
    return np.asarray(grey.resize((side, side), Image.Resampling.LANCZOS))


def picture_hashes(
    images: Iterable[bytes | None], bits: int, mirrored: bool = False, fast: bool = True
) -> tuple[Grey, NDArray[np.bool_]]:
    """The hash of each image, uint8[n, bytes], and whether it has none, bool[n]: null, broken, too large or flat."""
    side = _phash.side(bits)
    blank = np.zeros((side, side), np.uint8)  # which has no hash
    pictures = [None if data is None else small(data, side, fast) for data in images]
    grey = np.array([blank if picture is None else picture for picture in pictures]).reshape(-1, side, side)
    return _phash.hashes(grey, mirrored)


def drafted(data: bytes, side: int, max_pixels: int = MAX_PIXELS) -> Image.Image | None:
    """A JPEG in grey and small, upright; null where it takes (or does not survive) decoding in full."""
    try:
        header = read_header("jpeg", data)
        with JpegImagePlugin.JpegImageFile(BytesIO(header.body)) as image:
            if image.mode not in ("L", "RGB") or image.width * image.height > max_pixels:
                return None
            image.draft("L", (_DRAFT * side, _DRAFT * side))
            image.load()
            turn = _TURNS.get(_exif.orientation(header.exif))
            return image.convert("L") if turn is None else image.convert("L").transpose(turn)
    except Exception:  # decoders raise whatever a hostile file leads them to; decoding in full says the same
        return None
