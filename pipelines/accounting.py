"""Check at the end of a run, from the files themselves, that every candidate has exactly one verdict."""

from collections.abc import Sequence

from pairsieve.pipelines.groups import workshop
from pairsieve.pipelines.pools import PoolShard
from pairsieve.pipelines.store import Store
from pairsieve.pipelines.tasks import Tally, verdicts_name
from pairsieve.schemas.errors import AccountingError

_SQL = """
    SELECT shard, count(*) AS rows, sum(row)::HUGEINT AS places, max(row) AS last, count(*) - count(dropped_by) AS kept,
           count(*) FILTER ((dropped_by IS NULL) <> (reason IS NULL)) AS odd
    FROM read_parquet($files, hive_partitioning = false) GROUP BY shard
"""


def check(store: Store, shards: Sequence[PoolShard], tally: Tally) -> None:
    """Raise ``AccountingError`` unless kept + dropped is the pool, row by row."""
    files = [store.url(verdicts_name(shard.index)) for shard in shards]
    with workshop(store) as con:
        found = {row[0]: row[1:] for row in con.execute(_SQL, {"files": files}).fetchall()}
    for shard in shards:
        rows, places, last, _, odd = found.get(shard.index, (0, 0, -1, 0, 0))
        if (rows, places, last) != (shard.rows, shard.rows * (shard.rows - 1) // 2, shard.rows - 1) and shard.rows:
            raise AccountingError(f"shard {shard.index:05d} has {rows:,} verdicts for {shard.rows:,} candidates")
        if odd:
            raise AccountingError(f"shard {shard.index:05d}: {odd:,} drops without a reason, or reasons without a drop")
    pool, kept = sum(shard.rows for shard in shards), sum(row[3] for row in found.values())
    dropped = sum(tally.dropped.values())
    if kept != tally.kept or kept + dropped != pool:
        raise AccountingError(f"kept {kept:,} + dropped {dropped:,} is not the pool of {pool:,}")
