"""Image-to-text models without a path of their own: transformers' ``generate`` of GIT, ViT-GPT2, InstructBLIP and such.

A model's own processor makes its inputs, or an image processor and a tokenizer where it has none; its own ``generate``
writes all captions of an image, from one encoding.  Draws are made here, by numbers that the caller gives: ``generate``
is left one token to draw.  Of its ``generation_config`` only the tokens that begin, fill and end a text are taken.
Imported by what opens a model, never before.
"""

from collections.abc import Sequence
from importlib import import_module
from io import BytesIO
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from pairsieve.filters._caption_source import CaptionSource
from pairsieve.filters._clip_batches import repeatable
from pairsieve.filters._decode import Decoding, drawn
from pairsieve.filters._images import MAX_PIXELS
from pairsieve.filters._preprocess import FORMATS
from pairsieve.filters._transformers_models import TransformersLibrary, checked, most_pixels, shortest_edge
from pairsieve.schemas.errors import UserError

_TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")
_PROMPTS = ("input_ids", "decoder_input_ids")
_WRITERS = ("language_model", "text_model")
"""Where the part that writes is kept by models whose ``generate`` calls another's."""
UNUSED = ("encoder.pooler.",)
"""A vision tower's pooler, which TrOCR's checkpoints lack."""
UNBOUND = 1 << 20
"""Places of a decoder of relative positions."""


class Generating:
    """``AutoModelForImageTextToText`` with what makes its inputs, and a prompt."""

    def __init__(self, model: Any, maker: "Maker") -> None:
        """Take a model in evaluation mode that is on its device; raises ``UserError`` or what a trial raises."""
        self.device, self.dtype = model.device, model.dtype
        self._model, self._maker = model, maker
        writer = next((one for one in (getattr(model, name, None) for name in _WRITERS) if one is not None), model)
        self.ends = _only_tokens(model, writer)
        text = writer.config.get_text_config(decoder=True)
        self.most_tokens = int(getattr(text, "max_position_embeddings", None) or UNBOUND)
        if model.config.model_type == "git":
            _encoded_once(model)
        self.prompt_tokens = 0
        with repeatable():  # what the processor makes, and a prompt, must fit the model
            sample = self._maker(Image.new("RGB", (64, 64)))
            longest = max((sample[name].shape[1] for name in _PROMPTS if name in sample), default=0)
            if longest >= self.most_tokens:
                raise UserError(f"prompt: its {longest} tokens leave no place for a caption in {self.most_tokens}")
            self.prompt_tokens = self._write(sample, Decoding("greedy", 1, 1), np.zeros((1, 1)))[1]

    @staticmethod
    def load(source: CaptionSource, prompt: str, dtype: torch.dtype, device: torch.device) -> "Generating":
        """Load by name; raises what transformers raises."""
        maker = Maker.load(source, prompt)
        model = TransformersLibrary(source).model("AutoModelForImageTextToText", dtype, device, UNUSED)
        checked(maker.tokenizer, int(model.config.get_text_config(decoder=True).vocab_size))
        return Generating(model, maker)

    def prepare(self, data: bytes) -> Any:
        """The model's inputs for an image; raises what decoders and processors raise."""
        with Image.open(BytesIO(data), formats=FORMATS) as image:
            if most_pixels(image.width, image.height, self._maker.side) > MAX_PIXELS:
                raise Image.DecompressionBombError
            return self._maker(image.convert("RGB"))

    def write(self, inputs: Any, decoding: Decoding, numbers: NDArray[np.float64]) -> list[list[int]]:
        """The new tokens of each caption, before its end; ``numbers`` [captions, most] are what draws are made by."""
        return self._write(inputs, decoding, numbers)[0]

    def _write(self, inputs: Any, decoding: Decoding, numbers: NDArray[np.float64]) -> tuple[list[list[int]], int]:
        """New tokens, and how many were there before."""
        hand = _Hand(decoding, torch.from_numpy(numbers).to(self.device), self.ends)
        given = {name: self._moved(value) for name, value in inputs.items()}
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices):  # a draw from one token moves the generator all the same
            found = self._model.generate(**given, **_settings(decoding), logits_processor=[hand])
        return [_ended(row, self.ends) for row in found[:, hand.start :].tolist()], hand.start

    def text(self, tokens: Sequence[int]) -> str:
        """Without special tokens."""
        return self._maker.text(tokens)

    def _moved(self, value: torch.Tensor) -> torch.Tensor:
        moved = value.to(self.device)
        return moved.to(self.dtype) if moved.is_floating_point() else moved


