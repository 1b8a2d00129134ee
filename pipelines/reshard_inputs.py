"""The shards to take samples from: which there are, which are missing from the numbering, and a local copy to read."""

import hashlib
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from pairsieve.pipelines.pools import list_files, stamp
from pairsieve.pipelines.store import filesystem, is_local
from pairsieve.schemas.errors import PoolError

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
    """All input shards of one kind in the order of their names, and names that the numbering lacks."""

    kind: str
    inputs: tuple[Input, ...]
    gaps: tuple[str, ...]


def list_inputs(pattern: str) -> Listing:
    """Tars, or else Parquet files, of a folder or glob; raises ``PoolError`` where there are neither."""
    fs, files = list_files(pattern, KINDS)
    kind = next((k for k in KINDS if any(f.lower().endswith(k) for f in files)), None)
    if kind is None:
        raise PoolError(f"{files[0]}: neither a .tar nor a .parquet file; name a folder or glob of shards")
    files = [f for f in files if f.lower().endswith(kind)]
    found = tuple(_input(fs, i, path, _common(files)) for i, path in enumerate(files))
    return Listing(kind, found, tuple(gaps([f.name for f in found])))


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
