"""Kernels that find entries as runs of words, straight over the bytes of captions: the table, and matching.

After a caption is spaced, ``" entry "`` is a part of it exactly where the words of the entry, cut at every single
space, are a run of the words of the caption.  So each word is looked up once, and longer entries are followed
along a trie.  A block of words is cut and hashed first, and its slots asked for, so that they are near when
they are read.

The table has a slot of 16 bytes for each word of an entry, in buckets of four, then one for each step of the trie.
A node is a slot.  ``sieve`` has bits where steps may be, 16 for each, so that few steps are looked for in vain.
* Key of a word of at most 7 bytes: the bytes and the size, so it is exact.  Of a longer one: 56 bits of its hash;
  the bytes are compared with those in ``long``.  Key of a step: the node it leads from, the word it reads.
* Value: the entry that ends here, or where the chain of equal entries begins; whether the trie goes on; for a longer
  word, its place in ``long``.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import int32, int64, types, uint8, uint64

from pairsieve.filters._jit import inlined, kernel
from pairsieve.filters._match_hits import CHAINED, ENTRY, FEW, add_entry, emit, finished, roomy
from pairsieve.filters._match_instructions import blanks_of, byte_at, first_bit, folded, load, marks_of, prefetch

PADDING = 64
"""Bytes that must be readable behind the last word."""
_u = np.uint64
GOES_ON = _u(2**31)
"""Of the lower half of a value, besides the entry: whether the trie goes on."""
LOWER = _u(2**32 - 1)
LONG = _u(0xFF << 56)
"""The upper byte of a longer word's key: a short one has its size plus 1 there."""
SHORTEST_LONG = 8
SEED, OTHER_SEED, STEP = _u(0xA0761D6478BD642F), _u(0xE7037ED1A0B428DB), _u(0x8EBC6AF09C88C6E3)
LOW_BYTES = np.array([2 ** (8 * min(n, 8)) - 1 for n in range(17)], np.uint64)
HIGH_BYTES = np.array([2 ** (8 * max(n - 8, 0)) - 1 for n in range(17)], np.uint64)
BLANKS, MARKS = b"\t\n\r", b",.;:?!`"
BLOCK = 512
NOWHERE = ~_u(0)
"""The slot of a word that no entry has."""
SPARE = 2 * 64 + 3
"""Most words of 64 bytes, and the end of a caption."""

_bytes = types.Array(uint8, 1, "C", readonly=True)
_places = types.Array(int64, 1, "C", readonly=True)
_ids = types.Array(int32, 1, "C", readonly=True)
_table = types.Array(uint64, 1, "C", readonly=True)
_written = types.Array(uint64, 1, "C")
_links = types.Array(int32, 1, "C")


# --- words ---


@inlined
def _key(place: Any, size: Any) -> Any:
    """Key and hash of the word at an address."""
    whole = min(size, 16)
    low, high = load(place) & LOW_BYTES[whole], load(place + 8) & HIGH_BYTES[whole]
    if size > 16:
        for at in range(16, size - 8, 8):
            high = folded(high ^ load(place + at), STEP)
        high = folded(high ^ load(place + size - 8), OTHER_SEED)
    hashed = folded(low ^ SEED, high ^ OTHER_SEED ^ _u(size) * STEP)
    key = low | _u(size + 1) << _u(56) if size < SHORTEST_LONG else hashed | LONG
    return key, hashed


@inlined
def _equal(place: Any, size: Any, long: Any, at: Any) -> Any:
    """Whether the word at an address is the one in ``long``: its size, then its bytes, zeros behind them."""
    if long[at] != _u(size):
        return False
    for i in range(size >> 3):
        if load(place + 8 * i) != long[at + _u(1 + i)]:
            return False
    rest = size & 7
    return rest == 0 or load(place + size - rest) & LOW_BYTES[rest] == long[at + _u(1 + (size >> 3))]


@inlined
def _first_slot(hashed: Any, words: Any) -> Any:
    """The first slot of a word's bucket: four slots, a line of the cache."""
    return (hashed >> _u(30)) & (words - _u(4))


