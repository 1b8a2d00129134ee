"""Read csv, tsv, jsonl, parquet and txt files, compressed or not, as tables of fixed types, row by row in order.

Python's own csv and json parsers: 0.25–0.45 M rows/s on a core, and in return a line that cannot be
read is known in its place and becomes a row (``bad``), where faster readers stop or leave it out.
The first file's types hold for all files of a pool; a value that does not fit its type is null.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple, TypeAlias

import fsspec
import pyarrow as pa

from pairsieve.pipelines.parquet_source import as_type, batches, open_source, plain_types
from pairsieve.pipelines.text_csv import MAX_COLUMNS, csv_rows, csv_type, csv_values
from pairsieve.pipelines.text_json import json_records, json_rows, json_type, json_values
from pairsieve.pipelines.text_lines import PACKINGS, open_lines, strings
from pairsieve.schemas.errors import PoolError

BATCH = 65_536
TEXT_BATCH = 2_048
"""Rows of text files at a time: Python objects that fit the cache."""
SAMPLE = 20_000
"""Rows of text files whose values decide the types."""
_ENDINGS = {
    "csv": "csv",
    "tsv": "tsv",
    "jsonl": "jsonl",
    "ndjson": "jsonl",
    "json": "jsonl",
    "parquet": "parquet",
    "txt": "txt",
}
ENDINGS = (*_ENDINGS, *PACKINGS)
"""Files of a folder that count as lists of pairs."""

Types: TypeAlias = Mapping[str, pa.DataType]


class Piece(NamedTuple):
    """Some rows, and which of them are lines that cannot be read (all null)."""

    table: pa.Table
    bad: pa.Array


def format_of(path: str, wanted: str) -> str:
    """The format of a file; ``auto`` goes by its name without a compression ending."""
    if wanted != "auto":
        return wanted
    ending = path.rsplit("/", 1)[-1].lower()
    for compression in PACKINGS:
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
    with open_lines(fs, path) as lines:
        if kind == "jsonl":
            records = [r for r in islice(json_records(lines, path), SAMPLE) if r is not None]
            names = list(dict.fromkeys(name for record in records for name in record))
            found = {name: json_type([record.get(name) for record in records]) for name in names}
        else:
            names, rows = csv_rows(lines, kind, path)
            head = [row for row in islice(rows, SAMPLE) if row is not None]
            found = {name: csv_type([row[i] for row in head]) for i, name in enumerate(names)}
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
    with open_lines(fs, path) as lines:
        if kind == "jsonl":
            yield from _pieces(json_rows(lines, path, list(types)), types, json_values)
        elif kind == "txt":
            rows = ([line.strip() or None] if line is not None else None for line in lines)
            yield from _pieces(rows, types, lambda values, kind: strings(values))
        else:
            names, found = csv_rows(lines, kind, path)
            if not names:  # not even a header, as Spark leaves empty parts
                return
            check_columns(names, types, path)
            places = [names.index(name) for name in types]
            yield from _pieces(([row[i] for i in places] if row else row for row in found), types, csv_values)


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


def _read_parquet(fs: fsspec.AbstractFileSystem, path: str, types: Types) -> Iterator[Piece]:
    with open_source(fs, path) as file:
        check_columns(file.schema_arrow.names, types, path)
        for batch in batches(file, path, BATCH, columns=list(types)):
            arrays = [as_type(batch[name], kind, f"{path}: column {name!r}") for name, kind in types.items()]
            yield Piece(pa.table(arrays, names=list(types)), pa.repeat(pa.scalar(False), batch.num_rows))
