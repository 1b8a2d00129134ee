"""Keys of bit strings, so that any two within a Hamming distance share one, and the distances themselves.

A key is some of the bits, by a mask.  Up to 4 differences in 64 bits, or 15 in 256, no pair is missed: the bits are
dealt to parts, of which one holds at most ``radius / parts`` of the differences, and each part has masks that cover
so many (Pagh, *CoveringLSH: Locality-sensitive Hashing without False Negatives*, arXiv:1602.05347): its bits are
given vectors of r + 1 bits, and for every such vector v but zero a mask takes the bits whose vectors have an odd
product with v.  Any r vectors leave a v that is orthogonal to all of them, so its mask avoids all the differences.
For a radius of 4 in 64 bits that is 31 masks of 33 bits; plain blocks would be 5 of 13 bits, or 35 of 27.

Long keys are what matters, since only the best of those that share one is compared with the others: of 200,000
random hashes, a fifth near another, 31 masks of 33 bits link 99.7 % of the near pairs in 0.2 CPU-seconds, 5 blocks
of 13 bits 13 % in 9.  Farther apart, up to 31 in 256 bits, keys that miss nothing would be too short; three times 12
blocks of 21 bits find most: see ``chance``.
"""

from functools import cache

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint64]
Flags = NDArray[np.bool_]

MOST_KEYS = 36
SHORTEST = 20
"""Bits of a key: a million pairs then share it with one other each, were hashes random."""
WIDEST = {64: 4, 256: 31}
"""The greatest radius that has keys, by the number of bits."""
_CUTS = (1, 77, 149)  # odd: i -> a·i mod 256 is a permutation
_MIX = np.array([0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB, 0xD6E8FEB86659FD93], np.uint64)


@cache
def masks(bits: int, radius: int) -> Flags:
    """Which bits each key takes, bool[keys, bits]."""
    parts = _parts(bits, radius)
    if parts is None:
        return _blocks(bits)
    covering = radius // parts + 1
    place = np.arange(bits)
    vector = 1 + place // parts % (2**covering - 1)
    odd = [np.bitwise_count(vector & v) % 2 == 1 for v in range(1, 2**covering)]
    return np.array([row & (place % parts == part) for part in range(parts) for row in odd])


def _parts(bits: int, radius: int) -> int | None:
    """The number of parts whose masks are longest; null where they would be too many or too short."""
    lengths = {}
    for parts in range(1, radius + 2):
        vectors = 2 ** (radius // parts + 1)
        if parts * (vectors - 1) <= MOST_KEYS:
            lengths[parts] = bits / parts * (vectors // 2) / (vectors - 1)
    longest = max(lengths, key=lambda parts: lengths[parts])
    return longest if lengths[longest] >= SHORTEST else None


def _blocks(bits: int) -> Flags:
    """Three ways to cut the bits into twelve blocks."""
    place = np.arange(bits)
    return np.array([place * odd % bits % 12 == block for odd in _CUTS for block in range(12)])


def chance(bits: int, radius: int, distance: int) -> float:
    """The share of pairs of a distance that have a key in common, were their differences anywhere.

    Blocks are counted as independent; those of one cut are better than that, as differences in one are in no other.
    """
    if _parts(bits, radius) is not None:
        return float(distance <= radius)
    missed = 1.0
    for mask in masks(bits, radius):
        spared = [(bits - int(mask.sum()) - i) / (bits - i) for i in range(distance)]
        missed *= 1 - float(np.prod(spared))
    return 1 - missed


def words(hashes: NDArray[np.uint8]) -> Words:
    """Bytes as uint64[n, words], the first byte highest."""
    return np.ascontiguousarray(hashes).view(">u8").astype(np.uint64)


def keys(hashes: Words, taken: Flags, mirror: Words | None = None) -> Words:
    """Keys of uint64[n, words], uint64[n, keys]; with ``mirror`` the same ones for a hash and the hash xor that."""
    found = _masked(hashes, taken)
    return found if mirror is None else np.minimum(found, _masked(hashes ^ mirror, taken))


def _masked(hashes: Words, taken: Flags) -> Words:
    """The bits under each mask; of longer hashes a mix of them, so that other bits are another key but for chance."""
    mask = words(np.packbits(taken, axis=1))
    if hashes.shape[1] == 1:
        return hashes & mask[:, 0]
    found = np.zeros((len(hashes), len(mask)), np.uint64)
    for i, multiplier in enumerate(_MIX[: hashes.shape[1]]):
        found = (found ^ (hashes[:, i, None] & mask[:, i])) * multiplier
        found ^= found >> np.uint64(31)
    return found


def distances(one: Words, other: Words) -> NDArray[np.int64]:
    """Bits in which the rows of uint64[n, words] differ, int64[n]."""
    return np.asarray(np.bitwise_count(one ^ other).sum(axis=1, dtype=np.int64))
