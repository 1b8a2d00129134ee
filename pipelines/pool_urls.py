"""Pool ``urls``: lists of image URLs with captions, in any of five formats.  One reader, in the driver."""

from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property

import pyarrow as pa
import pyarrow.compute as pc

from pairsieve.pipelines import tables
from pairsieve.pipelines.pools import (
    GIVEN_UID,
    Pool,
    ShardTask,
    identity_of,
    list_files,
    outer_names,
    pick,
    reason_where,
)
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
        return None

    def stream(self) -> Iterable[pa.Table]:
        return cut(self._tables(), self.spec.shard_rows)

    def _tables(self) -> Iterator[pa.Table]:
        wanted = {theirs: self.source_types[theirs] for theirs in self.named.values()}
        for name in ("url", "text", GIVEN_UID):
            if name in self.named:
                wanted[self.named[name]] = pa.string()
        for path in self.files:
            for piece in tables.read(self.fs, path, self.kind, wanted):
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
