"""Captions of pairs: one for each, or one for each text of a list.

A column of captions holds texts, lists of texts, or lists of structs with a field ``text`` (and ``weight``), as
``choose`` leaves them.  What is null is no caption.  Cost: 1 to 2 µs a pair.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pairsieve.pipelines.export_settings import Captions
from pairsieve.pipelines.text_draw import place, usable
from pairsieve.schemas import columns, uid
from pairsieve.schemas.errors import UserError


@dataclass(frozen=True)
class Texts:
    """The texts of n rows: string[m], where those of each row begin, int64[n + 1], and their weights, float64[m]."""

    values: pa.Array
    ends: NDArray[np.int64]
    weights: NDArray[np.float64]

    @property
    def counts(self) -> NDArray[np.int64]:
        """int64[n]."""
        return np.diff(self.ends)

    def chosen(self, rule: Captions, number: int, hashes: NDArray[np.uint64]) -> list[str]:
        """A text of each row: the ``number``-th, or one drawn by its hash; every row must have it."""
        places = self.ends[:-1] + number if rule != "draw" else self._drawn(uid.fractions(hashes))
        return list(self.values.take(pa.array(places)).to_pylist())

    def _drawn(self, fractions: NDArray[np.float64]) -> NDArray[np.int64]:
        """A place for each row, by weight.  Row by row: sums over a batch would depend on the batch."""
        found = []
        for (start, stop), fraction in zip(pairwise(self.ends.tolist()), fractions.tolist(), strict=True):
            if stop - start == 1:
                found.append(start)
            else:
                found.append(start + place(self.weights[start:stop].tolist(), fraction))
        return np.array(found, np.int64)


def caption_column(kinds: dict[str, pa.DataType], asked: str | None) -> str:
    """The column of captions: the one that is asked for, else a list to draw from, else ``text``.

    Raises ``UserError`` where there is none.
    """
    usable = [name for name, kind in kinds.items() if _holds_texts(kind)]
    if asked is not None:
        if asked in usable:
            return asked
        raise UserError(f"text {asked!r}: no column of texts of the dataset; there are {', '.join(usable) or 'none'}")
    lists = [name for name in usable if columns.is_texts(kinds[name])]
    if len(lists) > 1:
        raise UserError(f"several lists of texts: {', '.join(lists)}; say which with --text")
    if not lists and "text" not in usable:
        raise UserError("the dataset has no column of captions; add one to the columns of 'output: {dataset: …}'")
    return lists[0] if lists else "text"


def _holds_texts(kind: pa.DataType) -> bool:
    if columns.is_texts(kind):
        return True
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    inner = kind.value_type if is_list else kind
    return bool(pa.types.is_string(inner) or pa.types.is_large_string(inner))


def texts_of(column: pa.ChunkedArray) -> Texts:
    """The texts of a column that are not null, row by row."""
    values = column.combine_chunks()
    if isinstance(values, pa.ChunkedArray):  # of no chunks
        values = pa.concat_arrays(values.chunks) if values.num_chunks else pa.array([], column.type)
    if not (pa.types.is_list(values.type) or pa.types.is_large_list(values.type)):
        return _without_nulls(values, np.arange(len(values)), None, len(values))
    inner, owners = values.flatten(), pc.list_parent_indices(values).to_numpy(zero_copy_only=False)
    if not pa.types.is_struct(inner.type):
        return _without_nulls(inner, owners, None, len(values))
    has_weight = inner.type.get_field_index("weight") >= 0
    return _without_nulls(
        pc.struct_field(inner, "text"), owners, pc.struct_field(inner, "weight") if has_weight else None, len(values)
    )


def _without_nulls(texts: pa.Array, owners: NDArray[np.int64], weights: pa.Array | None, rows: int) -> Texts:
    valid = texts.is_valid().to_numpy(zero_copy_only=False)
    ends = np.concatenate([[0], np.cumsum(np.bincount(owners[valid], minlength=rows))]).astype(np.int64)
    found = np.ones(len(texts)) if weights is None else usable(weights)
    return Texts(texts.filter(pa.array(valid)).cast(pa.string()), ends, found[valid])
