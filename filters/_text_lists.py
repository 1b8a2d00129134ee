"""Columns of texts beside a pair's own: captions and rewrites, a list of strings a pair.

A filter that scores texts takes such columns by name (``texts: [caption]``), flattens them, scores each text as it
would a pair's own, and writes lists of the same lengths.  Everything is a matter of Arrow's buffers: 10 ns a text.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pairsieve.filters.base import UnknownColumnError

TEXTS = pa.list_(pa.string())
"""The type that filters write texts with."""
SCORES = pa.list_(pa.float32())
"""The type of the scores of such a column: null where the list of texts is null, elements null where no score is."""


def is_texts(kind: pa.DataType) -> bool:
    """Whether a column holds texts: strings, or lists of them."""
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    inner = kind.value_type if is_list else kind
    return bool(pa.types.is_string(inner) or pa.types.is_large_string(inner))


def check_texts(names: Sequence[str], available: Mapping[str, pa.DataType]) -> None:
    """Refuse what are no columns of texts, or named twice; raises ``ValueError`` with one line."""
    for i, name in enumerate(names):
        if name not in available:
            raise UnknownColumnError(name, available)
        if not is_texts(available[name]):
            raise ValueError(f"texts: {name!r} ({available[name]}) holds no texts; it must be strings or lists of them")
        if name in names[:i]:
            raise ValueError(f"texts: {name!r} stands there twice")


def flat(texts: pa.Array) -> tuple[pa.Array, NDArray[np.int64]]:
    """All texts of a column, string[m], and the row that each is of, int64[m], ascending.

    A null list and an empty one have none; a plain string is a list of one, also where it is null.
    """
    if not (pa.types.is_list(texts.type) or pa.types.is_large_list(texts.type)):
        return texts.cast(pa.string()), np.arange(len(texts))
    counts = lengths(texts)
    return texts.flatten().cast(pa.string()), np.repeat(np.arange(len(texts)), counts)


def lengths(texts: pa.Array) -> NDArray[np.int64]:
    """Texts of each row, int64[n]; 0 of a null list, 1 of a plain string."""
    if not (pa.types.is_list(texts.type) or pa.types.is_large_list(texts.type)):
        return np.ones(len(texts), np.int64)
    return np.asarray(texts.value_lengths().fill_null(0).to_numpy(zero_copy_only=False), np.int64)


def regrouped(values: pa.Array, texts: pa.Array) -> pa.Array:
    """Values of ``flat`` texts as lists like those of the column; null where its list is null."""
    ends = np.concatenate([[0], np.cumsum(lengths(texts))]).astype(np.int32)
    is_list = pa.types.is_list(texts.type) or pa.types.is_large_list(texts.type)
    mask = texts.is_null() if is_list and texts.null_count else None
    return pa.ListArray.from_arrays(pa.array(ends), values, mask=mask)
