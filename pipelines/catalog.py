"""DuckDB over a run: views of pairs, scores, verdicts and dataset, and queries against them.

``catalog.duckdb`` holds views with paths relative to the run's folder, so a run may be moved, and
read without pairsieve: ``cd run && duckdb catalog.duckdb``.  Parquet stays the truth.
"""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb
import pyarrow as pa

from pairsieve.pipelines.store import Store
from pairsieve.schemas import columns
from pairsieve.schemas.errors import QueryError, UserError

if TYPE_CHECKING:  # a query needs no filters, which cost half a second to import
    from pairsieve.pipelines.plan import Plan

CATALOG = "catalog.duckdb"


def write_catalog(store: Store, plan: "Plan") -> None:
    """Write the catalog file: elsewhere first, since a reader may have the old one open."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / CATALOG
        with duckdb.connect(str(path)) as con:
            if not store.local:
                con.register_filesystem(store.fs)
            con.execute(f"SET file_search_path = {_text(store.base)}")
            for statement in views(store, plan):
                con.execute(statement)
        store.write(CATALOG, path.read_bytes())


def views(store: Store, plan: "Plan") -> Iterator[str]:
    """The statements that make the views; a step that measured nothing gets an empty view of its columns."""
    yield _view("pairs", _files(store, "pairs"), columns.PAIRS)
    yield _view("verdicts", _files(store, "verdicts"), columns.VERDICTS)
    measured = [step for step in plan.steps if step.measures]
    for step in measured:
        schema = columns.scores(step.stored)
        yield _view(f"scores_{step.id}", _files(store, f"scores/{step.id}"), schema)
    for step in plan.steps:
        if step.keys:
            yield _view(f"derived_{step.id}", _files(store, f"derived/{step.id}"), columns.DERIVED)
    yield _scores(plan)
    if plan.recipe.output.dataset is not None:
        yield _view("dataset", _files(store, "dataset"), None)


def _scores(plan: "Plan") -> str:
    """One row per candidate: the pool's light columns, every light score, the verdict."""
    pool = ", ".join(
        f"p.{_quote(stored)} AS {_quote(seen)}" for seen, stored in plan.pool_names.items() if seen != "image"
    )
    parts = [f"p.uid, p.shard, p.row, {pool}"]
    joins = ["FROM pairs p JOIN verdicts v ON p.shard = v.shard AND p.row = v.row"]
    for i, step in enumerate(s for s in plan.steps if s.measures):
        names = [n for n, kind in step.stored.items() if not columns.is_heavy(kind)]
        parts += [f"s{i}.{_quote(name)}" for name in names]
        joins.append(f"LEFT JOIN {_quote(f'scores_{step.id}')} s{i} ON p.shard = s{i}.shard AND p.row = s{i}.row")
    for i, step in enumerate(s for s in plan.steps if s.keys):
        parts.append(f"d{i}.duplicate_of AS {_quote(f'{step.id}_of')}")
        joins.append(f"LEFT JOIN {_quote(f'derived_{step.id}')} d{i} ON p.shard = d{i}.shard AND p.row = d{i}.row")
    return f"CREATE VIEW scores AS SELECT {', '.join(parts)}, v.dropped_by, v.reason {' '.join(joins)}"


def _files(store: Store, folder: str) -> str | None:
    """The glob of a folder's files, relative to the run for a local one; None where there is no file."""
    if not store.names(folder, ".parquet"):
        return None
    return f"{folder}/*.parquet" if store.local else store.url(f"{folder}/*.parquet")


def _view(name: str, files: str | None, schema: pa.Schema | None) -> str:
    if files is not None:
        return f"CREATE VIEW {_quote(name)} AS SELECT * FROM read_parquet({_text(files)}, hive_partitioning = false)"
    fields = schema or pa.schema([columns.UID])
    empty = ", ".join(f"CAST(NULL AS {_duck(field.type)}) AS {_quote(field.name)}" for field in fields)
    return f"CREATE VIEW {_quote(name)} AS SELECT {empty} WHERE false"


def _duck(kind: pa.DataType) -> str:
    with duckdb.connect() as con:
        con.register("t", pa.schema([pa.field("c", kind)]).empty_table())
        return str(con.execute("DESCRIBE SELECT c FROM t").fetchall()[0][1])


@contextmanager
def connect(root: str) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection to a copy of the catalog, so that temporary tables may be made and no file is written.

    Raises ``UserError`` where there is no finished run.
    """
    store = Store(root)
    if not store.exists(CATALOG):
        raise UserError(f"{root}: no finished run here ({CATALOG} is missing); pairsieve run RECIPE --out {root}")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / CATALOG
        path.write_bytes(store.read(CATALOG))
        with duckdb.connect(str(path)) as con:
            if store.local:
                con.execute(f"SET file_search_path = {_text(store.base)}")
            else:
                con.register_filesystem(store.fs)
            yield con


def query(root: str, sql: str, parameters: Sequence[object] | Mapping[str, object] = ()) -> pa.Table:
    """The result of a query over a run's views; raises ``QueryError`` with DuckDB's first lines."""
    with connect(root) as con:
        try:
            return con.sql(sql, params=parameters or None).to_arrow_table()
        except (duckdb.Error, AttributeError) as error:
            raise QueryError(_message(error)) from None


def _message(error: Exception) -> str:
    if isinstance(error, AttributeError):
        return "the query gives no rows; write a SELECT"
    lines = [line.strip() for line in str(error).split("\n") if line.strip() and not line.startswith(("LINE", " "))]
    return "; ".join(lines[:2])[:400]


def _quote(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"
