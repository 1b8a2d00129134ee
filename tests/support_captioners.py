"""Captioners through their own libraries: ``generate``, and a literal reference of drawn captions."""

from collections.abc import Sequence
from functools import cache
from importlib import import_module
from io import BytesIO
from typing import Any

import numpy as np
import open_clip
import pyarrow as pa
import torch
from numpy.typing import NDArray
from PIL import Image

from pairsieve.filters._caption_source import DEFAULTS, CaptionSource
from pairsieve.filters._captioner import Captioner, load
from pairsieve.filters._clip_batches import repeatable
from pairsieve.filters._decode import Decoding
from pairsieve.filters._decode_slots import Slots
from pairsieve.filters._preprocess import pixels
from pairsieve.schemas.uid import draw_seed, fractions, item_hash, keyed_hash
from tests.support_capfilt import model

HF: Any = import_module("transformers")
REQUEST = "describe this image"


def image(seed: int, width: int = 64, height: int = 48) -> bytes:
    """A PNG of smooth colours."""
    small = np.random.default_rng(seed).integers(0, 255, (4, 4, 3), dtype=np.uint8)
    out = BytesIO()
    Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC).save(out, "PNG")
    return out.getvalue()


def images(count: int) -> list[bytes]:
    """Distinct images of several shapes."""
    return [image(seed, 40 + 30 * (seed % 4), 64) for seed in range(count)]


def uid(number: int) -> str:
    """A uid."""
    return f"{number:032x}"


def prompt_of(name: str) -> str:
    """What a model is asked in tests."""
    source = CaptionSource(model=str(model(name)))
    return REQUEST if source.kind == "chat" else DEFAULTS[source.kind].prompt


@cache
def captioner(name: str) -> Captioner:
    """Ours."""
    return load(CaptionSource(model=str(model(name))), prompt_of(name), "fp32", "cpu", "caption")


@cache
def _theirs(name: str) -> tuple[Any, Any]:
    folder = str(model(name))
    if name == "coca":
        net, transform = open_clip.create_model_from_pretrained(f"local-dir:{folder}", device="cpu")
        return net.eval(), transform
    backend = {"backend": "pil"} if name in ("blip", "blip2") else {}
    net = HF.AutoModelForImageTextToText.from_pretrained(folder, local_files_only=True)
    return net.eval(), HF.AutoProcessor.from_pretrained(folder, local_files_only=True, **backend)


def inputs(name: str, data: bytes) -> dict[str, Any]:
    """What a model of transformers takes of an image and the prompt."""
    processor, picture = _theirs(name)[1], Image.open(BytesIO(data)).convert("RGB")
    if name in ("blip", "blip2"):
        return dict(processor(images=picture, text=prompt_of(name), return_tensors="pt"))
    content = [{"type": "image", "image": picture}, {"type": "text", "text": REQUEST}]
    return dict(
        processor.apply_chat_template(
            [{"role": "user", "content": content}],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        )
    )


def ended(rows: Sequence[Sequence[int]], ends: Sequence[int]) -> list[list[int]]:
    """The tokens before the end."""
    return [list(row[: next((i for i, token in enumerate(row) if token in ends), len(row))]) for row in rows]


def generate(name: str, data: bytes, decoding: Decoding) -> list[list[int]]:
    """New tokens of each caption by transformers' ``generate``: greedy, or by beams."""
    given, ours = inputs(name, data), captioner(name)
    places = ours.prompt_tokens if name == "blip" else given["input_ids"].shape[1]
    chosen: dict[str, Any] = {"do_sample": False, "repetition_penalty": decoding.penalty}
    if decoding.kind == "beam":
        chosen |= {"num_beams": decoding.beams, "num_return_sequences": decoding.count}
    if name == "blip":  # its lengths count the prompt
        chosen |= {"max_length": places + decoding.most, "min_length": places + decoding.least}
    else:
        chosen |= {"max_new_tokens": decoding.most, "min_new_tokens": decoding.least}
    with repeatable():
        found = _theirs(name)[0].generate(**given, **chosen)[:, places:].tolist()
    pad = 0 if name == "blip" else 1
    return ended(found, [*ours.ends, pad])


def logits_after(name: str, data: bytes, tokens: list[int]) -> torch.Tensor:
    """float32[1, vocabulary] after new tokens, by the library's own forward pass over everything, without a cache."""
    with repeatable():
        found = _logits_after(name, data, tokens)
    return found.clone()


