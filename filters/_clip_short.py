"""Text towers at the length of the text: most captions need 16 of CLIP's 77 places.

In a causal tower no place sees a later one, and the embedding is taken at the text's end: what follows cannot change
it, so it need not be computed.  A text's length is its own, so its batch has the same shape whatever its neighbours
are.  ViT-B/32 on one core takes 14 ms a text at 16 places, 28 at 32, 79 at 77, for the same bits on that CPU (AVX-512);
elsewhere the last bit may differ from the full length's.  Towers that look both ways (SigLIP, Hugging Face models) or
end in a class token (CoCa) run in full.
"""

from collections.abc import Callable
from copy import copy
from typing import Any

import numpy as np
from numpy.typing import NDArray

LENGTHS = (16, 32)
"""Besides the full one; more would leave more batches half full."""


class TextTowers:
    """The text tower of a model at a few lengths; they share their weights."""

    def __init__(self, model: Any, context: int) -> None:
        """Look whether the model's tower can be shortened."""
        self._model, self._holder = model, _holder(model)
        own = "text_" if self._holder is model else ""
        pool, self._eos = (getattr(self._holder, own + name, None) for name in ("pool_type", "eos_id"))
        self._pools_at_end = pool == "argmax"
        is_short = self._holder is not None and pool in ("argmax", "eos") and _is_causal(self._holder)
        self.lengths = (*(n for n in LENGTHS if n < context and is_short), context)

    def needed(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """int64[n]: of ``lengths`` the least that holds each text, by tokens int64[n, context]."""
        if len(self.lengths) == 1:
            return np.full(len(ids), self.lengths[0])
        end = ids.argmax(1) if self._pools_at_end else (ids == self._eos).argmax(1)
        return np.asarray(np.array(self.lengths)[np.searchsorted(self.lengths, end + 1)], np.int64)

    def tower(self, length: int) -> Callable[[Any], Any]:
        """The tower that takes tokens [n, length]; embeddings are not normalised."""
        if length == self.lengths[-1]:
            return lambda ids: self._model.encode_text(ids, normalize=False)
        short = _cut(self._holder, length)
        tower: Callable[[Any], Any] = short if self._holder is not self._model else short.encode_text
        return tower


def _holder(model: Any) -> Any:
    """The module with the places' embeddings and the mask: the model itself, or its text tower; none is known else."""
    from open_clip.model import CLIP, CustomTextCLIP
    from open_clip.transformer import TextTransformer

    if type(model) is CLIP:
        return model
    is_known = type(model) is CustomTextCLIP and type(model.text) is TextTransformer
    return model.text if is_known and model.text.cls_emb is None and not model.text.output_tokens else None


def _is_causal(holder: Any) -> bool:
    """Whether the mask hides just what comes later."""
    import torch

    mask = getattr(holder, "attn_mask", None)
    return mask is not None and torch.equal(mask, torch.full_like(mask, float("-inf")).triu_(1))


def _cut(holder: Any, length: int) -> Any:
    """The same module with the first places only: a shallow copy, whose other weights are the original's."""
    import torch

    short = copy(holder)
    short._parameters, short._buffers = dict(holder._parameters), dict(holder._buffers)
    places = holder.positional_embedding.detach()[:length]
    short._parameters["positional_embedding"] = torch.nn.Parameter(places, requires_grad=False)
    short._buffers["attn_mask"] = holder.attn_mask[:length, :length].contiguous()
    return short
