"""Fetch the images of batches of rows, some batches ahead of the one that is written, each URL once a batch.

A batch is written once its last URL has ended, in the order of its rows.  Held in memory: the stored images of
``AHEAD`` batches and of the one at hand.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import pyarrow as pa

from pairsieve.filters._client import LEFT as LEFT_URL
from pairsieve.filters._client import Client
from pairsieve.filters._download_rows import LEFT_ROW, Maker, Outcome, Wish, boxes_of
from pairsieve.filters._fetch import Fetched
from pairsieve.filters._host_tally import HostTally
from pairsieve.filters.base import LEFT

AHEAD = 2
"""Batches that are fetched while the slowest URLs of the one before them end."""
_Key: TypeAlias = tuple[str | None, Wish]
_Wishes: TypeAlias = dict[str | None, list[Wish]]


@dataclass(frozen=True)
class Columns:
    """What is read of a batch besides ``url``, and what is written.

    Read: the columns with boxes and with digests to expect.  Written: ``kinds``, of which ``digest`` is the hash.
    """

    boxes: str | None
    digests: str | None
    kinds: Mapping[str, pa.DataType]
    digest: str | None

    def keys(self, pairs: pa.RecordBatch) -> list[_Key]:
        """What is asked for each row: its URL, and what is wished of it."""
        urls = pairs["url"].to_pylist()
        boxes = [boxes_of(value) for value in pairs[self.boxes].to_pylist()] if self.boxes else [()] * len(urls)
        digests = pairs[self.digests].to_pylist() if self.digests else [None] * len(urls)
        digests = [None if digest is None else digest.strip().lower() for digest in digests]
        return list(zip(urls, map(Wish, boxes, digests), strict=True))

    def written(self, rows: Sequence[Outcome]) -> dict[str, pa.Array]:
        """A column of each kind."""
        own = {name: "digest" if name == self.digest else name for name in self.kinds}
        return {name: pa.array([getattr(row, own[name]) for row in rows], kind) for name, kind in self.kinds.items()}


@dataclass(frozen=True)
class Batches:
    """Measures batches over a client."""

    client: Client[list[Outcome]]
    columns: Columns
    maker: Maker
    tally: HostTally

    def measured(self, batches: Iterator[pa.RecordBatch], patience: float | None) -> Iterator[dict[str, pa.Array]]:
        """The columns of batch after batch; with ``patience`` (seconds) also ``LEFT``, of URLs that took longer."""
        under_way = deque[tuple[Sequence[_Key], _Wishes, Future[list[list[Outcome]]]]]()
        for pairs in batches:
            keys = self.columns.keys(pairs)
            wishes = _by_url(keys)
            under_way.append((keys, wishes, self._begin(wishes, patience)))
            if len(under_way) > AHEAD:
                yield self._ended(*under_way.popleft(), patience is not None)
        while under_way:
            yield self._ended(*under_way.popleft(), patience is not None)

    def _begin(self, wishes: _Wishes, patience: float | None) -> Future[list[list[Outcome]]]:
        uses = [use(self.maker, self.tally, some) for some in wishes.values()]
        return self.client.begin(list(wishes), patience, uses)

    def _ended(
        self, keys: Sequence[_Key], wishes: _Wishes, found: Future[list[list[Outcome]]], may_leave: bool
    ) -> dict[str, pa.Array]:
        """What is written of a batch, once its last URL has ended."""
        made = zip(wishes.items(), found.result(), strict=True)
        outcomes = {(url, wish): row for (url, some), rows in made for wish, row in zip(some, rows, strict=True)}
        rows = [outcomes[key] for key in keys]
        left = {LEFT: pa.array([row is LEFT_ROW for row in rows], pa.bool_())} if may_leave else {}
        return self.columns.written(rows) | left


def use(maker: Maker, tally: HostTally, wishes: Sequence[Wish]) -> Callable[[Fetched], list[Outcome]]:
    """What is made of a URL's outcome: a row for each wish; counted in the tally once; never raises."""
    return partial(_outcomes, wishes=wishes, maker=maker, tally=tally)


def _outcomes(fetched: Fetched, *, wishes: Sequence[Wish], maker: Maker, tally: HostTally) -> list[Outcome]:
    if fetched is LEFT_URL:
        return [LEFT_ROW] * len(wishes)
    rows = [maker.row(fetched, wish) for wish in wishes]
    size = len(fetched.body or b"")
    tally.add(fetched.host, rows[0].download_code, fetched.requests, size, fetched.seconds)
    return rows


def _by_url(keys: Sequence[_Key]) -> _Wishes:
    """Each URL once, with all that is wished of it."""
    found: dict[str | None, dict[Wish, None]] = {}
    for url, wish in keys:
        found.setdefault(url, {})[wish] = None
    return {url: list(wishes) for url, wishes in found.items()}
