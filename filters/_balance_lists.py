"""Match lists of a batch as the balance's kernels read them: each text's entries ascending, each once.

Columns that are so already, as ``metadata_match`` writes them, are read where they lie, sliced or not.
Others are sorted, at about 0.2 µs an id.  Imports numba.
"""

from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pairsieve.filters._balance_kernels import inspect, inspect_wide

Places = NDArray[np.int64]
Ids = NDArray[np.int32]


class Texts(NamedTuple):
    """The texts of the pairs of a batch.

    ``rows`` int64[pairs + 1]: pair i has the texts ``rows[i]`` to ``rows[i + 1]``, none where its list is null.
    Text j has the entries ``ids[starts[j] : ends[j]]``, int32, ascending and distinct.  ``least`` and ``most``
    bound the ids (0 and -1 where there is none); where they do not fit int32, ``ids`` is empty.
    ``place`` int64[texts]: a text's place in its pair's list.
    """

    rows: Places
    starts: Places
    ends: Places
    ids: Ids
    least: int
    most: int
    place: Places


class _Lists(NamedTuple):
    """Lists of ids that lie anywhere in ``values``, int32 or int64, perhaps with nulls."""

    starts: Places
    ends: Places
    values: pa.Array


def texts_of(column: pa.Array, by_text: bool) -> Texts:
    """The texts of a column of lists of ids, or of lists of those, which are united unless ``by_text``.

    Null lists and null ids count as absent.
    """
    starts, ends, is_valid = _extents(column)
    rows = _totals(is_valid)
    if not _is_list(column.values.type):
        lists = _Lists(starts[is_valid], ends[is_valid], column.values)
        return _texts(rows, lists, np.zeros(len(lists.starts), np.int64))
    owner, place, lists = _inner(column.values, starts, np.where(is_valid, ends - starts, 0))
    if by_text:
        return _texts(_totals(np.bincount(owner, minlength=len(column))), lists, place)
    inner, ids = _flat(lists)
    starts, ends, ids = _sorted(owner[inner], ids, len(column))
    return _known(rows, starts[is_valid], ends[is_valid], ids, np.zeros(rows[-1], np.int64))


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind))


def _extents(lists: pa.Array) -> tuple[Places, Places, NDArray[np.bool_]]:
    """Where each list starts and ends among all values, and whether it is there."""
    if not len(lists):
        return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.bool_)
    kind = np.dtype(np.int64 if pa.types.is_large_list(lists.type) else np.int32)
    offsets = np.frombuffer(lists.buffers()[1], kind, len(lists) + 1, kind.itemsize * lists.offset).astype(np.int64)
    return offsets[:-1], offsets[1:], lists.is_valid().to_numpy(zero_copy_only=False)


def _inner(lists: pa.Array, starts: Places, sizes: Places) -> tuple[Places, Places, _Lists]:
    """The inner lists that are there: of which pair each is, its place in that pair's list, and itself."""
    inner = _spread(starts, sizes)
    owner, place = np.repeat(np.arange(len(sizes)), sizes), inner - np.repeat(starts, sizes)
    first, last, is_valid = _extents(lists)
    stay = is_valid[inner]
    return owner[stay], place[stay], _Lists(first[inner[stay]], last[inner[stay]], lists.values)


def _totals(sizes: NDArray[np.bool_] | Places) -> Places:
    """Running totals, from 0."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes, dtype=np.int64)])


def _spread(starts: Places, sizes: Places) -> Places:
    """start, start + 1, … of each stretch, one after the other."""
    return np.arange(int(sizes.sum())) + np.repeat(starts - _totals(sizes)[:-1], sizes)


def _texts(rows: Places, lists: _Lists, place: Places) -> Texts:
    """The texts, sorted only where some are not ascending and distinct."""
    if not lists.values.null_count:
        raw = np.require(lists.values.to_numpy(), requirements=["A"])  # what came over a wire may lie anywhere
        look = inspect if raw.dtype == np.int32 else inspect_wide
        least, most, is_ascending = look(lists.starts, lists.ends, raw)
        if is_ascending:
            bounds = int(least), int(most)
            return Texts(rows, lists.starts, lists.ends, _narrow(raw, bounds), *bounds, place)
    return _known(rows, *_sorted(*_flat(lists), len(lists.starts)), place)


def _known(rows: Places, starts: Places, ends: Places, ids: Places, place: Places) -> Texts:
    bounds = (int(ids.min()), int(ids.max())) if len(ids) else (0, -1)
    return Texts(rows, starts, ends, _narrow(ids, bounds), *bounds, place)


def _narrow(raw: NDArray[np.integer], bounds: tuple[int, int]) -> Ids:
    """As int32, which only ids that will be refused do not fit."""
    if bounds[0] < 0 or bounds[1] >= 2**31:
        return np.zeros(0, np.int32)
    return raw.astype(np.int32, copy=False)


def _flat(lists: _Lists) -> tuple[Places, Places]:
    """The number of its list, and the id, of each id that is there."""
    sizes = lists.ends - lists.starts
    at = _spread(lists.starts, sizes)
    ids = lists.values.take(pa.array(at))
    is_valid = ids.is_valid().to_numpy(zero_copy_only=False)
    return np.repeat(np.arange(len(sizes)), sizes)[is_valid], ids.drop_null().to_numpy().astype(np.int64)


def _sorted(owner: Places, ids: Places, lists: int) -> tuple[Places, Places, Places]:
    """Starts, ends and ids of the lists, each ascending and without repeats."""
    order = np.lexsort((ids, owner))
    owner, ids = owner[order], ids[order]
    is_new = np.ones(len(ids), np.bool_)
    is_new[1:] = (ids[1:] != ids[:-1]) | (owner[1:] != owner[:-1])
    ends = _totals(np.bincount(owner[is_new], minlength=lists))
    return ends[:-1], ends[1:], ids[is_new]
