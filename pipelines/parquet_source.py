"""Parquet files of a pool: opened, read in batches, and cast with errors that name the file."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa

from pairsieve.pipelines.store import open_parquet
from pairsieve.pipelines.text_lines import first_line
from pairsieve.schemas import columns
from pairsieve.schemas.errors import PoolError


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


def batches(file: Any, path: str, rows: int, **which: Any) -> Iterator[pa.RecordBatch]:
    """Batches of an open Parquet file; broken pages raise ``PoolError`` with the file's name."""
    try:
        yield from file.iter_batches(rows, use_threads=False, **which)
    except (pa.ArrowException, OSError) as error:
        raise PoolError(f"{path}: broken Parquet file: {first_line(error)}; fetch it again, or leave it out") from None


def read_groups(file: Any, groups: Sequence[int], names: list[str], path: str) -> pa.Table:
    """Columns of some row groups of an open file; broken pages raise ``PoolError`` with the file's name."""
    try:
        return file.read_row_groups(list(groups), columns=names, use_threads=False).combine_chunks()
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
        return _valid_lists(values.cast(kind)) if columns.is_items(kind) else values.cast(kind)
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


def _valid_lists(values: pa.Array) -> pa.Array:
    """Lists of strings as valid UTF-8; other lists as they are."""
    inner = values.type.value_type
    if not (pa.types.is_string(inner) or pa.types.is_large_string(inner)):
        return values
    try:
        values.validate(full=True)
    except pa.ArrowInvalid:
        ends = np.concatenate([[0], np.cumsum(values.value_lengths().fill_null(0).to_numpy(zero_copy_only=False))])
        texts = _valid(values.flatten().cast(pa.large_binary()))
        mask = values.is_null() if values.null_count else None
        return pa.ListArray.from_arrays(pa.array(ends, pa.int32()), texts, mask=mask).cast(values.type)
    return values


def _valid(values: pa.Array) -> pa.Array:
    found = values
    try:
        found = values.cast(pa.string())
        found.validate(full=True)
    except pa.ArrowInvalid:
        raw = values.cast(pa.large_binary()).to_pylist()
        return pa.array([None if v is None else v.decode("utf-8", "replace") for v in raw], pa.string())
    return found
