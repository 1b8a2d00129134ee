"""Clusters of pairs that are alike, wherever they lie: links by shared keys, comparison, connected components.

Pairs are ranked once, so that an id is a rank and a cluster's root its best pair.  Key by key, each member is
linked to the best with the same key and to the one before it in rank, unless both are in one cluster already;
links that ``alike`` confirms unite clusters.  The same goes on among the roots, for keys that lost a member: there a
hub is compared with all too, the one before the first that was lost.  It ends when a round links nothing: so a second
run over what stays drops nothing.  Which links there are depends on ranks and keys alone.

One process; memory is some 200 bytes a pair, 16 to 32 a comparison, a key's column at a time, and what is compared.
At most 2^32 pairs that have keys.  What does not fit is for ``clusters_apart``, which finds the same.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pairsieve.filters.base import NearFilter
from pairsieve.pipelines.shard import Rows, Shard, at, derived_name
from pairsieve.pipelines.step import Step
from pairsieve.pipelines.store import Store
from pairsieve.pipelines.workshop import rank_pairs, workshop
from pairsieve.schemas import columns
from pairsieve.schemas.errors import PairsieveError

Ids = NDArray[np.int64]
COMPARED = 65_536
"""Links that a filter compares at once."""
KEY = "pairsieve/key/{}"
COMPARES = "pairsieve/compared/"
"""What work files call the columns to compare."""
ROUNDS = 100
"""Two to four are usual; pools that are made to need more keep some that are alike."""


def write_keys(shard: Shard, step: Step, rows: Rows, name: str) -> None:
    """Write the keys of some rows as a work file, a column each, with what ranking and comparing need."""
    made = filter_of(step)
    stored = {own: there for own, (there, _) in step.writes.items()}
    keys = at(shard.heavy(stored[made.key_column], 0, shard.record.rows), rows)
    rows, keys = rows[pc.is_valid(keys).to_numpy(zero_copy_only=False)], keys.drop_null()
    found = {one: at(shard.light(one), rows) for one in (*columns.PLACE, *step.keep_reads)}
    for one in made.compared(shard.context.plan.types):
        found[COMPARES + one] = _column(shard, stored.get(one, one), rows)
    found |= {KEY.format(i): values for i, values in enumerate(_spread(keys))}
    with shard.context.store.create(name, exclusive=False) as file:  # keys do not compress
        pq.write_table(pa.table(found), file, compression="none", use_dictionary=False)


def _column(shard: Shard, name: str, rows: Rows) -> pa.Array:
    if columns.is_heavy(shard.context.plan.types[name]):
        return at(shard.heavy(name, 0, shard.record.rows), rows)
    return at(shard.light(name), rows)


def _spread(keys: pa.Array) -> Iterator[pa.Array]:
    """The lists' first values, second values, …; null where a list is shorter."""
    lengths = pc.list_value_length(keys).to_numpy(zero_copy_only=False).astype(np.int64)
    values = pc.list_flatten(keys).to_numpy(zero_copy_only=False).astype(np.uint64)
    starts = np.cumsum(lengths) - lengths
    for i in range(int(lengths.max(initial=0))):
        has = lengths > i
        picked = values[np.minimum(starts + i, max(0, len(values) - 1))] if len(values) else np.zeros(0, np.uint64)
        yield pa.array(picked, mask=~has)


def size(store: Store, names: Sequence[str]) -> int:
    """Bytes that ``cluster`` takes, about, with four comparisons a pair."""
    found = 0
    for name in names:
        with store.parquet(name) as file:
            groups = [file.metadata.row_group(i) for i in range(file.num_row_groups)]
            leaves = [group.column(k) for group in groups for k in range(group.num_columns)]
            compared = [leaf for leaf in leaves if leaf.path_in_schema.startswith(COMPARES)]
            found += 300 * file.metadata.num_rows + sum(leaf.total_uncompressed_size for leaf in compared)
    return found


def cluster(store: Store, step: Step, names: Sequence[str], order: str) -> int:
    """Write ``derived/<step>/`` from work files; gives the number of pairs that lose."""
    work = _Work.open(store, step, names)
    rank = work.ranked(order)
    parent = _linked(work, rank)
    return _write(store, step, work, rank, parent)


