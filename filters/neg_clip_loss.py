"""negCLIPLoss: the CLIP score, less what the image fits any text and the text any image (arXiv 2405.19547).

Pure arithmetic on stored embeddings; no model is run.  Every pair meets 32,767 others in each of ``repeats``
batches: 0.5 GFLOP a pair for 10 rounds of width 768.  80 pairs a CPU-second, so use a GPU beyond 100,000 pairs.
"""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field, PositiveFloat, PositiveInt, PrivateAttr

from pairsieve.filters._contrast import neg_clip_losses
from pairsieve.filters._products import device_of, resources_of
from pairsieve.filters._ranked import Ranked
from pairsieve.filters._tensors import check_column, matrix_of
from pairsieve.filters.base import Resources, Runtime, UnknownColumnError
from pairsieve.schemas import uid

if TYPE_CHECKING:
    import torch

LOOK = 65_536
"""Rows whose embeddings are looked at together, to see which are there."""


class NegClipLoss(Ranked):
    """cos − ½T·log Σ_text e^{cos/T} − ½T·log Σ_image e^{cos/T} within random batches of the shard (float32), averaged.

    ``cos`` is the inner product of the embeddings as they are stored.  In each of ``repeats`` rounds the
    pairs of a shard are put in the order of a hash of (seed, round, uid) and cut into the fewest batches
    of equal size, at most ``batch`` pairs.  In a batch of b < ``batch`` pairs every negative counts
    (batch − 1)/(b − 1) times, so that its sums are in the mean those of a full batch; the original leaves the
    rest of a shard as one short batch, whose pairs score higher.  A full batch is the original's.

    Needs ``of: pool``: a score depends on which pairs the shard has, so never on who survived.  Memory:
    the shard's embeddings as stored (3 KB a pair for two columns of 768 float16), and one batch.  The
    paper uses batches of 32,768, T = 0.01 for OpenAI's models (0.07 for DFN), 10 repeats and the top 30 %.
    Reasons: ``no_score`` (an embedding is null, of another width than most, or not finite; or the
    pair is alone), ``below_min``, ``below_top``.
    """

    writes = {"neg_clip_loss": pa.float32()}
    whole_shard = True
    extra = "clip"
    loads_model = True

    image: str = Field("l14_img", description="column of image embeddings: lists of floats")
    text: str = Field("l14_txt", description="column of text embeddings: lists of floats")
    batch: PositiveInt = Field(32_768, description="pairs that compete", ge=2)
    temperature: PositiveFloat = Field(0.01, description="T: that of the model's training", le=100)
    repeats: PositiveInt = Field(10, description="rounds that the score is averaged over", le=1000)
    seed: int = Field(0, description="of the batches")
    device: Runtime[Literal["auto", "cpu", "cuda"]] = Field("auto", description="auto: the GPU where there is one")

    _device: "torch.device | None" = PrivateAttr(None)

    def needs(self) -> tuple[str, ...]:
        return ("torch",)

    def inputs(self, available: Mapping[str, pa.DataType]) -> tuple[str, ...]:
        return (self.image, self.text)

    def check(self, available: Mapping[str, pa.DataType]) -> None:
        for name in (self.image, self.text):
            if name not in available:
                raise UnknownColumnError(name, available)
        widths = [check_column(available[name], name) for name in (self.image, self.text)]
        if None not in widths and widths[0] != widths[1]:
            raise ValueError(f"{self.image!r} has width {widths[0]}, {self.text!r} {widths[1]}; name one model's two")

    def resources(self) -> Resources:
        return resources_of(self.device)

    def open(self) -> None:
        self._device = device_of(self.device)

    def close(self) -> None:
        self._device = None

    def score(self, pairs: pa.RecordBatch) -> dict[str, pa.Array]:
        width = _width(pairs[self.image])
        rows = np.flatnonzero(self._present(pairs, width))
        total = np.zeros(pairs.num_rows)
        if len(rows) > 1:
            hashes = uid.keyed_hash(pairs["uid"].take(pa.array(rows)), self.seed)
            for number in range(self.repeats):
                for places in drawn(hashes, number, self.batch):
                    total[rows[places]] += self._losses(pairs, rows[places], width)
        is_scored = np.zeros(pairs.num_rows, bool)
        is_scored[rows] = len(rows) > 1
        return {"neg_clip_loss": pa.array((total / self.repeats).astype(np.float32), mask=~is_scored)}

    def _present(self, pairs: pa.RecordBatch, width: int) -> NDArray[np.bool_]:
        """Pairs with both embeddings."""
        found = np.zeros(pairs.num_rows, bool)
        for start in range(0, pairs.num_rows if width else 0, LOOK):
            images, texts = (pairs[name].slice(start, LOOK) for name in (self.image, self.text))
            found[start : start + LOOK] = matrix_of(images, width)[1] & matrix_of(texts, width)[1]
        return found

    def _losses(self, pairs: pa.RecordBatch, rows: NDArray[np.int64], width: int) -> NDArray[np.float64]:
        """The scores of one batch."""
        assert self._device is not None
        take = pa.array(rows)
        images, texts = (matrix_of(pairs[name].take(take), width)[0] for name in (self.image, self.text))
        weight = (self.batch - 1) / (len(rows) - 1)
        return neg_clip_losses(images, texts, self.temperature, weight, self._device)


def drawn(hashes: NDArray[np.uint64], number: int, batch: int) -> Iterator[NDArray[np.int64]]:
    """The places of the pairs of each batch of one round: equal shares of the order of their hashes."""
    order = np.argsort(uid.copy_hash(hashes, np.full(len(hashes), number)), kind="stable")
    yield from np.array_split(order, -(-len(order) // batch))


def _width(column: pa.Array) -> int:
    """The width of the embeddings: of the type, or of the first that is there; 0 where none is."""
    if pa.types.is_fixed_size_list(column.type):
        return int(column.type.list_size)
    found = column.drop_null()
    return len(found[0]) if len(found) else 0
