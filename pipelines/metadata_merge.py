"""Add up the runs of all pieces: words, then bigrams with their PMI, one stretch of parts after another.

DuckDB groups by the words themselves, within ``MEMORY``; what outgrows that goes to disk.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import duckdb
import pyarrow.parquet as pq

from pairsieve.pipelines.groups import workshop
from pairsieve.pipelines.metadata_ngrams import PARTS
from pairsieve.pipelines.store import Store

ROWS = 16 << 20
"""Rows of runs that are added up together."""
MEMORY = 2 << 30
"""Bytes that DuckDB takes in a worker."""
BATCH = 1 << 17


@dataclass(frozen=True)
class Stretch:
    """Parts ``first`` to ``last``."""

    index: int
    first: int
    last: int


@dataclass(frozen=True)
class Merged:
    """A file of distinct words or bigrams; how many there were before any threshold."""

    name: str
    distinct: int


def stretches(rows: int, most: int = ROWS) -> list[Stretch]:
    """All parts, in as many stretches as hold about ``most`` of the runs' rows each."""
    count = min(PARTS, max(1, -(-rows // most)))
    edges = [PARTS * i // count for i in range(count + 1)]
    return [Stretch(i, a, b - 1) for i, (a, b) in enumerate(pairwise(edges))]


@dataclass
class MergeWords:
    """Add up the words of a stretch: (word, count)."""

    store: Store
    folder: str
    runs: Sequence[str]

    def __call__(self, stretch: Stretch) -> Merged:
        """See the class."""
        name = f"{self.folder}/words.{stretch.index:02d}.parquet"
        with workshop(self.store, _memory()) as con:
            con.execute("SET threads = 1")
            files = [self.store.url(f"{run}.words.parquet") for run in self.runs]
            sql = """
                SELECT word, sum(count)::BIGINT AS count FROM read_parquet($files, hive_partitioning = false)
                WHERE part BETWEEN $first AND $last GROUP BY word HAVING sum(count) > 0
            """
            rows = copy(self.store, con, name, sql, {"files": files, "first": stretch.first, "last": stretch.last})
        return Merged(name, rows)


@dataclass
class MergePairs:
    """Add up the bigrams of a stretch: (first, second, count, pmi), those of ``least`` PMI where it is given.

    PMI is nltk's, in bits: log2(c12·N) - log2(c1·c2), with N ``tokens`` of the whole corpus.
    """

    store: Store
    folder: str
    runs: Sequence[str]
    words: Sequence[str]
    tokens: int
    count_least: int
    least: float | None

    def __call__(self, stretch: Stretch) -> Merged:
        """See the class."""
        name = f"{self.folder}/pairs.{stretch.index:02d}.parquet"
        with workshop(self.store, _memory()) as con:
            con.execute("SET threads = 1")
            self._add_up(con, stretch)
            (distinct,) = con.execute("SELECT count(*) FROM pairs").fetchall()[0]
            words = [self.store.url(file) for file in self.words]
            sql = """
                WITH words AS (FROM read_parquet($words, hive_partitioning = false)),
                scored AS (
                    SELECT first, second, pairs.count AS count,
                           log2((pairs.count::HUGEINT * $tokens::HUGEINT)::DOUBLE)
                           - log2((a.count::HUGEINT * b.count::HUGEINT)::DOUBLE) AS pmi
                    FROM pairs JOIN words a ON a.word = first JOIN words b ON b.word = second
                )
                FROM scored WHERE $least IS NULL OR pmi >= $least
            """
            copy(self.store, con, name, sql, {"words": words, "tokens": self.tokens, "least": self.least})
        return Merged(name, int(distinct))

    def _add_up(self, con: duckdb.DuckDBPyConnection, stretch: Stretch) -> None:
        files = [self.store.url(f"{run}.pairs.parquet") for run in self.runs]
        con.execute(
            """
            CREATE TABLE pairs AS
            SELECT first, second, sum(count)::BIGINT AS count FROM read_parquet($files, hive_partitioning = false)
            WHERE part BETWEEN $first AND $last GROUP BY first, second HAVING sum(count) >= $least
            """,
            {"files": files, "first": stretch.first, "last": stretch.last, "least": self.count_least},
        )


def _memory() -> str:
    return f"{MEMORY >> 20}MiB"


def copy(store: Store, con: duckdb.DuckDBPyConnection, name: str, sql: str, given: dict[str, object]) -> int:
    """Write the rows of a query to a file of a store, as they come; gives their number."""
    reader = con.sql(sql, params=given).to_arrow_reader(BATCH)
    rows = 0
    with store.create(name, exclusive=False) as file, pq.ParquetWriter(file, reader.schema, compression="lz4") as out:
        for batch in reader:
            out.write_batch(batch)
            rows += batch.num_rows
    return rows
