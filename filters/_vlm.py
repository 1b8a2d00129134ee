"""Vision-language models with a chat template, as LLaVA and Qwen-VL: an image, a request, and an answer that captions.

The prompt is the model's own template around the picture and the request; its processor makes the inputs, one image at
a time, because models differ in how they cut and pack pictures.  Its keys are then held once for all captions of the
image, in slots with room for the next power of two places: images of like length decode together, and what a caption
is does not depend on who is there.  Imported by what opens a model, never before.
"""

import threading
from collections.abc import Sequence
from io import BytesIO
from typing import Any

import torch
from PIL import Image

from pairsieve.filters._caption_source import CaptionSource
from pairsieve.filters._captioner import additive
from pairsieve.filters._clip_batches import repeatable
from pairsieve.filters._decode_cache import begun as begun_of
from pairsieve.filters._decode_cache import cache_of
from pairsieve.filters._decode_tree import Begun, Tree
from pairsieve.filters._images import MAX_PIXELS
from pairsieve.filters._preprocess import FORMATS, Preprocess
from pairsieve.filters._transformers_models import TransformersLibrary, checked, ends_of, most_pixels, shortest_edge
from pairsieve.schemas.errors import UserError

LEAST_ROOM = 64
"""Places of a prompt's slot at least; more by powers of two."""


FAR, FAR_HALF = 0.001, 0.1
"""Between logits, as a share of their spread, in float32 and in types of half its size."""


class ChatCaptioner:
    """``AutoModelForImageTextToText`` with its processor and a request."""

    prompt: Sequence[int]
    ends: Sequence[int]
    barred: Sequence[int]
    wanted: Preprocess | None

    def __init__(self, model: Any, processor: Any, request: str) -> None:
        """Take a model in evaluation mode that is on its device."""
        self.device, self.dtype = model.device, model.dtype
        self.wanted = None
        self._model, self._processor = model, processor
        self._side = shortest_edge(processor)
        self._request = request
        self._lock = threading.Lock()
        sample = self._inputs(Image.new("RGB", (64, 64)))
        self.prompt = sorted(set(sample["input_ids"][0].tolist()))
        self.prompt_tokens = int(sample["input_ids"].shape[1])
        self.ends = self.barred = ends_of(model)
        text = model.config.get_text_config()
        self.most_tokens = int(getattr(text, "max_position_embeddings", None) or 1 << 20)
        window = getattr(text, "sliding_window", None) if getattr(text, "use_sliding_window", True) else None
        self.most_tokens = min(self.most_tokens, window or self.most_tokens)
        self._try(sample)

    @staticmethod
    def load(source: CaptionSource, prompt: str, dtype: torch.dtype, device: torch.device) -> "ChatCaptioner":
        """Load by name; raises what transformers raises."""
        library = TransformersLibrary(source)
        processor = library.processor(by_pillow=False)
        if not getattr(processor, "chat_template", None):
            raise UserError("it has no chat template")
        model = library.model("AutoModelForImageTextToText", dtype, device)
        checked(processor.tokenizer, int(model.config.get_text_config().vocab_size))
        return ChatCaptioner(model, processor, prompt)

    def prepare(self, data: bytes) -> Any:
        """The model's inputs for an image; raises what decoders and processors raise."""
        with Image.open(BytesIO(data), formats=FORMATS) as image:
            if most_pixels(image.width, image.height, self._side) > MAX_PIXELS:
                raise Image.DecompressionBombError
            picture = image.convert("RGB")
        with self._lock:  # tokenizers are not for several threads
            inputs = self._inputs(picture)
        return "too_many_pixels" if inputs["input_ids"].shape[1] >= self.most_tokens else inputs

    def tower(self, pictures: torch.Tensor) -> torch.Tensor:
        """Not needed: ``begin`` takes what ``prepare`` gives."""
        raise NotImplementedError

    def tower_kind(self) -> tuple[object, ...]:
        """Shared with nobody."""
        return ()

    def begin(self, encoded: Sequence[Any]) -> list[Begun]:
        """Run the picture and the prompt, an image at a time."""
        return [self._begin(inputs) for inputs in encoded]

    def _begin(self, inputs: Any) -> Begun:
        given = {name: self._moved(value) for name, value in inputs.items()}
        found = self._model(**given, use_cache=True, logits_to_keep=1)
        places = given["input_ids"].shape[1]
        moved = getattr(getattr(self._model, "model", None), "rope_deltas", None)  # positions of a picture's patches
        position = places + (int(moved.reshape(-1)[0]) if moved is not None else 0)
        room = max(LEAST_ROOM, 1 << (places - 1).bit_length())
        return begun_of(found.past_key_values, 0, found.logits[:, -1], position, room)

    def step(self, ids: torch.Tensor, positions: torch.Tensor, mask: torch.Tensor, tree: Tree) -> torch.Tensor:
        """The captions of an image are positions of one sequence, so that they share its prompt."""
        is_of_space = getattr(getattr(self._model, "model", None), "rope_deltas", None) is not None
        found: torch.Tensor = self._model(
            input_ids=ids,
            position_ids=positions.expand(3, -1, -1) if is_of_space else positions,
            attention_mask=additive(mask, self.dtype),
            past_key_values=cache_of(tree),
            use_cache=True,
        ).logits
        return found

    def text(self, tokens: Sequence[int]) -> str:
        """Without special tokens."""
        found: str = self._processor.tokenizer.decode(list(tokens), skip_special_tokens=True)
        return found

    def _inputs(self, picture: Image.Image) -> Any:
        content = [{"type": "image", "image": picture}, {"type": "text", "text": self._request}]
        return self._processor.apply_chat_template(
            [{"role": "user", "content": content}],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        )

    def _try(self, sample: Any) -> None:
        """Refuse a model whose second token is another here than by its own ``generate``; two rows see each other not.

        Models differ in what they make of positions, masks and caches; a trial costs two short passes.
        """
        with repeatable():
            given = {name: self._moved(value) for name, value in sample.items()}
            said = {"max_new_tokens": 2, "min_new_tokens": 2, "do_sample": False, "num_beams": 1}
            want = self._model.generate(**given, **said, output_logits=True, return_dict_in_generate=True)
            first = int(want.sequences[0, -2])
            begun = self._begin(sample)
            tree = Tree.like(begun, 2, begun.room + 2)
            tree.plant(1, begun)
            ids = torch.tensor([[0, 0], [first, 0]], device=self.device)
            tree.at = torch.tensor([[begun.room, begun.room + 1]] * 2, device=self.device)
            mask = torch.eye(2, dtype=torch.bool, device=self.device).repeat(2, 1, 1)
            mask = torch.cat([torch.zeros((2, 2, begun.room), dtype=torch.bool, device=self.device), mask], 2)
            mask[1, :, : begun.places] = True
            found = self.step(ids, torch.full_like(ids, begun.position), mask[:, None], tree)[1, 0].float()
        off = _distance(begun.logits, want.logits[0][0].float()) + _distance(found, want.logits[1][0].float())
        if not off < (FAR if self.dtype == torch.float32 else FAR_HALF):
            raise UserError("it does not write as its own generate() when captions share their prompt; ask a server")

    def _moved(self, value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        moved = value.to(self.device)
        return moved.to(self.dtype) if moved.is_floating_point() else moved


def _distance(found: torch.Tensor, want: torch.Tensor) -> float:
    """How far two logits are from each other, as a share of the second's spread."""
    return float((found - want).norm() / (want - want.mean()).norm().clamp_min(1e-9))