@inlined
def _find(key: Any, place: Any, size: Any, at: Any, words: Any, table: Any, long: Any) -> Any:
    """The slot of a word, from its bucket on; or the empty one where it would be.  Buckets fill from the left."""
    while True:
        found = table[at << _u(1)]
        if found == key and (key < LONG or _equal(place, size, long, table[at << _u(1) | _u(1)] >> _u(32))):
            return at
        if found == 0:
            return at
        at = (at + _u(1)) & (words - _u(1))


@inlined
def _same(one: Any, other: Any, bit: Any) -> Any:
    return _u(one == other) << _u(bit)


@inlined
def _find_surely(key: Any, place: Any, size: Any, at: Any, words: Any, table: Any, long: Any) -> Any:
    """As ``_find`` from any slot of the bucket on, and ``NOWHERE`` where the word is not there."""
    at = _find(key, place, size, at & ~_u(3), words, table, long)
    return NOWHERE if table[at << _u(1)] == 0 else at


@inlined
def _find_likely(key: Any, place: Any, size: Any, at: Any, words: Any, table: Any, long: Any) -> Any:
    """The same for a short word; of a longer one the bytes are not compared yet.

    The four keys of the bucket are compared at once, without a branch.
    """
    to = at << _u(1)
    last = table[to + _u(6)]
    equal = _same(table[to], key, 0) | _same(table[to + _u(2)], key, 1)
    equal |= _same(table[to + _u(4)], key, 2) | _same(last, key, 3)
    if equal != 0:
        return at + _u(first_bit(equal))
    return NOWHERE if last == 0 else _find_surely(key, place, size, at, words, table, long)


@inlined
def _step_hash(node: Any, word: Any) -> Any:
    return folded(((node + _u(1)) << _u(32) | word) ^ SEED, STEP)


@inlined
def _find_step(node: Any, word: Any, hashed: Any, words: Any, steps: Any, table: Any) -> Any:
    """The slot of a step of the trie, or the empty one where it would be."""
    key = (node + _u(1)) << _u(32) | word
    at = hashed & (steps - _u(1))
    while True:
        found = table[(words + at) << _u(1)]
        if found == key or found == 0:
            return words + at
        at = (at + _u(1)) & (steps - _u(1))


@inlined
def _sieve_place(hashed: Any, steps: Any) -> Any:
    """The bit of the sieve that is set where there may be such a step: 8 bits a slot."""
    return (hashed >> _u(32)) & (steps * _u(8) - _u(1))


# --- the table ---


@inlined
def _is_dead(place: Any, size: Any) -> Any:
    """Whether no caption can hold an entry: it has a tab, CR or LF, or a mark beside something but a space."""
    for i in range(size):
        byte = byte_at(place + i)
        for blank in BLANKS:
            if byte == blank:
                return True
        for mark in MARKS:
            if byte == mark and (
                (i > 0 and byte_at(place + i - 1) != 32) or (i + 1 < size and byte_at(place + i + 1) != 32)
            ):
                return True
    return False


@inlined
def _add_word(place: Any, size: Any, words: Any, table: Any, long: Any, counts: Any) -> Any:
    """The slot of a word, which is put there where it is new."""
    key, hashed = _key(place, size)
    at = _find(key, place, size, _first_slot(hashed, words), words, table, long)
    if table[at << _u(1)] == 0:
        table[at << _u(1)] = key
        counts[0] += 1
        if size >= SHORTEST_LONG:
            start = counts[3]
            table[at << _u(1) | _u(1)] = _u(start) << _u(32)
            long[start] = size
            for i in range(0, size - 7, 8):
                long[start + 1 + (i >> 3)] = load(place + i)
            rest = size & 7
            if rest:
                long[start + 1 + (size >> 3)] = load(place + size - rest) & LOW_BYTES[rest]
            counts[3] += 1 + ((size + 7) >> 3)
    return at


