"""BLIP's and BLIP-2's matching heads as their authors use them: one image, one text, the library's own forward pass."""

from functools import lru_cache
from importlib import import_module
from io import BytesIO
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import torch
from PIL import Image

from pairsieve.filters._products import fixed
from pairsieve.filters.base import Filter
from pairsieve.filters.itm import Itm


@lru_cache(maxsize=8)
def _loaded(folder: Path) -> tuple[Any, Any, Any]:
    hf = import_module("transformers")
    kind = hf.AutoConfig.from_pretrained(folder).architectures[0]
    net = getattr(hf, kind).from_pretrained(folder, dtype=torch.float32).eval()
    return net, hf.BlipImageProcessorPil.from_pretrained(folder), hf.AutoTokenizer.from_pretrained(folder)


def reference(folder: Path, image: bytes, text: str) -> tuple[float, float]:
    """P(match) and the cosine of one pair, of a text that is clean already."""
    net, processor, tokenizer = _loaded(folder)
    with fixed():
        pixels = processor(images=Image.open(BytesIO(image)), return_tensors="pt").pixel_values
        return (_blip2 if hasattr(net, "qformer") else _blip)(net, pixels, tokenizer, text)


def _blip(net: Any, pixels: Any, tokenizer: Any, text: str) -> tuple[float, float]:
    """``forward``, but with [ENC] in front where the head reads the text."""
    given = tokenizer(text, truncation=True, max_length=35, return_tensors="pt")
    cosine = net(given.input_ids, pixels, use_itm_head=False, attention_mask=given.attention_mask).itm_score
    ids = given.input_ids.clone()
    ids[:, 0] = net.config.text_config.vocab_size - 1
    logits = net(ids, pixels, use_itm_head=True, attention_mask=given.attention_mask).itm_score
    return float(logits.softmax(-1)[0, 1]), float(cosine[0, 0])


def _blip2(net: Any, pixels: Any, tokenizer: Any, text: str) -> tuple[float, float]:
    """``forward``; the processor puts as many image tokens in front as there are queries, and it takes them off."""
    given = tokenizer(text, truncation=True, max_length=32, return_tensors="pt")
    front = torch.ones(1, net.config.num_query_tokens, dtype=torch.long)
    ids, mask = (torch.cat([front, one], 1) for one in (given.input_ids, given.attention_mask))
    logits = net(pixels, ids, mask, use_image_text_matching_head=True).logits_per_image
    cosine = net(pixels, ids, mask, use_image_text_matching_head=False).logits_per_image
    return float(logits.softmax(-1)[0, 1]), float(cosine[0, 0])


def opened(folder: Path, **chosen: Any) -> Itm:
    """A filter with its model loaded, on the CPU."""
    made = Itm(model=str(folder), device="cpu", **chosen)
    made.open()
    return made


def pairs_of(images: list[bytes | None], texts: list[str | None], **lists: Any) -> pa.RecordBatch:
    """What a filter is given; further columns are lists of texts."""
    columns = {name: pa.array(values, pa.list_(pa.string())) for name, values in lists.items()}
    return pa.record_batch({"image": pa.array(images, pa.binary()), "text": pa.array(texts, pa.string()), **columns})


def captions_of(text: str | None) -> list[str | None] | None:
    """None to two captions, by the length of a text."""
    return None if text is None or len(text) % 5 == 0 else ["a cat", None, f"two people near {text}"][: len(text) % 4]


class Says(Filter):
    """Captions for recipes of tests, from the pair's own text."""

    reads = ("text",)
    writes: ClassVar[dict[str, pa.DataType]] = {"caption": pa.list_(pa.string())}

    def score(self, pairs: pa.RecordBatch) -> dict[str, pa.Array]:
        """``captions_of`` each."""
        return {"caption": pa.array([captions_of(text) for text in pairs["text"].to_pylist()], pa.list_(pa.string()))}

    def keep(self, pairs: pa.RecordBatch) -> pa.Array:
        """Everybody."""
        return pa.array([True] * pairs.num_rows)
