"""The text of each row of a row group: a column, or one of several texts, drawn anew in every epoch.

Drawing takes 2 µs a row; a plain column costs nothing beyond its strings.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pairsieve.schemas.columns import is_texts
from pairsieve.schemas.errors import UserError


@dataclass(frozen=True)
class Wanted:
    """Which texts: those of the columns together, in order.

    ``pick`` names a column of integers that says which of them (nulls count); else the ``first`` that is not null, or
    one drawn by its weight.
    """

    columns: tuple[str, ...]
    pick: str | None = None
    first: bool = False

    @property
    def needed(self) -> tuple[str, ...]:
        """The columns to read."""
        return (*self.columns, *([self.pick] if self.pick else []))


class Texts:
    """The texts of the rows of a table."""

    def __init__(self, table: pa.Table, wanted: Wanted) -> None:
        """Raises ``UserError`` for columns that hold no texts."""
        self._plain: list[str | None] | None = None
        self._picks: list[int | None] | None = table[wanted.pick].to_pylist() if wanted.pick else None
        if len(wanted.columns) == 1 and wanted.pick is None and _is_text(table[wanted.columns[0]].type):
            self._plain = table[wanted.columns[0]].to_pylist()
            return
        parts = [_Part.of(table[name].combine_chunks(), name) for name in wanted.columns]
        self._texts, self._starts, weights = _interleaved(parts)
        if wanted.first:
            weights = _only_first(weights, self._starts)
        self._totals: list[float] = np.concatenate([[0.0], np.cumsum(weights)]).tolist()

    def of(self, row: int, draw: float) -> str:
        """The text of a row, given a number in [0, 1); empty where there is none."""
        if self._plain is not None:
            return self._plain[row] or ""
        start, stop = self._starts[row], self._starts[row + 1]
        if self._picks is not None:
            number = self._picks[row]
            return (self._texts[start + number] or "") if number is not None and 0 <= number < stop - start else ""
        low, high = self._totals[start], self._totals[stop]
        if not high > low:
            return ""
        return self._texts[min(bisect_right(self._totals, low + draw * (high - low), start, stop) - 1, stop - 1)] or ""


@dataclass(frozen=True)
class _Part:
    """Texts of one column, those of each row, and how often each is drawn: never where it is null."""

    texts: list[str | None]
    counts: NDArray[np.int64]
    weights: NDArray[np.float64]

    @staticmethod
    def of(values: pa.Array, name: str) -> "_Part":
        if _is_text(values.type):
            return _Part._with(values, np.ones(len(values), np.int64), None)
        if not (pa.types.is_list(values.type) or pa.types.is_large_list(values.type)):
            raise UserError(f"text: column {name!r} is {values.type}, not strings or lists of strings")
        counts = values.value_lengths().fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
        inner = values.flatten()
        if is_texts(values.type):
            has_weight = inner.type.get_field_index("weight") >= 0
            return _Part._with(
                pc.struct_field(inner, "text"), counts, pc.struct_field(inner, "weight") if has_weight else None
            )
        if not _is_text(inner.type):
            raise UserError(f"text: column {name!r} is {values.type}, not strings or lists of strings")
        return _Part._with(inner, counts, None)

    @staticmethod
    def _with(texts: pa.Array, counts: NDArray[np.int64], given: pa.Array | None) -> "_Part":
        weights = np.ones(len(texts))
        if given is not None:
            weights = given.cast(pa.float64()).fill_null(0.0).to_numpy(zero_copy_only=False).copy()
            weights[~((weights > 0) & np.isfinite(weights))] = 0
        weights[texts.is_null().to_numpy(zero_copy_only=False)] = 0
        return _Part(texts.to_pylist(), counts, weights)


def _interleaved(parts: Sequence[_Part]) -> tuple[list[str | None], list[int], NDArray[np.float64]]:
    """Texts row by row, in the order of the columns; where each row's begin, and one more for the end."""
    owners = np.concatenate([np.repeat(np.arange(len(part.counts)), part.counts) for part in parts])
    order = np.argsort(owners, kind="stable")
    texts: list[Any] = [text for part in parts for text in part.texts]
    starts = np.concatenate([[0], np.cumsum(np.sum([part.counts for part in parts], axis=0))])
    weights = np.concatenate([part.weights for part in parts])[order]
    return [texts[i] for i in order.tolist()], starts.tolist(), weights


def _only_first(weights: NDArray[np.float64], starts: Sequence[int]) -> NDArray[np.float64]:
    """Weight for the first text of each row that has any."""
    drawn = np.flatnonzero(weights > 0)
    owners = np.searchsorted(np.asarray(starts), drawn, "right")
    found = np.zeros(len(weights))
    found[drawn[np.unique(owners, return_index=True)[1]]] = 1
    return found


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))
