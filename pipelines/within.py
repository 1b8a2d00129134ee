"""Decide within groups of pairs, wherever their members lie: an external sort by group, then one group at a time.

Each shard writes its pairs ordered by group; stretches of groups that fit into memory are read from all
shards' files, ranked and given to the filter, in as many workers as there are.  The outcome depends on groups and
ranks alone.  Bytes are those of the columns to compare, written and read once.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pairsieve.filters.base import WithinFilter
from pairsieve.pipelines.chunk import Chunk
from pairsieve.pipelines.exchange import Each
from pairsieve.pipelines.passes import stored_rows
from pairsieve.pipelines.shard import Rows, Shard, at
from pairsieve.pipelines.step import Step
from pairsieve.pipelines.store import Store
from pairsieve.pipelines.workshop import best_first
from pairsieve.schemas import columns
from pairsieve.schemas.errors import PairsieveError

GROUP = "pairsieve/group"
STRETCH_BYTES = 256_000_000
"""Bytes of a stretch of groups, as they lie in memory; a larger group is a stretch of its own."""
PAGE_BYTES = 2_000_000


@dataclass(frozen=True)
class Stretch:
    """Groups ``first`` to ``last``."""

    index: int
    first: int
    last: int


def write_members(shard: Shard, step: Step, rows: Rows, name: str) -> None:
    """Write the members of groups among some rows as a work file: chunks, each ordered by group."""
    made, types = filter_of(step), shard.context.plan.types
    stored = {own: there for own, (there, _) in step.writes.items()}
    compared = {f"pairsieve/compared/{own}": stored.get(own, own) for own in made.compared(types)}
    small = {n: n for n in (*columns.PLACE, *step.keep_reads)} | {own: there for there, own in step.light.items()}
    group = shard.light(stored[made.group_column])
    rows = rows[pc.is_valid(at(group, rows)).to_numpy(zero_copy_only=False)]
    size = stored_rows([types[there] for there in compared.values()])
    with shard.context.store.create(name, exclusive=False) as file, ExitStack() as stack:
        writer = None
        for start in range(0, max(1, shard.record.rows), size):
            chunk = Chunk(shard, start, min(start + size, shard.record.rows))
            some = rows[np.searchsorted(rows, start) : np.searchsorted(rows, start + size)]
            if not len(some) and (writer is not None or start + size < shard.record.rows):
                continue
            found = {own: at(shard.light(there), some) for own, there in small.items()}
            found |= {own: chunk.column(there, some) for own, there in compared.items()}
            table = pa.table(found | {GROUP: at(group, some)}).sort_by(GROUP)
            writer = writer or stack.enter_context(_writer(file, table.schema))
            writer.write_table(table, row_group_size=max(1, PAGE_BYTES * len(table) // max(1, table.nbytes)))


def _writer(file: Any, schema: pa.Schema) -> pq.ParquetWriter:
    return pq.ParquetWriter(file, schema, compression="none", use_dictionary=False)


def filter_of(step: Step) -> WithinFilter:
    """The step's filter."""
    assert isinstance(step.filter, WithinFilter)
    return step.filter


def pick(store: Store, step: Step, files: Sequence[str], each: Each) -> list[str]:
    """Let the filter decide; gives the work files with the pairs that lose (may be none)."""
    made = list(each(Pick(store, step, tuple(files)), _stretches(store, files)))
    return [name for name in made if name is not None]


def _stretches(store: Store, files: Sequence[str]) -> list[Stretch]:
    """All groups in order, in stretches of about so many bytes."""
    members, size = np.zeros(0, np.int64), 0
    for name in files:
        with store.parquet(name) as file:
            counts = np.bincount(file.read([GROUP], use_threads=False)[GROUP].to_numpy())
            size += sum(file.metadata.row_group(i).total_byte_size for i in range(file.num_row_groups))
        members = _sum(members, counts)
    if not (rows := int(members.sum())):
        return []
    ends = np.cumsum(members) * (size / rows) // STRETCH_BYTES
    firsts = [0, *(int(i) + 1 for i in np.flatnonzero(np.diff(ends)))]
    return [Stretch(i, a, b - 1) for i, (a, b) in enumerate(pairwise([*firsts, len(members)]))]


