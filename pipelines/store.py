"""Where a run lies: a local folder or any fsspec URL, with whole files only.

A file appears under its name complete or not at all.  Locally it is written under a temporary
name, synced, then linked (first writer wins) or renamed; on an object store it is one upload, in
several parts where it is large, which no reader sees before it is finished.
"""

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any
from uuid import uuid4

import fsspec
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from pairsieve.pipelines import seal
from pairsieve.pipelines.remote import Remote
from pairsieve.pipelines.storage_errors import explain, first_line, is_exhausted
from pairsieve.schemas.columns import is_heavy, packing
from pairsieve.schemas.errors import AccessError, DamagedFileError, PoolError, StorageError

TAIL_BYTES = 65_536
"""Read from the end of a remote Parquet file at once: most footers are smaller."""
TEMPORARY = ".tmp"
"""Suffix of unfinished files; no glob of a run matches it."""
_ATTEMPT = re.compile(r"\.[0-9a-f]{32}\.tmp$")
REMOVALS = 3
"""Tries at removing a folder of an object store."""


def filesystem(url: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """The fsspec filesystem and the path within it; raises ``PoolError`` for an unknown protocol.

    A remote one forgets what it has listed there: the files may be others by now.
    """
    try:
        fs, path = fsspec.core.url_to_fs(os.path.expanduser(url))  # noqa: PTH111 (a URL would not survive a Path)
    except (ValueError, ImportError) as error:
        raise PoolError(f"{url}: {error}; install the filesystem's package, or use a local path") from None
    if is_local(fs):
        return fs, str(path)
    fs.invalidate_cache(path)
    return Remote(fs), str(path)


def is_local(fs: fsspec.AbstractFileSystem) -> bool:
    """Whether paths of a filesystem are files of this machine."""
    return isinstance(fs, fsspec.implementations.local.LocalFileSystem)


class Store:
    """Files of one run, named by their path relative to its root."""

    def __init__(self, root: str) -> None:
        """Open a root that may not exist yet."""
        self.fs, base = filesystem(root)
        self.local = is_local(self.fs)
        if not self.local:  # other processes write there too
            self.fs = Remote(self.fs.inner, is_shared=True)
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
        """Whether a finished file is there, or a folder."""
        return os.path.exists(self.path(name)) if self.local else bool(self.fs.exists(self.path(name)))  # noqa: PTH110 (a hot path: no Path object)

    def names(self, folder: str, suffix: str = "") -> list[str]:
        """Finished files directly in a folder, and folders, sorted; none if it is missing."""
        return sorted(n for n, _ in self._listed(folder) if n.endswith(suffix) and not n.endswith(TEMPORARY))

    def sizes(self, folder: str, suffix: str = "") -> dict[str, int]:
        """Bytes of the finished files directly in a folder, by name; none if it is missing."""
        found = [(name, size) for name, size in self._listed(folder) if size is not None and name.endswith(suffix)]
        return dict(sorted(found))

    def _listed(self, folder: str) -> list[tuple[str, int | None]]:
        """What lies in a folder as it is now, not as it was listed before: names, and bytes of files."""
        path = self.path(folder)
        try:
            if self.local:  # a record of fsspec's is a kilobyte a file
                with os.scandir(path) as entries:
                    return [(e.name, e.stat().st_size if e.is_file() else None) for e in entries]
            found = self.fs.ls(path, detail=True)
        except (FileNotFoundError, NotADirectoryError):
            return []
        sizes = [int(f["size"] or 0) if f["type"] == "file" else None for f in found]
        return [(str(f["name"]).rstrip("/").rsplit("/", 1)[-1], size) for f, size in zip(found, sizes, strict=True)]

    def remove(self, name: str) -> None:
        """Remove a file or a folder; nothing happens if it is missing."""
        if self.local:
            for _ in range(REMOVALS):
                try:
                    self.fs.rm(self.path(name), recursive=True)
                except (FileNotFoundError, NotADirectoryError):
                    pass  # it is not there, or a worker removed something within it meanwhile
                except OSError as error:
                    raise explain(error, self.path(name)) from error
                if not os.path.lexists(self.path(name)):
                    return
            return
        for _ in range(REMOVALS):
            if not self.exists(name):
                return
            with suppress(FileNotFoundError):
                self.fs.rm(self.path(name), recursive=True)
        if self.exists(name):  # a bulk delete may leave some without a word
            raise StorageError(f"{self.url(name)}: cannot be removed; check the right to delete, and run again")

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

        With ``exclusive`` the first writer wins: a file that appeared meanwhile stays, ours is
        dropped.  Raises ``StorageError`` for a full disk and the like, ``AccessError`` for a bucket
        that is not there.
        """
        place = self.path(name) if self.local else tempfile.gettempdir()
        try:
            yield from self._new_file(Path(place), exclusive) if self.local else self._put(name, exclusive)
        except OSError as error:
            if is_exhausted(error) or (self.local and str(error.filename).startswith(f"{self.base}/")):
                raise explain(error, place) from error
            raise  # whatever the block does is its own

    def _new_file(self, target: Path, exclusive: bool) -> Iterator[IO[bytes]]:
        """Write under another name, sync, then give it its own."""
        target.parent.mkdir(parents=True, exist_ok=True)
        attempt = target.with_name(f"{target.name}.{uuid4().hex}{TEMPORARY}")
        try:
            with attempt.open("w+b") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            if exclusive:
                _link(attempt, target)
            else:
                _replace(attempt, target, is_ours=target.parent != Path(self.base))
        finally:
            attempt.unlink(missing_ok=True)

    def _put(self, name: str, exclusive: bool) -> Iterator[IO[bytes]]:
        """Write locally, then one upload: a writer that dies leaves nothing to be seen in the store."""
        path = self.path(name)
        with tempfile.NamedTemporaryFile(suffix=TEMPORARY) as file:
            yield file
            file.flush()
            try:
                self.fs.put_new(file.name, path) if exclusive else self.fs.put_file(file.name, path)
            except FileExistsError:
                if not exclusive:
                    raise
            except FileNotFoundError as error:
                said = f"{self.url(name)}: {first_line(error)}"
                raise AccessError(f"{said}; create the bucket, or name another") from error

    @contextmanager
    def create_sealed(
        self, name: str, schema: pa.Schema, footer: Mapping[str, str], exclusive: bool = True
    ) -> Iterator[pq.ParquetWriter]:
        """A writer of a Parquet file with page checksums and a seal; it gets its name when the block ends well.

        With ``exclusive`` the first writer wins.  ``footer`` goes into the file's key-value metadata.
        """
        with self.create(name, exclusive=exclusive) as file:
            # not through ``file``: Arrow writes a path without passing through Python
            with (
                pa.OSFile(f"/dev/fd/{file.fileno()}", "wb") as out,
                _writer(out, schema) as writer,
            ):
                yield writer
                writer.add_key_value_metadata({**footer, seal.KEY: seal.BLANK})
            seal.finish(file)

    def content(self, name: str) -> pa.Buffer:
        """A whole file: mapped where it is local, else fetched; raises ``DamagedFileError`` for a directory."""
        if not self.local:
            return pa.py_buffer(self.read(name))
        if Path(self.path(name)).is_dir():
            raise DamagedFileError(f"{name} is a directory")
        with pa.memory_map(self.path(name)) as file:
            return file.read_buffer()

    def parquet(self, name: str) -> pq.ParquetFile:
        """An open Parquet file: local files are mapped, remote ones read with few large requests."""
        return open_parquet(self.fs, self.path(name))

    def sealed(self, name: str, is_light: bool) -> pq.ParquetFile:
        """An open Parquet file that is as it was written; raises ``DamagedFileError``.

        A light file is verified as a whole.  Of another the footer is; its pages are when they are read.
        """
        if is_light or self.local:
            content = self.content(name)
            metadata = seal.check(content, is_light)
            source: Any = pa.BufferReader(content)
            return pq.ParquetFile(source, metadata=metadata, page_checksum_verification=not is_light)
        metadata = seal.check(self._tail(name), is_whole=False)
        arrow = pafs.PyFileSystem(pafs.FSSpecHandler(self.fs))
        return pq.ParquetFile(
            self.path(name), metadata=metadata, filesystem=arrow, pre_buffer=True, page_checksum_verification=True
        )

    def _tail(self, name: str) -> pa.Buffer:
        """At least the footer of a remote file: one request, or two for a large footer."""
        path, size = self.path(name), self.fs.size(self.path(name))
        end = bytes(self.fs.cat_file(path, start=max(0, size - TAIL_BYTES)))
        if (length := seal.footer_bytes(end)) > len(end):
            end = bytes(self.fs.cat_file(path, start=max(0, size - length)))
        return pa.py_buffer(end)

    def table(self, name: str, columns: list[str] | None = None) -> pa.Table:
        """A whole Parquet file of light columns."""
        with self.parquet(name) as file:
            return file.read(columns=columns, use_threads=False)

    def write_table(self, name: str, table: pa.Table, exclusive: bool = False) -> None:
        """A whole light table as one Parquet file."""
        with self.create(name, exclusive=exclusive) as file:
            write_parquet(table, file)

    def clean(self) -> None:
        """Remove what a killed run left behind; only while no other process works in the run."""
        self.remove_attempts()
        for name in self.names("_work"):
            if name != "dataset":  # sorted runs of a dataset that was not finished are of use
                self.remove(f"_work/{name}")

    def remove_attempts(self) -> None:
        """Remove what killed workers were writing: 5 µs a file of the run."""
        if self.local:
            for left in Path(self.base).rglob(f"*{TEMPORARY}"):
                if _ATTEMPT.search(left.name):  # the user's own *.tmp files stay
                    left.unlink(missing_ok=True)


def _replace(attempt: Path, target: Path, is_ours: bool) -> None:
    """Give a file its name; in a folder of the run's own also where there is a directory."""
    if is_ours and target.is_dir():
        shutil.rmtree(target)
    attempt.replace(target)


def _link(attempt: Path, target: Path) -> None:
    """Give a file its name unless there is one of that name."""
    try:
        os.link(attempt, target)
    except FileExistsError:
        pass
    except OSError:  # a filesystem without links: the content is the same whoever wins
        if not target.exists():
            attempt.replace(target)


def _writer(out: Any, schema: pa.Schema) -> pq.ParquetWriter:
    is_light = not any(is_heavy(field.type) for field in schema)
    # the pages of a light file need no checksums of their own: it is verified as a whole
    return pq.ParquetWriter(out, schema, write_page_checksum=not is_light, write_page_index=True, **packing(schema))


def write_parquet(table: pa.Table, file: Any) -> None:
    """A light table as Parquet.  Dictionary arrays are written as the values they stand for."""
    pq.write_table(
        table,
        file,
        row_group_size=131_072,
        store_schema=not any(pa.types.is_dictionary(kind) for kind in table.schema.types),
        **packing(table.schema),
    )


def open_parquet(fs: fsspec.AbstractFileSystem, path: str) -> pq.ParquetFile:
    """Open a Parquet file of any filesystem."""
    if is_local(fs):
        return pq.ParquetFile(path, memory_map=True)
    arrow = pafs.PyFileSystem(pafs.FSSpecHandler(fs))
    return pq.ParquetFile(path, filesystem=arrow, pre_buffer=True)
