"""Questions about the explorer's table: expressions of the user's, pages of pairs, counts; bounded, without access.

An expression is one row's, as in a recipe's ``where``: parsed first, then run in a read-only connection that reaches no
file, no network and no setting, with limits of time and memory.  Over 10 million pairs mostly tenths of a second.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from threading import Event, Timer
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pairsieve.filters._expressions import check_type, first_line, functions_of
from pairsieve.pipelines import machine
from pairsieve.pipelines.sql import quote
from pairsieve.schemas.errors import QueryError

SECONDS = 20.0
"""A query is stopped after so many."""
NESTED = 400
"""Brackets that are open at once: DuckDB's parser takes their square in time where they are never closed."""
LONGEST = 20_000
"""Characters of an expression."""
DEEPEST = 10_000
"""Pairs that can be paged through."""
MOST_ROWS = 200
MOST_TEXT = 2_000
"""Characters of a value that are shown."""
_MEMORY_SHARE = 0.25
_GROWING = frozenset(
    (
        *("range", "generate_series", "repeat", "lpad", "rpad", "bar", "format", "printf"),
        *("list_resize", "array_resize", "list_reduce", "reduce", "array_reduce"),
    )
)
"""Functions of which a short call makes values of any size, beyond DuckDB's own account of its memory."""


def connect(file: Path) -> duckdb.DuckDBPyConnection:
    """A read-only connection to a database file that can do nothing else; its settings cannot be changed."""
    limit = max(512, int(machine.memory() * _MEMORY_SHARE) >> 20)
    settings: dict[str, str | bool | int | float | list[str]] = {
        "access_mode": "READ_ONLY",
        "enable_external_access": "false",
        "memory_limit": f"{limit}MB",
        "max_temp_directory_size": "0B",
        "threads": str(machine.cpus()),
        "lock_configuration": "true",
    }
    return duckdb.connect(str(file), config=settings)


