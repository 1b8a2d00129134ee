"""The tree of captions as a cache of transformers, whose models write into it and read from it as from their own.

Imported by what opens a model, never before: it imports torch and transformers.
"""

from importlib import import_module
from typing import Any

import torch

from pairsieve.filters._decode_tree import Begun, Tree

_hf: Any = import_module("transformers.cache_utils")  # half of it has no types


class _Layer:
    """One layer of the tree, as a ``CacheLayerMixin``."""

    is_sliding = is_compileable = is_croppable = False

    def __init__(self, tree: Tree, layer: int) -> None:
        self._tree, self._layer = tree, layer
        self.keys, self.values = self._held(tree, layer)
        self.is_initialized = True

    @staticmethod
    def _held(tree: Tree, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        return tree.layers[layer]

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the tokens at hand."""
        return self._tree.write(self._layer, key_states, value_states)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Places, and the first of them; masks are given, so nothing depends on it."""
        return self._tree.layers[0][0].shape[2], 0

    def get_seq_length(self) -> int:
        """Places but the tokens at hand's; positions are given, so nothing depends on it."""
        return self._tree.layers[0][0].shape[2] - self._tree.at.shape[1]

    def get_max_length(self) -> int:
        """All places."""
        return self._tree.layers[0][0].shape[2]


class _Crossed(_Layer):
    """The image's keys and values for one layer's cross-attention, which are there from the start."""

    @staticmethod
    def _held(tree: Tree, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        return tree.crossed[layer]

    def get_seq_length(self) -> int:
        """Of the image, so that the model does not compute them again."""
        return self._tree.crossed[0][0].shape[2]


_hf.CacheLayerMixin.register(_Layer)  # an abstract base class; inheriting from it would say nothing to mypy


def cache_of(tree: Tree) -> Any:
    """What a model is given as ``past_key_values``."""
    own = _hf.Cache(layers=[_Layer(tree, i) for i in range(len(tree.layers))])
    if not tree.crossed:
        return own
    return _hf.EncoderDecoderCache(own, _hf.Cache(layers=[_Crossed(tree, i) for i in range(len(tree.crossed))]))


def begun(cache: Any, row: int, logits: torch.Tensor, position: int | None = None, room: int | None = None) -> Begun:
    """An image after its prompt, from the cache that a model made of a batch."""
    own = cache.self_attention_cache if isinstance(cache, _hf.EncoderDecoderCache) else cache
    crossed = cache.cross_attention_cache.layers if isinstance(cache, _hf.EncoderDecoderCache) else []
    layers = [(layer.keys[row], layer.values[row]) for layer in own.layers]
    places = layers[0][0].shape[1]
    return Begun(
        layers,
        [(layer.keys[row], layer.values[row]) for layer in crossed],
        logits[row].float(),
        places if position is None else position,
        places if room is None else room,
    )
