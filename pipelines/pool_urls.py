"""Pool ``urls``: lists of image URLs with captions, in any of five formats.

Parquet lists that bring uids are read in place, shard by shard; others go through one reader in the driver.
"""

from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property

import pyarrow as pa
import pyarrow.compute as pc

from pairsieve.pipelines import in_place, tables
from pairsieve.pipelines.parquet_source import as_type, open_source, read_groups
from pairsieve.pipelines.pools import (
    GIVEN_UID,
    LightReader,
    Pool,
    PoolShard,
    ShardTask,
    Sources,
    identity_of,
    list_files,
    outer_names,
    pick,
    reason_where,
)
from pairsieve.pipelines.store import filesystem
from pairsieve.pipelines.tables import check_columns
from pairsieve.schemas import uid
from pairsieve.schemas.errors import PoolError
from pairsieve.schemas.recipe import UrlsPool


class Urls(Pool):
    """See ``UrlsPool`` for the settings."""

    def __init__(self, spec: UrlsPool) -> None:
        """List the files and read the head of the first; raises ``PoolError``."""
        self.spec = spec
        self.fs, self.files = list_files(spec.path, tuple(f".{ending}" for ending in tables.ENDINGS))
        first = self.files[0]
        self.kind = tables.format_of(first, spec.format)
        if odd := next((f for f in self.files if tables.format_of(f, spec.format) != self.kind), None):
            raise PoolError(f"{odd}: is no {self.kind} like {first}; give one format, or choose files by a glob")
        self.source_types = tables.types_of(self.fs, first, self.kind)

    @cached_property
    def named(self) -> dict[str, str]:
        """Column of the pool -> column of the source."""
        names, where = list(self.source_types), self.files[0]
        is_txt = self.kind == "txt"
        url = "url" if is_txt else pick(self.spec.url_col, names, "url_col", where)
        text = None if is_txt else pick(self.spec.caption_col, names, "caption_col", where, ("caption",))
        given = pick(self.spec.uid_col, names, "uid_col", where) or self._ready_uids()
        others = [n for n in names if n not in (url, text, given)]
        if self.spec.columns is not None:
            others = [str(pick(n, names, "columns", where)) for n in dict.fromkeys(self.spec.columns)]
        found = {ours: theirs for theirs, ours in outer_names(others, where).items()}
        fixed = {"url": url, "text": text, GIVEN_UID: given}
        return {ours: theirs for ours, theirs in fixed.items() if theirs is not None} | found

    def _ready_uids(self) -> str | None:
        """A column ``uid`` counts as ready uids if the head of the first file holds nothing else."""
        if "uid" not in self.source_types or self.source_types["uid"] != pa.string():
            return None
        for head, bad in tables.read(self.fs, self.files[0], self.kind, {"uid": pa.string()}):
            given = pc.filter(head["uid"], pc.invert(bad))
            return "uid" if len(given) and uid.first_bad(given) is None else None
        return None

    def types(self) -> dict[str, pa.DataType]:
        others = {o: self.source_types[t] for o, t in self.named.items() if o not in ("url", "text", GIVEN_UID)}
        return {"url": pa.string(), "text": pa.string()} | others

    def identity(self) -> str:
        return identity_of(self.fs, self.files, self.spec.model_dump())

    def tasks(self) -> list[ShardTask] | None:
        is_odd = "file_row_number" in self.source_types or any(set(f) & set("*?[]") for f in self.files)  # to DuckDB
        if self.kind != "parquet" or GIVEN_UID not in self.named or is_odd:
            return None
        return in_place.tasks(self.fs, self.files, self.named["url"], self.spec.shard_rows)

    def reading(self) -> str:
        return repr(sorted((ours, theirs, str(self._wanted[theirs])) for ours, theirs in self.named.items()))

    def source_columns(self) -> Mapping[str, str]:
        return {"uid" if ours == GIVEN_UID else ours: theirs for ours, theirs in self.named.items()}

    def light(self, shard: PoolShard, sources: Sources) -> LightReader:
        return in_place.InPlace(shard, sources, self.source_columns(), {"uid": pa.string(), **self.types()})

    def ingest(self, task: ShardTask) -> pa.Table:
        fs, path = filesystem(task.path)
        with open_source(fs, path) as file:
            check_columns(file.schema_arrow.names, self._wanted, path)
            table = read_groups(file, task.groups, list(self._wanted), path)
        arrays = [as_type(table[n].combine_chunks(), k, f"{path}: column {n!r}") for n, k in self._wanted.items()]
        return self._shape(pa.table(arrays, names=list(self._wanted)), pa.repeat(pa.scalar(False), table.num_rows))

    def stream(self) -> Iterable[pa.Table]:
        return cut(self._tables(), self.spec.shard_rows)

    @cached_property
    def _wanted(self) -> dict[str, pa.DataType]:
        """Columns of the source to read, with the types to read them as."""
        text = [self.named[name] for name in ("url", "text", GIVEN_UID) if name in self.named]
        return {n: pa.string() if n in text else self.source_types[n] for n in self.named.values()}

    def _tables(self) -> Iterator[pa.Table]:
        for path in self.files:
            for piece in tables.read(self.fs, path, self.kind, self._wanted):
                yield self._shape(*piece)

    def _shape(self, table: pa.Table, bad: pa.Array) -> pa.Table:
        """The source's columns under the pool's names, with the reason of rows that have no URL or are no row."""
        found: Mapping[str, pa.ChunkedArray] = {ours: table[theirs] for ours, theirs in self.named.items()}
        url = found["url"]
        blank = pc.fill_null(pc.equal(pc.utf8_trim_whitespace(url), ""), True)
        head = {
            "url": url,
            "text": found.get("text", pa.nulls(table.num_rows, pa.string())),
            "reason": pc.coalesce(reason_where(bad, "bad_line"), reason_where(blank.combine_chunks(), "no_url")),
        }
        return pa.table(head | {name: values for name, values in found.items() if name not in head})


def cut(source: Iterable[pa.Table], rows: int) -> Iterator[pa.Table]:
    """Tables of exactly ``rows`` rows (the last may be shorter), in order."""
    held: list[pa.Table] = []
    have = 0
    for table in source:
        while table.num_rows:
            part = table.slice(0, rows - have)
            held.append(part)
            have += part.num_rows
            table = table.slice(part.num_rows)
            if have == rows:
                yield pa.concat_tables(held).combine_chunks()
                held, have = [], 0
    if have:
        yield pa.concat_tables(held).combine_chunks()
