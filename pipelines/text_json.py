"""Records of jsonl files, and of files that are one JSON array."""

import json
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import pyarrow as pa

from pairsieve.pipelines.text_lines import Lines, strings
from pairsieve.schemas.errors import PoolError

MAX_ARRAY = 1_073_741_824
"""Bytes of a file that is one JSON array: it is parsed as a whole."""

Record: TypeAlias = dict[str, Any] | None
"""One row by column; None = its line cannot be read."""


def json_rows(lines: Lines, path: str, names: Sequence[str]) -> Iterator[list[Any] | None]:
    """The named fields of each record; None for a line that cannot be read."""
    for record in json_records(lines, path):
        yield None if record is None else [record.get(name) for name in names]


def json_records(lines: Lines, path: str) -> Iterator[Record]:
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


def json_type(values: Sequence[Any]) -> pa.DataType:
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


def json_values(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    """Fields in the type of their column; null where one does not fit, nested ones as JSON text."""
    if pa.types.is_string(kind):
        return strings([v if v is None or isinstance(v, str) else json.dumps(v, ensure_ascii=False) for v in values])
    if pa.types.is_boolean(kind):
        return pa.array([v if isinstance(v, bool) else None for v in values], kind)
    if pa.types.is_floating(kind):
        return pa.array([_number(v) if isinstance(v, int | float) else None for v in values], kind)
    return pa.array([v if type(v) is int and _fits(v) else None for v in values], kind)


def _number(value: float) -> float | None:
    try:
        return float(value)
    except OverflowError:
        return None
