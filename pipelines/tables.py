"""Read csv, tsv, jsonl, parquet and txt files, compressed or not, as tables of fixed types, row by row in order.

Python's own csv and json parsers: 0.25–0.45 M rows/s on a core, and in return a line that cannot be
read is known in its place and becomes a row (``bad``), where faster readers stop or leave it out.
The first file's types hold for all files of a pool; a value that does not fit its type is null.
"""

import bz2
import csv
import gzip
import io
import json
import lzma
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from itertools import islice
from typing import IO, Any, NamedTuple, TypeAlias

import fsspec
import pyarrow as pa
import pyarrow.compute as pc

from pairsieve.pipelines.store import open_parquet
from pairsieve.schemas.errors import PoolError

BATCH = 65_536
TEXT_BATCH = 2_048
"""Rows of text files at a time: Python objects that fit the cache."""
SAMPLE = 20_000
"""Rows of text files whose values decide the types."""
MAX_LINE = 67_108_864
"""Characters of a line or a csv field; a longer line is a bad row."""
MAX_ARRAY = 1_073_741_824
"""Bytes of a file that is one JSON array: it is parsed as a whole."""
MAX_COLUMNS = 2_000
_ENDINGS = {
    "csv": "csv",
    "tsv": "tsv",
    "jsonl": "jsonl",
    "ndjson": "jsonl",
    "json": "jsonl",
    "parquet": "parquet",
    "txt": "txt",
}
_OPENERS: Mapping[str, Callable[[IO[bytes]], Any]] = {
    "gz": gzip.open,
    "bz2": bz2.open,
    "xz": lzma.open,
    "zst": lambda file: pa.CompressedInputStream(file, "zstd"),
}
ENDINGS = (*_ENDINGS, *_OPENERS)
"""Files of a folder that count as lists of pairs."""

Types: TypeAlias = Mapping[str, pa.DataType]
Record: TypeAlias = dict[str, Any] | None
"""One row by column; None = its line cannot be read."""


class Piece(NamedTuple):
    """Some rows, and which of them are lines that cannot be read (all null)."""

    table: pa.Table
    bad: pa.Array


def format_of(path: str, wanted: str) -> str:
    """The format of a file; ``auto`` goes by its name without a compression ending."""
    if wanted != "auto":
        return wanted
    ending = path.rsplit("/", 1)[-1].lower()
    for compression in _OPENERS:
        ending = ending.removesuffix(f".{compression}")
    ending = ending.rsplit(".", 1)[-1]
    if ending not in _ENDINGS:
        raise PoolError(
            f"{path}: cannot tell the format by its name; set format: to one of csv, tsv, jsonl, parquet, txt"
        )
    return _ENDINGS[ending]


def types_of(fs: fsspec.AbstractFileSystem, path: str, kind: str) -> dict[str, pa.DataType]:
    """Columns and types of a file, from its head."""
    if kind == "txt":
        return {"url": pa.string()}
    if kind == "parquet":
        with open_source(fs, path) as file:
            return plain_types(file.schema_arrow, path)
    with _text(fs, path) as lines:
        if kind == "jsonl":
            records = [r for r in islice(_json_records(lines, path), SAMPLE) if r is not None]
            names = list(dict.fromkeys(name for record in records for name in record))
            found = {name: _json_type([record.get(name) for record in records]) for name in names}
        else:
            names, rows = _csv_rows(lines, kind, path)
            head = [row for row in islice(rows, SAMPLE) if row is not None]
            found = {name: _csv_type([row[i] for row in head]) for i, name in enumerate(names)}
    if not found:
        raise PoolError(f"{path}: is empty: no header and no row; leave this file out")
    if len(found) > MAX_COLUMNS:
        raise PoolError(f"{path}: more than {MAX_COLUMNS:,} columns; is it a list of pairs?")
    return found


