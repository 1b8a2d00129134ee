"""The bytes of images in files and tars, with bounds: a file of a stranger's may claim or hold anything."""

import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from pairsieve.filters._reference_hashes import PICTURES

MOST_PICTURE_BYTES = 1 << 26
"""A larger file is no image."""
_LONGEST_NAME = 1 << 16


def picture_bytes(file: str) -> bytes | None:
    """The bytes of a file that may be an image."""
    with Path(file).open("rb") as source:
        data = source.read(MOST_PICTURE_BYTES + 1)
    return data if len(data) <= MOST_PICTURE_BYTES else None


class _Member(tarfile.TarInfo):
    """A header whose own text, such as a long name, is not gigabytes."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        found = super().frombuf(buf, encoding, errors)
        if found.type not in tarfile.SUPPORTED_TYPES or (not found.isreg() and found.size > _LONGEST_NAME):
            raise tarfile.ReadError(f"a header of kind {found.type!r} and {found.size:,} bytes")
        return found


def tar_pictures(file: str) -> Iterator[tuple[str, bytes | None]]:
    """The images of a tar, by name; raises ``ValueError`` for a broken or truncated one."""
    with Path(file).open("rb") as source:
        try:
            with tarfile.open(fileobj=source, mode="r:", tarinfo=_Member) as tar:
                for member in tar:
                    tar.members.clear()  # type: ignore[attr-defined]  # else it remembers them all
                    if member.isreg() and member.name.lower().endswith(PICTURES):
                        is_fit = member.size <= MOST_PICTURE_BYTES
                        content = tar.extractfile(member) if is_fit else None
                        yield member.name, content.read() if content is not None else None
                end = tar.offset
        except tarfile.TarError as error:
            raise ValueError(f"is no whole tar: {error}") from None
        source.seek(end)
        if source.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):  # tarfile stops there without a word
            raise ValueError(f"is cut off or broken at byte {end:,}; fetch it again")