@kernel(types.void(_bytes, _places, _ids, uint64, uint64, _written, _written, _written, _links, int64[::1]))
def build(
    data: npt.NDArray[np.uint8],
    offsets: npt.NDArray[np.int64],
    ids: npt.NDArray[np.int32],
    words: Any,
    steps: Any,
    table: npt.NDArray[np.uint64],
    sieve: npt.NDArray[np.uint64],
    long: npt.NDArray[np.uint64],
    chain: npt.NDArray[np.int32],
    counts: npt.NDArray[np.int64],
) -> None:
    """Fill an empty table with the entries ``ids``; entry i is ``data[offsets[i] : offsets[i + 1]]``.

    The table has ``words`` + ``steps`` slots, both powers of two.  ``counts`` becomes: words, steps, links of chains,
    numbers used of ``long``, most words of an entry.
    """
    base = np.int64(data.ctypes.data)
    for i in range(len(ids)):
        entry = ids[i]
        place, end = base + offsets[entry], base + offsets[entry + 1]
        if _is_dead(place, end - place):
            continue
        node, depth, at = _u(0), 0, place
        while at <= end:
            stop = at
            while stop < end and byte_at(stop) != 32:
                stop += 1
            word = _add_word(at, stop - at, words, table, long, counts)
            if depth:
                table[node << _u(1) | _u(1)] |= GOES_ON
                hashed = _step_hash(node, word)
                step = _find_step(node, word, hashed, words, steps, table)
                if table[step << _u(1)] == 0:
                    table[step << _u(1)] = (node + _u(1)) << _u(32) | word
                    bit = _sieve_place(hashed, steps)
                    sieve[bit >> _u(6)] |= _u(1) << (bit & _u(63))
                    counts[1] += 1
                node = step
            else:
                node = word
            depth += 1
            at = stop + 1
        counts[4] = max(counts[4], depth)
        add_entry(entry, node << _u(1) | _u(1), table, chain, counts, 2)


# --- matching ---


