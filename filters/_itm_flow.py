"""Pairs on their way to matching scores: decoded ahead where threads do it, encoded, and all their texts compared."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pairsieve.filters._clip_flow import one_torch_thread
from pairsieve.filters._itm_model import ItmModel
from pairsieve.filters._pictures_shared import Encodings, Pictures, images_at_once
from pairsieve.filters._preprocess import Pixels
from pairsieve.filters._shared import Shared

CPU_GROUP = 16
"""Images whose texts are batched together on a CPU; on a GPU as many as are encoded at once."""


@dataclass(frozen=True)
class Part:
    """Pairs to score: images, and texts with the row of the image of each, int64[texts]."""

    images: Sequence[bytes | None]
    texts: Sequence[str | None]
    rows: NDArray[np.int64]


@dataclass(frozen=True)
class Scored:
    """What became of a part: why an image has no picture; which texts are empty, and their scores, NaN for none."""

    errors: list[str | None]
    empty: NDArray[np.bool_]
    matched: NDArray[np.float32]
    cosines: NDArray[np.float32]

    @property
    def broken(self) -> list[bool]:
        """Images without a picture."""
        return [error is not None for error in self.errors]


Ids = tuple[int, ...]
Decoded = tuple[bytes, Pixels | str]
"""The digest of an image, and its picture or why there is none."""


class ItmFlow:
    """A loaded model and the threads that decode for it."""

    def __init__(
        self, model: ItmModel, shared: Shared | None, batch_size: int | None, threads: int, has_cosine: bool
    ) -> None:
        """Join what the worker's filters share; threads are started at once, none for 0."""
        from pairsieve.filters._itm_run import ItmRunner

        self._model, self._has_cosine = model, has_cosine
        self._pictures = Pictures(shared, [model.wanted])
        at_once = batch_size or images_at_once(model.wanted, model.device.type)
        self._encodings = Encodings(shared, model.tower, model.key, model.device, at_once)
        self._runner = ItmRunner(model.head, model.tokens.most, model.device)
        self._group = self._encodings.batch if model.device.type == "cuda" else CPU_GROUP
        self._pool = ThreadPoolExecutor(threads, "pairsieve-decode", one_torch_thread) if threads else None

    def close(self) -> None:
        """Stop the threads and share no more."""
        self._pictures.close()
        self._encodings.close()
        if self._pool:
            self._pool.shutdown(cancel_futures=True)

    def stream(self, parts: Iterable[Part]) -> Iterator[Scored]:
        """The scores of each part, in order; with threads the next one is decoded while one is scored."""
        waiting: deque[tuple[Part, Callable[[], list[Decoded]]]] = deque()
        for part in parts:
            waiting.append((part, self._begin(part.images)))
            while len(waiting) > (1 if self._pool else 0):
                yield self._scored(*waiting.popleft())
        while waiting:
            yield self._scored(*waiting.popleft())

    def _begin(self, images: Sequence[bytes | None]) -> Callable[[], list[Decoded]]:
        """Have images decoded; they are waited for by the call."""
        if self._pool is None:
            return lambda: [self._decoded(image) for image in images]
        futures = [self._pool.submit(self._decoded, image) for image in images]
        return lambda: [future.result() for future in futures]

    def _decoded(self, data: bytes | None) -> Decoded:
        name = self._pictures.name(data)
        return name, self._pictures.of(data, name)[0]

    def _scored(self, part: Part, decoded: Callable[[], list[Decoded]]) -> Scored:
        images = decoded()
        errors = [one if isinstance(one, str) else None for _, one in images]
        prepared = [self._model.tokens.prepared(text) for text in part.texts]
        matched, cosines = (np.full(len(prepared), np.nan, np.float32) for _ in range(2))
        found = Scored(errors, np.array([not text for text in prepared], bool), matched, cosines)
        asked = self._asked(prepared, part.rows, found)
        rows = sorted(asked)
        for start in range(0, len(rows), self._group):
            some = rows[start : start + self._group]
            self._compare([images[row] for row in some], [asked[row] for row in some], found)
        return found

    def _asked(
        self, prepared: Sequence[str], rows: NDArray[np.int64], scored: Scored
    ) -> dict[int, dict[Ids, list[int]]]:
        """By row, the places of each text by its tokens: a text that an image has twice is compared once."""
        at = np.flatnonzero(~scored.empty & ~np.array(scored.broken, bool)[rows]).tolist()
        found: dict[int, dict[Ids, list[int]]] = {}
        for i, ids in zip(at, self._model.tokens.ids([prepared[i] for i in at]), strict=True):
            if ids:
                found.setdefault(int(rows[i]), {}).setdefault(tuple(ids), []).append(i)
            else:
                scored.empty[i] = True
        return found

    def _compare(self, images: Sequence[Decoded], asked: Sequence[dict[Ids, list[int]]], found: Scored) -> None:
        """Fill in the scores of a group of images."""
        from pairsieve.filters._itm_run import Asked

        pictures = [one for _, one in images if not isinstance(one, str)]
        encoded = self._encodings.of([name for name, _ in images], pictures)
        every = [Asked(image, ids) for image, own in enumerate(asked) for ids in own]
        places = [at for own in asked for at in own.values()]
        at, which = np.concatenate(places), np.repeat(np.arange(len(places)), [len(one) for one in places])
        found.matched[at] = self._runner.probabilities(encoded, every)[which]
        if self._has_cosine:
            found.cosines[at] = self._runner.cosines(encoded, every)[which]
