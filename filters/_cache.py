"""Arrays that take long to compute and depend on files alone, kept in the user's cache folder.

``PAIRSIEVE_CACHE``, else ``XDG_CACHE_HOME/pairsieve``, else ``~/.cache/pairsieve``.  Of several
processes one computes while the others wait.  A folder that cannot be written costs the time, never the run.
"""

import fcntl
import hashlib
import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


def cached(what: str, files: Iterable[str], make: Callable[[], NDArray[Any]]) -> NDArray[Any]:
    """The array that ``make`` gives for these files, as they are by path, size and time, and ``what`` else decides."""
    path = _folder() / f"{_digest(what, files)}.npy"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = path.with_suffix(".lock").open("w")
    except OSError:
        return make()
    with lock:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(lock, fcntl.LOCK_EX)
        with suppress(OSError, ValueError, EOFError):
            return np.asarray(np.load(path, allow_pickle=False))
        found = make()
        with suppress(OSError):
            _write(path, found)
    return found


def _folder() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("PAIRSIEVE_CACHE") or Path(home) / "pairsieve")


def _digest(what: str, files: Iterable[str]) -> str:
    stats = [(str(Path(name).resolve()), Path(name).stat()) for name in files]
    content = repr((what, [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]))
    return hashlib.sha256(content.encode()).hexdigest()[:32]


def _write(path: Path, values: NDArray[Any]) -> None:
    """As a whole or not at all."""
    attempt = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        with attempt.open("wb") as file:
            np.save(file, values)
        attempt.replace(path)
    finally:
        attempt.unlink(missing_ok=True)
