"""A loaded open_clip model: pictures and texts in, normalised float32 embeddings out, batch by padded batch."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pairsieve.filters._clip_batches import Batches, Rows
from pairsieve.filters._clip_short import TextTowers
from pairsieve.filters._clip_tokens import Ids, Tokens
from pairsieve.filters._preprocess import Pixels, Preprocess, normalised
from pairsieve.filters._products import device_of
from pairsieve.schemas.errors import UserError

if TYPE_CHECKING:
    import torch

CPU_BATCH = 16
"""Rows a batch on a CPU: a row costs as much as with 64 (ViT-B/32: 0.10 s an image on one core), padding less."""
GPU_BATCH = 512
"""On a GPU to begin with, halved where the memory is too small; 16 GB hold it for ViT-L/14 (reckoned, not measured)."""
LEAST_ROWS = 4
"""A product of fewer rows takes another way through a CPU's library, with other last bits (ViT-B/32 on AVX-512)."""


class Clip:
    """A model with its preprocessing and tokenizer; ``put_images`` and ``put_texts`` are the work, in any order."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        device: "torch.device",
        dtype: "torch.dtype",
        batch_size: int | None = None,
        pictures: Preprocess | None = None,
    ) -> None:
        """Take a model in evaluation mode that is on the device."""
        self.model, self.device, self.dtype = model, device, dtype
        self.batch_size = batch_size or (GPU_BATCH if device.type == "cuda" else CPU_BATCH)
        self.wanted = pictures or Preprocess.of(model)
        self.tokens = Tokens(tokenizer)
        self._towers = TextTowers(model, self.tokens.context)
        self._images: dict[bool, Batches] = {}
        self._texts: dict[int, Batches] = {}

    @staticmethod
    def load(name: str, pretrained: str | None, precision: str, device: str, batch_size: int | None = None) -> "Clip":
        """Load by open_clip's name (``local-dir:`` and ``hf-hub:`` too) and tag; raises what open_clip raises."""
        import open_clip
        import torch

        chosen = device_of(device)
        exact = {"cpu": "fp32", "cuda": "fp16"}[chosen.type] if precision == "auto" else precision
        model = open_clip.create_model(
            name, pretrained=pretrained, device=chosen, precision=exact, require_pretrained=True
        )
        if exact != "fp32" and hasattr(model, "text_decoder"):  # CoCa: open_clip leaves its pooling in float32
            if precision != "auto":
                raise UserError(f"CoCa models compute in float32 only, not in {exact}; write precision: fp32")
            model, exact = model.float(), "fp32"
        dtype = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[exact]
        return Clip(model.eval(), open_clip.get_tokenizer(name), chosen, dtype, batch_size)

    @property
    def is_sigmoid(self) -> bool:
        """Whether its logits have a bias."""
        return getattr(self.model, "logit_bias", None) is not None

    def logits(self, cosines: NDArray[np.float32]) -> NDArray[np.float32]:
        """cos · exp(logit_scale) + logit_bias, float32[n]."""
        scale = self.model.logit_scale.detach().float().exp().reshape(-1)[0].item()
        bias = self.model.logit_bias.detach().float().reshape(-1)[0].item() if self.is_sigmoid else 0.0
        return np.asarray(cosines * np.float32(scale) + np.float32(bias), np.float32)

    def put_images(self, rows: Pixels, to: Rows, at: NDArray[np.int64], mirrored: bool = False) -> None:
        """Take uint8[n, 3, height, width]; the embeddings arrive at ``to`` by the next ``flush``."""
        if mirrored not in self._images:
            encode = self._encode_mirrored if mirrored else self._encode_images
            self._images[mirrored] = self._batches(encode, (3, *self.wanted.size), np.uint8, self.batch_size)
        self._images[mirrored].put(rows, to, at)

    def put_texts(self, ids: Ids, to: Rows, at: NDArray[np.int64]) -> None:
        """Take the tokens int64[n, context]; the embeddings arrive at ``to`` by the next ``flush``."""
        needed = self._towers.needed(ids)
        for length in np.unique(needed).tolist():
            if length not in self._texts:
                size = self._texts_at_once(length)
                self._texts[length] = self._batches(self._text_encoder(length), (length,), np.int64, size)
            chosen = needed == length
            self._texts[length].put(ids[chosen, :length], to, at[chosen])

    def flush(self, images: bool = True, texts: bool = True) -> None:
        """Everything of these sides that was put has arrived then."""
        for batches in (*self._images.values(),) * images + (*self._texts.values(),) * texts:
            batches.flush()

    def reset(self) -> None:
        """Forget what a caller put who did not come back."""
        for batches in (*self._images.values(), *self._texts.values()):
            batches.reset()

    def images(self, rows: Pixels) -> NDArray[np.float32]:
        """float32[n, d], normalised, of uint8[n, 3, height, width] as ``wanted`` makes them."""
        to = Rows(len(rows))
        self.put_images(rows, to, np.arange(len(rows)))
        self.flush()
        return np.zeros((0, 0), np.float32) if to.values is None else to.values

    def texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """float32[n, d], normalised; the bits of a text do not depend on the others."""
        to = Rows(len(texts))
        self.put_texts(self.tokens.ids(texts), to, np.arange(len(texts)))
        self.flush()
        return np.zeros((0, 0), np.float32) if to.values is None else to.values

    def _texts_at_once(self, length: int) -> int:
        """Rows a batch of texts: about as many tokens whatever the length, so that rare long texts wait less."""
        share = self.batch_size * self._towers.lengths[0] // length
        return min(self.batch_size, max(LEAST_ROWS, 1 << share.bit_length() >> 1))

    def _batches(self, encode: Any, shape: tuple[int, ...], kind: Any, size: int) -> Batches:
        import torch

        return Batches(encode, shape, torch.uint8 if kind is np.uint8 else torch.int64, size, self.device)

    def _encode_images(self, pixels: "torch.Tensor") -> "torch.Tensor":
        found = self.model.encode_image(normalised(pixels, self.wanted, self.dtype), normalize=False)
        return _unit(found)

    def _encode_mirrored(self, pixels: "torch.Tensor") -> "torch.Tensor":
        return self._encode_images(pixels.flip(-1))

    def _text_encoder(self, length: int) -> Any:
        tower = self._towers.tower(length)
        return lambda ids: _unit(tower(ids))


def _unit(found: "torch.Tensor") -> "torch.Tensor":
    """Rows of length one, in float32 whatever the model computed in."""
    from torch.nn.functional import normalize

    return normalize(found.float(), dim=-1)
