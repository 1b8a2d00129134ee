"""Parts of the kernels of matching: the entries that one caption hits, made ascending and distinct.

A few are sorted by insertion.  More than ``FEW`` go through a bitmap of all entries, so that a caption of a megabyte
costs no more for each hit.  numba's cache knows the file of a kernel only: after a change here, touch those that
import it.
"""

from typing import Any

import numpy as np

from pairsieve.filters._jit import inlined
from pairsieve.filters._match_instructions import first_bit

_u = np.uint64
ENTRY, CHAINED = _u(2**30 - 1), _u(2**30)
"""Of a value: the entry (or link of a chain of equal entries) plus 1, 0 for none; whether it is a link."""
FEW = 64


@inlined
def add_entry(entry: Any, at: Any, values: Any, chain: Any, links: Any, count: Any) -> Any:
    """Let an entry end where ``values[at]`` says; equal ones make a chain of (entry, next link or -1).

    ``links[count]`` is the number of links so far.
    """
    held = values[at] & ENTRY
    if held == 0:
        values[at] |= _u(entry + 1)
        return
    link = links[count]
    if values[at] & CHAINED == 0:
        chain[2 * link], chain[2 * link + 1] = np.int32(held - _u(1)), -1
        held = _u(link + 1)
        link += 1
    chain[2 * link], chain[2 * link + 1] = entry, np.int32(held - _u(1))
    links[count] = link + 1
    values[at] = (values[at] & ~ENTRY) | CHAINED | _u(link + 1)


@inlined
def _spill(out: Any, first: Any, end: Any, bits: Any, filled: Any) -> Any:
    """Note the hits from ``first`` on in the bitmap."""
    for i in range(first, end):
        word = out[i] >> 6
        bits[word] |= _u(1) << _u(out[i] & 63)
        filled[word >> 6] |= _u(1) << _u(word & 63)


@inlined
def _count_bits(bits: Any, filled: Any) -> Any:
    total = 0
    for i in range(len(filled)):
        rest = filled[i]
        while rest:
            word = bits[i * 64 + first_bit(rest)]
            rest &= rest - _u(1)
            while word:
                word &= word - _u(1)
                total += 1
    return total


@inlined
def _unspill(out: Any, end: Any, bits: Any, filled: Any) -> Any:
    """Write what the bitmap holds, ascending, and empty it; where it ends."""
    for i in range(len(filled)):
        while filled[i]:
            place = i * 64 + first_bit(filled[i])
            filled[i] &= filled[i] - _u(1)
            word = bits[place]
            bits[place] = 0
            while word:
                out[end] = place * 64 + first_bit(word)
                word &= word - _u(1)
                end += 1
    return end


@inlined
def _sorted(out: Any, first: Any, end: Any) -> Any:
    """Sort a few hits and drop those that repeat; where they end."""
    for i in range(first + 1, end):
        value, j = out[i], i
        while j > first and out[j - 1] > value:
            out[j] = out[j - 1]
            j -= 1
        out[j] = value
    kept = min(first + 1, end)
    for i in range(first + 1, end):
        if out[i] != out[kept - 1]:
            out[kept] = out[i]
            kept += 1
    return kept


@inlined
def roomy(out: Any, used: Any, needed: Any) -> Any:
    """The array with room for ``needed`` more and the hits of one more caption."""
    if used + needed + FEW <= len(out):
        return out
    larger = np.empty(2 * (used + needed + FEW), np.int32)
    larger[:used] = out[:used]
    return larger


@inlined
def emit(value: Any, chain: Any, out: Any, first: Any, end: Any, bits: Any, filled: Any, spilled: Any) -> Any:
    """Add the entries of a node; the number of hits in ``out`` and whether some went to the bitmap."""
    held = np.int64(value & ENTRY) - 1
    is_chain = value & CHAINED != 0
    while held >= 0:
        if end - first == FEW:
            _spill(out, first, end, bits, filled)
            end, spilled = first, True
        if not is_chain:
            out[end] = held
            return end + 1, spilled
        out[end] = chain[2 * held]
        held = np.int64(chain[2 * held + 1])
        end += 1
    return end, spilled


@inlined
def finished(out: Any, first: Any, end: Any, bits: Any, filled: Any, spilled: Any) -> Any:
    """Make the hits of a caption ascending and distinct: the array, with room for another caption, and their end."""
    if spilled:
        _spill(out, first, end, bits, filled)
        out = roomy(out, first, _count_bits(bits, filled))
        end = _unspill(out, first, bits, filled)
    else:
        end = _sorted(out, first, end)
    return roomy(out, end, 0), end
