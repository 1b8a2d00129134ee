"""Evaluation sets on disk: embeddings from ``.npy``, ``.npz``, ``.pt`` or Parquet, captions from Parquet or text files.

Files are hostile: nothing is unpickled, what a file would unpack to is bounded, and every mistake is one line
with the file's name.  Read at the speed of the disk; Parquet and text in batches.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from glob import glob, has_magic
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pairsieve.filters._match_texts import is_list, is_text
from pairsieve.filters._tensors import (
    ENDINGS,
    LOOK_BYTES,
    MOST_BYTES,
    FileNames,
    Matrix,
    as_matrix,
    check_column,
    load_array,
    matrix_of,
    peek,
)
from pairsieve.schemas.errors import UserError

PARQUET = ".parquet"
EMBEDDINGS = (*ENDINGS, PARQUET)
CAPTIONS = (PARQUET, ".txt")
MOST_TEXT_BYTES = 1 << 33
"""A file of captions that is, or unpacks to, more is refused: 8 GiB."""
MOST_BATCH_BYTES = 1 << 30
"""Captions that are, or unpack to, more a batch are refused."""
ROWS = 4096
"""Rows that are read at once."""
USUAL_CAPTIONS = "text"
Kind = Callable[[pa.DataType], bool]


def files_of(names: FileNames, endings: Sequence[str], within: Sequence[str] = ()) -> tuple[str, ...]:
    """The files that paths and globs name, each once; raises ``UserError`` for one that is not there or of no use.

    ``within``: a folder stands for all files below it that end so.
    """
    names = (names,) if isinstance(names, str) else names
    found = dict.fromkeys(
        file for name in names for file in (_files_below(name, within) if within and _is_folder(name) else _files(name))
    )
    for file in found:
        if not file.lower().endswith(tuple(endings)):
            raise UserError(f"{file}: is none of {', '.join(endings)}; convert it")
    return tuple(found)


def _is_folder(name: str) -> bool:
    return "\0" not in name and Path(name).expanduser().is_dir()


def _files_below(folder: str, endings: Sequence[str]) -> list[str]:
    """The files in a folder and its folders, sorted; links to folders are not followed."""
    found = [
        str(Path(place) / name)
        for place, _, names in os.walk(Path(folder).expanduser())
        for name in names
        if name.lower().endswith(tuple(endings))
    ]
    if not found:
        raise UserError(f"{folder}: holds no file that ends in {', '.join(endings)}; name files, or a glob")
    return sorted(found)


def _files(path: str) -> list[str]:
    """The files of one path or glob, sorted."""
    name = str(Path(path).expanduser()) if path.startswith("~") else path
    is_glob = "\0" not in name and has_magic(name) and not Path(name).is_file()
    found = sorted(glob(name, recursive=True)) if is_glob else [name]  # noqa: PTH207 (the glob may be absolute)
    found = [file for file in found if "\0" not in file and Path(file).is_file()]
    if not found:
        raise UserError(f"{path}: {'no file matches' if is_glob else 'no such file'}; name a file or a glob")
    return found


def embeddings_of(file: str, key: str | None = None) -> Matrix:
    """float32[n, d] of one file, finite; ``key`` names the array or column of a file with several.

    Raises ``UserError`` with the file's name for what is missing, damaged, too large, null, not finite, or no
    embeddings.
    """
    if not file.lower().endswith(PARQUET):
        return as_matrix(load_array(file, key), file)
    with readable(file):
        parts = list(_matrices(file, key))
    if not parts:
        raise UserError(f"{file}: holds no row")
    return np.concatenate(parts)


def worth_a_look(sets: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Files of embeddings that may be read before a run: those whose width costs nothing, others up to a limit."""
    left, found = LOOK_BYTES, {}
    for name, files in sets.items():
        found[name] = [file for file in files if file.lower().endswith((".npy", PARQUET))]
        for file in files:
            if file not in found[name]:
                left -= Path(file).stat().st_size
                found[name] += [file] if left >= 0 else []
    return found


def widths_of(files: Sequence[str], key: str | None = None) -> Iterator[tuple[str, int]]:
    """(file, width of its embeddings), as far as a look tells before a run; raises as ``embeddings_of``."""
    for file in files:
        if file.lower().endswith(PARQUET):
            with readable(file):
                first = next(_matrices(file, key), None)
            if first is None:
                raise UserError(f"{file}: holds no row")
            yield file, first.shape[1]
    for file, values, is_whole in peek([file for file in files if not file.lower().endswith(PARQUET)], key):
        yield file, as_matrix(values if is_whole else values[:1], file).shape[1]


def _matrices(file: str, key: str | None) -> Iterator[Matrix]:
    """The embeddings of a Parquet file, some rows at a time; raises ``ValueError`` at a row without one."""
    with pq.ParquetFile(file) as source:
        name = column_of(source.schema_arrow, key, "embeddings (lists of floats)", None, _is_embedding)
        check_size(source.metadata, name, MOST_BYTES)
        width, first = 0, 0
        for batch in source.iter_batches(ROWS, columns=[name]):
            column = batch.column(0)
            width = width or _width(column)
            values, is_good = matrix_of(column, width)
            if not is_good.all():
                row = first + int(is_good.argmin())
                raise ValueError(f"row {row} of column {name!r} has no finite embedding of width {width}; leave it out")
            first += len(values)
            yield values


def _width(column: pa.Array) -> int:
    """The width of the first row; raises ``ValueError`` where it has none."""
    width = len(column[0]) if len(column) and column[0].is_valid else 0
    if not width:
        raise ValueError("row 0 has no embedding; leave it out")
    return width


