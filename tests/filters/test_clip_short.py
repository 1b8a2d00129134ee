"""A shortened text tower gives what the full one gives."""

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
open_clip = pytest.importorskip("open_clip")

from pairsieve.filters._clip_short import TextTowers  # noqa: E402
from pairsieve.filters._products import fixed  # noqa: E402
from tests.support_clip import CAUSAL, CLIP, COCA, SIGLIP, build  # noqa: E402

TOKENIZE = open_clip.SimpleTokenizer()


def texts() -> Any:
    """Tokens of texts of 2 to 77 places, one with an end in its middle."""
    return TOKENIZE([*("cat " * n for n in range(0, 80, 3)), "a <end_of_text> b"])


@pytest.mark.parametrize(
    "config", [CLIP, CAUSAL, CLIP | {"text_cfg": CLIP["text_cfg"] | {"pool_type": "eos", "eos_id": 49407}}]
)
def test_equals_the_full_tower(config: dict[str, Any]) -> None:
    """At the length that a text needs the embedding is the full tower's, to 1e-6."""
    model, ids = build(config), texts()
    towers = TextTowers(model, 77)
    assert towers.lengths == (16, 32, 77)
    needed = towers.needed(ids.numpy())
    assert set(needed.tolist()) == {16, 32, 77}
    with fixed():
        full = model.encode_text(ids)
        for length in towers.lengths:
            chosen = torch.from_numpy(needed == length)
            short = towers.tower(length)(ids[chosen, :length])
            np.testing.assert_allclose(short, full[chosen], atol=1e-6, rtol=1e-5)


def test_needed_length() -> None:
    """A text needs the places up to its end: 14 words with begin and end fit into 16, 15 do not."""
    towers = TextTowers(build(CLIP), 77)
    ids = TOKENIZE(["cat " * n for n in (0, 14, 15, 30, 31, 75, 90)]).numpy()
    assert towers.needed(ids).tolist() == [16, 16, 32, 32, 77, 77, 77]


def test_weights_are_shared() -> None:
    """A shortened tower holds no second copy of the weights."""
    model = build(CLIP)
    tower: Any = TextTowers(model, 77).tower(16)
    short = tower.__self__
    assert short.token_embedding.weight.data_ptr() == model.token_embedding.weight.data_ptr()
    assert model.positional_embedding.shape[0] == model.attn_mask.shape[0] == 77


@pytest.mark.parametrize(("config", "context"), [(SIGLIP, 64), (COCA, 76)])
def test_others_run_in_full(config: dict[str, Any], context: int) -> None:
    """Towers that look both ways or end in a class token see the whole text."""
    towers = TextTowers(build(config), context)
    assert towers.lengths == (context,)
    assert towers.needed(np.zeros((3, context), np.int64)).tolist() == [context] * 3


def test_other_masks_run_in_full() -> None:
    """A mask that is not the causal one is left alone."""
    model = build(CLIP)
    model.attn_mask = torch.zeros(77, 77)
    assert TextTowers(model, 77).lengths == (77,)


def test_short_contexts() -> None:
    """A model of 20 places has no tower of 32."""
    config = CLIP | {"text_cfg": CLIP["text_cfg"] | {"context_length": 20}}
    assert TextTowers(build(config), 20).lengths == (16, 20)
