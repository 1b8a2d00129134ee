"""Arrays that take long to compute and depend on files alone, kept in the user's cache folder.

``PAIRSIEVE_CACHE``, else ``XDG_CACHE_HOME/pairsieve``, else ``~/.cache/pairsieve``.  Of several
processes one computes while the others wait.  A folder that cannot be written costs the time, never the run.
"""

import fcntl
import hashlib
import json
import mmap
import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np
import xxhash
from numpy.typing import NDArray

T = TypeVar("T")
Arrays = Mapping[str, NDArray[Any]]

MAGIC = b"pairsieve arrays 1\n"
ALIGNED = 64
"""Bytes between which arrays begin, as vector instructions like it."""


def cached(what: str, files: Iterable[str], make: Callable[[], NDArray[Any]]) -> NDArray[Any]:
    """The array that ``make`` gives for these files, as they are by path, size and time, and ``what`` else decides."""
    return _kept(_folder() / f"{_digest(what, files)}.npy", _load, np.save, make)


def mapped(what: str, files: Iterable[str], make: Callable[[], Arrays]) -> Arrays:
    """As :func:`cached` for several arrays, mapped from the file: read-only, and held once for all processes.

    Where the cache cannot be written, they are the arrays of ``make``: read-only too, but of this process alone.
    """
    found = _kept(_folder() / f"{_digest(what, files)}.arrays", _map, _save, make, is_read_again=True)
    for array in found.values():
        array.flags.writeable = False
    return found


def _kept(
    path: Path,
    read: Callable[[Path], T],
    write: Callable[[Any, Any], None],
    make: Callable[[], T],
    is_read_again: bool = False,
) -> T:
    """What is in the file, or what ``make`` gives, then also in the file."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = path.with_suffix(".lock").open("w")
    except OSError:
        return make()
    with lock:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(lock, fcntl.LOCK_EX)
        with suppress(OSError, ValueError, EOFError):
            return read(path)
        found = make()
        with suppress(OSError):
            _write(path, found, write)
            if is_read_again:
                with suppress(ValueError):  # a disk that does not keep what is written
                    return read(path)
    return found


def _folder() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("PAIRSIEVE_CACHE") or Path(home) / "pairsieve")


def _digest(what: str, files: Iterable[str]) -> str:
    stats = [(str(Path(name).resolve()), Path(name).stat()) for name in files]
    content = repr((what, [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]))
    return hashlib.sha256(content.encode()).hexdigest()[:32]


def _write(path: Path, found: T, write: Callable[[Any, T], None]) -> None:
    """As a whole or not at all."""
    attempt = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        with attempt.open("wb") as file:
            write(file, found)
        attempt.replace(path)
    finally:
        attempt.unlink(missing_ok=True)


def _load(path: Path) -> NDArray[Any]:
    return np.asarray(np.load(path, allow_pickle=False))


def _save(file: BinaryIO, arrays: Arrays) -> None:
    """The magic line; a line of JSON with a digest and the arrays' types, shapes and places; then their bytes."""
    places, end = {}, 0
    for name, array in arrays.items():
        places[name] = (array.dtype.str, array.shape, end)
        end += -(-array.nbytes // ALIGNED) * ALIGNED
    said = json.dumps({"digest": _content_digest(arrays), "bytes": end, "arrays": places}).encode()
    head = MAGIC + said + b" " * (-(len(MAGIC) + len(said) + 1) % ALIGNED) + b"\n"
    file.write(head)
    for array in arrays.values():
        file.write(np.ascontiguousarray(array).data)
        file.write(b"\0" * (-array.nbytes % ALIGNED))


def _content_digest(arrays: Arrays) -> str:
    """XXH3 of all bytes: 0.1 s a gigabyte."""
    state = xxhash.xxh3_128()
    for array in arrays.values():
        state.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return state.hexdigest()


def _map(path: Path) -> Arrays:
    """The arrays of a file, in pages that all its readers share; raises ``ValueError`` for a damaged one."""
    with path.open("rb") as file:
        if file.readline(len(MAGIC)) != MAGIC:
            raise ValueError("no file of arrays")
        said, start = json.loads(file.readline(1 << 24)), file.tell()
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    try:
        if len(content) != start + said["bytes"]:
            raise ValueError("of another size")
        found = {name: _view(content, start + at, kind, shape) for name, (kind, shape, at) in said["arrays"].items()}
        if _content_digest(found) != said["digest"]:
            raise ValueError("damaged")
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"no head: {error}") from None
    return found


def _view(content: mmap.mmap, at: int, kind: str, shape: list[int]) -> NDArray[Any]:
    dtype = np.dtype(kind)
    if dtype.kind not in "biuf":
        raise ValueError(f"of {kind}")
    return np.ndarray(shape, dtype, content, at)
