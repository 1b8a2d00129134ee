"""Light columns of a Parquet pool read where they lie, instead of from a copy under ``pairs/``.

Possible where the source brings uids, no row lacks a URL (as the file's statistics tell), and row
groups are about as large as a shard.  A column costs what Parquet costs: 0.02-0.1 µs a row.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from pairsieve.pipelines.parquet_source import as_type, open_source, read_groups
from pairsieve.pipelines.pools import LightReader, PoolShard, ShardTask, Sources, check_uids
from pairsieve.schemas.errors import PoolError

MOST = 2
"""A row group may hold this many times the rows wanted in a shard; larger ones are copied and cut."""


class InPlace(LightReader):
    """Columns of a shard from row groups of its source file; uids are checked whenever they are read."""

    def __init__(
        self, shard: PoolShard, sources: Sources, named: Mapping[str, str], types: Mapping[str, pa.DataType]
    ) -> None:
        """``named`` maps the pool's columns to the source's, ``types`` gives the pool's types."""
        self._shard, self._named, self._types = shard, named, types
        self._file, self._path = sources.open(str(shard.media))

    def read(self, names: Sequence[str]) -> pa.Table:
        """See ``LightReader``."""
        source = {name: self._named[name] for name in names if name in self._named}
        table = read_groups(self._file, self._shard.groups, list(dict.fromkeys(source.values())), self._path)
        if table.num_rows < self._shard.rows:
            raise PoolError(f"{self._path}: fewer rows than before; it changed during the run: start the run again")
        table = table.slice(0, self._shard.rows)
        found = {name: self._column(name, table[theirs]) for name, theirs in source.items()}
        nothing = pa.nulls(self._shard.rows, pa.string())  # no caption column; and no row has a reason here
        return pa.table({name: found.get(name, nothing) for name in names})

    def _column(self, name: str, values: pa.ChunkedArray) -> pa.Array:
        array = values.combine_chunks()
        if name == "uid" and pa.types.is_string(array.type):  # whatever passes the check is valid text
            check_uids(array, self._path)
            return array
        found = as_type(array, self._types[name], f"{self._path}: column {self._named[name]!r}")
        if name == "uid":
            check_uids(found, self._path)
        return found

    def close(self) -> None:
        """The file stays open for the next shard."""


def tasks(fs: fsspec.AbstractFileSystem, files: Sequence[str], url: str, shard_rows: int) -> list[ShardTask] | None:
    """The shards of Parquet files as runs of whole row groups; None where a row group is too large for that."""
    found: list[ShardTask] = []
    for path in files:
        with open_source(fs, path) as file:
            groups = [file.metadata.row_group(g) for g in range(file.metadata.num_row_groups)]
            if any(group.num_rows > MOST * shard_rows for group in groups):
                return None
            where = fs.unstrip_protocol(path)
            for run in runs([group.num_rows for group in groups], shard_rows):
                clean = all(_has_urls(groups[g], url) for g in run)
                rows = sum(groups[g].num_rows for g in run)
                found.append(ShardTask(len(found), where, run, rows if clean else None, rows))
    return found


def runs(sizes: Sequence[int], rows: int) -> Iterator[tuple[int, ...]]:
    """Consecutive row groups of at least ``rows`` rows together."""
    held: list[int] = []
    have = 0
    for g, size in enumerate(sizes):
        held.append(g)
        have += size
        if have >= rows or g == len(sizes) - 1:
            yield tuple(held)
            held, have = [], 0


def _has_urls(group: pq.RowGroupMetaData, url: str) -> bool:
    """Whether statistics rule out that a URL is null or blank: all begin with a visible ASCII character."""
    stats = statistics(group, url)
    if stats is None or not stats.has_null_count or stats.null_count or not stats.has_min_max:
        return False
    least, most = _head(stats.min), _head(stats.max)
    return least > " " and most < "\x7f"


def _head(value: Any) -> str:
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    return text[:1]


def statistics(group: pq.RowGroupMetaData, column: str) -> Any:
    """A column's statistics in a row group; None where there are none."""
    for i in range(group.num_columns):
        part = group.column(i)
        if part.path_in_schema == column:
            return part.statistics
    return None
