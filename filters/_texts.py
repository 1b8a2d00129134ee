"""Arrow strings as bytes: 0.16 µs a caption of 50 characters to count fastText's tokens."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

NEWLINE = ord("\n")
IS_LETTER = ~np.isin(np.arange(256), [ord(c) for c in " \t\n\v\f\r\0"])
"""Bytes that do not separate fastText's tokens."""


def text_buffers(texts: pa.Array) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """The bytes of a ``string`` or ``large_string`` array, and where each text begins; one more for the end.

    Both are read-only views where they can be.  Bytes of a null may be anything.
    """
    kind = np.int64 if pa.types.is_large_string(texts.type) else np.int32
    _, places, data = texts.buffers()
    if not len(texts) or not data:
        return np.frombuffer(b"\0", np.uint8), frozen(np.zeros(len(texts) + 1, np.int64))
    offsets = np.frombuffer(places, kind)[texts.offset : texts.offset + len(texts) + 1]
    return np.frombuffer(data, np.uint8), frozen(offsets.astype(np.int64))


def frozen(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The array, made read-only."""
    array.flags.writeable = False
    return array


def count_tokens(texts: pa.Array) -> pa.Array:
    """Tokens of each text (int32, null of a null) as ``len(fasttext.tokenize(text))`` counts them.

    Runs between ASCII spaces and NULs, and one ``</s>`` for each newline (``readWord`` of dictionary.cc).
    """
    data, offsets = text_buffers(texts)
    first, last = int(offsets[0]), int(offsets[-1])
    places, data = offsets - first, data[first:last]
    is_letter = IS_LETTER[data]
    starts = is_letter.copy()
    starts[1:] &= ~is_letter[:-1]
    edges = places[:-1][places[:-1] < len(data)]
    starts[edges] = is_letter[edges]
    counts = np.zeros(len(data) + 1, np.int32)
    np.cumsum(starts | (data == NEWLINE), out=counts[1:])
    return pa.array(np.diff(counts[places]), pa.int32(), mask=texts.is_null().to_numpy(zero_copy_only=False))
