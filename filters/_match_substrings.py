"""Kernels that find entries anywhere in captions: an Aho-Corasick automaton (1975) over characters of UTF-8.

For entries that begin or end without a space.  A symbol is a character's bytes, as a number; captions are spaced on
the way in, never copied.  Steps of the trie lie in a hash table of 16-byte slots, so the automaton is small for any
alphabet: key (state + 1) · 2^32 + symbol, value: the state it leads to, and in the upper half the nearest state from
there along the failure links where an entry ends, or 0.  A state has two numbers: failure link, next state along the
links where an entry ends; and the entry.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import int32, int64, types, uint8, uint64

from pairsieve.filters._jit import inlined, kernel
from pairsieve.filters._match_hits import ENTRY, add_entry, emit, finished, roomy
from pairsieve.filters._match_instructions import byte_at, folded, load

_u = np.uint64
SEED, STEP = _u(0xA0761D6478BD642F), _u(0x8EBC6AF09C88C6E3)
LOWER = _u(2**32 - 1)
LOW_BYTES = np.array([2 ** (8 * n) - 1 for n in range(5)], np.uint64)
SPACE = 32
_KINDS = np.zeros(256, np.uint8)
_KINDS[list(b"\t\n\r")] = 1
_KINDS[list(b",.;:?!`")] = 2
_SIZES = np.ones(256, np.uint8)
_SIZES[0xC0:0xE0], _SIZES[0xE0:0xF0], _SIZES[0xF0:0xF8] = 2, 3, 4
KINDS, SIZES = _KINDS, _SIZES
"""Of each byte: 1 a blank that becomes a space, 2 a mark that gets spaces on both sides; bytes of its character."""

_bytes = types.Array(uint8, 1, "C", readonly=True)
_places = types.Array(int64, 1, "C", readonly=True)
_ids = types.Array(int32, 1, "C", readonly=True)
_table = types.Array(uint64, 1, "C", readonly=True)
_written = types.Array(uint64, 1, "C")
_counts = types.Array(int64, 1, "C")
_links = types.Array(int32, 1, "C")


@inlined
def _symbol(place: Any, stop: Any) -> Any:
    """The character at an address, as a number, and its bytes."""
    size = min(np.int64(SIZES[byte_at(place)]), stop - place)
    return load(place) & LOW_BYTES[size], size


@inlined
def _find(state: Any, symbol: Any, steps: Any, table: Any) -> Any:
    """The slot of a step, or the empty one where it would be."""
    key = (state + _u(1)) << _u(32) | symbol
    at = folded(key ^ SEED, STEP) & (steps - _u(1))
    while True:
        found = table[at << _u(1)]
        if found == key or found == 0:
            return at
        at = (at + _u(1)) & (steps - _u(1))


@inlined
def _go(state: Any, symbol: Any, steps: Any, table: Any, states: Any) -> Any:
    """Where a symbol leads: the value of the step, of the nearest state along the failure links that has one."""
    while True:
        at = _find(state, symbol, steps, table)
        if table[at << _u(1)] != 0:
            return table[at << _u(1) | _u(1)]
        if state == 0:
            return _u(0)
        state = states[state << _u(1)] & LOWER


# --- the automaton ---


@inlined
def _grow_trie(state: Any, symbol: Any, steps: Any, table: Any, origin: Any, counts: Any) -> Any:
    """The state that a step leads to, a new one where there is none."""
    at = _find(state, symbol, steps, table)
    if table[at << _u(1)] == 0:
        made = counts[0]
        table[at << _u(1)] = (state + _u(1)) << _u(32) | symbol
        table[at << _u(1) | _u(1)] = _u(made)
        origin[made] = state << _u(32) | symbol
        counts[0] = made + 1
    return table[at << _u(1) | _u(1)]


@inlined
def _by_depth(origin: Any, count: Any) -> Any:
    """States in the order of their depth: parents were made before their children."""
    depth = np.zeros(count, np.int64)
    for state in range(1, count):
        depth[state] = depth[np.int64(origin[state] >> _u(32))] + 1
    return np.argsort(depth, kind="mergesort")


@kernel(types.void(_bytes, _places, _ids, _bytes, uint64, _written, _written, _written, _links, _counts))
def build(
    data: npt.NDArray[np.uint8],
    offsets: npt.NDArray[np.int64],
    ids: npt.NDArray[np.int32],
    ends: npt.NDArray[np.uint8],
    steps: Any,
    table: npt.NDArray[np.uint64],
    states: npt.NDArray[np.uint64],
    origin: npt.NDArray[np.uint64],
    chain: npt.NDArray[np.int32],
    counts: npt.NDArray[np.int64],
) -> None:
    """Fill empty arrays with the entries ``ids``; entry i is ``data[offsets[i] : offsets[i + 1]]``.

    ``ends[i]`` says what is put around it: 1 a space before it, 2 one behind it, 3 both.  The table has ``steps``
    slots, a power of two.  ``counts`` becomes: states, links of chains.
    """
    base = np.int64(data.ctypes.data)
    counts[0] = 1
    for i in range(len(ids)):
        entry = ids[i]
        place, stop = base + offsets[entry], base + offsets[entry + 1]
        state = _u(0)
        if ends[entry] & 1:
            state = _grow_trie(state, _u(SPACE), steps, table, origin, counts)
        while place < stop:
            symbol, size = _symbol(place, stop)
            state = _grow_trie(state, symbol, steps, table, origin, counts)
            place += size
        if ends[entry] & 2:
            state = _grow_trie(state, _u(SPACE), steps, table, origin, counts)
        add_entry(entry, state << _u(1) | _u(1), states, chain, counts, 1)
    for node in _by_depth(origin, counts[0])[1:]:
        parent, symbol = origin[node] >> _u(32), origin[node] & LOWER
        fails = _u(0)
        if parent != 0:
            fails = _go(states[parent << _u(1)] & LOWER, symbol, steps, table, states) & LOWER
        is_end = states[2 * fails + 1] & ENTRY != 0
        after = fails if is_end else states[2 * fails] >> _u(32)
        states[2 * node] = after << _u(32) | fails
    for at in range(steps):
        if table[2 * at] != 0:
            to = table[2 * at + 1]
            is_end = states[2 * to + 1] & ENTRY != 0
            table[2 * at + 1] = to | (to if is_end else states[2 * to] >> _u(32)) << _u(32)


# --- matching ---


@inlined
def _take(symbol: Any, state: Any, tables: Any, hits: Any, first: Any, end: Any, spilled: Any) -> Any:
    """Go on by one symbol and note what ends there; the state, the hits."""
    steps, table, states, starts = tables
    chain, out, bits, filled = hits
    value = starts[symbol] if state == 0 and symbol < 128 else _go(state, symbol, steps, table, states)
    ending = value >> _u(32)
    while ending != 0:
        end, spilled = emit(states[ending << _u(1) | _u(1)], chain, out, first, end, bits, filled, spilled)
        ending = states[ending << _u(1)] >> _u(32)
    return value & LOWER, end, spilled


@kernel(
    types.Tuple((types.Array(int32, 1, "C"), int64))(
        *(_bytes, _places, uint64, _table, _table, _ids, int64),
        *(types.Array(int32, 1, "C"), types.Array(int32, 1, "C")),
    )
)
def match(
    data: npt.NDArray[np.uint8],
    offsets: npt.NDArray[np.int64],
    steps: Any,
    table: npt.NDArray[np.uint64],
    states: npt.NDArray[np.uint64],
    chain: npt.NDArray[np.int32],
    entries: int,
    rows: npt.NDArray[np.int32],
    out: npt.NDArray[np.int32],
) -> tuple[npt.NDArray[np.int32], int]:
    """As ``_match_words.match``: entries of each caption, ascending, and how many there are in all."""
    base = np.int64(data.ctypes.data)
    bits = np.zeros((entries >> 6) + 1, np.uint64)
    filled = np.zeros((len(bits) >> 6) + 1, np.uint64)
    starts = np.zeros(128, np.uint64)
    for byte in range(128):
        starts[byte] = _go(_u(0), _u(byte), steps, table, states)
    tables = steps, table, states, starts
    end: Any = 0
    out = roomy(out, 0, 0)
    rows[0] = 0
    for text in range(len(offsets) - 1):
        hits = chain, out, bits, filled
        first, spilled = end, False
        place, stop = base + offsets[text], base + offsets[text + 1]
        state = _u(0)
        state, end, spilled = _take(_u(SPACE), state, tables, hits, first, end, spilled)
        while place < stop:
            symbol, size = _symbol(place, stop)
            kind = KINDS[byte_at(place)]
            place += size
            if kind == 1:
                symbol = _u(SPACE)
            elif kind == 2:
                state, end, spilled = _take(_u(SPACE), state, tables, hits, first, end, spilled)
            state, end, spilled = _take(symbol, state, tables, hits, first, end, spilled)
            if kind == 2:
                state, end, spilled = _take(_u(SPACE), state, tables, hits, first, end, spilled)
        state, end, spilled = _take(_u(SPACE), state, tables, hits, first, end, spilled)
        out, end = finished(out, first, end, bits, filled, spilled)
        rows[text + 1] = end
    return out, end
