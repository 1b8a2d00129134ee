"""Pairs that a step adds to those of the pool, such as an image with a caption that a model wrote.

They are derived like all that depends on thresholds: made again by every run.  Their rows follow those of their shard,
in the order of their parents; ``added/NNNNN.parquet`` holds text, uid and parent of each, ``verdicts/`` what became of
it.  Everything else an added pair has from its parent.  About 2 µs an added pair, most of it for its uid.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from pairsieve.filters._text_lists import lengths
from pairsieve.pipelines.shard import Frame, Rows, Shard
from pairsieve.pipelines.step import Step
from pairsieve.pipelines.store import Store
from pairsieve.schemas import columns, uid

FOLDER = "added"


def added_name(shard: int) -> str:
    """File of the pairs that were added to a shard's."""
    return f"{FOLDER}/{shard:05d}.parquet"


@dataclass(frozen=True)
class Added:
    """The pairs added to a shard's: a table of ``columns.ADDED``, and why each goes (null: it stays)."""

    table: pa.Table
    reasons: pa.Array

    def parents(self, rows: Rows, own: int) -> Rows:
        """Where the columns of some rows are, given how many rows are the shard's own: theirs, or their parents'."""
        parents = self.table["parent_row"].to_numpy()
        is_own = rows < own
        return np.where(is_own, rows, parents[np.where(is_own, 0, rows - own)] if len(parents) else rows)


def make_added(shard: Shard, step: Step) -> Added:
    """What a step adds to the pairs of a shard."""
    assert step.adds is not None
    lists = shard.light(step.adds)
    parents = np.repeat(np.arange(len(lists)), lengths(lists))
    text, source, score, reason = lists.flatten().flatten()
    names = shard.light("uid").take(pa.array(parents))  # they repeat, so ``at`` is not for them
    count, own = len(parents), shard.record.rows
    arrays = [
        uid.of_added(names, text),
        pa.repeat(pa.scalar(shard.record.index, pa.int32()), count),
        pa.array(np.arange(own, own + count), pa.int32()),
        names,
        pa.array(parents, pa.int32()),
        text,
        source,
        score,
    ]
    return Added(pa.table(arrays, schema=columns.ADDED), reason)


def with_added(frame: Frame, added: Added, k: int) -> Frame:
    """The verdicts of a shard's own pairs and of those that step ``k`` added."""
    own, count = len(frame.dropped_by), len(added.reasons)
    whole = Frame.of_rows(own + count)
    whole.dropped_by[:own], whole.reason[:own], whole.reasons = frame.dropped_by, frame.reason, list(frame.reasons)
    whole.drop(np.arange(own, own + count), k, added.reasons)
    return whole


def read_added(store: Store, shard: int, rows: Rows) -> pa.Table:
    """Some of the pairs that were added to a shard's, by their places among them."""
    return store.table(added_name(shard), columns.ADDED.names).take(pa.array(rows))
