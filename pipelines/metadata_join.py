"""Join the metadata files of several languages into one: ids run through the files in the order given."""

import hashlib
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from pairsieve.pipelines.metadata_out import FileEntry, MetadataManifest, Output, SourceEntry, versions
from pairsieve.pipelines.metadata_select import SCHEMA
from pairsieve.pipelines.store import filesystem
from pairsieve.pipelines.text_lines import first_line
from pairsieve.schemas.errors import UserError


def join(out: str, files: Sequence[str], *, force: bool = False) -> MetadataManifest:
    """Write the entries of all files, one after another; each language must come of one file alone.

    Raises ``UserError`` for what is no metadata file, and for a language in two of them.
    """
    if not files:
        raise UserError("--join: name the metadata files of the languages")
    output = Output(out, force=force)
    tables, sources, owner = [], list[SourceEntry](), dict[str, str]()
    for name in files:
        table, entry = _read(name)
        for language in table["language"].unique().to_pylist():
            if language in owner:
                raise UserError(f"{name}: language {language} is also in {owner[language]}; name one file a language")
            owner[language] = name
        tables.append(table)
        rows = len(table)
        sources.append(SourceEntry(source="joined", files=(entry,), seen=rows, passed=rows, new=rows))
    return output.write(pa.concat_tables(tables), sources=tuple(sources), versions=versions())


def _read(name: str) -> tuple[pa.Table, FileEntry]:
    fs, path = filesystem(name)
    try:
        content = fs.cat_file(path)
        table = pq.read_table(pa.BufferReader(content))
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{name}: cannot be read: {first_line(error)}; name what pairsieve metadata wrote") from None
    if lost := [field.name for field in SCHEMA if field.name not in table.column_names]:
        raise UserError(f"{name}: no column {lost[0]!r}; name what pairsieve metadata wrote")
    try:
        table = table.select(SCHEMA.names).cast(SCHEMA)
    except pa.ArrowException as error:
        raise UserError(f"{name}: {first_line(error)}; name what pairsieve metadata wrote") from None
    if null := [field for field in ("entry", "source", "language") if table[field].null_count]:
        raise UserError(f"{name}: column {null[0]!r} has nulls; name what pairsieve metadata wrote")
    return table, FileEntry(path=name, size=len(content), stamp=f"sha256 {hashlib.sha256(content).hexdigest()}")
