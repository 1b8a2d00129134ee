"""Tiny image-to-text models of random weights that caption by their own ``generate``; no network.

``folder("git")`` is a directory, made at its first use as those of ``support_capfilt``; ``said`` is what the library's
own ``generate`` says of an image.
"""

from functools import cache
from importlib import import_module
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from pairsieve.filters._caption_texts import clean
from pairsieve.filters._clip_batches import repeatable
from tests import support_capfilt
from tests.support_capfilt import SMALL, bert_tokenizer, causal_tokenizer, model, spread

HF: Any = import_module("transformers")
SIZE = {"height": 28, "width": 28}


def folder(name: str) -> Path:
    """The directory of a model of ``OTHERS`` or of ``support_capfilt.MODELS``."""
    return model(name)


def _git(out: Path) -> None:
    """GIT; its saved generation settings are others than asked for."""
    tokenizer = bert_tokenizer()
    vision = {**SMALL, "image_size": 28, "patch_size": 14}
    config = HF.GitConfig(
        vision_config=vision,
        vocab_size=len(tokenizer),
        max_position_embeddings=64,
        bos_token_id=tokenizer.cls_token_id,
        eos_token_id=tokenizer.sep_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **SMALL,
    )
    net = HF.GitForCausalLM(config)
    net.generation_config.update(do_sample=True, top_k=2, temperature=0.3, num_beams=2, no_repeat_ngram_size=1)
    spread(net).save_pretrained(out)
    pictures = HF.CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size=SIZE)
    HF.GitProcessor(pictures, tokenizer).save_pretrained(out)


def _vit_gpt2(out: Path) -> None:
    """ViT-GPT2: an image processor and a tokenizer, no processor; one token begins, fills and ends."""
    tokenizer = causal_tokenizer()
    end = tokenizer.eos_token_id
    decoder = HF.GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=64,
        n_embd=32,
        n_layer=2,
        n_head=2,
        bos_token_id=end,
        eos_token_id=end,
        add_cross_attention=True,
        is_decoder=True,
    )
    encoder = HF.ViTConfig(image_size=28, patch_size=14, **SMALL)
    config = HF.VisionEncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
    config.decoder_start_token_id = config.eos_token_id = config.pad_token_id = end
    spread(HF.VisionEncoderDecoderModel(config)).save_pretrained(out)
    HF.ViTImageProcessorPil(size=SIZE).save_pretrained(out)
    tokenizer.save_pretrained(out)


def _t5(words: int, tokenizer: Any) -> dict[str, Any]:
    """T5's configuration."""
    found: dict[str, Any] = HF.T5Config(
        vocab_size=words,
        d_model=32,
        d_kv=16,
        d_ff=64,
        num_layers=2,
        num_heads=2,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        decoder_start_token_id=tokenizer.pad_token_id,
    ).to_dict()
    return found


def _with_former(kind: str, text: dict[str, Any], tokenizer: Any, words: int) -> Any:
    """The configuration of InstructBLIP or BLIP-2."""
    former = {**SMALL, "vocab_size": words, "max_position_embeddings": 64, "encoder_hidden_size": 32}
    return getattr(HF, f"{kind}Config")(
        vision_config={**SMALL, "image_size": 28, "patch_size": 14, "initializer_range": 0.02},
        qformer_config=former,
        text_config=text,
        num_query_tokens=4,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )


def _blip2_t5(out: Path) -> None:
    """BLIP-2 with T5."""
    tokenizer = causal_tokenizer()
    config = _with_former("Blip2", _t5(len(tokenizer), tokenizer), tokenizer, len(tokenizer))
    spread(HF.Blip2ForConditionalGeneration(config)).save_pretrained(out)
    pictures = HF.BlipImageProcessorPil(size=SIZE)
    HF.Blip2Processor(pictures, tokenizer, num_query_tokens=4).save_pretrained(out)


def _instructblip(out: Path) -> None:
    """InstructBLIP with LLaMA: its Q-Former reads the prompt by BERT's tokenizer."""
    tokenizer, former = causal_tokenizer(), bert_tokenizer()
    special = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    text = HF.LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=64, **SMALL, **special).to_dict()
    config = _with_former("InstructBlip", text, tokenizer, len(former))
    spread(HF.InstructBlipForConditionalGeneration(config)).save_pretrained(out)
    pictures = HF.BlipImageProcessorPil(size=SIZE)
    HF.InstructBlipProcessor(pictures, tokenizer, former, num_query_tokens=4).save_pretrained(out)


