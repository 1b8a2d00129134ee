"""Group pairs that share a key, wherever they lie, and keep one of each group.

DuckDB groups 16 bytes a pair and key; what outgrows its memory limit goes to disk.  100 M rows take
about a minute on two cores (22 CPU-seconds for the counting).
"""

from collections.abc import Sequence

import duckdb

from pairsieve.filters.base import GroupFilter, NearFilter, WithinFilter
from pairsieve.pipelines import clusters, clusters_apart, machine, within
from pairsieve.pipelines.exchange import Each
from pairsieve.pipelines.shard import derived_name
from pairsieve.pipelines.sql import quote
from pairsieve.pipelines.step import Step
from pairsieve.pipelines.store import Store
from pairsieve.pipelines.workshop import best_first, by_shard, load, workshop
from pairsieve.schemas import columns

CLUSTERS_SHARE = 0.25
"""Of this machine's memory, for clusters that are found here; DuckDB, which ranks them, and the rest come on top."""


def group(store: Store, step: Step, each: Each = map) -> int:
    """Write ``derived/<step>/`` from the step's work files; gives the number of pairs that lose.

    ``each`` runs a task on many items: here one after the other, unless a run's engine does.
    """
    assert isinstance(step.filter, GroupFilter)
    store.remove(f"derived/{step.id}")
    found = sorted(store.names(f"_work/{step.id}", ".parquet"), key=lambda name: (len(name), name))  # by shard
    names = [f"_work/{step.id}/{name}" for name in found]
    if not names:
        return 0
    if isinstance(step.filter, NearFilter):
        count = _clustered(store, step, names, each)
    elif isinstance(step.filter, WithinFilter):
        count = _picked(store, step, within.pick(store, step, names, each))
    else:
        count = _by_keys(store, step, names)
    store.remove(f"_work/{step.id}")
    return count


def _by_keys(store: Store, step: Step, names: Sequence[str]) -> int:
    """Pairs with equal keys, one key after the other."""
    assert isinstance(step.filter, GroupFilter)
    with workshop(store) as con:
        load(con, "pairs", [store.url(name) for name in names])
        con.execute(
            "CREATE TABLE lost (uid VARCHAR, shard INTEGER, row INTEGER, duplicate_of VARCHAR, duplicate_by VARCHAR, "
            "best_shard INTEGER, best_row INTEGER)"
        )
        for key, reason in step.keys.items():
            con.execute(_sql(key, step.filter.order()), {"reason": reason})
            con.execute("DELETE FROM pairs WHERE (shard, row) IN (SELECT (shard, row) FROM lost)")
        for _ in range(len(step.keys) - 1):
            con.execute(_TO_SURVIVORS)
        return _write(store, step, con)


def _clustered(store: Store, step: Step, names: Sequence[str], each: Each) -> int:
    """Pairs that are alike: in this process where they fit, else in tasks."""
    assert isinstance(step.filter, NearFilter)
    if clusters.size(store, names) <= machine.memory() * CLUSTERS_SHARE:
        return clusters.cluster(store, step, names, step.filter.order())
    found = clusters_apart.cluster(store, step, names, step.filter.order(), each, clusters_apart.LIMITS)
    return _picked(store, step, found)


def _picked(store: Store, step: Step, names: Sequence[str]) -> int:
    """Pairs that lose, from files of any order."""
    if not names:
        return 0
    with workshop(store) as con:
        load(con, "lost", [store.url(name) for name in names])
        return _write(store, step, con)


_TO_SURVIVORS = """
    UPDATE lost SET duplicate_of = b.duplicate_of, best_shard = b.best_shard, best_row = b.best_row
    FROM (SELECT shard, row, duplicate_of, best_shard, best_row FROM lost) b
    WHERE lost.best_shard = b.shard AND lost.best_row = b.row
"""
"""A pair that loses by one key may lose to one that loses by a later key: both then name the one that stays."""


def _sql(key: str, order: str) -> str:
    """Add to ``lost`` every pair of ``pairs`` that shares a key with a better one."""
    best = best_first(order)
    key = quote(key)
    return f"""
        INSERT INTO lost
        WITH shared AS (SELECT {key} AS key FROM pairs WHERE {key} IS NOT NULL GROUP BY 1 HAVING count(*) > 1),
        ranked AS (
            SELECT uid, shard, row,
                   row_number() OVER best AS place, first_value(uid) OVER best AS keeper,
                   first_value(shard) OVER best AS best_shard, first_value(row) OVER best AS best_row
            FROM pairs SEMI JOIN shared ON pairs.{key} = shared.key
            WINDOW best AS (PARTITION BY {key} ORDER BY {best})
        )
        SELECT uid, shard, row, keeper, $reason, best_shard, best_row FROM ranked WHERE place > 1
    """


def _write(store: Store, step: Step, con: duckdb.DuckDBPyConnection) -> int:
    count, names = 0, ", ".join(columns.DERIVED.names)
    for shard, table in by_shard(con.sql(f"SELECT {names} FROM lost ORDER BY shard, row")):
        store.write_table(derived_name(step.id, shard), table.cast(columns.DERIVED))
        count += table.num_rows
    return count
