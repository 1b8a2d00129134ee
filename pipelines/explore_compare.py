"""Two runs side by side: whom each keeps, what the other did with the rest, and how far their scores agree.

Pairs are matched by uid, once, when the explorer starts: 2 to 3 µs and at its peak 400 bytes a
pair.  Counts equal those of ``pairsieve diff``.
"""

from collections.abc import Mapping
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pairsieve.pipelines.explore_query import MOST_ROWS, Questions
from pairsieve.pipelines.sql import quote
from pairsieve.schemas.errors import QueryError

NOWHERE = "not in the pool"
SAMPLE = 100_000
"""Pairs whose scores are ranked, at most."""
_MATCH = """
    CREATE TABLE sides AS
    WITH one AS ({one}), other AS ({other})
    SELECT one.number AS one, other.number AS other,
           coalesce(one.kept, false) AS in_one, coalesce(other.kept, false) AS in_other,
           coalesce(one.step, '{nowhere}') AS step_one, coalesce(one.reason, '') AS reason_one,
           coalesce(other.step, '{nowhere}') AS step_other, coalesce(other.reason, '') AS reason_other
    FROM one FULL JOIN other ON one.uid = other.uid
"""
_BY_UID = """
    SELECT CAST(uid AS UUID) AS uid, arg_min(rowid, (dropped_by IS NOT NULL, rowid)) AS number,
           bool_or(dropped_by IS NULL) AS kept, min(dropped_by) AS step, min(reason) AS reason FROM {table} GROUP BY ALL
"""
_SIDES = {
    "both": "in_one AND in_other",
    "one": "in_one AND NOT in_other",
    "other": "in_other AND NOT in_one",
    "none": "NOT in_one AND NOT in_other",
}


def match(con: duckdb.DuckDBPyConnection, one: str, other: str) -> None:
    """Make the table ``sides``, a row a uid of either run; a pair that is listed twice is kept if one of them is."""
    tables = {"one": _BY_UID.format(table=quote(one)), "other": _BY_UID.format(table=quote(other))}
    con.execute(_MATCH.format(nowhere=NOWHERE, **tables))


class Comparison:
    """What the table ``sides`` tells."""

    def __init__(
        self, questions: Questions, types: Mapping[str, Mapping[str, pa.DataType]], tables: Mapping[str, str]
    ) -> None:
        """``types`` are the columns of ``one`` and ``other``, ``tables`` their tables."""
        self._ask, self._types, self._tables = questions, types, tables

    def overlap(self) -> dict[str, Any]:
        """Pairs kept by both, one, the other or none, and what the other run did with those that one alone keeps."""
        counts = {
            side: int(self._ask.rows(f"SELECT count(*) FROM sides WHERE {_SIDES[side]}")[0][0]) for side in _SIDES
        }
        either = counts["both"] + counts["one"] + counts["other"]
        return {
            **counts,
            "jaccard": counts["both"] / either if either else 1.0,
            "only_one": self._verdicts("one", "other"),
            "only_other": self._verdicts("other", "one"),
        }

    def _verdicts(self, side: str, by: str) -> list[dict[str, Any]]:
        sql = f"""
            SELECT step_{by}, reason_{by}, count(*) FROM sides WHERE {_SIDES[side]}
            GROUP BY ALL ORDER BY 3 DESC, 1, 2 LIMIT 200
        """
        return [{"step": step, "reason": reason, "pairs": count} for step, reason, count in self._ask.rows(sql)]

    def pairs(self, side: str, step: str | None, reason: str | None, start: int, rows: int) -> dict[str, Any]:
        """Numbers in both runs of pairs of a side, in an order by chance, and how many there are.

        ``step`` and ``reason`` are the verdict of the run that does not keep them.
        """
        if side not in _SIDES or not 0 < rows <= MOST_ROWS or not 0 <= start <= 10_000:
            raise QueryError("no such pairs")
        where, parameters = [_SIDES[side]], list[object]()
        loser = "other" if side == "one" else "one"
        for name, value in ((f"step_{loser}", step), (f"reason_{loser}", reason)):
            if value is not None:
                where.append(f"{name} = ?")
                parameters.append(value)
        source = f"FROM sides WHERE {' AND '.join(where)}"
        (count,) = self._ask.rows(f"SELECT count(*) {source}", parameters)[0]
        sql = f"SELECT one, other {source} ORDER BY hash(coalesce(one, other)), one, other LIMIT {rows} OFFSET {start}"
        return {"count": int(count), "numbers": self._ask.rows(sql, parameters)}

    def shared(self) -> list[str]:
        """Columns of numbers that both runs have."""
        one, other = (self._types[run] for run in ("one", "other"))
        return [
            n for n in one if n in other and n not in ("shard", "row") and _is_score(one[n]) and _is_score(other[n])
        ]

    def correlation(self, column: str) -> dict[str, Any]:
        """Spearman's rank correlation of a column over pairs that both runs have a value for, at most ``SAMPLE``."""
        if column not in self.shared():
            raise QueryError(f"no column {column!r} of numbers in both runs")
        (matched,) = self._ask.rows("SELECT count(*) FROM sides")[0]
        some = max(1, int(matched) // (2 * SAMPLE))
        a, b = (f"CAST({run}.{quote(column)} AS DOUBLE)" for run in ("a", "b"))
        sql = f"""
            SELECT {a}, {b} FROM (
                SELECT one, other FROM sides WHERE one IS NOT NULL AND other IS NOT NULL AND hash(one) % {some} = 0
            ) s JOIN {quote(self._tables["one"])} a ON a.rowid = s.one JOIN {quote(self._tables["other"])} b
            ON b.rowid = s.other WHERE isfinite({a}) AND isfinite({b}) ORDER BY hash(s.one) LIMIT {SAMPLE}
        """
        found = np.array(self._ask.rows(sql), np.float64).reshape(-1, 2)
        return {"column": column, "pairs": len(found), "spearman": spearman(found[:, 0], found[:, 1])}


def spearman(one: NDArray[np.float64], other: NDArray[np.float64]) -> float | None:
    """Rank correlation, equal values at their mean rank; None where it is not defined."""
    if len(one) < 2:
        return None
    ranks = [_ranks(values) for values in (one, other)]
    if any(rank.std() == 0 for rank in ranks):
        return None
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(count) - (count - 1) / 2)[place], np.float64)


def _is_score(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))
