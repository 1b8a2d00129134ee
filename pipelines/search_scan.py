"""The stored vectors nearest to one vector: exact, by reading all of them once.

3.1 µs a vector of 512 float16 on a core, 2.4 of them to read it; memory is k pairs, and a row group (8 MB) a thread.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pairsieve.filters._products import Matrix
from pairsieve.filters._vectors import LEAST_NORM, ROWS, vectors_of
from pairsieve.pipelines.pools import PoolShard, Sources
from pairsieve.pipelines.progress import Stage
from pairsieve.pipelines.shard import Context, Shard
from pairsieve.pipelines.store import Store
from pairsieve.schemas.errors import DamagedFileError

STEP = 4096
"""Rows of a pool's column that are read at once."""

Masks = Mapping[int, NDArray[np.bool_]]
"""Shard -> which of its rows are looked at."""
Entry = tuple[float, str, int, int]
"""Score, negative, so that the best sorts first; uid, shard, row."""


@dataclass(frozen=True)
class Stretch:
    """Some rows of a shard with their vectors; ``uids`` gives those of some of them, by place in the stretch."""

    shard: int
    rows: NDArray[Any]
    column: pa.Array
    uids: Callable[[NDArray[np.int64]], list[str]]


class Piece(Protocol):
    """A part of a column that one thread reads."""

    def stretches(self, masks: Masks | None) -> Iterator[Stretch]:
        """Its rows; those that no mask takes may be left out."""
        ...


@dataclass(frozen=True)
class StepFile:
    """A file of what a step measured; it holds uids and places, so that the pool need not be there."""

    store: Store
    name: str
    column: str

    @property
    def shard(self) -> int:
        """Whose scores these are; later parts are ``00012.1.parquet``."""
        return int(self.name.rsplit("/", 1)[-1].split(".")[0])

    def stretches(self, masks: Masks | None) -> Iterator[Stretch]:
        """See ``Piece``: a row group each."""
        with self._told():
            file = self.store.sealed(self.name, is_light=False)
        with file:
            for group in range(file.metadata.num_row_groups):
                rows = self._read(file, group, "row").to_numpy()
                if masks is None or masks[self.shard][rows].any():
                    uids = partial(self._uids, file, group)
                    yield Stretch(self.shard, rows, self._read(file, group, self.column), uids)

    def _read(self, file: pq.ParquetFile, group: int, column: str) -> pa.Array:
        with self._told():
            return file.read_row_group(group, columns=[column], use_threads=False)[column].combine_chunks()

    def _uids(self, file: pq.ParquetFile, group: int, places: NDArray[np.int64]) -> list[str]:
        found: list[str] = self._read(file, group, "uid").take(pa.array(places)).to_pylist()
        return found

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Damage is one line with the file's name and the next step."""
        try:
            yield
        except (DamagedFileError, pa.ArrowException, OSError) as error:
            text = f"{self.store.url(self.name)}: {str(error).splitlines()[0]}"
            raise DamagedFileError(f"{text}; run the recipe again, which makes it anew") from None


@dataclass(frozen=True)
class PoolColumn:
    """A shard's vectors that came with the pool."""

    context: Context
    record: PoolShard
    column: str

    def stretches(self, masks: Masks | None) -> Iterator[Stretch]:
        """See ``Piece``."""
        if masks is not None and not masks[self.record.index].any():
            return
        own = replace(self.context, sources=Sources())  # which keeps one file open: a thread's own
        with Shard(own, self.record) as shard:
            for start in range(0, self.record.rows, STEP):
                stop = min(start + STEP, self.record.rows)
                column, rows = shard.heavy(self.column, start, stop), np.arange(start, stop)
                yield Stretch(self.record.index, rows, column, partial(_pool_uids, shard, start))
        own.sources.close()


def _pool_uids(shard: Shard, start: int, places: NDArray[np.int64]) -> list[str]:
    found: list[str] = shard.light("uid").take(pa.array(places + start)).to_pylist()
    return found


@dataclass
class Nearest:
    """The best of what was offered: by score, then uid, shard and row, so that no order of offers matters."""

    most: int
    entries: list[Entry] = field(default_factory=list)
    vectors: int = 0
    rows: int = 0

    @property
    def least(self) -> float:
        """A score below this is of no use."""
        return -self.entries[-1][0] if len(self.entries) == self.most else -np.inf

    def offer(self, scores: NDArray[np.float32], stretch: Stretch, least: float) -> None:
        """Take those of a stretch that are among the best; NaN is no score."""
        places = np.flatnonzero(scores >= max(self.least, least))
        if len(places) > self.most:  # no more than so many, and those equal to the last of them
            bound = -np.partition(-scores[places], self.most - 1)[self.most - 1]
            places = places[scores[places] >= bound]
        if not len(places):
            return
        uids, rows = stretch.uids(places), stretch.rows[places].tolist()
        found = [(-s, u, stretch.shard, r) for s, u, r in zip(scores[places].tolist(), uids, rows, strict=True)]
        self.add(found)

    def add(self, found: Sequence[Entry]) -> None:
        """Take entries that are among the best."""
        self.entries = sorted([*self.entries, *found])[: self.most]


def cosines(column: pa.Array, query: Any) -> NDArray[np.float32]:
    """float32[n] cosines of vectors with a unit vector, a float32 tensor [d]; NaN where there is no vector.

    Blocks have a fixed shape and one thread, so that a cosine does not depend on the vectors around it.
    """
    import torch

    size, found = ROWS["cpu"], np.empty(len(column), np.float32)
    block = torch.zeros((size, len(query)))
    for start in range(0, len(column), size):
        part = vectors_of(column.slice(start, size), len(query))
        count = len(part)
        if count < size:
            block[:count], block[count:] = part, 0
            part = block
        norms = torch.linalg.vector_norm(part, dim=1)
        values = (part @ query) / norms
        values[~(norms.isfinite() & (norms > LEAST_NORM))] = torch.nan
        found[start : start + count] = values.numpy()[:count]
    return found


def nearest(
    pieces: Iterable[Piece], query: Matrix, most: int, masks: Masks | None, threads: int, stage: Stage
) -> Nearest:
    """The ``most`` vectors with the greatest cosines with ``query``, float32[d], of all pieces."""
    import torch

    best, waiting = Nearest(most), set[Future[Nearest]]()
    before = torch.get_num_threads()
    source = iter(pieces)
    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        try:
            while True:
                for piece in islice(source, 2 * threads - len(waiting)):
                    waiting.add(pool.submit(_searched, piece, query, most, masks, best))
                if not waiting:
                    return best
                done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                for each in done:
                    _merge(best, each.result())
                    stage.advance(each.result().rows)
        finally:
            pool.shutdown(cancel_futures=True)
            torch.set_num_threads(before)


def _merge(best: Nearest, found: Nearest) -> None:
    best.add(found.entries)
    best.vectors += found.vectors
    best.rows += found.rows


def _searched(piece: Piece, query: Matrix, most: int, masks: Masks | None, best: Nearest) -> Nearest:
    """The best of one piece, without those that are already known to be of no use."""
    import torch

    found, least = Nearest(most), best.least
    with torch.inference_mode():
        wanted = torch.from_numpy(np.array(query))
        for stretch in piece.stretches(masks):
            scores = cosines(stretch.column, wanted)
            if masks is not None:
                scores[~masks[stretch.shard][stretch.rows]] = np.nan
            found.rows += len(scores)
            found.vectors += len(scores) - int(np.isnan(scores).sum())
            found.offer(scores, stretch, least)
    return found