def _kosmos(out: Path) -> None:
    """Kosmos-2: places of things named are tokens of its texts."""
    tokenizer = causal_tokenizer()
    pictures = HF.CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size=SIZE)
    processor = HF.Kosmos2Processor(pictures, tokenizer, num_patch_index_tokens=16)
    special = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    sizes = {"max_position_embeddings": 128, "embed_dim": 32, "layers": 2, "ffn_dim": 64, "attention_heads": 2}
    vision = {**SMALL, "image_size": 28, "patch_size": 14}
    text = {"vocab_size": len(tokenizer), **sizes, **special}
    config = HF.Kosmos2Config(text_config=text, vision_config=vision, latent_query_num=64)
    spread(HF.Kosmos2ForConditionalGeneration(config)).save_pretrained(out)
    processor.save_pretrained(out)


def _pix2struct(out: Path) -> None:
    """Pix2Struct: pictures of any shape in patches."""
    tokenizer = causal_tokenizer()
    end, fill = tokenizer.eos_token_id, tokenizer.pad_token_id
    sizes = {"hidden_size": 32, "d_kv": 16, "d_ff": 64}
    text = {"vocab_size": len(tokenizer), "num_layers": 2, "num_heads": 2, **sizes}
    vision = {"patch_embed_hidden_size": 768, "num_hidden_layers": 2, "num_attention_heads": 2, "seq_len": 64, **sizes}
    config = HF.Pix2StructConfig(
        text_config=text | {"decoder_start_token_id": fill, "eos_token_id": end, "pad_token_id": fill},
        vision_config=vision | {"initializer_range": 0.02},
    )
    spread(HF.Pix2StructForConditionalGeneration(config)).save_pretrained(out)
    HF.Pix2StructProcessor(HF.Pix2StructImageProcessorPil(max_patches=16), tokenizer).save_pretrained(out)


OTHERS = {
    "git": _git,
    "vit-gpt2": _vit_gpt2,
    "blip2-t5": _blip2_t5,
    "instructblip": _instructblip,
    "kosmos": _kosmos,
    "pix2struct": _pix2struct,
}
support_capfilt.MODELS.update(OTHERS)
PROMPTS = {"blip2-t5": "a photo of", "instructblip": "A short image description:", "kosmos": "An image of"}


@cache
def theirs(name: str) -> tuple[Any, Any, Any]:
    """The library's own: model, what makes inputs, tokenizer."""
    where = str(folder(name))
    net = HF.AutoModelForImageTextToText.from_pretrained(where, local_files_only=True).eval()
    if name == "vit-gpt2":
        return net, HF.AutoImageProcessor.from_pretrained(where, backend="pil"), HF.AutoTokenizer.from_pretrained(where)
    processor = HF.AutoProcessor.from_pretrained(where, backend="pil")
    return net, processor, processor.tokenizer


def inputs(name: str, data: bytes) -> dict[str, Any]:
    """What the model takes of an image and its usual prompt."""
    prompt = {"text": PROMPTS[name]} if name in PROMPTS else {}
    picture = Image.open(BytesIO(data)).convert("RGB")
    return dict(theirs(name)[1](images=picture, return_tensors="pt", **prompt))


def said(name: str, data: bytes, **chosen: Any) -> list[str | None]:
    """Captions by the library's ``generate``; nothing is left of what the model says of sampling."""
    net, processor, tokenizer = theirs(name)
    given = inputs(name, data)
    usual = {"do_sample": False, "num_beams": 1, "no_repeat_ngram_size": 0, "temperature": 1.0, "top_k": 0}
    with repeatable():
        found = net.generate(**given, **usual | chosen)
    own = given["input_ids"].shape[1] if name in ("instructblip", "kosmos") else 1
    texts = tokenizer.batch_decode(found[:, own:], skip_special_tokens=True)
    return [clean(processor.post_process_generation(text)[0] if name == "kosmos" else text) for text in texts]
