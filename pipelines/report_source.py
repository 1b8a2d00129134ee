"""What a report reads: a run's views in DuckDB, its manifest, and the fate of every pair as a small number.

A finished run is read through its catalog, which a run removes when it begins: one that was stopped has none, so its
views are made of the files that are there.  The table ``fate`` (place, d) is made once: 12 bytes a pair, on disk beyond
the memory limit.
"""

import fcntl
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import duckdb

from pairsieve.pipelines import catalog
from pairsieve.pipelines.catalog_clusters import clusters_view
from pairsieve.pipelines.pools import read_manifest
from pairsieve.pipelines.provenance import manifest
from pairsieve.pipelines.sql import quote, text
from pairsieve.pipelines.store import Store
from pairsieve.pipelines.workshop import silence, workshop
from pairsieve.schemas.run import RunManifest, StepRecord

MEMORY = "1GB"
"""What DuckDB may hold; the rest goes to its temporary folder."""
POOL = -1
"""The fate of pairs that the pool could not give; of others the number of the step that dropped them."""


_FOLDERS = re.compile(r"/(?:[^/\s\"']+/)+")
"""The folders of a path in a message: a report is passed on."""


@dataclass(frozen=True)
class Source:
    """An open run.  ``columns`` are the DuckDB types of each view's columns; ``state`` says what is unfinished."""

    store: Store
    con: duckdb.DuckDBPyConnection
    manifest: RunManifest
    columns: dict[str, dict[str, str]]
    state: tuple[str, ...] = ()
    unread: list[str] = field(default_factory=list)

    @property
    def steps(self) -> tuple[StepRecord, ...]:
        """The steps in order: a pair's fate is an index into them, or their number where it is kept."""
        return self.manifest.steps

    @property
    def kept(self) -> int:
        """The fate of pairs that stay."""
        return len(self.steps)

    @cached_property
    def settings(self) -> tuple[tuple[str | None, Mapping[str, Any]], ...]:
        """Of each step ``of`` and the settings as its recipe writes them; what has no names is left out."""
        return tuple(_written(step) for step in self.manifest.recipe.get("filters") or ())

    def rows(self, sql: str, parameters: Sequence[object] | Mapping[str, object] = ()) -> list[tuple[Any, ...]]:
        """A query's rows."""
        return self.con.execute(sql, parameters or None).fetchall()

    def table(self, sql: str) -> Mapping[str, Any]:
        """A query's columns as numpy arrays."""
        return self.con.execute(sql).fetchnumpy()

    @contextmanager
    def section(self, name: str) -> Iterator[None]:
        """A part of the report that damaged or missing files do not take the others from; what it lacks is said."""
        try:
            yield
        except duckdb.Error as error:
            self.unread.append(f"{name}: {_FOLDERS.sub('…/', catalog.message(error))}")


def _written(step: Any) -> tuple[str | None, Mapping[str, Any]]:
    values = next(iter(step.values())) if isinstance(step, dict) and len(step) == 1 else {}
    values = values if isinstance(values, dict) else {}
    return values.get("of"), values


@contextmanager
def open_run(root: str) -> Iterator[Source]:
    """Open a run, finished or not; raises ``UserError`` where there is none."""
    store = Store(root)
    found = manifest(store)
    with ExitStack() as stack:
        if store.exists(catalog.CATALOG):
            con = stack.enter_context(catalog.connect(root))
            state: tuple[str, ...] = ()
        else:
            con = stack.enter_context(workshop(store, MEMORY))
            for statement in _views(store, found):
                con.execute(statement)
            state = ("this run is not finished: what follows is what it has stored so far", *_working(store))
        silence(con)
        for setting in (f"memory_limit = {text(MEMORY)}", "preserve_insertion_order = false", "TimeZone = 'UTC'"):
            con.execute(f"SET {setting}")
        source = Source(store, con, found, {}, state)
        source.columns.update(_columns(source))
        _tell_fates(source)
        yield source


def _columns(source: Source) -> dict[str, dict[str, str]]:
    """Of every view that can be read; others are of a source that has moved, or of files that are damaged or gone."""
    found: dict[str, dict[str, str]] = {}
    names = [name for (name,) in source.rows("SELECT view_name FROM duckdb_views() WHERE NOT internal")]
    for name in sorted({*names} - {"scores", "clusters"}):  # which are made of the others
        with source.section(name):
            described = source.rows(f"DESCRIBE SELECT * FROM {quote(name)}")
            found[name] = {str(column): str(kind) for column, kind, *_ in described}
    return found


def _tell_fates(source: Source) -> None:
    """The table ``fate``: each candidate's place, and by number the step that dropped it."""
    source.con.execute("CREATE TEMP TABLE step_names (name VARCHAR, d SMALLINT)")
    names = [("pool", POOL), *((step.id, k) for k, step in enumerate(source.steps))]
    source.con.executemany("INSERT INTO step_names VALUES (?, ?)", names)
    what = "SELECT 0::BIGINT AS place, 0::SMALLINT AS d WHERE false"
    if "verdicts" in source.columns:
        what = f"""
            SELECT v.shard::BIGINT << 32 | v.row AS place, coalesce(n.d, {source.kept})::SMALLINT AS d
            FROM verdicts v LEFT JOIN step_names n ON v.dropped_by = n.name
        """
    with source.section("verdicts"):
        source.con.execute(f"CREATE TEMP TABLE fate AS {what}")
        return
    source.con.execute("CREATE TEMP TABLE fate (place BIGINT, d SMALLINT)")


def _working(store: Store) -> Iterator[str]:
    """Whether another process works in the run, on a disk."""
    if not store.local or not store.exists(".lock"):
        return
    try:
        with Path(store.path(".lock")).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        yield "another process works in this run now"
    except OSError:
        return  # a file that may not be read, or a mount without locks: nothing is known


def _views(store: Store, found: RunManifest) -> Iterator[str]:
    """Views of a run without a catalog, as far as its files go; each is as the catalog's would be."""
    for name in ("pairs", "verdicts", "added"):
        yield from _view(store, name, name)
    if store.names("verdicts", ".parquet"):
        yield clusters_view([step.id for step in found.steps])
    for step in found.steps:
        for kind in ("scores", "derived", "facts"):
            yield from _view(store, f"{kind}_{step.id}", f"{kind}/{step.id}")
        for name in store.names(f"derived/{step.id}/tables", ".parquet"):
            table = f"derived/{step.id}/tables"
            yield from _view(store, f"{step.id}_{name.removesuffix('.parquet')}", table, name)
    known = read_manifest(store)
    yield "CREATE TABLE shards (shard INTEGER, rows BIGINT)"
    if shards := known[1] if known else []:
        yield "INSERT INTO shards VALUES " + ", ".join(f"({shard.index}, {shard.rows})" for shard in shards)


def _view(store: Store, name: str, folder: str, files: str = "*.parquet") -> Iterator[str]:
    if store.names(folder, ".parquet"):
        url = store.url(f"{folder}/{files}")
        yield f"CREATE VIEW {quote(name)} AS SELECT * FROM read_parquet({text(url)}, hive_partitioning = false)"
