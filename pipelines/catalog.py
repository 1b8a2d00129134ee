"""DuckDB over a run: views of pairs, scores, verdicts, clusters and dataset, and queries against them.

``catalog.duckdb`` holds views with paths relative to the run's folder, so a run may be moved, and
read without pairsieve: ``cd run && duckdb catalog.duckdb``.  Parquet stays the truth.
"""

import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb
import fsspec
import pyarrow as pa

from pairsieve.pipelines import facts
from pairsieve.pipelines.catalog_clusters import bring_up_to_date, clusters_view
from pairsieve.pipelines.near import CATALOG as CATALOG
from pairsieve.pipelines.near import no_run
from pairsieve.pipelines.sql import quote, text
from pairsieve.pipelines.store import Store, filesystem, is_local
from pairsieve.schemas import columns
from pairsieve.schemas.errors import QueryError, UserError

if TYPE_CHECKING:  # a query needs no filters, which cost half a second to import
    from pairsieve.pipelines.plan import Plan
    from pairsieve.pipelines.pools import Pool, PoolShard


def write_catalog(store: Store, plan: "Plan", pool: "Pool", shards: Sequence["PoolShard"]) -> None:
    """Write the catalog file: elsewhere first, since a reader may have the old one open."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / CATALOG
        with duckdb.connect(str(path)) as con:
            _register(con, [store.fs, pool.fs])
            con.execute(f"SET file_search_path = {text(_stand_in(store, plan, Path(folder)))}")
            _write_shards(con, shards)
            for statement in views(store, plan, pool, shards):
                con.execute(statement)
        store.write(CATALOG, path.read_bytes())


def _stand_in(store: Store, plan: "Plan", folder: Path) -> str:
    """A folder with the first file of each kind, for DuckDB to see while views are made.

    It lists all files of every view that it makes, some kilobytes a shard, and looks into the first alone.
    """
    if not store.local:
        return store.base
    inside = folder / "run"
    steps = [f"{kind}/{step.id}" for step in plan.steps for kind in ("scores", facts.FOLDER, "derived")]
    for name in ("pairs", "verdicts", "added", "dataset", *steps):
        _link(store, inside, name, store.names(name, ".parquet")[:1])
    for step in plan.steps:
        tables = f"derived/{step.id}/tables"
        _link(store, inside, tables, store.names(tables, ".parquet"))
    return str(inside)


def _link(store: Store, inside: Path, folder: str, names: Sequence[str]) -> None:
    """Links to some files of a folder of the run."""
    (inside / folder).mkdir(parents=True, exist_ok=True)
    for name in names:
        (inside / folder / name).symlink_to(Path(store.base, folder, name).absolute())


def _write_shards(con: duckdb.DuckDBPyConnection, shards: Sequence["PoolShard"]) -> None:
    """The table ``shards``: where the pairs of each lie that were not copied."""
    con.execute("CREATE TABLE shards (shard INTEGER, rows BIGINT, file VARCHAR, first BIGINT, is_copied BOOLEAN)")
    found: dict[str, list[object]] = {"shard": [], "rows": [], "file": [], "first": [], "is_copied": []}
    ends: dict[str | None, int] = {}
    for s in shards:  # row groups of a file follow each other, shard by shard
        first = ends.get(s.media, 0)
        ends[s.media] = first + s.rows
        for name, value in zip(found, (s.index, s.rows, _duck_path(s.media), first, bool(s.checksum)), strict=True):
            found[name].append(value)
    con.register("found", pa.table(found))
    con.execute("INSERT INTO shards SELECT * FROM found")


def views(store: Store, plan: "Plan", pool: "Pool", shards: Sequence["PoolShard"]) -> Iterator[str]:
    """The statements that make the views; a step that measured nothing gets an empty view of its columns."""
    yield _pairs(store, pool, shards)
    yield _view("verdicts", _files(store, "verdicts"), columns.VERDICTS)
    measured = [step for step in plan.steps if step.measures]
    for step in measured:
        schema = columns.scores(step.stored)
        yield _view(f"scores_{step.id}", _files(store, f"scores/{step.id}"), schema)
    for name in store.names(facts.FOLDER):
        if name in {step.id for step in measured}:
            yield _view(f"facts_{name}", _files(store, f"{facts.FOLDER}/{name}"), None)
    for step in plan.steps:
        if step.keys:
            yield _view(f"derived_{step.id}", _files(store, f"derived/{step.id}"), columns.DERIVED)
        elif step.derives:
            schema = columns.scores(step.derived)
            yield _view(f"derived_{step.id}", _files(store, f"derived/{step.id}"), schema)
        for name, file in tables_of(store, step.id).items():
            yield _view(name, file if store.local else store.url(file), None)
    if plan.adding is not None:
        yield _view("added", _files(store, "added"), columns.ADDED)
    yield clusters_view([step.id for step in plan.steps])
    yield _scores(plan, pool.beside_tables())
    if plan.recipe.output.dataset is not None:
        yield _view("dataset", _files(store, "dataset"), None)


def table_name(step: str, name: str) -> str:
    """File of a table about a step's scope."""
    return f"derived/{step}/tables/{name}.parquet"


