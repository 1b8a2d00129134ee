"""Filters of a user's own, for tests: ``tests.support_filters:Class`` in a recipe."""

import os
import signal
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pairsieve.filters._expressions import columns_of, order_list
from pairsieve.filters.base import (
    Filter,
    NearFilter,
    PoolFilter,
    Resources,
    Runtime,
    Threshold,
    WithinFilter,
    first_reason,
)
from pairsieve.schemas.errors import UserError


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
    """Fail on one caption until a file named ``mended`` exists: raise, or ``kill`` the worker, or that ``once``."""

    reads = ("text",)
    writes = {"fine": pa.bool_()}

    at: str
    how: str
    mended: str

    def score(self, pairs: pa.RecordBatch) -> dict[str, pa.Array]:
        if self.at in pairs["text"].to_pylist() and not Path(self.mended).exists():
            if self.how == "once":
                Path(self.mended).parent.mkdir(parents=True, exist_ok=True)
                Path(self.mended).touch()
            if self.how in ("kill", "once"):
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


class Stored(Filter):
    """Store a second copy of the image, as ``download`` stores what it fetched."""

    reads = ("image",)
    writes = {"copy": pa.binary(), "size": pa.int32()}

    def score(self, pairs: pa.RecordBatch) -> dict[str, pa.Array]:
        return {"copy": pairs["image"], "size": pc.binary_length(pairs["image"])}

    def keep(self, pairs: pa.RecordBatch) -> pa.Array:
        return pc.is_valid(pairs["size"])


class Painted(Filter):
    """Store an image of one colour, which the caption's length decides."""

    reads = ("text",)
    writes = {"image": pa.binary()}

    def score(self, pairs: pa.RecordBatch) -> dict[str, pa.Array]:
        made = [
            cv2.imencode(".png", np.full((40, 50, 3), len(t) * 5 % 256, np.uint8))[1] for t in pairs["text"].to_pylist()
        ]
        return {"image": pa.array([data.tobytes() for data in made], pa.binary())}

    def keep(self, pairs: pa.RecordBatch) -> pa.Array:
        return pa.nulls(pairs.num_rows, pa.string())


class ReadStored(Filter):
    """Read what ``Stored`` stored."""

    reads = ("copy",)
    writes = {"read_bytes": pa.int32()}

    def score(self, pairs: pa.RecordBatch) -> dict[str, pa.Array]:
        return {"read_bytes": pc.binary_length(pairs["copy"])}

    def keep(self, pairs: pa.RecordBatch) -> pa.Array:
        return pc.is_valid(pairs["read_bytes"])


class Deliberate(Filter):
    """Write the scoring setting ``value`` for every pair, as slowly as asked."""

    reads = ("text",)
    writes = {"deliberate": pa.int32()}

    value: int
    seconds: Runtime[float] = 0.0

    def score(self, pairs: pa.RecordBatch) -> dict[str, pa.Array]:
        import time

        time.sleep(self.seconds)
        return {"deliberate": pa.repeat(pa.scalar(self.value, pa.int32()), pairs.num_rows)}

    def keep(self, pairs: pa.RecordBatch) -> pa.Array:
        return pc.is_valid(pairs["deliberate"])


class Counted(Filter):
    """Measure the caption's length times ``unit``, plus a column, plus the number in the file ``model``.

    Writes down which pair was measured by which step, and raises at the uid that the file ``breaks`` names.
    """

    reads = ("text",)
    writes = {"Counted": pa.int64()}
    batch_rows = 3

    unit: int = 1
    adds: str | None = None
    model: str | None = None
    log: Runtime[str]
    tag: Runtime[str]
    breaks: Runtime[str | None] = None
    least: Threshold[int] = 0

    def inputs(self, available: Mapping[str, pa.DataType]) -> tuple[str, ...]:
        return (*self.reads, self.adds) if self.adds else self.reads

    def files(self) -> tuple[str, ...]:
        return (self.model,) if self.model else ()

    def score(self, pairs: pa.RecordBatch) -> dict[str, pa.Array]:
        uids = pairs["uid"].to_pylist()
        with Path(self.log).open("a") as file:
            file.write("".join(f"{self.tag} {uid}\n" for uid in uids))
        if self.breaks and Path(self.breaks).exists() and Path(self.breaks).read_text() in uids:
            raise ValueError("this pair is too much")
        length = pc.multiply(pc.utf8_length(pairs["text"]).cast(pa.int64()), self.unit)
        if self.model:
            length = pc.add(length, int(Path(self.model).read_text()))
        return {"Counted": pc.add(length, pairs[self.adds].cast(pa.int64())) if self.adds else length}

    def keep(self, pairs: pa.RecordBatch) -> pa.Array:
        return pc.greater_equal(pairs["Counted"], self.least)


