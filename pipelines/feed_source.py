"""A dataset to train from: found by its manifest, which says which row groups there are; nothing else is read."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from pairsieve.pipelines.feed_order import Layout
from pairsieve.pipelines.recipe import hint
from pairsieve.pipelines.store import Store
from pairsieve.schemas import columns
from pairsieve.schemas.errors import UserError
from pairsieve.schemas.run import DatasetManifest

MANIFEST = "_manifest.json"


@dataclass(frozen=True)
class Source:
    """The folder of a dataset, and its manifest."""

    root: str
    manifest: DatasetManifest

    @cached_property
    def layout(self) -> Layout:
        """Rows and bytes of all row groups.  Bytes are a share of the file's: its rows are in random order."""
        rows = [count for file in self.manifest.files for count in file.row_groups]
        sizes = [file.bytes * count // file.rows for file in self.manifest.files for count in file.row_groups]
        return Layout(np.array(rows, np.int64), np.array(sizes, np.int64))

    @cached_property
    def _firsts(self) -> NDArray[np.int64]:
        """The number of each file's first row group."""
        return np.cumsum([0, *(len(file.row_groups) for file in self.manifest.files)])

    def place(self, group: int) -> tuple[int, int]:
        """File, and row group within it, of a row group of the dataset."""
        file = int(np.searchsorted(self._firsts, group, "right")) - 1
        return file, group - int(self._firsts[file])

    def require(self, column: str, setting: str) -> str:
        """The type of a column; raises ``UserError`` where there is none of the name."""
        if column not in self.manifest.columns:
            raise UserError(
                f"{setting}: {self.root} has no column {column!r}; {hint(column, sorted(self.manifest.columns))}"
            )
        return self.manifest.columns[column]


def open_source(path: str) -> Source:
    """The dataset of a run, or in a folder: one read, two where the folder itself is named.

    Raises ``UserError`` where no dataset lies there, or one that this version does not read.
    """
    store = Store(path)
    for folder in ("dataset", ""):
        root = f"{store.root}/{folder}".rstrip("/")
        try:
            content = store.read(f"{folder}/{MANIFEST}".lstrip("/"))
        except (FileNotFoundError, NotADirectoryError):
            continue
        return Source(root, _manifest(content, f"{root}/{MANIFEST}"))
    raise UserError(
        f"{path}: no dataset here: no {MANIFEST}, and none in dataset/; give a finished run of a recipe with "
        "'output: {dataset: true}', or its dataset folder"
    )


def _manifest(content: bytes, where: str) -> DatasetManifest:
    try:
        found = DatasetManifest.model_validate_json(content)
    except ValidationError:
        raise UserError(f"{where} is not the manifest of a dataset in Parquet; run its recipe again") from None
    if found.version != columns.VERSION:
        raise UserError(f"{where} is of version {found.version}, not {columns.VERSION}; run its recipe again")
    if any(sum(file.row_groups) != file.rows or not file.rows for file in found.files):
        raise UserError(f"{where} contradicts itself; run its recipe again")
    return found
