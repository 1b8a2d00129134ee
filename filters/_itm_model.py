"""A matching model of transformers, BLIP or BLIP-2, with its transform and tokenizer; no code of its own is run."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pairsieve.filters._itm_texts import RULES, ItmTokens
from pairsieve.filters._pictures_shared import Tower
from pairsieve.filters._preprocess import Preprocess, normalised
from pairsieve.filters._products import device_of
from pairsieve.filters._transformers_source import TransformersSource
from pairsieve.schemas.errors import UserError

if TYPE_CHECKING:
    import torch

    from pairsieve.filters._itm_layers import Matching

_CLASSES = {"blip": "BlipForImageTextRetrieval", "blip-2": "Blip2ForImageTextRetrieval"}


class ItmSource(TransformersSource):
    """A matching model by name."""

    def check(self) -> None:
        super().check()
        _ = self.kind

    @property
    def kind(self) -> str:
        """``blip`` or ``blip-2``; raises ``ValueError`` for another, and as ``config``."""
        return kind_of(self.model, self.config())


def kind_of(model: str, config: Mapping[str, Any]) -> str:
    """The kind of a configuration."""
    kind, heads = config["model_type"], config.get("architectures") or []
    if kind not in _CLASSES:
        raise ValueError(f"model: {model!r} is of type {kind!r}; matching heads are of blip and blip-2")
    if heads and _CLASSES[kind] not in heads:
        raise ValueError(f"model: {model!r} is {heads[0]}, which has no matching head; give {_CLASSES[kind]}")
    return str(kind)


@dataclass(frozen=True)
class ItmModel:
    """What a matching model computes: pictures to ``tower``, its output and tokens to ``head``."""

    head: "Matching"
    tokens: ItmTokens
    wanted: Preprocess
    tower: Tower
    key: tuple[object, ...]
    device: "torch.device"


def load(source: ItmSource, precision: str, device: str, clean: bool) -> ItmModel:
    """The loaded model; raises ``UserError`` with one line for whatever goes wrong."""
    chosen = device_of(device)
    exact = {"cpu": "fp32", "cuda": "fp16"}[chosen.type] if precision == "auto" else precision
    return source.loaded("itm", lambda: _load(source, exact, chosen, clean))


def _load(source: ItmSource, precision: str, device: "torch.device", clean: bool) -> ItmModel:
    import torch
    import transformers

    from pairsieve.filters._itm_layers import Blip2Matching, BlipMatching
    from pairsieve.filters._transformers_models import TransformersLibrary, checked, tower_kind

    known: Any = transformers
    kind, dtype = source.kind, {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[precision]
    model = TransformersLibrary(source).model(_CLASSES[kind], dtype, device)
    place, where = source.place()
    wanted = Preprocess.of_blip(known.BlipImageProcessorPil.from_pretrained(place, **where))
    _check_size(model.config.vision_config.image_size, wanted)
    text = model.config.text_config if kind == "blip" else model.config.qformer_config
    tokenizer = checked(known.AutoTokenizer.from_pretrained(place, trust_remote_code=False, **where), text.vocab_size)
    tokens = ItmTokens(tokenizer, RULES[kind], text.vocab_size, text.max_position_embeddings, clean)
    head = BlipMatching(model, tokens.enc) if kind == "blip" else Blip2Matching(model)
    vision = model.vision_model
    return ItmModel(head, tokens, wanted, _tower(vision, wanted, dtype), tower_kind(vision, wanted, dtype), device)


def _tower(vision: Any, wanted: Preprocess, dtype: "torch.dtype") -> Tower:
    def run(pixels: "torch.Tensor") -> "torch.Tensor":
        found: torch.Tensor = vision(pixel_values=normalised(pixels, wanted, dtype)).last_hidden_state
        return found

    return run


def _check_size(trained: int, wanted: Preprocess) -> None:
    if wanted.size != (trained, trained):
        high, wide = wanted.size
        raise UserError(f"its transform makes pictures of {wide}×{high}, and its tower takes {trained}×{trained}")
