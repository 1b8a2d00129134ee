"""What a pool is: shards of candidate pairs, their light columns under ``pairs/``, images read in place.

Ingesting writes the light columns (uid, url, text, …) once; image bytes are never copied.  A shard's
fingerprint covers the pairs file's bytes and the identity of the file its images lie in.
"""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import xxhash

from pairsieve.pipelines.parquet_source import open_source
from pairsieve.pipelines.store import Store, filesystem, write_parquet
from pairsieve.schemas import columns, uid
from pairsieve.schemas.errors import DamagedFileError, PairsieveError, PoolError

MANIFEST = "pairs/_pool.json"
GIVEN_UID = "_given_uid"
"""Transient column of uids that the source brings, until ``complete`` puts them first."""
_OURS = columns.RESERVED | {"url", "text", columns.IMAGE, GIVEN_UID}


@dataclass(frozen=True, slots=True)
class PoolShard:
    """One shard: its rows, the source file that it or its images lie in, and within it the row groups (Parquet).

    ``size`` and ``checksum`` (XXH3-128) are of its file under ``pairs/``; 0 and empty where there is
    none, because the light columns are read from the source too.
    """

    index: int
    rows: int
    media: str | None
    groups: tuple[int, ...]
    fingerprint: str
    size: int = 0
    checksum: str = ""


@dataclass(frozen=True, slots=True)
class ShardTask:
    """What a worker needs to ingest one shard; ``rows`` where it can be read in place, so that it needs none.

    ``count`` are its rows as far as a footer tells before the shard is read.
    """

    index: int
    path: str
    groups: tuple[int, ...] = ()
    rows: int | None = None
    count: int | None = None


class LightReader(ABC):
    """Light columns of one shard, each for all its rows."""

    @abstractmethod
    def read(self, names: Sequence[str]) -> pa.Table:
        """The columns, by the pool's names; ``uid`` and ``reason`` are among them."""

    @abstractmethod
    def close(self) -> None:
        """Close the file."""


class Sources:
    """The source file that a worker reads in place, kept open: the footer of one with many shards is read once."""

    def __init__(self) -> None:
        """Nothing is open yet."""
        self._url: str | None = None
        self._stack = ExitStack()

    def open(self, url: str) -> tuple[Any, str]:
        """The open Parquet file and its path; the one before is closed.  Raises ``PoolError``."""
        fs, path = filesystem(url)
        if url != self._url:
            self.close()
            self._file = self._stack.enter_context(open_source(fs, path))
            self._url = url
        return self._file, path

    def close(self) -> None:
        """Close the file."""
        self._url = None
        self._stack.close()


class PairsFile(LightReader):
    """A shard's file under ``pairs/``; raises ``DamagedFileError``, and removes it, if it is not as it was written."""

    def __init__(self, store: Store, shard: PoolShard) -> None:
        """Verify and open."""
        name = pairs_name(shard.index)
        try:
            content = store.content(name)
            if xxhash.xxh3_128_hexdigest(content) == shard.checksum:
                self._file = pq.ParquetFile(pa.BufferReader(content))
                return
        except (FileNotFoundError, DamagedFileError, pa.ArrowInvalid):
            pass
        store.remove(name)
        raise DamagedFileError(f"{name} is not as it was written")

    def read(self, names: Sequence[str]) -> pa.Table:
        """See ``LightReader``."""
        return self._file.read(columns=list(names), use_threads=False)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class HeavyReader(ABC):
    """A large column of one shard, read forward in row ranges."""

    @abstractmethod
    def read(self, start: int, stop: int) -> pa.Array:
        """The values of rows ``start`` to ``stop``; null where the pool has none."""

    def close(self) -> None:  # noqa: B027 (most readers hold nothing open)
        """Close the file."""


class ImageReader(HeavyReader):
    """Image bytes: binary[stop - start]."""


