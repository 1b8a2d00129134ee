"""DuckDB expressions in recipes: which columns they read, whether they are pure, and their values.

An expression sees one row at a time: no aggregates, sub-queries or window functions, nothing that
depends on time or chance.  It runs in a connection without access to files or settings.
Checking costs about 10 ms; evaluating about 1 ms a batch and DuckDB's own speed after that.
"""

import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import duckdb
import pyarrow as pa

from pairsieve.filters.base import UnknownColumnError

_FORBIDDEN = {
    "SUBQUERY": "a sub-query",
    "WINDOW": "a window function",
    "STAR": "'*', COLUMNS or ALL",
    "PARAMETER": "a parameter",
    "DEFAULT": "DEFAULT",
}
_IMPURE = """
    SELECT function_name FROM duckdb_functions() GROUP BY function_name
    HAVING bool_or(function_type IN ('aggregate', 'table', 'table_macro', 'pragma', 'window'))
       AND NOT bool_or(function_type = 'scalar')
        OR bool_or(function_type = 'scalar' AND stability <> 'CONSISTENT')
"""
_MACROS = "SELECT function_name, macro_definition FROM duckdb_functions() WHERE function_type = 'macro'"
_CLOCKS = frozenset({"current_localtime", "current_localtimestamp"})
"""These look at the clock although DuckDB calls them consistent; so does ``age`` of one argument."""
_ORDER_FRAME = ("UNBOUNDED_PRECEDING", "CURRENT_ROW_RANGE", "NO_OTHER")


def connect() -> duckdb.DuckDBPyConnection:
    """A connection that reads nothing but what is registered with it."""
    return duckdb.connect(config={"enable_external_access": "false", "threads": "1", "lock_configuration": "true"})


def columns_of(expression: str, available: Mapping[str, pa.DataType], *, order: bool = False) -> tuple[str, ...]:
    """The columns that an expression (or, with ``order``, an ORDER BY list) reads.

    Raises ``ValueError`` with one line for a syntax error, an unknown column, or anything that
    is not a pure function of one row.
    """
    parsed = _parse_order(expression) if order else _parse_value(expression)
    _refuse_impure(parsed["orders"] if order else parsed)
    known = {name.casefold(): name for name in available}
    names = list(dict.fromkeys(_columns(parsed)))
    for name in names:
        if name.casefold() not in known:
            raise UnknownColumnError(name, available)
    return tuple(dict.fromkeys(known[name.casefold()] for name in names))


def functions_of(expression: str) -> frozenset[str]:
    """The functions that an expression calls, in lower case; raises ``ValueError`` where it is none."""
    found = (node for node, _ in _walk(_parse_value(expression)) if node.get("class") == "FUNCTION")
    return frozenset(str(node["function_name"]).lower() for node in found)


def check_type(expression: str, available: Mapping[str, pa.DataType], *, order: bool = False) -> str:
    """DuckDB's type of the expression over these columns; raises ``ValueError`` where it does not bind."""
    used = columns_of(expression, available, order=order)
    types = {name: _known_to_duckdb(available[name]) for name in used} or {"uid": pa.string()}
    value = f"row_number() OVER (ORDER BY {order_list(expression)})" if order else _bracketed(expression)
    with connect() as con:
        try:
            con.register("pairs", pa.schema(types).empty_table())
            return str(con.execute(f"DESCRIBE SELECT {value} AS value FROM pairs").fetchall()[0][1])
        except duckdb.Error as error:
            raise ValueError(first_line(error)) from None


def order_list(expression: str) -> str:
    """An ORDER BY list in DuckDB's own spelling, where a value that cannot be computed sorts as null."""
    window = _parse_order(expression)
    for part in window["orders"]:
        part["expression"] = {"class": "OPERATOR", "type": "OPERATOR_TRY", "children": [part["expression"]]}
    with connect() as con:
        node = _serialized(con, "SELECT 1")
        node["statements"][0]["node"]["select_list"] = [window]
        ((sql,),) = con.execute("SELECT json_deserialize_sql(?)", [json.dumps(node)]).fetchall()
    return str(sql).split("(ORDER BY ", 1)[1].removesuffix(")")


def evaluate(con: duckdb.DuckDBPyConnection, expression: str, pairs: pa.RecordBatch) -> pa.Array:
    """The expression's value for each row, in row order; a row that it cannot be computed for is null."""
    value = _bracketed(expression)
    con.register("pairs", readable(pairs))
    try:
        try:
            values = con.sql(f"SELECT {value} AS value FROM pairs").to_arrow_table()
        except duckdb.Error:
            values = con.sql(f"SELECT try({value}) AS value FROM pairs").to_arrow_table()
    finally:
        con.unregister("pairs")
    return values["value"].combine_chunks()


