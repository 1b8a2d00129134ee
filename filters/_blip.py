"""BLIP's captioner in transformers' format: an image-grounded decoder that looks at the image by cross-attention.

As the published code does it: pictures squashed to the model's square by Pillow's bicubic filter, [DEC] in the place
of the prompt's first token and its last ([SEP]) left out, the caption cut off after the prompt by tokens, not by
characters, and a "##" at its beginning taken off.  Imported by what opens a model, never before.
"""

from collections.abc import Sequence
from typing import Any

import torch

from pairsieve.filters._caption_source import CaptionSource
from pairsieve.filters._captioner import additive
from pairsieve.filters._decode_cache import begun, cache_of
from pairsieve.filters._decode_tree import Begun, Tree
from pairsieve.filters._preprocess import Preprocess, normalised
from pairsieve.filters._transformers_models import TransformersLibrary, checked, square, tower_kind


class BlipCaptioner:
    """``BlipForConditionalGeneration`` with its tokenizer and prompt."""

    prompt: Sequence[int]
    ends: Sequence[int]
    barred: Sequence[int]
    wanted: Preprocess | None

    def __init__(self, model: Any, tokenizer: Any, wanted: Preprocess, prompt: str) -> None:
        """Take a model in evaluation mode that is on its device."""
        text = model.config.text_config
        self.device, self.dtype = model.device, model.dtype
        self.wanted = wanted
        self._model, self._tokenizer, self._wanted = model, tokenizer, wanted
        ids = list(tokenizer(prompt).input_ids)
        ids[0] = text.bos_token_id
        self._prompt = ids[:-1]
        self.prompt = sorted(set(self._prompt))
        self.prompt_tokens = len(self._prompt)
        self.ends, self.barred = [text.sep_token_id], [text.sep_token_id]
        self.most_tokens = int(text.max_position_embeddings)

    @staticmethod
    def load(source: CaptionSource, prompt: str, dtype: torch.dtype, device: torch.device) -> "BlipCaptioner":
        """Load by name; raises what transformers raises."""
        library = TransformersLibrary(source)
        model = library.model("BlipForConditionalGeneration", dtype, device)
        processor = library.processor()
        wanted = square(Preprocess.of_blip(processor.image_processor), model.config.vision_config.image_size)
        tokenizer = checked(processor.tokenizer, model.config.text_config.vocab_size)
        return BlipCaptioner(model, tokenizer, wanted, prompt)

    def prepare(self, data: bytes) -> Any:
        """Not needed: pictures are made as ``wanted``."""
        raise NotImplementedError

    def tower(self, pictures: torch.Tensor) -> torch.Tensor:
        """[n, patches + 1, width]."""
        found: torch.Tensor = self._model.vision_model(
            pixel_values=normalised(pictures, self._wanted, self.dtype)
        ).last_hidden_state
        return found

    def tower_kind(self) -> tuple[object, ...]:
        """The tower's weights, pictures and type."""
        return tower_kind(self._model.vision_model, self._wanted, self.dtype)

    def begin(self, encoded: Sequence[torch.Tensor]) -> list[Begun]:
        """Run the prompt for each image."""
        image = torch.stack(list(encoded))
        ids = torch.tensor([self._prompt], device=self.device).expand(len(image), -1)
        found = self._model.text_decoder(
            input_ids=ids, encoder_hidden_states=image, use_cache=True, is_decoder=True, logits_to_keep=1
        )
        return [begun(found.past_key_values, row, found.logits[:, -1]) for row in range(len(image))]

    def step(self, ids: torch.Tensor, positions: torch.Tensor, mask: torch.Tensor, tree: Tree) -> torch.Tensor:
        """The captions of an image are positions of one sequence, so that they share its cross-attention."""
        cache = cache_of(tree)
        found: torch.Tensor = self._model.text_decoder(
            input_ids=ids,
            position_ids=positions,
            attention_mask=additive(mask, self.dtype),
            encoder_hidden_states=tree.crossed[0][0],  # only that there is one: its keys are in the cache
            past_key_values=cache,
            use_cache=True,
            is_decoder=True,
        ).logits
        return found

    def text(self, tokens: Sequence[int]) -> str:
        """Without special tokens."""
        found: str = self._tokenizer.decode(list(tokens), skip_special_tokens=True)
        return found.removeprefix("##")
