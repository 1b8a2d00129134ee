"""A metadata file: the list of entries that captions are matched with; an entry's id is its place in the file.

Four kinds: Parquet with a column ``entry`` (and ``language``), as ``pairsieve metadata`` writes it; a JSON list of
strings, as MetaCLIP publishes its 500,000; a JSON object of such lists by language, whose ids run on through the
lists; a text file with one entry a line.  500,000 entries are read in 0.1 s.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pairsieve.schemas.errors import UserError

MOST_BYTES = 2**31 - 1
"""Of a JSON or text file, and of all entries together: what an Arrow string array holds."""
MOST_ENTRIES = 2**30 - 1
_KINDS = "give a .parquet, .json or .txt file"


@dataclass(frozen=True)
class Entries:
    """``text``: string, in order of id; ``language``: string, one for each entry, None where the file has none."""

    text: pa.Array
    language: pa.Array | None

    @property
    def languages(self) -> tuple[str, ...]:
        """The languages there are, in the order of the file."""
        return () if self.language is None else tuple(self.language.unique().to_pylist())


class _Wrong(ValueError):
    """What is wrong with the content of a file."""


def read_entries(path: str) -> Entries:
    """The entries of a file; raises ``UserError`` with one line where it is missing, damaged or holds no entries."""
    file = local_path(path)
    read = {".parquet": _read_parquet, ".json": _read_json, ".txt": _read_text}.get(file.suffix.lower())
    try:
        if read is None:
            raise _Wrong(f"is none of the kinds of metadata; {_KINDS}")
        entries = read(file)
        if not len(entries.text):
            raise _Wrong("holds no entry")
        if len(entries.text) > MOST_ENTRIES:
            raise _Wrong(f"holds more than {MOST_ENTRIES} entries")
    except _Wrong as error:
        raise UserError(f"metadata: {path} {error}") from None
    except (OSError, pa.ArrowException) as error:
        why = (error.strerror if isinstance(error, OSError) else None) or str(error).split("\n")[0]
        raise UserError(f"metadata: {path} cannot be read: {why}") from None
    return entries


def local_path(path: str) -> Path:
    """The file that a setting names; raises ``UserError`` where there is none."""
    file = Path(path).expanduser() if path.startswith("~/") else Path(path)
    if "\0" in path or not file.is_file():
        raise UserError(f"metadata: there is no file {path!r}; {_KINDS}, as 'pairsieve metadata' writes it")
    return file


def _read_parquet(path: Path) -> Entries:
    with pq.ParquetFile(path) as file:
        names = file.schema_arrow.names
        if "entry" not in names:
            raise _Wrong(f"has no column 'entry', only {', '.join(map(repr, names[:8]))}")
        wanted = [name for name in ("entry", "language") if name in names]
        if twice := [name for name in wanted if names.count(name) > 1]:
            raise _Wrong(f"has two columns {twice[0]!r}")
        batches, size = [], 0
        for batch in file.iter_batches(columns=wanted):
            batches.append(pa.record_batch([_strings(batch[name], name) for name in wanted], names=wanted))
            size += batches[-1].nbytes
            if size > MOST_BYTES:
                raise _Wrong(f"holds more than {MOST_BYTES} bytes of entries")
    kind = pa.schema([(name, pa.string()) for name in wanted])
    table = pa.Table.from_batches(batches, kind).combine_chunks()
    return Entries(_whole(table["entry"]), _languages(_whole(table["language"])) if "language" in names else None)


def _strings(values: pa.Array, name: str) -> pa.Array:
    """A column as strings that are UTF-8 and, for entries, without nulls."""
    if not _is_text(values.type):
        raise _Wrong(f"has a column {name!r} of {values.type}, not of strings")
    values = values.cast(pa.string())
    values.validate(full=True)
    if name == "entry" and values.null_count:
        raise _Wrong("has nulls in the column 'entry'")
    return values


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind))


def _whole(column: pa.ChunkedArray) -> pa.Array:
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], pa.string())


def _languages(values: pa.Array) -> pa.Array | None:
    """None where no entry has one: metadata of one language need not name it."""
    if values.null_count == len(values):
        return None
    if values.null_count:
        raise _Wrong(f"has {values.null_count} entries without a 'language' among those with one")
    return values


def _read_json(path: Path) -> Entries:
    try:
        found = json.loads(_content(path), object_pairs_hook=_object, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        if isinstance(error, _Wrong):
            raise
        raise _Wrong(f"is no JSON: {str(error).splitlines()[0]}") from None
    if isinstance(found, list):
        return Entries(_array(found, ""), None)
    if not isinstance(found, dict):
        raise _Wrong("holds neither a list of strings nor an object of such lists by language")
    parts = [_array(values, f" under {name!r}") for name, values in found.items()]
    names = [pa.repeat(pa.scalar(name, pa.string()), len(part)) for name, part in zip(found, parts, strict=True)]
    if not parts:
        return Entries(pa.array([], pa.string()), None)
    if sum(part.nbytes for part in parts) > MOST_BYTES or sum(part.nbytes for part in names) > MOST_BYTES:
        raise _Wrong(f"holds more than {MOST_BYTES} bytes of entries")
    return Entries(pa.concat_arrays(parts), pa.concat_arrays(names))


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise _Wrong("names a language twice")
    return found


def _refuse(name: str) -> Any:
    raise _Wrong(f"holds {name}, which is no entry")


def _array(values: Any, where: str) -> pa.Array:
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise _Wrong(f"holds something other than a list of strings{where}")
    try:
        return pa.array(values, pa.string())
    except (UnicodeEncodeError, pa.ArrowException):  # half of a surrogate pair, which JSON can write
        raise _Wrong(f"holds an entry{where} that is no Unicode text") from None


def _read_text(path: Path) -> Entries:
    try:
        lines = _content(path).decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise _Wrong(f"is not UTF-8 at byte {error.start}") from None
    lines = [line.removesuffix("\r") for line in lines]
    if lines and not lines[-1]:
        lines.pop()
    _refuse_empty(lines)
    return Entries(pa.array(lines, pa.string()), None)


def _refuse_empty(lines: Iterable[str]) -> None:
    """An empty line is more likely a mistake than the empty entry, which matches two spaces."""
    for number, line in enumerate(lines, 1):
        if not line:
            raise _Wrong(f"has nothing in line {number}; remove it, or write the entries as JSON")


def _content(path: Path) -> bytes:
    if path.stat().st_size > MOST_BYTES:
        raise _Wrong(f"is larger than {MOST_BYTES} bytes")
    return path.read_bytes()