def readable(pairs: pa.RecordBatch) -> pa.Table:
    """The batch with half floats widened, which DuckDB does not read."""
    table = pa.Table.from_batches([pairs])
    return table.cast(pa.schema([field.with_type(_known_to_duckdb(field.type)) for field in table.schema]))


def first_line(error: Exception) -> str:
    """The first line of a DuckDB error, without its trailing SQL."""
    return str(error).strip().split("\n")[0]


def _bracketed(expression: str) -> str:
    """On lines of its own, so that a comment at its end hides nothing."""
    return f"(\n{expression}\n)"


def _known_to_duckdb(kind: pa.DataType) -> pa.DataType:
    return pa.float32() if kind == pa.float16() else kind


def _parse_value(expression: str) -> Any:
    if not expression.strip():
        raise ValueError("the expression is empty")
    return _parse(f"SELECT {_bracketed(expression)}")


def _parse_order(expression: str) -> Any:
    """The window function that sorts by the list; nothing but its ``orders`` was written."""
    if not expression.strip():
        raise ValueError("the ORDER BY list is empty")
    window = _parse(f"SELECT row_number() OVER (ORDER BY\n{expression}\n)")
    frame = (window.get("start"), window.get("end"), window.get("exclude_clause"))
    if window.get("class") != "WINDOW" or frame != _ORDER_FRAME:
        raise ValueError("an ORDER BY list and nothing after it")
    return window


def _parse(sql: str) -> Any:
    """The one expression that a query selects; raises ``ValueError`` where the query does more than that."""
    with connect() as con:
        parsed = _serialized(con, sql)
    if parsed["error"]:
        raise ValueError(str(parsed["error_message"]).split("\n")[0])
    if len(parsed["statements"]) != 1:
        raise ValueError("one expression, not several statements")
    node = parsed["statements"][0]["node"]
    if node["type"] != "SELECT_NODE" or len(node["select_list"]) != 1 or _does_more(node):
        raise ValueError("one expression over the columns of a pair, not a query")
    return node["select_list"][0]


def _serialized(con: duckdb.DuckDBPyConnection, sql: str) -> Any:
    try:
        ((text,),) = con.execute("SELECT json_serialize_sql(?)", [sql]).fetchall()
        return json.loads(text)
    except duckdb.Error as error:
        raise ValueError(first_line(error)) from None
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _does_more(node: Mapping[str, Any]) -> bool:
    clauses = ("modifiers", "where_clause", "group_expressions", "having", "sample", "qualify")
    return node["from_table"]["type"] != "EMPTY" or any(node[clause] for clause in clauses)


def _walk(root: Any) -> Iterator[tuple[dict[str, Any], frozenset[str]]]:
    """Every node with the lambda parameters that are bound there."""
    left: list[tuple[Any, frozenset[str]]] = [(root, frozenset())]
    while left:
        node, bound = left.pop()
        if isinstance(node, list):
            left += [(child, bound) for child in reversed(node)]
        elif isinstance(node, dict):
            if node.get("class") == "LAMBDA":
                bound |= _parameters(node["lhs"])
            yield node, bound
            left += [(child, bound) for child in reversed(node.values())]


def _parameters(node: Any) -> frozenset[str]:
    """The names on the left of a lambda: one column reference, or a row of them."""
    found = [inner for inner, _ in _walk(node) if inner.get("class") == "COLUMN_REF"]
    return frozenset(inner["column_names"][0].casefold() for inner in found)


def _columns(root: Any) -> Iterator[str]:
    """Columns that are read, in the order of the text."""
    for node, bound in _walk(root):
        if node.get("class") == "COLUMN_REF" and node["column_names"][0].casefold() not in bound:
            yield node["column_names"][0]


def _refuse_impure(root: Any) -> None:
    for node, _ in _walk(root):
        kind = node.get("class")
        if kind in _FORBIDDEN:
            raise ValueError(f"an expression may not hold {_FORBIDDEN[kind]}")
        if kind == "FUNCTION":
            _refuse_function(node)


def _refuse_function(node: Mapping[str, Any]) -> None:
    name = str(node["function_name"]).lower()
    if node["schema"]:
        raise ValueError(f"write {name}(x), not x.{name}()")
    if name in _impure() or (name == "age" and len(node["arguments"]) == 1):
        raise ValueError(f"{name}() is no function of one row: it aggregates, or depends on time or chance")


@cache
def _impure() -> frozenset[str]:
    """Functions whose value is not decided by their arguments, and macros that use such."""
    with connect() as con:
        impure = {name for (name,) in con.execute(_IMPURE).fetchall()} | _CLOCKS
        macros = con.execute(_MACROS).fetchall()
    uses = [(name, set(re.findall(r'(\w+)"?\(', text)), text) for name, text in macros if text]
    while True:
        more = {n for n, used, text in uses if used & impure or re.search(r"\bcurrent_\w+\b|\(SELECT", text)} - impure
        if not more:
            return frozenset(impure)
        impure |= more
