"""From merged counts to entries: thresholds, limits, an order, and each entry once, by the first source that has it.

All in one DuckDB on disk, within its memory limit.  Orders are total (ties by code points), so the file is the
same whatever the cut of the work.
"""

import string
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import duckdb
import pyarrow as pa

from pairsieve.pipelines.metadata_settings import Limits, Rules

SCHEMA = pa.schema([("entry", pa.string()), ("source", pa.string()), ("language", pa.string()), ("count", pa.int64())])
SOURCES = ("wordnet", "unigrams", "bigrams", "titles")
"""In the order in which they are taken."""
PERCENTILE = 0.3
"""Of the bigrams' PMI, which MetaCLIP 2 takes off."""
_FINE = 1024
"""Steps of PMI in which the percentile is looked for first."""
_SIGNS = r"[\p{P}\p{S}\p{Z}]*"


@dataclass(frozen=True)
class Taken:
    """One source: distinct candidates seen, those that passed its thresholds and limits, those new to the list."""

    seen: int
    passed: int
    new: int


class Selection:
    """The list as it grows, source after source."""

    def __init__(self, con: duckdb.DuckDBPyConnection, rules: Rules) -> None:
        """Nothing chosen yet."""
        self._con, self._rules = con, rules
        self._passed: dict[str, tuple[int, int]] = {}
        con.execute("CREATE TABLE chosen (source TINYINT, place BIGINT, entry VARCHAR, count BIGINT)")
        con.register("_signs", pa.table({"sign": list(string.punctuation)}))
        con.execute("CREATE TABLE signs AS FROM _signs")

    def wordnet(self, entries: Sequence[str]) -> None:
        """All of them, by code points."""
        self._con.register("_wordnet", pa.table({"entry": pa.array(entries, pa.string())}))
        sql = "SELECT entry, NULL::BIGINT AS count, 0 AS score FROM _wordnet"
        self._take("wordnet", sql, Limits(), None, len(entries))

    def unigrams(self, files: Sequence[str]) -> None:
        """Files of (word, count), by whose places bigrams name them."""
        self._con.execute("CREATE TABLE words (number BIGINT, word VARCHAR, count BIGINT)")
        base = 0
        for file in files:
            self._con.execute(
                "INSERT INTO words SELECT file_row_number + $base, word, count FROM read_parquet($file,"
                " hive_partitioning = false, file_row_number = true)",
                {"file": file, "base": base},
            )
            base = self._one("SELECT count(*) FROM words")
        self._take(
            "unigrams", "SELECT word AS entry, count, count AS score FROM words", self._rules.unigrams, None, base
        )

    def bigrams(self, files: Sequence[str], seen: int, separator: str) -> float | None:
        """Files of (first, second, count, pmi), after ``unigrams``; gives the percentile of PMI that the score needs.

        Where two bigrams read the same (without a space between), the better one counts.
        """
        floor = percentile(self._con, files) if self._rules.score == "metaclip2" else None
        score = "pmi" if floor is None else f"power(count + 1, 0.7) * (pmi - ({floor!r})::DOUBLE)"
        limits, unigrams = self._rules.bigrams, self._passed["unigrams"][1]
        ranked = f"(SELECT *, {score} AS score FROM read_parquet($files, hive_partitioning = false))"
        given = {"files": list(files), "least": self._best(ranked, list(files), limits, unigrams)}
        self._con.execute(f"CREATE TABLE best AS FROM {ranked} WHERE $least IS NULL OR score >= $least", given)
        sql = f"""
            SELECT a.word || '{separator}' || b.word AS entry, best.count AS count, score
            FROM best JOIN words a ON a.number = first JOIN words b ON b.number = second
        """
        self._take("bigrams", sql, limits, unigrams, seen)
        return floor

    def _best(self, ranked: str, files: Sequence[str], limits: Limits, of: int) -> float | None:
        """The least score that can pass: only those are read as words."""
        most = limits.cut(of)
        if not most:
            return limits.least
        sql = f"SELECT score FROM {ranked} ORDER BY score DESC LIMIT 1 OFFSET {most - 1}"
        found = self._con.execute(sql, {"files": files}).fetchall()
        bounds = [bound for bound in (limits.least, found[0][0] if found else None) if bound is not None]
        return max(bounds, default=None)

    def titles(self, files: Sequence[str]) -> None:
        """Files of (title, count), one for each hour."""
        self._con.execute(
            "CREATE TABLE titles AS SELECT title AS entry, sum(count)::BIGINT AS count, sum(count)::BIGINT AS score"
            " FROM read_parquet($files, hive_partitioning = false) GROUP BY title",
            {"files": list(files)},
        )
        self._take("titles", "FROM titles", self._rules.titles, None, self._one("SELECT count(*) FROM titles"))

    def _take(self, source: str, sql: str, limits: Limits, of: int | None, seen: int) -> None:
        """Add what passes, best first; ``of`` is what a share is of, or None for the candidates themselves."""
        ranked = f"FROM ({sql}) WHERE {self._eligible()} AND ($least IS NULL OR score >= $least)"
        given = {"least": limits.least, **self._settings()}
        if limits.share is not None and of is None:
            of = self._one(f"SELECT count(*) {ranked}", given)
        most = limits.cut(of or 0)
        limit = "" if most is None else f"LIMIT {most}"
        before = self._count()
        self._con.execute(
            f"INSERT INTO chosen SELECT {SOURCES.index(source)}, row_number() OVER (ORDER BY score DESC, entry, count),"
            f" entry, count FROM (SELECT entry, count, score {ranked} ORDER BY score DESC, entry, count {limit})",
            given,
        )
        self._passed[source] = (seen, self._count() - before)

    def _eligible(self) -> str:
        """What no source may give: nothing, single signs of ASCII; in MetaCLIP 2 what is long or signs alone."""
        rules = "entry <> '' AND entry NOT IN (SELECT sign FROM signs)"
        if self._rules.long_most is not None:
            rules += " AND length(entry) <= $long"
        return rules if self._rules.punctuation else f"{rules} AND NOT regexp_full_match(entry, '{_SIGNS}')"

    def _settings(self) -> dict[str, Any]:
        return {} if self._rules.long_most is None else {"long": self._rules.long_most}

    def _count(self) -> int:
        return self._one("SELECT count(*) FROM chosen")

    def _one(self, sql: str, given: dict[str, Any] | None = None) -> int:
        return int(self._con.execute(sql, given).fetchall()[0][0])

    def table(self, language: str) -> tuple[pa.Table, dict[str, Taken]]:
        """All entries in their order (``SCHEMA``), and what came of each source."""
        names = " ".join(f"WHEN {i} THEN '{name}'" for i, name in enumerate(SOURCES))
        found = self._con.sql(
            f"""
            SELECT entry, CASE source {names} END AS source, $language AS language, count FROM chosen
            QUALIFY row_number() OVER (PARTITION BY entry ORDER BY chosen.source, place) = 1
            ORDER BY chosen.source, place
            """,
            params={"language": language},
        ).to_arrow_table()
        new = dict(
            self._con.execute("""
            SELECT source, count(*) FROM (
                FROM chosen QUALIFY row_number() OVER (PARTITION BY entry ORDER BY source, place) = 1
            ) GROUP BY source
        """).fetchall()
        )
        taken = {
            name: Taken(*self._passed[name], int(new.get(SOURCES.index(name), 0)))
            for name in SOURCES
            if name in self._passed
        }
        return found.cast(SCHEMA), taken


def percentile(con: duckdb.DuckDBPyConnection, files: Sequence[str], share: float = PERCENTILE) -> float | None:
    """The least PMI that ``share`` of the distinct bigrams do not exceed; None where there is none.

    Exact, in two passes of small groups: DuckDB's own quantile would hold every value.
    """
    source = {"files": list(files)}
    read = "FROM read_parquet($files, hive_partitioning = false)"
    coarse = con.execute(
        f"SELECT floor(pmi * {_FINE}) AS step, count(*) {read} GROUP BY 1 ORDER BY 1", source
    ).fetchall()
    left = -(-share * sum(number for _, number in coarse) // 1)
    for step, number in coarse:
        if left <= number:
            return _within(con, f"{read} WHERE floor(pmi * {_FINE}) = $step", {**source, "step": step}, left)
        left -= number
    return None


def _within(con: duckdb.DuckDBPyConnection, read: str, given: dict[str, Any], left: float) -> float | None:
    rows = con.execute(f"SELECT pmi, count(*) {read} GROUP BY 1 ORDER BY 1", given)
    while batch := rows.fetchmany(10_000):
        for pmi, number in batch:
            left -= number
            if left <= 0:
                return float(pmi)
    return None
