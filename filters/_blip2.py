"""BLIP-2's captioner in transformers' format, with a language model that only decodes (OPT).

The Q-Former turns an image into a few tokens (32) that stand before the prompt; the captions of an image share their
places and the prompt's, where transformers holds them once for each caption.  Imported by what opens a model.
"""

from collections.abc import Sequence
from typing import Any

import torch

from pairsieve.filters._caption_source import CaptionSource
from pairsieve.filters._captioner import additive
from pairsieve.filters._decode_cache import begun, cache_of
from pairsieve.filters._decode_tree import Begun, Tree
from pairsieve.filters._preprocess import Preprocess, normalised
from pairsieve.filters._transformers_models import TransformersLibrary, checked, ends_of, square, tower_kind
from pairsieve.schemas.errors import UserError


class Blip2Captioner:
    """``Blip2ForConditionalGeneration`` with its tokenizer and prompt."""

    prompt: Sequence[int]
    ends: Sequence[int]
    barred: Sequence[int]
    wanted: Preprocess | None

    def __init__(self, model: Any, tokenizer: Any, wanted: Preprocess, prompt: str) -> None:
        """Take a model in evaluation mode that is on its device."""
        self.device, self.dtype = model.device, model.dtype
        self.wanted = wanted
        self._model, self._tokenizer, self._wanted = model, tokenizer, wanted
        image = [model.config.image_token_id] * model.config.num_query_tokens
        self._ids = torch.tensor([[*image, *tokenizer(prompt).input_ids]], device=self.device)
        self.prompt = sorted(set(self._ids[0].tolist()))
        self.prompt_tokens = self._ids.shape[1]
        self.ends = self.barred = ends_of(model.language_model)
        self.most_tokens = int(model.language_model.config.max_position_embeddings)

    @staticmethod
    def load(source: CaptionSource, prompt: str, dtype: torch.dtype, device: torch.device) -> "Blip2Captioner":
        """Load by name; raises what transformers raises."""
        library = TransformersLibrary(source)
        model = library.model("Blip2ForConditionalGeneration", dtype, device)
        if not model.config.use_decoder_only_language_model:
            raise UserError("its language model has an encoder; only BLIP-2 with a decoder (OPT) is read")
        if model.config.image_token_id is None:
            raise UserError("its config.json names no image_token_index; write it again with transformers 5")
        processor = library.processor()
        wanted = square(Preprocess.of_blip(processor.image_processor), model.config.vision_config.image_size)
        tokenizer = checked(processor.tokenizer, model.config.text_config.vocab_size)
        return Blip2Captioner(model, tokenizer, wanted, prompt)

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
        """Run the Q-Former and the prompt for each image."""
        model, image = self._model, torch.stack(list(encoded))
        queries = model.qformer(
            query_embeds=model.query_tokens.expand(len(image), -1, -1),
            encoder_hidden_states=image,
            encoder_attention_mask=torch.ones(image.shape[:2], dtype=torch.long, device=self.device),
        ).last_hidden_state
        tokens = model.language_projection(queries.to(image.dtype))
        embedded = model.get_input_embeddings()(self._ids).repeat(len(image), 1, 1)
        embedded[:, : tokens.shape[1]] = tokens
        found = model.language_model(inputs_embeds=embedded, use_cache=True, logits_to_keep=1)
        return [begun(found.past_key_values, row, found.logits[:, -1]) for row in range(len(image))]

    def step(self, ids: torch.Tensor, positions: torch.Tensor, mask: torch.Tensor, tree: Tree) -> torch.Tensor:
        """The captions of an image are positions of one sequence, so that they share its prompt."""
        found: torch.Tensor = self._model.language_model(
            input_ids=ids,
            position_ids=positions,
            attention_mask=additive(mask, self.dtype),
            past_key_values=cache_of(tree),
            use_cache=True,
        ).logits
        return found

    def text(self, tokens: Sequence[int]) -> str:
        """Without special tokens."""
        found: str = self._tokenizer.decode(list(tokens), skip_special_tokens=True)
        return found
