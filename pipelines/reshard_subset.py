"""A DataComp subset to take samples by: sorted ``u8,u8`` records, mapped, checked once from end to end.

A record that stands there k times means "use this sample k times".  Looking up the uids of a shard is a
binary search of all of them at once: about 0.5 µs each in a subset of 20 M records.
"""

import hashlib
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pairsieve.pipelines.pools import list_files
from pairsieve.pipelines.storage_errors import first_line
from pairsieve.pipelines.store import is_local
from pairsieve.schemas.errors import UserError
from pairsieve.schemas.uid import PAIR_DTYPE

CHUNK = 1_000_000
"""Records looked at together."""


@dataclass
class Subset:
    """A subset file, local or any fsspec URL.  Travels to workers by name; each maps it when it first looks."""

    path: str
    _mapped: Any = field(default=None, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        """Without what is mapped."""
        return {"path": self.path, "_mapped": None}

    @property
    def records(self) -> NDArray[np.void]:
        """All records; raises ``UserError`` for a file that is no subset."""
        if self._mapped is None:
            self._mapped = _map(self.path)
        return np.asarray(self._mapped)

    def chunks(self) -> Iterator[tuple[int, NDArray[np.uint64], NDArray[np.uint64]]]:
        """First record, high and low halves of ``CHUNK`` records after another."""
        for start in range(0, len(self.records), CHUNK):
            part = self.records[start : start + CHUNK]
            yield start, part["f0"].copy(), part["f1"].copy()

    def check(self) -> "Checked":
        """Read it all: digest, distinct uids; raises ``UserError`` at the first record that is out of order."""
        digest, uids = hashlib.sha256(), 0
        last: tuple[Any, Any] | None = None
        for start, high, low in self.chunks():
            digest.update(np.stack([high, low], axis=1).tobytes())
            is_less, is_same = _compare(high[:-1], low[:-1], high[1:], low[1:])
            first = last is None or last < (high[0], low[0])
            if not first and last != (high[0], low[0]):
                self._refuse(start)
            if not (is_less | is_same).all():
                self._refuse(start + 1 + int(np.flatnonzero(~(is_less | is_same))[0]))
            uids += int(is_less.sum()) + first
            last = (high[-1], low[-1])
        if not uids:
            raise UserError(f"{self.path}: names no sample at all; is it the right file?")
        return Checked(len(self.records), uids, digest.hexdigest())

    def _refuse(self, record: int) -> None:
        name = self.path.rsplit("/", 1)[-1]
        fix = f"np.save('sorted.npy', np.sort(np.load('{name}')))"
        raise UserError(
            f"{self.path}: record {record} is smaller than record {record - 1}, but a subset is sorted; sort it: {fix}"
        )

    def find(self, uids: NDArray[np.void]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """int64[n] first record of each uid, and int64[n] how many there are (0: it is not wanted)."""
        first = self._bound(uids, is_right=False)
        count = np.zeros(len(uids), np.int64)
        inside = np.flatnonzero(first < len(self.records))
        same = inside[self.records[first[inside]] == uids[inside]]
        count[same] = self._bound(uids[same], is_right=True) - first[same]
        return first, count

    def _bound(self, uids: NDArray[np.void], is_right: bool) -> NDArray[np.int64]:
        """Binary search of many at once; numpy's own would copy the whole file to search a half of it."""
        low, high = np.zeros(len(uids), np.int64), np.full(len(uids), len(self.records), np.int64)
        wanted = (np.ascontiguousarray(uids["f0"]), np.ascontiguousarray(uids["f1"]))
        for _ in range(len(self.records).bit_length()):
            middle = (low + high) >> 1
            record = self.records[np.minimum(middle, len(self.records) - 1)]
            is_less, is_same = _compare(record["f0"], record["f1"], *wanted)
            goes_up = (is_less | is_same if is_right else is_less) & (low < high)
            low = np.where(goes_up, middle + 1, low)
            high = np.where(goes_up, high, middle)
        return low


@dataclass(frozen=True)
class Checked:
    """What a subset holds: records, distinct uids, SHA-256 of the records."""

    records: int
    uids: int
    sha256: str


def _compare(
    high: NDArray[np.uint64], low: NDArray[np.uint64], other_high: NDArray[np.uint64], other_low: NDArray[np.uint64]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Whether records are smaller than others, and whether they are the same."""
    is_level = high == other_high
    return (high < other_high) | (is_level & (low < other_low)), is_level & (low == other_low)


def open_subset(path: str) -> Subset:
    """A subset that is there and of the right type; raises ``UserError``."""
    subset = Subset(path)
    _ = subset.records
    return subset


def _map(path: str) -> NDArray[np.void]:
    fs, files = list_files(path)
    if len(files) != 1:
        raise UserError(f"{path}: {len(files)} files; name one subset")
    try:
        found = _load(fs, files[0])
    except (ValueError, OSError, EOFError) as error:
        raise UserError(f"{path}: no readable .npy file: {first_line(error)}; write it with np.save") from None
    if found.dtype != PAIR_DTYPE or found.ndim != 1:
        step = "write np.array([(high, low), ...], 'u8,u8')"
        raise UserError(f"{path}: holds {found.dtype} of shape {found.shape}, not DataComp's 'u8,u8' records; {step}")
    return found


def _load(fs: Any, path: str) -> NDArray[Any]:
    """Mapped; a remote file from a copy that has no name."""
    if is_local(fs):
        return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
    with tempfile.NamedTemporaryFile() as copy:
        with fs.open(path, "rb") as file:
            shutil.copyfileobj(file, copy, 16_777_216)
        copy.flush()
        return np.asarray(np.load(copy.name, mmap_mode="r", allow_pickle=False))
