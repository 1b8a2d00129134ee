"""DuckDB for a step: a database on disk for its length, bounded in memory, and tables from many Parquet files."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa

from pairsieve.pipelines.sql import quote
from pairsieve.pipelines.store import Store
from pairsieve.schemas import columns

MEMORY = "4GB"
FILES = 500
"""Files of a query."""
STREAMED = 1_000_000
"""Rows of a result that are held at once."""


def best_first(order: str) -> str:
    """A filter's ORDER BY list with what settles ties: the smallest uid, then the place in the pool."""
    return f"{order}, uid, shard, row" if order else "uid, shard, row"


def load(
    con: duckdb.DuckDBPyConnection, table: str, files: Sequence[str], what: str = "*", where: str = "true"
) -> None:
    """A table from many Parquet files, a few at a time: DuckDB takes some kilobytes for each file of a query."""
    for start in range(0, max(1, len(files)), FILES):
        verb = f"INSERT INTO {table}" if start else f"CREATE TABLE {table} AS"
        sql = f"{verb} SELECT {what} FROM read_parquet($files, hive_partitioning = false) WHERE {where}"
        con.execute(sql, {"files": list(files[start : start + FILES])})


def rank_pairs(con: duckdb.DuckDBPyConnection, files: Sequence[str], names: Sequence[str], order: str) -> None:
    """Make the table ``ranked`` (shard, row) of all pairs of some files, the best first: ``rowid`` is the rank.

    ``names`` are the columns that ``order`` reads, besides the pairs' places.
    """
    load(con, "pairs", files, ", ".join(map(quote, dict.fromkeys((*columns.PLACE, *names)))))
    con.execute(f"CREATE TABLE ranked AS SELECT shard, row FROM pairs ORDER BY {best_first(order)}")
    con.execute("DROP TABLE pairs")


def by_shard(ordered: duckdb.DuckDBPyRelation) -> Iterator[tuple[int, pa.Table]]:
    """The rows of each shard, of a relation that is ordered by ``shard``."""
    held = list[pa.RecordBatch]()
    for batch in ordered.to_arrow_reader(STREAMED):
        shard = batch["shard"].to_numpy()
        for first, last in pairwise([0, *(np.flatnonzero(np.diff(shard)) + 1), len(shard)]):
            if held and last > first and held[-1]["shard"][0].as_py() != shard[first]:
                yield held[0]["shard"][0].as_py(), pa.Table.from_batches(held)
                held = []
            held += [batch.slice(first, last - first)] if last > first else []
    if held:
        yield held[0]["shard"][0].as_py(), pa.Table.from_batches(held)


@contextmanager
def workshop(store: Store, memory: str = MEMORY) -> Iterator[duckdb.DuckDBPyConnection]:
    """A DuckDB database on disk for the length of a step, bounded in memory, that can read the run."""
    with (
        tempfile.TemporaryDirectory() as folder,
        duckdb.connect(str(Path(folder) / "work.duckdb"), config={"memory_limit": memory}) as con,
    ):
        silence(con)
        if not store.local:
            con.register_filesystem(store.fs)
        yield con


def silence(con: duckdb.DuckDBPyConnection) -> None:
    """Show no progress bar: in a notebook or shell it would write into the output.

    Where it is off it stays so untouched: in a notebook without ipywidgets DuckDB refuses to change it.
    """
    if con.execute("SELECT current_setting('enable_progress_bar')").fetchall() == [(True,)]:
        con.execute("SET enable_progress_bar = false")
