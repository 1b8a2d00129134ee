"""Embeddings from files (``.npy``, ``.npz``, ``torch.save``) and from Arrow columns, as float32 matrices.

A file is read at the speed of the disk and held once; ``.npy`` is mapped, so that a copy is made only
where its type is not float32.  Torch files are read through an allow-list that runs nothing of theirs.
"""

import zipfile
import zlib
from collections.abc import Iterable, Iterator
from glob import glob, has_magic
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import AfterValidator

from pairsieve.filters import _torch_file
from pairsieve.filters._torch_pickle import Unreadable
from pairsieve.schemas.errors import UserError

Matrix = NDArray[np.float32]

ENDINGS = (".npy", ".npz", ".pt", ".pth")
MOST_BYTES = 1 << 35
"""A zip that unpacks to more is refused: 32 GiB, eight times the ImageNet-1k train images of ViT-L/14."""
LOOK_BYTES = 400_000_000
"""Bytes of files that are read before a run: DataComp's 100,000 centroids of 768 are 307 MB, and take a second."""
USUAL_KEY = "image_features"
"""Where DataComp's files hold their embeddings."""


def _some(names: str | tuple[str, ...]) -> str | tuple[str, ...]:
    if not names:
        raise ValueError(f"names no file; give a file or a glob of {', '.join(ENDINGS)}")
    return names


FileNames = Annotated[str | tuple[str, ...], AfterValidator(_some)]
"""One or more files or globs."""


def embedding_files(path: str) -> tuple[str, ...]:
    """The files that a path or glob names, sorted; raises ``UserError`` where there is none, or of another kind."""
    name = str(Path(path).expanduser()) if path.startswith("~") else path
    is_glob = has_magic(name) and not Path(name).is_file()
    found = sorted(glob(name, recursive=True)) if is_glob else [name]  # noqa: PTH207 (the glob may be absolute)
    found = [file for file in found if Path(file).is_file()]
    if not found:
        what = "no file matches" if is_glob else "no such file"
        raise UserError(f"{path}: {what}; name a file or a glob of {', '.join(ENDINGS)}")
    for file in found:
        if not file.lower().endswith(ENDINGS):
            raise UserError(f"{file}: embeddings are read from {', '.join(ENDINGS)}; convert it")
    return tuple(found)


def all_files(names: str | tuple[str, ...]) -> tuple[str, ...]:
    """The files of one or more paths or globs; raises as ``embedding_files``."""
    return tuple(file for name in ((names,) if isinstance(names, str) else names) for file in embedding_files(name))


def load_embeddings(path: str, key: str | None = None) -> Matrix:
    """float32[n, d] of all files of a path or glob, in the order of their names.

    ``key`` names the array in an ``.npz`` or in a dict of ``torch.save``; without it the file's only
    array is taken, else ``image_features``.  float16, bfloat16 and float64 are converted.  Raises
    ``UserError`` with the file's name for what is missing, damaged, not a finite float matrix, or
    wider than another file.
    """
    parts = list(each_file(path, key))
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def each_file(path: str, key: str | None = None) -> Iterator[Matrix]:
    """The matrices of ``load_embeddings`` one after the other, for those that do not fit into memory together."""
    width = None
    for file in embedding_files(path):
        found = as_matrix(load_array(file, key), file)
        if width is not None and found.shape[1] != width:
            raise UserError(f"{file}: embeddings of width {found.shape[1]}, those before have {width}")
        width = found.shape[1]
        yield found


