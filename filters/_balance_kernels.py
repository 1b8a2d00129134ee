"""The balance's loops over match lists: counting, π of a text, and the expected size for many t in one pass.

With 5 ids a text, of 500,000: 0.01 µs to count, 0.03 for π, 0.3 for 64 sizes.  Compiling takes seconds once a machine.
A text's entries are taken in ascending order, so that its π is the same bits everywhere; a pair's π is summed in
units of 2^-30, so that sums do not depend on their order.  Ids must have been checked: kernels do not look at bounds.
"""

import math

import numpy as np
from numba import types
from numpy.typing import NDArray

from pairsieve.filters._balance_summary import UNITS
from pairsieve.filters._jit import inlined, kernel

Places = NDArray[np.int64]
Ids = NDArray[np.int32]
Floats = NDArray[np.float64]

_places = types.Array(types.int64, 1, "C")
_ids = types.Array(types.int32, 1, "C", readonly=True)
_wide = types.Array(types.int64, 1, "C", readonly=True)
_codes = types.Array(types.int32, 1, "C")
_floats, _table = types.Array(types.float64, 1, "C"), types.Array(types.float64, 2, "C")
_seen = types.Tuple((types.int64, types.int64, types.boolean))


@inlined
def _inspect(starts: Places, ends: Places, ids: NDArray[np.integer]) -> tuple[np.int64, np.int64, bool]:
    least, most, ascends = np.int64(2**63 - 1), np.int64(-(2**63)), True
    for j in range(len(starts)):
        for i in range(starts[j], ends[j]):
            found = np.int64(ids[i])
            least, most = min(least, found), max(most, found)
            if i > starts[j] and ids[i] <= ids[i - 1]:
                ascends = False
    return (least, most, ascends) if least <= most else (np.int64(0), np.int64(-1), True)


@kernel(_seen(_places, _places, _ids))
def inspect(starts: Places, ends: Places, ids: Ids) -> tuple[np.int64, np.int64, bool]:
    """The least and the greatest id (0, -1 where there is none), and whether every text's ascend and differ."""
    return _inspect(starts, ends, ids)


@kernel(_seen(_places, _places, _wide))
def inspect_wide(starts: Places, ends: Places, ids: Places) -> tuple[np.int64, np.int64, bool]:
    """The same for int64."""
    return _inspect(starts, ends, ids)


@kernel(types.void(_places, _places, _ids, _places))
def count(starts: Places, ends: Places, ids: Ids, counts: Places) -> None:
    """Add 1 to ``counts`` of each id of each text."""
    for j in range(len(starts)):
        for i in range(starts[j], ends[j]):
            counts[ids[i]] += 1


@kernel(types.void(_places, _places, _ids, _places, _codes, _floats, _floats))
def probabilities(
    starts: Places, ends: Places, ids: Ids, counts: Places, codes: NDArray[np.int32], ts: Floats, found: Floats
) -> None:
    """π of each text: 1 - ∏(1 - t / max(count, t)) over its entries.

    ``ts`` float64[languages], ``codes`` the language of each entry, or empty where there is one only.
    """
    for j in range(len(starts)):
        missed = 1.0
        for i in range(starts[j], ends[j]):
            t = ts[codes[ids[i]]] if len(codes) else ts[0]
            missed *= 1.0 - t / max(np.float64(counts[ids[i]]), t)
        found[j] = 1.0 - missed


@kernel(types.void(_places, _floats, _floats))
def means(rows: Places, of_texts: Floats, found: Floats) -> None:
    """The mean of each pair's texts, ``rows[i]`` to ``rows[i + 1]``; 0 where it has none."""
    for i in range(len(rows) - 1):
        total = 0.0
        for j in range(rows[i], rows[i + 1]):
            total += of_texts[j]
        found[i] = total / max(rows[i + 1] - rows[i], 1)


@inlined
def _units(probability: float) -> np.int64:
    return np.int64(math.floor(probability * UNITS + 0.5))


@kernel(types.Tuple((types.int64, types.int64))(_floats))
def moments(found: Floats) -> tuple[np.int64, np.int64]:
    """Σπ and Σπ(1 - π), in units of 2^-30."""
    total, variance = np.int64(0), np.int64(0)
    for i in range(len(found)):
        total += _units(found[i])
        variance += _units(found[i] * (1.0 - found[i]))
    return total, variance


@inlined
def _fewest(ids: Ids, start: int, end: int, counts: Places, codes: NDArray[np.int32], ts: Floats) -> int:
    """How many of the t, which rise, are below every count of the text: for all others its π is 1."""
    below: int = ts.shape[1]
    for i in range(start, end):
        code = codes[ids[i]] if len(codes) else 0
        while below and ts[code, below - 1] >= counts[ids[i]]:
            below -= 1
    return below


@kernel(types.void(_places, _places, _places, _ids, _places, _codes, _table, _places))
def sizes(
    rows: Places,
    starts: Places,
    ends: Places,
    ids: Ids,
    counts: Places,
    codes: NDArray[np.int32],
    ts: Floats,
    totals: Places,
) -> None:
    """Add each pair's π, the mean over its texts, for each candidate t, in units of 2^-30.

    ``ts`` float64[languages, candidates], rising along the candidates.  The same bits as ``probabilities``
    and ``means`` give.
    """
    many = ts.shape[1]
    missed, means, whole = np.empty(many), np.empty(many), np.zeros(many + 1, np.int64)
    for i in range(len(rows) - 1):
        means[:], most, matched = 0.0, 0, 0
        for j in range(rows[i], rows[i + 1]):
            if starts[j] == ends[j]:
                continue
            below = _fewest(ids, starts[j], ends[j], counts, codes, ts)
            most, matched = max(most, below), matched + 1
            missed[:below] = 1.0
            for e in range(starts[j], ends[j]):
                t, entries = ts[codes[ids[e]] if len(codes) else 0], np.float64(counts[ids[e]])
                for k in range(below):
                    missed[k] *= 1.0 - t[k] / entries
            for k in range(below):
                means[k] += 1.0 - missed[k]
            means[below:] += 1.0
        if not matched:
            continue
        texts = rows[i + 1] - rows[i]
        summed = most if matched == texts else many  # all texts of π = 1 need no sum
        for k in range(summed):
            totals[k] += _units(means[k] / texts)
        whole[summed] += 1
    so_far = np.int64(0)
    for k in range(many):
        so_far += whole[k]
        totals[k] += so_far * UNITS