class Maker:
    """A model's inputs of a picture with the prompt, and the text of its tokens."""

    def __init__(self, kind: str, processor: Any, tokenizer: Any, prompt: str) -> None:
        """Of a type of model: ``processor`` makes pictures, and for most of them the prompt's tokens too."""
        self._kind, self._processor, self.tokenizer, self._prompt = kind, processor, tokenizer, prompt
        self.side = shortest_edge(processor)

    @staticmethod
    def load(source: CaptionSource, prompt: str) -> "Maker":
        """Load by name; raises what transformers raises."""
        kind = source.config()["model_type"]
        if kind != "vision-encoder-decoder":
            processor = TransformersLibrary(source).processor()
            return Maker(kind, processor, processor.tokenizer, prompt)
        hf: Any = import_module("transformers")
        name, where = source.place()
        pictures = hf.AutoImageProcessor.from_pretrained(name, trust_remote_code=False, backend="pil", **where)
        return Maker(kind, pictures, hf.AutoTokenizer.from_pretrained(name, trust_remote_code=False, **where), prompt)

    def __call__(self, picture: Image.Image) -> dict[str, torch.Tensor]:
        """Tensors of one row."""
        if self._kind == "vision-encoder-decoder":
            return dict(self._processor(images=picture, return_tensors="pt"))
        if self._kind == "git":  # its processor would end the prompt, and so the caption
            return dict(self._processor(images=picture, return_tensors="pt")) | self._begun()
        if self._kind == "pix2struct":
            return dict(self._processor(images=picture, text=self._prompt or None, return_tensors="pt"))
        return dict(self._processor(images=picture, text=self._prompt, return_tensors="pt"))

    def text(self, tokens: Sequence[int]) -> str:
        """Without special tokens; Kosmos-2's without the places of what it names."""
        found: str = self.tokenizer.decode(list(tokens), skip_special_tokens=True)
        return str(self._processor.post_process_generation(found)[0]) if self._kind == "kosmos-2" else found

    def _begun(self) -> dict[str, torch.Tensor]:
        """A prompt between the token that begins a text and the caption."""
        if not self._prompt:
            return {}
        ids = self.tokenizer(self._prompt, add_special_tokens=False)["input_ids"]
        return {"input_ids": torch.tensor([[self.tokenizer.cls_token_id, *ids]])}


class _Hand:
    """Among ``generate``'s processors, after the penalty and the least length: sees the prompt, and draws."""

    def __init__(self, decoding: Decoding, numbers: torch.Tensor, ends: Sequence[int]) -> None:
        self._decoding, self._numbers, self._ends = decoding, numbers, list(ends)
        self.start = -1

    def __call__(self, ids: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """Logits with all but the token drawn at minus infinity; rows of no numbers end."""
        if self.start < 0:
            self.start = ids.shape[1]
        is_none = logits.isnan().any(1)
        logits = logits.masked_fill(is_none[:, None], 0.0)
        chosen = torch.full((len(ids),), self._ends[0], device=ids.device)
        if self._decoding.kind == "nucleus":
            at = drawn(logits.float(), self._numbers[:, ids.shape[1] - self.start], self._decoding)
            chosen, is_none = torch.where(is_none, chosen, at), torch.ones_like(is_none)
        only = torch.full_like(logits, float("-inf")).scatter(1, chosen[:, None], 0.0)
        return torch.where(is_none[:, None], only, logits)


def _settings(decoding: Decoding) -> dict[str, Any]:
    """What ``generate`` is told; temperature, ``top_p`` and ``top_k`` are ``_Hand``'s."""
    is_beam = decoding.kind == "beam"
    return {
        "do_sample": decoding.kind == "nucleus",
        "top_k": 0,
        "num_beams": decoding.beams if is_beam else 1,
        "num_return_sequences": decoding.count,
        "max_new_tokens": decoding.most,
        "min_new_tokens": decoding.least,
        "repetition_penalty": decoding.penalty,
        "length_penalty": decoding.length_penalty,
    }


def _only_tokens(model: Any, writer: Any) -> list[int]:
    """Leave nothing in the generation configurations but tokens; the tokens that end a text.

    Raises ``UserError`` where there is none.
    """
    hf: Any = import_module("transformers")
    for part in model.modules():
        kept = getattr(part, "generation_config", None)
        if kept is not None:
            part.generation_config = hf.GenerationConfig(**{name: getattr(kept, name, None) for name in _TOKENS})
    own, text = writer.generation_config, writer.config.get_text_config(decoder=True)
    found = own.eos_token_id if own.eos_token_id is not None else text.eos_token_id
    if found is None:
        raise UserError("it names no token that ends a text (eos_token_id)")
    ends = sorted({int(one) for one in found} if isinstance(found, list) else {int(found)})
    own.eos_token_id = ends
    own.pad_token_id = ends[0] if own.pad_token_id is None else own.pad_token_id
    return ends


def _encoded_once(model: Any) -> None:
    """Have GIT encode the picture of its rows once: ``generate`` gives it as many times as there are captions."""
    encoder = model.git.image_encoder
    forward = encoder.forward

    def once(pixel_values: torch.Tensor, *args: Any, **chosen: Any) -> Any:
        found = forward(pixel_values[:1], *args, **chosen)
        state = found.last_hidden_state
        found.last_hidden_state = state.expand(len(pixel_values), *state.shape[1:])
        return found

    encoder.forward = once


def _ended(row: Sequence[int], ends: Sequence[int]) -> list[int]:
    """The tokens before the end."""
    return list(row[: next((i for i, token in enumerate(row) if token in ends), len(row))])
