"""Which sample goes where: the first of each uid, in the order of the keyed hash, in files of equal size.

DuckDB sorts 24 bytes a sample, on disk where memory does not hold them; the payloads stay where they are.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import duckdb
import numpy as np
import pyarrow as pa

from pairsieve.pipelines.dataset import File
from pairsieve.pipelines.reshard_spill import Taken
from pairsieve.pipelines.reshard_subset import Subset
from pairsieve.pipelines.store import Store
from pairsieve.pipelines.workshop import load, workshop
from pairsieve.schemas import uid

NAMED = 3
"""Missing uids that a message names."""


@dataclass(frozen=True)
class Planned:
    """An output shard: its number, and the work file that says which slices of which runs it is made of."""

    index: int
    plan: str

    def slices(self, store: Store) -> list[tuple[str, int, int]]:
        """(run, first row, rows)."""
        table = store.table(self.plan)
        return list(zip(*(table[name].to_pylist() for name in ("run", "start", "rows")), strict=True))


@dataclass(frozen=True)
class Cut:
    """The files to write.

    ``rows`` samples (copies) of ``uids`` go into them; ``duplicates`` samples came after one of their uid.
    ``missing_records`` are records of the subset without a sample, ``missing_uids`` their distinct uids.
    """

    files: tuple["Planned", ...]
    rows: int
    uids: int
    duplicates: int
    missing_records: int
    missing_uids: int
    examples: tuple[str, ...]


def cut(store: Store, taken: Sequence[Taken], subset: Subset, rows_per_shard: int, folder: str, missing: str) -> Cut:
    """Cut the runs of all shards; the plans of files go to ``folder``, missing uids to ``missing``, a subset again."""
    runs = [(run, shard) for shard, one in enumerate(taken) for run in one.runs]
    with workshop(store) as con:
        _load(con, store, runs)
        rows, uids, samples = con.execute(
            "SELECT (SELECT count(*) FROM kept), (SELECT count(*) FROM winners),"
            " (SELECT count(*) FROM keys WHERE copy = 0)"
        ).fetchall()[0]
        files = tuple(_planned(store, folder, each) for each in _files(con, rows, rows_per_shard))
        lost = len(subset.records) - rows
        found = _write_missing(store, con, subset, lost, missing) if lost else (0, ())
    return Cut(files, rows, uids, samples - uids, lost, *found)


def _load(con: duckdb.DuckDBPyConnection, store: Store, runs: Sequence[tuple[str, int]]) -> None:
    """The keys of all runs; of a uid that lies in several shards those of the first."""
    names, shards = [run for run, _ in runs], [shard for _, shard in runs]
    con.register("given", pa.table({"run": pa.array(names, pa.string()), "shard": pa.array(shards, pa.int32())}))
    con.execute("CREATE TABLE runs AS SELECT * FROM given")
    if names:
        load(con, "keys", [store.url(f"{name}.keys.parquet") for name in names])
    else:
        con.execute("CREATE TABLE keys (_key UBIGINT, first BIGINT, copy INTEGER, place BIGINT, run VARCHAR)")
    con.execute("CREATE TABLE winners AS SELECT first, min(shard) AS shard FROM keys JOIN runs USING (run) GROUP BY 1")
    con.execute("CREATE VIEW kept AS SELECT keys.* FROM keys JOIN runs USING (run) JOIN winners USING (first, shard)")


def _files(con: duckdb.DuckDBPyConnection, rows: int, rows_per_shard: int) -> Iterator[File]:
    """Equal shares of the global order; a slice is a stretch of a run without a gap."""
    if not rows:
        return
    count = -(-rows // rows_per_shard)
    found = con.execute(
        """
        WITH placed AS (
            SELECT run, place,
                   (row_number() OVER (ORDER BY _key, first, copy) - 1) * $count // $rows AS file,
                   place - row_number() OVER (PARTITION BY run ORDER BY place) AS island
            FROM kept
        )
        SELECT file, run, min(place), count(*) FROM placed GROUP BY file, run, island ORDER BY 1, 2, 3
        """,
        {"count": count, "rows": rows},
    )
    index, slices = 0, list[tuple[str, int, int]]()
    while batch := found.fetchmany(100_000):
        for file, run, start, number in batch:
            if file != index:
                yield File(index, tuple(slices))
                index, slices = file, []
            slices.append((run, start, number))
    yield File(index, tuple(slices))


def _planned(store: Store, folder: str, file: File) -> Planned:
    """Write a plan: together they may name every single sample, too many for the driver and for its messages."""
    runs, starts, rows = zip(*file.slices, strict=True)
    name = f"{folder}/{file.index:05d}.plan.parquet"
    store.write_table(name, pa.table({"run": runs, "start": starts, "rows": rows}))
    return Planned(file.index, name)


def _write_missing(
    store: Store, con: duckdb.DuckDBPyConnection, subset: Subset, lost: int, name: str
) -> tuple[int, tuple[str, ...]]:
    """Write the records without a sample; gives their distinct uids' number, and a few of them."""
    uids, examples = 0, list[str]()
    con.execute("CREATE TABLE found AS SELECT first FROM winners ORDER BY first")
    with store.create(name, exclusive=False) as out:
        header = {"descr": np.lib.format.dtype_to_descr(uid.PAIR_DTYPE), "fortran_order": False, "shape": (lost,)}
        np.lib.format.write_array_header_1_0(out, header)
        group = -1  # first record of the uid at hand
        for start, high, low in subset.chunks():
            numbers = np.arange(start, start + len(high))
            is_first = np.ones(len(high), bool)
            is_first[1:] = (high[1:] != high[:-1]) | (low[1:] != low[:-1])
            is_first[0] = group < 0 or subset.records[group] != subset.records[start]
            owner = np.maximum.accumulate(np.where(is_first, numbers, group))
            there = con.execute(
                "SELECT first FROM found WHERE first BETWEEN ? AND ?", [int(owner[0]), int(numbers[-1])]
            )
            is_lost = ~np.isin(owner, there.fetchnumpy()["first"])
            out.write(subset.records[start : start + len(high)][is_lost].tobytes())
            uids += int((is_lost & is_first).sum())
            if len(examples) < NAMED:
                examples += uid.from_numbers(subset.records[numbers[is_lost & is_first][:NAMED]])
            group = int(owner[-1])
    return uids, tuple(examples[:NAMED])