class Pool(ABC):
    """Candidate pairs of one recipe.  Instances travel to workers, so they hold settings only.

    ``fs`` and ``files`` are the filesystem and the input files, listed when the pool is opened.
    """

    fs: fsspec.AbstractFileSystem
    files: list[str]

    @abstractmethod
    def types(self) -> dict[str, pa.DataType]:
        """Columns that recipes see, besides uid; reads the head of the first file."""

    @abstractmethod
    def identity(self) -> str:
        """Digest of the settings and of what is listed: names, sizes, times of the input files."""

    @abstractmethod
    def tasks(self) -> list[ShardTask] | None:
        """One task a shard, in order; None where only reading tells (then ``stream`` gives the shards)."""

    def stream(self) -> Iterable[pa.Table]:
        """The shards' light columns one after the other, where there are no tasks."""
        raise PoolError("this pool ingests by tasks")

    def ingest(self, task: ShardTask) -> pa.Table:
        """The light columns of one shard (url, text, reason, others), without uid, shard and row."""
        raise PoolError("this pool ingests by stream")

    def reading(self) -> str:
        """What decides the values of a shard that is read in place, besides the source file."""
        return ""

    def source_columns(self) -> Mapping[str, str]:
        """Column of the pool (``uid`` too) -> column of the source, for shards that are read in place."""
        return {}

    def light(self, shard: PoolShard, sources: Sources) -> LightReader:
        """A reader of a shard that has no file under ``pairs/``."""
        raise PoolError("this pool is read from pairs/")

    def beside_tables(self) -> Collection[str]:
        """Columns that lie beside the light ones, where SQL does not see them."""
        return (columns.IMAGE,)

    def features(self, shard: PoolShard, name: str) -> HeavyReader | None:
        """A reader of a large column that is no image and lies in no Parquet file; None where it is none such."""
        return None

    def require(self, names: Collection[str]) -> None:  # noqa: B027 (most pools have one schema for all)
        """Check, before anything runs, that all shards can give these columns; raises ``PoolError``."""

    def images(self, shard: PoolShard, pairs: Callable[[list[str]], pa.Table]) -> ImageReader | None:
        """A reader of the shard's images; None where the pool has none.  ``pairs`` loads light columns."""
        return None


def list_files(
    pattern: str, suffixes: tuple[str, ...] = (), check: str = "pool path"
) -> tuple[fsspec.AbstractFileSystem, list[str]]:
    """The files of a path, folder or glob, sorted; raises ``PoolError`` where there is none, with what to check."""
    fs, path = filesystem(pattern)
    try:
        found, what = _list(fs, path, suffixes)
    except PairsieveError:
        raise
    except Exception as error:  # filesystems raise what their client libraries raise, credentials for one
        text = " ".join(str(error).split())
        raise PoolError(f"{pattern}: cannot be listed: {text}; check {check} and access") from None
    if not found:
        raise PoolError(f"{pattern}: {what}; check {check}")
    return fs, sorted(found)


def _list(fs: fsspec.AbstractFileSystem, path: str, suffixes: tuple[str, ...]) -> tuple[list[str], str]:
    """The files, and what to say if there is none.  A name is looked for before it is taken as a glob."""
    if fs.isdir(path):
        names = {str(p): str(p).rsplit("/", 1)[-1] for p in fs.ls(path, detail=False)}
        found = [p for p, n in names.items() if n.lower().endswith(suffixes or "") and not n.startswith((".", "_"))]
        return [p for p in found if fs.isfile(p)], f"no {' or '.join(suffixes)} file in this folder"
    if fs.exists(path):
        return [path], ""
    if any(sign in path for sign in "*?["):
        return [str(p) for p in fs.glob(path) if fs.isfile(p)], "no file matches"
    return [], "no such file"


def identity_of(fs: fsspec.AbstractFileSystem, paths: Sequence[str], settings: Mapping[str, Any]) -> str:
    """Digest of settings, file names, sizes and times."""
    digest = hashlib.sha256(repr(sorted(settings.items())).encode())
    for path in paths:
        digest.update(stamp(fs, path).encode())
    return digest.hexdigest()[:32]


def stamp(fs: fsspec.AbstractFileSystem, path: str) -> str:
    """What tells a file from a changed one without reading it."""
    info = fs.info(path)
    if info.get("type") == "directory":  # its own time does not tell of a file that was overwritten
        return f"{path}\0{''.join(sorted(stamp(fs, str(p)) for p in fs.ls(path, detail=False)))}\n"
    when = next((str(info[k]) for k in ("ETag", "etag", "mtime", "LastModified", "created") if k in info), "")
    return f"{path}\0{info.get('size')}\0{when}\n"


def pick(wanted: str | None, names: Sequence[str], option: str, where: str, others: tuple[str, ...] = ()) -> str | None:
    """The source column for an option: as written, else the same in other case, else one of ``others``."""
    if wanted is None or wanted in names:
        return wanted
    for candidate in (wanted, *others):
        same = [n for n in names if n.casefold() == candidate.casefold()]
        if same:
            return same[0]
    near = get_close_matches(wanted, names, n=1)
    guess = f"did you mean {near[0]!r}?" if near else f"columns: {', '.join(names)};"
    raise PoolError(f"{where}: no column {wanted!r}; {guess} set {option}")


