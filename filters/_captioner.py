"""A loaded captioner, whatever its kind: pictures in, prompts begun, tokens out, texts back.

``tower`` is the part that only sees the picture, which steps with the same tower may share (``_pictures_shared``);
``begin`` runs the prompt once for all captions of an image; ``step`` is one token of every caption.  Everything runs
in batches of fixed shapes (see ``_decode_slots``).
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from pairsieve.filters._caption_source import CaptionSource, Kind
from pairsieve.filters._decode_slots import Writer
from pairsieve.filters._decode_tree import Begun
from pairsieve.filters._preprocess import Preprocess
from pairsieve.filters._products import device_of
from pairsieve.schemas.errors import UserError

if TYPE_CHECKING:
    import torch

    from pairsieve.filters._generating import Generating

T = TypeVar("T")


class Captioner(Writer, Protocol):
    """What ``caption`` needs of a model."""

    device: "torch.device"
    wanted: Preprocess | None
    """How an image becomes a picture; none where the model's own processor makes it (``prepare``)."""
    most_tokens: int
    """Places of the decoder: prompt and captions must fit."""
    prompt_tokens: int
    """Tokens of the prompt that a length may count."""

    def prepare(self, data: bytes) -> Any:
        """An image's inputs where ``wanted`` is None, or why there are none; in threads."""

    def tower(self, pictures: "torch.Tensor") -> "torch.Tensor":
        """[n, tokens, width] of uint8[n, 3, height, width] on the device."""

    def tower_kind(self) -> tuple[object, ...]:
        """What the tower's output depends on besides the picture."""

    def begin(self, encoded: Sequence[Any]) -> list[Begun]:
        """The images after their prompts, of what ``tower`` gave each, or ``prepare``."""

    def text(self, tokens: Sequence[int]) -> str:
        """The caption that tokens spell, as the model writes it."""


def load(source: CaptionSource, prompt: str, precision: str, device: str, where: str) -> Captioner:
    """Load a captioner; raises ``UserError`` with one line for whatever goes wrong."""
    kind = source.kind
    return _placed(source, precision, device, where, lambda dtype, at: _load(kind, source, prompt, dtype, at))


def load_other(source: CaptionSource, prompt: str, precision: str, device: str, where: str) -> "Generating":
    """Load a model of kind ``other``; raises as ``load``."""
    from pairsieve.filters._generating import Generating

    return _placed(source, precision, device, where, lambda dtype, at: Generating.load(source, prompt, dtype, at))


def _placed(
    source: CaptionSource,
    precision: str,
    device: str,
    where: str,
    load: "Callable[[torch.dtype, torch.device], T]",
) -> T:
    """What ``load`` gives with the type and device that are meant."""
    chosen = device_of(device)
    dtype = _dtype(precision, chosen.type, source.kind)
    try:
        return source.loaded(where, lambda: load(dtype, chosen))
    except UserError as error:
        said = str(error)
        raise UserError(said if said.startswith(where) else f"{where}: model {source.model!r}: {said}") from error


def _load(kind: Kind, source: CaptionSource, prompt: str, dtype: "torch.dtype", device: "torch.device") -> Captioner:
    """Import what reads the kind, and load."""
    if kind == "coca":
        from pairsieve.filters._coca import CocaCaptioner

        return CocaCaptioner.load(source, prompt, dtype, device)
    if kind == "blip":
        from pairsieve.filters._blip import BlipCaptioner

        return BlipCaptioner.load(source, prompt, dtype, device)
    if kind == "blip-2":
        from pairsieve.filters._blip2 import Blip2Captioner

        return Blip2Captioner.load(source, prompt, dtype, device)
    from pairsieve.filters._vlm import ChatCaptioner

    return ChatCaptioner.load(source, prompt, dtype, device)


def _dtype(precision: str, device: str, kind: str) -> "torch.dtype":
    import torch

    if kind == "coca":  # open_clip leaves parts of it in float32
        if precision not in ("auto", "fp32"):
            raise UserError(f"CoCa models compute in float32 only, not in {precision}; write precision: fp32")
        return torch.float32
    usual = "fp32" if device == "cpu" else "bf16" if kind in ("chat", "other") else "fp16"  # T5 overflows in float16
    name = usual if precision == "auto" else precision
    return {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[name]


def additive(mask: "torch.Tensor", dtype: "torch.dtype") -> "torch.Tensor":
    """A mask that is added to attention scores, of one that says what is seen."""
    import torch

    least = torch.finfo(dtype).min
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, least)
