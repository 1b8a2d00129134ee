"""Connected components of links between ids: by union-find where they fit into one process, else by star rounds.

Star rounds are the large-star and small-star operations of Kiveris et al., "Connected Components in MapReduce and
Beyond" (SoCC 2014), alternated until nothing changes: each id then hangs on the smallest of its component.  A
round moves three ids a link through the run's storage; some 5 to 10 rounds are usual, log² of the ids the bound.
A task holds the links of its share of ids; those of one id, 16 bytes each, must fit into its memory.  Union-find
takes 60 bytes a link.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pairsieve.pipelines.exchange import Each, File, Part, parts, read, receive, send, share, write
from pairsieve.pipelines.store import Store

Ids = NDArray[np.int64]
ODD = np.uint64(0x9E3779B97F4A7C15)


def hang(store: Store, folder: str, links: list[str], count: int, each: Each, together: int, apart: int) -> list[str]:
    """Files of links: every id that is not the smallest of its component, once, as ``other``, with the smallest.

    ``links`` are files of one part with columns ``one`` and ``other``, ``count`` their links; ``folder`` is free for
    use.  One process takes ``together`` links, else a task about ``apart`` of them.  Ids hang on the smallest
    whatever the links' order, files and repetitions.
    """
    if count <= together:
        return _by_union_find(store, folder, links)
    return _Stars(store, folder, max(1, -(-2 * count // max(1, apart)))).hang(links, each)


def _by_union_find(store: Store, folder: str, links: list[str]) -> list[str]:
    """By union-find over the ids that have links."""
    from pairsieve.filters import _links

    table = pa.concat_tables([read(store, name) for name in links])
    one, other = table["one"].to_numpy(), table["other"].to_numpy()
    ids, places = np.unique(np.concatenate([one, other]), return_inverse=True)
    parent = np.arange(len(ids))
    _links.unite(parent, places[: len(one)], places[len(one) :])
    _links.flatten(parent)
    lost = np.flatnonzero(parent != np.arange(len(ids)))
    name = f"{folder}/all.arrow"
    write(store, name, pa.table({"one": ids[parent[lost]], "other": ids[lost]}))
    return [name]


@dataclass(frozen=True)
class _Stars:
    """Rounds of large-star and small-star; a share is the ids of equal hash."""

    store: Store
    folder: str
    shares: int

    def hang(self, links: list[str], each: Each) -> list[str]:
        """See the function."""
        list(each(_Begin(self, f"{self.folder}/round0"), [File(i, name) for i, name in enumerate(links)]))
        last, turn = None, 0
        while True:
            into, back = (f"{self.folder}/{kind}{turn}" for kind in ("large", "small"))
            found = sum(each(_Large(self, f"{self.folder}/round{turn}", into), parts(self.shares)))
            if found == last:
                break
            list(each(_Small(self, into, f"{self.folder}/round{turn + 1}"), parts(self.shares)))
            self.store.remove(into)
            self.store.remove(f"{self.folder}/round{turn}")
            last, turn = found, turn + 1
        self.store.remove(into)
        list(each(_End(self, f"{self.folder}/round{turn}", back), parts(self.shares)))
        return [f"{back}/{name}" for name in self.store.names(back)]

    def neighbours(self, folder: str, part: Part) -> tuple[Ids, Ids]:
        """The ids of a share and what each is linked with: sorted, each link once."""
        table = receive(self.store, folder, part.index)
        return once(table["one"].to_numpy(), table["other"].to_numpy())

    def send(self, name: str, one: Ids, other: Ids) -> None:
        """Send links to the shares of their ``one``."""
        one, other = once(one, other)
        to = share(one.view(np.uint64), self.shares)
        send(self.store, name, pa.table({"one": one, "other": other}), to, self.shares)


@dataclass(frozen=True)
class _Begin:
    """Send a file's links both ways."""

    stars: _Stars
    into: str

    def __call__(self, item: File) -> None:
        table = read(self.stars.store, item.name)
        one, other = table["one"].to_numpy(), table["other"].to_numpy()
        ends = np.concatenate([one, other]), np.concatenate([other, one])
        self.stars.send(f"{self.into}/{item.index:05d}.arrow", *ends)


@dataclass(frozen=True)
class _Large:
    """Hang the larger neighbours of each id on the smallest of all; gives a digest of the links that there were."""

    stars: _Stars
    folder: str
    into: str

    def __call__(self, part: Part) -> int:
        node, other = self.stars.neighbours(self.folder, part)
        least = np.minimum(_least(node, other), node)
        larger = other > node
        self.stars.send(f"{self.into}/{part.index:05d}.arrow", other[larger], least[larger])
        return _digest(node[~larger], other[~larger])


@dataclass(frozen=True)
class _Small:
    """Hang each id, and its smaller neighbours, on the smallest of them; links go on both ways."""

    stars: _Stars
    folder: str
    into: str

    def __call__(self, part: Part) -> None:
        node, other = self.stars.neighbours(self.folder, part)
        least = _least(node, other)
        high, low = np.concatenate([node, other]), np.concatenate([least, least])
        high, low = high[high != low], low[high != low]
        ends = np.concatenate([high, low]), np.concatenate([low, high])
        self.stars.send(f"{self.into}/{part.index:05d}.arrow", *ends)


@dataclass(frozen=True)
class _End:
    """Write the ids of a share that hang on another."""

    stars: _Stars
    folder: str
    into: str

    def __call__(self, part: Part) -> None:
        node, other = self.stars.neighbours(self.folder, part)
        hangs = other < node
        table = pa.table({"one": other[hangs], "other": node[hangs]})
        write(self.stars.store, f"{self.into}/{part.index:05d}.arrow", table)


def once(one: Ids, other: Ids) -> tuple[Ids, Ids]:
    """Links without repetitions, ordered by both ends."""
    order = np.lexsort((other, one))
    one, other = one[order], other[order]
    is_new = np.ones(len(one), bool)
    is_new[1:] = (one[1:] != one[:-1]) | (other[1:] != other[:-1])
    return one[is_new], other[is_new]


def _least(node: Ids, other: Ids) -> Ids:
    """For each link of a sorted list, the least ``other`` of its ``node``: that of the node's first link."""
    firsts = np.flatnonzero(np.diff(node, prepend=-1))
    return np.repeat(other[firsts], np.diff(firsts, append=len(node)))


def _digest(one: Ids, other: Ids) -> int:
    """A sum over links, so that it has no order."""
    mixed = (one.astype(np.uint64) * ODD) ^ (other.astype(np.uint64) + np.uint64(0x632BE59BD9B4E019))
    mixed = (mixed ^ (mixed >> np.uint64(31))) * np.uint64(0xFF51AFD7ED558CCD)
    return int((mixed ^ (mixed >> np.uint64(29))).sum(dtype=np.uint64))
