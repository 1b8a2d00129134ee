"""Links between candidates, and clusters of what is linked: kernels over ids, the best pair first.

A key's members are linked to the best of them, so a key that many share costs as much as many keys.  About 15 ns a
key, and as much a link.
"""

from typing import Any

import numpy as np
from numba import int64, types, uint64
from numpy.typing import NDArray

from pairsieve.filters._jit import inlined, kernel

Ids = NDArray[np.int64]
Keys = NDArray[np.uint64]


@inlined
def _root(parent: Any, i: Any) -> Any:
    """The best member of a cluster; paths are halved on the way."""
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = parent[i]
    return i


@inlined
def _mixed(key: Any) -> Any:
    key = (key ^ (key >> uint64(33))) * uint64(0xFF51AFD7ED558CCD)
    return key ^ (key >> uint64(29))


@kernel(int64(uint64[::1], int64[::1], int64[::1], uint64[::1], int64[::1], int64[::1], int64[::1]))
def link(keys: Keys, ids: Ids, parent: Ids, slots: Keys, firsts: Ids, one: Ids, other: Ids) -> Any:
    """Fill ``one`` and ``other`` with the best of each key and every other member not yet in its cluster; their number.

    ``ids`` ascend.  ``slots`` and ``firsts`` have a power of two of places, more than keys; ``firsts`` is all -1.
    """
    last = uint64(len(slots) - 1)
    count = 0
    for i in range(len(keys)):
        at = _mixed(keys[i]) & last
        while firsts[at] >= 0 and slots[at] != keys[i]:
            at = (at + uint64(1)) & last
        if firsts[at] < 0:
            slots[at], firsts[at] = keys[i], ids[i]
        elif _root(parent, firsts[at]) != _root(parent, ids[i]):
            one[count], other[count] = firsts[at], ids[i]
            count += 1
    return count


@kernel(types.void(int64[::1], int64[::1], int64[::1]))
def unite(parent: Ids, one: Ids, other: Ids) -> None:
    """Put the clusters of linked ids together; the smaller root is the root of both."""
    for i in range(len(one)):
        a, b = _root(parent, one[i]), _root(parent, other[i])
        if a < b:
            parent[b] = a
        elif b < a:
            parent[a] = b


@kernel(types.void(int64[::1]))
def flatten(parent: Ids) -> None:
    """Let every id point at its root."""
    for i in range(len(parent)):
        parent[i] = _root(parent, i)
