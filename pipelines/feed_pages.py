"""The values of a binary Parquet column where they lie in the file, without a copy.

Arrow copies each value into memory of its own, whose fresh pages cost more than the copy.  Images are written plain and
uncompressed, so their bytes can be taken from the mapped file, or from the answer of an object store, as they are.
What is read here is data pages of version 1 of such columns (parquet.thrift: PageHeader in the compact protocol,
levels in the RLE hybrid); of any other column nothing is made, and Arrow reads it.  Cost: 0.4 µs a value.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
_DATA_PAGE, _PLAIN, _RLE = 0, 0, 3
_PAGE = 4096


class Values:
    """Binary values, by where each begins and ends in some memory; a null is empty."""

    def __init__(self, data: Bytes, starts: Sequence[int], ends: Sequence[int]) -> None:
        """Nothing is copied."""
        self._data, self._starts, self._ends = data, starts, ends

    def __getitem__(self, row: int) -> Bytes:
        """uint8[n]."""
        return self._data[self._starts[row] : self._ends[row]]

    def __len__(self) -> int:
        """How many they are."""
        return len(self._starts)


def is_plain(footer: pq.FileMetaData, group: int, column: int) -> bool:
    """Whether the values of a column chunk lie in the file as they are."""
    chunk, kind = footer.row_group(group).column(column), footer.schema.column(column)
    return bool(
        chunk.compression == "UNCOMPRESSED"
        and chunk.physical_type == "BYTE_ARRAY"
        and not chunk.has_dictionary_page
        and set(chunk.encodings) <= {"PLAIN", "RLE", "BIT_PACKED"}
        and kind.max_repetition_level == 0
        and kind.max_definition_level <= 1
    )


def read_values(data: Bytes, rows: int, nullable: bool) -> Values | None:
    """The values of a column chunk of a file; null for pages of another kind than these.

    Pages are touched one after another, so that they are read from the disk now.  Raises ``ValueError`` for what
    contradicts itself, and ``IndexError`` for what ends too early.
    """
    data[::_PAGE].max(initial=0)
    view, at = data.data, 0
    starts, ends = list[int](), list[int]()
    while at < len(view):
        page, at = _struct(view, at)
        body, at = at, at + page[3]
        header = page.get(5)
        if page[1] != _DATA_PAGE or not isinstance(header, dict) or (header[2], header[3]) != (_PLAIN, _RLE):
            return None
        if at > len(view) or page[2] != page[3] or header[1] > rows - len(starts):
            raise ValueError("a page is longer than its column")
        is_there, body = _levels(view, body, header[1]) if nullable else (None, body)
        _places(view, body, at, header[1], is_there, starts, ends)
    if len(starts) != rows:
        raise ValueError(f"{len(starts)} values of {rows} rows")
    return Values(data, starts, ends)


def _places(
    view: memoryview, at: int, stop: int, count: int, is_there: list[bool] | None, starts: list[int], ends: list[int]
) -> None:
    """Where the values of a page lie: each is its length, in four bytes, and then itself."""
    for i in range(count):
        if is_there is None or is_there[i]:
            begin = at + 4
            at = begin + int.from_bytes(view[at:begin], "little")
            if at > stop:
                raise ValueError("a value is longer than its page")
            starts.append(begin)
            ends.append(at)
        else:
            starts.append(at)
            ends.append(at)


def _levels(view: memoryview, at: int, count: int) -> tuple[list[bool] | None, int]:
    """Which values of a page are not null (None: all), and where the values begin."""
    stop = at + 4 + int.from_bytes(view[at : at + 4], "little")
    at += 4
    parts, known = list[NDArray[np.uint8]](), 0
    while at < stop and known < count:
        head, at = _varint(view, at)
        if head & 1:  # eight levels a byte
            size = head >> 1
            parts.append(np.unpackbits(np.frombuffer(view[at : at + size], np.uint8), bitorder="little"))
            at += size
        else:
            parts.append(np.full(min(head >> 1, count), view[at], np.uint8))
            at += 1
        known += len(parts[-1])
    found = np.concatenate(parts)[:count] if parts else np.zeros(0, np.uint8)
    if len(found) < count:
        raise ValueError("a page has too few levels")
    return (None if found.all() else found.astype(bool).tolist()), stop


def _struct(view: memoryview, at: int) -> tuple[dict[int, Any], int]:
    """A struct of Thrift's compact protocol by its fields' numbers, and where it ends."""
    fields: dict[int, Any] = {}
    number = 0
    while head := view[at]:
        at += 1
        if head >> 4:
            number += head >> 4
        else:
            number, at = _zigzag(view, at)
        fields[number], at = _value(view, at, head & 15)
    return fields, at + 1


def _value(view: memoryview, at: int, kind: int) -> tuple[Any, int]:
    if kind in (1, 2):
        return kind == 1, at
    if kind in (4, 5, 6):
        return _zigzag(view, at)
    if kind == 8:
        size, at = _varint(view, at)
        return None, at + size
    if kind == 12:
        return _struct(view, at)
    raise ValueError("a page's header has a field of an unknown kind")


def _zigzag(view: memoryview, at: int) -> tuple[int, int]:
    number, at = _varint(view, at)
    return (number >> 1) ^ -(number & 1), at


def _varint(view: memoryview, at: int) -> tuple[int, int]:
    found = shift = 0
    while True:
        byte = view[at]
        at += 1
        found |= (byte & 127) << shift
        if byte < 128:
            return found, at
        shift += 7
