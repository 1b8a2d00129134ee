"""Captions to be scored and their references: from COCO's JSON, JSON lines, Parquet, or a finished run.

A file is read whole: about 0.5 kB of memory a caption.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pairsieve.filters._chat_answers import cleaned
from pairsieve.pipelines.sql import quote
from pairsieve.schemas.errors import UserError

MOST_BYTES = 1 << 31
"""Of a JSON file."""
IDS = ("image_id", "id", "uid", "key", "image")
TEXTS = ("caption", "captions", "text", "texts", "reference", "references", "hypothesis")

Texts = dict[str, list[str]]
"""Of each item, by its id as text."""


@dataclass
class Captions:
    """Texts of items, in the order of the file, and the image files that it names."""

    texts: Texts = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)

    def add(self, item: Any, value: Any) -> None:
        """One text of an item, or a list of them; a null one is an empty text."""
        found = self.texts.setdefault(_id(item), [])
        for text in value if isinstance(value, list) else [value]:
            if text is not None and not isinstance(text, str):
                raise ValueError(f"the caption of {_id(item)!r} is {type(text).__name__}, not text")
            found.append(cleaned(text) or "")


def read(path: str) -> Captions:
    """Captions of a file; raises ``UserError`` with one line where there are none in it."""
    file = Path(path)
    if not file.is_file():
        raise UserError(f"{path}: no such file; give .json, .jsonl or .parquet")
    try:
        found = _read(file)
    except (ValueError, RecursionError, pa.ArrowException, OSError) as error:
        why = str(error).split("\n")[0][:300]
        raise UserError(f"{path}: cannot be read as captions: {why}") from None
    if not found.texts:
        raise UserError(f"{path}: no captions in it")
    return found


def _read(file: Path) -> Captions:
    if file.suffix == ".parquet":
        return _of_table(pq.read_table(file, columns=_columns(pq.read_schema(file).names)))
    if file.stat().st_size > MOST_BYTES:
        raise ValueError(f"more than {MOST_BYTES:,} bytes; write Parquet")
    text = file.read_text(encoding="utf-8-sig")
    if file.suffix in (".jsonl", ".ndjson"):
        return _of_rows(_line(i, line) for i, line in enumerate(text.split("\n"), 1) if line.strip())
    return _of_json(json.loads(text))


def _line(number: int, line: str) -> Any:
    try:
        return json.loads(line)
    except ValueError as error:
        raise ValueError(f"line {number}: {error}") from None


def _of_json(found: Any) -> Captions:
    """COCO's annotations, its results, or texts by id."""
    if isinstance(found, list):
        return _of_rows(found)
    if not isinstance(found, dict):
        raise ValueError("neither a list nor an object")
    if isinstance(found.get("annotations"), list):
        read_ = _of_rows(found["annotations"])
        for one in found.get("images") or ():
            if isinstance(one, dict) and isinstance(one.get("file_name"), str):
                read_.files[_id(one.get("id"))] = one["file_name"]
        return read_
    read_ = Captions()
    for item, value in found.items():
        read_.add(item, value)
    return read_


def _of_rows(rows: Iterable[Any]) -> Captions:
    """Objects with an id and a text; a field ``image`` or ``file_name`` beside an id names the image's file."""
    found = Captions()
    for row in rows:
        if not isinstance(row, dict):
            raise ValueError(f"a row is {type(row).__name__}, not an object with an id and a caption")
        item, text = _columns(list(row))
        found.add(row[item], row[text])
        name = row.get("file_name", row.get("image"))
        if isinstance(name, str):
            found.files[_id(row[item])] = name
    return found


def _of_table(table: pa.Table) -> Captions:
    found = Captions()
    for item, text in zip(*(column.to_pylist() for column in table.columns), strict=True):
        found.add(item, text)
    return found


def _columns(names: Sequence[str]) -> list[str]:
    """The column of ids and that of texts: the first known name of each kind."""
    found = [next((name for name in kind if name in names), None) for kind in (IDS, TEXTS)]
    for name, kind in zip(found, (IDS, TEXTS), strict=True):
        if name is None:
            raise ValueError(f"none of {', '.join(kind)} among its columns: {', '.join(map(str, names))[:200]}")
    return [name for name in found if name]


def _id(item: Any) -> str:
    if isinstance(item, bool) or not isinstance(item, int | str):
        raise ValueError(f"an id is {type(item).__name__}; it must be a number or a text")
    return str(item)


def of_run(run: str, caption: str, reference: str, where: str | None) -> tuple[Captions, Captions]:
    """Two columns of texts of a run's pairs, whose ids are the uids; pairs without a reference are left out.

    So are pairs that ``choose`` added: their text is one of the captions itself.
    """
    from pairsieve.pipelines import catalog

    hypotheses, references = Captions(), Captions()
    has_added = catalog.query(run, "SELECT 1 FROM duckdb_views() WHERE view_name = 'added'").num_rows
    condition = (" AND parent IS NULL" if has_added else "") + (f" AND ({where})" if where else "")
    wanted = f"{quote(caption)} IS NOT NULL AND {quote(reference)} IS NOT NULL{condition}"
    sql = f"SELECT uid, {quote(caption)}, {quote(reference)} FROM scores WHERE {wanted} ORDER BY uid"
    for uid, one, other in zip(*(column.to_pylist() for column in catalog.query(run, sql).columns), strict=True):
        try:
            hypotheses.add(uid, one)
            references.add(uid, other)
        except ValueError as error:
            raise UserError(f"{run}: {error}; name columns of texts with --caption and --reference") from None
    if not hypotheses.texts:
        raise UserError(f"{run}: no pair has both {caption} and {reference}")
    return hypotheses, references


def images_of_run(run: str, ids: Sequence[str]) -> Iterator[tuple[str, bytes | None]]:
    """The stored images of the pairs, by uid; those of a few hundred pairs are held at a time.

    They are the pool's own, or those that a step stored; raises ``UserError`` where there are none.
    """
    from pairsieve.pipelines import catalog

    tables = "SELECT table_name FROM duckdb_columns() WHERE column_name = 'image' AND table_name <> 'scores'"
    found = catalog.query(run, f"{tables} ORDER BY table_name = 'pairs', table_name")["table_name"].to_pylist()
    found = [name for name in found if name == "pairs" or name.startswith("scores_")]
    if not found:
        raise UserError(f"{run}: no column 'image' in it; give the folder with --images")
    sql = f"SELECT uid, image FROM {quote(found[0])} WHERE list_contains($1, uid)"
    for start in range(0, len(ids), 256):
        rows = catalog.query(run, sql, [list(ids[start : start + 256])])
        yield from zip(rows["uid"].to_pylist(), rows["image"].to_pylist(), strict=True)
