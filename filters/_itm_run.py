"""Many texts against their images: layer by layer, each image's keys and values made once, texts in fixed batches.

Texts are run in batches of one shape by length, the last ones padded, so that a text's bits depend on itself and its
image alone; on a CPU each text meets its image, and each image a layer's keys, by itself.  Going layer by layer holds
one layer's keys and values of a group of images: 3.5 MB an image for BLIP-base at 384 pixels in float32.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from pairsieve.filters._itm_layers import Attend, Matching
from pairsieve.filters._pictures_shared import GPU_IMAGES, halving

LENGTHS = (8, 12, 16, 24)
"""Places of a batch, besides the most that a model takes: captions have 8 to 16 tokens, web texts any number."""
CPU_TEXTS = 4
"""Texts a batch on a CPU: with 16 places 64 rows, where products are as fast as with more, and little is padded."""
GPU_TEXTS = 256
"""On a GPU, halved where its memory is too small."""


@dataclass(frozen=True)
class Asked:
    """A text and the place of its image in the group."""

    image: int
    ids: tuple[int, ...]


@dataclass
class _Batch:
    """Texts of one shape, and where their scores go; rows beyond ``at`` are padding."""

    ids: Tensor  # int64[rows, places]
    mask: Tensor  # bool[rows, places]
    images: list[int]
    at: list[int]


class ItmRunner:
    """A matching head at work on groups of images."""

    def __init__(self, head: Matching, most_tokens: int, device: torch.device, together: bool | None = None) -> None:
        """Batches are as large as the device likes; ``together``: the keys of all images at once, as a GPU does."""
        self._head, self._device = head, device
        self._lengths = [*(n for n in LENGTHS if n < most_tokens), most_tokens]
        self._together = device.type == "cuda" if together is None else together
        self._rows = GPU_TEXTS if self._together else CPU_TEXTS

    def probabilities(self, images: Sequence[Tensor], texts: Sequence[Asked]) -> NDArray[np.float32]:
        """P(match) float32[texts]: one softmax over the head's two logits."""
        found, self._rows = halving(lambda rows: self._matched(images, texts, rows), self._rows)
        return np.asarray(found.softmax(-1)[:, 1].cpu().numpy(), np.float32)

    def cosines(self, images: Sequence[Tensor], texts: Sequence[Asked]) -> NDArray[np.float32]:
        """Of contrastive training, float32[texts]: the greatest over an image's queries."""
        found, self._rows = halving(lambda rows: self._compared(images, texts, rows), self._rows)
        return np.asarray(found.cpu().numpy(), np.float32)

    def _matched(self, images: Sequence[Tensor], texts: Sequence[Asked], rows: int) -> Tensor:
        """Logits float32[texts, 2]."""
        head, batches = self._head, list(self._batches(texts, rows))
        hidden = [head.begin(batch.ids) for batch in batches]
        bias = [head.bias(batch.mask) for batch in batches]
        stacked = self._stacked(images)
        for layer in range(len(head.layers)):
            keys = [head.keys(layer, some) for some in stacked]
            for i, batch in enumerate(batches):
                hidden[i] = head.step(layer, hidden[i], bias[i], self._attend(keys, batch.images))
        found = torch.empty(len(texts), 2, device=self._device)
        for batch, last in zip(batches, hidden, strict=True):
            found[batch.at] = head.logits(last)[: len(batch.at)]
        return found

    def _compared(self, images: Sequence[Tensor], texts: Sequence[Asked], rows: int) -> Tensor:
        """Cosines float32[texts]."""
        features = torch.cat([self._head.image_features(some) for some in self._stacked(images)])
        found = torch.empty(len(texts), device=self._device)
        for batch in self._batches(texts, rows):
            own = self._head.text_features(batch.ids, batch.mask)
            products = (features[batch.images] * own[:, None]).sum(-1).amax(1)
            found[batch.at] = products[: len(batch.at)]
        return found

    def _stacked(self, images: Sequence[Tensor]) -> list[Tensor]:
        """Images whose keys are made at once: each by itself on a CPU, a whole group, filled up, on a GPU."""
        if not self._together:
            return [image[None] for image in images]
        return [torch.stack([*images, *[images[0]] * (-len(images) % GPU_IMAGES)])]

    def _attend(self, keys: Sequence[tuple[Tensor, Tensor] | None], images: list[int]) -> Attend:
        """Attention of each text to its own image."""
        if self._together:
            return lambda query: _looked(query, keys[0], images)
        return lambda query: torch.cat(
            [_looked(query[i : i + 1], keys[image], slice(None)) for i, image in enumerate(images)]
        )

    def _batches(self, texts: Sequence[Asked], rows: int) -> Iterator[_Batch]:
        """Texts by length, ``rows`` at a time."""
        lengths = np.array([len(text.ids) for text in texts])
        places = np.searchsorted(self._lengths, lengths)
        for number in np.unique(places):
            chosen = np.flatnonzero(places == number).tolist()
            for start in range(0, len(chosen), rows):
                yield self._batch(texts, chosen[start : start + rows], self._lengths[number], rows)

    def _batch(self, texts: Sequence[Asked], at: list[int], places: int, rows: int) -> _Batch:
        """One batch; a text of padding is one token that meets the group's first image."""
        ids, mask = np.zeros((rows, places), np.int64), np.zeros((rows, places), bool)
        mask[:, 0] = True
        for row, i in enumerate(at):
            own = texts[i].ids
            ids[row, : len(own)], mask[row, : len(own)] = own, True
        images = [texts[i].image for i in at] + [0] * (rows - len(at))
        return _Batch(torch.from_numpy(ids).to(self._device), torch.from_numpy(mask).to(self._device), images, at)


def _looked(query: Tensor, own: tuple[Tensor, Tensor] | None, images: list[int] | slice) -> Tensor:
    """Attention to some of the images of these keys and values."""
    assert own is not None
    return scaled_dot_product_attention(query, own[0][images], own[1][images])
