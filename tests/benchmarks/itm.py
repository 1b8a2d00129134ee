"""Matching scores of an image's web text and captions beside the library one by one, in one interleaved run.

    python -m tests.benchmarks.itm [images] [captions] [rounds] [base|large|blip2|tiny] [size]

Random weights of BLIP's published sizes (BLIP-2: its Q-Former over a ViT-B), JPEGs of 512 pixels, web texts of 2 to 60
words, captions of 6 to 14.  Each way scores the same texts in every round and its best round counts.  On a CPU all
have one torch thread and the figure is texts per CPU-second; on a GPU it is texts per second.

One by one: the library's forward pass for each text, which encodes the image again and pads nothing.  Encoded once:
the image is, and each text meets it through the library's text encoder, which makes keys and values for each text
again.  Besides times it says how far scores are from the first way's, and whether bits depend on the size of batches.
"""

import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from io import BytesIO
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from pairsieve.filters._itm_flow import ItmFlow, Part
from pairsieve.filters._itm_layers import Blip2Matching, BlipMatching
from pairsieve.filters._itm_model import ItmModel
from pairsieve.filters._itm_texts import RULES, ItmTokens
from pairsieve.filters._preprocess import Preprocess, normalised
from pairsieve.filters._products import fixed
from tests.support_capfilt import WORDS, bert_tokenizer
from tests.support_phash import encoded, scene

CUDA = torch.cuda.is_available()
DTYPE = torch.float16 if CUDA else torch.float32
LARGE = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
BASE = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
TINY = {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 2}
VISION = {"base": BASE, "large": LARGE, "blip2": BASE, "tiny": TINY}


def blip(kind: str, size: int) -> Any:
    """A model of random weights."""
    hf = import_module("transformers")
    text = (TINY if kind == "tiny" else BASE) | {"vocab_size": 30_524, "max_position_embeddings": 512}
    width = VISION[kind]["hidden_size"]
    torch.manual_seed(0)
    if kind == "blip2":
        former = hf.Blip2QFormerConfig(**text, encoder_hidden_size=width, use_qformer_text_input=True)
        vision = hf.Blip2VisionConfig(**VISION[kind], image_size=size, patch_size=14)
        config = hf.Blip2Config(vision_config=vision.to_dict(), qformer_config=former.to_dict(), num_query_tokens=32)
        config.image_token_index = None
        model = hf.Blip2ForImageTextRetrieval(config)
    else:
        vision = hf.BlipVisionConfig(**VISION[kind], image_size=size, patch_size=16)
        own = hf.BlipTextConfig(**text, encoder_hidden_size=width, is_decoder=True)
        config = hf.BlipConfig(text_config=own.to_dict(), vision_config=vision.to_dict(), image_text_hidden_size=256)
        model = hf.BlipForImageTextRetrieval(config)
    return model.to(DTYPE).to("cuda" if CUDA else "cpu").eval()


def flow_of(model: Any, kind: str, size: int, batch: int | None = None) -> ItmFlow:
    """The filter's own way, of a model that is in memory."""
    hf = import_module("transformers")
    wanted = Preprocess.of_blip(hf.BlipImageProcessorPil(size={"height": size, "width": size}))
    rules = RULES["blip-2" if kind == "blip2" else "blip"]
    tokens = ItmTokens(bert_tokenizer(), rules, 30_524, 512, clean=True)
    head = Blip2Matching(model) if kind == "blip2" else BlipMatching(model, tokens.enc)

    def tower(pixels: Any) -> Any:
        return model.vision_model(pixel_values=normalised(pixels, wanted, DTYPE)).last_hidden_state

    made = ItmModel(head, tokens, wanted, tower, ("benchmark",), torch.device("cuda" if CUDA else "cpu"))
    return ItmFlow(made, None, batch, 8 if CUDA else 0, has_cosine=False)


def work_of(images: int, captions: int) -> Part:
    """Images with their texts."""
    rng = np.random.default_rng(0)
    sizes = np.clip(rng.lognormal(2.2, 0.6, images), 2, 60).astype(int)
    web = [" ".join(rng.choice(WORDS, size)) for size in sizes]
    others = [" ".join(rng.choice(WORDS, rng.integers(6, 15))) for _ in range(images * captions)]
    files = [encoded(scene(seed, 512, 512)) for seed in range(images)]
    rows = np.concatenate([np.arange(images), np.repeat(np.arange(images), captions)])
    return Part(files, [*web, *others], rows)


