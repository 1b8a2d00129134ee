"""Tokens are those of open_clip's own tokenizer, and what is cut off is counted."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

open_clip = pytest.importorskip("open_clip")

from pairsieve.filters import _clip_tokens  # noqa: E402
from pairsieve.filters._clip_tokens import MOST_CHARACTERS, Tokens  # noqa: E402

SIMPLE = open_clip.SimpleTokenizer()
MINE = Tokens(open_clip.SimpleTokenizer())
HARD = [
    "A photo of a cat.",
    "it's we'll they've I'm you'd aren't",
    "&lt;b&gt; Fish &amp;amp; chips &eacute;",
    "<start_of_text> one <end_of_text> two <END_OF_TEXT>",
    "lines\r\nand\ttabs \x1b[31mred\x1b[0m \x00 nul",
    "caf\u00c3\u00a9 \u2018quoted\u2019 \uff21\uff22 \u8fd9\u662f \U0001f600",
    "x" * 500,
    "12345 2-for-1 $5.99!!! ___ #tag @you",
    "",
    " \n ",
    " \n" * 6000 + "a red circle",
    "\u0130stanbul STRASSE \u1e9e",
    "\x85",
    " \x85\x85 a red circle \x85",
    "\x1c\x1d\x1e\x1f\xa0\u3000 a red circle",
]


@pytest.mark.parametrize("text", HARD)
def test_hard_texts(text: str) -> None:
    """Contractions, entities, special tokens, mojibake, numbers and long words are taken apart as by open_clip."""
    np.testing.assert_array_equal(MINE.ids([text]), SIMPLE([text]).numpy())


@settings(max_examples=150, deadline=None)
@given(st.lists(st.one_of(st.text(max_size=80), st.text("abcDEF '&;<>_.1 ", max_size=200)), max_size=4))
def test_equals_open_clip(texts: list[str]) -> None:
    """Any text gives open_clip's tokens, whatever was tokenized before."""
    np.testing.assert_array_equal(MINE.ids(texts), SIMPLE(texts).numpy())
    np.testing.assert_array_equal(MINE.ids_and_cut(texts)[0], SIMPLE(texts).numpy())


@pytest.mark.parametrize(("clean", "context"), [("canonicalize", 64), ("whitespace", 20)])
def test_other_cleaning(clean: str, context: int) -> None:
    """A tokenizer's own cleaning and context length hold."""
    made, other = (open_clip.SimpleTokenizer(clean=clean, context_length=context) for _ in range(2))
    texts = ["A Photo, of_a -- CAT! " * 9, "Plain Text"]
    np.testing.assert_array_equal(Tokens(made).ids(texts), other(texts).numpy())


def test_cut_is_counted() -> None:
    """A text of n tokens with begin and end has n - 77 too many."""
    texts = ["cat " * n for n in (0, 1, 74, 75, 76, 200)]
    ids, cut = MINE.ids_and_cut(texts)
    assert cut.tolist() == [0, 0, 0, 0, 1, 125]
    assert (ids[-1] != 0).all()
    assert ids[-1, -1] == SIMPLE.eot_token_id


def test_cut_counts_the_beginning_of_a_huge_text() -> None:
    """Of megabytes the first characters are counted, and no more are tokenized."""
    huge = "cat " * 1_000_000
    assert MINE.ids_and_cut([huge])[1].tolist() == [MOST_CHARACTERS // 4 - 75]
    np.testing.assert_array_equal(MINE.ids([huge]), MINE.ids(["cat " * 100]))


@pytest.mark.parametrize("reduction", ["simple", "random", "shuffle"])
def test_never_augmented(reduction: str) -> None:
    """A tokenizer made to drop tokens at random, for training, cuts at the end here: the same text, the same tokens."""
    made = Tokens(open_clip.SimpleTokenizer(context_length=16, reduction_mask=reduction))
    text = " ".join(f"word{i}" for i in range(60))
    plain = open_clip.SimpleTokenizer(context_length=16)([text]).numpy()
    for _ in range(3):
        np.testing.assert_array_equal(made.ids([text]), plain)


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Words are forgotten when they are many, open_clip's own memory of them too; tokens stay right."""
    monkeypatch.setattr(_clip_tokens, "MOST_WORDS", 50)
    own = open_clip.SimpleTokenizer()
    made: Any = Tokens(own)
    texts = [f"word{chr(97 + i % 26)}{chr(97 + i // 26)} <end_of_text> x" for i in range(300)]
    np.testing.assert_array_equal(made.ids(texts), SIMPLE(texts).numpy())
    assert len(made._words) <= 50
    assert len(own.cache) <= 60


def test_no_texts() -> None:
    """None in, none out."""
    assert MINE.ids([]).shape == (0, 77)
    assert MINE.ids_and_cut([])[1].shape == (0,)


def test_other_tokenizers(tmp_path: Path) -> None:
    """A tokenizer of transformers gives what open_clip's wrapper gives, from threads too, and its cuts are counted."""
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    words = {"<pad>": 0, "</s>": 1, "<unk>": 2, "cat": 3, "dog": 4}
    core = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<unk>"))
    core.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    end = {"single": "$A </s>", "special_tokens": [("</s>", 1)]}
    core.post_processor = tokenizers.processors.TemplateProcessing(**end)
    names = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=core, **names).save_pretrained(str(tmp_path))
    theirs = open_clip.tokenizer.HFTokenizer(str(tmp_path), context_length=8, clean="canonicalize")
    made = Tokens(open_clip.tokenizer.HFTokenizer(str(tmp_path), context_length=8, clean="canonicalize"))
    texts = ["cat", "Dog, DOG!", "cat " * 7, "cat " * 8, "cat " * 100]
    ids, cut = made.ids_and_cut(texts)
    np.testing.assert_array_equal(ids, theirs(texts).numpy())
    assert cut.tolist() == [0, 0, 0, 1, 93]
    with ThreadPoolExecutor(8) as pool:
        for found in pool.map(made.ids, [texts] * 64):
            np.testing.assert_array_equal(found, ids)
    assert made.ids([]).shape == (0, 8) and made.ids_and_cut([])[1].shape == (0,)
