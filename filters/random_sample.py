"""Keep a random fraction of the pairs, the same one in every run.  About 0.15 µs a pair."""

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from pairsieve.filters.base import Filter, Threshold, first_reason
from pairsieve.schemas import uid


class RandomSample(Filter):
    """Draw a number in [0, 1) for each pair from (seed, uid); keep pairs whose number is below ``fraction``.

    The number depends on nothing else, so a smaller fraction is part of a larger one, a pair that
    is listed twice stays or goes twice, and the size is binomial, not exact.  Reason: ``not_drawn``.
    """

    reads = ("uid",)
    writes = {"random_number": pa.float64()}
    batch_rows = 131_072

    fraction: Threshold[float] = Field(ge=0, le=1, description="expected part of the pairs that stays")
    seed: int = Field(0, ge=0, lt=2**63, description="another one draws other pairs")

    def score(self, pairs: pa.RecordBatch) -> dict[str, pa.Array]:
        return {"random_number": pa.array(uid.fractions(uid.keyed_hash(pairs["uid"], self.seed)))}

    def keep(self, pairs: pa.RecordBatch) -> pa.Array:
        return first_reason(pairs.num_rows, (pc.greater_equal(pairs["random_number"], self.fraction), "not_drawn"))