def read(fs: fsspec.AbstractFileSystem, path: str, kind: str, types: Types) -> Iterator[Piece]:
    """The columns of ``types`` in row order, in pieces of at most ``BATCH`` rows."""
    if kind == "parquet":
        yield from _read_parquet(fs, path, types)
        return
    with _text(fs, path) as lines:
        if kind == "jsonl":
            yield from _pieces(_json_rows(lines, path, list(types)), types, _json_values)
        elif kind == "txt":
            rows = ([line.strip() or None] if line is not None else None for line in lines)
            yield from _pieces(rows, types, lambda values, kind: strings(values))
        else:
            names, found = _csv_rows(lines, kind, path)
            if not names:  # not even a header, as Spark leaves empty parts
                return
            check_columns(names, types, path)
            places = [names.index(name) for name in types]
            yield from _pieces(([row[i] for i in places] if row else row for row in found), types, _csv_values)


def check_columns(names: Sequence[str], wanted: Iterable[str], path: str) -> None:
    """Raise ``PoolError`` for a column that the first file has and this one has not."""
    for name in wanted:
        if name not in names:
            raise PoolError(f"{path}: no column {name!r}, which the first file of the pool has; leave this file out")


def _pieces(
    rows: Iterable[Sequence[Any] | None], types: Types, values: Callable[[Sequence[Any], pa.DataType], pa.Array]
) -> Iterator[Piece]:
    """Rows as tables, columns turned into Arrow by ``values``."""
    rows = iter(rows)
    while held := list(islice(rows, TEXT_BATCH)):
        empty = (None,) * len(types)
        columns = zip(*(empty if row is None else row for row in held), strict=True)
        arrays = [values(column, kind) for column, kind in zip(columns, types.values(), strict=True)]
        yield Piece(pa.table(arrays, names=list(types)), pa.array([row is None for row in held]))


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


def _csv_rows(lines: Lines, kind: str, path: str) -> tuple[list[str], Iterator[list[str | None] | None]]:
    """The header and the rows; None for a row that cannot be read or has not as many fields as the header."""
    csv.field_size_limit(MAX_LINE)
    # map, not a generator: after the last line there may be lines that were given back
    reader = csv.reader(map(_refusable, lines), strict=True, **_dialect(kind))
    try:
        names = next(reader, [])
    except csv.Error as error:
        raise PoolError(f"{path}: line 1: {error}; mend the header") from None
    if twice := {name for name in names if names.count(name) > 1}:
        raise PoolError(f"{path}: two columns called {sorted(twice)[0]!r}; rename one")
    return names, _csv_body(reader, lines, len(names), kind)


def _refusable(line: str | None) -> str:
    """A line that is too long becomes one that a strict reader refuses."""
    return '""x\n' if line is None else line


def _dialect(kind: str) -> dict[str, Any]:
    return {"delimiter": "\t" if kind == "tsv" else ",", "quotechar": '"', "doublequote": True}


def _csv_body(reader: Any, lines: Lines, width: int, kind: str) -> Iterator[list[str | None] | None]:
    while True:
        lines.record.clear()
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error:
            row = _mended(lines.give_back(), kind)
        if row:  # a blank line is no row
            yield [value or None for value in row] if len(row) == width else None


def _mended(record: Sequence[str | None], kind: str) -> list[str]:
    """A line with stray quotes, read leniently; of a quote that is never closed only the first line is lost."""
    line = record[0]
    with suppress(csv.Error):
        if len(record) == 1 and line is not None:
            row = next(csv.reader([line.rstrip("\r\n") + "\n"], **_dialect(kind)))
            if not row[-1].endswith("\n"):  # else its quote is still open
                return row
    return [""] * (MAX_COLUMNS + 1)  # no header is as wide: a bad row


def _json_rows(lines: Lines, path: str, names: Sequence[str]) -> Iterator[list[Any] | None]:
    for record in _json_records(lines, path):
        yield None if record is None else [record.get(name) for name in names]


def _json_records(lines: Lines, path: str) -> Iterator[Record]:
    """A record a line, or the elements of one array; None for what is no object."""
    for line in lines:
        lines.record.clear()
        if line is None:
            yield None
        elif line.lstrip().startswith("["):
            yield from _json_array(line, lines, path)
            return
        elif line.strip():
            yield _json_record(line)
            break
    for line in lines:
        lines.record.clear()
        if line is None or line.strip():
            yield None if line is None else _json_record(line)