class Questions:
    """The tables of a database, asked by one user."""

    def __init__(self, con: duckdb.DuckDBPyConnection, seconds: float = SECONDS) -> None:
        """Each question gets a cursor of its own, so that several run at once."""
        self._con, self._seconds = con, seconds

    @contextmanager
    def cursor(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """A cursor whose query is interrupted when its time is over; raises ``QueryError`` with one line."""
        with self._con.cursor() as con:
            is_over = Event()

            def stop() -> None:
                is_over.set()
                con.interrupt()

            timer = Timer(self._seconds, stop)
            timer.daemon = True
            timer.start()
            try:
                yield con
            except duckdb.Error as error:
                raise QueryError(self._said(error, is_over.is_set())) from None
            finally:
                timer.cancel()

    def _said(self, error: duckdb.Error, is_over: bool) -> str:
        if is_over:
            return f"stopped after {self._seconds:g} seconds; ask for less"
        if isinstance(error, duckdb.OutOfMemoryException):
            return "needs more memory than the explorer may take; ask for less"
        return first_line(error)[:400]

    def rows(self, sql: str, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """All rows of a query of ours."""
        with self.cursor() as con:
            return con.execute(sql, list(parameters)).fetchall()


class Pairs(Questions):
    """One run's table."""

    def __init__(
        self,
        con: duckdb.DuckDBPyConnection,
        table: str,
        types: Mapping[str, pa.DataType],
        seconds: float = SECONDS,
    ) -> None:
        """``types`` are the table's columns."""
        super().__init__(con, seconds)
        self.table, self.types = table, types
        self._checked: dict[str, str] = {}

    def condition(self, where: str) -> str:
        """The expression as a condition; raises ``QueryError`` with one line for what is none of one row."""
        if where not in self._checked:
            if len(self._checked) > 256:
                self._checked.clear()
            self._checked[where] = self._condition(where)
        return self._checked[where]

    def _condition(self, where: str) -> str:
        if not where.strip():
            return "true"
        if len(where) > LONGEST:
            raise QueryError(f"the condition is longer than {LONGEST:,} characters")
        if max(accumulate((c == "(") - (c == ")") for c in where)) > NESTED:
            raise QueryError("nested too deeply")
        try:
            for name in sorted(functions_of(where) & _GROWING):  # before anything binds it, which may compute it
                raise QueryError(f"{name}() can make values of any size, so it is not for here; use pairsieve query")
            kind = check_type(where, self.types)
        except ValueError as error:
            raise QueryError(str(error)[:400]) from None
        if kind != "BOOLEAN":
            raise QueryError(f"the condition is {kind}, not BOOLEAN; compare it with something")
        return f"(\n{where}\n)"

    def count(self, where: str) -> int:
        """Pairs for which it is true."""
        sql = f"SELECT count(*) FROM {quote(self.table)} WHERE {self.condition(where)}"
        return int(self.rows(sql)[0][0])

    def page(self, where: str, order: str | None, descending: bool, start: int, rows: int) -> tuple[int, list[int]]:
        """How many pairs there are, and the numbers of those from ``start`` on; the condition is computed once.

        ``order``: a column, "" by chance, None as in the pool.  Pairs without a value come last, equal ones by number.
        """
        if start + rows > DEEPEST or not 0 < rows <= MOST_ROWS or start < 0:
            raise QueryError(f"pages end after {DEEPEST:,} pairs; narrow the condition, or sort the other way round")
        condition, value = self.condition(where), self._value(order)
        way = "DESC" if descending and value != "NULL" else "ASC"
        those = f"SELECT rowid AS number, {value} AS value FROM {quote(self.table)} WHERE {condition}"
        place = f"value {way} NULLS LAST, number LIMIT {rows} OFFSET {start}"
        if condition == "true":
            numbers = self.rows(f"SELECT number FROM ({those}) ORDER BY {place}")
            return self.count(""), [int(number) for (number,) in numbers]
        sql = (
            f"WITH hits AS MATERIALIZED ({those}) SELECT (SELECT count(*) FROM hits), number FROM hits ORDER BY {place}"
        )
        found = self.rows(sql)
        if not found:
            return (self.count(where) if start else 0), []
        return int(found[0][0]), [int(number) for _, number in found]

    def _value(self, order: str | None) -> str:
        """What is sorted by."""
        if order is None:
            return "NULL"
        if order == "":
            return "hash(rowid)"
        if order not in self.types:
            raise QueryError(f"no column {order!r} to sort by")
        name = quote(order)
        return f"CASE WHEN isnan({name}) THEN NULL ELSE {name} END" if _is_float(self.types[order]) else name

    def pairs(self, numbers: Sequence[int], names: Sequence[str] | None = None) -> list[dict[str, Any]]:
        """The pairs of these numbers, in this order, as JSON values; ``number`` is among them."""
        if not numbers:
            return []
        shown = [name for name in names or self.types if name in self.types]
        listed = ", ".join(str(int(number)) for number in numbers)  # a list of values would be compared one by one
        what = ", ".join(["rowid", *(_shown(name, self.types[name]) for name in shown)])
        found = self.rows(f"SELECT {what} FROM {quote(self.table)} WHERE rowid IN (SELECT unnest([{listed}]))")
        by_number = {row[0]: dict(zip(("number", *shown), map(as_json, row), strict=True)) for row in found}
        return [by_number[number] for number in numbers if number in by_number]

    def numbers_of(self, uid: str) -> list[int]:
        """Where a uid is listed."""
        found = self.rows(f"SELECT rowid FROM {quote(self.table)} WHERE uid = ? ORDER BY rowid LIMIT 20", [uid])
        return [int(number) for (number,) in found]

    def uids(self, where: str, most: int) -> pa.Table:
        """The uids for which the condition is true, in the order of the pool; at most so many."""
        condition = self.condition(where)
        with self.cursor() as con:
            sql = f"SELECT uid FROM {quote(self.table)} WHERE {condition} ORDER BY rowid LIMIT {most}"
            return con.sql(sql).to_arrow_table()

    def tally(self) -> list[tuple[str | None, str | None, int]]:
        """(step, reason, pairs) of all verdicts."""
        sql = f"SELECT dropped_by, reason, count(*) FROM {quote(self.table)} GROUP BY ALL ORDER BY 3 DESC, 1, 2"
        return [(by, reason, int(count)) for by, reason, count in self.rows(sql)]


def nearest(
    values: NDArray[np.floating[Any]] | None, numbers: NDArray[np.int64], mark: float | None, most: int
) -> list[int]:
    """The numbers whose values lie nearest to a mark, the nearest first; without a mark, every so many of them."""
    if mark is None or values is None:
        return [int(number) for number in numbers[:: max(1, len(numbers) // most)][:most]]
    far = np.nan_to_num(np.abs(values - mark), nan=np.inf, posinf=np.inf)
    few = np.argpartition(far, most)[:most] if len(far) > most else np.arange(len(far))
    return [int(numbers[i]) for i in few[np.lexsort((numbers[few], far[few]))]]


def as_json(value: Any) -> Any:
    """A value of DuckDB as JSON holds it, cut where it is long."""
    if isinstance(value, str):
        return value if len(value) <= MOST_TEXT else f"{value[:MOST_TEXT]}… ({len(value):,} characters)"
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, bytes):
        return value[:32].hex()
    if value is None or isinstance(value, bool | int | float):
        return str(value) if isinstance(value, int) and abs(value) > 2**53 else value
    return as_json(str(value))


def _is_float(kind: pa.DataType) -> bool:
    return bool(pa.types.is_floating(kind))


def _shown(name: str, kind: pa.DataType) -> str:
    """SQL of values as they are shown: times and nested ones as DuckDB spells them, without modules of Python."""
    is_plain = not (pa.types.is_temporal(kind) or pa.types.is_nested(kind))
    return quote(name) if is_plain else f"CAST({quote(name)} AS VARCHAR) AS {quote(name)}"
