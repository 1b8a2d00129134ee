"""Where a run lies: a local folder or any fsspec URL, with whole files only.

A file appears under its name complete or not at all.  Locally it is written under a temporary
name, synced, then linked (first writer wins) or renamed; on an object store it is one PUT, which
no reader sees before it is finished.
"""

import json
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any
from uuid import uuid4

import fsspec
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from pairsieve.schemas.columns import repeating
from pairsieve.schemas.errors import PoolError

TEMPORARY = ".tmp"
"""Suffix of unfinished files; no glob of a run matches it."""
_ATTEMPT = re.compile(r"\.[0-9a-f]{32}\.tmp$")


def filesystem(url: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """The fsspec filesystem and the path within it; raises ``PoolError`` for an unknown protocol."""
    try:
        fs, path = fsspec.core.url_to_fs(url)
    except (ValueError, ImportError) as error:
        raise PoolError(f"{url}: {error}; install the filesystem's package, or use a local path") from None
    return fs, str(path)


def is_local(fs: fsspec.AbstractFileSystem) -> bool:
    """Whether paths of a filesystem are files of this machine."""
    return isinstance(fs, fsspec.implementations.local.LocalFileSystem)


class Store:
    """Files of one run, named by their path relative to its root."""

    def __init__(self, root: str) -> None:
        """Open a root that may not exist yet."""
        self.fs, base = filesystem(root)
        self.local = is_local(self.fs)
        self.base = str(Path(base).resolve()) if self.local else base.rstrip("/")
        self.root = self.base if self.local else root.rstrip("/")

    def __reduce__(self) -> tuple[type["Store"], tuple[str]]:
        """Travel to workers as the root alone."""
        return Store, (self.root,)

    def path(self, name: str) -> str:
        """Path within the filesystem."""
        return f"{self.base}/{name}"

    def url(self, name: str) -> str:
        """How DuckDB names the file: a local path, or a URL with its protocol."""
        return self.path(name) if self.local else str(self.fs.unstrip_protocol(self.path(name)))

    def exists(self, name: str) -> bool:
        """Whether a finished file is there."""
        return os.path.exists(self.path(name)) if self.local else bool(self.fs.exists(self.path(name)))  # noqa: PTH110 (a hot path: no Path object)

    def names(self, folder: str, suffix: str = "") -> list[str]:
        """Finished files directly in a folder, sorted; none if it is missing."""
        try:
            found = self.fs.ls(self.path(folder), detail=False, refresh=True)
        except FileNotFoundError:
            return []
        names = [str(p).rstrip("/").rsplit("/", 1)[-1] for p in found]
        return sorted(n for n in names if n.endswith(suffix) and not n.endswith(TEMPORARY))

    def sizes(self, folder: str, suffix: str = "") -> dict[str, int]:
        """Bytes of the finished files directly in a folder, by name; none if it is missing."""
        try:
            found = self.fs.ls(self.path(folder), detail=True, refresh=True)
        except (FileNotFoundError, NotADirectoryError):
            return {}
        files = {str(f["name"]).rsplit("/", 1)[-1]: int(f["size"] or 0) for f in found if f["type"] == "file"}
        return {name: size for name, size in sorted(files.items()) if name.endswith(suffix)}

    def remove(self, name: str) -> None:
        """Remove a file or a folder; nothing happens if it is missing."""
        with suppress(FileNotFoundError):
            self.fs.rm(self.path(name), recursive=True)

    def read(self, name: str) -> bytes:
        """A whole small file."""
        return bytes(self.fs.cat_file(self.path(name)))

    def write(self, name: str, content: bytes) -> None:
        """Replace a small file as a whole."""
        with self.create(name, exclusive=False) as file:
            file.write(content)

    def write_json(self, name: str, value: Any) -> None:
        """Replace a JSON file as a whole, with sorted keys."""
        self.write(name, (json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode())

    @contextmanager
    def create(self, name: str, exclusive: bool) -> Iterator[IO[bytes]]:
        """A new file that gets its name when the block ends well.

        With ``exclusive`` the first writer wins: a file that appeared meanwhile stays, ours is dropped.
        """
        if not self.local:
            if exclusive and self.exists(name):
                with tempfile.TemporaryFile() as dropped:  # another writer was first
                    yield dropped
                return
            yield from self._put(name)
            return
        target = Path(self.path(name))
        target.parent.mkdir(parents=True, exist_ok=True)
        attempt = target.with_name(f"{target.name}.{uuid4().hex}{TEMPORARY}")
        try:
            with attempt.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            if exclusive:
                _link(attempt, target)
            else:
                attempt.replace(target)
        finally:
            attempt.unlink(missing_ok=True)

    def _put(self, name: str) -> Iterator[IO[bytes]]:
        """Write locally, then one upload: a writer that dies leaves nothing behind in the store."""
        with tempfile.NamedTemporaryFile(suffix=TEMPORARY) as file:
            yield file
            file.flush()
            self.fs.put_file(file.name, self.path(name))

    def parquet(self, name: str) -> pq.ParquetFile:
        """An open Parquet file: local files are mapped, remote ones read with few large requests."""
        return open_parquet(self.fs, self.path(name))

    def table(self, name: str, columns: list[str] | None = None) -> pa.Table:
        """A whole Parquet file of light columns."""
        with self.parquet(name) as file:
            return file.read(columns=columns, use_threads=False)

    def write_table(self, name: str, table: pa.Table, exclusive: bool = False) -> None:
        """A whole light table as one Parquet file."""
        with self.create(name, exclusive=exclusive) as file:
            pq.write_table(
                table, file, compression="zstd", use_dictionary=repeating(table.schema), write_page_index=True
            )

    def clean(self) -> None:
        """Remove what killed attempts left behind; only while no other process works in the run."""
        if self.local:
            for left in Path(self.base).rglob(f"*{TEMPORARY}"):
                if _ATTEMPT.search(left.name):  # the user's own *.tmp files stay
                    left.unlink(missing_ok=True)
        self.remove("_work")


def _link(attempt: Path, target: Path) -> None:
    """Give a file its name unless there is one of that name."""
    try:
        os.link(attempt, target)
    except FileExistsError:
        pass
    except OSError:  # a filesystem without links: the content is the same whoever wins
        if not target.exists():
            attempt.replace(target)


def open_parquet(fs: fsspec.AbstractFileSystem, path: str) -> pq.ParquetFile:
    """Open a Parquet file of any filesystem."""
    if is_local(fs):
        return pq.ParquetFile(path, memory_map=True)
    arrow = pafs.PyFileSystem(pafs.FSSpecHandler(fs))
    return pq.ParquetFile(path, filesystem=arrow, pre_buffer=True)
