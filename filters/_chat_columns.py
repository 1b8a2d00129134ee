"""What became of rows that a chat server was asked about, as columns: why there are no texts, tokens."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pairsieve.filters._chat import Found
from pairsieve.schemas.uid import draw_seed, item_hash, keyed_hash


def types(name: str) -> dict[str, pa.DataType]:
    """Columns of a filter that asks a server, beside those of the texts."""
    counts = {f"{name}_{kind}_tokens": pa.int32() for kind in ("prompt", "completion")}
    return {f"{name}_error": pa.string(), **counts}


def columns(name: str, found: Sequence[Found], nothing: str) -> dict[str, pa.Array]:
    """``types`` of the rows; one without any text has the reason ``nothing`` if no other is known."""
    errors = [row.error or (None if any(row.texts) else nothing) for row in found]
    return {
        f"{name}_error": pa.array(errors, pa.string()),
        f"{name}_prompt_tokens": pa.array([row.prompt_tokens for row in found], pa.int32()),
        f"{name}_completion_tokens": pa.array([row.completion_tokens for row in found], pa.int32()),
    }


def numbered_bits(uids: pa.Array, seed: int, count: int) -> NDArray[np.uint64]:
    """Keyed bits of ``count`` questions a pair, uint64[pairs, count]: a matter of seed, uid and number alone."""
    rows = np.repeat(keyed_hash(uids, draw_seed(seed)), count)
    return item_hash(rows, np.tile(np.arange(count, dtype=np.uint64), len(uids))).reshape(len(uids), count)
