"""CLIP score: cosine of a pair's image and text embeddings, by any open_clip model.

Images take open_clip's own transform (PIL), so scores equal open_clip's.  Batches are padded to a
fixed size and run on a fixed number of threads: a pair's score does not depend on its neighbours.
The model, not the decoding, is the cost: about 15 GFLOP a pair for ViT-B/32, 175 for ViT-L/14.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, PositiveInt, PrivateAttr, model_validator

from pairsieve.filters import _top
from pairsieve.filters._clip import Clip
from pairsieve.filters._clip_model import ClipModel
from pairsieve.filters._products import resources_of
from pairsieve.filters._ranked import Ranked, missing
from pairsieve.filters.base import Resources, UnknownColumnError, batches


class ClipScore(ClipModel, Ranked):
    """Cosine of image and text (float32, no logit scale, no prompt); keep by ``min`` or ``top``.

    ``model`` is an open_clip architecture with ``pretrained``, ``hf-hub:org/name``, or a directory
    in open_clip's format.  With ``column`` nothing is measured: a stored score is compared, in its
    own type.  Without ``min`` and ``top`` every pair stays.  Reasons: ``no_image``,
    ``broken_image``, ``too_many_pixels`` (before or after resizing), ``no_text``, ``no_score``,
    ``below_min``, ``below_top``; with ``exclude``, ``not_below``.
    """

    reads = ("image", "text")
    batch_rows = 512
    extra = "clip"
    loads_model = True

    column: str | None = Field(None, description="a stored score to compare instead of measuring one")
    batch_size: PositiveInt | None = Field(
        None, description="pairs a forward pass; every batch is padded to it; null: found by itself"
    )

    _clip: Clip | None = PrivateAttr(None)

    @model_validator(mode="after")
    def _one_source(self) -> "ClipScore":
        if (self.model is None) == (self.column is None):
            raise ValueError("give either 'model' or 'column'")
        if self.model is not None:
            _ = self.source  # refuses what does not go together
        elif self.pretrained:
            raise ValueError("'pretrained' goes with the name of an open_clip architecture as 'model'")
        return self

    @property
    def score_column(self) -> str:
        """The column that is compared."""
        return self.column or "clip_score"

    def needs(self) -> tuple[str, ...]:
        return self.model_modules() if self.model else ()

    def inputs(self, available: Mapping[str, pa.DataType]) -> tuple[str, ...]:
        return () if self.column else self.reads

    def keep_inputs(self, available: Mapping[str, pa.DataType]) -> tuple[str, ...]:
        return (self.column,) if self.column else ()

    def outputs(self, available: Mapping[str, pa.DataType]) -> dict[str, pa.DataType]:
        return {} if self.column else {"clip_score": pa.float32(), "clip_score_error": pa.string()}

    def check(self, available: Mapping[str, pa.DataType]) -> None:
        if self.column:
            _check_column(self.column, available, self.top is not None)
        else:
            self.check_model()

    def files(self) -> tuple[str, ...]:
        return self.model_files() if self.model else ()

    def resources(self) -> Resources:
        return Resources(cpus=1) if self.column else resources_of(self.device)

    def imports(self) -> tuple[str, ...]:
        return self.needs()

    def open(self) -> None:
        if self.model is not None:
            self._clip = self.load(self.batch_size)

    def close(self) -> None:
        self._clip = None

    def score(self, pairs: pa.RecordBatch) -> dict[str, pa.Array]:
        assert self._clip is not None
        scores = np.full(pairs.num_rows, np.nan, np.float32)
        errors: list[str | None] = []
        for part in batches(pairs, self._clip.batch_size):
            at = len(errors)
            found, why = self._clip.score(part["image"], part["text"].to_pylist())
            scores[at : at + part.num_rows] = found
            errors += why
        error = pa.array(errors, pa.string())
        return {"clip_score": pa.array(scores, mask=pc.is_valid(error).to_numpy(False)), "clip_score_error": error}

    def keep(self, pairs: pa.RecordBatch, settled: Mapping[str, Any]) -> pa.Array:
        reasons = super().keep(pairs, settled)
        if self.column or (self.min is None and self.top is None):
            return reasons
        return _say_why(reasons, missing(pairs[self.score_column]), pairs["clip_score_error"])


def _say_why(reasons: pa.DictionaryArray, lost: pa.Array, error: pa.Array) -> pa.Array:
    """The error of a pair that could not be scored, where one was recorded."""
    return pc.if_else(pc.and_(lost, pc.is_valid(error)), error, reasons.cast(pa.string()))


def _check_column(column: str, available: Mapping[str, pa.DataType], ranked: bool) -> None:
    if column not in available:
        raise UnknownColumnError(column, available)
    if ranked or not pa.types.is_floating(available[column]):
        _top.check_type(available[column])
