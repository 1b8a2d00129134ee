"""Keep the pairs for which a DuckDB expression is true: a filter that needs no code.

Nothing is measured or stored; the expression is a decision over the columns so far.
"""

from collections.abc import Mapping

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, PrivateAttr

from pairsieve.filters._expressions import check_type, columns_of, connect, evaluate
from pairsieve.filters.base import Filter, Threshold, first_reason


class Where(Filter):
    """Keep pairs where ``expression`` is true; false drops with reason ``false``, null with ``null``.

    In a recipe the expression may stand alone: ``- where: "least(width, height) >= 200"``.
    """

    shorthand = "expression"

    expression: Threshold[str] = Field(description="a DuckDB expression over the columns so far, of type BOOLEAN")

    _connection: duckdb.DuckDBPyConnection | None = PrivateAttr(None)

    def keep_inputs(self, available: Mapping[str, pa.DataType]) -> tuple[str, ...]:
        return columns_of(self.expression, available)

    def check(self, available: Mapping[str, pa.DataType]) -> None:
        columns_of(self.expression, available)
        kind = check_type(self.expression, available)
        if kind != "BOOLEAN":
            raise ValueError(f"the expression is {kind}, not BOOLEAN; compare it with something")

    def open(self) -> None:
        self._connection = connect()

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()

    def keep(self, pairs: pa.RecordBatch) -> pa.Array:
        if self._connection is None:
            self.open()
        assert self._connection is not None
        value = evaluate(self._connection, self.expression, pairs)
        return first_reason(len(value), (pc.is_null(value), "null"), (pc.invert(value), "false"))
