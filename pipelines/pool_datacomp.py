"""Pool ``datacomp``: DataComp's metadata, Parquet files with an ``.npz`` of features beside each.

Both are read where they lie: a column costs what Parquet costs, a feature what reading it costs.  A
row's features are the same row of the file of the same name.  Unlike a list of URLs, a row without
a URL is a candidate like any other: DataComp's filters never look at it.
"""

from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from operator import itemgetter

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from pairsieve.pipelines import npz
from pairsieve.pipelines.in_place import MOST, InPlace, runs
from pairsieve.pipelines.parquet_source import open_source, plain_types
from pairsieve.pipelines.pools import (
    HeavyReader,
    LightReader,
    Pool,
    PoolShard,
    ShardTask,
    Sources,
    identity_of,
    list_files,
    outer_names,
    pick,
)
from pairsieve.pipelines.store import filesystem
from pairsieve.schemas.errors import PoolError
from pairsieve.schemas.recipe import DatacompPool

SIZES = ("original_width", "original_height")
SCORES = ("clip_b32_similarity_score", "clip_l14_similarity_score")
THREADS = 32
"""Files whose headers are looked at together; a store that is far away answers slowly."""


class Datacomp(Pool):
    """See ``DatacompPool`` for the settings."""

    def __init__(self, spec: DatacompPool) -> None:
        """List the files and read the head of the first; raises ``PoolError``."""
        self.spec = spec
        self.fs, self.files = list_metadata(spec.path)
        with open_source(self.fs, self.files[0]) as file:
            self.source_types = plain_types(file.schema_arrow, self.files[0])
        check_types(self.source_types, self.files[0])

    @cached_property
    def named(self) -> dict[str, str]:
        """Column of the pool -> column of the source."""
        names, where = list(self.source_types), self.files[0]
        fixed = ("uid", "url", "text")
        others = [n for n in names if n not in fixed]
        if self.spec.columns is not None:
            others = [str(pick(n, names, "columns", where)) for n in dict.fromkeys(self.spec.columns)]
        found = {ours: theirs for theirs, ours in outer_names(others, where).items()}
        return {name: name for name in fixed if name in names} | found

    @cached_property
    def feature_types(self) -> dict[str, pa.DataType]:
        """The features to give as columns, as the first file has them."""
        path = features_path(self.files[0])
        wanted = self.spec.features
        if wanted == () or (wanted is None and not self.fs.exists(path)):
            return {}
        found = npz.headers(self.fs, path)
        for name in wanted or ():
            if name not in found:
                raise PoolError(f"{path}: no array {name!r}; there are: {', '.join(found)}; set pool features")
            if found[name] is None:
                raise PoolError(f"{path}: array {name!r} is {npz.NO_TABLE}")
        return {n: header.kind for n, header in found.items() if header and (wanted is None or n in wanted)}

    def types(self) -> dict[str, pa.DataType]:
        light = {ours: self.source_types[theirs] for ours, theirs in self.named.items() if ours != "uid"}
        if twice := light.keys() & self.feature_types.keys():
            raise PoolError(f"{self.files[0]}: column {min(twice)!r} is also an array of its npz; set pool columns")
        return light | self.feature_types

    def identity(self) -> str:
        return identity_of(self.fs, self.files, self.spec.model_dump())

    def tasks(self) -> list[ShardTask]:
        """Reads every footer; raises ``PoolError`` for a file of another schema."""
        with ThreadPoolExecutor(THREADS) as threads:
            cuts = list(threads.map(self._cuts, self.files))
        found: list[ShardTask] = []
        for path, sizes in zip(self.files, cuts, strict=True):
            for groups, rows in filter(itemgetter(1), sizes):
                found.append(ShardTask(len(found), self.fs.unstrip_protocol(path), groups, rows, rows))
        return found

    def _cuts(self, path: str) -> list[tuple[tuple[int, ...], int]]:
        """The shards of a file: row groups and rows of each."""
        with open_source(self.fs, path) as file:
            self._check_file(plain_types(file.schema_arrow, path), path)
            return cuts(file.metadata, self.spec.shard_rows)

    def _check_file(self, types: Mapping[str, pa.DataType], path: str) -> None:
        for name in self.named.values():
            if name not in types:
                raise PoolError(
                    f"{path}: no column {name!r}, which the first file has; fetch it again, or leave it out"
                )
            if types[name] != self.source_types[name]:
                raise PoolError(
                    f"{path}: column {name!r} is {types[name]}, the first file's {self.source_types[name]}; convert it"
                )

    def reading(self) -> str:
        return repr(sorted((ours, theirs, str(self.source_types[theirs])) for ours, theirs in self.named.items()))

    def source_columns(self) -> Mapping[str, str]:
        return self.named

    def light(self, shard: PoolShard, sources: Sources) -> LightReader:
        return InPlace(shard, sources, self.named, {"uid": pa.string(), **self.types()})

    def beside_tables(self) -> Collection[str]:
        return (*super().beside_tables(), *self.feature_types)

    def features(self, shard: PoolShard, name: str) -> HeavyReader | None:
        if name not in self.feature_types:
            return None
        fs, path = filesystem(str(shard.media))
        with open_source(fs, path) as file:
            sizes = [file.metadata.row_group(g).num_rows for g in range(file.metadata.num_row_groups)]
        first = sum(sizes[: shard.groups[0]]) if shard.groups else 0
        return npz.NpzColumn(fs, features_path(path), name, first, sum(sizes))

    def require(self, names: Collection[str]) -> None:
        """Every file must have the features that the recipe reads, for each of its rows."""
        wanted = {name: kind for name, kind in self.feature_types.items() if name in names}
        if wanted:
            with ThreadPoolExecutor(THREADS) as threads:
                list(threads.map(partial(self._require, wanted), self.files))

    def _require(self, wanted: Mapping[str, pa.DataType], path: str) -> None:
        with open_source(self.fs, path) as file:
            npz.check(self.fs, features_path(path), file.metadata.num_rows, wanted)


