"""Row groups of a dataset, read whole: mapped files here, one request each elsewhere.

Of a remote file the footer is read once (at most ``FOOTER_BYTES`` of footers are kept), and then a range for each row
group: from the first of the wanted columns to the last, unless more than ``GAP`` bytes lie between two.  Reading a
group of 256 images of 26 KB takes 16 CPU-µs an image; checking its pages' checksums 10 more.
"""

import io
import threading
from collections import OrderedDict
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from pairsieve.pipelines import seal
from pairsieve.pipelines.feed_source import Source
from pairsieve.pipelines.store import TAIL_BYTES, Store
from pairsieve.pipelines.text_lines import first_line
from pairsieve.schemas.errors import DamagedFileError, StorageError

FOOTER_BYTES = 1 << 24
"""Of footers as they are written; in memory they take several times as much."""
GAP = 1 << 20
"""Bytes between two columns that are read along rather than asked for around."""


class Reader:
    """Reads some columns of a dataset; safe in threads, made in the process that reads."""

    def __init__(self, source: Source, columns: Sequence[str], verify: bool = False) -> None:
        """Nothing is read yet."""
        self._source, self._columns, self._verify = source, list(columns), verify
        self._store = Store(source.root)
        self._footers: OrderedDict[int, pq.FileMetaData] = OrderedDict()
        self._lock = threading.Lock()

    def group(self, number: int) -> pa.Table:
        """A row group of the dataset; raises ``DamagedFileError`` for a file that is not as it was written."""
        file, group = self._source.place(number)
        return self._read(file, [group])

    def file(self, number: int) -> pa.Table:
        """The columns of a whole file."""
        return self._read(number, range(len(self._source.manifest.files[number].row_groups)))

    def _read(self, number: int, groups: Sequence[int]) -> pa.Table:
        name = self._source.manifest.files[number].file
        try:
            with self._open(number, name, groups) as file:
                return file.read_row_groups(list(groups), columns=self._columns, use_threads=False)
        except FileNotFoundError:
            raise self._damaged(name, "is missing") from None
        except (pa.ArrowException, EOFError, IndexError, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:  # Parquet's own have no number
                raise StorageError(
                    f"{self._store.url(name)}: {first_line(error)}; check the disk, and resume"
                ) from error
            raise self._damaged(name, f"is damaged: {first_line(error)}") from None
        except DamagedFileError as error:
            raise self._damaged(name, str(error)) from None

    def _damaged(self, name: str, said: str) -> DamagedFileError:
        return DamagedFileError(f"{self._store.url(name)} {said}; run its recipe again, which writes it anew")

    def _open(self, number: int, name: str, groups: Sequence[int]) -> pq.ParquetFile:
        footer = self._footer(number, name)
        if self._store.local:
            path = self._store.path(name)
            return pq.ParquetFile(
                path, metadata=footer, memory_map=True, pre_buffer=False, page_checksum_verification=self._verify
            )
        ranges = _joined(_ranges(footer, groups, self._columns))
        starts, stops = zip(*ranges, strict=True) if ranges else ((), ())
        path = self._store.path(name)
        if len(ranges) == 1:
            parts = [self._store.fs.cat_file(path, starts[0], stops[0])]
        else:
            parts = self._store.fs.cat_ranges([path] * len(ranges), list(starts), list(stops), on_error="raise")
        file = pa.PythonFile(_Parts(dict(zip(starts, parts, strict=True))), mode="r")
        return pq.ParquetFile(file, metadata=footer, pre_buffer=False, page_checksum_verification=self._verify)

    def _footer(self, number: int, name: str) -> pq.FileMetaData:
        with self._lock:  # two groups of a file may be read at once
            if number not in self._footers:
                self._footers[number] = seal.check(self._end(number, name), is_whole=False)
            self._footers.move_to_end(number)
            while len(self._footers) > 1 and sum(f.serialized_size for f in self._footers.values()) > FOOTER_BYTES:
                self._footers.popitem(last=False)
            return self._footers[number]

    def _end(self, number: int, name: str) -> pa.Buffer:
        """At least the footer: of a remote file one request, or two for a large footer."""
        if self._store.local:
            return self._store.content(name)
        path, size = self._store.path(name), self._source.manifest.files[number].size
        end = self._store.fs.cat_file(path, max(0, size - TAIL_BYTES), size)
        if (length := seal.footer_bytes(end)) > len(end):
            end = self._store.fs.cat_file(path, max(0, size - length), size)
        return pa.py_buffer(end)


Range = tuple[int, int]


def _ranges(footer: pq.FileMetaData, groups: Sequence[int], columns: Sequence[str]) -> list[Range]:
    """Where the chunks of the columns lie in the file."""
    found = []
    for group in groups:
        chunks = footer.row_group(group)
        for i in range(chunks.num_columns):
            chunk = chunks.column(i)
            if chunk.path_in_schema.split(".", 1)[0] in columns:
                start = chunk.data_page_offset
                if chunk.dictionary_page_offset is not None:
                    start = min(start, chunk.dictionary_page_offset)
                found.append((start, start + chunk.total_compressed_size))
    return sorted(found)


def _joined(ranges: Sequence[Range]) -> list[Range]:
    """Ranges that lie close together as one."""
    found: list[Range] = []
    for start, stop in ranges:
        if found and start - found[-1][1] <= GAP:
            found[-1] = (found[-1][0], max(stop, found[-1][1]))
        else:
            found.append((start, stop))
    return found


class _Parts(io.RawIOBase):
    """A file of which only some parts are there, by where they start."""

    def __init__(self, parts: dict[int, bytes]) -> None:
        self._parts, self._at = parts, 0
        self._size = max((start + len(part) for start, part in parts.items()), default=0)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + (0, self._at, self._size)[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        for start, part in self._parts.items():
            if start <= self._at < start + len(part):
                found = part[self._at - start : self._at - start + size if size >= 0 else None]
                self._at += len(found)
                return found
        return b""
