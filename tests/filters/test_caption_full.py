"""A captioner of the published size goes through on a CPU."""

from importlib import import_module
from typing import Any

import pyarrow as pa
import pytest

from pairsieve.filters._caption_flow import Flow
from pairsieve.filters._decode import Decoding
from pairsieve.filters._preprocess import Preprocess

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from pairsieve.filters._blip import BlipCaptioner  # noqa: E402
from tests.support_capfilt import bert_tokenizer  # noqa: E402
from tests.support_captioners import image, uid  # noqa: E402

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def blip_base() -> Any:
    """BLIP-base at 384 pixels: 247 million weights, a million random numbers over and over."""
    hf: Any = import_module("transformers")
    words = [f"word{i}" for i in range(30_400)]
    tokenizer = bert_tokenizer(words)
    config = hf.BlipConfig()
    config.text_config.vocab_size = len(tokenizer)
    config.text_config.bos_token_id = tokenizer.convert_tokens_to_ids("[DEC]")
    config.text_config.sep_token_id = config.text_config.eos_token_id = tokenizer.sep_token_id
    with torch.device("meta"):
        made = hf.BlipForConditionalGeneration(config)
    made = made.to_empty(device="cpu").eval()
    noise = torch.randn(1 << 20, generator=torch.Generator().manual_seed(0)).mul_(0.02)
    with torch.no_grad():
        for name, one in made.named_parameters():
            if name.endswith(("orm.weight", "norm1.weight", "norm2.weight")):
                one.fill_(1.0)
            else:
                one.view(-1).copy_(noise.repeat(-(-one.numel() // len(noise)))[: one.numel()])
        for name, one in made.named_buffers():
            if name.endswith("position_ids"):
                one.copy_(torch.arange(one.shape[-1]).expand_as(one))
    wanted = Preprocess((384, 384), MEAN, STD, resize_mode="squash", rgb_first=True)
    return BlipCaptioner(made, tokenizer, wanted, "a picture of ")


def test_blip_base() -> None:
    """Full-size BLIP-base writes ten different captions of an image in float32."""
    captioner = blip_base()
    flow = Flow(captioner, Decoding("nucleus", 10, 8, 1, 0.9, penalty=1.1), 0, 1, 0)
    pairs = pa.record_batch({"uid": pa.array([uid(0)]), "image": pa.array([image(0, 640, 480)], pa.binary())})
    (part,) = flow.stream([pairs])
    assert part.errors == [None]
    captions = part.captions[0]
    assert captions and len(captions) == len(set(captions)) == 10
    assert all(text and text.split()[0] for text in captions)
