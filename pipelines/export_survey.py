"""Look at every row of a dataset once: which can be exported, and how many samples each gives.

So that tars are of equal size though rows are left out, and keys are distinct though uids come again.  Cost: the
dataset is read once more, 10 µs an image; eight bytes of work space a row.
"""

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pairsieve.filters._headers import HEAD_BYTES, sniff
from pairsieve.pipelines.export_settings import Captions
from pairsieve.pipelines.export_source import check, groups
from pairsieve.pipelines.export_texts import texts_of
from pairsieve.pipelines.reshard_flaws import Flaws
from pairsieve.pipelines.store import Store
from pairsieve.schemas.columns import IMAGE
from pairsieve.schemas.run import DatasetFile

NO_IMAGE, NO_TEXT, NOT_AN_IMAGE = "no_image", "no_text", "not_an_image"
Counts = NDArray[np.uint32]


@dataclass(frozen=True)
class Item:
    """A file of the dataset by its number."""

    index: int
    entry: DatasetFile


@dataclass(frozen=True)
class Seen:
    """What one file of the dataset gives.

    ``rounds`` counts the rows that give at least 1, 2, … samples.  The uids at both ends, and how often the last
    one stands there, tell on which number a uid goes on that comes again in the next file.
    """

    index: int
    rows: int
    rounds: tuple[int, ...]
    first: str
    last: str
    trail: int
    flaws: Mapping[str, int] = field(default_factory=dict)
    flawed: Mapping[str, Sequence[str]] = field(default_factory=dict)


@dataclass
class Survey:
    """Look at a file; leaves ``<file>.rows.npy`` in ``folder``: samples of each row, and which of its uid's it is.

    ``text`` is the column that a row needs a caption in, or None; ``captions`` None: a row is one sample.
    """

    run: Store
    out: Store
    folder: str
    has_image: bool
    image_kinds: tuple[str, ...]
    text: str | None
    captions: Captions | None

    def __call__(self, item: Item) -> Seen:
        """What a stopped export has found, or look."""
        note = f"{self.folder}/{item.index:05d}.seen.json"
        if self.out.exists(note):
            known = json.loads(self.out.read(note))
            return Seen(**{**known, "rounds": tuple(known["rounds"])})
        seen = self._look(item)
        self.out.write_json(note, asdict(seen))
        return seen

    def _look(self, item: Item) -> Seen:
        check(self.run, item.entry)
        names = ["uid", *([IMAGE] if self.has_image else []), *([self.text] if self.text else [])]
        samples, again, flaws = list[Counts](), list[Counts](), Flaws()
        first, last, trail = "", "", 0
        for table, _ in groups(self.run, item.entry, names, is_checked=self.run.local):
            uids = table["uid"].combine_chunks()
            samples.append(self._counts(table, uids, flaws))
            again.append(occurrences(uids, last, trail))
            first, last, trail = first or uids[0].as_py(), uids[-1].as_py(), int(again[-1][-1]) + 1
        counts = np.concatenate(samples)
        self.out.write(rows_name(self.folder, item.index), _packed(np.stack([counts, np.concatenate(again)])))
        return Seen(item.index, len(counts), _rounds(counts), first, last, trail, flaws.counts, flaws.names)

    def _counts(self, table: pa.Table, uids: pa.Array, flaws: Flaws) -> Counts:
        """Samples of each row; 0 for one that is left out, which is counted by its reason."""
        found = np.ones(len(uids), np.uint32)
        if self.text is not None:
            counts = texts_of(table[self.text]).counts
            found = (counts if self.captions == "each" else np.minimum(counts, 1)).astype(np.uint32)
        for row, flaw in enumerate(self._image_flaws(table)):
            if flaw is not None or not found[row]:
                flaws.add(flaw or NO_TEXT, uids[row].as_py())
                found[row] = 0
        return found

    def _image_flaws(self, table: pa.Table) -> list[str | None]:
        if not self.has_image:
            return [None] * len(table)
        return [image_flaw(image, self.image_kinds) for image in images_of(table)]


def images_of(table: pa.Table) -> list[memoryview | None]:
    """The bytes of each image, without a copy; None for null."""
    return [image for chunk in table[IMAGE].chunks for image in _views(chunk)]


def _views(images: pa.Array) -> Iterator[memoryview | None]:
    kind = np.int64 if pa.types.is_large_binary(images.type) else np.int32
    _, offsets, values = images.buffers()
    places = np.frombuffer(offsets, kind)[images.offset : images.offset + len(images) + 1].tolist()
    content = memoryview(values or b"")
    for is_valid, (start, stop) in zip(images.is_valid().to_pylist(), pairwise(places), strict=True):
        yield content[start:stop] if is_valid else None


def image_flaw(image: memoryview | None, kinds: Sequence[str]) -> str | None:
    """Why an image is not exported, by its first bytes; None where it is."""
    if not image:
        return NO_IMAGE
    kind = kind_of(image)
    if kind is None:
        return NOT_AN_IMAGE
    return None if kind in kinds else f"format_{kind}"


def kind_of(image: memoryview) -> str | None:
    """The format that the first bytes begin."""
    return sniff(image[:HEAD_BYTES].tobytes())


def occurrences(uids: pa.Array, last: str = "", before: int = 0) -> Counts:
    """How many rows before each, side by side with it, have its uid; ``before`` rows of uid ``last`` precede them."""
    if not len(uids):
        return np.zeros(0, np.uint32)
    is_new = pc.not_equal(uids.slice(1), uids.slice(0, len(uids) - 1)).to_numpy(zero_copy_only=False)
    places = np.arange(len(uids))
    starts = np.where(np.concatenate([[uids[0].as_py() != last], is_new]), places, -1)
    began = np.maximum.accumulate(starts)
    return np.where(began < 0, places + before, places - began).astype(np.uint32)


def _rounds(samples: Counts) -> tuple[int, ...]:
    """Rows with at least 1, 2, … samples."""
    exactly = np.bincount(samples)
    return tuple(np.cumsum(exactly[::-1])[::-1][1:].tolist())


def rows_name(folder: str, index: int) -> str:
    """Where the samples of each row of a file stand."""
    return f"{folder}/{index:05d}.rows.npy"


def _packed(array: NDArray[Any]) -> bytes:
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


def read_rows(store: Store, folder: str, index: int) -> tuple[Counts, Counts]:
    """Samples of each row of a file, and which of its uid's each row is."""
    samples, again = np.load(io.BytesIO(store.read(rows_name(folder, index))), allow_pickle=False)
    return samples, again
