"""Write one part of an export: what all formats share, samples with their keys and captions, and notes for a resume."""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pairsieve.pipelines.export_cut import Part, Slice
from pairsieve.pipelines.export_settings import Captions
from pairsieve.pipelines.export_source import groups
from pairsieve.pipelines.export_survey import images_of, kind_of, read_rows
from pairsieve.pipelines.export_texts import texts_of
from pairsieve.pipelines.reshard_job import FileEntry
from pairsieve.pipelines.reshard_write import Whole
from pairsieve.pipelines.store import Store
from pairsieve.schemas import columns, uid
from pairsieve.schemas.run import DatasetFile


@dataclass(frozen=True)
class Rule:
    """Which text of a pair is its caption: the column, which of several, the seed of a draw."""

    text: str
    captions: Captions
    seed: int


@dataclass(frozen=True)
class Samples:
    """Some samples of a part in order: their rows, their keys, their captions (none where there is no rule)."""

    table: pa.Table
    keys: list[str]
    captions: list[str]

    def images(self) -> Iterator[tuple[str, memoryview]]:
        """The ending of its file, and the bytes, of each image."""
        for image in images_of(self.table):
            assert image is not None  # the survey left such rows out
            yield ending_of(kind_of(image) or ""), image


@dataclass
class Writer(ABC):
    """Write a part of an export, and note it in ``folder`` for an export that is stopped."""

    run: Store
    files: tuple[DatasetFile, ...]
    out: Store
    folder: str
    names: tuple[str, ...]
    """Columns to read."""
    rule: Rule | None

    def __call__(self, part: Part) -> FileEntry:
        """Write it; a part that a stopped export has finished is taken as it is."""
        note = f"{self.folder}/{part.index:05d}.part.json"
        if self.out.exists(note):
            known = FileEntry.model_validate(json.loads(self.out.read(note)))
            if self.is_whole(known):
                return known
            self.out.remove(note)
        entry = self.write(part)
        self.out.write_json(note, entry.model_dump(mode="json"))
        return entry

    @abstractmethod
    def name_of(self, part: Part) -> str:
        """Its file, or its folder."""

    @abstractmethod
    def write(self, part: Part) -> FileEntry:
        """Write the samples of a part."""

    def is_whole(self, entry: FileEntry) -> bool:
        """Whether what was written is as it was."""
        return Whole(self.out)(entry)

    def samples(self, part: Part) -> Iterator[Samples]:
        """The samples of a part, those of one row group at a time."""
        for one in part.slices:
            rows, again = self._rows(one)
            for table, wanted in groups(self.run, self.files[one.file], self.names, rows):
                times = again[np.searchsorted(rows, wanted)]
                yield self._samples(table, one.number, times)

    def _rows(self, one: Slice) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The rows of a slice, and which of its uid's each is."""
        samples, again = read_rows(self.out, self.folder, one.file)
        rows = np.flatnonzero(samples > one.number)[one.start : one.start + one.count]
        times = again[rows].astype(np.int64)
        is_first = times == rows  # rows of the file's first uid, which earlier files may hold too
        return rows, np.where(is_first, times + one.before, times)

    def _samples(self, table: pa.Table, number: int, times: NDArray[np.int64]) -> Samples:
        uids = table["uid"].combine_chunks()
        keys = [key_of(*each) for each in zip(uids.to_pylist(), times.tolist(), [number] * len(times), strict=True)]
        return Samples(table, keys, self._captions(table, uids, number, times))

    def _captions(self, table: pa.Table, uids: pa.Array, number: int, times: NDArray[np.int64]) -> list[str]:
        if self.rule is None:
            return []
        hashes = uid.copy_hash(uid.keyed_hash(uids, uid.draw_seed(self.rule.seed)), times)
        return texts_of(table[self.rule.text]).chosen(self.rule.captions, number, hashes)


def key_of(uid: str, again: int, number: int) -> str:
    """A name that no other sample has: the uid, ``uid-1`` with its second caption, ``uid-0-1`` where it comes again.

    Without a dot, at which readers of tars cut names.
    """
    if again:
        return f"{uid}-{number}-{again}"
    return f"{uid}-{number}" if number else uid


def ending_of(kind: str) -> str:
    """The ending of an image's file name."""
    return {"jpeg": "jpg", "tiff": "tif"}.get(kind, kind)


def light(kinds: Mapping[str, pa.DataType]) -> tuple[str, ...]:
    """The columns that are short: no bytes, no embeddings."""
    return tuple(name for name, kind in kinds.items() if not columns.is_heavy(kind) or _is_short(kind))


def _is_short(kind: pa.DataType) -> bool:
    return columns.is_listed(kind) or columns.is_texts(kind)
