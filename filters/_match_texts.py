"""Captions of pairs as one array of strings, from columns of strings and of lists of strings; and lists back again."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pairsieve.filters._match import lists
from pairsieve.filters._texts import frozen


def is_text(kind: pa.DataType) -> bool:
    """Whether a column holds strings."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    tests = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_null)
    return any(is_(kind) for is_ in tests)


def is_list(kind: pa.DataType) -> bool:
    """Whether a column holds lists of strings."""
    return (pa.types.is_list(kind) or pa.types.is_large_list(kind)) and is_text(kind.value_type)


@dataclass(frozen=True)
class Texts:
    """All captions of some pairs: of pair i ``values[rows[i] : rows[i + 1]]``; without ``rows``, ``values[i]``."""

    values: pa.Array
    rows: npt.NDArray[np.int32] | None

    def by_row(self, found: pa.Array) -> pa.Array:
        """What was found for each caption, as a list for each pair."""
        assert self.rows is not None
        return lists(self.rows, found, None)

    def of_row(self, values: pa.Array) -> pa.Array:
        """The pairs' values for each of their captions."""
        if self.rows is None:
            return values
        return values.take(pa.array(np.repeat(np.arange(len(values)), np.diff(self.rows))))


def texts_of(columns: Sequence[pa.Array]) -> Texts:
    """The captions of some columns of the same pairs, pair by pair, in the order of the columns.

    A null string is a caption that is null; a null list holds none.
    """
    if len(columns) == 1 and not is_list(columns[0].type):
        return Texts(_strings(columns[0]), None)
    parts = [_part(column) for column in columns]
    sizes = np.array([size for _, size in parts])
    rows = np.concatenate([[0], np.cumsum(sizes.sum(0))])
    if len(parts) == 1:
        return Texts(parts[0][0], rows.astype(np.int32))
    place = np.empty(rows[-1], np.int64)
    before = rows[:-1] + np.cumsum(sizes, 0) - sizes
    first = 0
    for starts, size in zip(before, sizes, strict=True):
        ends = np.cumsum(size)
        within = np.arange(size.sum()) - np.repeat(ends - size, size)
        place[np.repeat(starts, size) + within] = first + np.arange(size.sum())
        first += int(size.sum())
    values = pa.concat_arrays([values.cast(pa.large_string()) for values, _ in parts])
    return Texts(values.take(pa.array(place)), rows.astype(np.int32))


def _part(column: pa.Array) -> tuple[pa.Array, npt.NDArray[np.int64]]:
    """All captions of a column, and how many each pair has."""
    if not is_list(column.type):
        return _strings(column), np.ones(len(column), np.int64)
    sizes = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False)
    return _strings(column.flatten()), sizes.astype(np.int64)


def _strings(values: pa.Array) -> pa.Array:
    is_plain = pa.types.is_string(values.type) or pa.types.is_large_string(values.type)
    return values if is_plain else values.cast(pa.string())


def unite(texts: Texts, found: pa.Array) -> pa.Array:
    """list<int32>: the ids of all captions of each pair; null where it has none but nulls."""
    from pairsieve.filters import _match_lists

    assert texts.rows is not None
    sizes = pc.fill_null(pc.list_value_length(found), 0).to_numpy(zero_copy_only=False)
    rows = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32)
    ids = found.flatten().to_numpy()
    united, out = np.empty_like(texts.rows), np.empty(len(ids), np.int32)
    end = _match_lists.unite(frozen(texts.rows), frozen(rows), frozen(ids), united, out)
    valid = np.concatenate([[0], np.cumsum(found.is_valid().to_numpy(zero_copy_only=False))])
    missing = pa.array(np.diff(valid[texts.rows]) == 0)
    return lists(united, pa.array(out[:end]), missing if missing.true_count else None)
