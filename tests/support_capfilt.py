"""Tiny captioning and matching models of random weights, in the formats that the real ones have; no network.

Each is made once a process in a folder that goes when the process ends: ``model("blip")`` is its directory.  Weight
matrices are four times as large as their initialisation makes them, so that scores spread and captions differ by image.
"""

import atexit
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from tests import support_clip

_WORDS = """a an the of on in with and picture photo image dog cat man woman car red blue green black white tree house
sitting standing street water table plate food sky near two three people group large small old"""
WORDS = _WORDS.split()
SMALL: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
COCA: dict[str, Any] = support_clip.COCA | {
    "text_cfg": support_clip.COCA["text_cfg"] | {"width": support_clip.COCA["embed_dim"]},
    "multimodal_cfg": support_clip.COCA["multimodal_cfg"] | {"layers": 2},
}
"""The decoder takes what both towers give."""
TEMPLATE = (
    "{% for m in messages %}{{ m['role'] + ' : ' }}{% for c in m['content'] %}{% if c['type']=='image' %}<image>"
    "{% else %} {{ c['text'] }}{% endif %}{% endfor %} {% endfor %}"
    "{% if add_generation_prompt %}assistant : {% endif %}"
)


def model(name: str) -> Path:
    """The directory of a model: one of ``MODELS``, made at its first use."""
    found = _folder() / name
    if not found.exists():
        with torch.random.fork_rng():
            torch.manual_seed(0)
            MODELS[name](found)
    return found


@cache
def _transformers() -> Any:
    """The package without its types: half of its classes have none."""
    return import_module("transformers")


@cache
def _folder() -> Path:
    """Of this process's models."""
    folder = Path(tempfile.mkdtemp(prefix="pairsieve-models-"))
    atexit.register(_remove, folder, os.getpid())
    return folder


def _remove(folder: Path, owner: int) -> None:
    """A forked worker that ends must not take the models away."""
    if os.getpid() == owner:
        shutil.rmtree(folder, ignore_errors=True)


def bert_tokenizer(more: Sequence[str] = ()) -> Any:
    """BLIP's tokenizer: lower case, word pieces, [DEC] and [ENC]; most words are single letters and '##' pieces."""
    letters = [chr(c) for c in range(97, 123)] + list("0123456789")
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *".,!?'-\"&:;/()#", *letters]
    tokens += ["##" + c for c in letters] + WORDS + list(more)
    vocabulary = {t: i for i, t in enumerate(dict.fromkeys(tokens))}
    tokenizer = _transformers().BertTokenizer(
        vocab=vocabulary, do_lower_case=True, model_max_length=512
    )  # vocab_file= is ignored
    tokenizer.add_special_tokens({"bos_token": "[DEC]"})
    tokenizer.add_special_tokens({"additional_special_tokens": ["[ENC]"]})
    return tokenizer


def causal_tokenizer() -> Any:
    """A tokenizer of words as of OPT and LLaMA models, padded on the left."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    base = ["<s>", "<pad>", "</s>", "<unk>", "<image>", *WORDS, "describe", "this", "user", "assistant"]
    vocabulary = {t: i for i, t in enumerate(dict.fromkeys(base + [chr(c) for c in range(33, 127)]))}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    special = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    return _transformers().PreTrainedTokenizerFast(
        tokenizer_object=inner, padding_side="left", additional_special_tokens=["<image>"], **special
    )


def spread(net: Any, factor: float = 4.0) -> Any:
    """The model with larger weight matrices, in evaluation mode."""
    with torch.no_grad():
        for weight in net.parameters():
            if weight.ndim >= 2:
                weight.mul_(factor)
    return net.eval()


def _save(folder: Path, net: Any, processor: Any) -> None:
    spread(net).save_pretrained(folder)
    processor.save_pretrained(folder)


def _blip(folder: Path, head: str, image_size: int = 32) -> None:
    """BLIP, as captioner (``BlipForConditionalGeneration``) or filter (``BlipForImageTextRetrieval``)."""
    hf = _transformers()
    tokenizer = bert_tokenizer()
    text = hf.BlipTextConfig(
        vocab_size=len(tokenizer),
        max_position_embeddings=64,
        projection_dim=32,
        bos_token_id=tokenizer.convert_tokens_to_ids("[DEC]"),
        sep_token_id=tokenizer.sep_token_id,
        eos_token_id=tokenizer.sep_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **SMALL,
    )
    vision = hf.BlipVisionConfig(
        image_size=image_size, patch_size=8, projection_dim=32, initializer_range=0.02, **SMALL
    )
    config = hf.BlipConfig(
        text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=32, image_text_hidden_size=16
    )
    size = {"height": image_size, "width": image_size}
    _save(folder, getattr(hf, head)(config), hf.BlipProcessor(hf.BlipImageProcessorPil(size=size), tokenizer))


def _blip2_parts(is_text_input: bool, words: int) -> Any:
    hf = _transformers()
    tokenizer = causal_tokenizer()
    text = hf.OPTConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        word_embed_proj_dim=32,
        ffn_dim=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=128,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    former = hf.Blip2QFormerConfig(
        vocab_size=words,
        use_qformer_text_input=is_text_input,
        max_position_embeddings=64,
        encoder_hidden_size=32,
        **SMALL,
    )
    vision = hf.Blip2VisionConfig(image_size=28, patch_size=14, initializer_range=0.02, **SMALL)
    return hf.Blip2Config(
        vision_config=vision.to_dict(),
        qformer_config=former.to_dict(),
        text_config=text.to_dict(),
        num_query_tokens=4,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_text_hidden_size=16,
    )


def _blip2(folder: Path) -> None:
    """BLIP-2 with OPT, as captioner."""
    hf = _transformers()
    tokenizer = causal_tokenizer()
    pictures = hf.BlipImageProcessorPil(size={"height": 28, "width": 28})
    net = hf.Blip2ForConditionalGeneration(_blip2_parts(False, len(tokenizer)))
    _save(folder, net, hf.Blip2Processor(pictures, tokenizer, num_query_tokens=4))


def _blip2_itm(folder: Path) -> None:
    """BLIP-2's matching head; its Q-Former reads ids of BERT's tokenizer."""
    hf = _transformers()
    tokenizer = bert_tokenizer()
    config = _blip2_parts(True, len(tokenizer))
    config.qformer_config.use_qformer_text_input = True
    pictures = hf.BlipImageProcessorPil(size={"height": 28, "width": 28})
    _save(folder, hf.Blip2ForImageTextRetrieval(config), hf.Blip2Processor(pictures, tokenizer, num_query_tokens=4))


def _coca(folder: Path) -> None:
    """CoCa in open_clip's format; open_clip leaves the projection onto words as the memory happens to be."""
    support_clip.write_model(folder, COCA)
    file = folder / "open_clip_model.safetensors"
    weights = load_file(file)
    weights["text_decoder.text_projection"].normal_(std=0.2)
    save_file(weights, file)


