"""N-grams of words shared with evaluation sets, against Python's own strings and sets."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pairsieve.filters import _reference_ngrams
from pairsieve.filters._reference_ngrams import Grams, gram_keys, letters
from pairsieve.schemas.errors import UserError
from tests.support_references import grams, overlap, words, write_captions

MADE_OF = [
    "a",
    "Dog",
    "dog,",
    "cat",
    "DON'T",
    "dont",
    "été",
    "e\u0301te\u0301",
    "İ",
    "—",
    "❤\ufe0f",
    "犬が走る",
    "1",
    "½",
]
WORDS = st.sampled_from(MADE_OF)
SPACES = st.sampled_from([" ", "  ", "\t", "\n", "\u00a0", "\u3000", "\x1f", "\u200b", ", "])
CAPTIONS = st.one_of(
    st.lists(st.tuples(WORDS, SPACES), max_size=12).map(lambda parts: "".join(word + space for word, space in parts)),
    st.text(max_size=30),
)


@given(st.lists(CAPTIONS, max_size=8), st.lists(CAPTIONS, min_size=1, max_size=8), st.integers(1, 5))
def test_keys_are_those_of_the_words(one: list[str], other: list[str], n: int) -> None:
    """Two n-grams have the same key exactly where their normalised words are the same."""
    texts = [*one, *other]
    keys, ends = gram_keys(pa.array(texts, pa.string()), n)
    wanted = [gram for text in texts for gram in grams(text, n)]
    assert ends.tolist() == np.cumsum([len(grams(text, n)) for text in texts]).tolist()
    assert len(keys) == len(wanted)
    assert len({*zip(wanted, keys.tolist(), strict=True)}) == len({*wanted}) == len({*keys.tolist()})


def test_every_character_counts_as_the_rule_says() -> None:
    """All code points: a space, nothing, or a lower-case letter."""
    table = letters()
    for point in [*range(0x3000), *range(0xD800, 0x11000), *range(0x1E000, 0x20000), *range(0xE0000, 0xE0200)]:
        if 0xD800 <= point < 0xE000:
            assert table[point] == 0
            continue
        char = chr(point)
        wanted = 1 if char.isspace() else ord(words(char)[0]) if words(char) else 0
        assert table[point] == wanted, hex(point)
    assert not table[0x40000:].any()


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string()])
@pytest.mark.parametrize("ending", [".txt", ".parquet"])
@given(st.lists(CAPTIONS, min_size=1, max_size=6), st.lists(st.one_of(CAPTIONS, st.none()), max_size=8), st.data())
def test_overlap_is_the_literal_share(
    tmp_path_factory: pytest.TempPathFactory,
    kind: pa.DataType,
    ending: str,
    known: list[str],
    captions: list[str | None],
    data: st.DataObject,
) -> None:
    """Share and set, for captions made of those of the sets and others; a slice gives what the whole gives."""
    n, folder = data.draw(st.integers(1, 4)), tmp_path_factory.mktemp("sets")
    known = [" ".join(text.split("\n")) for text in known]  # a text file has one caption a line
    sets = {"b": [*known, "a dog in the park"], "a": ["the cat sat on the mat", *known[:1]], "c": ["x y z"]}
    files = {name: [write_captions(folder / f"{name}{ending}", sets[name])] for name in sorted(sets)}
    captions += [f"{text} and a dog" for text in known]
    made = Grams(files, n)
    share, place = made.find(pa.array(captions, kind))
    for i, text in enumerate(captions):
        if text is not None:
            found = float(share[i]), None if place[i] < 0 else sorted(sets)[place[i]]
            assert found == overlap(text, sets, n), text
    again, _ = made.find(pa.array(["!", *captions], kind).slice(1))
    assert np.array_equal(again, share)


def test_short_captions_match_as_a_whole(tmp_path: Path) -> None:
    """Fewer words than n: the same caption is one, a part of a caption or one with more words is none."""
    files = {"s": [write_captions(tmp_path / "s.txt", ["a dog in the park today, again", "Red car!"])]}
    share, _ = Grams(files, 4).find(pa.array(["red   CAR", "red car here", "red", "a dog in", "dog in the park", ""]))
    assert share.tolist() == [1, 0, 0, 0, 1, 0]


def test_a_long_caption_keeps_its_place(tmp_path: Path) -> None:
    """Of 100,000 words one n-gram is known, at any place."""
    files = {"s": [write_captions(tmp_path / "s.txt", ["w500 w501 w502"])]}
    text = " ".join(f"w{i}" for i in range(100_000))
    share, place = Grams(files, 3).find(pa.array([text, None, "w500 w501 w502"]))
    assert share[[0, 2]].tolist() == [np.float32(1 / 99_998), 1.0]
    assert place[[0, 2]].tolist() == [0, 0]


def test_bytes_that_are_no_text_do_no_harm(tmp_path: Path) -> None:
    """Parquet may hold any bytes as strings: what is no character is left out, also at the end of a caption."""
    files = {"s": [write_captions(tmp_path / "s.txt", ["dog"])]}
    raw = [
        b"dog\xff",
        b"\xc3dog",
        b"do\x80g",
        b"dog\xe2\x82",
        b"dog\xf0\x9f",
        b"dog\xf7\xbf\xbf\xbf",
        b"\xed\xa0\x80dog",
    ]
    texts = pa.Array.from_buffers(pa.string(), len(raw), pa.array(raw, pa.binary()).buffers())
    assert Grams(files, 1).find(texts)[0].tolist() == [1, 0, 1, 1, 1, 1, 1]


def test_sets_without_a_word(tmp_path: Path) -> None:
    """A set that can match nothing is a mistake, named with its file."""
    files = {"s": [write_captions(tmp_path / "s.txt", ["!!!", "", "…"])]}
    with pytest.raises(UserError, match=r"references: s: no caption with a word in .*s\.txt"):
        Grams(files, 3)


@pytest.mark.parametrize("held", [1, 5000, 1 << 24])
def test_files_are_united(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held: int) -> None:
    """Several files are one set, in any order, however often keys are merged; a file is read to the end."""
    monkeypatch.setattr(_reference_ngrams, "HELD", held)
    many = [f"caption number {i % 9000}" for i in range(12_000)]
    one, other = write_captions(tmp_path / "a.parquet", many), write_captions(tmp_path / "b.txt", ["the end"])
    for files in ((one, other), (other, one)):
        made = Grams({"s": files}, 3)
        share, _ = made.find(pa.array(["caption number 8999", "the end", "caption number 9000"]))
        assert share.tolist() == [1, 1, 0]
