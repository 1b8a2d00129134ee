"""Aesthetic score of an image by a head on its stored CLIP embedding, such as LAION's: no image is decoded.

1 µs a pair of width 768 on a core, for one layer and for LAION's MLP alike.
"""

from typing import Literal

import pyarrow as pa
from pydantic import Field

from pairsieve.filters._heads import HeadSettings
from pairsieve.filters._ranked import Ranked


class Aesthetic(HeadSettings, Ranked):
    """Score image embeddings by a head with one output; keep by ``min`` or ``top``.

    LAION's heads take OpenAI's embeddings (``ViT-L-14-quickgelu``, ``openai``) and give about 1 to 10:
    ``sa_0_4_vit_l_14_linear.pth`` (LAION-AI/aesthetic-predictor: one layer; also for B/32) and
    ``sac+logos+ava1-l14-linearMSE.pth`` (christophschuhmann/improved-aesthetic-predictor: 768-1024-128-64-16-1,
    dropouts and no activations), which made LAION-Aesthetics V2 with ``min`` of 4.5 to 6.5.  Any chain of linear layers
    is read.  Reasons: ``no_score`` (the embedding is null, zero, of another width, or not finite), ``below_min``,
    ``below_top``; with ``exclude``, ``not_below``.
    """

    writes = {"aesthetic": pa.float32()}

    activation: Literal["none", "relu"] = Field("none", description="between the layers; LAION's linearMSE: none")

    @property
    def between(self) -> Literal["none", "relu"]:
        return self.activation

    def score(self, pairs: pa.RecordBatch) -> dict[str, pa.Array]:
        return {"aesthetic": self.measured(pairs[self.embeddings], is_sigmoid=False)}
