"""Read csv, tsv, jsonl, parquet and txt files, compressed or not, as record batches of fixed types.

DuckDB parses text (about 1 M rows/s on a core); the first file's types hold for all files of a pool.
"""

import bz2
import gzip
import lzma
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import duckdb
import fsspec
import pyarrow as pa

from pairsieve.pipelines.store import open_parquet
from pairsieve.schemas.errors import PoolError

BATCH = 65_536
_ENDINGS = {
    "csv": "csv",
    "tsv": "tsv",
    "jsonl": "jsonl",
    "ndjson": "jsonl",
    "json": "jsonl",
    "parquet": "parquet",
    "txt": "txt",
}
_OPENERS: Mapping[str, Any] = {"gz": gzip.open, "bz2": bz2.open, "xz": lzma.open}


def format_of(path: str, wanted: str) -> str:
    """The format of a file; ``auto`` goes by its name without a compression ending."""
    if wanted != "auto":
        return wanted
    ending = path.rsplit("/", 1)[-1].lower()
    for compression in (*_OPENERS, "zst"):
        ending = ending.removesuffix(f".{compression}")
    ending = ending.rsplit(".", 1)[-1]
    if ending not in _ENDINGS:
        raise PoolError(
            f"{path}: cannot tell the format by its name; set format: to one of csv, tsv, jsonl, parquet, txt"
        )
    return _ENDINGS[ending]


def types_of(fs: fsspec.AbstractFileSystem, path: str, kind: str) -> dict[str, pa.DataType]:
    """Columns and types of a file, from its head."""
    if kind == "txt":
        return {"url": pa.string()}
    if kind == "parquet":
        with _parquet(fs, path) as file:
            schema = file.schema_arrow
        return dict(zip(schema.names, schema.types, strict=True))
    with _local(fs, path) as local:
        empty = _query(path, f"SELECT * FROM {_scan(local, kind, None)} LIMIT 0")
    return {name: _plain(t) for name, t in zip(empty.schema.names, empty.schema.types, strict=True)}


def read(fs: fsspec.AbstractFileSystem, path: str, kind: str, types: Mapping[str, pa.DataType]) -> Iterator[pa.Table]:
    """The columns of ``types`` in row order, in tables of at most ``BATCH`` rows."""
    if kind == "txt":
        yield from _read_txt(fs, path)
    elif kind == "parquet":
        yield from _read_parquet(fs, path, types)
    else:
        yield from _read_text(fs, path, kind, types)


def _read_txt(fs: fsspec.AbstractFileSystem, path: str) -> Iterator[pa.Table]:
    with _local(fs, path) as local, _open_text(local) as file:
        lines: list[str | None] = []
        for line in file:
            lines.append(line.rstrip("\r\n").strip() or None)
            if len(lines) == BATCH:
                yield pa.table({"url": pa.array(lines, pa.string())})
                lines = []
        if lines:
            yield pa.table({"url": pa.array(lines, pa.string())})


def _open_text(local: str) -> IO[str]:
    opener = _OPENERS.get(local.rsplit(".", 1)[-1], open)
    return opener(local, "rt", encoding="utf-8", errors="replace")  # type: ignore[no-any-return]


def _read_parquet(fs: fsspec.AbstractFileSystem, path: str, types: Mapping[str, pa.DataType]) -> Iterator[pa.Table]:
    with _parquet(fs, path) as file:
        missing = [name for name in types if name not in file.schema_arrow.names]
        if missing:
            raise PoolError(f"{path}: no column {missing[0]!r}, which the first file of the pool has")
        try:
            for batch in file.iter_batches(BATCH, columns=list(types), use_threads=False):
                yield pa.Table.from_batches([batch]).select(list(types)).cast(pa.schema(list(types.items())))
        except (pa.ArrowInvalid, OSError) as error:
            raise PoolError(f"{path}: {str(error).splitlines()[0]}") from None


