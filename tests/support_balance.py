"""What tests of the balance share: an engine in little, a literal balance, and pools with the paper's counts."""

from collections import Counter
from collections.abc import Callable, Sequence
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


PAPER_ROWS, PAPER_ENTRIES, PAPER_T = 1_600_000_000, 500_000, 20_000
PAPER_TOP = [120, 107, 100, 89, 87, 67, 67, 61, 54, 50, 48, 47, 45, 43, 43, 39, 38, 33, 30, 29]
"""Millions of texts of the most frequent entries."""
PAPER_MATCHES, PAPER_HEAD = 5.67e9, (0.032, 0.945)
PAPER_ZERO = 0.228


def paper_counts(rows: int, entries: int) -> tuple[NDArray[np.int64], int]:
    """Counts as MetaCLIP's paper gives them for its 1.6 B pairs, in little, and t in the same proportion.

    Given: 22.8 % of entries without a match; 3.2 % above t, with 94.5 % of all matches; the twenty greatest.
    Between them counts follow power laws whose exponents give the sums.  t stands to the mean count as there.
    """
    scale = rows / PAPER_ROWS
    t = round(PAPER_T * scale * PAPER_ENTRIES / entries)
    matches, top = PAPER_MATCHES * scale, np.array(PAPER_TOP) * 1e6 * scale
    head, zero = round(PAPER_HEAD[0] * entries), round(PAPER_ZERO * entries)
    place = np.linspace(0, 1, head - len(top))
    wanted = PAPER_HEAD[1] * matches - top.sum()
    upper = _with_sum(lambda power: (t + 1) * (top[-1] / (t + 1)) ** (place**power), wanted)
    place = np.linspace(0, 1, entries - head - zero)
    lower = _with_sum(lambda power: np.maximum(1, t * place**power), (1 - PAPER_HEAD[1]) * matches)
    return np.concatenate([top, upper[::-1], lower[::-1], np.zeros(zero)]).astype(np.int64), t


def _with_sum(law: Callable[[float], NDArray[np.float64]], wanted: float) -> NDArray[np.float64]:
    """The law whose values have a sum, which falls as its exponent grows."""
    low, high = 0.01, 1000.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if law(middle).sum() > wanted else (low, middle)
    return law(high)


def paper_pairs(rows: int, entries: int, spread: float, seed: int = 0) -> tuple[pa.Table, int]:
    """Match lists of such counts, and t.

    The paper does not say which entries occur together.  Here a text's number of matches is log-normal, at least
    one, 3.5 in the mean, ``spread`` the sigma of its logarithm; which entries these are is a matter of chance.
    """
    chance = np.random.default_rng(seed)
    counts, t = paper_counts(rows, entries)
    ids = np.repeat(np.arange(entries), counts)
    chance.shuffle(ids)
    noise = chance.normal(size=rows)
    sizes = _with_sum(lambda less: np.maximum(1.0, np.rint(np.exp(5 - less + spread * noise))), len(ids)).astype(
        np.int64
    )
    owner = np.repeat(np.arange(rows), sizes)[: len(ids)]
    keys = np.sort(owner * entries + ids[: len(owner)])
    keys = keys[np.diff(keys, prepend=-1) > 0]
    offsets = np.searchsorted(keys, np.arange(rows + 1) * entries).astype(np.int32)
    column = pa.ListArray.from_arrays(offsets, (keys % entries).astype(np.int32))
    return pa.table({"uid": numbered_uids(rows), "matched_entries": column}), t
