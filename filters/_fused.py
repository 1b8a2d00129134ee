"""Scores brought to 0..1 by their range in the whole scope, and weighed together; a range is 16 bytes a score."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray


@dataclass(frozen=True)
class Ranges:
    """Least and greatest finite value of each score, float64[scores]; inf and -inf where there is none."""

    least: NDArray[np.float64]
    greatest: NDArray[np.float64]

    @staticmethod
    def of(scores: Sequence[pa.Array]) -> "Ranges":
        """Of some pairs."""
        values = [numbers(one) for one in scores]
        finite = [one[np.isfinite(one)] for one in values]
        least = np.array([one.min(initial=np.inf) for one in finite])
        return Ranges(least, np.array([one.max(initial=-np.inf) for one in finite]))

    def __add__(self, other: "Ranges") -> "Ranges":
        return Ranges(np.minimum(self.least, other.least), np.maximum(self.greatest, other.greatest))

    def settled(self) -> dict[str, Any]:
        """For the rounds that follow; 0 to 0 of a score that nobody has."""
        is_any = self.least <= self.greatest
        found = {"least": self.least, "greatest": self.greatest}
        return {name: np.where(is_any, values, 0.0).tolist() for name, values in found.items()}


def numbers(scores: pa.Array) -> NDArray[np.float64]:
    """float64[n], NaN for null."""
    return np.asarray(scores.cast(pa.float64()).to_numpy(zero_copy_only=False))


def fused(scores: Sequence[pa.Array], weights: Sequence[float], settled: Mapping[str, Any]) -> pa.Array:
    """The weighed sum, float64, null where a score is not finite; a score whose range is a point counts 0."""
    ranges = zip(settled["least"], settled["greatest"], strict=True)
    parts = [
        weight * ((numbers(one) - low) / (high - low if high > low else 1.0))
        for one, weight, (low, high) in zip(scores, weights, ranges, strict=True)
    ]
    found = reduce(np.add, parts)
    return pa.array(found, pa.float64(), mask=~np.isfinite(found))
