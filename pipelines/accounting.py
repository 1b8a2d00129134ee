"""Check at the end of a run, from the files themselves, that every candidate has exactly one verdict."""

from collections.abc import Sequence

import duckdb

from pairsieve.pipelines.added import added_name
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


_ADDED = "SELECT shard, count(*) FROM read_parquet($files, hive_partitioning = false) GROUP BY shard"


def check(store: Store, shards: Sequence[PoolShard], tally: Tally, adds: bool = False) -> None:
    """Raise ``AccountingError`` unless kept + dropped is the pool + what a step added, row by row."""
    with workshop(store) as con:
        found = [_counts(store, con, shards[start : start + FILES], adds) for start in range(0, len(shards), FILES)]
    kept, added = (sum(counts) for counts in zip((0, 0), *found, strict=True))
    pool, dropped = sum(shard.rows for shard in shards), sum(tally.dropped.values())
    if (kept, added) != (tally.kept, tally.added) or kept + dropped != pool + added:
        more = f" + {tally.added:,} that were added" if adds else ""
        raise AccountingError(f"kept {kept:,} + dropped {dropped:,} is not the pool of {pool:,}{more}")


def _counts(store: Store, con: duckdb.DuckDBPyConnection, shards: Sequence[PoolShard], adds: bool) -> tuple[int, int]:
    """Pairs kept of some shards, each of which has one verdict for every row, and pairs that were added to them."""
    files = [store.url(verdicts_name(shard.index)) for shard in shards]
    found = {shard: numbers for shard, *numbers in con.execute(_SQL, {"files": files}).fetchall()}
    more = [store.url(added_name(shard.index)) for shard in shards] if adds else []
    added = dict(con.execute(_ADDED, {"files": more}).fetchall()) if more else {}
    for shard in shards:
        rows, places, last, _, odd = found.get(shard.index, (0, 0, -1, 0, 0))
        wanted = shard.rows + added.get(shard.index, 0)
        if (rows, places, last) != (wanted, wanted * (wanted - 1) // 2, wanted - 1) and wanted:
            raise AccountingError(f"shard {shard.index:05d} has {rows:,} verdicts for {wanted:,} candidates")
        if odd:
            raise AccountingError(f"shard {shard.index:05d}: {odd:,} drops without a reason, or reasons without a drop")
    return sum(numbers[3] for numbers in found.values()), sum(added.values())
