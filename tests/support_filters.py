"""Filters of a user's own, for tests: ``tests.support_filters:Class`` in a recipe."""

import os
import signal
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from pairsieve.filters.base import Filter, Threshold


class TextLength(Filter):
    """Measure the caption's length, and count on disk how many pairs were measured."""

    reads = ("text",)
    writes = {"text_length": pa.int32()}
    batch_rows = 64

    log: str
    least: Threshold[int] = 0

    def score(self, pairs: pa.RecordBatch) -> dict[str, pa.Array]:
        with Path(self.log).open("a") as file:
            file.write("".join(f"{uid}\n" for uid in pairs["uid"].to_pylist()))
        return {"text_length": pc.utf8_length(pairs["text"])}

    def keep(self, pairs: pa.RecordBatch) -> pa.Array:
        return pc.greater_equal(pairs["text_length"], self.least)


class Fragile(Filter):
    """Fail on one caption: raise, or kill the worker, until a file named ``mended`` exists."""

    reads = ("text",)
    writes = {"fine": pa.bool_()}

    at: str
    how: str
    mended: str

    def score(self, pairs: pa.RecordBatch) -> dict[str, pa.Array]:
        if self.at in pairs["text"].to_pylist() and not Path(self.mended).exists():
            if self.how == "kill":
                os.kill(os.getpid(), signal.SIGSEGV)
            raise ValueError("this caption is too much")
        return {"fine": pa.repeat(pa.scalar(True), pairs.num_rows)}

    def keep(self, pairs: pa.RecordBatch) -> pa.Array:
        return pairs["fine"]


class WrongLength(Filter):
    """Break the contract: one value for the whole batch."""

    reads = ("text",)
    writes = {"one": pa.int32()}

    def score(self, pairs: pa.RecordBatch) -> dict[str, pa.Array]:
        return {"one": pa.array([1], pa.int32())}

    def keep(self, pairs: pa.RecordBatch) -> pa.Array:
        return pa.repeat(pa.scalar(True), pairs.num_rows)


class WrongVerdict(Filter):
    """Break the contract: a verdict that is neither boolean nor a reason."""

    def keep(self, pairs: pa.RecordBatch) -> pa.Array:
        return pa.repeat(pa.scalar(1.5), pairs.num_rows)


class Slow(Filter):
    """Take a while for each batch, so that a test can stop the run in the middle."""

    reads = ("text",)
    writes = {"slow": pa.bool_()}
    batch_rows = 20

    def score(self, pairs: pa.RecordBatch) -> dict[str, pa.Array]:
        import time

        time.sleep(0.05)
        return {"slow": pa.repeat(pa.scalar(True), pairs.num_rows)}

    def keep(self, pairs: pa.RecordBatch) -> pa.Array:
        return pairs["slow"]
