"""Images on their way to captions: decoded ahead of the device, encoded, begun, written, handed back in order.

Batches are formed across the parts that are given.  An image's captions depend on the image, its uid and the settings
alone: shapes are fixed (``_decode_slots``), and what captions are drawn by is a keyed hash of (seed, uid, number of the
caption, place of the token).  Where the device's memory does not hold the slots, they are halved and what was in them
is written again.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pairsieve.filters._caption_texts import clean
from pairsieve.filters._captioner import Captioner
from pairsieve.filters._clip_batches import repeatable
from pairsieve.filters._clip_flow import AHEAD, one_torch_thread
from pairsieve.filters._decode import Decoding
from pairsieve.filters._decode_slots import Slots
from pairsieve.filters._decode_tree import Begun
from pairsieve.filters._pictures_shared import CPU_IMAGES, GPU_IMAGES, Encodings, Pictures, images_at_once
from pairsieve.filters._preprocess import QUIET
from pairsieve.filters._shared import Shared
from pairsieve.filters.base import batches
from pairsieve.schemas.errors import UserError
from pairsieve.schemas.uid import draw_seed, fractions, item_hash, keyed_hash

BLOCK = 16
"""Pairs that a thread takes at once."""

Texts = list[str | None]


@dataclass
class Part:
    """A part on its way: the captions of its images, or why there are none."""

    captions: list[Texts | None]
    errors: list[str | None]
    missing: int

    @staticmethod
    def of(rows: int) -> "Part":
        """Nothing yet."""
        return Part([None] * rows, [None] * rows, rows)

    def take(self, row: int, captions: Texts) -> None:
        """An image's captions; a model that wrote nothing at all is an error."""
        has_any = any(captions)
        self.captions[row] = captions if has_any else None
        self.errors[row] = None if has_any else "no_caption"
        self.missing -= 1

    def refuse(self, row: int, why: str) -> None:
        """An image that gets no captions."""
        self.errors[row] = why
        self.missing -= 1


@dataclass(frozen=True)
class _Image:
    """An image that is to be captioned, and where its captions go."""

    part: Part
    row: int
    name: bytes
    picture: Any
    numbers: NDArray[np.float64]


@dataclass
class _Waiting:
    """An image after its prompt that waits for a slot."""

    image: _Image
    begun: Begun


Prepared = list[tuple[bytes, Any]]
"""Of a block: each image's digest and picture, or why there is none."""


@dataclass
class _Work:
    """What is on its way in one stream."""

    pending: deque[_Image] = field(default_factory=deque)
    waiting: deque[_Waiting] = field(default_factory=deque)
    slots: dict[int, Slots[_Image]] = field(default_factory=dict)  # by the room of a prompt


