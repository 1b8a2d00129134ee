"""What becomes of a downloaded body: the row that ``download`` writes, with the image as it is stored.

Cost of a 640×480 JPEG to a shortest side of 256: 1.1 CPU-ms to decode, 0.4 to resize, 0.3 to encode, 0.06 to hash; the
interpreter lock is free meanwhile.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any, Literal, TypeAlias

from pairsieve.filters import _exif
from pairsieve.filters._blur import Box, turned
from pairsieve.filters._codes import Code, status
from pairsieve.filters._decode_memory import DecodeMemory
from pairsieve.filters._fetch import Fetched
from pairsieve.filters._images import BrokenImageError, decode_image, look
from pairsieve.filters._resize import Resizer, Stored

HashName: TypeAlias = Literal["md5", "sha256", "sha512"]


@dataclass(frozen=True, slots=True)
class Wish:
    """What a row wants besides the image: boxes that are blurred, as the file lies, and the digest to expect.

    ``boxes`` null: they are unusable.
    """

    boxes: tuple[Box, ...] | None = ()
    digest: str | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """One row of what ``Download`` writes; ``digest`` stands under the name of its hash."""

    download_code: str
    status: str
    error_message: str | None
    http_status: int | None
    final_url: str | None
    image: bytes | None = None
    width: int | None = None
    height: int | None = None
    original_width: int | None = None
    original_height: int | None = None
    digest: str | None = None
    exif: str | None = None


LEFT_ROW = Outcome(Code.TIMEOUT.value, status(Code.TIMEOUT), None, None, None)
"""Of a URL that is left for the tail pass."""


def failed(fetched: Fetched, code: Code, message: str | None) -> Outcome:
    """The row of a URL without an image."""
    return Outcome(code.value, status(code), message, fetched.http_status, fetched.final_url)


@dataclass(frozen=True)
class Maker:
    """Makes rows of outcomes; safe in threads, never raises.

    ``as_sent``: the body is stored as it came, if it begins as an image of an allowed format and size.
    """

    resizer: Resizer
    max_pixels: int
    hash: HashName | None = "sha256"
    verify: HashName | None = None
    want_exif: bool = False
    as_sent: bool = False
    memory: DecodeMemory | None = None

    def row(self, fetched: Fetched, wish: Wish) -> Outcome:
        """The row of one URL and what is wished of it."""
        if fetched.body is None:
            return failed(fetched, fetched.code, fetched.error_message)
        if self.verify and hashlib.new(self.verify, fetched.body).hexdigest() != wish.digest:
            return failed(fetched, Code.HASH_MISMATCH, "hash mismatch")
        if wish.boxes is None:
            return failed(fetched, Code.BAD_BOXES, "a box is no list of four numbers")
        try:
            return self._stored(fetched, fetched.body, wish.boxes)
        except BrokenImageError as error:
            return failed(fetched, error.code, str(error))

    def _stored(self, fetched: Fetched, body: bytes, boxes: Sequence[Box]) -> Outcome:
        if self.as_sent:
            seen = look(body, self.max_pixels)
            stored, size, exif = Stored(body, *seen.size), seen.size, seen.exif
        else:
            image = decode_image(body, self.max_pixels, self.resizer.reduced, self.memory)
            upright = [turned(box, _exif.orientation(image.exif)) for box in boxes]
            stored, size, exif = self.resizer.store(body, image, upright), image.size, image.exif
        return Outcome(
            Code.SUCCESS.value,
            status(Code.SUCCESS),
            None,
            fetched.http_status,
            fetched.final_url,
            image=stored.data,
            width=stored.width,
            height=stored.height,
            original_width=size[0],
            original_height=size[1],
            digest=hashlib.new(self.hash, body).hexdigest() if self.hash else None,
            exif=_exif.wanted_json(exif) if self.want_exif else None,
        )


def boxes_of(value: Any) -> tuple[Box, ...] | None:
    """A row's boxes; none for null, null for what is no list of boxes of four finite numbers."""
    try:
        found = tuple((float(a), float(b), float(c), float(d)) for a, b, c, d in value or ())
    except (TypeError, ValueError):
        return None
    return found if all(isfinite(side) for box in found for side in box) else None
