"""Filters with one score column that keep by ``min`` or by ``top``, DataComp's fraction of the scope."""

from collections.abc import Mapping
from functools import reduce
from typing import Any, Self

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, model_validator

from pairsieve.filters import _top
from pairsieve.filters.base import PoolFilter, Threshold, first_reason


class Ranked(PoolFilter):
    """A score, the higher the better; keep by ``min`` or ``top``, or every pair without them.

    Reasons: ``no_score``, ``below_min``, ``below_top``; with ``exclude``, ``not_below``.
    """

    min: Threshold[float | None] = Field(None, description="keep scores of at least this", allow_inf_nan=False)
    top: Threshold[float | None] = Field(
        None, description="keep this fraction of the scope: scores >= the (floor(n*top)+1)-th largest", ge=0, le=1
    )
    exclude: Threshold[bool] = Field(
        False, description="drop what 'min' and 'top' would keep, and keep what is below: two such steps are a window"
    )

    @model_validator(mode="after")
    def _something_to_exclude(self) -> Self:
        if self.exclude and self.min is None and self.top is None:
            raise ValueError("'exclude' turns 'min' or 'top' round; give one")
        return self

    @property
    def score_column(self) -> str:
        """The column that is compared: the only one that is written."""
        return next(iter(self.writes))

    def is_settled(self, settled: Mapping[str, Any]) -> bool:
        return self.top is None or _top.is_settled(settled)

    def summarize(self, pairs: pa.RecordBatch, settled: Mapping[str, Any]) -> _top.Histogram:
        return _top.count(pairs[self.score_column], settled)

    def merge(self, one: _top.Histogram, other: _top.Histogram) -> _top.Histogram:
        return one + other

    def settle(self, summary: _top.Histogram, settled: Mapping[str, Any]) -> dict[str, Any]:
        return _top.settle(summary, settled, self.top or 0.0)

    def keep(self, pairs: pa.RecordBatch, settled: Mapping[str, Any]) -> pa.Array:
        scores = pairs[self.score_column]
        if self.min is None and self.top is None:
            return pa.nulls(pairs.num_rows, pa.string())
        minimum = None if self.min is None else pa.scalar(self.min, scores.type)
        limits = ((minimum, "below_min"), (_top.threshold(settled, scores.type), "below_top"))
        below = [(_top.below(scores, least), name) for least, name in limits if least is not None]
        if self.exclude:
            below = [(pc.invert(reduce(pc.or_, (test for test, _ in below))), "not_below")] if below else []
        return first_reason(pairs.num_rows, (missing(scores), "no_score"), *below)


def missing(scores: pa.Array) -> pa.Array:
    """Where there is no score: null or NaN."""
    return pc.fill_null(pc.or_(pc.is_null(scores), pc.is_nan(scores)), True)