def _llava(folder: Path) -> None:
    """A vision-language model with a chat template: ``AutoProcessor`` and ``AutoModelForImageTextToText``."""
    hf = _transformers()
    tokenizer = causal_tokenizer()
    pictures = hf.CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    processor = hf.LlavaProcessor(
        pictures,
        tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        chat_template=TEMPLATE,
        image_token="<image>",
        num_additional_image_tokens=1,
    )
    vision = hf.CLIPVisionConfig(image_size=28, patch_size=14, projection_dim=32, **SMALL)
    text = hf.LlamaConfig(
        vocab_size=len(tokenizer),
        num_key_value_heads=2,
        max_position_embeddings=256,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **SMALL,
    )
    config = hf.LlavaConfig(
        vision_config=vision.to_dict(),
        text_config=text.to_dict(),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
    )
    _save(folder, hf.LlavaForConditionalGeneration(config), processor)


def _qwen(folder: Path) -> None:
    """Qwen2-VL: the longer or wider an image, the more tokens, and positions in space."""
    hf, tokenizer = _transformers(), causal_tokenizer()
    marks = ["<|vision_start|>", "<|image_pad|>", "<|vision_end|>", "<|video_pad|>"]
    tokenizer.add_special_tokens({"additional_special_tokens": marks})
    start, image, end, video = (tokenizer.convert_tokens_to_ids(mark) for mark in marks)
    tokenizer.image_token, tokenizer.video_token = marks[1], marks[3]
    pictures = hf.Qwen2VLImageProcessor(min_pixels=28 * 28, max_pixels=28 * 28 * 16)
    template = TEMPLATE.replace("<image>", "".join(marks[:3]))
    processor = hf.Qwen2VLProcessor(pictures, tokenizer, hf.Qwen2VLVideoProcessor(), chat_template=template)
    text = {
        **SMALL,
        "vocab_size": len(tokenizer),
        "num_key_value_heads": 1,
        "max_position_embeddings": 512,
        "rope_parameters": {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 10000.0},
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = {"depth": 2, "embed_dim": 32, "hidden_size": 32, "num_heads": 2, "mlp_ratio": 2, "patch_size": 14}
    config = hf.Qwen2VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=image,
        video_token_id=video,
        vision_start_token_id=start,
        vision_end_token_id=end,
    )
    _save(folder, hf.Qwen2VLForConditionalGeneration(config), processor)


def _sentences(folder: Path) -> None:
    """A sentence encoder as all-MiniLM-L6-v2 is stored: BERT, and sentence-transformers' mean pooling beside it."""
    hf = _transformers()
    tokenizer = bert_tokenizer()
    config = hf.BertConfig(
        vocab_size=len(tokenizer), max_position_embeddings=64, pad_token_id=tokenizer.pad_token_id, **SMALL
    )
    _save(folder, hf.BertModel(config), tokenizer)
    modules = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
    listed = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(modules)
    ]
    (folder / "modules.json").write_text(json.dumps(listed))
    (folder / "1_Pooling").mkdir()
    pooling = {"word_embedding_dimension": SMALL["hidden_size"], "pooling_mode_mean_tokens": True}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))


MODELS: dict[str, Callable[[Path], object]] = {
    "blip": lambda folder: _blip(folder, "BlipForConditionalGeneration"),
    "blip-itm": lambda folder: _blip(folder, "BlipForImageTextRetrieval"),
    "blip2": _blip2,
    "blip2-itm": _blip2_itm,
    "coca": _coca,
    "clip": lambda folder: support_clip.write_model(folder, support_clip.CLIP),
    "llava": _llava,
    "qwen": _qwen,
    "sentences": _sentences,
}
"""By name: captioners and filters of BLIP and BLIP-2, CoCa and CLIP of open_clip, two chat models, sentences."""
