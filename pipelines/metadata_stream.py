"""Records of a piece of a file, found without knowing where the pieces before it end.

A record belongs to the piece that its first byte lies in, and is read on into the next piece.  So the records
of all pieces are those of the file, each once, wherever it is cut.
"""

import bz2
import lzma
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

import pyarrow as pa

from pairsieve.pipelines.metadata_inputs import Piece
from pairsieve.pipelines.store import filesystem
from pairsieve.pipelines.text_lines import PACKINGS, first_line
from pairsieve.schemas.errors import PoolError

CHUNK = 1 << 20
TAIL = 64
"""Bytes before a place that are held at least."""
Chunks = Iterator[tuple[bytes, bool]]
"""Unpacked bytes, and whether they lie in the piece, not after it."""


class Window:
    """The bytes of a piece and, as far as they are asked for, of what follows; places count from its first byte."""

    def __init__(self, chunks: Chunks) -> None:
        """Nothing is read yet."""
        self._chunks = chunks
        self._held = bytearray()
        self._base = 0
        self._end: int | None = None  # of the piece

    def find(self, token: bytes, start: int, keep: int, most: int) -> int | None:
        """The first place of a token from ``start`` on; None where there is none in the whole file.

        Bytes from ``keep`` on are held meanwhile, but no more than ``most`` of them.
        """
        at = start
        while (place := self._held.find(token, at - self._base)) < 0:
            at = max(start, self._read - len(token) + 1)
            if at - keep > most:
                self._drop(at - TAIL)
            if not self._more():
                return None
        return self._base + place

    @property
    def _read(self) -> int:
        return self._base + len(self._held)

    def _more(self) -> bool:
        """Read a chunk more; False at the end of the file."""
        for content, is_own in self._chunks:
            if not is_own and self._end is None:
                self._end = self._read
            self._held += content
            return True
        return False

    def is_own(self, place: int) -> bool:
        """Whether a byte that was read lies in the piece."""
        return self._end is None or place < self._end

    def cut(self, start: int, stop: int) -> bytes | None:
        """Some bytes; None where there were too many to be held."""
        return bytes(self._held[start - self._base : stop - self._base]) if start >= self._base else None

    def tail(self) -> bytes:
        """What was read last: ``TAIL`` bytes, or all there are."""
        return bytes(self._held[-TAIL:])

    def rest(self, start: int) -> bytes | None:
        """As ``cut``, up to what was read last."""
        return self.cut(start, self._read)

    def let_go(self, before: int) -> None:
        """Forget what lies before a place, once that is worth a copy of what is held."""
        if before - self._base > max(CHUNK, len(self._held) // 2):
            self._drop(before - TAIL)

    def _drop(self, before: int) -> None:
        if before > self._base:
            del self._held[: before - self._base]
            self._base = before


@contextmanager
def open_window(piece: Piece) -> Iterator[Window]:
    """The bytes of a piece; raises ``PoolError`` for a file that cannot be read or breaks off."""
    fs, path = filesystem(piece.file.url)
    try:
        with fs.open(path, "rb") as file:
            yield Window(_chunks(file, piece))
    except (OSError, EOFError, zlib.error, lzma.LZMAError, pa.ArrowException) as error:
        text = first_line(error)
        raise PoolError(f"{path}: cannot be read: {text}; fetch it again, or leave it out") from None


def _chunks(file: IO[bytes], piece: Piece) -> Chunks:
    if piece.file.packing is None:
        return _plain(file, piece.start, piece.stop)
    if piece.file.packing == "bz2":
        return _streams(file, piece.start, piece.stop)
    return _unpacked(PACKINGS[piece.file.packing](file))


def _unpacked(file: IO[bytes]) -> Chunks:
    while part := file.read(CHUNK):
        yield part, True


def _plain(file: IO[bytes], start: int, stop: int) -> Chunks:
    file.seek(start)
    at = start
    while part := file.read(min(CHUNK, stop - at) if at < stop else CHUNK):
        yield part, at < stop
        at += len(part)


def _streams(file: IO[bytes], start: int, stop: int) -> Chunks:
    """Streams of bz2, one after another; each lies in the piece that it begins in."""
    file.seek(start)
    at, given = start, b""  # ``at`` is where ``given`` begins
    while given := given or file.read(CHUNK):
        unpack, is_own = bz2.BZ2Decompressor(), at < stop
        while not unpack.eof:
            if not given and unpack.needs_input and not (given := file.read(CHUNK)):
                raise EOFError("the bz2 stream breaks off")
            at += len(given)
            if part := unpack.decompress(given, CHUNK):
                yield part, is_own
            given = b""
        given = unpack.unused_data
        at -= len(given)