def _json_record(line: str) -> Record:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _json_array(first: str, lines: Lines, path: str) -> Iterator[Record]:
    """The elements of a file that is one array."""
    parts, size = [first], len(first)
    for line in lines:
        lines.record.clear()
        size += len(line or "")
        parts.append(line or "")
        if size > MAX_ARRAY:
            raise PoolError(f"{path}: a JSON array too large to be read as a whole; write one object a line")
    try:
        found = json.loads("".join(parts))
    except (ValueError, RecursionError) as error:
        raise PoolError(f"{path}: no readable JSON array: {error}; write one object a line") from None
    for value in found if isinstance(found, list) else [found]:
        yield value if isinstance(value, dict) else None


def _json_type(values: Sequence[Any]) -> pa.DataType:
    """Booleans, whole numbers of 64 bits and numbers keep their type; anything else is kept as text."""
    kinds = {type(value) for value in values if value is not None}
    if kinds == {bool}:
        return pa.bool_()
    if kinds == {int} and all(value is None or _fits(value) for value in values):
        return pa.int64()
    if kinds in ({float}, {int, float}) and all(type(v) is not int or abs(v) <= 2**53 for v in values):
        return pa.float64()
    return pa.string()


def _fits(value: int) -> bool:
    return -(2**63) <= value < 2**63


