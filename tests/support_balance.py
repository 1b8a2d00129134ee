"""What tests of the balance share: an engine in little, a literal balance, and pools with the paper's counts."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pairsieve.filters.metadata_balance import MetadataBalance
from pairsieve.schemas import uid

Lists = Sequence[Sequence[int] | None]


@dataclass(frozen=True)
class Played:
    """What a run of the filter gave, in the order of the rows."""

    settled: dict[str, Any]
    derived: pa.Table
    reasons: list[str | None]
    rounds: int

    @property
    def kept(self) -> NDArray[np.bool_]:
        """The pairs that stay."""
        return np.array([reason is None for reason in self.reasons], np.bool_)


def numbered_uids(rows: int, first: int = 0) -> pa.Array:
    """Distinct uids."""
    return pa.array([f"{i:032x}" for i in range(first, first + rows)], pa.string())


def pairs_of(lists: Sequence[Any], kind: pa.DataType | None = None, column: str = "matched_entries") -> pa.Table:
    """A pool of match lists."""
    return pa.table({"uid": numbered_uids(len(lists)), column: pa.array(lists, kind or pa.list_(pa.int32()))})


def play(
    made: MetadataBalance, pairs: pa.Table, shard_rows: int = 10**9, batch_rows: int = 131_072, shuffle: int = 0
) -> Played:
    """Run the filter as engines do: rounds over batches of shards, merged in some order; then derive and keep."""
    made.check(dict(zip(pairs.schema.names, pairs.schema.types, strict=True)))
    batches = _batches(pairs, shard_rows, batch_rows)
    settled: dict[str, Any] = {}
    rounds = 0
    while not made.is_settled(settled):
        summaries = [made.summarize(batch, settled) for batch in batches]
        if shuffle:
            np.random.default_rng(shuffle + rounds).shuffle(summaries)
        settled = made.settle(reduce(made.merge, summaries), settled)
        rounds += 1
    derived = [pa.record_batch(made.derive(batch, settled)) for batch in batches]
    assert {f.name: f.type for f in derived[0].schema} == made.derived({})
    reasons = [reason for batch in derived for reason in made.keep(batch, settled).to_pylist()]
    return Played(settled, pa.Table.from_batches(derived), reasons, rounds)


def _batches(pairs: pa.Table, shard_rows: int, batch_rows: int) -> list[pa.RecordBatch]:
    whole = pairs.combine_chunks().to_batches() or [pa.RecordBatch.from_pylist([], pairs.schema)]
    found = []
    for start in range(0, max(whole[0].num_rows, 1), shard_rows):
        shard = whole[0].slice(start, shard_rows)
        found += [shard.slice(at, batch_rows) for at in range(0, max(shard.num_rows, 1), batch_rows)]
    return found


def literal_counts(texts: Lists) -> Counter[int]:
    """How many texts match each entry, one text at a time."""
    return Counter(entry for text in texts for entry in set(text or ()))


def literal_probability(text: Sequence[int] | None, counts: Counter[int], t: int) -> float:
    """π of one text in Python's floats: the formulas of the paper, one entry at a time."""
    missed = 1.0
    for entry in sorted(set(text or ())):
        missed *= 1.0 - t / max(counts[entry], t)
    return 1.0 - missed


def literal_size(texts: Lists, t: int) -> int:
    """Σπ in units of 2^-30."""
    counts = literal_counts(texts)
    return sum(int(literal_probability(text, counts, t) * 2**30 + 0.5) for text in texts)


def draw_of(name: str, seed: int) -> float:
    """The number that a pair is drawn with, from the definition."""
    (bits,) = uid.keyed_hash(pa.array([name]), 2**63 + seed).tolist()
    return float((bits >> 11) * 2.0**-53)


def zipfian_lists(rows: int, entries: int, mean: float, seed: int, exponent: float = 1.0) -> list[list[int]]:
    """Match lists, ascending, with head entries in most."""
    chance = np.random.default_rng(seed)
    weights = np.arange(1, entries + 1) ** -exponent
    sizes = chance.poisson(mean, rows)
    drawn = chance.choice(entries, int(sizes.sum()), p=weights / weights.sum())
    return [sorted(set(part.tolist())) for part in np.split(drawn, np.cumsum(sizes)[:-1])]