def filter_of(step: Step) -> NearFilter:
    """The step's filter."""
    assert isinstance(step.filter, NearFilter)
    return step.filter


@dataclass(frozen=True)
class _Work:
    """The work files of a step; a position is a row of all of them, one after the other."""

    store: Store
    names: Sequence[str]
    files: list[pq.ParquetFile]
    step: Step
    shard: NDArray[np.int32]
    row: NDArray[np.int32]

    @classmethod
    def open(cls, store: Store, step: Step, names: Sequence[str]) -> "_Work":
        files = [store.parquet(name) for name in names]
        places = [file.read(["shard", "row"], use_threads=False) for file in files]
        shard, row = (np.concatenate([p[n].to_numpy() for p in places]) for n in ("shard", "row"))
        return cls(store, names, files, step, shard, row)

    def ranked(self, order: str) -> Ids:
        """The positions of all pairs, the best first."""
        with workshop(self.store) as con:
            rank_pairs(con, [self.store.url(name) for name in self.names], self.step.keep_reads, order)
            found = con.sql("SELECT shard, row FROM ranked ORDER BY rowid").to_arrow_table()
        ours = _place(self.shard, self.row)
        return np.searchsorted(ours, _place(found["shard"].to_numpy(), found["row"].to_numpy())).astype(np.int64)

    @property
    def keys(self) -> int:
        """Keys of a pair, at most."""
        return max(map(key_places, self.files))

    def column(self, name: str, kind: pa.DataType) -> pa.Array:
        """A column of all files; null where a file has none."""
        found = [
            file.read([name], use_threads=False)[name].cast(kind).combine_chunks()
            if name in file.schema_arrow.names
            else pa.nulls(file.metadata.num_rows, kind)
            for file in self.files
        ]
        return pa.concat_arrays(found)

    def compared(self) -> dict[str, pa.Array]:
        """What the filter compares, by the filter's names; strings have 64-bit offsets."""
        names = [n for n in self.files[0].schema_arrow.names if n.startswith(COMPARES)]
        return {name.removeprefix(COMPARES): self.column(name, self._wide(name)) for name in names}

    def _wide(self, name: str) -> pa.DataType:
        kind = self.files[0].schema_arrow.field(name).type
        return pa.large_string() if pa.types.is_string(kind) else kind


def key_places(file: pq.ParquetFile) -> int:
    """Columns of keys of a work file: the length of its longest list."""
    return sum(str(name).startswith(KEY.format("")) for name in file.schema_arrow.names)


def _place(shard: NDArray[np.int32], row: NDArray[np.int32]) -> Ids:
    return np.asarray(shard.astype(np.int64) << 32 | row)


def _linked(work: _Work, rank: Ids) -> Ids:
    """The root of every id."""
    from pairsieve.filters import _links

    parent, before = np.arange(len(rank)), _links.Compared()
    compared, links = work.compared(), _Links(rank)
    while links.may_find:
        for i in range(work.keys):
            one, other = links.of(work.column(KEY.format(i), pa.uint64()), parent)
            is_new = before.new(one, other)
            one, other = one[is_new], other[is_new]
            alike = _alike(work.step, compared, rank[one], rank[other])
            _links.unite(parent, one[alike], other[alike])
        links.next_round(parent)
    _links.flatten(parent)
    return parent