def _read_text(
    fs: fsspec.AbstractFileSystem, path: str, kind: str, types: Mapping[str, pa.DataType]
) -> Iterator[pa.Table]:
    with _local(fs, path) as local, duckdb.connect(config={"threads": "1"}) as con:
        names = ", ".join(_quote(name) for name in types)
        try:
            reader = con.sql(f"SELECT {names} FROM {_scan(local, kind, types)}").to_arrow_reader(BATCH)
            for batch in reader:
                yield pa.Table.from_batches([batch]).cast(pa.schema(list(types.items())))
        except (duckdb.Error, pa.ArrowInvalid, OSError) as error:
            raise PoolError(f"{path}: {_short(error, local)}") from None


def _query(path: str, sql: str) -> pa.Table:
    with duckdb.connect(config={"threads": "1"}) as con:
        try:
            return con.sql(sql).to_arrow_table()
        except duckdb.Error as error:
            raise PoolError(f"{path}: {_short(error, path)}") from None


def _short(error: Exception, local: str) -> str:
    """The two telling lines of DuckDB's long message about bad input."""
    lines = [line.strip() for line in str(error).replace(f'"{local}"', "").split("\n") if line.strip()]
    return "; ".join(lines[:2])[:300]


def _scan(local: str, kind: str, types: Mapping[str, pa.DataType] | None) -> str:
    """DuckDB's table function for a file; with ``types`` nothing is guessed."""
    name = "'" + local.replace("'", "''") + "'"
    columns = None if types is None else ", ".join(f"{_text(n)}: '{_duck(t)}'" for n, t in types.items())
    if kind == "jsonl":
        given = f", columns = {{{columns}}}" if columns else ", sample_size = 100000"
        return f"read_json({name}, format = 'newline_delimited', maximum_object_size = 67108864{given})"
    delimiter = "\\t" if kind == "tsv" else ","
    given = f", types = {{{columns}}}" if columns else ", sample_size = 100000"
    return f"read_csv({name}, delim = '{delimiter}', header = true, max_line_size = 67108864{given})"


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def _quote(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _duck(kind: pa.DataType) -> str:
    """DuckDB's name of an Arrow type."""
    with duckdb.connect() as con:
        con.register("t", pa.schema([pa.field("c", kind)]).empty_table())
        return str(con.execute("DESCRIBE SELECT c FROM t").fetchall()[0][1]).replace("'", "''")


def _plain(kind: pa.DataType) -> pa.DataType:
    """Strings as ``string``, whatever width DuckDB chose."""
    return pa.string() if pa.types.is_large_string(kind) or pa.types.is_string_view(kind) else kind


@contextmanager
def _parquet(fs: fsspec.AbstractFileSystem, path: str) -> Iterator[Any]:
    try:
        file = open_parquet(fs, path)
    except (pa.ArrowInvalid, OSError) as error:
        raise PoolError(f"{path}: no readable Parquet file: {str(error).splitlines()[0]}") from None
    with file:
        yield file


@contextmanager
def _local(fs: fsspec.AbstractFileSystem, path: str) -> Iterator[str]:
    """A local file that DuckDB can read: remote ones are fetched, bzip2 and xz unpacked, for the moment."""
    packed = path.rsplit(".", 1)[-1] in ("bz2", "xz")
    is_local = isinstance(fs, fsspec.implementations.local.LocalFileSystem)
    if is_local and not packed:
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / path.rsplit("/", 1)[-1]
        if not is_local:
            fs.get_file(path, str(target))
            path = str(target)
        if packed:
            target = Path(folder) / "unpacked" / target.stem
            target.parent.mkdir()
            try:
                with _OPENERS[path.rsplit(".", 1)[-1]](path, "rb") as source, target.open("wb") as out:
                    shutil.copyfileobj(source, out)
            except (OSError, EOFError, lzma.LZMAError) as error:
                raise PoolError(f"{path}: cannot be unpacked: {error}") from None
        yield str(target)
