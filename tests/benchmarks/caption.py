"""Captions beside the same model called one by one, in one interleaved run.

    python -m tests.benchmarks.caption [images] [captions] [rounds] [base|small]

BLIP of random weights (``base``: the published captioner's size, at 384 pixels; ``small``: half as wide and deep, at
224), JPEGs of 512 pixels, nucleus sampling as published, captions of the full length of 20 tokens: random weights
hardly ever end one.  Each way writes as many captions of the same images in every round, and its best round counts.  On
a CPU all have one torch thread and the figure is images per CPU-second; on a GPU it is images per second.

One by one: an image through transformers' processor and ``generate``, once for each caption.  Data-Juicer's way: the
processor once an image, ``generate`` once a caption.  One call: ``generate`` with ``num_return_sequences``.
"""

import os
import sys
import time
from collections.abc import Callable
from importlib import import_module
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import torch
from PIL import Image

from pairsieve.filters._products import fixed
from pairsieve.filters.caption import Caption
from tests.support_capfilt import bert_tokenizer
from tests.support_phash import encoded, scene

CUDA = torch.cuda.is_available()
SMALL = {"hidden_size": 384, "intermediate_size": 1536, "num_hidden_layers": 6, "num_attention_heads": 6}
VOCABULARY = 30_400
SHARPER = 10.0
"""Times the logits of untrained weights: some hundred words hold nine tenths of the mass then, not almost all."""
GENERATE = {"do_sample": True, "top_p": 0.9, "top_k": 0, "max_length": 20, "min_length": 20, "repetition_penalty": 1.1}
Way = Callable[[list[bytes], int], int]


def write_model(folder: Path, size: str) -> None:
    """A captioner of random weights with the published vocabulary's size, in transformers' format."""
    hf: Any = import_module("transformers")
    parts = SMALL if size == "small" else {}
    side = 224 if size == "small" else 384
    tokenizer = bert_tokenizer([f"word{i}" for i in range(VOCABULARY)])
    words = len(tokenizer)
    marks = {
        "vocab_size": words,
        "bos_token_id": tokenizer.convert_tokens_to_ids("[DEC]"),
        "sep_token_id": tokenizer.sep_token_id,
        "eos_token_id": tokenizer.sep_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    text = {"encoder_hidden_size": parts.get("hidden_size", 768), "is_decoder": True, **marks, **parts}
    config = hf.BlipConfig(text_config=text, vision_config={"image_size": side, **parts})
    torch.manual_seed(0)
    model = hf.BlipForConditionalGeneration(config)
    model.text_decoder.cls.predictions.transform.LayerNorm.weight.data.mul_(SHARPER)
    model.save_pretrained(folder)
    pictures = hf.BlipImageProcessorPil(size={"height": side, "width": side})
    hf.BlipProcessor(pictures, tokenizer).save_pretrained(folder)


def ours(folder: Path) -> Way:
    """The filter."""
    made = Caption(model=str(folder), max_length=20, min_length=20, precision="fp16" if CUDA else "fp32")
    opened: dict[int, Caption] = {}

    def write(images: list[bytes], count: int) -> int:
        if count not in opened:
            opened[count] = made.model_copy(update={"count": count})
            opened[count].open()
        uids = pa.array([f"{i:032x}" for i in range(len(images))])
        pairs = pa.record_batch({"uid": uids, "image": pa.array(images, pa.binary())})
        found = opened[count].score(pairs)["caption"]
        return sum(len(row) for row in found.to_pylist())

    return write


def theirs(folder: Path, how: str) -> Way:
    """By transformers, an image at a time."""
    hf: Any = import_module("transformers")
    dtype = torch.float16 if CUDA else torch.float32
    device = "cuda" if CUDA else "cpu"
    model = hf.BlipForConditionalGeneration.from_pretrained(folder, dtype=dtype).to(device).eval()
    processor = hf.AutoProcessor.from_pretrained(folder, backend="pil")

    def inputs(image: bytes) -> Any:
        picture = Image.open(BytesIO(image)).convert("RGB")
        return processor(images=picture, text="a picture of ", return_tensors="pt").to(device, dtype)

    def one(image: bytes, count: int) -> list[str]:
        if how == "one call":
            found = model.generate(**inputs(image), **GENERATE, num_return_sequences=count)
            return list(processor.batch_decode(found, skip_special_tokens=True))
        captions: list[str] = []
        given = inputs(image)
        for _ in range(count):
            given = inputs(image) if how == "one by one" else given
            found = model.generate(**given, **GENERATE)
            captions += processor.batch_decode(found, skip_special_tokens=True)
        return captions

    def write(images: list[bytes], count: int) -> int:
        with fixed():
            return sum(len(one(image, count)) for image in images)

    return write


def seconds() -> float:
    """Of the CPU, or on a clock where a GPU computes."""
    return time.perf_counter() if CUDA else time.process_time()


def main(count: int, captions: int, rounds: int, size: str) -> None:
    """Print images a second and what ours is to each of the others."""
    images = [encoded(scene(i, 512, 512), "JPEG", quality=90) for i in range(count)]
    with TemporaryDirectory() as place:
        folder = Path(place)
        write_model(folder, size)
        ways = {"ours": ours(folder)} | {
            how: theirs(folder, how) for how in ("one by one", "Data-Juicer's way", "one call")
        }
        best = dict.fromkeys(ways, float("inf"))
        for _ in range(rounds):
            for name, way in ways.items():
                few = images if name == "ours" or CUDA else images[: max(1, count // 4)]
                began = seconds()
                assert way(few, captions) == len(few) * captions
                best[name] = min(best[name], (seconds() - began) / len(few))
    print(f"BLIP-{size}, {captions} captions an image, {'GPU' if CUDA else 'one core'}, {os.cpu_count()} cores")
    for name, took in best.items():
        print(
            f"{name:18} {1 / took:8.3f} images a second   {captions / took:8.2f} captions   {took / best['ours']:5.1f}×"
        )


if __name__ == "__main__":
    given = sys.argv[1:] + ["12", "10", "2", "base"][len(sys.argv) - 1 :]
    main(int(given[0]), int(given[1]), int(given[2]), given[3])