class Flow:
    """Threads and a captioner; one stream at a time."""

    def __init__(
        self,
        captioner: Captioner,
        decoding: Decoding,
        seed: int,
        slots: int,
        threads: int,
        shared: Shared | None = None,
    ) -> None:
        """Threads are started at once; none for 0."""
        self._captioner, self._decoding, self._seed, self._slots = captioner, decoding, seed, slots
        self._at_once = GPU_IMAGES if captioner.device.type == "cuda" else CPU_IMAGES
        self._pictures: Pictures | None = None
        self._encodings: Encodings | None = None
        if captioner.wanted is not None:
            self._pictures = Pictures(shared, [captioner.wanted])
            kind = captioner.tower_kind()
            self._at_once = images_at_once(captioner.wanted, captioner.device.type)
            self._encodings = Encodings(shared, captioner.tower, kind, captioner.device, self._at_once)
        self._begin_at_once = self._at_once
        self._pool = ThreadPoolExecutor(threads, "pairsieve-decode", one_torch_thread) if threads else None
        self._ahead = AHEAD * threads
        self._work = _Work()

    def close(self) -> None:
        """Stop the threads."""
        if self._pool:
            self._pool.shutdown(cancel_futures=True)
        if self._pictures and self._encodings:
            self._pictures.close()
            self._encodings.close()

    def stream(self, parts: Iterable[pa.RecordBatch]) -> Iterator[Part]:
        """Each part's captions, in order; a part is taken while earlier ones are computed."""
        self._work = _Work()
        order: deque[Part] = deque()
        queue: deque[tuple[Callable[[], Prepared], pa.RecordBatch, Part, int]] = deque()
        for pairs in parts:
            part = Part.of(pairs.num_rows)
            order.append(part)
            start = 0
            for piece in batches(pairs, BLOCK):
                queue.append((self._begin(piece), piece, part, start))
                start += piece.num_rows
                while len(queue) > self._ahead:
                    self._take(*queue.popleft())
            while order and not order[0].missing:
                yield order.popleft()
        while queue:
            self._take(*queue.popleft())
        self._finish()
        yield from order

    def _begin(self, piece: pa.RecordBatch) -> Callable[[], Prepared]:
        """Have a block prepared; the answer is waited for by the call."""
        if self._pool is None:
            return lambda: self._prepare(piece)
        future: Future[Prepared] = self._pool.submit(self._prepare, piece)
        return future.result

    def _prepare(self, piece: pa.RecordBatch) -> Prepared:
        return [self._prepared(image.as_py()) for image in piece["image"]]

    def _prepared(self, data: bytes | None) -> tuple[bytes, Any]:
        """An image's digest and picture, or why there is none."""
        if data is None:
            return b"", "no_image"
        if self._pictures is not None:
            name = self._pictures.name(data)
            return name, self._pictures.of(data, name)[0]
        return b"", by_processor(self._captioner.prepare, data)

    def _take(self, prepared: Callable[[], Prepared], piece: pa.RecordBatch, part: Part, start: int) -> None:
        """Give a block's images to the captioner."""
        numbers = numbers_of(piece["uid"], self._seed, self._decoding)
        for row, (name, picture) in enumerate(prepared()):
            if isinstance(picture, str):
                part.refuse(start + row, picture)
            else:
                self._work.pending.append(_Image(part, start + row, name, picture, numbers[row]))
        while len(self._work.pending) >= self._at_once:
            self._encode()
            self._write(until_empty=False)

    def _finish(self) -> None:
        """Everything has its captions then."""
        work = self._work
        while work.pending or work.waiting or any(not slots.is_empty for slots in work.slots.values()):
            if work.pending:
                self._encode()
            self._write(until_empty=not work.pending)

    def _encode(self) -> None:
        """The next images up to the end of their prompts."""
        work = self._work
        images = [work.pending.popleft() for _ in range(min(self._at_once, len(work.pending)))]
        try:
            with repeatable():
                begun = self._begun(images)
        except _out_of_memory():
            work.pending.extendleft(reversed(images))
            self._shrink()
            return
        work.waiting.extend(_Waiting(image, one) for image, one in zip(images, begun, strict=True))

    def _begun(self, images: Sequence[_Image]) -> list[Begun]:
        """The images after their prompts, in batches of one shape."""
        if self._encodings is None:
            return self._captioner.begin([image.picture for image in images])
        encoded = self._encodings.of([image.name for image in images], [image.picture for image in images])
        begun: list[Begun] = []
        for start in range(0, len(encoded), self._begin_at_once):
            some = encoded[start : start + self._begin_at_once]
            padded = some + [some[-1]] * (self._begin_at_once - len(some))
            begun += self._captioner.begin(padded)[: len(some)]
        return begun

    def _write(self, until_empty: bool) -> None:
        """Fill the slots and write, until those that wait are in, or everything is done."""
        work = self._work
        try:
            with repeatable():
                while work.waiting:
                    slots = self._slots_for(work.waiting[0].begun)
                    if slots.has_room:
                        one = work.waiting[0]
                        self._done(slots.put(one.image, one.begun, one.image.numbers))
                        work.waiting.popleft()
                    else:
                        self._done(slots.step())
                for slots in work.slots.values() if until_empty else ():
                    while not slots.is_empty:
                        self._done(slots.step())
        except _out_of_memory():
            self._shrink()

    def _slots_for(self, begun: Begun) -> Slots[_Image]:
        if begun.room not in self._work.slots:
            self._work.slots[begun.room] = Slots(self._captioner, self._decoding, self._slots, begun.room)
        return self._work.slots[begun.room]

    def _shrink(self) -> None:
        """Halve what is computed at once; what was on its way begins again."""
        if self._slots == 1:
            raise UserError("the model does not fit into the device's memory with one image; take a smaller one")
        self._slots = max(1, self._slots // 2)
        self._begin_at_once = max(1, self._begin_at_once // 2)
        work = self._work
        again = {id(image): image for slots in work.slots.values() for image in slots.owners()}
        again |= {id(one.image): one.image for one in work.waiting}  # one of them may be in a slot already
        work.pending.extendleft(reversed(again.values()))
        work.slots.clear()
        work.waiting.clear()
        _free_memory()

    def _done(self, done: Sequence[tuple[_Image, list[list[int]]]]) -> None:
        for image, rows in done:
            image.part.take(image.row, [clean(self._captioner.text(tokens)) if tokens else None for tokens in rows])


def numbers_of(uids: pa.Array, seed: int, decoding: Decoding) -> NDArray[np.float64]:
    """[n, rows, most]: what each token of each caption is drawn by."""
    rows, most = decoding.rows, decoding.most
    if decoding.kind != "nucleus":
        return np.zeros((len(uids), rows, most))
    pairs = keyed_hash(uids, draw_seed(seed))
    captions = item_hash(pairs[:, None], np.arange(1, rows + 1, dtype=np.uint64)[None])
    return fractions(item_hash(captions[:, :, None], np.arange(most, dtype=np.uint64)[None, None]))


def by_processor(prepare: Callable[[bytes], Any], data: bytes) -> Any:
    """A model's own inputs of an image, or why there are none."""
    from PIL import Image

    try:
        with QUIET:
            return prepare(data)
    except Image.DecompressionBombError:
        return "too_many_pixels"
    except Exception:  # decoders and processors raise whatever a hostile file leads them to
        return "broken_image"


def _out_of_memory() -> type[BaseException]:
    import torch

    return torch.OutOfMemoryError


def _free_memory() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()