def tables_of(store: Store, step: str) -> dict[str, str]:
    """The tables about a step's scope: view -> file."""
    names = [name.removesuffix(".parquet") for name in store.names(f"derived/{step}/tables", ".parquet")]
    return {f"{step}_{name}": table_name(step, name) for name in names}


def _pairs(store: Store, pool: "Pool", shards: Sequence["PoolShard"]) -> str:
    """The pool: its files under ``pairs/``, and the source's own rows where they were not copied."""
    in_place = list(dict.fromkeys(_duck_path(s.media) for s in shards if not s.checksum))
    if not in_place:
        return _view("pairs", _files(store, "pairs"), columns.PAIRS)
    given = {name: f"f.{quote(theirs)}" for name, theirs in pool.source_columns().items()}
    given |= {"shard": "s.shard", "row": "CAST(f.file_row_number - s.first AS INTEGER)"}
    names = list(dict.fromkeys((*columns.PAIRS.names, *(n for n in given))))
    found = ", ".join(f"{given.get(name, 'CAST(NULL AS VARCHAR)')} AS {quote(name)}" for name in names)
    files = ", ".join(text(str(name)) for name in in_place)
    options = "filename = '_file', file_row_number = true, hive_partitioning = false"
    sql = f"""
        SELECT {found} FROM read_parquet([{files}], {options}) f JOIN shards s ON f._file = s.file AND NOT s.is_copied
        AND f.file_row_number >= s.first AND f.file_row_number < s.first + s.rows
    """
    if copied := _files(store, "pairs"):
        own = ", ".join(map(quote, names))
        sql += f" UNION ALL SELECT {own} FROM read_parquet({text(copied)}, hive_partitioning = false)"
    return f"CREATE VIEW pairs AS {sql}"


def _duck_path(url: str | None) -> str | None:
    """How DuckDB calls a source file: a plain path where it is local."""
    return url.removeprefix("file://") if url else None


def _scores(plan: "Plan", beside: Collection[str]) -> str:
    """One row per candidate: the pool's light columns, every light score and list of ids, the verdict."""
    own, joins = _columns_and_joins(plan, beside, "p.row", frozenset())
    base = "FROM pairs p JOIN verdicts v ON p.shard = v.shard AND p.row = v.row"
    place = "p.uid, p.shard, p.row"
    if plan.adding is None:
        return f"CREATE VIEW scores AS SELECT {', '.join([place, *own])}, v.dropped_by, v.reason {base} {joins}"
    nothing = f"CAST(NULL AS VARCHAR) AS {columns.PARENT}, 'text' AS {columns.TEXT_SOURCE}"
    nothing += f", CAST(NULL AS FLOAT) AS {columns.TEXT_SCORE}"
    theirs, their_joins = _columns_and_joins(plan, beside, "a.parent_row", plan.about_texts | {"text"})
    what = f"a.{columns.PARENT}, a.{columns.TEXT_SOURCE}, a.{columns.TEXT_SCORE}, v.dropped_by, v.reason"
    return f"""
        CREATE VIEW scores AS SELECT {", ".join([place, *own])}, {nothing}, v.dropped_by, v.reason {base} {joins}
        UNION ALL BY NAME SELECT {", ".join(["a.uid, a.shard, a.row, a.text", *theirs])}, {what} FROM added a
        JOIN verdicts v ON a.shard = v.shard AND a.row = v.row
        JOIN pairs p ON a.shard = p.shard AND a.parent_row = p.row
        {their_joins}
    """