def load_array(file: str, key: str | None = None) -> NDArray[Any]:
    """One array of one file, of any shape and type of numbers; raises ``UserError`` as ``load_embeddings``."""
    try:
        return _read(file, key)
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror or error}") from None
    except (ValueError, EOFError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
        text = " ".join(str(error).split())[:300] or type(error).__name__
        raise UserError(f"{file}: {text}; write it again, as .npy") from None


def as_matrix(values: NDArray[Any], where: str) -> Matrix:
    """float32[n, d], C-contiguous; raises ``UserError`` for another shape, type, or a value that is not finite."""
    if values.ndim == 2 and not len(values):
        raise UserError(f"{where}: holds 0 × {values.shape[1]}, no row; write it again, or leave it out")
    if values.ndim != 2 or values.dtype.kind != "f" or not values.size:
        shape = " × ".join(map(str, values.shape)) or "a single value"
        raise UserError(f"{where}: holds {shape} of {values.dtype}, not a float matrix with one embedding a row")
    with np.errstate(over="ignore"):
        found = np.ascontiguousarray(values, np.float32)
    for start in range(0, len(found), 65_536):
        is_finite = np.isfinite(found[start : start + 65_536]).all(axis=1)
        if not is_finite.all():
            raise UserError(f"{where}: row {start + int(is_finite.argmin())} is not finite in float32; leave it out")
    return found


def peek(files: Iterable[str], key: str | None = None) -> Iterator[tuple[str, NDArray[Any], bool]]:
    """What is looked at before a run: each file, its array, and whether all of that may be read.

    Files are read up to ``LOOK_BYTES`` altogether; those after them are left out, but for ``.npy``, whose
    shape costs nothing.  Raises ``UserError`` as ``load_embeddings``.
    """
    left = LOOK_BYTES
    for file in files:
        left -= Path(file).stat().st_size
        if left >= 0 or file.lower().endswith(".npy"):
            yield file, load_array(file, key), left >= 0


def _read(file: str, key: str | None) -> NDArray[Any]:
    if file.lower().endswith(".npy"):
        return np.lib.format.open_memmap(file, mode="c")  # private pages: what is changed stays here
    _check_size(file)
    if file.lower().endswith(".npz"):
        if not zipfile.is_zipfile(file):
            raise ValueError("is no .npz file")
        with Path(file).open("rb") as source, np.load(source, allow_pickle=False) as members:
            return np.asarray(members[_name(members.files, key)])
    found = _torch_file.load(file, lambda content: _chosen(content, key))
    if not isinstance(found, np.ndarray):
        raise ValueError(f"holds {type(found).__name__}, no array")
    return found


def _chosen(content: Any, key: str | None) -> Any:
    """The value of a dict that is asked for, or the content itself."""
    if not isinstance(content, dict):
        return content
    return content[_name([name for name in content if isinstance(name, str)], key)]


def _check_size(file: str) -> None:
    """Refuse a zip that would fill the memory."""
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as members:
            size = sum(member.file_size for member in members.infolist())
        if size > MOST_BYTES:
            raise ValueError(f"would unpack to {size >> 30} GiB, more than {MOST_BYTES >> 30}")


def _name(names: list[str], key: str | None) -> str:
    """The array of a name, or the only one, or the usual one."""
    wanted = key or (names[0] if len(names) == 1 else USUAL_KEY)
    if wanted not in names:
        raise Unreadable(f"has no array {wanted!r}, but {', '.join(names[:20]) or 'none'}")
    return wanted


def check_column(kind: pa.DataType, name: str) -> int | None:
    """The width of a column of embeddings, None where only its rows tell; raises ``ValueError`` for another type."""
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    if not is_list or not pa.types.is_floating(kind.value_type):
        raise ValueError(f"column {name!r} is {kind}, not embeddings (a list of floats)")
    return kind.list_size if pa.types.is_fixed_size_list(kind) else None


def check_rows(column: pa.Array, width: int, name: str, files: str) -> None:
    """Raise ``UserError`` where the rows have embeddings of another model than the files.

    That is so where no row fits and two or more are of one other width; a single one is a broken pair.
    """
    widths = pc.list_value_length(column).drop_null()
    counts = {each["values"]: each["counts"] for each in widths.value_counts().to_pylist()}
    other = max((each for each in counts if each), key=lambda each: counts[each], default=width)
    if width in counts or other == width:
        return
    if counts[other] > 1 or pa.types.is_fixed_size_list(column.type):
        raise UserError(f"column {name!r} has embeddings of width {other}, and {files} {width}; give one model's")


def matrix_of(column: pa.Array, width: int) -> tuple[Matrix, NDArray[np.bool_]]:
    """float32[n, width] and bool[n]: the embeddings of a list column, and which rows have one.

    A row that is null, of another width, or not finite in float32 has none; its values are zeros.
    """
    is_fit = pc.fill_null(pc.equal(pc.list_value_length(column), width), False).to_numpy(zero_copy_only=False)
    flat = pc.list_flatten(column.filter(pa.array(is_fit)))
    values = flat.to_numpy(zero_copy_only=False)  # a null within a row becomes NaN
    found = np.zeros((len(column), width), np.float32)
    with np.errstate(over="ignore"):
        found[is_fit] = values.reshape(-1, width)
    is_good = is_fit & np.isfinite(found).all(axis=1)
    found[~is_good] = 0
    return found, is_good