def _json_values(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    if pa.types.is_string(kind):
        return strings([v if v is None or isinstance(v, str) else json.dumps(v, ensure_ascii=False) for v in values])
    if pa.types.is_boolean(kind):
        return pa.array([v if isinstance(v, bool) else None for v in values], kind)
    if pa.types.is_floating(kind):
        return pa.array([_number(v) if isinstance(v, int | float) else None for v in values], kind)
    return pa.array([v if type(v) is int and _fits(v) else None for v in values], kind)


def _csv_type(values: Sequence[str | None]) -> pa.DataType:
    """The narrowest type that holds every value and gives whole numbers back as they were written."""
    given = pa.array([v for v in values if v is not None], pa.string(), safe=False) if _utf8(values) else pa.array([])
    if not len(given):
        return pa.string()
    if pc.all(pc.is_in(pc.utf8_lower(given), pa.array(["true", "false"]))).as_py():
        return pa.bool_()
    if pc.all(pc.match_substring_regex(given, r"^(0|-?[1-9][0-9]{0,17})$")).as_py():
        return pa.int64()
    # many digits are an identity, not a number: they would not come back
    if pc.all(
        pc.match_substring_regex(
            given, r"^[+-]?([0-9]|[1-9][0-9]{0,14})?(\.[0-9]*)?([eE][+-]?[0-9]+)?$|^nan$|^NaN$|^-?inf$"
        )
    ).as_py():
        with suppress(pa.ArrowInvalid):
            given.cast(pa.float64())
            return pa.float64()
    if pc.all(pc.match_substring_regex(given, r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$")).as_py():
        with suppress(pa.ArrowInvalid):
            given.cast(pa.date32())
            return pa.date32()
    return pa.string()


def _utf8(values: Sequence[str | None]) -> bool:
    return all(v is None or v.isascii() or not any("\ud800" <= c <= "\udfff" for c in v) for v in values)


def _csv_values(values: Sequence[str | None], kind: pa.DataType) -> pa.Array:
    text = strings(values)
    if pa.types.is_string(kind):
        return text
    try:
        return text.cast(kind)
    except pa.ArrowInvalid:  # one of the values does not fit: find it, keep the others
        return pa.concat_arrays([_cast_one(text.slice(i, 1), kind) for i in range(len(text))])


def _cast_one(value: pa.Array, kind: pa.DataType) -> pa.Array:
    try:
        return value.cast(kind)
    except pa.ArrowInvalid:
        return pa.nulls(1, kind)


def _number(value: float) -> float | None:
    try:
        return float(value)
    except OverflowError:
        return None


def strings(values: Sequence[str | None]) -> pa.Array:
    """Text as Arrow strings; what UTF-8 cannot hold (half a surrogate pair) becomes ``?``."""
    try:
        return pa.array(values, pa.string())
    except UnicodeEncodeError:
        return pa.array([None if v is None else v.encode("utf-8", "replace").decode() for v in values], pa.string())


def _read_parquet(fs: fsspec.AbstractFileSystem, path: str, types: Types) -> Iterator[Piece]:
    with open_source(fs, path) as file:
        check_columns(file.schema_arrow.names, types, path)
        for batch in batches(file, path, BATCH, columns=list(types)):
            arrays = [as_type(batch[name], kind, f"{path}: column {name!r}") for name, kind in types.items()]
            yield Piece(pa.table(arrays, names=list(types)), pa.repeat(pa.scalar(False), batch.num_rows))


def batches(file: Any, path: str, rows: int, **which: Any) -> Iterator[pa.RecordBatch]:
    """Batches of an open Parquet file; broken pages raise ``PoolError`` with the file's name."""
    try:
        yield from file.iter_batches(rows, use_threads=False, **which)
    except (pa.ArrowException, OSError) as error:
        raise PoolError(f"{path}: broken Parquet file: {first_line(error)}; fetch it again, or leave it out") from None


def plain_types(schema: pa.Schema, path: str) -> dict[str, pa.DataType]:
    """Columns and types of a Parquet file; text has one type, however it is stored."""
    twice = [name for name in schema.names if schema.names.count(name) > 1]
    if twice:
        raise PoolError(f"{path}: two columns called {twice[0]!r}; rename one")
    return {field.name: _plain(field.type) for field in schema}


def _plain(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_dictionary(kind):
        return _plain(kind.value_type)
    return pa.string() if pa.types.is_large_string(kind) or pa.types.is_string_view(kind) else kind


def as_type(values: pa.Array, kind: pa.DataType, where: str) -> pa.Array:
    """Values of a Parquet column in the type of the pool's first file; raises ``PoolError``."""
    if pa.types.is_string(kind):
        return as_text(values, where)
    try:
        return values.cast(kind)
    except pa.ArrowException as error:
        raise PoolError(f"{where} does not fit the first file's {kind}: {first_line(error)}; convert it") from None


def as_text(values: pa.Array, where: str) -> pa.Array:
    """Values as valid UTF-8, bytes that are none replaced; raises ``PoolError`` for nested columns."""
    kind = _plain(values.type)
    try:
        if pa.types.is_string(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
            return _valid(values.cast(kind))
        return values.cast(pa.string())
    except pa.ArrowException:
        raise PoolError(f"{where} holds {values.type}, not text; name another column") from None


def _valid(values: pa.Array) -> pa.Array:
    found = values
    try:
        found = values.cast(pa.string())
        found.validate(full=True)
    except pa.ArrowInvalid:
        raw = values.cast(pa.large_binary()).to_pylist()
        return pa.array([None if v is None else v.decode("utf-8", "replace") for v in raw], pa.string())
    return found


@contextmanager
def open_source(fs: fsspec.AbstractFileSystem, path: str) -> Iterator[Any]:
    """An open Parquet file of the pool; raises ``PoolError`` with its name."""
    try:
        file = open_parquet(fs, path)
    except (pa.ArrowException, OSError) as error:
        raise PoolError(
            f"{path}: no readable Parquet file: {first_line(error)}; fetch it again, or leave it out"
        ) from None
    with file:
        yield file


def first_line(error: Exception) -> str:
    """The first line of a message, without its full stop."""
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(". ")[:300]


@contextmanager
def _text(fs: fsspec.AbstractFileSystem, path: str) -> Iterator[Lines]:
    """The lines of a text file of any filesystem, unpacked on the way."""
    packing = path.rsplit(".", 1)[-1].lower()
    try:
        with ExitStack() as stack:
            file = stack.enter_context(fs.open(path, "rb"))
            if packing in _OPENERS:
                file = stack.enter_context(_OPENERS[packing](file))
            buffered = io.BufferedReader(file, 1_048_576)
            yield Lines(io.TextIOWrapper(buffered, encoding="utf-8-sig", errors="replace", newline=""))
    except (OSError, EOFError, zlib.error, lzma.LZMAError, pa.ArrowException) as error:
        raise PoolError(f"{path}: cannot be read: {first_line(error)}; fetch it again, or leave it out") from None
