"""Arrays of an ``.npz`` file, read forward in row ranges: nothing is unpickled, and no array is held whole.

An array that is stored plain is read where it lies; a deflated one is unpacked as it goes, at some
100 MB a CPU-second (70,000 rows of 768 half floats).
"""

import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO

import fsspec
import numpy as np
import pyarrow as pa

from pairsieve.pipelines.pools import HeavyReader
from pairsieve.pipelines.text_lines import first_line
from pairsieve.schemas.errors import PoolError

WIDEST = 65_536
"""Numbers in a row at most."""
_KINDS = {"float16": pa.float16(), "float32": pa.float32(), "float64": pa.float64()}
NO_TABLE = "no table of floats, row by row (two dimensions, C order); save it so, or leave that feature out"


@dataclass(frozen=True)
class Header:
    """Shape and type of a two-dimensional array."""

    rows: int
    width: int
    dtype: np.dtype[Any]

    @property
    def kind(self) -> pa.DataType:
        """The Arrow type of the column: a list of fixed size."""
        return pa.list_(_KINDS[self.dtype.name], self.width)


def headers(fs: fsspec.AbstractFileSystem, path: str) -> dict[str, Header | None]:
    """Shape and type of every array, None of one that can be no column; raises ``PoolError`` with the file's name."""
    with _opened(fs, path) as archive:
        found: dict[str, Header | None] = {}
        for name in archive.namelist():
            if name.endswith(".npy"):
                with archive.open(name) as member:
                    found[name.removesuffix(".npy")] = _header(member)
        return found


class NpzColumn(HeavyReader):
    """Rows of one array from ``first`` on, as lists of fixed size."""

    def __init__(self, fs: fsspec.AbstractFileSystem, path: str, name: str, first: int, rows: int) -> None:
        """Open and check: the file must hold ``rows`` rows in all."""
        with ExitStack() as stack:
            archive = stack.enter_context(_opened(fs, path))
            if f"{name}.npy" not in archive.namelist():
                raise PoolError(f"{path}: no array {name!r}; fetch the file again, or leave that feature out")
            self._member = stack.enter_context(archive.open(f"{name}.npy"))
            header = _header(self._member)
            check_shape(header, rows, f"{path}: array {name!r}")
            assert header is not None
            self._stack = stack.pop_all()
        self._path, self._header = path, header
        self._row_bytes = header.width * header.dtype.itemsize
        self._start = self._member.tell()
        self._at, self._first = 0, first

    def read(self, start: int, stop: int) -> pa.Array:
        """See ``HeavyReader``."""
        try:
            self._skip_to(self._first + start)
            content = self._member.read((stop - start) * self._row_bytes)
        except (OSError, zipfile.BadZipFile, EOFError, ValueError, RuntimeError, zlib.error) as error:
            raise PoolError(f"{self._path}: broken archive: {first_line(error)}; fetch it again") from None
        self._at += stop - start
        if len(content) < (stop - start) * self._row_bytes:
            raise PoolError(f"{self._path}: ends before its last row; fetch it again")
        values = np.frombuffer(content, self._header.dtype)
        native = values.astype(values.dtype.newbyteorder("="), copy=False)
        return pa.FixedSizeListArray.from_arrays(pa.array(native), self._header.width)

    def _skip_to(self, row: int) -> None:
        if row == self._at:
            return
        if row < self._at:
            raise PoolError(f"{self._path}: features are read forward only")
        self._member.seek(self._start + row * self._row_bytes)
        self._at = row

    def close(self) -> None:
        """See ``HeavyReader``."""
        self._stack.close()


def check_shape(header: Header | None, rows: int, where: str) -> None:
    """Raise ``PoolError`` where an array cannot be aligned with the rows of its Parquet file."""
    if header is None:
        raise PoolError(f"{where} is {NO_TABLE}")
    if header.rows != rows:
        raise PoolError(f"{where} has {header.rows:,} rows, the Parquet file {rows:,}; fetch both again")


def check(fs: fsspec.AbstractFileSystem, path: str, rows: int, wanted: Mapping[str, pa.DataType]) -> None:
    """Raise ``PoolError`` unless a file has these arrays for so many rows, of the first file's types."""
    found = headers(fs, path)
    for name, kind in wanted.items():
        if name not in found:
            raise PoolError(f"{path}: no array {name!r}, which the first file of the pool has; fetch it again")
        header = found[name]
        check_shape(header, rows, f"{path}: array {name!r}")
        if header is not None and header.kind != kind:
            raise PoolError(f"{path}: array {name!r} is {header.kind}, the first file's {kind}; convert it")


@contextmanager
def _opened(fs: fsspec.AbstractFileSystem, path: str) -> Iterator[zipfile.ZipFile]:
    try:
        stack = ExitStack()
        archive = stack.enter_context(zipfile.ZipFile(stack.enter_context(fs.open(path, "rb"))))
    except FileNotFoundError:
        raise PoolError(f"{path}: no such file; fetch the features of every metadata file, or use none") from None
    except (OSError, zipfile.BadZipFile, ValueError) as error:
        stack.close()
        raise PoolError(f"{path}: no readable npz archive: {first_line(error)}; fetch it again") from None
    with stack:
        yield archive


def _header(member: BinaryIO | Any) -> Header | None:
    """The header of an array; None where it is none that can be a column.  Reads nothing else."""
    try:
        version = np.lib.format.read_magic(member)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, is_fortran, dtype = read(member)
    except (ValueError, OSError, zipfile.BadZipFile, EOFError):
        return None
    if is_fortran or len(shape) != 2 or dtype.name not in _KINDS or not 0 < shape[1] <= WIDEST:
        return None
    return Header(int(shape[0]), int(shape[1]), dtype)
