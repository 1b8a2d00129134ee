"""The exact threshold of a top fraction, from mergeable histograms instead of collected scores.

DataComp's rule: of n pairs in scope, the threshold is the (floor(n·f)+1)-th largest score, and
``score >= threshold`` stays, so ties stay.  Nulls and NaN count in n and come last; where the rank
falls among them every real score stays (DataComp's own code then keeps nothing, silently).

A float's bits, made order-preserving, are counted 16 bits a round: two rounds for float32, four
for float64.  A summary is 512 KiB whatever the pool.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

BINS = 1 << 16
_BITS = {pa.float16(): 16, pa.float32(): 32, pa.float64(): 64}


@dataclass(frozen=True)
class Histogram:
    """Counts of one 16-bit digit of the scores: ``digits`` int64[65536], rows and real scores seen."""

    bits: int
    rows: int
    real: int
    digits: NDArray[np.int64]

    def __add__(self, other: "Histogram") -> "Histogram":
        return Histogram(self.bits, self.rows + other.rows, self.real + other.real, self.digits + other.digits)


def check_type(kind: pa.DataType) -> None:
    """Raise ``ValueError`` where a column cannot be ranked."""
    if kind not in _BITS:
        raise ValueError(f"scores to compare are a float column, not {kind}")


def count(scores: pa.Array, settled: Mapping[str, Any]) -> Histogram:
    """Counts of the next digit among the scores whose higher digits are those settled."""
    prefix = settled.get("prefix", ())
    bits = _BITS[scores.type]
    keys = real = _ordered_bits(scores)
    for i, digit in enumerate(prefix):
        keys = keys[_digit(keys, bits, i) == digit]
    digits = np.bincount(_digit(keys, bits, len(prefix)), minlength=BINS)
    return Histogram(bits, len(scores), len(real), digits.astype(np.int64))


def is_settled(settled: Mapping[str, Any]) -> bool:
    """Whether the threshold is known."""
    return "threshold" in settled


def settle(seen: Histogram, settled: Mapping[str, Any], fraction: float) -> dict[str, Any]:
    """One more digit of the threshold; after the last digit also ``threshold`` (None = every real score stays)."""
    # float truncation as in the original: int(100 * 0.29) is 28
    rank = settled.get("rank", int(seen.rows * fraction))
    if rank >= seen.real:
        return {"rows": seen.rows, "scored": seen.real, "threshold": None}
    above = np.cumsum(seen.digits[::-1])[::-1] - seen.digits
    digit = int(np.flatnonzero((above <= rank) & (rank < above + seen.digits))[0])
    prefix = [*settled.get("prefix", ()), digit]
    state = {"rows": seen.rows, "scored": seen.real, "rank": int(rank - above[digit]), "prefix": prefix}
    return state if 16 * len(prefix) < seen.bits else state | {"threshold": _value(prefix, seen.bits)}


def threshold(settled: Mapping[str, Any], kind: pa.DataType) -> pa.Scalar | None:
    """The threshold in the column's own type; None = every real score stays."""
    value = settled.get("threshold")
    return None if value is None else pa.scalar(value, kind)


def below(scores: pa.Array, least: pa.Scalar) -> pa.Array:
    """Where a score is below a threshold of its own type; false where there is no score."""
    if scores.type == pa.float16():  # Arrow compares no half floats; widening them is exact
        scores, least = scores.cast(pa.float32()), pa.scalar(float(least.as_py()), pa.float32())
    return pc.fill_null(pc.less(scores, least), False)


def _digit(keys: NDArray[Any], bits: int, place: int) -> NDArray[np.uint16]:
    found: NDArray[np.uint16] = (keys >> keys.dtype.type(bits - 16 * (place + 1))).astype(np.uint16)
    return found  # the cast takes the low 16 bits


def _ordered_bits(scores: pa.Array) -> NDArray[Any]:
    """The real scores as unsigned integers of the same order and width; -0.0 counts as 0.0."""
    values = pc.drop_null(scores).to_numpy(zero_copy_only=False) if scores.null_count else scores.to_numpy()
    missing = np.isnan(values)
    values = (values[~missing] if missing.any() else values) + values.dtype.type(0)
    bits = values.dtype.itemsize * 8
    raw = np.ascontiguousarray(values).view(f"u{values.dtype.itemsize}")
    negative = (raw.view(f"i{values.dtype.itemsize}") >> (bits - 1)).view(raw.dtype)  # all ones, or zero
    return np.asarray(raw ^ (negative | raw.dtype.type(1 << (bits - 1))))


def _value(prefix: list[int], bits: int) -> float:
    key = sum(digit << (bits - 16 * (i + 1)) for i, digit in enumerate(prefix))
    sign = 1 << (bits - 1)
    raw = key & ~sign if key & sign else ~key & ((1 << bits) - 1)
    return float(np.array([raw], dtype=f"u{bits // 8}").view(f"f{bits // 8}")[0])
