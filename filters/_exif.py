"""Read the few EXIF fields that are wanted, from blocks that strangers wrote.

An allow-list: position, serial numbers, names and thumbnails are not on it, so they are never read.
Nothing in a block can raise, warn or loop; what does not parse is not there.
"""

import json
import struct
from collections.abc import Iterator
from typing import TypeAlias

Entry: TypeAlias = tuple[int, int, int, int]  # tag, type, count, where the value lies

_ORIENTATION = 0x0112
_SUB_DIRECTORY = 0x8769
_IMAGE_TAGS = {
    0x010F: "Make",
    0x0110: "Model",
    _ORIENTATION: "Orientation",
    0x011A: "XResolution",
    0x011B: "YResolution",
    0x0128: "ResolutionUnit",
    0x0131: "Software",
    0x0132: "DateTime",
}
_EXIF_TAGS = {
    0x829A: "ExposureTime",
    0x829D: "FNumber",
    0x8822: "ExposureProgram",
    0x8827: "ISOSpeedRatings",
    0x9003: "DateTimeOriginal",
    0x9204: "ExposureBiasValue",
    0x9207: "MeteringMode",
    0x9209: "Flash",
    0x920A: "FocalLength",
    0xA001: "ColorSpace",
    0xA002: "ExifImageWidth",
    0xA003: "ExifImageLength",
    0xA403: "WhiteBalance",
    0xA405: "FocalLengthIn35mmFilm",
    0xA434: "LensModel",
}
_SIZES = {2: 1, 3: 2, 4: 4, 5: 8, 9: 4, 10: 8}  # text, short, long, fraction, and the signed ones
_LONGEST_TEXT = 256


def orientation(exif: bytes) -> int:
    """How the picture lies, 1 to 8; 1 where nothing sensible is said."""
    if not exif:
        return 1
    block = _Block(exif)
    texts = (block.text(e) for e in block.entries(block.first()) if e[0] == _ORIENTATION)
    return next((int(t) for t in texts if t in {"1", "2", "3", "4", "5", "6", "7", "8"}), 1)


def wanted_json(exif: bytes) -> str | None:
    """The wanted fields as JSON, named as img2dataset names them; null where there are none."""
    if not exif:
        return None
    block = _Block(exif)
    main = list(block.entries(block.first()))
    fields = dict(_named(block, main, "Image", _IMAGE_TAGS))
    below = next((block.number(e) for e in main if e[0] == _SUB_DIRECTORY), 0)
    fields |= dict(_named(block, list(block.entries(below)), "EXIF", _EXIF_TAGS))
    return json.dumps(fields, sort_keys=True) if fields else None


def _named(block: "_Block", entries: list[Entry], group: str, names: dict[int, str]) -> Iterator[tuple[str, str]]:
    for entry in entries:
        text = block.text(entry) if entry[0] in names else ""
        if text:
            yield f"{group} {names[entry[0]]}", text


class _Block:
    """A TIFF structure in memory; reads outside it give nothing."""

    def __init__(self, exif: bytes) -> None:
        self._data = exif.removeprefix(b"Exif\0\0")
        self._order = {b"II*\0": "<", b"MM\0*": ">"}.get(self._data[:4], "")

    def first(self) -> int:
        """Where the main directory lies; 0 = nowhere."""
        return self._unpack("I", 4)[0] if self._order else 0

    def entries(self, at: int) -> Iterator[Entry]:
        """Every entry, of a known type, of the directory at a place."""
        count = self._unpack("H", at)[0] if at else 0
        for place in range(at + 2, at + 2 + 12 * min(count, 512), 12):
            tag, kind, values = self._unpack("HHI", place)
            size = _SIZES.get(kind, 0) * values
            if size:
                yield tag, kind, values, place + 8 if size <= 4 else self._unpack("I", place + 8)[0]

    def number(self, entry: Entry) -> int:
        """The first value of a whole-number entry, else 0."""
        form = {3: "H", 4: "I", 9: "i"}.get(entry[1])
        return self._unpack(form, entry[3])[0] if form else 0

    def text(self, entry: Entry) -> str:
        """The first value as text; fractions as ``1/250``."""
        _, kind, count, at = entry
        if kind == 2:
            raw = self._data[at : at + min(count, _LONGEST_TEXT)].partition(b"\0")[0]
            return "".join(c for c in raw.decode("latin-1") if c.isprintable()).strip()
        if kind in (5, 10):
            over, under = self._unpack("II" if kind == 5 else "ii", at)
            return str(over) if under == 1 else f"{over}/{under}" if under else ""
        return str(self.number(entry))

    def _unpack(self, form: str, at: int) -> tuple[int, ...]:
        """Whole numbers at a place; zeros where the block has ended."""
        if at + struct.calcsize(f"={form}") > len(self._data):
            return (0,) * len(form)
        return struct.unpack_from(self._order + form, self._data, at)