class _Links:
    """Links between the roots, key by key: from the second round on of keys that lost a member in the one before.

    The others' members are as they were, so their links were compared.
    """

    def __init__(self, rank: Ids) -> None:
        """All are roots."""
        self._rank, self._lost = rank, np.zeros(0, np.int64)
        self._table = np.empty((0, 4), np.int64)  # kept: its pages cost more than what is done in them
        self._id, self._is_root = np.empty(len(rank), np.int64), np.ones(len(rank), np.bool_)
        self._id[rank] = np.arange(len(rank))
        self.may_find, self._round = len(rank) > 0, 0

    def next_round(self, parent: Ids) -> None:
        """Go on with what is a root still, if others were lost."""
        lost = self._rank[parent != np.arange(len(parent))]
        self._lost = lost[self._is_root[lost]]
        self._is_root[lost] = False
        self._round += 1
        self.may_find = len(self._lost) > 0 and self._round < ROUNDS

    def of(self, keys: pa.Array, parent: Ids) -> tuple[Ids, Ids]:
        """Links of one key between ids that are not in one cluster yet."""
        valid = pc.is_valid(keys).to_numpy(zero_copy_only=False)
        values = pc.fill_null(keys, 0).to_numpy(zero_copy_only=False)
        ids = np.flatnonzero(valid[self._rank]) if self._round == 0 else self._touched(values, valid)
        position = self._rank[ids]
        size = places(len(ids))
        if len(self._table) < size:
            self._table = np.empty((size, 4), np.int64)
        return between(values[position], ids, ~self._is_root[position], parent, self._table[:size])

    def _touched(self, values: NDArray[np.uint64], valid: NDArray[np.bool_]) -> Ids:
        """Those that were lost in the round before, and the roots that share a key with them."""
        from pairsieve.filters import _links

        others, chosen = values[self._lost[valid[self._lost]]], self._is_root & valid
        size = 1 << max(4, (2 * len(others)).bit_length())
        _links.among(values, chosen, others, np.empty(size, np.uint64), np.zeros(size, np.bool_))
        chosen[self._lost[valid[self._lost]]] = True
        return np.sort(self._id[chosen])


def places(keys: int) -> int:
    """Rows of a table of so many keys."""
    return 1 << max(4, (2 * keys).bit_length())


def between(keys: NDArray[np.uint64], ids: Ids, gone: NDArray[np.bool_], parent: Ids, table: Ids) -> tuple[Ids, Ids]:
    """Links between ids of equal keys that are not gone, nor in one cluster yet; ``ids`` ascend.

    ``table`` is int64[places(keys), 4], whatever it holds.
    """
    from pairsieve.filters import _links

    table.fill(-1)
    one, other = np.empty(3 * len(ids), np.int64), np.empty(3 * len(ids), np.int64)
    count = _links.link(np.ascontiguousarray(keys), ids, np.ascontiguousarray(gone), parent, table, one, other)
    return one[:count], other[:count]


def _alike(step: Step, compared: dict[str, pa.Array], one: Ids, other: Ids) -> NDArray[np.bool_]:
    """What the filter says of links between positions, some at a time."""
    found = [np.zeros(0, bool)]
    for start in range(0, len(one), COMPARED):
        ends = [pa.array(some[start : start + COMPARED]) for some in (one, other)]
        batches = [pa.record_batch({name: values.take(end) for name, values in compared.items()}) for end in ends]
        found.append(alike(step, *batches))
    return np.concatenate(found)


def alike(step: Step, one: pa.RecordBatch, other: pa.RecordBatch) -> NDArray[np.bool_]:
    """What the filter says of some links; raises ``PairsieveError`` where it says something else."""
    found = np.asarray(filter_of(step).alike(one, other))
    if found.shape != (len(one),) or found.dtype != np.bool_:
        raise PairsieveError(f"{step.id}: alike() must give bool[{len(one)}], not {found.dtype}{found.shape}")
    return found


def _write(store: Store, step: Step, work: _Work, rank: Ids, parent: Ids) -> int:
    """The pairs that lose, by shard and row, with the uid that stays."""
    lost = np.flatnonzero(parent != np.arange(len(parent)))
    position, best = rank[lost], rank[parent[lost]]
    order = np.argsort(position, kind="stable")
    position, best = position[order], best[order]
    uid = work.column("uid", pa.large_string())
    reason = next(iter(step.keys.values()))
    edges = np.flatnonzero(np.diff(work.shard[position], prepend=-1, append=-1)) if len(position) else np.zeros(1, int)
    for first, last in pairwise(edges):
        own, theirs = pa.array(position[first:last]), pa.array(best[first:last])
        table = pa.table(
            {
                "uid": uid.take(own),
                "shard": work.shard[position[first:last]],
                "row": work.row[position[first:last]],
                "duplicate_of": uid.take(theirs),
                "duplicate_by": pa.repeat(pa.scalar(reason), last - first),
            }
        )
        store.write_table(derived_name(step.id, int(work.shard[position[first]])), table.cast(columns.DERIVED))
    return len(lost)