def by_flow(flow: ItmFlow, part: Part) -> NDArray[np.float32]:
    """The filter's scores."""
    return next(flow.stream([part])).matched


def by_library(flow: ItmFlow, part: Part, once: bool) -> NDArray[np.float32]:
    """Text by text, the image encoded for each or once."""
    model, head = flow._model, flow._model.head
    found = np.zeros(len(part.texts), np.float32)
    with fixed():
        for row, data in enumerate(part.images):
            at = np.flatnonzero(part.rows == row)
            encoded_once = _encoded(model, data) if once else None
            for i in at:
                image = _encoded(model, data) if encoded_once is None else encoded_once
                (ids,) = model.tokens.ids([model.tokens.prepared(part.texts[int(i)])])
                logits = _logits(head, image, head.with_enc(torch.tensor([ids], device=model.device)))
                found[i] = float(logits.float().softmax(-1)[0, 1])
    return found


def _encoded(model: ItmModel, data: bytes | None) -> Any:
    hf = import_module("transformers")
    processor = hf.BlipImageProcessorPil(size=dict(zip(("height", "width"), model.wanted.size, strict=True)))
    pixels = processor(images=Image.open(BytesIO(data or b"")), return_tensors="pt").pixel_values
    return model.head.model.vision_model(pixel_values=pixels.to(model.device, DTYPE)).last_hidden_state


def _logits(head: Any, image: Any, ids: Any) -> Any:
    """The library's modules after the vision tower, as its forward pass calls them."""
    net, ones = head.model, torch.ones(image.shape[:2], dtype=torch.long, device=image.device)
    if isinstance(head, BlipMatching):
        mask = torch.ones_like(ids)
        states = net.text_encoder(
            input_ids=ids, attention_mask=mask, encoder_hidden_states=image, encoder_attention_mask=ones
        ).last_hidden_state
        return net.itm_head(states[:, 0])
    queries = net.query_tokens
    mask = torch.ones(1, queries.shape[1] + ids.shape[1], dtype=torch.long, device=image.device)
    states = net.qformer(
        query_embeds=net.embeddings(input_ids=ids, query_embeds=queries),
        query_length=queries.shape[1],
        attention_mask=mask,
        encoder_hidden_states=image,
        encoder_attention_mask=ones,
    ).last_hidden_state
    return net.itm_head(states[:, : queries.shape[1]].to(net.itm_head.weight.dtype)).mean(1)


Way = Callable[[], NDArray[np.float32]]


def race(ways: dict[str, Way], rounds: int) -> dict[str, tuple[float, NDArray[np.float32]]]:
    """Seconds of each way's best round, and its scores."""
    clock = time.perf_counter if CUDA else time.process_time
    best: dict[str, tuple[float, NDArray[np.float32]]] = {}
    for _ in range(rounds):
        for name, way in ways.items():
            began = clock()
            found = way()
            took = clock() - began
            best[name] = min(best.get(name, (took, found)), (took, found), key=lambda one: one[0])
    return best


def main(images: int, captions: int, rounds: int, kind: str, size: int) -> None:
    """Race, and say what differs."""
    model, part = blip(kind, size), work_of(images, captions)
    flow = flow_of(model, kind, size)
    ways: dict[str, Way] = {
        "one by one": partial(by_library, flow, part, False),
        "encoded once": partial(by_library, flow, part, True),
        "itm": partial(by_flow, flow, part),
    }
    found = race(ways, rounds)
    unit = "s" if CUDA else "CPU-s"
    print(f"{kind} at {size} pixels, {DTYPE}; {images} images with 1 + {captions} texts, the best of {rounds} rounds:")
    slow, want = found["one by one"]
    for name, (took, scores) in found.items():
        far = float(np.abs(scores - want).max())
        print(f"  {name:14} {len(part.texts) / took:8.2f} texts/{unit} {slow / took:6.2f} ×   differs by {far:.1e}")
    other = by_flow(flow_of(model, kind, size, 1), part)
    print(f"  batches of one image: {'the same bits' if (other == found['itm'][1]).all() else 'other bits'}")


def arguments(given: Sequence[str]) -> tuple[int, int, int, str, int]:
    """With defaults."""
    images, captions, rounds, kind, size, *_ = [*given, *["4", "10", "1", "base", "384"][len(given) :]]
    return int(images), int(captions), int(rounds), kind, int(size)


if __name__ == "__main__":
    main(*arguments(sys.argv[1:]))
