"""Samples as a USTAR archive: one 512-byte header a member, mtime, uid and gid 0, no PAX records.

webdataset's own writer gives every member a float time and so a PAX header of 1 KiB more.
"""

import tarfile
from collections.abc import Iterable
from functools import cache

from pairsieve.schemas.errors import PoolError

NAME_BYTES = tarfile.LENGTH_NAME
SIZE_LIMIT = 8**11
"""What a USTAR header has room for."""
END = bytes(2 * tarfile.BLOCKSIZE)


@cache
def _template() -> tuple[bytes, int]:
    """A header without name, size and checksum, and the sum of its bytes with a blank checksum."""
    head = bytearray(tarfile.TarInfo("").tobuf(tarfile.USTAR_FORMAT))
    head[124:136] = bytes(12)
    head[148:156] = b" " * 8
    return bytes(head), sum(head)


def header(name: bytes, size: int) -> bytes:
    """The header of a regular file; raises ``PoolError`` for what no USTAR header holds."""
    if len(name) > NAME_BYTES or size >= SIZE_LIMIT:
        raise PoolError(f"a member of {size:,} bytes named {name[:120]!r} does not fit a USTAR header")
    head, total = _template()
    digits = b"%011o" % size
    total += sum(name) + sum(digits)
    return b"%b%b%b\0%b%06o\0 %b" % (
        name.ljust(100, b"\0"),
        head[100:124],
        digits,
        head[136:148],
        total,
        head[156:],
    )


def entry(key: str, members: Iterable[tuple[str, bytes]]) -> list[bytes]:
    """A sample as it stands in the archive, in parts: headers, contents, and zeros up to whole blocks."""
    parts = []
    for ending, content in members:
        name = f"{key}.{ending}".encode("utf-8", "surrogateescape")
        parts += [header(name, len(content)), content, bytes(-len(content) % tarfile.BLOCKSIZE)]
    return parts


def tail(size: int) -> bytes:
    """The end mark, and zeros up to a whole record, as ``tarfile`` and ``tar`` write it."""
    return END + bytes(-(size + len(END)) % tarfile.RECORDSIZE)
