"""Pairs on their way to embeddings: decoded in threads ahead of the device, in order, by one or more models at once.

An image is decoded once for all models.  Batches are formed across the parts that are given; a part is handed back
when all of it has arrived.  On a GPU the queue holds three blocks of 32 pairs a thread (about 5 MB each at 224
pixels); on a CPU, where a forward pass takes 20 times as long as decoding, everything runs in the caller's thread.
"""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pairsieve.filters import _text_lists
from pairsieve.filters._clip import Clip
from pairsieve.filters._clip_batches import Rows
from pairsieve.filters._clip_tokens import Ids
from pairsieve.filters._pictures_shared import Pictures
from pairsieve.filters._preprocess import Pixels, Preprocess
from pairsieve.filters._shared import Shared
from pairsieve.filters.base import batches

BLOCK = 32
"""Pairs that a thread takes at once."""
AHEAD = 3
"""Blocks a thread that may wait for the device."""
MOST_WAITING = 8
"""Batches' worth of pairs that wait for the last of their embeddings; then half-full batches are run for them.

The caller may hold the images of pairs that wait: 4,096 pairs on a GPU."""

Key: TypeAlias = tuple[object, ...]
"""A tokenizer's."""
Cut: TypeAlias = tuple[NDArray[np.int32], NDArray[np.int64]]
"""Tokens cut off, and the rows that they are of."""


@dataclass(frozen=True)
class Wants:
    """What is computed: which sides, of single sides too (not of whole pairs only), mirrored images, tokens cut."""

    images: bool = True
    texts: bool = True
    singles: bool = False
    mirrored: bool = False
    cut: bool = False
    others: tuple[str, ...] = ()  # columns of further texts, whose embeddings are wanted where the image has one


@dataclass
class Embedded:
    """One model's view of a part: embeddings of its pairs, and int32[n] tokens that were cut off, -1 without a text.

    ``others`` are of the flat texts of further columns; ``has_picture`` bool[n] says which images the model can take.
    """

    image: Rows
    text: Rows
    mirrored: Rows
    cut: NDArray[np.int32]
    has_picture: NDArray[np.bool_]
    others: list[Rows]

    @property
    def has_all_images(self) -> bool:
        """Whether no image is on its way."""
        return not (self.image.missing or self.mirrored.missing)

    @property
    def has_all_texts(self) -> bool:
        """Whether no text is on its way."""
        return not (self.text.missing or any(rows.missing for rows in self.others))

    @staticmethod
    def of(rows: int, others: Sequence[int] = ()) -> "Embedded":
        """Nothing yet."""
        cut, has_picture = np.full(rows, -1, np.int32), np.zeros(rows, bool)
        return Embedded(Rows(rows), Rows(rows), Rows(rows), cut, has_picture, [Rows(count) for count in others])


@dataclass
class Part:
    """A part on its way: why a pair has no score, and what each model makes of it."""

    rows: int
    models: list[Embedded]
    errors: list[str | None] = field(default_factory=list)
    blocks: int = 0  # that were not yet given to the models
    begun: list[int] = field(default_factory=list)  # flat texts of each further column in the blocks given so far


@dataclass(frozen=True)
class _Block:
    """A few pairs, prepared: pictures and tokens by kind, and the rows that they are of."""

    errors: list[str | None]  # of the first kind of pictures
    pictures: dict[Preprocess, tuple[Pixels, NDArray[np.int64]]]
    ids: dict[Key, Ids]
    text_rows: NDArray[np.int64]
    cut: dict[Key, Cut]
    has_picture: dict[Preprocess, NDArray[np.bool_]]
    others: list["_Others"]


@dataclass(frozen=True)
class _Others:
    """Of a block and a further column of texts: how many there are, and the tokens and places of those to embed."""

    count: int
    ids: dict[Key, Ids]
    at: NDArray[np.int64]


