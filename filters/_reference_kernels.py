"""Kernels of n-gram overlap, straight over the bytes of captions: keys of n-grams, and how many a set has.

Some 1 µs a caption of 140 bytes.  Imported from ``open`` only: numba costs 0.3 s a process.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import int32, int64, types, uint8, uint32, uint64

from pairsieve.filters._jit import inlined, kernel

_u = np.uint64
SEED, STEP = _u(0xA0761D6478BD642F), _u(0xE7037ED1A0B428DB)
WORD = _u(0x9E3779B97F4A7C13)
"""What a run of words is a polynomial in: 3 modulo 8, so that powers of it differ by a few factors of two at most."""
FIRST, SECOND = _u(0xFF51AFD7ED558CCD), _u(0xC4CEB9FE1A85EC53)
BLANK, OUTSIDE = 1, 0x110000

_bytes = types.Array(uint8, 1, "C", readonly=True)
_places = types.Array(int64, 1, "C", readonly=True)
_letters = types.Array(uint32, 1, "C", readonly=True)
_sorted = types.Array(uint64, 1, "C", readonly=True)
_ids = types.Array(int32, 1, "C", readonly=True)


@inlined
def _mixed(key: Any) -> Any:
    """MurmurHash3's finaliser: every bit of the key moves half of the bits."""
    key = (key ^ (key >> _u(33))) * FIRST
    key = (key ^ (key >> _u(33))) * SECOND
    return key ^ (key >> _u(33))


@inlined
def _point(data: Any, at: Any, end: Any) -> Any:
    """The code point that begins at a place, and where the next one does; ``OUTSIDE`` for bytes that are none."""
    lead = int64(data[at])
    if lead < 0x80:
        return lead, at + 1
    more = 1 if 0xC0 <= lead < 0xE0 else 2 if 0xE0 <= lead < 0xF0 else 3 if lead >= 0xF0 else 0
    if more == 0 or at + more >= end:
        return int64(OUTSIDE), at + 1
    point = lead & (0x3F >> more)
    for i in range(1, more + 1):
        point = point << 6 | (int64(data[at + i]) & 0x3F)
    return min(point, int64(OUTSIDE)), at + 1 + more


@kernel(int64(_bytes, _places, _letters, int64, types.Array(uint64, 1, "C"), types.Array(int64, 1, "C")))
def gram_keys(
    data: npt.NDArray[np.uint8],
    offsets: npt.NDArray[np.int64],
    letters: npt.NDArray[np.uint32],
    n: int,
    keys: npt.NDArray[np.uint64],
    ends: npt.NDArray[np.int64],
) -> int:
    """Write the keys of the n-grams of every text, one after the other; gives their number.

    Text i is ``data[offsets[i] : offsets[i + 1]]``; its keys end at ``ends[i]``.  ``letters`` has for each code point,
    and for ``OUTSIDE``, 0 (left out), 1 (ends a word) or the code point that it counts as.  A text of fewer than n
    words, but one, has one key, of the whole.  ``keys`` has room for half as many as there are bytes, and one a text.
    """
    ring, power, end = np.zeros(n, np.uint64), _u(1), 0
    for _ in range(n):
        power *= WORD
    for i in range(len(offsets) - 1):
        at, last = offsets[i], offsets[i + 1]
        words, place, grams, run = 0, 0, _u(0), SEED
        first = end
        while at <= last:
            kind = uint32(BLANK)
            if at < last:
                point, at = _point(data, at, last)
                kind = letters[point]
            else:
                at += 1
            if kind > BLANK:
                run = (run ^ _u(kind)) * STEP
                run ^= run >> _u(32)
            elif kind == BLANK and run != SEED:
                word, run = _mixed(run), SEED
                old = ring[place] if words >= n else _u(0)
                grams = grams * WORD + word - old * power
                ring[place] = word
                place = place + 1 if place + 1 < n else 0
                words += 1
                if words >= n:
                    keys[end] = _mixed(grams)
                    end += 1
        if end == first and words > 0:
            keys[end] = _mixed(grams)
            end += 1
        ends[i] = end
    return end


@kernel(
    types.void(
        _sorted,
        _places,
        _sorted,
        _places,
        int64,
        _places,
        _ids,
        int64,
        types.Array(int64, 1, "C"),
        types.Array(int32, 1, "C"),
    )
)
def overlaps(
    keys: npt.NDArray[np.uint64],
    ends: npt.NDArray[np.int64],
    known: npt.NDArray[np.uint64],
    starts: npt.NDArray[np.int64],
    shift: int,
    rows: npt.NDArray[np.int64],
    sets: npt.NDArray[np.int32],
    count: int,
    hits: npt.NDArray[np.int64],
    best: npt.NDArray[np.int32],
) -> None:
    """Write for every text how many of its keys the set has that has the most, and that set; 0 and -1 for none.

    ``known`` is sorted, each key once; those with the upper bits b begin at ``starts[b]``, where the lower bits are
    ``shift``.  Known key k is in the sets ``sets[rows[k] : rows[k + 1]]``, of ``count`` sets altogether.
    """
    found, first = np.zeros(count, np.int64), 0
    for i in range(len(ends)):
        total = 0
        for j in range(first, ends[i]):
            key = keys[j]
            bucket = int64(key >> _u(shift))
            at, until = starts[bucket], starts[bucket + 1]
            while at < until and known[at] < key:
                at += 1
            if at < until and known[at] == key:
                for k in range(rows[at], rows[at + 1]):
                    found[sets[k]] += 1
                    total += 1
        first = ends[i]
        hits[i], best[i] = 0, -1
        if total > 0:
            for k in range(count):
                if found[k] > hits[i]:
                    hits[i], best[i] = found[k], k
                found[k] = 0
