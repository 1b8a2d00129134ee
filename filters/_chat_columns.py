"""What became of rows that a chat server was asked about, as columns: texts, why there are none, tokens."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pairsieve.filters._chat import Found
from pairsieve.filters._text_lists import TEXTS
from pairsieve.schemas.uid import draw_seed, item_hash, keyed_hash


def types(name: str) -> dict[str, pa.DataType]:
    """Columns of a filter that asks a server."""
    counts = ("failed", "prompt_tokens", "completion_tokens")
    return {name: TEXTS, f"{name}_error": pa.string(), **{f"{name}_{kind}": pa.int32() for kind in counts}}


def columns(name: str, found: Sequence[Found], nothing: str) -> dict[str, pa.Array]:
    """``types`` of the rows.

    A row without any text is null and has a reason: ``nothing`` if no other is known.  ``_failed`` counts texts that
    a server's errors cost, also of rows with others.
    """
    lists = [list(row.texts) if any(row.texts) else None for row in found]
    errors = [None if texts else row.error or nothing for row, texts in zip(found, lists, strict=True)]
    return {
        name: pa.array(lists, TEXTS),
        f"{name}_error": pa.array(errors, pa.string()),
        f"{name}_failed": pa.array([row.failed for row in found], pa.int32()),
        f"{name}_prompt_tokens": pa.array([row.prompt_tokens for row in found], pa.int32()),
        f"{name}_completion_tokens": pa.array([row.completion_tokens for row in found], pa.int32()),
    }


def numbered_bits(uids: pa.Array, seed: int, count: int) -> NDArray[np.uint64]:
    """Keyed bits of ``count`` questions a pair, uint64[pairs, count]: a matter of seed, uid and number alone."""
    rows = np.repeat(keyed_hash(uids, draw_seed(seed)), count)
    return item_hash(rows, np.tile(np.arange(count, dtype=np.uint64), len(uids))).reshape(len(uids), count)
