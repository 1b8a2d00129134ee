"""Check at the end of a run, from the files themselves, that every candidate has exactly one verdict."""

from collections.abc import Sequence

import duckdb

from pairsieve.pipelines.pools import PoolShard
from pairsieve.pipelines.store import Store
from pairsieve.pipelines.tasks import Tally, verdicts_name
from pairsieve.pipelines.workshop import FILES, workshop
from pairsieve.schemas.errors import AccountingError

_SQL = """
    SELECT shard, count(*) AS rows, sum(row)::HUGEINT AS places, max(row) AS last, count(*) - count(dropped_by) AS kept,
           count(*) FILTER ((dropped_by IS NULL) <> (reason IS NULL)) AS odd
    FROM read_parquet($files, hive_partitioning = false) GROUP BY shard
"""


def check(store: Store, shards: Sequence[PoolShard], tally: Tally) -> None:
    """Raise ``AccountingError`` unless kept + dropped is the pool, row by row."""
    with workshop(store) as con:
        kept = sum(_kept(store, con, shards[start : start + FILES]) for start in range(0, len(shards), FILES))
    pool, dropped = sum(shard.rows for shard in shards), sum(tally.dropped.values())
    if kept != tally.kept or kept + dropped != pool:
        raise AccountingError(f"kept {kept:,} + dropped {dropped:,} is not the pool of {pool:,}")


def _kept(store: Store, con: duckdb.DuckDBPyConnection, shards: Sequence[PoolShard]) -> int:
    """Pairs kept in some shards, each of which has one verdict for every row."""
    files = [store.url(verdicts_name(shard.index)) for shard in shards]
    found = {shard: numbers for shard, *numbers in con.execute(_SQL, {"files": files}).fetchall()}
    for shard in shards:
        rows, places, last, _, odd = found.get(shard.index, (0, 0, -1, 0, 0))
        if (rows, places, last) != (shard.rows, shard.rows * (shard.rows - 1) // 2, shard.rows - 1) and shard.rows:
            raise AccountingError(f"shard {shard.index:05d} has {rows:,} verdicts for {shard.rows:,} candidates")
        if odd:
            raise AccountingError(f"shard {shard.index:05d}: {odd:,} drops without a reason, or reasons without a drop")
    return sum(numbers[3] for numbers in found.values())
