"""What resharding reads: the samples of one shard, by row, as members of a tar or as columns.

Of a sample that nobody wants only the JSON is looked at, and in that only the uid: about 2 µs.
"""

import json
import math
import mmap
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pairsieve.pipelines.reshard_flaws import KEY_AGAIN, LONG_ENDING, LONGEST_ENDING, NO_IMAGE, WITHOUT_UID
from pairsieve.pipelines.tar_index import MAX_TEXT
from pairsieve.pipelines.tar_scan import Found, samples
from pairsieve.schemas import uid
from pairsieve.schemas.columns import IMAGE

Member = tuple[str, bytes]
"""A member's ending and content."""
Rows = NDArray[np.int64]

IMAGES = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "jxl", "avif")
TAR_COLUMNS: Mapping[str, pa.DataType] = {
    IMAGE: pa.binary(),
    "text": pa.string(),
    "width": pa.int32(),
    "height": pa.int32(),
    "json": pa.string(),
}
"""Columns that samples of a tar have as Parquet rows."""
_UID = re.compile(rb'"uid"\s*:\s*"([0-9a-fA-F]{32})"')


class Stretch(ABC):
    """Samples of rows ``start`` to ``stop`` of a shard, at hand in any order."""

    start: int
    stop: int

    @abstractmethod
    def flaw(self, row: int, number: str) -> str | None:
        """Why the sample of a uid cannot be used, else None."""

    @abstractmethod
    def members(self, row: int, number: str) -> list[Member]:
        """The sample of a uid as members of a tar."""

    @abstractmethod
    def table(self, rows: Rows) -> pa.Table:
        """Samples as columns, without uid; ``image`` as large_binary, which holds more than 2 GB."""


class Source(ABC):
    """One shard: its uids at once, its samples stretch by stretch."""

    numbers: NDArray[np.void]
    """``u8,u8``[samples]; meaningless where ``has_uid`` is false."""
    has_uid: NDArray[np.bool_]

    @abstractmethod
    def name(self, row: int) -> str:
        """What a sample is called in its shard."""

    def nameless(self, row: int) -> str:
        """The flaw of a sample without a uid."""
        return WITHOUT_UID

    @abstractmethod
    def stretches(self, rows: Rows) -> Iterator[Stretch]:
        """Stretches that hold all of some ascending rows."""


class TarSource(Source, Stretch):
    """A mapped tar: one stretch."""

    def __init__(self, content: mmap.mmap) -> None:
        """Read headers and uids; raises what ``tarfile`` raises for a broken tar."""
        self._content = content
        self._samples = list(samples(content))
        self._again = {key for key, count in Counter(one.key for one in self._samples).items() if count > 1}
        self.start, self.stop = 0, len(self._samples)
        found = [self._uid(sample) for sample in self._samples]
        self.has_uid = np.array([one is not None for one in found], bool)
        self.numbers = uid.to_numbers(pa.array([one or "0" * 32 for one in found], pa.string()))

    def stretches(self, rows: Rows) -> Iterator[Stretch]:
        yield self

    def name(self, row: int) -> str:
        return self._samples[row].key

    def nameless(self, row: int) -> str:
        return KEY_AGAIN if self._samples[row].key in self._again else WITHOUT_UID

    def _uid(self, sample: Found) -> str | None:
        """The uid in the JSON member: found as bytes where that leaves no doubt but of nesting, else parsed."""
        for ending, offset, size in sample.members:
            if ending == "json" and size <= MAX_TEXT:
                raw = self._content[offset : offset + size]
                found = _UID.search(raw)
                if found is not None and raw.count(b'"uid"') == 1:
                    return found[1].decode().lower()
                return parsed_uid(raw)
        return None

    def flaw(self, row: int, number: str) -> str | None:
        if self._samples[row].key in self._again:  # parts of one sample, or two: nobody can tell
            return KEY_AGAIN
        if any(len(ending.encode("utf-8", "surrogateescape")) > LONGEST_ENDING for ending, _, _ in self._places(row)):
            return LONG_ENDING
        if not self._image(row):
            return NO_IMAGE
        raw = next(self._read(offset, size) for ending, offset, size in self._places(row) if ending == "json")
        return None if parsed_uid(raw) == number else WITHOUT_UID

    def members(self, row: int, number: str) -> list[Member]:
        return [(ending, self._read(offset, size)) for ending, offset, size in self._places(row)]

    def table(self, rows: Rows) -> pa.Table:
        found = [self._columns(row) for row in rows.tolist()]
        kinds = {**TAR_COLUMNS, IMAGE: pa.large_binary()}
        return pa.table({name: pa.array([one[name] for one in found], kind) for name, kind in kinds.items()})

    def _columns(self, row: int) -> dict[str, Any]:
        held = {ending: self._read(offset, size) for ending, offset, size in self._places(row) if ending in _TEXTS}
        fields = parsed(held["json"])
        text = held["txt"].decode("utf-8", "replace") if "txt" in held else fields.get("caption")
        return {
            IMAGE: self._read(*self._image(row)[0]),
            "text": text.encode("utf-8", "replace").decode() if isinstance(text, str) else None,
            "width": _size(fields.get("width")),
            "height": _size(fields.get("height")),
            "json": held["json"].decode("utf-8", "replace"),
        }

    def _places(self, row: int) -> tuple[tuple[str, int, int], ...]:
        return self._samples[row].members

    def _image(self, row: int) -> list[tuple[int, int]]:
        """Where the sample's images lie."""
        return [(offset, size) for ending, offset, size in self._places(row) if ending in IMAGES]

    def _read(self, offset: int, size: int) -> bytes:
        return self._content[offset : offset + size]


_TEXTS = ("json", "txt")


def parsed(raw: bytes) -> dict[str, Any]:
    """A JSON object, wrong bytes within its texts replaced; an empty one for anything else."""
    try:
        value = json.loads(raw.decode(json.detect_encoding(raw), "replace"))
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def parsed_uid(raw: bytes) -> str | None:
    """The ``uid`` of a JSON object, where it is one."""
    return as_uid(parsed(raw).get("uid"))


def as_uid(value: Any) -> str | None:
    """A uid in our form of a value, else None; DataComp's resharder reads capital digits as well."""
    if not isinstance(value, str) or not value.isascii():  # other letters may become hex digits in lower case
        return None
    text = value.lower()
    return text if uid.is_uid(text) else None


def _size(value: Any) -> int | None:
    """A side of an image, in pixels."""
    is_size = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31
    return value if is_size else None


def image_ending(image: bytes) -> str:
    """The ending that an image's first bytes ask for."""
    if image[:8] == b"\x89PNG\r\n\x1a\n":
        return "png"
    return "webp" if image[:4] == b"RIFF" and image[8:12] == b"WEBP" else "jpg"


def row_members(row: Mapping[str, Any], number: str) -> list[Member]:
    """A row of columns as members: the image, the caption, and every other column as JSON."""
    others = {name: _plain(value) for name, value in row.items() if name not in (IMAGE, "text")}
    fields = {"uid": number, "caption": row.get("text"), **others}
    found = [(image_ending(row[IMAGE]), row[IMAGE])]
    if row.get("text") is not None:
        found.append(("txt", row["text"].encode()))
    return [*found, ("json", json.dumps(fields, default=str, ensure_ascii=False).encode())]


def _plain(value: Any) -> Any:
    """A value as JSON has it: no NaN, no infinity."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
