"""Rows and columns of csv and tsv files: Python's own reader, so that a bad line is one bad row in its place."""

import csv
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pairsieve.pipelines.text_lines import MAX_LINE, Lines, strings
from pairsieve.schemas.errors import PoolError

MAX_COLUMNS = 2_000


def csv_rows(lines: Lines, kind: str, path: str) -> tuple[list[str], Iterator[list[str | None] | None]]:
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


def csv_type(values: Sequence[str | None]) -> pa.DataType:
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


def csv_values(values: Sequence[str | None], kind: pa.DataType) -> pa.Array:
    """Fields in the type of their column; null where one does not fit."""
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
