"""Kernels over lists of ascending ids: two lists of each row made one, and all lists of a row."""

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import int32, int64, types

from pairsieve.filters._jit import inlined, kernel

_ids = types.Array(int32, 1, "C", readonly=True)
_written = types.Array(int32, 1, "C")


@inlined
def _merge(one: Any, a: Any, a_end: Any, other: Any, b: Any, b_end: Any, out: Any, end: Any) -> Any:
    """Both ascending runs as one, each value once; where it ends."""
    while a < a_end or b < b_end:
        if b >= b_end or (a < a_end and one[a] < other[b]):
            out[end] = one[a]
            a += 1
        else:
            out[end] = other[b]
            if a < a_end and one[a] == other[b]:
                a += 1
            b += 1
        end += 1
    return end


@kernel(int64(_ids, _ids, _ids, _ids, _written, _written))
def both(
    one_rows: npt.NDArray[np.int32],
    one: npt.NDArray[np.int32],
    other_rows: npt.NDArray[np.int32],
    other: npt.NDArray[np.int32],
    rows: npt.NDArray[np.int32],
    out: npt.NDArray[np.int32],
) -> int:
    """The union of two ascending lists a row; ``out`` has room for both.  The number of ids."""
    end = 0
    rows[0] = 0
    for i in range(len(rows) - 1):
        a, b = one_rows[i : i + 2], other_rows[i : i + 2]
        end = _merge(one, a[0], a[1], other, b[0], b[1], out, end)
        rows[i + 1] = end
    return end


@kernel(int64(_ids, _ids, _ids, _written, _written))
def unite(
    texts: npt.NDArray[np.int32],
    rows: npt.NDArray[np.int32],
    ids: npt.NDArray[np.int32],
    united: npt.NDArray[np.int32],
    out: npt.NDArray[np.int32],
) -> int:
    """The union of the ascending lists ``texts[i]`` to ``texts[i + 1]`` for each i; the number of ids.

    Lists are merged in pairs, and the merged ones again, so n ids in k lists cost n log k.
    """
    end: Any = 0
    united[0] = 0
    for i in range(len(texts) - 1):
        first, last = texts[i], texts[i + 1]
        count = rows[last] - rows[first]
        now, then = ids[rows[first] : rows[last]].copy(), np.empty(count, np.int32)
        edges = (rows[first : last + 1] - rows[first]).copy()
        lists = last - first
        while lists > 1:
            used = np.int32(0)
            for k in range(0, lists, 2):
                begin, middle = edges[k], edges[k + 1]
                finish = edges[k + 2] if k + 2 <= lists else middle
                start = used
                used = np.int32(_merge(now, begin, middle, now, middle, finish, then, used))
                edges[k >> 1] = start
            lists = (lists + 1) >> 1
            edges[lists] = used
            now, then = then, now
        size = edges[lists] if lists else np.int32(0)
        out[end : end + size] = now[:size]
        end += size
        united[i + 1] = end
    return int(end)
