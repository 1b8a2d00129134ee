"""Checksums inside Parquet files, so that a changed bit is found without a list kept elsewhere.

The footer's key-value metadata holds ``pairsieve.seal``: XXH3-128 of the footer, then of the whole file, as 64
hex characters, both computed with zeros in their place.  A file of light columns is verified as a whole
whenever it is opened (about 10 GB/s); of a file that holds images only the footer is, and its pages
when they are read, by Parquet's own page checksums, so that nobody reads images to move a threshold.
"""

import mmap
import os
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from pairsieve.schemas.errors import DamagedFileError

KEY = "pairsieve.seal"
BLANK = "0" * 64
_TAIL = 8
"""A Parquet file ends with the footer's length (4 bytes, little-endian) and ``PAR1``."""


def finish(file: IO[bytes]) -> int:
    """Seal a file that a Parquet writer has written with ``BLANK`` under ``KEY``; gives its size.

    ``file`` must be open for reading and writing; its position ends at the end.
    """
    size = file.seek(0, os.SEEK_END)
    with mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) as content:
        length = int.from_bytes(content[-_TAIL:-4], "little") + _TAIL
        tail = content[-length:]
        seal = f"{xxhash.xxh3_128_hexdigest(tail)}{xxhash.xxh3_128_hexdigest(content)}"
    file.seek(size - length + _place(tail, BLANK))
    file.write(seal.encode())
    return file.seek(size)


def _place(tail: bytes, seal: str) -> int:
    return tail.index(seal.encode(), tail.index(KEY.encode()))


def check(content: pa.Buffer, is_whole: bool = True) -> pq.FileMetaData:
    """The metadata of a file that is as it was sealed; raises ``DamagedFileError`` for any other.

    Unless ``is_whole`` only the footer is looked at; ``content`` may then be the file's end.
    """
    view = memoryview(content).cast("B")
    length = int.from_bytes(view[-_TAIL:-4], "little") + _TAIL if len(view) > _TAIL else 0
    if not _TAIL < length <= len(view):
        raise DamagedFileError("is cut off or no Parquet file")
    tail = bytes(view[-length:])
    metadata, seal = _read(tail)
    at = len(view) - length + _place(tail, seal)
    if _digest(view[len(view) - length : at], view[at + len(BLANK) :]) != seal[:32]:
        raise DamagedFileError("has a damaged footer")
    if is_whole and _digest(view[:at], view[at + len(BLANK) :]) != seal[32:]:
        raise DamagedFileError("does not match its checksum")
    return metadata


def footer_bytes(end: bytes) -> int:
    """Length of the footer of a file by its last bytes; 0 where they are not a Parquet file's."""
    return int.from_bytes(end[-_TAIL:-4], "little") + _TAIL if end[-4:] == b"PAR1" else 0


def _read(tail: bytes) -> tuple[pq.FileMetaData, str]:
    try:
        metadata = pq.read_metadata(pa.BufferReader(b"PAR1" + tail))
        seal = metadata.metadata[KEY.encode()].decode()
    except (pa.ArrowException, OSError, KeyError, TypeError, UnicodeDecodeError):
        raise DamagedFileError("has a damaged footer") from None
    if len(seal) != len(BLANK):
        raise DamagedFileError("has a damaged footer")
    return metadata, str(seal)


def _digest(before: memoryview, after: memoryview) -> str:
    found = xxhash.xxh3_128(before)
    found.update(BLANK.encode())
    found.update(after)
    return found.hexdigest()
