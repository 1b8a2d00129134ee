"""Tiny CLIP models of random weights in open_clip's directory format, and open_clip's own loop over pairs."""

import json
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pyarrow as pa
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import save_file

from pairsieve.filters._products import fixed
from pairsieve.filters.clip_score import ClipScore

VISION = {"image_size": 32, "layers": 2, "width": 128, "head_width": 32, "patch_size": 8}
TEXT = {"context_length": 77, "vocab_size": 49408, "width": 96, "heads": 2, "layers": 2}
CLIP: dict[str, Any] = {"embed_dim": 64, "vision_cfg": VISION, "text_cfg": TEXT}
SIGLIP: dict[str, Any] = {
    "embed_dim": 48,
    "custom_text": True,
    "init_logit_bias": -10,
    "init_logit_scale": 2.3,
    "vision_cfg": VISION | {"image_size": 40},
    "text_cfg": TEXT | {"context_length": 64, "no_causal_mask": True, "pool_type": "last"},
}
"""SigLIP's shape: towers of their own, no causal mask, a bias of the logits."""
CAUSAL: dict[str, Any] = CLIP | {"custom_text": True}
COCA: dict[str, Any] = {
    "embed_dim": 64,
    "custom_text": True,
    "vision_cfg": VISION
    | {"attentional_pool": True, "attn_pooler_heads": 2, "attn_pooler_queries": 8, "output_tokens": True},
    "text_cfg": TEXT | {"context_length": 76, "embed_cls": True, "output_tokens": True},
    "multimodal_cfg": {
        "context_length": 76,
        "vocab_size": 49408,
        "width": 64,
        "heads": 2,
        "layers": 1,
        "attn_pooler_heads": 2,
    },
}
PREPROCESS = {
    "mean": [0.48145466, 0.4578275, 0.40821073],
    "std": [0.26862954, 0.26130258, 0.27577711],
    "interpolation": "bicubic",
    "resize_mode": "shortest",
}


def build(config: dict[str, Any], seed: int = 0) -> Any:
    """A model of random weights, in evaluation mode."""
    kind = open_clip.CLIP
    if config.get("custom_text"):
        kind = open_clip.CoCa if "multimodal_cfg" in config else open_clip.CustomTextCLIP
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return kind(**{key: value for key, value in config.items() if key != "custom_text"}).eval()


def write_model(folder: Path, config: dict[str, Any], seed: int = 0, **preprocess: Any) -> Path:
    """A directory that open_clip and pairsieve load."""
    folder.mkdir(parents=True)
    weights = {key: value.contiguous() for key, value in build(config, seed).state_dict().items()}
    save_file(weights, str(folder / "open_clip_model.safetensors"))
    pictures = PREPROCESS | {"size": config["vision_cfg"]["image_size"]} | preprocess
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": pictures}))
    return folder


@lru_cache(maxsize=16)
def _loaded(name: str, pretrained: str | None) -> tuple[Any, Any, Any]:
    model, transform = open_clip.create_model_from_pretrained(name, pretrained=pretrained, device="cpu")
    return model.eval(), transform, open_clip.get_tokenizer(name)


def reference(model: str | Path, image: bytes, text: str, pretrained: str | None = None) -> dict[str, Any]:
    """One pair through open_clip, as its README does it: both embeddings, their cosine, the logit."""
    folder = Path(ClipScore(model="pairsieve-demo").files()[0]).parent if model == "pairsieve-demo" else Path(model)
    net, transform, tokenize = _loaded(f"local-dir:{folder}" if folder.is_dir() else str(model), pretrained)
    with fixed():  # one thread: two are many times slower where other tests run beside them
        pixels, tokens = transform(Image.open(BytesIO(image)))[None], tokenize([text])
        one, other = net.encode_image(pixels, normalize=True), net.encode_text(tokens, normalize=True)
        found = {"image": one[0].numpy(), "text": other[0].numpy(), "score": float((one * other).sum())}
        if hasattr(net, "get_logits"):
            found["logit"] = float(net.get_logits(pixels, tokens)[0])
        return found


def opened(model: str | Path, **chosen: Any) -> ClipScore:
    """A filter with its model loaded, on the CPU."""
    made = ClipScore(model=str(model), device="cpu", **chosen)
    made.open()
    return made


def pairs_of(images: list[bytes | None], texts: list[str | None]) -> pa.RecordBatch:
    """What a filter is given."""
    return pa.record_batch({"image": pa.array(images, pa.binary()), "text": pa.array(texts, pa.string())})


def column(made: ClipScore, images: list[bytes | None], texts: list[str | None], name: str) -> Any:
    """One column of the scores, as a list."""
    return made.score(pairs_of(images, texts))[name].to_pylist()


def matrix(found: pa.Array) -> NDArray[np.float32]:
    """Rows of an embedding column without nulls."""
    return np.array([np.asarray(row, np.float32) for row in found.to_pylist()])
