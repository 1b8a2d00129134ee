"""The text side of BLIP's and BLIP-2's matching heads, layer by layer through the library's own modules.

What differs from the library's forward pass: an image's cross-attention keys and values are made once and used by all
of its texts, attention is PyTorch's fused one, and of the last layer only the places that the head reads are computed.
The numbers are the same to 1e-6.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear, normalize, scaled_dot_product_attention

Attend = Callable[[Tensor], Tensor]
"""What queries [texts, heads, places, width] find in the images of their texts, of the same shape."""


class Matching(ABC):
    """A matching head and the text encoder below it."""

    def __init__(self, model: Any, layers: Any, heads: int, has_enc: int | None) -> None:
        """Take a model in evaluation mode; ``has_enc`` is the id that stands first in a text that meets an image."""
        self.model, self.layers, self._heads, self._enc = model, layers, heads, has_enc

    @abstractmethod
    def begin(self, ids: Tensor) -> Tensor:
        """What the first layer takes of ids int64[texts, places]."""

    @abstractmethod
    def bias(self, mask: Tensor) -> Tensor:
        """What is added to self-attention's scores, [texts, 1, 1, places], by bool[texts, places]."""

    @abstractmethod
    def keys(self, layer: int, images: Tensor) -> tuple[Tensor, Tensor] | None:
        """Keys and values [images, heads, tokens, width] of cross-attention; None where the layer has none."""

    @abstractmethod
    def step(self, layer: int, hidden: Tensor, bias: Tensor, attend: Attend) -> Tensor:
        """One layer."""

    @abstractmethod
    def logits(self, hidden: Tensor) -> Tensor:
        """Not matched and matched, float32[texts, 2], of the last layer's output."""

    @abstractmethod
    def image_features(self, images: Tensor) -> Tensor:
        """Unit vectors float32[images, queries, width] for the cosine of contrastive training."""

    @abstractmethod
    def text_features(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Unit vectors float32[texts, width], of ids with [CLS]."""

    def with_enc(self, ids: Tensor) -> Tensor:
        """Ids of texts that meet an image."""
        if self._enc is None:
            return ids
        return torch.cat([torch.full_like(ids[:, :1], self._enc), ids[:, 1:]], 1)

    def _split(self, rows: Tensor) -> Tensor:
        """[n, heads, places, width] of [n, places, all widths]."""
        return rows.view(*rows.shape[:-1], self._heads, -1).transpose(1, 2)

    def _attended(self, block: Any, asked: Tensor, hidden: Tensor, bias: Tensor) -> Tensor:
        """Self-attention of the places asked for, among all."""
        query, key, value = (
            self._split(block.query(asked)),
            self._split(block.key(hidden)),
            self._split(block.value(hidden)),
        )
        return _merged(scaled_dot_product_attention(query, key, value, attn_mask=bias))


class BlipMatching(Matching):
    """``BlipForImageTextRetrieval``: cross-attention in every layer, the head reads the first place."""

    def __init__(self, model: Any, enc: int | None) -> None:
        """Take the model."""
        encoder, config = model.text_encoder.encoder, model.config.text_config
        super().__init__(model, encoder.layer, config.num_attention_heads, enc)

    def begin(self, ids: Tensor) -> Tensor:
        found: Tensor = self.model.text_encoder.embeddings(input_ids=self.with_enc(ids))
        return found

    def bias(self, mask: Tensor) -> Tensor:
        return _bias(mask, self.model.itm_head.weight.dtype)

    def keys(self, layer: int, images: Tensor) -> tuple[Tensor, Tensor] | None:
        block = self.layers[layer].crossattention.self
        return self._split(block.key(images)), self._split(block.value(images))

    def step(self, layer: int, hidden: Tensor, bias: Tensor, attend: Attend) -> Tensor:
        own = self.layers[layer]
        asked = hidden[:, :1] if layer + 1 == len(self.layers) else hidden
        found = own.attention.output(self._attended(own.attention.self, asked, hidden, bias), asked)
        query = self._split(own.crossattention.self.query(found))
        found = own.crossattention.output(_merged(attend(query)), found)
        step: Tensor = own.feed_forward_chunk(found)
        return step

    def logits(self, hidden: Tensor) -> Tensor:
        return _few(self.model.itm_head, hidden[:, 0])

    def image_features(self, images: Tensor) -> Tensor:
        return normalize(_exact(self.model.vision_proj, images[:, :1]), dim=-1)

    def text_features(self, ids: Tensor, mask: Tensor) -> Tensor:
        found = self.model.text_encoder(input_ids=ids, attention_mask=mask.long()).last_hidden_state
        return normalize(_exact(self.model.text_proj, found[:, 0]), dim=-1)


class Blip2Matching(Matching):
    """``Blip2ForImageTextRetrieval``: learned queries meet text and image, and the head's mean over them is read."""

    def __init__(self, model: Any) -> None:
        """Take the model; its Q-Former computes in float32, whatever the rest does."""
        super().__init__(model, model.qformer.encoder.layer, model.config.qformer_config.num_attention_heads, None)
        self._queries = model.query_tokens.shape[1]

    def begin(self, ids: Tensor) -> Tensor:
        queries = self.model.query_tokens.expand(len(ids), -1, -1)
        rows = self.model.embeddings(input_ids=ids, query_embeds=queries)
        found: Tensor = self.model.qformer.layernorm(rows.to(self._dtype))
        return found

    @property
    def _dtype(self) -> torch.dtype:
        found: torch.dtype = self.model.qformer.layernorm.weight.dtype
        return found

    def bias(self, mask: Tensor) -> Tensor:
        queries = torch.ones(len(mask), self._queries, dtype=torch.bool, device=mask.device)
        return _bias(torch.cat([queries, mask], 1), self._dtype)

    def keys(self, layer: int, images: Tensor) -> tuple[Tensor, Tensor] | None:
        if not self.layers[layer].has_cross_attention:
            return None
        block, exact = self.layers[layer].crossattention.attention, images.to(self._dtype)
        return self._split(block.key(exact)), self._split(block.value(exact))

    def step(self, layer: int, hidden: Tensor, bias: Tensor, attend: Attend) -> Tensor:
        own, is_last = self.layers[layer], layer + 1 == len(self.layers)
        asked = hidden[:, : self._queries] if is_last else hidden
        found = own.attention.output(self._attended(own.attention.attention, asked, hidden, bias), asked)
        query, text = found[:, : self._queries], found[:, self._queries :]
        if own.has_cross_attention:
            context = attend(self._split(own.crossattention.attention.query(query)))
            query = own.crossattention.output(_merged(context), query)
        query = own.feed_forward_chunk_query(query)
        return query if is_last else torch.cat([query, own.feed_forward_chunk(text)], 1)

    def logits(self, hidden: Tensor) -> Tensor:
        return _few(self.model.itm_head, hidden).mean(1)

    def image_features(self, images: Tensor) -> Tensor:
        queries = self.model.query_tokens.expand(len(images), -1, -1)
        ones = torch.ones(images.shape[:2], dtype=torch.long, device=images.device)
        found = self.model.qformer(query_embeds=queries, encoder_hidden_states=images, encoder_attention_mask=ones)
        return normalize(_exact(self.model.vision_projection, found.last_hidden_state), dim=-1)

    def text_features(self, ids: Tensor, mask: Tensor) -> Tensor:
        rows = self.model.embeddings(input_ids=ids)
        found = self.model.qformer(query_embeds=rows, query_length=0, attention_mask=mask.long()).last_hidden_state
        return normalize(_exact(self.model.text_projection, found[:, 0]), dim=-1)


def _merged(rows: Tensor) -> Tensor:
    """[n, places, all widths] of [n, heads, places, width]."""
    return rows.transpose(1, 2).flatten(2)


def _bias(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """0 where a place is, the least number where it is padding."""
    found = torch.zeros(mask.shape, dtype=dtype, device=mask.device)
    return found.masked_fill_(~mask, torch.finfo(dtype).min)[:, None, None, :]


def _exact(layer: Any, rows: Tensor) -> Tensor:
    """A linear layer in float32, whatever its weights are stored in."""
    return linear(rows.float(), layer.weight.float(), layer.bias.float())


def _few(layer: Any, rows: Tensor) -> Tensor:
    """The same for few outputs: as a matrix product a row would have other bits at another place, on some CPUs."""
    found: Tensor = (rows.float()[..., None, :] * layer.weight.float()).sum(-1) + layer.bias.float()
    return found
