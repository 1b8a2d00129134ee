"""What the engine's linking takes, from memory: for benchmarks of a near filter."""

from collections.abc import Mapping, Sequence
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pairsieve.filters.base import NearFilter
from pairsieve.pipelines import clusters


class Work:
    """Keys, a column for each place, and the columns that are compared."""

    def __init__(self, made: NearFilter, keys: Sequence[pa.Array], compared: Mapping[str, pa.Array]) -> None:
        """Hold them."""
        self.step = SimpleNamespace(filter=made, id="near")
        self._keys, self._compared = {clusters.KEY.format(i): values for i, values in enumerate(keys)}, dict(compared)
        self.keys = len(keys)

    def column(self, name: str, kind: pa.DataType) -> pa.Array:
        """A column of keys."""
        return self._keys[name]

    def compared(self) -> dict[str, pa.Array]:
        """What is compared."""
        return self._compared


def linked(work: Work, rank: NDArray[np.int64]) -> NDArray[np.int64]:
    """The root of every id: the position ``rank[root]`` is what ``rank[id]`` hangs on."""
    return clusters._linked(work, rank)  # type: ignore[arg-type]
