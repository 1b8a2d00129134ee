"""Keys and values of several images' captions: what the captions of an image have in common is held once.

An image has a slot: the places of its prompt (image tokens and text), which all its captions see, then one place for
each caption and step.  To the model the captions of an image are positions of one sequence; the mask says which places
each of them sees, so nothing is copied for k captions or for beams that change parents.  The shapes are the same at
every step, whatever the slots hold.  A slot of BLIP-base at 384 pixels takes 55 MB in float32 with 10 captions, 42 of
them the cross-attention's over 577 image tokens.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

Pair = "tuple[torch.Tensor, torch.Tensor]"


@dataclass(frozen=True)
class Begun:
    """An image after its prompt: keys and values [heads, places, width] of each layer, and what may come next."""

    layers: "list[tuple[torch.Tensor, torch.Tensor]]"
    crossed: "list[tuple[torch.Tensor, torch.Tensor]]"  # of the image, for models that look at it by cross-attention
    logits: "torch.Tensor"  # float32[vocabulary]
    position: int  # of the first new token
    room: int  # places that the prompt has in a slot: its own, or more

    @property
    def places(self) -> int:
        """Of the prompt."""
        return self.layers[0][0].shape[1]


@dataclass
class Tree:
    """Buffers [slots, heads, places, width] of all layers, and where the tokens at hand are written."""

    layers: "list[tuple[torch.Tensor, torch.Tensor]]"
    crossed: "list[tuple[torch.Tensor, torch.Tensor]]"
    slots: "torch.Tensor"  # int64[slots, 1]
    at: "torch.Tensor" = field(init=False)  # int64[slots, rows]: the places of the tokens at hand

    @staticmethod
    def like(begun: Begun, slots: int, places: int) -> "Tree":
        """Empty buffers for prompts such as this one's."""
        import torch

        def empty(one: "torch.Tensor", size: int) -> "torch.Tensor":
            return torch.zeros((slots, one.shape[0], size, one.shape[2]), dtype=one.dtype, device=one.device)

        layers = [(empty(keys, places), empty(values, places)) for keys, values in begun.layers]
        crossed = [(empty(keys, keys.shape[1]), empty(values, values.shape[1])) for keys, values in begun.crossed]
        return Tree(layers, crossed, torch.arange(slots, device=begun.logits.device)[:, None])

    def plant(self, slot: int, begun: Begun) -> None:
        """Give an image a slot."""
        for (keys, values), (own_keys, own_values) in zip(self.layers, begun.layers, strict=True):
            keys[slot, :, : begun.places] = own_keys
            values[slot, :, : begun.places] = own_values
        for (keys, values), (own_keys, own_values) in zip(self.crossed, begun.crossed, strict=True):
            keys[slot], values[slot] = own_keys, own_values

    def write(self, layer: int, keys: "torch.Tensor", values: "torch.Tensor") -> "tuple[torch.Tensor, torch.Tensor]":
        """Take keys and values [slots, heads, rows, width] of the tokens at hand; gives those of all places."""
        held_keys, held_values = self.layers[layer]
        held_keys[self.slots, :, self.at] = keys.transpose(1, 2)
        held_values[self.slots, :, self.at] = values.transpose(1, 2)
        return held_keys, held_values
