"""How the next token of a caption is chosen: the settings, and what they make of a model's logits.

The order is that of transformers' ``generate``: repetition penalty, least length, temperature, ``top_k``, ``top_p``.
A draw is a number in [0, 1) that the caller gives, looked up in the cumulative probabilities of the tokens that are
left, in the order of their ids: no generator, so a row's token depends on its own logits and number alone.  Sums are
float64.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    import torch

FIRST = 256
"""Tokens that are looked at before all of them are sorted."""


@dataclass(frozen=True)
class Decoding:
    """How captions are written; lengths are of new tokens, without the prompt, with the end's."""

    kind: Literal["nucleus", "greedy", "beam"]
    count: int  # captions an image
    most: int  # new tokens
    least: int = 0  # new tokens before an end may come
    top_p: float = 1.0
    top_k: int = 0  # 0: all
    temperature: float = 1.0
    penalty: float = 1.0  # of repetition
    beams: int = 1
    length_penalty: float = 1.0

    @property
    def rows(self) -> int:
        """Captions that are written beside each other for one image."""
        return {"nucleus": self.count, "greedy": 1, "beam": self.beams}[self.kind]


def processed(
    logits: "torch.Tensor", history: "torch.Tensor", may_end: "torch.Tensor", ends: "torch.Tensor", decoding: Decoding
) -> "torch.Tensor":
    """float32[rows, vocabulary] after the repetition penalty and the least length, before what only draws use.

    ``history`` int64[rows, m] are the tokens so far, prompt and repeats included; ``may_end`` bool[rows]; ``ends``
    int64[e], the tokens that the least length forbids.
    """
    import torch

    if decoding.penalty != 1.0:
        seen = logits.gather(1, history)
        seen = torch.where(seen < 0, seen * decoding.penalty, seen / decoding.penalty)
        logits = logits.scatter(1, history, seen)
    if decoding.least:
        barred = torch.where(may_end, 0.0, float("-inf"))[:, None].expand(-1, len(ends))
        logits = logits.index_add(1, ends, barred)
    return logits


def warped(logits: "torch.Tensor", decoding: Decoding) -> "torch.Tensor":
    """Logits of what may be drawn, the rest at minus infinity, as transformers' warpers give them."""
    scaled = logits / decoding.temperature
    least, left = _sorted_cut(scaled, decoding)
    return scaled.masked_fill(~_inside(scaled, least, left), float("-inf"))


def drawn(logits: "torch.Tensor", numbers: "torch.Tensor", decoding: Decoding) -> "torch.Tensor":
    """int64[rows]: the token that each row's number, float64[rows] in [0, 1), falls on."""
    import torch

    scaled = logits / decoding.temperature
    first = min(FIRST, scaled.shape[1])
    values = scaled.topk(first, dim=1)
    least, left = _cut(values.values, scaled, decoding)
    is_known = (left < first) & (least > values.values[:, -1])  # equals of the last may lie beyond
    found = torch.empty(len(scaled), dtype=torch.int64, device=scaled.device)
    if is_known.any():
        ids = values.indices[is_known].sort(dim=1).values
        few = scaled[is_known].gather(1, ids)
        at = _fallen(few, least[is_known], left[is_known], numbers[is_known])
        found[is_known] = ids.gather(1, at[:, None])[:, 0]
    if not is_known.all():
        rest = scaled[~is_known]
        found[~is_known] = _fallen(rest, *_sorted_cut(rest, decoding), numbers[~is_known])
    return found


def greedy(logits: "torch.Tensor") -> "torch.Tensor":
    """int64[rows]: the likeliest token, of equals the first."""
    return logits.argmax(dim=1)


def _sorted_cut(logits: "torch.Tensor", decoding: Decoding) -> "tuple[torch.Tensor, torch.Tensor]":
    """``_cut`` of all tokens."""
    import torch

    if decoding.top_p >= 1 and not decoding.top_k:
        size = torch.full((len(logits),), logits.shape[1], device=logits.device)
        return torch.full((len(logits),), float("-inf"), device=logits.device), size
    if logits.device.type == "cpu":  # a third of the time of torch's
        values = torch.from_numpy(np.sort(logits.numpy(), axis=1)).flip(1)
    else:
        values = logits.sort(dim=1, descending=True).values
    return _cut(values, logits, decoding)


def _cut(values: "torch.Tensor", logits: "torch.Tensor", decoding: Decoding) -> "tuple[torch.Tensor, torch.Tensor]":
    """The least logit that may be drawn, float32[rows], and how many tokens may, int64[rows] from 1 on.

    ``values`` float32[rows, m] are the greatest logits in order; where they do not reach so far, it is all m.
    """
    import torch

    size = values.shape[1]
    weights = torch.exp(values - values[:, :1]).double()
    if decoding.top_k and decoding.top_k <= size:
        weights[:, decoding.top_k :] = 0
        whole = weights.sum(dim=1, keepdim=True)
    elif decoding.top_k and size < logits.shape[1]:
        whole = torch.full_like(weights[:, :1], float("inf"))
    else:
        whole = torch.exp(logits - values[:, :1]).sum(dim=1, keepdim=True, dtype=torch.float64)
    share = decoding.top_p if decoding.top_p < 1 else float("inf")
    left = ((weights.cumsum(dim=1) - weights < share * whole) & (weights > 0)).sum(dim=1)
    if decoding.top_p >= 1 and decoding.top_k:
        left = left.new_full((len(values),), min(decoding.top_k, size))
    left = left.clamp(1, size)
    return values.gather(1, (left - 1)[:, None])[:, 0], left


def _inside(values: "torch.Tensor", least: "torch.Tensor", left: "torch.Tensor") -> "torch.Tensor":
    """bool[rows, m]: which may be drawn; of those as likely as the last, the first by id."""
    above, equal = values > least[:, None], values == least[:, None]
    return above | (equal & (equal.cumsum(dim=1) <= (left - above.sum(dim=1))[:, None]))


def _fallen(
    values: "torch.Tensor", least: "torch.Tensor", left: "torch.Tensor", numbers: "torch.Tensor"
) -> "torch.Tensor":
    """int64[rows]: the place on which each number falls among those that may be drawn, in order of their places."""
    import torch

    inside = _inside(values, least, left)
    weights = torch.exp(values - values.amax(dim=1, keepdim=True)).double().masked_fill(~inside, 0.0)
    ends = weights.cumsum(dim=1)
    fallen = (ends <= numbers[:, None] * ends[:, -1:]).sum(dim=1)
    last = (inside * torch.arange(values.shape[1], device=values.device)).amax(dim=1)
    return torch.minimum(fallen, last)
