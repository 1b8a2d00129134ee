"""Chance that an image is not safe for work, by a head on its stored CLIP embedding, such as LAION's.

On a core 6 µs a pair for ViT-L/14, 1 for B/32; no image is decoded.
"""

from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from pairsieve.filters._heads import HeadSettings
from pairsieve.filters._ranked import missing
from pairsieve.filters.base import Filter, Threshold, first_reason

H14 = (1024, 1024, 2048, 1024, 256, 128, 16, 1)
"""LAION's head for ViT-H/14, whose output is the score itself."""


class Nsfw(HeadSettings, Filter):
    """Score image embeddings by a head with one output (1: not safe); keep pairs of at most ``max``.

    LAION's heads (LAION-AI/CLIP-based-NSFW-Detector) take OpenAI's ViT-L/14 (a normalisation, then 768-64-512-256-1)
    or B/32 (512-32-32-1), with ReLU and a sigmoid, and those of OpenCLIP's ViT-H/14
    (1024-1024-2048-1024-256-128-16-1), with ReLU but for the last two layers and no sigmoid.  Their Keras models are
    read once they are converted (``convert_heads_to_pytorch.py`` there).  Reasons: ``no_embedding`` (null, zero, of
    another width, or not finite), ``above_max``.
    """

    writes = {"nsfw": pa.float32()}

    activation: Literal["none", "relu"] = Field("relu", description="between the layers")
    output: Literal["auto", "sigmoid", "none"] = Field(
        "auto", description="after the last layer; auto: a sigmoid, but for LAION's head of ViT-H/14"
    )
    max: Threshold[float | None] = Field(
        0.5, description="keep scores of at most this; null: every pair", allow_inf_nan=False
    )

    @property
    def between(self) -> Literal["none", "relu"]:
        return self.activation

    def score(self, pairs: pa.RecordBatch) -> dict[str, pa.Array]:
        is_sigmoid = self._shape != H14 if self.output == "auto" else self.output == "sigmoid"
        return {"nsfw": self.measured(pairs[self.embeddings], is_sigmoid)}

    def keep(self, pairs: pa.RecordBatch) -> pa.Array:
        scores = pairs["nsfw"]
        if self.max is None:
            return pa.nulls(pairs.num_rows, pa.string())
        most = pa.scalar(self.max, scores.type)
        return first_reason(pairs.num_rows, (missing(scores), "no_embedding"), (pc.greater(scores, most), "above_max"))