class NeedsGpu(TextLength):
    """A step that cannot run without a GPU."""

    def resources(self) -> Resources:
        return Resources(gpus=1.0)


class NoModel(TextLength):
    """A step whose model cannot be loaded."""

    def open(self) -> None:
        raise UserError("cannot load model 'nothing': no such file")


class ReadsLength(Filter):
    """Read what another step measured."""

    reads = ("text_length",)
    writes = {"double_length": pa.int64()}

    def score(self, pairs: pa.RecordBatch) -> dict[str, pa.Array]:
        return {"double_length": pc.multiply(pairs["text_length"], 2)}

    def keep(self, pairs: pa.RecordBatch) -> pa.Array:
        return pc.is_valid(pairs["double_length"])


class Features(Filter):
    """The first number of a list column, so that tests see which row was given."""

    column: str

    def inputs(self, available: Mapping[str, pa.DataType]) -> tuple[str, ...]:
        return (self.column,)

    def outputs(self, available: Mapping[str, pa.DataType]) -> dict[str, pa.DataType]:
        return {"first": pa.float64()}

    def score(self, pairs: pa.RecordBatch) -> dict[str, pa.Array]:
        return {"first": pc.list_element(pairs[self.column], 0).cast(pa.float64())}

    def keep(self, pairs: pa.RecordBatch) -> pa.Array:
        return pc.is_valid(pairs["first"])


class Letters(Filter):
    """The code points of the caption, each once: a list to summarize."""

    reads = ("text",)
    writes = {"letters": pa.list_(pa.int32())}
    batch_rows = 32

    def score(self, pairs: pa.RecordBatch) -> dict[str, pa.Array]:
        found = [None if text is None else sorted({ord(c) for c in text}) for text in pairs["text"].to_pylist()]
        return {"letters": pa.array(found, pa.list_(pa.int32()))}

    def keep(self, pairs: pa.RecordBatch) -> pa.Array:
        return pa.nulls(pairs.num_rows, pa.string())


class Rarest(PoolFilter):
    """Derive how many captions of the scope have the pair's rarest letter; keep those with at least ``least``."""

    derives = {"rarest_count": pa.int64()}

    column: str = "letters"
    least: Threshold[int] = 0

    def summary_inputs(self, available: Mapping[str, pa.DataType]) -> tuple[str, ...]:
        return (self.column,)

    def is_settled(self, settled: Mapping[str, Any]) -> bool:
        return "counts" in settled

    def summarize(self, pairs: pa.RecordBatch, settled: Mapping[str, Any]) -> Any:
        return np.bincount(pc.list_flatten(pairs[self.column]).to_numpy(), minlength=256)[:256].astype(np.int64)

    def merge(self, one: Any, other: Any) -> Any:
        return one + other

    def settle(self, summary: Any, settled: Mapping[str, Any]) -> dict[str, Any]:
        return {"counts": summary, "letters": int((summary > 0).sum())}

    def derive(self, pairs: pa.RecordBatch, settled: Mapping[str, Any]) -> dict[str, pa.Array]:
        rows = [ids or () for ids in pairs[self.column].to_pylist()]
        least = [min((int(settled["counts"][i]) for i in ids), default=None) for ids in rows]
        return {"rarest_count": pa.array(least, pa.int64())}

    def tables(self, settled: Mapping[str, Any]) -> dict[str, pa.Table]:
        letters = np.flatnonzero(settled["counts"])
        return {"letters": pa.table({"letter": [chr(i) for i in letters], "count": settled["counts"][letters]})}

    def keep(self, pairs: pa.RecordBatch, settled: Mapping[str, Any]) -> pa.Array:
        few = pc.less(pairs["rarest_count"], self.least)
        return first_reason(pairs.num_rows, (few, "too_rare"))


class DerivesTooLittle(Rarest):
    """Break the contract: one value for the whole batch."""

    def derive(self, pairs: pa.RecordBatch, settled: Mapping[str, Any]) -> dict[str, pa.Array]:
        return {"rarest_count": pa.array([1], pa.int64())}


class ReadsDerived(Filter):
    """Measure from a derived column, which no filter may."""

    reads = ("rarest_count",)
    writes = {"again": pa.int64()}

    def score(self, pairs: pa.RecordBatch) -> dict[str, pa.Array]:
        return {"again": pairs["rarest_count"]}

    def keep(self, pairs: pa.RecordBatch) -> pa.Array:
        return pa.nulls(pairs.num_rows, pa.string())


