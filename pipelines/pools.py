"""What a pool is: shards of candidate pairs, their light columns under ``pairs/``, images read in place.

Ingesting writes the light columns (uid, url, text, …) once; image bytes are never copied.  A shard's
fingerprint covers the pairs file's bytes and the identity of the file its images lie in.
"""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pairsieve.pipelines.store import Store, filesystem
from pairsieve.schemas import columns, uid
from pairsieve.schemas.errors import PoolError

MANIFEST = "pairs/_pool.json"
GIVEN_UID = "_given_uid"
"""Transient column of uids that the source brings, until ``complete`` puts them first."""


@dataclass(frozen=True)
class PoolShard:
    """One shard: its rows, the file its images lie in, and within it the row groups (Parquet)."""

    index: int
    rows: int
    media: str | None
    groups: tuple[int, ...]
    fingerprint: str


@dataclass(frozen=True)
class ShardTask:
    """What a worker needs to ingest one shard."""

    index: int
    path: str
    groups: tuple[int, ...] = ()


class ImageReader(ABC):
    """Image bytes of one shard, read forward in row ranges."""

    @abstractmethod
    def read(self, start: int, stop: int) -> pa.Array:
        """binary[stop - start]; null where the pool has no image."""

    def close(self) -> None:  # noqa: B027 (most readers hold nothing open)
        """Close the file."""


class Pool(ABC):
    """Candidate pairs of one recipe.  Instances travel to workers, so they hold settings only."""

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

    def images(self, shard: PoolShard, pairs: Callable[[list[str]], pa.Table]) -> ImageReader | None:
        """A reader of the shard's images; None where the pool has none.  ``pairs`` loads light columns."""
        return None


def list_files(pattern: str, suffixes: tuple[str, ...] = ()) -> tuple[fsspec.AbstractFileSystem, list[str]]:
    """The files of a path, folder or glob, sorted; raises ``PoolError`` where there is none."""
    fs, path = filesystem(pattern)
    if fs.isdir(path):
        found = sorted(str(p) for p in fs.ls(path, detail=False) if str(p).endswith(suffixes or ""))
        what = f"no {' or '.join(suffixes)} file in this folder"
    elif any(sign in path for sign in "*?["):
        found, what = sorted(str(p) for p in fs.glob(path)), "no file matches"
    else:
        found, what = ([path] if fs.exists(path) else []), "no such file"
    if not found:
        raise PoolError(f"{pattern}: {what}; check pool path")
    return fs, found


def identity_of(fs: fsspec.AbstractFileSystem, paths: Sequence[str], settings: Mapping[str, Any]) -> str:
    """Digest of settings, file names, sizes and times."""
    digest = hashlib.sha256(repr(sorted(settings.items())).encode())
    for path in paths:
        digest.update(stamp(fs, path).encode())
    return digest.hexdigest()[:32]


def stamp(fs: fsspec.AbstractFileSystem, path: str) -> str:
    """What tells a file from a changed one without reading it."""
    info = fs.info(path)
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
    for name in names:
        ours = f"source_{name}" if name.casefold() in columns.RESERVED | {"url", "text", "image"} else name
        if ours.casefold() in (o.casefold() for o in found.values()):
            raise PoolError(f"{where}: two columns called {ours!r} but for case; leave one out with 'columns:'")
        found[name] = ours
    return found


def complete(table: pa.Table, index: int, where: str) -> pa.Table:
    """Put uid, shard and row before the columns of a shard; ``where`` names the source in errors."""
    if GIVEN_UID in table.column_names:
        uids = table[GIVEN_UID].combine_chunks()
        table = table.drop_columns([GIVEN_UID])
        if bad := uid.first_bad(uids):
            raise PoolError(f"{where}: uid {bad} is not 32 lower-case hex characters; rename that column for new uids")
    else:
        uids = uid.of_pairs(table["url"].combine_chunks(), table["text"].combine_chunks())
    shard = pa.repeat(pa.scalar(index, pa.int32()), table.num_rows)
    row = pa.array(range(table.num_rows), pa.int32())
    return pa.table([uids, shard, row, *table.columns], names=[*columns.PLACE, *table.column_names])


def write_pairs(store: Store, table: pa.Table, index: int, media: str | None, groups: tuple[int, ...]) -> PoolShard:
    """Write one shard's pairs file and give its record."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", write_page_index=True, row_group_size=131_072)
    content = sink.getvalue()
    digest = hashlib.sha256(content)
    if media is not None:
        fs, path = filesystem(media)
        digest.update(stamp(fs, path).encode() + repr(groups).encode())
    store.write(pairs_name(index), content)
    return PoolShard(index, table.num_rows, media, groups, digest.hexdigest()[:32])


def pairs_name(index: int) -> str:
    """File of a shard's light columns."""
    return f"pairs/{index:05d}.parquet"


def load_manifest(store: Store, identity: str) -> list[PoolShard] | None:
    """The shards of an earlier ingest of the same pool, or None."""
    if not store.exists(MANIFEST):
        return None
    found = json.loads(store.read(MANIFEST))
    if found["identity"] != identity or found["version"] != columns.VERSION:
        return None
    return [PoolShard(**{**shard, "groups": tuple(shard["groups"])}) for shard in found["shards"]]


def save_manifest(store: Store, identity: str, shards: Sequence[PoolShard]) -> None:
    """Record a finished ingest; without it the next run ingests again."""
    content = {"identity": identity, "version": columns.VERSION, "shards": [asdict(s) for s in shards]}
    store.write_json(MANIFEST, content)


def reason_where(mask: pa.Array, reason: str) -> pa.Array:
    """The reason where the mask is true, else null."""
    return pc.if_else(mask, pa.scalar(reason), pa.scalar(None, pa.string()))
