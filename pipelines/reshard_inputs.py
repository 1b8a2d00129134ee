"""The shards to take samples from: which there are, which are missing from the numbering, and a local copy to read.

A folder is read with its folders ``part_*``, as DataComp's metadata is; what else lies there and looks
like shards is named, never left out in silence.
"""

import hashlib
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from pairsieve.pipelines.pools import list_files, stamp
from pairsieve.pipelines.reshard_parquet import parquet_columns
from pairsieve.pipelines.storage_errors import first_line
from pairsieve.pipelines.store import filesystem, is_local
from pairsieve.schemas.errors import PairsieveError, PoolError

KINDS = (".tar", ".parquet")
_NUMBERED = re.compile(r"(.*?)(\d+)(\.tar|\.parquet)")
GAPS = 10_000
"""A gap of more numbers is no gap, but another way of naming."""


@dataclass(frozen=True, slots=True)
class Input:
    """One input shard: its place in the order, where it lies, its name and bytes; ``key`` changes with its content."""

    index: int
    url: str
    name: str
    size: int
    key: str


@dataclass(frozen=True)
class Listing:
    """All input shards of one kind in the order of their names.

    ``gaps`` are names that the numbering lacks, ``unread`` folders and files beside that look like shards.
    """

    kind: str
    inputs: tuple[Input, ...]
    gaps: tuple[str, ...]
    unread: tuple[str, ...] = ()


def list_inputs(pattern: str) -> Listing:
    """Tars, or else Parquet files, of a folder or glob; raises ``PoolError`` where there are neither, or both."""
    try:
        fs, files, others = _list(pattern)
    except PairsieveError:
        raise
    except Exception as error:  # filesystems raise what their client libraries raise, credentials for one
        raise PoolError(f"{pattern}: cannot be listed: {first_line(error)}; check path and access") from None
    kind = next((k for k in KINDS if any(f.lower().endswith(k) for f in files)), None)
    if kind is None:
        raise PoolError(f"{files[0]}: neither a .tar nor a .parquet file; name a folder or glob of shards")
    beside = [f for f in files if not f.lower().endswith(kind)]
    files = [f for f in files if f.lower().endswith(kind)]
    found = tuple(_input(fs, i, path, _common(files)) for i, path in enumerate(files))
    unread = [f"{folder}/ ({count:,} shards)" for folder, count in others] + _check_beside(fs, pattern, files, beside)
    return Listing(kind, found, tuple(gaps([f.name for f in found])), tuple(unread))


def _list(pattern: str) -> tuple[Any, list[str], list[tuple[str, int]]]:
    """The files of a glob, or of a folder and its folders ``part_*``; other folders in these that hold shards."""
    fs, root = filesystem(pattern)
    if not fs.isdir(root):
        return *list_files(pattern, KINDS), []
    inner = _folders(fs, root)
    parts = [f for f in inner if _base(f).startswith("part_")]
    rest = [f for f in inner if f not in parts] + [f for part in parts for f in _folders(fs, part)]
    found = [file for folder in (root, *parts) for file in _shards(fs, folder)]
    others = [(f.removeprefix(root.rstrip("/") + "/"), len(held)) for f in rest if (held := _seen(fs, f))]
    if not found and others:
        raise PoolError(f"{pattern}: no shard in it, but {others[0][1]:,} in its folder {others[0][0]}; name that one")
    return *((fs, sorted(found)) if found else list_files(pattern, KINDS)), others


def _folders(fs: Any, folder: str) -> list[str]:
    """The folders in a folder, or links to some, but those of caches and of work."""
    held = {str(one["name"]).rstrip("/"): one for one in fs.ls(folder, detail=True)}
    held.pop(folder.rstrip("/"), None)  # object stores may name the folder itself
    found = [f for f, one in held.items() if one["type"] == "directory" or (one.get("islink") and fs.isdir(f))]
    return sorted(f for f in found if not _base(f).startswith((".", "_")))


def _shards(fs: Any, folder: str) -> list[str]:
    """The files in a folder that by their names are shards."""
    names = [_base(str(path).rstrip("/")) for path in fs.ls(folder, detail=False)]
    is_any = any(name.lower().endswith(KINDS) and not name.startswith((".", "_")) for name in names)
    return list_files(str(fs.unstrip_protocol(folder)), KINDS)[1] if is_any else []


def _seen(fs: Any, folder: str) -> list[str]:
    """As ``_shards``; none where nobody asked for the folder and it cannot be looked into, such as ``lost+found``."""
    try:
        return _shards(fs, folder)
    except (PoolError, OSError):
        return []


def _base(path: str) -> str:
    return path.rsplit("/", 1)[-1]


def _check_beside(fs: Any, pattern: str, tars: Sequence[str], tables: Sequence[str]) -> list[str]:
    """Parquet files beside tars: refused where they hold images, else named, but for img2dataset's list of each tar."""
    stems = {tar.rpartition(".")[0] for tar in tars}
    lists = [table for table in tables if table.rpartition(".")[0] in stems]
    others = [table for table in tables if table.rpartition(".")[0] not in stems]
    for first in (*lists[:1], *others[:1]):
        if _holds_images(fs, first):
            raise PoolError(
                f"{pattern}: tars and Parquet shards side by side ({_base(tars[0])}, {_base(first)}); "
                f"which are meant? give a glob: '{pattern.rstrip('/')}/*.tar' or '…/*.parquet'"
            )
    return [_base(table) for table in others]


def _holds_images(fs: Any, path: str) -> bool:
    """Whether a Parquet file has a column of images; one that cannot be read is named as unread."""
    try:
        parquet_columns(str(fs.unstrip_protocol(path)))
    except PoolError:
        return False
    return True


def _input(fs: Any, index: int, path: str, folder: str) -> Input:
    size = int(fs.info(path).get("size") or 0)
    key = hashlib.sha256(stamp(fs, path).encode()).hexdigest()[:24]
    return Input(index, str(fs.unstrip_protocol(path)), path.removeprefix(folder), size, key)


def _common(files: list[str]) -> str:
    """The folder that all files lie in, with its slash: names below it are the same wherever the folder lies."""
    parents = [PurePosixPath(f).parent for f in files]
    shared = parents[0]
    while not all(p.is_relative_to(shared) for p in parents):
        shared = shared.parent
    text = str(shared)
    return "" if text == "." else text.rstrip("/") + "/"


def gaps(names: list[str]) -> Iterator[str]:
    """Names that are missing between the first and the last number of each prefix."""
    numbers: dict[tuple[str, str, int], set[int]] = {}
    for name in names:
        if found := _NUMBERED.fullmatch(name):
            prefix, digits, ending = found.groups()
            numbers.setdefault((prefix, ending, len(digits)), set()).add(int(digits))
    for (prefix, ending, width), there in sorted(numbers.items()):
        if max(there) - min(there) - len(there) < GAPS:
            for number in sorted(set(range(min(there), max(there))) - there):
                yield f"{prefix}{number:0{width}d}{ending}"


@contextmanager
def local_copy(url: str) -> Iterator[str]:
    """A local path to a file: its own, or for the length of the block that of a copy."""
    fs, path = filesystem(url)
    if is_local(fs):
        yield path
        return
    with tempfile.NamedTemporaryFile(prefix="pairsieve-", suffix=path[path.rfind(".") :]) as copy:
        with fs.open(path, "rb") as file:
            shutil.copyfileobj(file, copy, 16_777_216)
        copy.flush()
        yield copy.name