class NearNumbers(NearFilter):
    """Pairs whose score columns differ by at most ``within``; keys are two overlapping grids of cells."""

    reads = ("score",)
    writes = {"near_numbers_keys": pa.list_(pa.uint64()), "near_number": pa.float64()}

    within: Threshold[float] = 1.0
    prefer: Threshold[str] = ""
    wrong: bool = False

    @property
    def key_column(self) -> str:
        return "near_numbers_keys"

    @property
    def reason(self) -> str:
        return "near_number"

    def keep_inputs(self, available: Mapping[str, pa.DataType]) -> tuple[str, ...]:
        return columns_of(self.prefer, available, order=True) if self.prefer else ()

    def order(self) -> str:
        return order_list(self.prefer) if self.prefer else ""

    def compared(self, available: Mapping[str, pa.DataType]) -> tuple[str, ...]:
        return ("near_number", "text")

    def score(self, pairs: pa.RecordBatch) -> dict[str, pa.Array]:
        numbers = pairs["score"].cast(pa.float64()).to_pylist()
        cells = [None if n is None else [int(n // 2), int((n + 1) // 2), 7][: 2 + (n < 50)] for n in numbers]
        return {
            "near_numbers_keys": pa.array(cells, pa.list_(pa.uint64())),
            "near_number": pa.array(numbers, pa.float64()),
        }

    def alike(self, one: pa.RecordBatch, other: pa.RecordBatch) -> np.ndarray[Any, np.dtype[np.bool_]]:
        assert one.schema.names == ["near_number", "text"]
        if self.wrong:
            return np.zeros(1, bool)
        gaps = one["near_number"].to_numpy() - other["near_number"].to_numpy()
        return np.asarray(np.abs(gaps) <= self.within)


class Ahead(Filter):
    """The size of each image, measured ``by`` batches behind those it has taken; ``odd``: one result more or less."""

    reads = ("image", "text")
    writes = {"image_size": pa.int32()}
    batch_rows = 100

    by: Runtime[int] = 2
    odd: Runtime[int] = 0
    tag: str = ""

    def score(self, pairs: pa.RecordBatch) -> dict[str, pa.Array]:
        return {"image_size": pc.binary_length(pairs["image"])}

    def score_all(self, batches: Iterator[pa.RecordBatch]) -> Iterator[dict[str, pa.Array]]:
        held = deque[dict[str, pa.Array]]()
        for batch in batches:
            held.append(self.score(batch))
            if len(held) > self.by:
                yield held.popleft()
        last = list(held)
        yield from last[: len(last) - 1] if self.odd < 0 else last + last[:1] * self.odd

    def keep(self, pairs: pa.RecordBatch) -> pa.Array:
        return pc.is_valid(pairs["image_size"])


class Circle(WithinFilter):
    """Break the contract: all pairs are one group, and each member loses to the next."""

    writes = {"circle": pa.int32()}

    @property
    def group_column(self) -> str:
        return "circle"

    @property
    def reason(self) -> str:
        return "circle"

    def compared(self, available: Mapping[str, pa.DataType]) -> tuple[str, ...]:
        return ("circle",)

    def score(self, pairs: pa.RecordBatch) -> dict[str, pa.Array]:
        return {"circle": pa.repeat(pa.scalar(0, pa.int32()), pairs.num_rows)}

    def losers(self, members: pa.RecordBatch) -> np.ndarray[Any, np.dtype[np.int64]]:
        return np.roll(np.arange(members.num_rows, dtype=np.int64), -1)


class SecondIsLikeAll(NearNumbers):
    """All pairs share a key; the second by score is like all worse ones, and no others are alike."""

    def order(self) -> str:
        return "score"

    def score(self, pairs: pa.RecordBatch) -> dict[str, pa.Array]:
        found = super().score(pairs)
        keys = pa.array([[7]] * pairs.num_rows, pa.list_(pa.uint64()))
        return {"near_numbers_keys": keys, "near_number": found["near_number"]}

    def keep_inputs(self, available: Mapping[str, pa.DataType]) -> tuple[str, ...]:
        return ("score",)

    def alike(self, one: pa.RecordBatch, other: pa.RecordBatch) -> np.ndarray[Any, np.dtype[np.bool_]]:
        a, b = (pairs["near_number"].to_numpy() for pairs in (one, other))
        return np.asarray((np.minimum(a, b) == 61.0) & (np.maximum(a, b) > 61.0))
