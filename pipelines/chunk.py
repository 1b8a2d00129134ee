"""Some rows of a shard during a pass, with what was measured of them so far."""

from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from pairsieve.pipelines.parts import scatter
from pairsieve.pipelines.shard import Rows, Shard, at
from pairsieve.schemas import columns


@dataclass
class Chunk:
    """Rows ``start`` to ``stop`` of a shard during a pass, with the columns measured in this chunk."""

    shard: Shard
    start: int
    stop: int
    fresh: dict[str, tuple[Rows, pa.Array]] = field(default_factory=dict)
    _heavy: dict[str, pa.Array] = field(default_factory=dict)

    def column(self, name: str, rows: Rows, by: str = "") -> pa.Array:
        """A column for some rows of the chunk; a step that may be ahead of others says who it is."""
        kind = self.shard.context.plan.types.get(name, pa.string())
        if name in self.fresh and np.array_equal(self.fresh[name][0], rows):
            return self.fresh[name][1]
        if columns.is_heavy(kind):
            return at(self._whole_heavy(name, by), rows - self.start)
        stored = self.shard.light(name)
        if name not in self.fresh:
            return at(stored, rows)
        old = stored.slice(self.start, self.stop - self.start)
        return at(self._overlay(name, old), rows - self.start)

    def _whole_heavy(self, name: str, by: str) -> pa.Array:
        if name not in self._heavy:
            old = self.shard.heavy(name, self.start, self.stop, by)
            self._heavy[name] = self._overlay(name, old) if name in self.fresh else old
        return self._heavy[name]

    def _overlay(self, name: str, old: pa.Array) -> pa.Array:
        """Stored values with the fresh ones laid over them."""
        rows, values = self.fresh[name]
        if old.null_count == len(old):
            return scatter([values], [rows], self.start, self.stop, values.type)
        index = np.arange(len(old))
        index[rows - self.start] = len(old) + np.arange(len(rows))
        return pa.concat_arrays([old, values]).take(pa.array(index))