def list_metadata(path: str) -> tuple[fsspec.AbstractFileSystem, list[str]]:
    """The Parquet files of a folder and of its folders ``part_*``; raises ``PoolError`` where there is none."""
    fs, root = filesystem(path)
    listed = [str(p).rstrip("/") for p in fs.ls(root, detail=False)] if fs.isdir(root) else []
    nested = sorted(p for p in listed if p.rsplit("/", 1)[-1].startswith("part_") and fs.isdir(p))
    if not nested:
        return list_files(path, (".parquet",))
    has_files = any(p.lower().endswith(".parquet") and fs.isfile(p) for p in listed)
    folders = [*([path] if has_files else []), *(str(fs.unstrip_protocol(part)) for part in nested)]
    return fs, [file for folder in folders for file in list_files(folder, (".parquet",))[1]]


def features_path(path: str) -> str:
    """The ``.npz`` of a metadata file."""
    return f"{path.removesuffix('.parquet')}.npz"


def cuts(metadata: pq.FileMetaData, rows: int) -> list[tuple[tuple[int, ...], int]]:
    """Row groups and rows of each shard of a file: one shard, or several of about ``rows`` where it is large."""
    sizes = [metadata.row_group(g).num_rows for g in range(metadata.num_row_groups)]
    whole = [tuple(range(len(sizes)))] if sum(sizes) <= MOST * rows else list(runs(sizes, rows))
    return [(groups, sum(sizes[g] for g in groups)) for groups in whole]


def check_types(types: Mapping[str, pa.DataType], path: str) -> None:
    """Raise ``PoolError`` where a file is no metadata of DataComp's."""
    if types.get("uid") != pa.string():
        kind = types.get("uid")
        what = "no column 'uid'" if kind is None else f"column 'uid' is {kind}, not text"
        raise PoolError(f"{path}: {what}; a datacomp pool has uids: use pool urls for other lists")
    tests: Sequence[tuple[tuple[str, ...], str, object]] = (
        (("url", "text"), "text", pa.types.is_string),
        (SIZES, "an integer", _is_size),
        (SCORES, "a float", pa.types.is_floating),
    )
    for names, what, is_right in tests:
        for name in names:
            assert callable(is_right)
            if name in types and not is_right(types[name]):
                raise PoolError(f"{path}: column {name!r} is {types[name]}, not {what}; convert it")


def _is_size(kind: pa.DataType) -> bool:
    """Integers, or the floats that tables with nulls often hold."""
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))
