"""Count the words and bigrams of pieces of text exactly, in bounded memory: full tables are written as runs.

A run is two Parquet files.  Words have their number in the run (``local``), by which bigrams name them, and are
ordered by ``part``: the first bits of a hash of the word, the same in every run, so that runs are added up part
by part (``metadata_merge``).  Tables take 290 MB a worker where text is rich; a core counts 3.6 M words a second.
"""

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pairsieve.pipelines.metadata_inputs import Bundle
from pairsieve.pipelines.metadata_text import read_texts
from pairsieve.pipelines.metadata_tokens import LONGEST, Spans, load_segmenter, segmented, spans
from pairsieve.pipelines.store import Store

PART_BITS = 6
PARTS = 1 << PART_BITS
ROW_GROUP = 65_536
"""Rows of a run's row group: a reader of one part passes over the groups of others."""


@dataclass(frozen=True)
class Room:
    """What the tables of a worker hold: distinct words, their bytes, distinct bigrams."""

    words: int = 1 << 21
    arena: int = 1 << 25
    pairs: int = 6 << 20

    def __post_init__(self) -> None:
        """At least two of the longest words must fit."""
        assert self.words >= 2 and self.arena >= 2 * LONGEST and self.pairs >= 1


@dataclass
class Counted:
    """One bundle: what was read (texts, tokens, what was passed over), its runs, and the rows in them."""

    tally: dict[str, int] = field(default_factory=dict)
    runs: list[str] = field(default_factory=list)
    words: int = 0
    pairs: int = 0


class Tables:
    """Words and bigrams with their counts; see ``metadata_kernel`` for how they lie."""

    def __init__(self, room: Room) -> None:
        """Empty tables."""
        self._room = room
        self._new()

    def _new(self) -> None:
        words, pairs = self._room.words, self._room.pairs
        self.slots = np.zeros(_power(words * 3 // 2), np.uint64)
        self.arena = np.zeros(self._room.arena, np.uint8)
        self.ends = np.zeros(words + 1, np.int64)
        self.hashes, self.counts = np.zeros(words, np.uint64), np.zeros(words, np.int64)
        self.pairs = np.zeros((_power(pairs * 4 // 3), 2), np.uint64)
        self.used = np.zeros(2, np.int64)

    def count(self, found: Spans, begin: int) -> int:
        """Count words from the ``begin``-th on; gives how far it came until something was full."""
        from pairsieve.pipelines.metadata_kernel import count_spans

        tables = (self.slots, self.arena, self.ends, self.hashes, self.counts, self.pairs.ravel())
        return int(count_spans(*found, begin, *tables, self._room.pairs, self.used))

    def take(self) -> tuple[pa.Table, pa.Table]:
        """Words (word, count, local, part) by part, and bigrams (first, second, count); the tables are empty then."""
        number = int(self.used[0])
        offsets = pa.py_buffer(self.ends[: number + 1].astype(np.int32))
        words = pa.StringArray.from_buffers(number, offsets, pa.py_buffer(self.arena[: self.ends[number]]))
        part = parts(self.hashes[:number])
        order = np.argsort(part, kind="stable").astype(np.int32)
        rows = {"word": words.take(pa.array(order)), "count": self.counts[order], "local": order, "part": part[order]}
        keys, counts = self.pairs[self.pairs[:, 0] != 0].T
        first, second = (keys >> np.uint64(32)).astype(np.int64) - 1, keys & np.uint64(0xFFFFFFFF)
        pairs = {"first": first.astype(np.int32), "second": second.astype(np.int32), "count": counts.astype(np.int64)}
        self._new()
        return pa.table(rows), pa.table(pairs)


def parts(keys: NDArray[np.uint64]) -> NDArray[np.uint8]:
    """The part that each key belongs to, in every run."""
    from pairsieve.pipelines.metadata_kernel import part_of

    found = np.empty(len(keys), np.uint8)
    part_of(np.ascontiguousarray(keys), PART_BITS, found)
    return found


def _power(least: int) -> int:
    """The next power of two."""
    return 1 << max(1, least - 1).bit_length()


@dataclass
class Count:
    """Count one bundle of pieces: runs, and a note of what was read, go to ``folder``, and are used if it is there."""

    store: Store
    folder: str
    segmenter: str | None = None
    room: Room = field(default_factory=Room)

    def __call__(self, bundle: Bundle) -> Counted:
        """See the class."""
        note = f"{self.folder}/{bundle.index:05d}.json"
        if self.store.exists(note):
            return Counted(**json.loads(self.store.read(note)))
        found, tally, tables = Counted(), Counter[str](), Tables(self.room)
        for words in self._words(bundle, tally):
            at = 0
            tally["tokens"] += len(words.start)
            while (at := tables.count(words, at)) < len(words.start):
                self._write(bundle.index, tables, found)
        if tables.used[0]:
            self._write(bundle.index, tables, found)
        found.tally = dict(sorted(tally.items()))
        self.store.write_json(note, found.__dict__)
        return found

    def _words(self, bundle: Bundle, tally: "Counter[str]") -> Iterable[Spans]:
        segmenter = None if self.segmenter is None else load_segmenter(self.segmenter)
        for piece in bundle.pieces:
            for texts in read_texts(piece, tally):
                yield spans(texts) if segmenter is None else segmented(texts.to_pylist(), segmenter)

    def _write(self, index: int, tables: Tables, found: Counted) -> None:
        name = f"{self.folder}/{index:05d}.{len(found.runs)}"
        words, pairs = tables.take()
        number = index << 20 | len(found.runs)
        words = words.append_column("run", pa.repeat(pa.scalar(number, pa.int64()), len(words)))
        write_run(self.store, f"{name}.words.parquet", words)
        write_run(self.store, f"{name}.pairs.parquet", pairs)
        found.runs.append(name)
        found.words += len(words)
        found.pairs += len(pairs)


def write_run(store: Store, name: str, table: pa.Table) -> None:
    """Plain values and LZ4: a run is read once, and a dictionary or zstd would take as long as the counting."""
    with store.create(name, exclusive=False) as file:
        pq.write_table(
            table,
            file,
            row_group_size=ROW_GROUP,
            compression="lz4",
            use_dictionary=False,
            write_statistics=[name for name in ("part", "run") if name in table.column_names] or False,
        )