class Flow:
    """Threads and models; one stream at a time."""

    def __init__(
        self, clips: Sequence[Clip], wants: Wants, fast: bool, threads: int, shared: Shared | None = None
    ) -> None:
        """Threads are started at once; none for 0."""
        self._clips, self._wants = clips, wants
        self._kinds = tuple(dict.fromkeys(clip.wanted for clip in clips))
        self._pictures = Pictures(shared, self._kinds, fast) if wants.images else None
        self._tokens = {clip.tokens.key: clip.tokens for clip in clips}
        self._pool = ThreadPoolExecutor(threads, "pairsieve-decode", one_torch_thread) if threads else None
        self._most = AHEAD * threads
        self._most_waiting = MOST_WAITING * max(clip.batch_size for clip in clips)

    def close(self) -> None:
        """Stop the threads."""
        if self._pool:
            self._pool.shutdown(cancel_futures=True)
        if self._pictures:
            self._pictures.close()

    def stream(self, parts: Iterable[pa.RecordBatch]) -> Iterator[Part]:
        """Each part's errors and embeddings, in order; a part is taken while earlier ones are computed."""
        for clip in self._clips:
            clip.reset()
        waiting: deque[Part] = deque()
        queue: deque[tuple[Callable[[], _Block], Part, int]] = deque()
        for pairs in parts:
            counts = [int(_text_lists.lengths(pairs[name]).sum()) for name in self._wants.others]
            part = Part(pairs.num_rows, [Embedded.of(pairs.num_rows, counts) for _ in self._clips])
            part.begun = [0] * len(counts)
            waiting.append(part)
            start = 0
            for piece in batches(pairs, BLOCK):
                part.blocks += 1
                queue.append((self._begin(piece), part, start))
                start += piece.num_rows
                while len(queue) > self._most:
                    self._take(*queue.popleft())
            yield from self._arrived(waiting)
        while queue:
            self._take(*queue.popleft())
        for clip in self._clips:
            clip.flush()
        yield from waiting

    def _begin(self, piece: pa.RecordBatch) -> Callable[[], _Block]:
        """Have a block prepared; the answer is waited for by the call."""
        if self._pool is None:
            return lambda: self._prepare(piece)
        future: Future[_Block] = self._pool.submit(self._prepare, piece)
        return future.result

    def _take(self, prepared: Callable[[], _Block], part: Part, start: int) -> None:
        """Give a block to the models."""
        block = prepared()
        part.errors += block.errors
        for clip, own in zip(self._clips, part.models, strict=True):
            if clip.wanted in block.pictures:
                pictures, rows = block.pictures[clip.wanted]
                clip.put_images(pictures, own.image, start + rows)
                if self._wants.mirrored:
                    clip.put_images(pictures, own.mirrored, start + rows, mirrored=True)
            clip.put_texts(block.ids[clip.tokens.key], own.text, start + block.text_rows)
            if found := block.cut.get(clip.tokens.key):
                own.cut[start + found[1]] = found[0]
            if clip.wanted in block.has_picture:
                own.has_picture[start : start + len(block.errors)] = block.has_picture[clip.wanted]
            for begun, one, rows_of in zip(part.begun, block.others, own.others, strict=True):
                clip.put_texts(one.ids[clip.tokens.key], rows_of, begun + one.at)
        part.begun = [begun + one.count for begun, one in zip(part.begun, block.others, strict=True)]
        part.blocks -= 1

    def _arrived(self, waiting: deque[Part]) -> Iterator[Part]:
        """The first parts that are complete; half-full batches are run where too many wait for them."""
        if sum(part.rows for part in waiting) > self._most_waiting and not waiting[0].blocks:
            for clip, own in zip(self._clips, waiting[0].models, strict=True):
                clip.flush(not own.has_all_images, not own.has_all_texts)
        while (
            waiting
            and not waiting[0].blocks
            and all(own.has_all_images and own.has_all_texts for own in waiting[0].models)
        ):
            yield waiting.popleft()

    def _prepare(self, piece: pa.RecordBatch) -> _Block:
        """Decode and tokenize a block; only what is needed of a pair that can be scored."""
        wants, rows = self._wants, piece.num_rows
        decoded: list[list[Any]] = [[None]] * rows
        if self._pictures:
            decoded = [list(self._pictures.of(image.as_py())) for image in piece["image"]]
        texts = piece["text"].to_pylist() if wants.texts else ["-"] * rows
        has_image = np.array([[not isinstance(found, str) for found in kinds] for kinds in decoded], bool)
        has_text = np.array([bool(text and text.strip()) for text in texts], bool)
        has_any = np.asarray(has_image.any(1), bool)
        others = [self._others(piece[name], has_any) for name in wants.others]
        is_wanted = has_text | wants.singles
        for rows_of, _ in others:
            is_wanted[rows_of] = True
        pictures = self._stacked(decoded, has_image & is_wanted[:, None]) if wants.images else {}
        text_rows = np.flatnonzero(has_text & (has_any | wants.singles)) if wants.texts else _NONE
        ids, cut = self._tokenized(texts, text_rows, np.flatnonzero(has_text) if wants.texts else _NONE)
        firsts = [kinds[0] for kinds in decoded]
        errors = [d if isinstance(d, str) else None if t else "no_text" for d, t in zip(firsts, has_text, strict=True)]
        has_picture = {kind: has_image[:, k] for k, kind in enumerate(self._kinds)} if wants.images else {}
        return _Block(errors, pictures, ids, text_rows, cut, has_picture, [other for _, other in others])

    def _others(self, column: pa.Array, has_image: NDArray[np.bool_]) -> tuple[NDArray[np.int64], _Others]:
        """A further column of texts of a block, and the rows that have any text to embed."""
        flat, rows = _text_lists.flat(column)
        texts = flat.to_pylist()
        at = np.flatnonzero(np.array([bool(text and text.strip()) for text in texts], bool) & has_image[rows])
        chosen = [texts[i] for i in at]
        return rows[at], _Others(len(texts), {key: tokens.ids(chosen) for key, tokens in self._tokens.items()}, at)

    def _stacked(
        self, decoded: Sequence[Any], wanted: NDArray[np.bool_]
    ) -> dict[Preprocess, tuple[Pixels, NDArray[np.int64]]]:
        """The pictures that are wanted by kind, uint8[n, 3, height, width], and their rows."""
        found = {}
        for k, kind in enumerate(self._kinds):
            rows = np.flatnonzero(wanted[:, k])
            if len(rows):
                found[kind] = np.stack([decoded[int(i)][k] for i in rows]), rows
        return found

    def _tokenized(
        self, texts: Sequence[str | None], wanted: NDArray[np.int64], counted: NDArray[np.int64]
    ) -> tuple[dict[Key, Ids], dict[Key, Cut]]:
        """Tokens of the rows wanted; where cuts are counted, those of the rows counted."""
        ids: dict[Key, Ids] = {}
        cuts: dict[Key, Cut] = {}
        for key, tokens in self._tokens.items():
            if self._wants.cut:
                every, cut = tokens.ids_and_cut([texts[i] or "" for i in counted])
                ids[key], cuts[key] = every[np.searchsorted(counted, wanted)], (cut, counted)
            else:
                ids[key] = tokens.ids([texts[i] or "" for i in wanted])
        return ids, cuts


_NONE = np.zeros(0, np.int64)


def decoders(asked: int | None, device: str, workers_per_gpu: int) -> int:
    """Threads that decode: as many as asked for, else a GPU's share of the cores, none beside a model on a CPU."""
    if asked is not None:
        return asked
    if device != "cuda":
        return 0
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    gpus = len([path for path in Path("/dev").glob("nvidia[0-9]*") if path.name[6:].isdigit()]) or 1
    return max(1, cores // (gpus * workers_per_gpu))


def one_torch_thread() -> None:
    """Decoders run beside each other already."""
    import torch

    torch.set_num_threads(1)
