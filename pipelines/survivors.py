"""Who stays in the end, where a step groups by one key after the other.

A pair that loses by the first key may lose to one that loses by the second: both then get the uid that stays.
Costs a look at the pairs that lost, 0.4 µs each, of steps with several keys only.
"""

import duckdb

from pairsieve.pipelines.shard import derived_name
from pairsieve.pipelines.step import Step
from pairsieve.pipelines.store import Store
from pairsieve.pipelines.workshop import load, workshop
from pairsieve.schemas import columns

_CHAINED = """
    CREATE TABLE better AS
    SELECT uid, min(duplicate_of) AS duplicate_of FROM lost
    WHERE uid <> duplicate_of AND uid IN (SELECT duplicate_of FROM lost) GROUP BY uid
"""
_NEXT = "UPDATE {} t SET duplicate_of = b.duplicate_of FROM better b WHERE t.duplicate_of = b.uid"


def name_survivors(store: Store, step: Step) -> None:
    """Let ``derived/<step>/`` name pairs that stay, rather than ones that lost by a later key."""
    names = store.names(f"derived/{step.id}", ".parquet")
    if len(step.keys) < 2 or not names:
        return
    with workshop(store) as con:
        load(con, "lost", [store.url(f"derived/{step.id}/{name}") for name in names])
        con.execute(_CHAINED)
        for _ in range(len(step.keys) - 2):  # each time twice as far
            con.execute(_NEXT.format("better"))
        _rewrite(store, step, con)


def _rewrite(store: Store, step: Step, con: duckdb.DuckDBPyConnection) -> None:
    """Write the files anew in which a name changes."""
    changed = "SELECT DISTINCT shard FROM lost WHERE duplicate_of IN (SELECT uid FROM better) ORDER BY shard"
    shards = [int(shard) for (shard,) in con.execute(changed).fetchall()]
    con.execute(_NEXT.format("lost"))
    for shard in shards:
        table = con.sql(f"SELECT * FROM lost WHERE shard = {shard} ORDER BY row").to_arrow_table()
        store.write_table(derived_name(step.id, shard), table.cast(columns.DERIVED))