def outer_names(names: Iterable[str], where: str) -> dict[str, str]:
    """Source column -> column of the pool: a name of pairsieve's own gets the prefix ``source_``."""
    found: dict[str, str] = {}
    for i, name in enumerate(names):
        ours = f"source_{name}" if name.casefold() in _OURS else name or f"column_{i}"
        if ours.casefold() in (o.casefold() for o in found.values()):
            raise PoolError(f"{where}: two columns called {ours!r} but for case; leave one out with 'columns:'")
        found[name] = ours
    return found


def complete(table: pa.Table, index: int, where: str) -> pa.Table:
    """Put uid, shard and row before the columns of a shard; ``where`` names the source in errors."""
    uids = _uids(table, where)
    table = table.drop_columns([GIVEN_UID]) if GIVEN_UID in table.column_names else table
    shard = pa.repeat(pa.scalar(index, pa.int32()), table.num_rows)
    row = pa.array(np.arange(table.num_rows, dtype=np.int32))
    return pa.table([uids, shard, row, *table.columns], names=[*columns.PLACE, *table.column_names])


def _uids(table: pa.Table, where: str) -> pa.Array:
    """The given uids, else those of (url, text); a row that could not be read may lack a given one."""
    if GIVEN_UID not in table.column_names:
        return uid.of_pairs(table["url"].combine_chunks(), table["text"].combine_chunks())
    given = table[GIVEN_UID].combine_chunks()
    lost = pc.and_(pc.is_null(given), pc.is_valid(table["reason"].combine_chunks()))
    if pc.any(lost).as_py():
        given = pc.if_else(lost, uid.of_pairs(table["url"].combine_chunks(), table["text"].combine_chunks()), given)
    check_uids(given, where)
    return given


def check_uids(given: pa.Array, where: str) -> None:
    """Raise ``PoolError`` for a uid that is none."""
    if bad := uid.first_bad(given):
        raise PoolError(f"{where}: uid {bad} is not 32 lower-case hex characters; rename that column for new uids")


def write_pairs(store: Store, table: pa.Table, index: int, media: str | None, groups: tuple[int, ...]) -> PoolShard:
    """Write one shard's pairs file and give its record."""
    sink = pa.BufferOutputStream()
    write_parquet(table, sink)
    content = sink.getvalue()
    digest = hashlib.sha256(content)
    if media is not None:
        fs, path = filesystem(media)
        digest.update(stamp(fs, path).encode() + repr(groups).encode())
    store.write(pairs_name(index), content)
    checksum = xxhash.xxh3_128_hexdigest(content)
    return PoolShard(index, table.num_rows, media, groups, digest.hexdigest()[:32], len(content), checksum)


def pairs_name(index: int) -> str:
    """File of a shard's light columns."""
    return f"pairs/{index:05d}.parquet"


def read_manifest(store: Store) -> tuple[str, list[PoolShard]] | None:
    """The identity and the shards of an earlier ingest, whatever its pool; None where there was none."""
    try:
        found = json.loads(store.read(MANIFEST))
        if found["version"] != columns.VERSION:
            return None
        return str(found["identity"]), _from_columns(found["media"], found["shards"])
    except (OSError, ValueError, TypeError, KeyError, IndexError):  # none yet, not written by us, or by hand
        return None


def load_manifest(store: Store, identity: str) -> list[PoolShard] | None:
    """The shards of an earlier ingest of the same pool, or None."""
    known = read_manifest(store)
    if known is None or known[0] != identity:
        return None
    shards = known[1]
    sizes = store.sizes("pairs", ".parquet")
    whole = all(sizes.get(pairs_name(s.index).rsplit("/", 1)[-1], 0) == s.size for s in shards)
    return shards if shards and whole else None


def save_manifest(store: Store, identity: str, shards: Sequence[PoolShard]) -> None:
    """Record a finished ingest; without it the next run ingests again.  Column by column: some 100 bytes a shard."""
    media = list(dict.fromkeys(s.media for s in shards))
    place = {name: i for i, name in enumerate(media)}
    values: dict[str, list[Any]] = {name: [getattr(s, name) for s in shards] for name in _COLUMNS}
    content = {"media": [place[s.media] for s in shards], **values}
    store.write_json(MANIFEST, {"identity": identity, "version": columns.VERSION, "media": media, "shards": content})


_COLUMNS = ("rows", "groups", "fingerprint", "size", "checksum")


def _from_columns(media: Sequence[str | None], found: Mapping[str, Sequence[Any]]) -> list[PoolShard]:
    rows = zip(found["media"], *(found[name] for name in _COLUMNS), strict=True)
    return [PoolShard(i, n, media[m], tuple(g), f, size, c) for i, (m, n, g, f, size, c) in enumerate(rows)]


def reason_where(mask: pa.Array, reason: str) -> pa.Array:
    """The reason where the mask is true, else null."""
    return pc.if_else(mask, pa.scalar(reason), pa.scalar(None, pa.string()))
