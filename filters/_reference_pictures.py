"""Perceptual hashes of evaluation sets: from files of hashes, or measured on their images.

Hashes: ``.npy`` or a Parquet column, as 8 or 32 bytes, words of 64 bits, hex digits or booleans, the first bit first;
what ``near_duplicate_image`` stored, and what ImageHash prints.  Images: files, folders, tars, a Parquet column of
bytes.  Measuring takes 0.4 to 1.3 CPU-ms an image of 512 pixels; for large sets it is kept in the user's cache folder.

Files are hostile: nothing is unpickled, an image is decoded as any of the pool's, and what is read at once is bounded.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pairsieve.filters._cache import Arrays, mapped
from pairsieve.filters._hamming import Words, words
from pairsieve.filters._match_texts import is_text
from pairsieve.filters._phash_pictures import picture_hashes
from pairsieve.filters._picture_files import MOST_PICTURE_BYTES, picture_bytes, tar_pictures
from pairsieve.filters._reference_files import PARQUET, ROWS, check_size, column_of, readable
from pairsieve.filters._reference_hashes import MOST, PICTURES, Kind
from pairsieve.filters._tensors import MOST_BYTES, load_array
from pairsieve.schemas.errors import UserError

Bytes = NDArray[np.uint8]

USUAL_COLUMNS = ("phash", "image")
AT_ONCE = 64
"""Images that are read before they are hashed."""
CACHED_BYTES = 8_000_000
"""Sets of larger files are kept once they are measured."""
_NAMED = 3


@dataclass
class Gathered:
    """Hashes of a set, uint8[n, bytes] each, and what has none: how many of all, the first few by name."""

    parts: list[Bytes] = field(default_factory=list)
    seen: int = 0
    lost: list[str] = field(default_factory=list)
    lost_count: int = 0

    def add(self, hashes: Bytes, is_lost: NDArray[np.bool_], names: Sequence[str]) -> None:
        """Some more; the names are those of what is lost, the first few are enough."""
        self.seen += len(hashes)
        if self.seen > MOST:
            raise ValueError(f"more than {MOST:,} hashes; take fewer files")
        self.parts.append(hashes[~is_lost])
        self.lost_count += int(is_lost.sum())
        self.lost += names[: _NAMED - len(self.lost)]

    def arrays(self, bits: int) -> dict[str, NDArray[Any]]:
        """All of it, as arrays of numbers."""
        names = "\n".join(name.replace("\n", " ") for name in self.lost).encode(errors="replace")
        return {
            "hashes": np.concatenate([np.empty((0, bits // 8), np.uint8), *self.parts]),
            "counts": np.array([self.seen, self.lost_count], np.int64),
            "lost": np.frombuffer(names, np.uint8),
        }


def reference_hashes(
    sets: Mapping[str, Sequence[str]], key: str | None, kind: Kind
) -> tuple[Words, NDArray[np.int32], list[str]]:
    """uint64[n, words] of all sets, int32[n] the place of the set of each, and a line for each set that lost some.

    Raises ``UserError`` with set and file for what cannot be read, and for a set without any hash.
    """
    found, places, notes = [], [], []
    for place, (name, files) in enumerate(sets.items()):
        arrays = _measured(name, files, key, kind)
        seen, lost = (int(count) for count in arrays["counts"])
        told = f"{lost:,} of {seen:,} references have no hash (broken, too large, flat or null)"
        some = bytes(arrays["lost"]).decode(errors="replace").replace("\n", ", ")
        told += f": {some}{' and more' if lost > _NAMED else ''}" if some else ""
        if not len(arrays["hashes"]):
            raise UserError(f"references: {name}: {told if seen else 'holds no image'}; leave the set out")
        notes += [f"references: {name}: {told}; nothing is compared with these"] if lost else []
        found.append(words(arrays["hashes"]))
        places.append(np.full(len(found[-1]), place, np.int32))
    if (count := sum(map(len, found))) > MOST:
        raise UserError(f"references: {count:,} hashes, more than {MOST:,}; take fewer sets")
    return np.concatenate(found), np.concatenate(places), notes


def check_hashes(file: str, key: str | None, kind: Kind) -> None:
    """Refuse, before a run, a file that holds neither hashes nor images, as far as a look tells."""
    if file.lower().endswith(PICTURES):
        return
    with readable(file):
        if file.lower().endswith(".npy"):
            _rows_of(load_array(file), kind.bits, is_look=True)
        elif file.lower().endswith(PARQUET):
            with pq.ParquetFile(file) as source:
                _hash_column(source, key, kind.bits)
                if not source.metadata.num_rows:
                    raise ValueError("holds no row; leave it out")
        else:
            next(tar_pictures(file), None)


def _measured(name: str, files: Sequence[str], key: str | None, kind: Kind) -> Arrays:
    """The arrays of one set; read from the cache where measuring takes a while."""

    def make() -> Arrays:
        gathered = Gathered()
        for file in files:
            with readable(file):
                _gather(file, key, kind, gathered)
        return gathered.arrays(kind.bits)

    try:
        is_large = sum(Path(file).stat().st_size for file in files) > CACHED_BYTES
        return mapped(f"reference hashes 1, {kind}, {key}", files, make) if is_large else make()
    except UserError as error:
        raise UserError(f"references: {name}: {error}") from None


def _gather(file: str, key: str | None, kind: Kind, found: Gathered) -> None:
    """Add what one file holds; raises ``ValueError`` and what readers raise."""
    if file.lower().endswith(".npy"):
        hashes = _rows_of(load_array(file), kind.bits)
        found.add(hashes, np.zeros(len(hashes), np.bool_), ())
    elif file.lower().endswith(PARQUET):
        _gather_column(file, key, kind, found)
    elif file.lower().endswith(".tar"):
        _gather_pictures(((f"{file}: {name}", data) for name, data in tar_pictures(file)), kind, found)
    else:
        _gather_pictures([(file, picture_bytes(file))], kind, found)


def _gather_pictures(pictures: Any, kind: Kind, found: Gathered) -> None:
    """Hash images, some at a time, in as many threads as there are cores."""
    held: list[tuple[str, bytes | None]] = []
    for one in pictures:
        held.append(one)
        if len(held) == AT_ONCE:
            _hash(held, kind, found)
            held = []
    if held:
        _hash(held, kind, found)


def _hash(pictures: Sequence[tuple[str, bytes | None]], kind: Kind, found: Gathered) -> None:
    """Values that are as long as a hash are one; nothing so short is an image."""
    size = kind.bits // 8
    hashes, lost = np.zeros((len(pictures), size), np.uint8), np.zeros(len(pictures), np.bool_)
    is_hash = np.array([data is not None and len(data) == size for _, data in pictures])
    for i in np.flatnonzero(is_hash):
        hashes[i] = np.frombuffer(pictures[int(i)][1] or b"", np.uint8)
    if not is_hash.all():
        images = [data for (_, data), skip in zip(pictures, is_hash, strict=True) if not skip]
        hashes[~is_hash], lost[~is_hash] = _in_threads(images, kind)
    found.add(hashes, lost, [pictures[i][0] for i in np.flatnonzero(lost)[:_NAMED]])


def _in_threads(images: Sequence[bytes | None], kind: Kind) -> tuple[Bytes, NDArray[np.bool_]]:
    """As ``picture_hashes``; decoding leaves the interpreter to others."""
    size = -(-len(images) // min(len(images), 8, _cores()))
    parts = [images[at : at + size] for at in range(0, len(images), size)]
    with ThreadPoolExecutor(len(parts)) as pool:
        made = list(pool.map(lambda part: picture_hashes(part, kind.bits, kind.mirrored, kind.fast), parts))
    return np.concatenate([hashes for hashes, _ in made]), np.concatenate([lost for _, lost in made])


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _gather_column(file: str, key: str | None, kind: Kind, found: Gathered) -> None:
    """Add a column of a Parquet file; read as dictionaries, so that bytes are measured before they are unpacked."""
    with pq.ParquetFile(file) as source:
        name = _hash_column(source, key, kind.bits)
        check_size(source.metadata, name, MOST_BYTES)
        stored = source.schema_arrow.field(name).type
    is_plain = is_stored(stored, kind.bits)
    with pq.ParquetFile(file, read_dictionary=[] if is_plain or pa.types.is_struct(stored) else [name]) as source:
        first = 0
        for batch in source.iter_batches(ROWS if is_plain else AT_ONCE, columns=[name]):
            column = batch.column(0)
            if is_plain:
                hashes, lost = stored_hashes(column)
                found.add(hashes, lost, [f"{file}, row {first + int(i)}" for i in np.flatnonzero(lost)[:_NAMED]])
            else:
                names = [f"{file}, row {first + i}" for i in range(len(column))]
                _gather_pictures(zip(names, _values(column, kind.bits), strict=True), kind, found)
            first += len(column)


def is_stored(kind: pa.DataType, bits: int) -> bool:
    """Whether a column is of hashes as ``near_duplicate_image`` stores them, or of words."""
    is_bytes = pa.types.is_fixed_size_binary(kind) and kind.byte_width == bits // 8
    return bool(is_bytes or (kind == pa.uint64() and bits == 64))


def stored_hashes(column: pa.Array) -> tuple[Bytes, NDArray[np.bool_]]:
    """uint8[n, bytes] and bool[n], which are null, of a column for which ``is_stored`` holds."""
    lost = column.is_null().to_numpy(zero_copy_only=False)
    if pa.types.is_uint64(column.type):
        values = pc.fill_null(column, 0).to_numpy(zero_copy_only=False)
        return np.ascontiguousarray(values, ">u8").view(np.uint8).reshape(-1, 8), lost
    size = column.type.byte_width
    found = np.zeros((len(column), size), np.uint8)
    if column.buffers()[1] is not None:
        found[:] = np.frombuffer(column.buffers()[1], np.uint8, len(column) * size, column.offset * size).reshape(
            -1, size
        )
    return found, lost


def _values(column: pa.Array, bits: int) -> Iterator[bytes | None]:
    """Each row's hash or image; raises ``ValueError`` for a text that is no hash."""
    if pa.types.is_struct(column.type):
        column = column.field("bytes")
    for value in column:
        content = value.as_py() if value.is_valid else None
        if isinstance(content, str):
            content = _from_hex(content, bits)
        yield content if content is None or len(content) <= MOST_PICTURE_BYTES else None


