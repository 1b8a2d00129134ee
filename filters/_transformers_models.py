"""Loading models of transformers: safetensors only, no code of a repository.

Imported by what opens a model, never before.
"""

from importlib import import_module
from typing import Any

import torch

from pairsieve.filters._pictures_shared import weights_digest
from pairsieve.filters._preprocess import Preprocess
from pairsieve.filters._transformers_source import TransformersSource
from pairsieve.schemas.errors import UserError


class TransformersLibrary:
    """What a source names, loaded by transformers."""

    def __init__(self, source: TransformersSource) -> None:
        """Nothing is loaded yet."""
        self._hf: Any = import_module("transformers")
        self._name, self._where = source.place()

    def model(self, kind: str, dtype: torch.dtype, device: torch.device, unused: tuple[str, ...] = ()) -> Any:
        """The model in evaluation mode on the device; raises ``UserError`` where weights are missing.

        Those whose names begin as one of ``unused`` may be: what is wanted does not come by them.
        """
        loader = getattr(self._hf, kind)
        model, notes = loader.from_pretrained(
            self._name,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            **self._where,
        )
        if missing := sorted(key for key in notes.get("missing_keys") or () if not key.startswith(unused)):
            raise UserError(f"its weights lack {len(missing)} tensors, such as {missing[0]}")
        if wrong := sorted(notes.get("mismatched_keys") or ()):
            raise UserError(f"its weights have other shapes than its configuration says, such as {wrong[0]}")
        return model.to(device).eval()

    def processor(self, by_pillow: bool = True) -> Any:
        """Its processor, with images by Pillow, or as transformers makes them (processors of videos know no other)."""
        chosen = {"backend": "pil"} if by_pillow else {}
        return self._hf.AutoProcessor.from_pretrained(self._name, trust_remote_code=False, **chosen, **self._where)


def checked(tokenizer: Any, words: int) -> Any:
    """A tokenizer; raises ``UserError`` where it knows less than half of the model's words.

    Without its files transformers makes one of a handful of tokens, and says nothing.
    """
    if 2 * len(tokenizer) < words:
        what = f"its tokenizer knows {len(tokenizer):,} of {words:,} tokens"
        raise UserError(f"{what}; add the tokenizer's files (tokenizer.json, or vocab.txt) to the model's")
    return tokenizer


def shortest_edge(processor: Any) -> int:
    """The side that a processor resizes the shorter side of pictures to before it crops them; 0 where it does not.

    With a longest edge beside it both are bounds, of sides or (Qwen-VL) of pixels.
    """
    size = dict(getattr(getattr(processor, "image_processor", processor), "size", None) or {})
    return 0 if size.get("longest_edge") else int(size.get("shortest_edge") or 0)


def most_pixels(width: int, height: int, side: int) -> int:
    """Of an image of that size, or of what it is resized to (``shortest_edge``): a strip may become huge."""
    short, long = sorted((width, height))
    return max(short * long, long * side**2 // max(1, short))


def tower_kind(tower: Any, wanted: Preprocess, dtype: torch.dtype) -> tuple[object, ...]:
    """All that a vision tower's output depends on besides the picture."""
    return weights_digest(tower, tower.config.to_dict()), wanted, str(dtype)


def square(wanted: Preprocess, side: int) -> Preprocess:
    """The pictures; raises ``UserError`` where they are not the square that the tower takes."""
    if wanted.size != (side, side):
        raise UserError(f"its pictures are {wanted.size[0]} × {wanted.size[1]}, but its tower takes {side} × {side}")
    return wanted


def ends_of(model: Any) -> list[int]:
    """Tokens that end a text, as the model's own ``generate`` takes them; raises ``UserError`` where it has none."""
    found = model.generation_config.eos_token_id
    if found is None:
        found = model.config.get_text_config().eos_token_id
    if found is None:
        raise UserError("it names no token that ends a text (eos_token_id)")
    return sorted({int(one) for one in found} if isinstance(found, list) else {int(found)})
