"""The nearest perceptual hash of evaluation sets, exactly within a radius, and which set it belongs to.

Few references are all compared.  Many are found by blocks of bits: of two hashes that differ in m·q + a bits at most,
cut into m blocks, one of the first a + 1 blocks differs in q bits at most, or one of the others in q - 1 (Norouzi,
Punjani and Fleet, *Fast Exact Search in Hamming Space with Multi-Index Hashing*, arXiv:1307.2982).  So each block has a
table of the references by value, and all values that are so near are looked up.  How many blocks, and how wide a part
of each makes the table, is chosen by the expected cost.  Memory is 4 bytes a reference and block, and the tables.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from math import comb

import numpy as np
from numpy.typing import NDArray

from pairsieve.filters._hamming import Words
from pairsieve.filters._texts import frozen

PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".avif", ".bmp", ".tif", ".tiff", ".heic", ".jxl")
"""Endings of images, also of some that are not decoded: these are told, not passed over."""
HASHES = (".parquet", ".npy", ".tar", *PICTURES)
WIDEST = {64: 12, 256: 48}
"""The greatest radius by the number of bits: beyond, hashes of different pictures are as near."""
USUAL = {64: 4, 256: 14}
MOST = 1 << 24
"""Hashes of all sets together; more are refused."""
_TABLE_BITS = 20
"""The widest part of a block that makes a table: 4 MB."""
_LOOK, _FETCH, _WORD = 3.0, 6.0, 0.4
"""Nanoseconds to look a value up, to fetch a candidate, and to compare a word."""


@dataclass(frozen=True)
class Kind:
    """What a hash is: its bits, and, of images, whether their mirror images have it too and how JPEGs are decoded."""

    bits: int
    mirrored: bool
    fast: bool


@dataclass(frozen=True)
class Cut:
    """How hashes are cut: blocks of each word (0: compare all), bits of a table, bits that may differ in a block.

    ``near``: the bits that may differ in the first ``first`` blocks, one less in the others (-1: not looked at).
    """

    blocks: int
    width: int
    near: int
    first: int

    def radii(self, words: int) -> list[int]:
        """Bits that may differ, block by block."""
        return [self.near - (i >= self.first) for i in range(self.blocks * words)]


def best_cut(count: int, bits: int, radius: int) -> Cut:
    """The cut of ``count`` references that is expected to cost least."""
    words = bits // 64
    cuts = [Cut(0, 0, 0, 0), *_cuts(words, radius)]
    return min(cuts, key=lambda cut: cost(cut, count, words))


def _cuts(words: int, radius: int) -> Iterator[Cut]:
    for blocks in range(1, 17):
        near, more = divmod(radius, blocks * words)
        for width in range(4, min(64 // blocks, _TABLE_BITS) + 1):
            yield Cut(blocks, width, near, more + 1)


def cost(cut: Cut, count: int, words: int) -> float:
    """Expected nanoseconds a row, were bits independent and even."""
    if not cut.blocks:
        return count * (1 + words) * _WORD
    looks = sum(sum(comb(cut.width, k) for k in range(near + 1)) for near in cut.radii(words))
    look = _LOOK + max(0, cut.width - 14)  # a table that does not stay in the cache
    return float(looks * (look + count / 2**cut.width * (_FETCH + words * _WORD)))


class Hashes:
    """Hashes of evaluation sets; ``find`` is its one job."""

    def __init__(self, hashes: Words, sets: NDArray[np.int32], radius: int) -> None:
        """``hashes`` uint64[n, words], ``sets`` int32[n]: the place of the set of each; of equal ones the first."""
        order = np.lexsort((sets, *hashes.T))
        hashes, sets = hashes[order], sets[order]
        is_first = np.append(True, (hashes[1:] != hashes[:-1]).any(axis=1))[: len(hashes)]
        self.hashes, self.sets = frozen(hashes[is_first]), frozen(sets[is_first])
        self.radius = radius
        self.cut = best_cut(len(self.hashes), 64 * hashes.shape[1], radius)

    def find(self, hashes: Words) -> tuple[NDArray[np.int16], NDArray[np.int32]]:
        """int16[n], the least distance of each of uint64[n, words] to a reference, and int32[n], the place of its set.

        Of equally near ones the first set has it.  Where none is within the radius: radius + 1 and -1.
        """
        from pairsieve.filters import _hash_kernels

        distances, places = np.empty(len(hashes), np.int16), np.empty(len(hashes), np.int32)
        given = frozen(np.array(hashes, np.uint64, order="C")), self.hashes, self.sets, self.radius
        if self.cut.blocks:
            _hash_kernels.compare_likely(*given, *self._tables, distances, places)
        else:
            _hash_kernels.compare_all(*given, distances, places)
        return distances, places

    @cached_property
    def _tables(self) -> tuple[NDArray[np.int64], NDArray[np.uint32], NDArray[np.int32], NDArray[np.int32]]:
        """Blocks, flips, and for every block where the references of each value begin, and these."""
        cut, words = self.cut, self.hashes.shape[1]
        flips = _flips(cut.width, cut.near)
        blocks, starts, members = [], [], []
        for i, near in enumerate(cut.radii(words)):
            if near < 0:
                continue
            word, right = i % words, i // words * (64 // cut.blocks)
            blocks.append((word, right, cut.width, sum(comb(cut.width, k) for k in range(near + 1))))
            values = self.hashes[:, word] >> np.uint64(right) & np.uint64(2**cut.width - 1)
            counts = np.bincount(values.astype(np.int64), minlength=2**cut.width)
            starts.append(np.concatenate([[0], np.cumsum(counts)]).astype(np.int32))
            members.append(np.argsort(values, kind="stable").astype(np.int32))
        return (
            frozen(np.array(blocks, np.int64)),
            frozen(flips),
            frozen(np.array(starts)),
            frozen(np.array(members)),
        )


def _flips(width: int, near: int) -> NDArray[np.uint32]:
    """Masks of up to ``near`` of so many bits, those of fewer first."""
    chosen = (bits for count in range(near + 1) for bits in combinations(range(width), count))
    return np.array([sum(1 << bit for bit in bits) for bits in chosen], np.uint32)
