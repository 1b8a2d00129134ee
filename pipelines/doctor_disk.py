"""The folder of a run: room, locks, speed, clock, and what a run there says of itself; and the temporary folder.

Writes 16 MB to a file that is removed, and nothing else.
"""

import fcntl
import os
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

from pairsieve.pipelines.doctor import Finding, note, ok, problem
from pairsieve.pipelines.near import CATALOG, MARK, RUN_FILE, is_busy

ROOM = 2 << 30
"""Bytes below which a first run may fill the disk."""
FILES = 10_000
WRITTEN = 16 << 20
SLOW = 20e6
"""Bytes a second below which writing holds up a download."""
SKEW = 60.0
_NETWORK = ("nfs", "nfs4", "cifs", "smb3", "lustre", "gpfs", "beegfs", "ceph", "fuse.sshfs", "9p")


def folder(path: str) -> Iterator[Finding]:
    """Room, kind and speed of the filesystem where a run is, or is to be."""
    if "://" in path:
        yield note("disk", f"{path} is no local folder: room and locks are the store's")
        return
    place = _existing(path)
    if not os.access(place, os.W_OK | os.X_OK):
        yield problem("disk", f"{place}: nothing can be written there", "choose another --out, or chmod u+w it")
        return
    yield from _room("disk", place)
    yield _locks(place)
    yield _speed(place)


def temporary() -> Iterator[Finding]:
    """Where DuckDB sorts what outgrows memory."""
    try:
        place = Path(tempfile.gettempdir())
    except FileNotFoundError:
        yield problem("temporary folder", "none can be written to", "set TMPDIR to a folder with room")
        return
    kind = _kind(place)
    if kind in ("tmpfs", "ramfs"):
        yield note("temporary folder", f"{place} is memory ({kind})", "for large runs set TMPDIR to a disk")
    yield from _room("temporary folder", place)


def clock(path: str) -> Iterator[Finding]:
    """Whether the filesystem's clock is this machine's."""
    place = None if "://" in path else _existing(path)
    with tempfile.NamedTemporaryFile(dir=place if place and os.access(place, os.W_OK | os.X_OK) else None) as file:
        skew = Path(file.name).stat().st_mtime - time.time()
    now = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    if abs(skew) > SKEW:
        yield note("clock", f"{now}; the filesystem's is {abs(skew):,.0f} s {'ahead' if skew > 0 else 'behind'}", "ntp")
    else:
        yield ok("clock", f"{now}; certificates of https need it right")


def run(path: str) -> Iterator[Finding]:
    """Whether a run is there, finished, at work, and by which version."""
    if "://" in path:
        return
    root = Path(path)
    if not (root / RUN_FILE).exists() and not (root / MARK).exists():
        yield note("run", f"{path}: no run here yet", f"pairsieve run RECIPE --out {path}")
        return
    if is_busy(root / MARK):
        yield note("run", f"{path}: a run is at work there", "wait for it, or use another --out")
    elif (root / CATALOG).exists():
        yield ok("run", f"{path}: finished")
    else:
        yield note("run", f"{path}: not finished", "the same 'pairsieve run' command continues it")
    if (root / RUN_FILE).exists():
        yield _versions(root)


def _versions(root: Path) -> Finding:
    from pairsieve.pipelines.provenance import manifest
    from pairsieve.pipelines.store import Store
    from pairsieve.schemas.errors import UserError

    try:
        then = manifest(Store(str(root))).versions
    except UserError as error:
        return note("run", str(error))
    others = [f"{name} {old} (now {version(name)})" for name, old in then.items() if _now(name) not in ("", old)]
    if others:
        return note(
            "run", f"ran with {', '.join(others)}", "results may differ; plan --out says what is measured again"
        )
    return ok("run", "ran with the versions that are installed")


def _now(name: str) -> str:
    from importlib.metadata import PackageNotFoundError

    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _room(topic: str, place: Path) -> Iterator[Finding]:
    found = os.statvfs(place)
    free = found.f_bavail * found.f_frsize
    said = f"{place.resolve()} ({_kind(place) or 'unknown filesystem'}): {free / (1 << 30):,.1f} GiB free"
    if free < ROOM:
        yield note(topic, said, "free space, or choose another folder; pairsieve plan says what a run needs")
    elif found.f_files > 0 and found.f_favail < FILES:
        yield note(topic, f"{said}, {found.f_favail:,} files may be made", "remove files: a shard is one a step")
    else:
        yield ok(topic, said)


def _locks(place: Path) -> Finding:
    """Two runs in one directory are kept apart by a lock."""
    with tempfile.NamedTemporaryFile(dir=place) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            said = f"no file locks in {place} ({error.strerror})"
            return problem("disk", said, "mount it with locks (NFS: version 4, or local_lock=flock), or choose another")
    if (kind := _kind(place)) in _NETWORK:
        return note("disk", f"file locks work; {kind} is a network's: run from one machine at a time")
    return ok("disk", "file locks work")


def _speed(place: Path) -> Finding:
    """How fast a small file reaches the disk."""
    with tempfile.NamedTemporaryFile(dir=place) as file:
        began = time.perf_counter()
        file.write(os.urandom(1 << 20) * (WRITTEN >> 20))
        file.flush()
        os.fsync(file.fileno())
        rate = WRITTEN / max(time.perf_counter() - began, 1e-9)
    said = f"writes about {rate / 1e6:,.0f} MB/s"
    return note("disk", said, "a local disk is faster; downloads wait for it") if rate < SLOW else ok("disk", said)


def _existing(path: str) -> Path:
    """The folder, or the nearest one above it that exists."""
    place = Path(path).expanduser().absolute()
    return next(p for p in (place, *place.parents) if os.path.isdir(p))  # noqa: PTH112 - false where it may not look


def _kind(place: Path) -> str:
    """The filesystem's kind, by the longest mount point above the folder."""
    best, kind = "", ""
    resolved = str(place.resolve())
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, point, found, *_ = line.split()
        point = point.replace("\\040", " ")
        if (resolved + "/").startswith(point.rstrip("/") + "/") and len(point) >= len(best):
            best, kind = point, found
    return kind
