"""A zero-shot classifier: one vector a class, the mean of its prompts' embeddings, and the nearest to each image."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pairsieve.filters._clip import Clip
from pairsieve.filters._products import Matrix, fixed
from pairsieve.filters._tensors import load_embeddings
from pairsieve.filters._vectors import LEAST_NORM, ROWS, blocks, product, unit, vectors_of
from pairsieve.schemas.errors import UserError

if TYPE_CHECKING:
    import torch

TEXTS = 4096
"""Prompts whose embeddings are held at once."""


@dataclass(frozen=True)
class Logits:
    """How a model turns a cosine into a chance: over all classes (softmax), or by itself where there is a bias."""

    scale: float
    bias: float | None = None

    @staticmethod
    def of(clip: Clip) -> "Logits":
        """A loaded model's: learnt, and with a bias where it was trained with the sigmoid loss."""
        bias = getattr(clip.model, "logit_bias", None)
        scale = math.exp(clip.model.logit_scale.detach().item())
        return Logits(scale, None if bias is None else bias.detach().item())


def embedded(clip: Clip, prompts: Sequence[Sequence[str]]) -> Matrix:
    """float32[classes, d] of length 1: means of the normalised embeddings of each class's prompts.

    As open_clip's ``build_zero_shot_classifier`` (Radford et al. 2021, section 3.1.4), transposed.
    """
    found = [_mean(rows) for rows in _rows(clip, prompts)]
    return _normalised(np.stack(found), "prompts")


def _rows(clip: Clip, prompts: Sequence[Sequence[str]]) -> Iterator[Matrix]:
    """The embeddings of each class's prompts; many classes at a time."""
    start = 0
    while start < len(prompts):
        stop, count = start, 0
        while stop < len(prompts) and (stop == start or count + len(prompts[stop]) <= TEXTS):
            count += len(prompts[stop])
            stop += 1
        rows = clip.texts([text for each in prompts[start:stop] for text in each])
        yield from np.split(rows, np.cumsum([len(each) for each in prompts[start:stop]])[:-1])
        start = stop


def _mean(rows: Matrix) -> Matrix:
    return np.asarray(rows.mean(axis=0, dtype=np.float64), np.float32)


def class_vectors(file: str, key: str | None, count: int) -> Matrix:
    """float32[count, d] of length 1 out of a file: a class a row, or a column as open_clip's classifiers have it.

    Raises ``UserError`` for a file that cannot be used, or has another number of classes.
    """
    found = load_embeddings(file, key)
    if len(found) != count and found.shape[1] == count:
        found = np.ascontiguousarray(found.T)
    if len(found) != count:
        shape = " × ".join(map(str, found.shape))
        raise UserError(f"classes: {file} holds {shape} values, and there are {count} labels; give a vector a label")
    return _normalised(found, f"classes: {file}")


def _normalised(vectors: Matrix, what: str) -> Matrix:
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    if (lengths <= LEAST_NORM).any():
        raise UserError(f"{what}: class {int(lengths.argmin())} has a vector of length 0; leave it out")
    return np.asarray(vectors / lengths, np.float32)


@dataclass(frozen=True)
class Classifier:
    """Class vectors on a device, ready to compare."""

    vectors: "torch.Tensor"
    logits: Logits

    @staticmethod
    def on(device: "torch.device", vectors: Matrix, logits: Logits) -> "Classifier":
        """Of float32[classes, d]."""
        import torch

        return Classifier(torch.from_numpy(np.array(vectors)).to(device), logits)

    @property
    def width(self) -> int:
        """Of the embeddings that it takes."""
        return int(self.vectors.shape[1])

    def best(self, column: pa.Array) -> tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.float32]]:
        """Of each embedding the class with the greatest cosine (the first of equals), the cosine, and its chance.

        int32[n], float32[n], float32[n]; −1 and NaN where there is no embedding.
        """
        place = np.full(len(column), -1, np.int32)
        score, chance = (np.full(len(column), np.nan, np.float32) for _ in range(2))
        with fixed():
            units, is_good = unit(vectors_of(column, self.width))
            for start, block in blocks(units, ROWS[self.vectors.device.type]):
                cosines = product(block.to(self.vectors.device), self.vectors.T)
                top, where = cosines.max(dim=1)
                here = slice(start, min(start + len(block), len(column)))
                for found, values in ((place, where), (score, top), (chance, self._chances(cosines, top))):
                    found[here] = values.cpu().numpy()[: here.stop - start]
        is_missing = ~is_good.numpy()
        place[is_missing], score[is_missing], chance[is_missing] = -1, np.nan, np.nan
        return place, score, chance

    def _chances(self, cosines: "torch.Tensor", top: "torch.Tensor") -> "torch.Tensor":
        """Of the best class: its share of the softmax, or the sigmoid of its own logit."""
        if self.logits.bias is not None:
            return (top * self.logits.scale + self.logits.bias).sigmoid()
        return 1 / ((cosines - top.unsqueeze(1)) * self.logits.scale).exp().sum(dim=1)
