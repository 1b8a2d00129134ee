"""Clusters of pairs that are alike, as ``clusters`` finds them, where they do not fit into one process.

The same rounds, in tasks that hold one part each.  Ranks come from one sort of the driver's DuckDB, on disk; pairs
are then cut into blocks of consecutive ranks, keys into parts of equal keys.  A round: each part links its keys'
members; links go to the block of their better end, lose repetitions and take up what is compared; then to
the block of the other end, where the filter confirms them; ``components`` hangs clusters on their best.  Later rounds
look only at keys that lost a member in the round before: the others would give the same links.

The run's storage holds keys and compared columns twice meanwhile, and a round's links with what is compared of one end.
What must fit into a worker: the members of one key, 200 bytes each.  The driver holds a byte a pair.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pairsieve.pipelines import components
from pairsieve.pipelines.clusters import COMPARED, COMPARES, KEY, ROUNDS, alike, between, key_places, places
from pairsieve.pipelines.exchange import Each, File, Part, parts, read, receive, send, share, write
from pairsieve.pipelines.step import Step
from pairsieve.pipelines.store import Store
from pairsieve.pipelines.workshop import by_shard, rank_pairs, workshop
from pairsieve.schemas import columns

Ids = NDArray[np.int64]
RANK = "pairsieve/rank"
MEMBER_BYTES = 200
"""What a worker holds for each member of a key while it links them."""


@dataclass(frozen=True)
class Limits:
    """Bytes that a task may hold, about; links whose components one process finds."""

    part_bytes: int = 256_000_000
    together: int = 50_000_000


LIMITS = Limits()


@dataclass(frozen=True)
class Cut:
    """How pairs and keys are cut: ranks into blocks; each place of the lists of keys into parts by key."""

    rows: int
    part_bytes: int
    block_rows: int
    places: int
    parts_each: int

    @property
    def blocks(self) -> int:
        """Blocks of consecutive ranks."""
        return -(-self.rows // self.block_rows)

    @property
    def key_parts(self) -> int:
        """Parts of keys."""
        return self.places * self.parts_each

    def key_part(self, place: int, keys: NDArray[np.uint64]) -> Ids:
        """The part of each key at a place."""
        return place * self.parts_each + share(keys, self.parts_each)


@dataclass(frozen=True)
class Apart:
    """The work of a step: where its files are and how they are cut."""

    store: Store
    step: Step
    cut: Cut

    @property
    def folder(self) -> str:
        """The step's work files."""
        return f"_work/{self.step.id}"

    def first(self, block: int) -> int:
        """The first rank of a block."""
        return block * self.cut.block_rows

    def block(self, folder: str, part: Part) -> pa.Table:
        """The rows of a block, by rank."""
        table = receive(self.store, f"{self.folder}/{folder}", part.index)
        return table.take(pa.array(np.argsort(table[RANK].to_numpy(), kind="stable"))).combine_chunks()

    def send(self, name: str, rows: pa.Table, ranks: Ids) -> None:
        """Send rows to the blocks of some ranks."""
        send(self.store, f"{self.folder}/{name}.arrow", rows, ranks // self.cut.block_rows, self.cut.blocks)


def cluster(store: Store, step: Step, names: Sequence[str], order: str, each: Each, limits: Limits) -> list[str]:
    """Work files with the pairs that lose, of ``columns.DERIVED``."""
    files = list(_files(store, names))
    if not files:
        return []
    work = Apart(store, step, _cut(files, limits.part_bytes))
    _rank(work, files, order)
    list(each(_Spread(work), files))
    stars, lost, turn = list[str](), _Lost(work.cut.rows), 0
    while True:
        found, count = _round(work, each, turn)
        folder, links = f"{work.folder}/hang{turn}", count + len(lost)
        hung = components.hang(store, folder, stars + found, links, each, limits.together, limits.part_bytes // 32)
        news, stars, turn = lost.add(_losers(store, hung)), hung, turn + 1
        if not news or turn == ROUNDS:
            return _written(work, stars, each)
        store.write(f"{work.folder}/lost{turn}.bits", lost.packed())


@dataclass(frozen=True)
class _WorkFile(File):
    """A work file: pairs of a shard, their bytes in memory, and the longest list of keys."""

    rows: int
    size: int
    places: int


class _Lost:
    """Which pairs have lost."""

    def __init__(self, rows: int) -> None:
        """None yet."""
        self._bits, self._count = np.zeros(rows, np.bool_), 0

    def add(self, ranks: Iterator[Ids]) -> int:
        """How many of them are new."""
        for some in ranks:
            self._bits[some] = True
        before, self._count = self._count, int(np.count_nonzero(self._bits))
        return self._count - before

    def __len__(self) -> int:
        """How many have lost."""
        return self._count

    def packed(self) -> bytes:
        """A bit each."""
        return np.packbits(self._bits, bitorder="little").tobytes()


def _files(store: Store, names: Sequence[str]) -> Iterator[_WorkFile]:
    """Those that hold pairs."""
    for i, name in enumerate(names):
        with store.parquet(name) as file:
            groups = [file.metadata.row_group(k) for k in range(file.num_row_groups)]
            if file.metadata.num_rows:
                size = sum(group.total_byte_size for group in groups)
                yield _WorkFile(i, name, file.metadata.num_rows, size, key_places(file))


def _cut(files: Sequence[_WorkFile], part_bytes: int) -> Cut:
    rows, blocks = sum(file.rows for file in files), max(1, -(-sum(file.size for file in files) // part_bytes))
    places = max(file.places for file in files)
    return Cut(rows, part_bytes, -(-rows // blocks), places, max(1, -(-MEMBER_BYTES * rows // part_bytes)))


def _rank(work: Apart, files: Sequence[_WorkFile], order: str) -> None:
    """Write each shard's ranks, in the order of its rows."""
    with workshop(work.store) as con:
        rank_pairs(con, [work.store.url(file.name) for file in files], work.step.keep_reads, order)
        ranked = con.sql(f'SELECT shard, rowid AS "{RANK}" FROM ranked ORDER BY shard, row')
        for shard, table in by_shard(ranked):
            write(work.store, f"{work.folder}/rank/{shard:05d}.arrow", table.select([RANK]))


@dataclass(frozen=True)
class _Spread:
    """Send a shard's pairs to the blocks of their ranks, and their keys to the parts of keys."""

    work: Apart

    def __call__(self, item: _WorkFile) -> None:
        with self.work.store.parquet(item.name) as file:
            table = file.read(use_threads=False).sort_by("row")
        shard = table["shard"][0].as_py()
        rank = read(self.work.store, f"{self.work.folder}/rank/{shard:05d}.arrow")[RANK].to_numpy()
        compared = [name for name in table.schema.names if name.startswith(COMPARES)]
        for folder, names in (("head", columns.PLACE), ("compared", compared)):
            rows = table.select(list(names)).append_column(RANK, pa.array(rank))
            self.work.send(f"{folder}/{shard:05d}", rows.cast(_wide(rows.schema)), rank)
        self._send_keys(shard, table, rank)

    def _send_keys(self, shard: int, table: pa.Table, rank: Ids) -> None:
        keys, ranks, to = [np.zeros(0, np.uint64)], [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
        order = np.argsort(rank)
        by_rank = pa.array(order)
        for place in range(self.work.cut.places):
            if KEY.format(place) in table.schema.names:
                column = table[KEY.format(place)].take(by_rank)
                ranks.append(rank[order][pc.is_valid(column).to_numpy()])
                keys.append(column.drop_null().to_numpy())
                to.append(self.work.cut.key_part(place, keys[-1]))
        rows = pa.table({"key": np.concatenate(keys), RANK: np.concatenate(ranks)})
        name = f"{self.work.folder}/keys/{shard:05d}.arrow"
        send(self.work.store, name, rows, np.concatenate(to), self.work.cut.key_parts)


def _wide(schema: pa.Schema) -> pa.Schema:
    """With strings of 64-bit offsets: a block may hold more than 2 GB of them."""
    return pa.schema([f.with_type(pa.large_string()) if pa.types.is_string(f.type) else f for f in schema])


def _round(work: Apart, each: Each, turn: int) -> tuple[list[str], int]:
    """Files of links that the filter confirms, and their number."""
    blocks = parts(work.cut.blocks)
    list(each(_Link(work, turn), parts(work.cut.key_parts)))
    list(each(_Attach(work, turn), blocks))
    work.store.remove(f"{work.folder}/links{turn}")
    count = sum(each(_Confirm(work, turn), blocks))
    work.store.remove(f"{work.folder}/ends{turn}")
    return [f"{work.folder}/found{turn}/{part.index:05d}.arrow" for part in blocks], count


@dataclass(frozen=True)
class _Link:
    """Link the members of each key of a part, as ``clusters`` does."""

    work: Apart
    turn: int

    def __call__(self, part: Part) -> None:
        table = receive(self.work.store, f"{self.work.folder}/keys", part.index)
        keys, ranks = table["key"].to_numpy(), table[RANK].to_numpy()
        gone = np.zeros(len(keys), np.bool_)
        if self.turn:
            keys, ranks, gone = self._touched(keys, ranks)
        order = np.argsort(ranks, kind="stable")  # each shard's come in order: a merge
        keys, ranks, gone = keys[order], ranks[order], gone[order]
        own = np.arange(len(keys))
        one, other = between(keys, own, gone, own, np.empty((places(len(keys)), 4), np.int64))
        rows = pa.table({"one": ranks[one], "other": ranks[other]})
        self.work.send(f"links{self.turn}/{part.index:05d}", rows, ranks[one])

    def _touched(self, keys: NDArray[np.uint64], ranks: Ids) -> tuple[NDArray[np.uint64], Ids, NDArray[np.bool_]]:
        """Of keys that lost a member in the round before: the members that are left, and those just lost."""
        lost = self._lost(self.turn, ranks)
        just = lost & ~self._lost(self.turn - 1, ranks) if self.turn > 1 else lost
        chosen = (~lost | just) & np.isin(keys, np.unique(keys[just]))
        return keys[chosen], ranks[chosen], just[chosen]

    def _lost(self, turn: int, ranks: Ids) -> NDArray[np.bool_]:
        bits = np.frombuffer(self.work.store.read(f"{self.work.folder}/lost{turn}.bits"), np.uint8)
        return np.asarray(bits[ranks >> 3] >> (ranks & 7).astype(np.uint8) & 1, np.bool_)


@dataclass(frozen=True)
class _Attach:
    """Give the links of a block's pairs what is compared of them, each link once, and send them to their other ends."""

    work: Apart
    turn: int

    def __call__(self, part: Part) -> None:
        links = receive(self.work.store, f"{self.work.folder}/links{self.turn}", part.index)
        one, other = components.once(links["one"].to_numpy(), links["other"].to_numpy())
        own = self.work.block("compared", part).drop_columns(RANK)
        size = max(1, self.work.cut.part_bytes * max(1, len(own)) // max(1, 2 * own.nbytes))
        for i, start in enumerate(range(0, max(1, len(one)), size)):
            chosen = slice(start, start + size)
            rows = own.take(pa.array(one[chosen] - self.work.first(part.index)))
            ends = {"pairsieve/one": one[chosen], "pairsieve/other": other[chosen]}
            rows = pa.table({**ends, **{name: rows[name] for name in rows.schema.names}})
            self.work.send(f"ends{self.turn}/{part.index:05d}-{i:03d}", rows, other[chosen])


@dataclass(frozen=True)
class _Confirm:
    """Ask the filter which links of a block's pairs hold, write these, and give their number."""

    work: Apart
    turn: int

    def __call__(self, part: Part) -> int:
        ends = receive(self.work.store, f"{self.work.folder}/ends{self.turn}", part.index)
        one, other = ends["pairsieve/one"].to_numpy(), ends["pairsieve/other"].to_numpy()
        own = self.work.block("compared", part).drop_columns(RANK)
        place, theirs = other - self.work.first(part.index), ends.select(own.schema.names)
        holds = [np.zeros(0, np.bool_)]
        for start in range(0, len(one), COMPARED):
            mine = own.take(pa.array(place[start : start + COMPARED]))
            holds.append(alike(self.work.step, _record(theirs.slice(start, COMPARED)), _record(mine)))
        found = np.concatenate(holds)
        table = pa.table({"one": one[found], "other": other[found]})
        write(self.work.store, f"{self.work.folder}/found{self.turn}/{part.index:05d}.arrow", table)
        return len(table)


def _record(table: pa.Table) -> pa.RecordBatch:
    """Some rows, of at least one, by the names that the filter knows."""
    batch = table.combine_chunks().to_batches()[0]
    return batch.rename_columns([name.removeprefix(COMPARES) for name in batch.schema.names])


def _losers(store: Store, stars: Sequence[str]) -> Iterator[Ids]:
    for name in stars:
        yield read(store, name)["other"].to_numpy()


def _written(work: Apart, stars: Sequence[str], each: Each) -> list[str]:
    """Work files of the pairs that hang on another."""
    if not stars:
        return []
    list(each(_ToBest(work), [File(i, name) for i, name in enumerate(stars)]))
    blocks = parts(work.cut.blocks)
    list(each(_TakeUid(work), blocks))
    return list(each(_Write(work), blocks))


@dataclass(frozen=True)
class _ToBest:
    """Send a file's pairs that lose to the blocks of those they hang on."""

    work: Apart

    def __call__(self, item: File) -> None:
        rows = read(self.work.store, item.name)
        self.work.send(f"best/{item.index:05d}", rows, rows["one"].to_numpy())


@dataclass(frozen=True)
class _TakeUid:
    """Send the uids of a block's best pairs to the blocks of those that hang on them."""

    work: Apart

    def __call__(self, part: Part) -> None:
        rows = receive(self.work.store, f"{self.work.folder}/best", part.index)
        uid = self.work.block("head", part)["uid"]
        best = pa.array(rows["one"].to_numpy() - self.work.first(part.index))
        rows = rows.append_column("uid", uid.take(best))
        self.work.send(f"uids/{part.index:05d}", rows, rows["other"].to_numpy())


@dataclass(frozen=True)
class _Write:
    """Write a block's pairs that lose; gives the file."""

    work: Apart

    def __call__(self, part: Part) -> str:
        rows = receive(self.work.store, f"{self.work.folder}/uids", part.index)
        head = self.work.block("head", part)
        lost = head.take(pa.array(rows["other"].to_numpy() - self.work.first(part.index)))
        lost = lost.select(list(columns.PLACE)).append_column("duplicate_of", rows["uid"])
        reason = pa.repeat(pa.scalar(next(iter(self.work.step.keys.values()))), len(lost))
        name = f"{self.work.folder}/picked/{part.index:05d}.parquet"
        self.work.store.write_table(name, lost.append_column("duplicate_by", reason).cast(columns.DERIVED))
        return name
