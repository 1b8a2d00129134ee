"""The text of each row of a row group: a column, or one of several texts, drawn anew in every epoch.

Drawing takes 2 µs a row; a plain column costs nothing beyond its strings.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pairsieve.pipelines.text_draw import place, usable
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
        found = _interleaved(parts)
        self._texts, self._starts, self._weights = found if wanted.pick else _without_nulls(*found)
        self._first = wanted.first

    def of(self, row: int, draw: float) -> str:
        """The text of a row, given a number in [0, 1); empty where there is none."""
        if self._plain is not None:
            return self._plain[row] or ""
        start, stop = self._starts[row], self._starts[row + 1]
        if self._picks is not None:
            number = self._picks[row]
            return (self._texts[start + number] or "") if number is not None and 0 <= number < stop - start else ""
        if start == stop:
            return ""
        return self._texts[start if self._first else start + place(self._weights[start:stop], draw)] or ""


@dataclass(frozen=True)
class _Part:
    """Texts of one column, how many each row has, and their weights."""

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
        return _Part(texts.to_pylist(), counts, np.ones(len(texts)) if given is None else usable(given))


def _interleaved(parts: Sequence[_Part]) -> tuple[list[str | None], list[int], list[float]]:
    """Texts row by row, in the order of the columns; where each row's begin, and one more for the end; weights."""
    owners = np.concatenate([np.repeat(np.arange(len(part.counts)), part.counts) for part in parts])
    order = np.argsort(owners, kind="stable")
    texts: list[Any] = [text for part in parts for text in part.texts]
    starts = np.concatenate([[0], np.cumsum(np.sum([part.counts for part in parts], axis=0))])
    weights = np.concatenate([part.weights for part in parts])[order]
    return [texts[i] for i in order.tolist()], starts.tolist(), weights.tolist()


def _without_nulls(
    texts: Sequence[str | None], starts: Sequence[int], weights: Sequence[float]
) -> tuple[list[str | None], list[int], list[float]]:
    """The same of what may be drawn."""
    there = np.array([text is not None for text in texts], bool)
    left = np.concatenate([[0], np.cumsum(there)])[np.asarray(starts)].tolist()
    return [text for text in texts if text is not None], left, np.asarray(weights, float)[there].tolist()


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))
