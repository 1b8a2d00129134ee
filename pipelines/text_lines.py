"""Lines of text files: unpacked on the way, of bounded length, able to be read once more; and text as Arrow."""

import bz2
import gzip
import io
import lzma
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import IO, Any

import fsspec
import pyarrow as pa

from pairsieve.schemas.errors import PoolError

MAX_LINE = 67_108_864
"""Characters of a line or a csv field; a longer line is a bad row."""
PACKINGS: Mapping[str, Callable[[IO[bytes]], Any]] = {
    "gz": gzip.open,
    "bz2": bz2.open,
    "xz": lzma.open,
    "zst": lambda file: pa.CompressedInputStream(file, "zstd"),
}
"""How to unpack a file, by the ending of its name."""


class Lines:
    """Lines of a text file, of bounded length; those of an unreadable record can be given back."""

    def __init__(self, file: IO[str]) -> None:
        """Start at the beginning."""
        self._file = file
        self._back: deque[str | None] = deque()
        self.record: list[str | None] = []

    def __iter__(self) -> Iterator[str | None]:
        """The lines with their ends; None for one that is too long."""
        return self

    def __next__(self) -> str | None:
        """One line."""
        line = self._back.popleft() if self._back else self._read()
        self.record.append(line)
        return line

    def _read(self) -> str | None:
        line = self._file.readline(MAX_LINE)
        if not line:
            raise StopIteration
        if len(line) < MAX_LINE or line.endswith(("\n", "\r")):
            return line
        while (rest := self._file.readline(MAX_LINE)) and not rest.endswith(("\n", "\r")):
            pass
        return None

    def give_back(self) -> list[str | None]:
        """Read the record's lines but the first once more; gives the record's lines."""
        lines, self.record = self.record, []
        self._back.extendleft(reversed(lines[1:]))
        return lines


@contextmanager
def open_lines(fs: fsspec.AbstractFileSystem, path: str) -> Iterator[Lines]:
    """The lines of a text file of any filesystem, unpacked on the way."""
    packing = path.rsplit(".", 1)[-1].lower()
    try:
        with ExitStack() as stack:
            file = stack.enter_context(fs.open(path, "rb"))
            if packing in PACKINGS:
                file = stack.enter_context(PACKINGS[packing](file))
            buffered = io.BufferedReader(file, 1_048_576)
            yield Lines(io.TextIOWrapper(buffered, encoding="utf-8-sig", errors="replace", newline=""))
    except (OSError, EOFError, zlib.error, lzma.LZMAError, pa.ArrowException) as error:
        raise PoolError(f"{path}: cannot be read: {first_line(error)}; fetch it again, or leave it out") from None


def strings(values: Sequence[str | None]) -> pa.Array:
    """Text as Arrow strings; what UTF-8 cannot hold (half a surrogate pair) becomes ``?``."""
    try:
        return pa.array(values, pa.string())
    except UnicodeEncodeError:
        return pa.array([None if v is None else v.encode("utf-8", "replace").decode() for v in values], pa.string())


def first_line(error: Exception) -> str:
    """The first line of a message, without its full stop."""
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(". ")[:300]
