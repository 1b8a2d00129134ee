"""Words as Python or fastText counts them, and characters."""

import re
import time

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pairsieve.filters.caption_words import CaptionWords

SPACES = "\x1c\x1d\x1e\x1f\x85\u3000\u00a0\u2028\u200b\u180e\ufeff \t\n\r\x0b\x0c\0"


def count(texts: list[str | None]) -> list[int | None]:
    """The measured column."""
    found: list[int | None] = (
        CaptionWords().score(pa.record_batch({"text": pa.array(texts, pa.string())}))["caption_words"].to_pylist()
    )
    return found


@given(st.lists(st.text(st.sampled_from(SPACES + "ab漢") | st.characters(exclude_categories=["Cs"])), max_size=8))
def test_as_split(texts: list[str]) -> None:
    """The count is ``len(text.split())`` for any text."""
    assert count([*texts]) == [len(text.split()) for text in texts]


def test_every_character() -> None:
    """Each character of Unicode separates words, or does not, as in Python."""
    texts = [f"a{chr(c)}b" for c in range(0x110000) if not 0xD800 <= c < 0xE000]
    assert count([*texts]) == [len(text.split()) for text in texts]


def tokens(text: str) -> int:
    """As fastText's ``readWord``: runs between its seven separators, and each newline."""
    return len(re.findall(rb"[^ \t\n\v\f\r\0]+|\n", text.encode()))


def score(texts: pa.Array, **settings: str) -> dict[str, list[int | None]]:
    """Both columns."""
    found = CaptionWords.model_validate(settings).score(pa.record_batch({"text": texts}))
    return {name: column.to_pylist() for name, column in found.items()}


@pytest.mark.parametrize(
    ("text", "count"),
    [("word\n", 2), ("a\u00a0b\u3000c", 1), ("", 0), ("\n\n", 2), (" a\0b\x1fc ", 2), ("a\r\nb", 3), ("\0", 0)],
)
def test_tokens_of_fasttext(text: str, count: int) -> None:
    """``fasttext.tokenize`` splits at ASCII spaces and NUL only, and makes a token of each newline."""
    assert score(pa.array([text]), tokenizer="fasttext")["caption_words"] == [count]


@given(
    st.lists(
        st.none() | st.text(st.sampled_from(SPACES + "ab漢") | st.characters(exclude_categories=["Cs"])), max_size=8
    ),
    st.integers(0, 4),
)
def test_tokens_and_characters(texts: list[str | None], start: int) -> None:
    """Tokens and code points of any texts, in any slice and type; nulls have neither."""
    expected = [None if text is None else (tokens(text), len(text)) for text in texts][start:]
    for kind in (pa.string(), pa.large_string()):
        found = score(pa.array(texts, kind).slice(start), tokenizer="fasttext")
        pairs = zip(found["caption_words"], found["caption_characters"], strict=True)
        assert [None if words is None else (words, size) for words, size in pairs] == expected


def test_nulls_over_bytes() -> None:
    """What lies under a null does not count."""
    whole = pa.array(["a b", "c d e", "f"])
    buffers = whole.buffers()
    texts = pa.Array.from_buffers(pa.string(), 3, [pa.py_buffer(b"\x05"), *buffers[1:]])
    assert score(texts, tokenizer="fasttext")["caption_words"] == [2, None, 1]


def test_few_characters() -> None:
    """``least_characters`` counts code points of the raw caption, and is asked last."""
    made = CaptionWords(least=3, most=None, least_characters=6)
    batch = pa.record_batch({"text": ["a b c", "a b cd", "a b  c", "ab", "漢 字 漢字", None, "a " * 100]})
    said = made.keep(pa.record_batch(made.score(batch))).to_pylist()
    assert said == ["too_short", None, None, "too_few_words", None, "null_text", None]


def test_null() -> None:
    """A null caption has no count and goes for that."""
    made = CaptionWords()
    batch = pa.record_batch({"text": pa.array([None], pa.string())})
    scored = made.score(batch)
    assert scored["caption_words"].to_pylist() == [None]
    assert made.keep(pa.record_batch(scored)).to_pylist() == ["null_text"]


def test_bounds() -> None:
    """``least`` and ``most`` are inclusive."""
    batch = pa.record_batch({"caption_words": pa.array([1, 2, 4, 5], pa.int32())})
    said = CaptionWords(least=2, most=4).keep(batch).to_pylist()
    assert said == ["too_few_words", None, None, "too_many_words"]


def test_huge() -> None:
    """A caption of 5 MB is counted in a moment."""
    start = time.perf_counter()
    assert count(["word " * 1_000_000, "x" * 5_000_000, " " * 5_000_000]) == [1_000_000, 1, 0]
    assert score(pa.array(["word " * 1_000_000, "\n" * 5_000_000]), tokenizer="fasttext")["caption_words"] == [
        1_000_000,
        5_000_000,
    ]
    assert time.perf_counter() - start < 5


def test_order() -> None:
    """Bounds that let nothing pass are a mistake."""
    with pytest.raises(ValueError, match="is above most"):
        CaptionWords(least=5, most=4)
