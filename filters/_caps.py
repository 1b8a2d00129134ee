"""Counts of items and the limits of a cap, from mergeable summaries.

An item is a 64-bit key: an id, or a hash of a string.  Of the pairs that have an item, those with the
smallest keyed hashes of (pair, item) are chosen; the limit is the ``most``-th smallest, found exactly by a
radix search of 8 bits a round over all items that are over the cap, at most eight rounds.
About 0.1 µs an item and round; a summary is 16 bytes for each key seen.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash
from numpy.typing import NDArray

from pairsieve.schemas import uid

Keys = NDArray[np.uint64]
DIGIT = np.uint64(8)
BINS = 256


@dataclass(frozen=True)
class Tally:
    """Counts by key, in pieces that are put together when they have doubled: merging n pairs costs n log n.

    Keys of a piece are distinct and ascending.  Sums are of integers, so the order of merging does not matter.
    """

    pieces: tuple[tuple[Keys, NDArray[np.int64]], ...]
    rows: int = 0

    @classmethod
    def of(cls, keys: Keys, rows: int = 0) -> "Tally":
        """Each key counted once for each time it is there."""
        found, counts = np.unique(keys, return_counts=True)
        return cls(((found, counts.astype(np.int64)),), rows)

    def __add__(self, other: "Tally") -> "Tally":
        pieces = sorted((*self.pieces, *other.pieces), key=lambda piece: -len(piece[0]))
        while len(pieces) > 1 and 2 * len(pieces[-1][0]) > len(pieces[-2][0]):
            pieces[-2:] = [_sum(pieces[-2:])]
        return Tally(tuple(pieces), self.rows + other.rows)

    def counts(self) -> tuple[Keys, NDArray[np.int64]]:
        """All keys, ascending, and their counts."""
        return _sum(self.pieces)


def _sum(pieces: Sequence[tuple[Keys, NDArray[np.int64]]]) -> tuple[Keys, NDArray[np.int64]]:
    keys = np.concatenate([keys for keys, _ in pieces])
    counts = np.concatenate([counts for _, counts in pieces])
    order = np.argsort(keys, kind="stable")
    keys, counts = keys[order], counts[order]
    firsts = np.flatnonzero(np.concatenate(([True], keys[1:] != keys[:-1]))) if len(keys) else np.empty(0, np.intp)
    return keys[firsts], np.add.reduceat(counts, firsts) if len(keys) else counts


@dataclass(frozen=True)
class Items:
    """The distinct items of some pairs: the pair of each, and its key."""

    pair: NDArray[np.int64]
    key: Keys

    @classmethod
    def of(cls, lists: pa.Array) -> "Items":
        """The items of a column of lists of integers or strings; nulls are no items."""
        pair = pc.list_parent_indices(lists)
        values = pc.list_flatten(lists)
        there = pc.is_valid(values)
        pairs = pc.filter(pair, there).to_numpy(zero_copy_only=False).astype(np.int64)
        keys = _keys(pc.filter(values, there))
        order = np.lexsort((keys, pairs))
        pairs, keys = pairs[order], keys[order]
        new = np.ones(len(keys), bool)
        new[1:] = (pairs[1:] != pairs[:-1]) | (keys[1:] != keys[:-1])
        return cls(pairs[new], keys[new])

    def draws(self, uids: pa.Array, seed: int) -> Keys:
        """64 random-looking bits for each (seed, uid, item)."""
        return uid.item_hash(uid.keyed_hash(uids, seed)[self.pair], self.key)


def _keys(values: pa.Array) -> Keys:
    """Integers as they are, strings as XXH3: two of 10^7 are one with a chance of 3 in a million."""
    if pa.types.is_integer(values.type):
        return np.asarray(values.cast(pa.int64()).to_numpy(zero_copy_only=False)).view(np.uint64)
    encoded = values.dictionary_encode()
    hashes = [xxhash.xxh3_64_intdigest(text.encode()) for text in encoded.dictionary.to_pylist()]
    return np.asarray(np.array(hashes, np.uint64)[encoded.indices.to_numpy(zero_copy_only=False)])


def digits(draws: Keys, place: NDArray[np.intp], prefix: Keys, depth: int) -> Keys:
    """Keys of a radix round: (item over the cap, next digit) of draws that begin with the item's digits so far."""
    below = np.uint64(64 - 8 * depth)
    is_on = np.ones(len(draws), bool) if not depth else (draws >> below) == prefix[place]
    digit = (draws[is_on] >> np.uint64(64 - 8 * (depth + 1))) & np.uint64(BINS - 1)
    return np.asarray(place[is_on].astype(np.uint64) * np.uint64(BINS) + digit)


def next_digits(
    tally: Tally, ranks: NDArray[np.int64], prefix: Keys
) -> tuple[NDArray[np.int64], Keys, NDArray[np.int64]]:
    """One more digit for each item: new ranks below it, longer prefixes, and how many draws begin with them."""
    table = np.zeros((len(ranks), BINS), np.int64)
    keys, counts = tally.counts()
    table.ravel()[keys.astype(np.int64)] = counts
    ends = np.cumsum(table, axis=1)
    digit = (ends <= ranks[:, None]).sum(axis=1)
    at = np.arange(len(ranks))
    return ranks - (ends - table)[at, digit], (prefix << DIGIT) | digit.astype(np.uint64), table[at, digit]


def limits(prefix: Keys, depth: int) -> Keys:
    """The greatest draw that begins with each prefix."""
    rest = 64 - 8 * depth
    return np.asarray((prefix << np.uint64(rest)) | np.uint64((1 << rest) - 1)) if rest else prefix