def captions_of(file: str, key: str | None = None) -> Iterator[pa.Array]:
    """The captions of one file as arrays of strings, in order; nulls and empty lines are captions without words.

    Parquet: a column of strings or of lists of strings, ``key`` or the only one or ``text``.  Text: UTF-8, a
    caption a line.  Raises ``UserError`` as ``embeddings_of``.
    """
    with readable(file):
        yield from _column_texts(file, key) if file.lower().endswith(PARQUET) else _lines(file)


def _column_texts(file: str, key: str | None) -> Iterator[pa.Array]:
    """The strings of a Parquet file, some rows at a time; read as dictionaries, so that they are measured first."""
    with pq.ParquetFile(file) as source:
        name = column_of(source.schema_arrow, key, "captions (strings)", USUAL_CAPTIONS, _is_caption)
        check_size(source.metadata, name, MOST_TEXT_BYTES)
        leaves = [
            path for path in (source.schema.column(i).path for i in range(len(source.schema))) if in_column(path, name)
        ]
    with pq.ParquetFile(file, read_dictionary=leaves) as source:
        for batch in source.iter_batches(ROWS, columns=[name]):
            column = batch.column(0)
            yield _plain(column.flatten() if is_list(column.type) else column, name)


def _plain(texts: pa.Array, name: str) -> pa.Array:
    """Strings that are UTF-8, which Parquet does not say, and not too long; raises ``ValueError``."""
    if pa.types.is_dictionary(texts.type):
        sizes = pc.binary_length(texts.dictionary).cast(pa.int64()).take(texts.indices)
        if (size := pc.sum(sizes).as_py() or 0) > MOST_BATCH_BYTES:
            raise ValueError(f"{len(texts)} captions of column {name!r} are {size >> 20} MiB; cut them")
    found = texts.cast(pa.large_string())
    found.validate(full=True)
    return found


def _lines(file: str) -> Iterator[pa.Array]:
    if Path(file).stat().st_size > MOST_TEXT_BYTES:
        raise ValueError(f"is larger than {MOST_TEXT_BYTES >> 30} GiB; cut it")
    with Path(file).open(encoding="utf-8-sig", newline="\n") as lines:
        while part := list(islice(lines, ROWS)):
            yield pa.array(part, pa.large_string())


def _is_embedding(kind: pa.DataType) -> bool:
    try:
        check_column(kind, "")
    except ValueError:
        return False
    return True


def _is_caption(kind: pa.DataType) -> bool:
    return not pa.types.is_null(kind) and (is_text(kind) or is_list(kind))


def column_of(schema: pa.Schema, key: str | None, what: str, usual: str | None, is_fit: Kind) -> str:
    """The column of a name, or the only one that fits, or the usual one; raises ``ValueError``."""
    if key is not None and key not in schema.names:
        raise ValueError(f"has no column {key!r}, but {_listed(schema.names)}")
    if key is not None and not is_fit(schema.field(key).type):
        raise ValueError(f"column {key!r} is {schema.field(key).type}, not {what}")
    fit = [field.name for field in schema if is_fit(field.type)]
    if key is None and len(fit) != 1 and usual not in fit:
        raise ValueError(f"has {len(fit) or 'no'} columns of {what}: {_listed(fit or schema.names)}; set 'key'")
    return key or (fit[0] if len(fit) == 1 else str(usual))


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:20])) or "none"


def check_size(metadata: pq.FileMetaData, name: str, most: int) -> None:
    """Refuse a file whose column would fill the memory; raises ``ValueError``."""
    groups = (metadata.row_group(i) for i in range(metadata.num_row_groups))
    leaves = (group.column(i) for group in groups for i in range(group.num_columns))
    sizes = [
        max(leaf.total_uncompressed_size, 4 * leaf.num_values)
        for leaf in leaves
        if in_column(leaf.path_in_schema, name)
    ]
    if sum(sizes) > most:
        raise ValueError(f"column {name!r} would unpack to {sum(sizes) >> 30} GiB, more than {most >> 30}")


def in_column(path: str, name: str) -> bool:
    """Whether a leaf of a Parquet schema belongs to a column."""
    return f"{path}.".startswith(f"{name}.")


@contextmanager
def readable(file: str) -> Iterator[None]:
    """What goes wrong while a file is read, as one line with its name."""
    try:
        yield
    except UserError:
        raise
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: is not UTF-8 ({error.reason}); convert it") from None
    except OSError as error:  # Arrow's too, for a file that is cut
        text = error.strerror or str(error).splitlines()[0]
        raise UserError(f"{file}: cannot be read: {text}; check its rights, or write it again") from None
    except MemoryError:
        raise UserError(f"{file}: is too large for this machine's memory; cut it") from None
    except (ValueError, NotImplementedError, pa.ArrowException) as error:
        text = " ".join(str(error).split())[:300].rstrip(".") or type(error).__name__
        is_damage = isinstance(error, pa.ArrowException)
        raise UserError(f"{file}: {text}{'; it is damaged: write it again' if is_damage else ''}") from None


def sets_of(
    references: Mapping[str, FileNames], endings: Sequence[str], within: Sequence[str] = ()
) -> dict[str, tuple[str, ...]]:
    """The files of each evaluation set, sets in the order of their names; raises ``UserError`` with the set's name."""
    found = {}
    for name in sorted(references):
        try:
            found[name] = files_of(references[name], endings, within)
        except UserError as error:
            raise UserError(f"references: {name}: {error}") from None
    return found
