"""How often each row comes: a column of weights, read without images.  8 bytes of memory a row (4 of float32)."""

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pairsieve.pipelines.feed_read import Reader
from pairsieve.pipelines.feed_source import Source
from pairsieve.schemas.errors import UserError

MOST = 1_000_000.0
"""Copies of a row in an epoch."""


def read_weights(source: Source, column: str) -> NDArray[np.floating[Any]]:
    """The weight of each row of the dataset, float32 or float64[rows]: two reads of each file.

    Raises ``UserError`` for a column that is not there or holds something else than numbers from 0 to ``MOST``.
    """
    source.require(column, "weights")
    reader = Reader(source, [column])
    parts = [_checked(reader.file(i)[column], column, file.file) for i, file in enumerate(source.manifest.files)]
    found = np.concatenate([np.zeros(0, np.float32), *parts])
    if not found.any():
        raise UserError(f"weights: all of column {column!r} is 0, so no row would ever come; name another column")
    return found


def _checked(values: pa.ChunkedArray, column: str, file: str) -> NDArray[np.floating[Any]]:
    if not (pa.types.is_floating(values.type) or pa.types.is_integer(values.type)):
        raise UserError(f"weights: column {column!r} is {values.type}, not numbers; name another column")
    numbers: NDArray[Any] = (
        values.to_numpy() if pa.types.is_floating(values.type) else values.cast(pa.float64()).to_numpy()
    )
    good = (numbers >= 0) & (numbers <= MOST)
    if not good.all():
        row = int(np.flatnonzero(~good)[0])
        value = "null" if not values[row].is_valid else str(values[row].as_py())
        raise UserError(
            f"weights: column {column!r} is {value} in row {row} of {file}; a weight is 0 to {MOST:,.0f}: "
            "drop such rows in the recipe, or name another column"
        )
    return numbers if numbers.dtype == np.float32 else numbers.astype(np.float64)