def _from_hex(text: str, bits: int) -> bytes:
    try:
        found = bytes.fromhex(text)
    except ValueError:
        found = b""
    if len(found) != bits // 8:
        raise ValueError(f"{text[:80]!r} is no hash of {bits} bits in hex")
    return found


def _hash_column(source: pq.ParquetFile, key: str | None, bits: int) -> str:
    """The column of hashes or images."""

    def is_fit(kind: pa.DataType) -> bool:
        if pa.types.is_struct(kind):
            return any(kind.field(i).name == "bytes" and is_image(kind.field(i).type) for i in range(kind.num_fields))
        return is_stored(kind, bits) or is_image(kind) or is_text(kind)

    schema = source.schema_arrow
    usual = next((name for name in USUAL_COLUMNS if name in schema.names and is_fit(schema.field(name).type)), None)
    return column_of(schema, key, f"hashes of {bits} bits or images", usual, is_fit)


def is_image(kind: pa.DataType) -> bool:
    """Whether a column may hold images: bytes."""
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))


def _rows_of(values: NDArray[Any], bits: int, is_look: bool = False) -> Bytes:
    """An array of hashes as uint8[n, bytes]; raises ``ValueError`` for another one.  ``is_look``: the first will do."""
    if not len(values.shape) or not len(values):
        raise ValueError("holds no hash; leave it out")
    some = values[:1] if is_look else values
    flat = some.reshape(len(some), -1)
    if flat.dtype.kind == "b" and flat.shape[1] == bits:
        return np.packbits(flat, axis=1)
    if flat.dtype == np.uint8 and flat.shape[1] == bits // 8:
        return np.ascontiguousarray(flat)
    if flat.dtype.kind == "u" and flat.dtype.itemsize == 8 and flat.shape[1] == bits // 64:
        return np.ascontiguousarray(flat, ">u8").view(np.uint8)
    if flat.dtype.kind in "US" and flat.shape[1] == 1:
        return np.array([list(_from_hex(text, bits)) for text in flat[:, 0].astype(str)], np.uint8)
    shape = " × ".join(map(str, values.shape))
    raise ValueError(f"holds {shape} of {values.dtype}, not hashes of {bits} bits (bytes, words, booleans or hex)")
