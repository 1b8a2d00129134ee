"""Run directories near a path: for completions, and for whoever mistypes one.  A few directory listings, bounded."""

import fcntl
import os
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path

from pairsieve.schemas.errors import UserError

CATALOG = "catalog.duckdb"
"""A finished run has it."""
RUN_FILE = "run.yaml"
MARK = ".lock"
"""A directory in which a run began has it."""
MOST_ENTRIES = 1_000
_SHOWN = 4


def runs_below(folder: str, prefix: str = "", depth: int = 2) -> list[str]:
    """Folders with a ``run.yaml`` below ``folder``, as paths that begin with ``prefix``, sorted; local ones alone.

    ``folder`` is "" for the current one.  Of each folder the first 1,000 entries are looked at.
    """
    return sorted(path for path in _walk(folder, depth) if path.startswith(prefix))


def _walk(folder: str, depth: int) -> Iterator[str]:
    for name in folders(folder or "."):
        path = os.path.join(folder, name)  # noqa: PTH118 (a Path would lose what was typed: "./runs")
        if Path(path, RUN_FILE).is_file():
            yield path
        elif depth > 1:
            yield from _walk(path, depth - 1)


def folders(folder: str) -> list[str]:
    """Folders in a folder that are not hidden; none where it cannot be read."""
    found = []
    try:
        with os.scandir(folder) as entries:
            for _, entry in zip(range(MOST_ENTRIES), entries, strict=False):
                if not entry.name.startswith(".") and entry.is_dir():
                    found.append(entry.name)
    except (OSError, ValueError):
        return []
    return found


def no_run(root: str, missing: str = CATALOG) -> UserError:
    """The error for a path where no finished run lies: what is there instead, and which runs lie near."""
    if "://" not in root and root and Path(root, MARK).exists():
        if is_busy(Path(root, MARK)):
            return UserError(f"{root}: a run is at work here; wait for its end")
        return UserError(f"{root}: the run is not finished; the same 'pairsieve run' command continues it")
    what = "finished run" if missing == CATALOG else "run"
    said = f"{root or repr('')}: no {what} here ({missing} is missing)"
    near = [] if "://" in root else _near(root)
    return UserError(f"{said}; {_advice(root, near)}")


def is_busy(mark: Path) -> bool:
    """Whether a process of this machine holds the lock of a run."""
    try:
        with mark.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _advice(root: str, near: list[str]) -> str:
    if not near:
        return f"pairsieve run RECIPE --out {root}"
    more = f" and {len(near) - _SHOWN} more" if len(near) > _SHOWN else ""
    return f"runs near it: {', '.join(near[:_SHOWN])}{more}"


def _near(root: str) -> list[str]:
    """Runs in the path, beside it and below the current folder; those of a like name first."""
    beside = str(Path(root).expanduser().parent)
    found = [*_walk(root, 1), *_walk("" if beside == "." else beside, 1), *_walk("", 2)]
    shortest: dict[Path, str] = {}
    for path in sorted(map(os.path.normpath, found), key=len, reverse=True):
        shortest[Path(path).resolve()] = path
    names = {path: Path(path).name for path in shortest.values()}
    close = get_close_matches(Path(root).name, list(names.values()), n=_SHOWN)
    return sorted(names, key=lambda path: (close.index(names[path]) if names[path] in close else _SHOWN, path))
