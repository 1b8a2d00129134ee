"""The kept uids as DataComp's subset file: sorted ``u8,u8`` records in ``.npy``, written in bounded memory.

Each shard's records are a work file of 16 bytes a record.  They are sorted in memory up to 64 MB;
more are split by their leading bits into temporary files first.  About 0.1 µs a record.
"""

import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pairsieve.pipelines.store import Store
from pairsieve.schemas import uid
from pairsieve.schemas.errors import AccountingError

FOLDER = "_work/subset"
RECORDS = 1 << 22
"""Sorted at once; with what sorting needs, some 150 MB."""
MOST_COPIES = 1_000_000
_BYTES = uid.PAIR_DTYPE.itemsize
_BITS = 8

Numbers = NDArray[np.void]


def write_records(store: Store, shard: int, kept: Numbers, copies: pa.Array | None) -> int:
    """Write the records of a shard's kept pairs, each as often as ``copies`` says; gives their number."""
    found = kept if copies is None else np.repeat(kept, _checked(copies))
    if len(found):
        store.write(f"{FOLDER}/{shard:05d}.bin", found.tobytes())
    return len(found)


def _checked(copies: pa.Array) -> NDArray[np.int64]:
    """How often each pair is wanted; raises ``AccountingError`` rather than lose a kept pair."""
    least = pc.min_max(copies)
    if copies.null_count or (len(copies) and not 1 <= least["min"].as_py() <= least["max"].as_py() <= MOST_COPIES):
        raise AccountingError(
            f"output.copies: a kept pair has null, less than 1 or more than {MOST_COPIES:,} copies; "
            "drop such pairs with '- where', as in where: 'copies >= 1'"
        )
    return np.asarray(copies.to_numpy(zero_copy_only=False), np.int64)


def write_subset(store: Store, name: str, count: int) -> None:
    """Write the file of ``count`` records from the shards' work files, which go.

    A uid that stands there twice means to DataComp "use it twice".
    """
    sizes = store.sizes(FOLDER, ".bin")
    if sum(sizes.values()) != count * _BYTES:
        raise AccountingError(f"{FOLDER} does not hold the {count:,} records of the subset; run again")
    pieces = (np.frombuffer(store.read(f"{FOLDER}/{file}"), uid.PAIR_DTYPE) for file in sizes)
    with store.create(name, exclusive=False) as out, tempfile.TemporaryDirectory() as folder:
        header = {"descr": np.lib.format.dtype_to_descr(uid.PAIR_DTYPE), "fortran_order": False, "shape": (count,)}
        np.lib.format.write_array_header_1_0(out, header)
        for part in _in_order(pieces, count, 0, Path(folder)):
            out.write(part.data)
    store.remove(FOLDER)


def _in_order(pieces: Iterable[Numbers], count: int, depth: int, folder: Path) -> Iterator[Numbers]:
    """The records in order, in parts that fit in memory; ``depth`` leading bits are alike."""
    if depth == 8 * _BYTES:  # one uid, very often
        yield from pieces
    elif count <= RECORDS:
        held = list(pieces)
        yield uid.sorted_subset(held[0] if len(held) == 1 else np.concatenate([_EMPTY, *held]))
    else:
        for path in _split(pieces, depth, folder):
            records = path.stat().st_size // _BYTES
            inside = path.with_suffix(".parts")
            inside.mkdir()
            yield from _in_order(_read(path), records, depth + _BITS, inside)
            path.unlink()


_EMPTY: Numbers = np.empty(0, uid.PAIR_DTYPE)


def _split(pieces: Iterable[Numbers], depth: int, folder: Path) -> list[Path]:
    """Files of records with the same next eight bits, in their order."""
    paths = [folder / f"{digit:03d}" for digit in range(1 << _BITS)]
    half, shift = ("f0", 56 - depth) if depth < 64 else ("f1", 120 - depth)
    for piece in pieces:
        digits = (piece[half] >> np.uint64(shift)).astype(np.uint8)
        order = np.argsort(digits, kind="stable")
        ends = np.cumsum(np.bincount(digits, minlength=len(paths)))
        ordered = piece[order]
        for path, start, end in zip(paths, [0, *ends[:-1]], ends, strict=True):
            if end > start:
                with path.open("ab") as file:
                    _write(file, ordered[start:end])
    return [path for path in paths if path.exists()]


def _write(file: IO[bytes], records: Numbers) -> None:
    file.write(records.tobytes())


def _read(path: Path) -> Iterator[Numbers]:
    """A file's records, some at a time."""
    with path.open("rb") as file:
        while content := file.read(max(1, RECORDS // 4) * _BYTES):
            yield np.frombuffer(content, uid.PAIR_DTYPE)