def _logits_after(name: str, data: bytes, tokens: list[int]) -> torch.Tensor:
    net, how = _theirs(name)
    if name == "coca":
        text = torch.tensor([[open_clip.get_tokenizer(f"local-dir:{model(name)}").sot_token_id, *tokens]])
        picture = how(Image.open(BytesIO(data)))[None]
        return torch.as_tensor(net(picture, text, output_labels=False)["logits"][:, -1])
    given, more = inputs(name, data), torch.tensor([tokens], dtype=torch.int64)
    if name == "blip":
        ids = given["input_ids"][:, :-1].clone()
        ids[:, 0] = net.config.text_config.bos_token_id
        state = net.vision_model(pixel_values=given["pixel_values"]).last_hidden_state
        ids = torch.cat([ids, more], 1)
        return torch.as_tensor(net.text_decoder(input_ids=ids, encoder_hidden_states=state).logits[:, -1])
    for key in ("attention_mask", "mm_token_type_ids", "token_type_ids"):
        if key in given:
            given[key] = torch.cat([given[key], torch.full_like(more, int(key == "attention_mask"))], 1)
    given["input_ids"] = torch.cat([given["input_ids"], more], 1)
    return torch.as_tensor(net(**given).logits[:, -1])


def prompt_ids(name: str, data: bytes) -> list[int]:
    """Tokens that the repetition penalty counts from the start."""
    if name == "coca":
        return [open_clip.get_tokenizer(f"local-dir:{model(name)}").sot_token_id]
    found: list[int] = inputs(name, data)["input_ids"][0].tolist()
    return [_theirs(name)[0].config.text_config.bos_token_id, *found[1:-1]] if name == "blip" else found


def numbers_of(number: int, decoding: Decoding, seed: int = 0) -> NDArray[np.float64]:
    """What the captions of a uid are drawn by, float64[count, most], one at a time."""
    pair = keyed_hash(pa.array([uid(number)]), draw_seed(seed))
    rows = []
    for caption in range(decoding.count):
        own = item_hash(pair, np.array([caption + 1], np.uint64))
        tokens = [float(fractions(item_hash(own, np.array([t], np.uint64)))[0]) for t in range(decoding.most)]
        rows.append(tokens)
    return np.array(rows)


def placeholders(name: str) -> list[int]:
    """Tokens that stand for an image: a whole forward pass does not take them in a text."""
    config = _theirs(name)[0].config if name not in ("blip", "coca") else None
    return [config.image_token_id, getattr(config, "video_token_id", None) or -1] if config else []


def literal(name: str, data: bytes, numbers: NDArray[np.float64], decoding: Decoding) -> list[int]:
    """One drawn caption: a whole forward pass a token, transformers' processors, a look-up in numpy.

    It ends before a placeholder too.
    """
    tokens: list[int] = []
    prompt, ours = prompt_ids(name, data), captioner(name)
    for number in numbers[: decoding.most]:
        logits = logits_after(name, data, tokens)
        history = torch.tensor([prompt + tokens])
        if decoding.penalty != 1:
            logits = HF.RepetitionPenaltyLogitsProcessor(decoding.penalty)(history, logits)
        if len(tokens) < decoding.least:
            logits[:, list(ours.barred)] = float("-inf")
        logits = HF.TopPLogitsWarper(decoding.top_p)(history, logits / decoding.temperature)
        weights = np.exp(logits[0].double().numpy() - float(logits.max()))
        ends = np.cumsum(weights)
        tokens.append(int(np.searchsorted(ends, number * ends[-1], side="right")))
        if tokens[-1] in (*ours.ends, *placeholders(name)):
            return tokens[:-1]
    return tokens


def written(
    name: str, data: Sequence[bytes], decoding: Decoding, slots: int = 3, numbers: Sequence[Any] = ()
) -> list[list[list[int]]]:
    """The new tokens of each image's captions by ours, with so many slots."""
    ours, left = captioner(name), list(enumerate(data))
    found: dict[int, list[list[int]]] = {}
    rooms: dict[int, Slots[int]] = {}
    with repeatable():
        for i, one in left:
            if ours.wanted is None:
                begun = ours.begin([ours.prepare(one)])[0]
            else:
                picture = torch.from_numpy(np.stack(pixels(one, [ours.wanted], False)))
                begun = ours.begin(list(ours.tower(picture)))[0]
            into = rooms.setdefault(begun.room, Slots(ours, decoding, slots, begun.room))
            while not into.has_room:
                found |= dict(into.step())
            drawn_by = numbers[i] if len(numbers) else np.zeros((decoding.rows, decoding.most))
            found |= dict(into.put(i, begun, drawn_by))
        for into in rooms.values():
            while not into.is_empty:
                found |= dict(into.step())
    return [found[i] for i in range(len(data))]
