"""Links between candidates, and clusters of what is linked: kernels over ids, the best pair first.

A key's members are linked to the best of them, the one before and a hub, so a key that many share costs as much as
many keys.  About 25 ns a key, and as much a link.
"""

from typing import Any

import numpy as np
from numba import int64, types, uint64
from numpy.typing import NDArray

from pairsieve.filters._jit import inlined, kernel
from pairsieve.filters._match_instructions import prefetch

AHEAD = 16
"""Keys whose places are asked for before they are needed."""
NONE = -2
"""In place of the best member: the key is known, but of members that are gone only."""

Ids = NDArray[np.int64]
Keys = NDArray[np.uint64]
_keys = types.Array(uint64, 1, "C", readonly=True)


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


@kernel(int64(uint64[::1], int64[::1], types.boolean[::1], int64[::1], int64[:, ::1], int64[::1], int64[::1]))
def link(keys: Keys, ids: Ids, gone: NDArray[np.bool_], parent: Ids, table: Ids, one: Ids, other: Ids) -> Any:
    """Fill ``one`` and ``other`` with links between members of a key that are not in one cluster yet; their number.

    Every member is linked to the best of its key, to the member before it, and to the key's hub: the member before
    the first of those that are ``gone``, which are there for that alone.  Without hubs one that is like all others
    would take in one of them a round, where a better one is like none.  ``ids`` ascend.  ``table`` (int64[places, 4]:
    key, best, last and hub) is all -1 and has a power of two of places, more than keys; ``one`` and ``other`` have
    three places a key.
    """
    mask, begin = uint64(len(table) - 1), int64(table.ctypes.data)
    count = 0
    for i in range(len(keys)):
        if i + AHEAD < len(keys):
            prefetch(begin + 32 * int64(_mixed(keys[i + AHEAD]) & mask))
        key, at = int64(keys[i]), _mixed(keys[i]) & mask
        while table[at, 1] != -1 and table[at, 0] != key:
            at = (at + uint64(1)) & mask
        best, last, hub = table[at, 1], table[at, 2], table[at, 3]
        table[at, 0] = key
        if gone[i]:
            if best == -1:
                table[at, 1] = NONE
            elif hub == -1 and last != best:
                table[at, 3] = last
            continue
        table[at, 2] = ids[i]
        if best < 0:
            table[at, 1] = ids[i]
            continue
        root = _root(parent, ids[i])
        if _root(parent, best) != root:
            one[count], other[count] = best, ids[i]
            count += 1
        if last != best and _root(parent, last) != root:
            one[count], other[count] = last, ids[i]
            count += 1
        if hub >= 0 and hub != last and _root(parent, hub) != root:
            one[count], other[count] = hub, ids[i]
            count += 1
    return count


@kernel(types.void(_keys, types.boolean[::1], _keys, uint64[::1], types.boolean[::1]))
def among(keys: Keys, chosen: NDArray[np.bool_], others: Keys, slots: Keys, used: NDArray[np.bool_]) -> None:
    """Leave of the ``chosen`` keys those that are among ``others``.

    ``slots`` and ``used``, all false, have a power of two of places, more than others.
    """
    last = uint64(len(slots) - 1)
    for i in range(len(others)):
        at = _mixed(others[i]) & last
        while used[at] and slots[at] != others[i]:
            at = (at + uint64(1)) & last
        slots[at], used[at] = others[i], True
    for i in range(len(keys)):
        if chosen[i]:
            at = _mixed(keys[i]) & last
            while used[at] and slots[at] != keys[i]:
                at = (at + uint64(1)) & last
            chosen[i] = used[at]


@kernel(types.void(int64[::1], int64[::1], uint64[::1], types.boolean[::1]))
def fresh(one: Ids, other: Ids, seen: Keys, is_new: NDArray[np.bool_]) -> None:
    """Say which links are not in ``seen``, and put them there: a power of two of places, more than links, 0 = free.

    Ids are below 2^32, and the first of a link is the smaller.
    """
    last = uint64(len(seen) - 1)
    for i in range(len(one)):
        pair = uint64(one[i]) << uint64(32) | uint64(other[i])
        at = _mixed(pair) & last
        while seen[at] != 0 and seen[at] != pair:
            at = (at + uint64(1)) & last
        is_new[i] = seen[at] == 0
        seen[at] = pair


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


class Compared:
    """Links that were compared before: 16 to 32 bytes each."""

    def __init__(self) -> None:
        """None yet."""
        self._seen, self._count = np.zeros(1 << 10, np.uint64), 0

    def new(self, one: Ids, other: Ids) -> NDArray[np.bool_]:
        """Which of some links were not; they are from now on."""
        if 2 * (self._count + len(one)) > len(self._seen):
            self._grow(self._count + len(one))
        is_new = np.empty(len(one), np.bool_)
        fresh(one, other, self._seen, is_new)
        self._count += int(is_new.sum())
        return is_new

    def _grow(self, links: int) -> None:
        held = self._seen[self._seen != 0]
        self._seen = np.zeros(1 << (2 * links).bit_length(), np.uint64)
        one, other = (held >> np.uint64(32)).astype(np.int64), (held & np.uint64(2**32 - 1)).astype(np.int64)
        fresh(one, other, self._seen, np.empty(len(held), np.bool_))
