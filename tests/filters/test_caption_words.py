"""Words as Python counts them."""

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
    assert time.perf_counter() - start < 5


def test_order() -> None:
    """Bounds that let nothing pass are a mistake."""
    with pytest.raises(ValueError, match="is above most"):
        CaptionWords(least=5, most=4)
