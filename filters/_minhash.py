"""MinHash over Arrow strings: signatures equal to datasketch's, and the keys of their bands.

Broder, "On the resemblance and containment of documents" (1997); the permutations are those of datasketch 2
(scheme ``affine32``): h becomes a · mix(h) + b modulo 2^32, where h is the first four bytes of SHA-1, or xxHash32.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pairsieve.filters._normal_text import Normal
from pairsieve.filters._texts import frozen

Unit = Literal["characters", "words"]
Hash = Literal["xxh32", "sha1"]
Numbers = npt.NDArray[np.uint32]
KEYS = pa.list_(pa.uint64())
CHUNK = 1024
"""Texts whose signatures are made, then used: so many stay in the cache."""
LANES = 16
"""Permutations come in multiples of so many to the kernel."""


def permutations(num_perm: int, seed: int) -> tuple[Numbers, Numbers]:
    """The coefficients a (odd) and b of datasketch's permutations, uint32[num_perm] each.

    All of a are drawn before b, so those of another number of permutations are others.
    """
    draw = np.random.RandomState(seed)
    a = draw.randint(0, 2**31, num_perm, dtype=np.uint32) * np.uint32(2) + np.uint32(1)
    return a, draw.randint(0, 2**32, num_perm, dtype=np.uint32)


@dataclass(frozen=True)
class Sketched:
    """What was made of some texts; null for a text without shingles."""

    keys: pa.Array
    """list<uint64>: the hash of the text, then one key for each band."""
    signatures: pa.Array | None
    """fixed_size_list<uint32>[num_perm], where they were wanted."""


@dataclass(frozen=True)
class MinHash:
    """What a signature is made of: shingles of n units, and permutations."""

    unit: Unit
    n: int
    num_perm: int
    hash: Hash
    seed: int

    @cached_property
    def _coefficients(self) -> tuple[Numbers, Numbers]:
        return permutations(self.num_perm, self.seed)

    def signatures(self, texts: Normal) -> Numbers:
        """The signature of each text, uint32[texts, num_perm]; ones where it has no shingle."""
        found = np.empty((len(texts), self.num_perm), np.uint32)
        for part in self._parts(texts, 1, self.num_perm):
            found[part.first : part.first + len(part.texts)] = part.signatures[:, : self.num_perm]
        return found

    def sketch(self, texts: Normal, bands: int, rows: int, least: int, signed: bool) -> Sketched:
        """Keys of each text and, where ``signed``, its signature.

        A text of fewer than ``least`` distinct shingles has one key, the hash of the text: no band.
        """
        from pairsieve.filters import _minhash_kernels

        values, ends = np.empty(len(texts) * (bands + 1), np.uint64), np.zeros(len(texts) + 1, np.int32)
        signatures = np.empty((len(texts) if signed else 0, self.num_perm), np.uint32)
        end = 0
        for part in self._parts(texts, least, self.num_perm if signed else bands * rows):
            own = slice(part.first, part.first + len(part.texts))
            end = _minhash_kernels.keys(
                *(part.texts.data, part.texts.offsets, part.signatures, part.shingles, least, bands, rows),
                *(values, ends[1:][own], end),
            )
            if signed:
                signatures[own] = part.signatures[:, : self.num_perm]
        missing = pa.array(np.diff(ends) == 0)
        keys = pa.ListArray.from_arrays(pa.array(ends), pa.array(values[:end]), type=KEYS, mask=missing)
        return Sketched(keys, fixed_lists(signatures, missing) if signed else None)

    def _parts(self, texts: Normal, enough: int, width: int) -> Iterator["_Part"]:
        """The texts in chunks, with the first ``width`` values of their signatures; each is valid until the next."""
        from pairsieve.filters import _minhash_kernels

        a, b = (_filled(one[:width]) for one in self._coefficients)
        room = np.empty((min(CHUNK, len(texts)), len(a)), np.uint32)
        for first in range(0, len(texts), CHUNK):
            part = Normal(texts.data, texts.offsets[first : first + CHUNK + 1])
            found, shingles = room[: len(part)], np.empty(len(part), np.int64)
            _minhash_kernels.signatures(
                *(part.data, part.offsets, self.unit == "words", self.n, self.hash == "sha1", enough),
                *(a, b, found, shingles),
            )
            yield _Part(first, part, found, shingles)


@dataclass(frozen=True)
class _Part:
    first: int
    texts: Normal
    signatures: Numbers
    shingles: npt.NDArray[np.int64]


def _filled(values: Numbers) -> Numbers:
    """The values, and ones up to a multiple of ``LANES``."""
    return frozen(np.concatenate([values, np.ones(-len(values) % LANES, np.uint32)]))


def fixed_lists(values: Numbers, missing: pa.Array) -> pa.Array:
    """Rows of numbers as lists of a fixed size."""
    return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1], mask=missing)
