"""Row groups of a dataset, read whole: mapped files here, one request each elsewhere.

Of a remote file the footer is read once (at most ``FOOTER_BYTES`` of footers are kept), and then a range for each row
group: from the first of the wanted columns to the last, unless more than ``GAP`` bytes lie between two.  Reading a
group of 256 images of 26 KB, where they lie, takes some 3 CPU-µs an image; with their pages' checksums 16.
"""

import io
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pairsieve.pipelines import seal
from pairsieve.pipelines.feed_pages import Values, is_plain, read_values
from pairsieve.pipelines.feed_source import Source
from pairsieve.pipelines.store import TAIL_BYTES, Store
from pairsieve.pipelines.text_lines import first_line
from pairsieve.schemas.columns import IMAGE
from pairsieve.schemas.errors import DamagedFileError, StorageError

FOOTER_BYTES = 1 << 24
"""Of footers as they are written; in memory they take several times as much."""
GAP = 1 << 20
"""Bytes between two columns that are read along rather than asked for around."""
_BROKEN = (EOFError, IndexError, KeyError, TypeError, ValueError, RecursionError)
"""What reading pages raises that are no pages."""


class Reader:
    """Reads some columns of a dataset; safe in threads, made in the process that reads."""

    def __init__(self, source: Source, columns: Sequence[str], verify: bool = False) -> None:
        """Nothing is read yet."""
        self._source, self._columns, self._verify = source, list(columns), verify
        self._store = Store(source.root)
        self._footers: OrderedDict[int, pq.FileMetaData] = OrderedDict()
        self._lock = threading.Lock()

    def group(self, number: int) -> tuple[pa.Table, Values | None]:
        """A row group, its images apart where they can be taken as they lie in the file.

        Raises ``DamagedFileError`` for a file that is not as it was written.
        """
        file, group = self._source.place(number)
        with self._explained(file):
            footer, content = self._opened(file, [group])
            values = None if self._verify else self._values(footer, group, content)
            columns = [name for name in self._columns if values is None or name != IMAGE]
            return self._table(footer, content, [group], columns), values

    def file(self, number: int) -> pa.Table:
        """The columns of a whole file; errors as of ``group``."""
        groups = range(len(self._source.manifest.files[number].row_groups))
        with self._explained(number):
            footer, content = self._opened(number, groups)
            return self._table(footer, content, groups, self._columns)

    @contextmanager
    def _explained(self, number: int) -> Iterator[None]:
        """Errors name the file and the next step."""
        url = self._store.url(self._source.manifest.files[number].file)
        step = "run its recipe again, which writes it anew"
        try:
            yield
        except FileNotFoundError:
            raise DamagedFileError(f"{url} is missing; {step}") from None
        except DamagedFileError as error:
            raise DamagedFileError(f"{url} {error}; {step}") from None
        except (pa.ArrowException, OSError, *_BROKEN) as error:
            if isinstance(error, OSError) and error.errno is not None:  # Parquet's own have no number
                raise StorageError(f"{url}: {first_line(error)}; check the disk, and resume") from error
            raise DamagedFileError(f"{url} is damaged: {first_line(error)}; {step}") from None

    def _opened(self, number: int, groups: Sequence[int]) -> tuple[pq.FileMetaData, "_Parts"]:
        """The footer, and the parts of the file that hold the columns."""
        name = self._source.manifest.files[number].file
        footer = self._footer(number, name)
        if self._store.local:
            return footer, _Parts({0: memoryview(self._store.content(name)).cast("B")})
        path, ranges = self._store.path(name), _joined(_ranges(footer, groups, self._columns))
        starts, stops = [start for start, _ in ranges], [stop for _, stop in ranges]
        if len(ranges) == 1:
            parts = [self._store.fs.cat_file(path, starts[0], stops[0])]
        else:
            parts = self._store.fs.cat_ranges([path] * len(ranges), starts, stops, on_error="raise")
        return footer, _Parts({start: memoryview(part) for start, part in zip(starts, parts, strict=True)})

    def _table(
        self, footer: pq.FileMetaData, content: "_Parts", groups: Sequence[int], columns: Sequence[str]
    ) -> pa.Table:
        file = pa.PythonFile(content, mode="r")
        with pq.ParquetFile(
            file, metadata=footer, pre_buffer=False, page_checksum_verification=self._verify
        ) as parquet:
            return parquet.read_row_groups(list(groups), columns=list(columns), use_threads=False)

    def _values(self, footer: pq.FileMetaData, group: int, content: "_Parts") -> Values | None:
        """The images of a row group as they lie in the file; null where there are none, or only Arrow can read them."""
        chunks = footer.row_group(group)
        names = [chunks.column(i).path_in_schema for i in range(chunks.num_columns)]
        if IMAGE not in self._columns or IMAGE not in names or not is_plain(footer, group, at := names.index(IMAGE)):
            return None
        start, stop = _place(chunks.column(at))
        data = np.frombuffer(content.view(start, stop), np.uint8)
        return read_values(data, chunks.num_rows, footer.schema.column(at).max_definition_level > 0)

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
    chunks = [footer.row_group(g).column(i) for g in groups for i in range(footer.num_columns)]
    return sorted(_place(chunk) for chunk in chunks if chunk.path_in_schema.split(".", 1)[0] in columns)


def _place(chunk: pq.ColumnChunkMetaData) -> Range:
    """Where a column chunk lies in the file."""
    start = chunk.data_page_offset
    if chunk.dictionary_page_offset is not None:
        start = min(start, chunk.dictionary_page_offset)
    return start, start + chunk.total_compressed_size


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
    """A file of which only some parts are there, by where they start; Arrow reads it as any other."""

    def __init__(self, parts: dict[int, memoryview]) -> None:
        self._parts, self._at = parts, 0
        self._size = max((start + len(part) for start, part in parts.items()), default=0)

    def view(self, start: int, stop: int) -> memoryview:
        """Some bytes, or fewer where the part ends; none where there is no part."""
        for begin, part in self._parts.items():
            if begin <= start < begin + len(part):
                return part[start - begin : stop - begin]
        return memoryview(b"")

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + (0, self._at, self._size)[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def read(self, size: int = -1) -> memoryview:
        found = self.view(self._at, self._at + size if size >= 0 else self._size)
        self._at += len(found)
        return found