def _sum(one: NDArray[np.int64], other: NDArray[np.int64]) -> NDArray[np.int64]:
    found = np.zeros(max(len(one), len(other)), np.int64)
    found[: len(one)] += one
    found[: len(other)] += other
    return found


@dataclass
class Pick:
    """Decide within a stretch of groups; gives the work file with the pairs that lose, if any."""

    store: Store
    step: Step
    files: tuple[str, ...]

    def __call__(self, stretch: Stretch) -> str | None:
        """See the class."""
        table = self._read(stretch)
        lost = [self._group(table.slice(first, last - first)) for first, last in self._groups(table)]
        found = pa.concat_tables([columns.DERIVED.empty_table(), *lost])
        if not len(found):
            return None
        name = f"_work/{self.step.id}/picked/{stretch.index:05d}.parquet"
        self.store.write_table(name, found)
        return name

    def _read(self, stretch: Stretch) -> pa.Table:
        """The members of a stretch by group, the best first."""
        parts = []
        for name in self.files:
            with self.store.parquet(name) as file:
                parts += [file.read_row_group(i, use_threads=False) for i in _touched(file, stretch)]
        table = pa.concat_tables(parts).combine_chunks()  # a stretch has members
        group = table[GROUP].to_numpy()
        table = table.filter(pa.array((group >= stretch.first) & (group <= stretch.last)))
        names = [name for name in table.schema.names if not name.startswith("pairsieve/compared/")]
        order = filter_of(self.step).order()
        with duckdb.connect() as con:
            con.execute("SET threads = 1")
            small = table.select(names).append_column("pairsieve/at", pa.array(np.arange(len(table))))
            con.register("members", small)
            by = f'"{GROUP}", {best_first(order)}'
            ranked = con.sql(f'SELECT "pairsieve/at" FROM members ORDER BY {by}').to_arrow_table()["pairsieve/at"]
        return table.take(ranked.combine_chunks())

    def _groups(self, table: pa.Table) -> Iterator[tuple[int, int]]:
        """First row, and the row after the last, of each group of two or more."""
        group = table[GROUP].to_numpy()
        edges = np.flatnonzero(np.diff(group, prepend=-1, append=-1)) if len(group) else np.zeros(1, np.int64)
        yield from ((int(a), int(b)) for a, b in pairwise(edges) if b - a > 1)

    def _group(self, members: pa.Table) -> pa.Table:
        """The members of one group that lose."""
        given = {
            name.removeprefix("pairsieve/compared/"): members[name].combine_chunks()
            for name in members.schema.names
            if name.startswith("pairsieve/compared/")
        }
        made = filter_of(self.step)
        loses_to = np.asarray(made.losers(pa.record_batch(given)))
        if loses_to.shape != (len(members),) or loses_to.dtype != np.int64:
            said = f"{loses_to.dtype}{loses_to.shape}"
            raise PairsieveError(f"{self.step.id}: losers() must give int64[{len(members)}], not {said}")
        lost = np.flatnonzero(loses_to >= 0)
        stays = _ends(loses_to)[lost]
        if (loses_to[stays] >= 0).any():
            raise PairsieveError(f"{self.step.id}: losers() lets members lose to each other in a circle")
        head = members.select(columns.PLACE)
        better: Any = head["uid"].take(pa.array(stays))
        found = head.take(pa.array(lost)).append_column("duplicate_of", better)
        return found.append_column("duplicate_by", pa.repeat(pa.scalar(made.reason), len(lost))).cast(columns.DERIVED)


def _ends(loses_to: NDArray[np.int64]) -> NDArray[np.int64]:
    """The place of the member that stays, at the end of who loses to whom; that of any other in a circle."""
    found = np.where(loses_to < 0, np.arange(len(loses_to)), loses_to)
    for _ in range(len(found).bit_length()):  # each time twice as far
        found = found[found]
    return found


def _touched(file: pq.ParquetFile, stretch: Stretch) -> list[int]:
    """Row groups that may hold members of the stretch."""
    leaf = next(i for i in range(file.metadata.num_columns) if file.schema.column(i).path == GROUP)
    found = []
    for i in range(file.num_row_groups):
        seen = file.metadata.row_group(i).column(leaf).statistics
        if seen is None or not seen.has_min_max or (seen.min <= stretch.last and seen.max >= stretch.first):
            found.append(i)
    return found
