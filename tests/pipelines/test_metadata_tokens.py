"""What a word is: the compiled tokeniser against the definition written out character by character."""

import sys
from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pairsieve.pipelines.metadata_tokens import LONGEST, Spans, load_segmenter, segmented, spans
from pairsieve.schemas.errors import UserError
from tests.support_metadata import slow_stretches

SIGNS = st.sampled_from("aB9 \t\n'’-\u2010_.,éß\u0301\u093f\u200c\u200d\u00a0\u3000語かﷺ𝒳🙂\x00½")
TEXTS = st.lists(st.text(SIGNS, max_size=40) | st.text(max_size=40), max_size=5)


def stretches(found: Spans) -> list[list[str]]:
    """Words in lists of neighbours."""
    lists: list[list[str]] = []
    for word, follows in zip(found.words(), found.follows.tolist(), strict=True):
        if not follows:
            lists.append([])
        lists[-1].append(word)
    return lists


@given(TEXTS)
def test_words_are_those_of_the_definition(texts: list[str]) -> None:
    """Words and neighbours equal a scan of the characters, for any Unicode and several texts."""
    assert stretches(spans(pa.array(texts, pa.string()))) == [s for text in texts for s in slow_stretches(text)]


def test_many_texts_of_one_letter() -> None:
    """As many words as bytes: nothing lies between words of different texts."""
    found = spans(pa.array(["a"] * 5000))
    assert found.words() == ["a"] * 5000 and not found.follows.any()


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("Don't stop", [["Don't", "stop"]]),
        ("'quoted' well-known--x", [["quoted"], ["well-known"], ["x"]]),
        ("1,000.5 km²", [["1"], ["000"], ["5", "km²"]]),
        ("New\u00a0York\tCity, USA\nnext", [["New", "York", "City"], ["USA"], ["next"]]),
        ("हिन्दी भाषा", [["हिन्दी", "भाषा"]]),
        ("AT&T snake_case", [["AT"], ["T", "snake"], ["case"]]),
        ("  ", []),
    ],
)
def test_words_of_known_texts(text: str, wanted: list[list[str]]) -> None:
    """Case, accents and marks stay; punctuation, line ends and signs part neighbours, spaces and tabs do not."""
    assert stretches(spans(pa.array([text]))) == wanted


def test_a_word_too_long_is_a_break() -> None:
    """A run of letters over the limit is not counted, and parts its neighbours; at the limit it is a word."""
    text = f"a {'x' * (LONGEST + 1)} b {'y' * LONGEST}"
    assert stretches(spans(pa.array([text]))) == [["a"], ["b", "y" * LONGEST]]


def test_slices_and_large_strings() -> None:
    """A slice of an array, and one of large strings, give their own words alone."""
    texts = pa.array(["one two", "three", "four five"])
    assert spans(texts.slice(1)).words() == ["three", "four", "five"]
    assert spans(texts.cast(pa.large_string()).slice(0, 2)).words() == ["one", "two", "three"]
    assert spans(pa.array([], pa.string())).words() == []


def characters(line: str) -> Iterable[str]:
    """A segmenter: every character is a word."""
    return list(line)


def test_a_segmenter_decides_the_words() -> None:
    """Its tokens are words and neighbours; signs part them, blanks do not, and a line end does."""
    found = segmented(["東 京。駅\n北", ""], characters)
    assert stretches(found) == [["東", "京"], ["駅"], ["北"]]
    assert found.start.dtype == np.int64


def test_a_segmenter_is_found_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """``package.module:function`` is imported; a wrong name is one line."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    assert load_segmenter("tests.pipelines.test_metadata_tokens:characters")("ab") == ["a", "b"]
    for name in ("nowhere:x", "string:nothing", "string:digits", "string", ""):
        with pytest.raises(UserError, match="--segmenter"):
            load_segmenter(name)