@kernel(
    types.Tuple((_links, int64))(
        *(_bytes, _places, uint64, uint64, int64, _table, _table, _table, _ids, int64, _links, _links),
    )
)
def match(
    data: npt.NDArray[np.uint8],
    offsets: npt.NDArray[np.int64],
    words: Any,
    steps: Any,
    depth: int,
    table: npt.NDArray[np.uint64],
    sieve: npt.NDArray[np.uint64],
    long: npt.NDArray[np.uint64],
    chain: npt.NDArray[np.int32],
    entries: int,
    rows: npt.NDArray[np.int32],
    out: npt.NDArray[np.int32],
) -> tuple[npt.NDArray[np.int32], int]:
    """Entries of each caption ``data[offsets[i] : offsets[i + 1]]``, ascending; and how many there are in all.

    ``data`` goes on for ``PADDING`` bytes.  Those of caption i are ``found[rows[i] : rows[i + 1]]``, and ``found`` is
    ``out`` or a larger array; entries are below ``entries``.
    """
    texts = len(offsets) - 1
    base, slots, longs = np.int64(data.ctypes.data), np.int64(table.ctypes.data), np.int64(long.ctypes.data)
    room = max(BLOCK, 2 * depth) + SPARE
    keys, slot = np.empty(room, np.uint64), np.empty(room, np.uint64)
    hashes, goes_on = np.zeros(room, np.uint64), np.zeros(room, np.uint64)
    place, size, value = np.empty(room, np.int64), np.empty(room, np.int64), np.empty(room, np.uint64)
    bits = np.zeros((entries >> 6) + 1, np.uint64)
    filled = np.zeros((len(bits) >> 6) + 1, np.uint64)
    text, count, held, done = 0, 0, 0, 0
    first: Any = 0
    end: Any = 0
    spilled = False
    rows[0] = 0
    out = roomy(out, 0, 0)
    at = start = stop = base
    if texts:
        at = start = base + offsets[0]
        stop = base + offsets[1]
    while text < texts or count > 0:
        # 1. cut captions into words, and ask for their slots
        while text < texts and count + SPARE <= room:
            blank, mark = blanks_of(at), marks_of(at)
            cuts = blank | mark
            if stop - at < 64:
                cuts &= (_u(1) << _u(stop - at)) - _u(1)
            while cuts != 0:
                bit = first_bit(cuts)
                here = at + bit
                keys[count], hashed = _key(start, here - start)
                slot[count] = _first_slot(hashed, words)
                prefetch(slots + 16 * np.int64(slot[count]))
                place[count], size[count] = start, here - start
                count += 1
                if (mark >> _u(bit)) & _u(1):
                    keys[count], hashed = _key(here, 1)
                    slot[count] = _first_slot(hashed, words)
                    place[count], size[count] = here, 1
                    count += 1
                cuts &= cuts - _u(1)
                start = here + 1
            at += 64
            if at >= stop:
                keys[count], hashed = _key(start, stop - start)
                slot[count] = _first_slot(hashed, words)
                prefetch(slots + 16 * np.int64(slot[count]))
                place[count], size[count] = start, stop - start
                keys[count + 1] = 0
                count += 2
                text += 1
                if text < texts:
                    at = start = base + offsets[text]
                    stop = base + offsets[text + 1]
        # 2. look the words up, and ask for the steps that there may be between them
        for i in range(held, count):
            slot[i] = _find_likely(keys[i], place[i], size[i], slot[i], words, table, long) if keys[i] else NOWHERE
            if keys[i] >= LONG and slot[i] != NOWHERE:
                prefetch(longs + 8 * np.int64(table[slot[i] << _u(1) | _u(1)] >> _u(32)))
        for i in range(held, count):
            at_slot = slot[i]
            is_long = keys[i] >= LONG and at_slot != NOWHERE
            if is_long and not _equal(place[i], size[i], long, table[at_slot << _u(1) | _u(1)] >> _u(32)):
                at_slot = _find_surely(keys[i], place[i], size[i], at_slot, words, table, long)
                slot[i] = at_slot
            value[i] = table[at_slot << _u(1) | _u(1)] & LOWER if at_slot != NOWHERE else _u(0)
            if i > 0:
                hashed = _step_hash(slot[i - 1], slot[i])
                bit = _sieve_place(hashed, steps)
                known = (value[i - 1] >> _u(31)) & _u(slot[i] != NOWHERE) & (sieve[bit >> _u(6)] >> (bit & _u(63)))
                goes_on[i - 1], hashes[i] = known & _u(1), hashed
                if known & _u(1) != 0:
                    prefetch(slots + 16 * np.int64(words + (hashed & (steps - _u(1)))))
        # 3. note the words that are entries, and follow the trie where it may go on
        until = count if keys[count - 1] == 0 else count - depth + 1
        for i in range(until):
            if keys[i] == 0:
                out, end = finished(out, first, end, bits, filled, spilled)
                done += 1
                rows[done] = end
                first, spilled = end, False
                continue
            now = value[i]
            if now & CHAINED != 0 or end - first == FEW:
                end, spilled = emit(now, chain, out, first, end, bits, filled, spilled)
            else:
                out[end] = np.int64(now & ENTRY) - 1
                end += np.int64(now & ENTRY != 0)
            if goes_on[i] == 0:
                continue
            node, j = slot[i], i + 1
            while now & GOES_ON != 0 and slot[j] != NOWHERE:
                hashed = hashes[j] if j == i + 1 else _step_hash(node, slot[j])
                node = _find_step(node, slot[j], hashed, words, steps, table)
                if table[node << _u(1)] == 0:
                    break
                now = table[node << _u(1) | _u(1)]
                end, spilled = emit(now, chain, out, first, end, bits, filled, spilled)
                j += 1
        held = count - until
        for i in range(held):
            keys[i], slot[i] = keys[until + i], slot[until + i]
            value[i], hashes[i], goes_on[i] = value[until + i], hashes[until + i], goes_on[until + i]
        count = held
    return out, end