def _columns_and_joins(plan: "Plan", beside: Collection[str], row: str, without: Set[str]) -> tuple[list[str], str]:
    """Columns of the pool and of all steps but some, and the joins that bring the steps' to a pair's row."""
    shown = {seen: stored for seen, stored in plan.pool_names.items() if stored not in beside and seen not in without}
    parts = [f"p.{quote(stored)} AS {quote(seen)}" for seen, stored in shown.items()]
    joins = []
    for i, step in enumerate(s for s in plan.steps if s.measures):
        names = [n for n, kind in step.stored.items() if not columns.is_heavy(kind) or columns.is_listed(kind)]
        parts += [f"s{i}.{quote(name)}" for name in names if name not in without]
        joins.append(f"LEFT JOIN {quote(f'scores_{step.id}')} s{i} ON p.shard = s{i}.shard AND {row} = s{i}.row")
    for i, step in enumerate(s for s in plan.steps if s.keys or s.derives):
        parts += [f"d{i}.{quote(name)}" for name in step.shown if name not in without]
        parts += [f"d{i}.duplicate_of AS {quote(f'{step.id}_of')}"] if step.keys else []
        joins.append(f"LEFT JOIN {quote(f'derived_{step.id}')} d{i} ON p.shard = d{i}.shard AND {row} = d{i}.row")
    return parts, " ".join(joins)


def _files(store: Store, folder: str) -> str | None:
    """The glob of a folder's files, relative to the run for a local one; None where there is no file."""
    if not store.names(folder, ".parquet"):
        return None
    return f"{folder}/*.parquet" if store.local else store.url(f"{folder}/*.parquet")


def _view(name: str, files: str | None, schema: pa.Schema | None) -> str:
    if files is not None:
        return f"CREATE VIEW {quote(name)} AS SELECT * FROM read_parquet({text(files)}, hive_partitioning = false)"
    fields = schema or pa.schema([columns.UID])
    empty = ", ".join(f"CAST(NULL AS {_duck(field.type)}) AS {quote(field.name)}" for field in fields)
    return f"CREATE VIEW {quote(name)} AS SELECT {empty} WHERE false"


def _duck(kind: pa.DataType) -> str:
    with duckdb.connect() as con:
        con.register("t", pa.schema([pa.field("c", kind)]).empty_table())
        return str(con.execute("DESCRIBE SELECT c FROM t").fetchall()[0][1])


@contextmanager
def connect(root: str) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection to a copy of the catalog, so that temporary tables may be made and no file is written.

    Raises ``UserError`` where there is no finished run, or a damaged catalog.
    """
    store = Store(root)
    if not store.exists(CATALOG):
        raise no_run(root)
    with tempfile.TemporaryDirectory() as folder, _open(store, Path(folder) / CATALOG) as con:
        if store.local:
            con.execute(f"SET file_search_path = {text(store.base)}")
        sources = con.execute("SELECT DISTINCT regexp_extract(file, '^[^:/]+://') FROM shards").fetchall()
        _register(con, [store.fs, *(filesystem(protocol)[0] for (protocol,) in sources if protocol)])
        bring_up_to_date(con, store)
        yield con


def _open(store: Store, copy: Path) -> duckdb.DuckDBPyConnection:
    try:
        copy.write_bytes(store.read(CATALOG))
        return duckdb.connect(str(copy))
    except (IsADirectoryError, duckdb.Error):
        raise UserError(f"{store.root}: {CATALOG} is damaged; run the recipe again, which measures nothing") from None


def _register(con: duckdb.DuckDBPyConnection, found: Sequence[fsspec.AbstractFileSystem]) -> None:
    """Let DuckDB read through fsspec what is not on this machine."""
    for fs in found:
        name = fs.protocol if isinstance(fs.protocol, str) else fs.protocol[0]
        if not is_local(fs) and not con.filesystem_is_registered(name):
            con.register_filesystem(fs)


def query(root: str, sql: str, parameters: Sequence[object] | Mapping[str, object] = ()) -> pa.Table:
    """The result of a query over a run's views; raises ``QueryError`` with DuckDB's first lines."""
    with connect(root) as con:
        try:
            return con.sql(sql, params=parameters or None).to_arrow_table()
        except (duckdb.Error, AttributeError) as error:
            raise QueryError(message(error)) from None


def message(error: Exception) -> str:
    """DuckDB's first lines, without the query."""
    if isinstance(error, AttributeError):
        return "the query gives no rows; write a SELECT"
    lines = [line.strip() for line in str(error).split("\n") if line.strip() and not line.startswith(("LINE", " "))]
    return "; ".join(lines[:2])[:400]
