"""An open_clip model that scores image bytes against texts, batch by padded batch."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image

from pairsieve.filters._images import MAX_PIXELS
from pairsieve.filters._products import device_of

if TYPE_CHECKING:
    import torch

MOST_CHARACTERS = 10_000
"""So much of a caption is tokenized: far more than 77 tokens hold, and the tokenizer's time is quadratic in a word."""
CPU_BATCH = 16
"""Pairs a forward pass on a CPU: as fast a pair as 64 (ViT-B/32: 0.10 and 0.10 s an image), with less padding."""
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "AVIF", "BMP", "TIFF")
"""Pillow knows others that run programs or have no use here."""


@dataclass(frozen=True)
class Clip:
    """A loaded model with its transform and tokenizer; ``score`` is its one job."""

    model: Any
    side: int
    transform: Callable[[Image.Image], "torch.Tensor"]
    tokenize: Callable[[list[str]], "torch.Tensor"]
    device: "torch.device"
    dtype: "torch.dtype"
    batch_size: int

    @staticmethod
    def load(name: str, pretrained: str | None, precision: str, device: str, batch_size: int | None = None) -> "Clip":
        """Load by open_clip's name (``local-dir:`` and ``hf-hub:`` too) and tag; raises what open_clip raises."""
        import open_clip
        import torch

        chosen = device_of(device)
        exact = {"cpu": "fp32", "cuda": "fp16"}[chosen.type] if precision == "auto" else precision
        model, transform = open_clip.create_model_from_pretrained(
            name, pretrained=pretrained, device=chosen, precision=exact
        )
        dtype = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[exact]
        size = batch_size or CPU_BATCH
        return Clip(model.eval(), _side(model), transform, open_clip.get_tokenizer(name), chosen, dtype, size)

    def texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """float32[n, d] normalised embeddings, a padded batch at a time; in the device's order of additions."""
        import torch
        from torch.nn.functional import normalize

        found = []
        with _one_thread(), torch.inference_mode():
            for start in range(0, len(texts), self.batch_size):
                part = [text[:MOST_CHARACTERS] for text in texts[start : start + self.batch_size]]
                tokens = self.tokenize(part + [""] * (self.batch_size - len(part))).to(self.device)
                rows = normalize(self.model.encode_text(tokens).float(), dim=-1)
                found.append(np.asarray(rows[: len(part)].cpu().numpy(), np.float32))
        return np.concatenate(found) if found else np.zeros((0, 0), np.float32)

    def score(self, images: pa.Array, texts: Sequence[str | None]) -> tuple[NDArray[np.float32], list[str | None]]:
        """float32[n] cosines, and for each pair why it has none; at most ``batch_size`` pairs."""
        pixels, errors = self._pixels(images)
        errors = [e or (None if t and t.strip() else "no_text") for e, t in zip(errors, texts, strict=True)]
        if all(errors):
            return np.full(len(errors), np.nan, np.float32), errors
        with _one_thread():
            return self._cosines(pixels, [(t or "")[:MOST_CHARACTERS] for t in texts])[: len(errors)], errors

    def _pixels(self, images: pa.Array) -> tuple["torch.Tensor", list[str | None]]:
        """The padded batch of transformed images; a broken one is zeros and an error code."""
        import torch

        decoded = [_decode(image.as_py(), self.transform, self.side) for image in images]
        blank = next((d for d in decoded if not isinstance(d, str)), torch.zeros(1))
        tensors = [torch.zeros_like(blank) if isinstance(d, str) else d for d in decoded]
        tensors += [torch.zeros_like(blank)] * (self.batch_size - len(tensors))
        return torch.stack(tensors), [d if isinstance(d, str) else None for d in decoded]

    def _cosines(self, pixels: "torch.Tensor", texts: list[str]) -> NDArray[np.float32]:
        """Cosines of a padded batch; projections are normalised and multiplied in float32."""
        import torch
        from torch.nn.functional import normalize

        tokens = self.tokenize(texts + [""] * (self.batch_size - len(texts))).to(self.device)
        with torch.inference_mode():
            image = normalize(self.model.encode_image(pixels.to(self.device, self.dtype)).float(), dim=-1)
            text = normalize(self.model.encode_text(tokens).float(), dim=-1)
            return np.asarray((image * text).sum(-1).cpu().numpy(), np.float32)


def _side(model: Any) -> int:
    """Pixels of the shorter side that images are resized to."""
    size = model.visual.image_size
    return int(size if isinstance(size, int) else max(size))


@contextmanager
def _one_thread() -> Iterator[None]:
    """A fixed number of threads, because the order of additions in a matrix product depends on it.

    The process's own number comes back afterwards: the host may train with it.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _decode(data: bytes | None, transform: Callable[[Image.Image], "torch.Tensor"], side: int) -> "torch.Tensor | str":
    """The transformed image, or why there is none."""
    if data is None:
        return "no_image"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of odd but decodable files
            with Image.open(BytesIO(data), formats=FORMATS) as image:
                short, long = sorted(image.size)
                if max(short * long, long * side * side // max(1, short)) > MAX_PIXELS:
                    return "too_many_pixels"
                return transform(image)
    except Image.DecompressionBombError:
        return "too_many_pixels"
    except Exception:  # decoders raise whatever a hostile file leads them to
        return "broken_image"
