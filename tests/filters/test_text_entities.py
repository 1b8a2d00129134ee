"""Entities in captions, as DataComp's text-based filter finds them with nltk."""

import random
import shutil
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pairsieve.filters import _entity_words, _wordnet
from pairsieve.filters._entity_words import EntityWords
from pairsieve.filters.text_entities import TextEntities, read_ids
from pairsieve.pipelines.run import run
from pairsieve.schemas.errors import UserError
from tests.support import kept_texts, recipe, write_csv
from tests.support_wordnet import DEBIAN, first_offset, need_wordnet, nltk_reader

ENDINGS = ("s", "es", "ed", "ing", "er", "est", "men", "ies", "ves", "ses", "ches", "ss", "ings", "eds", "mens", "'s")
SPACES = "\x1c\x1f\x85\u3000\u00a0\u2028\u200b\ufeff \t\n\0"


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """nltk's reader."""
    need_wordnet()
    return nltk_reader(tmp_path_factory.mktemp("wordnet"))


@pytest.fixture(scope="module")
def made() -> Iterator[TextEntities]:
    """The filter as it comes, opened."""
    need_wordnet()
    found = TextEntities()
    found.open()
    yield found
    found.close()


@pytest.fixture(scope="module")
def wordnet() -> _wordnet.WordNet:
    """Our own reader."""
    need_wordnet()
    return _wordnet.WordNet.load(_wordnet.find(None))


def count(made: TextEntities, texts: list[str | None]) -> list[int | None]:
    """The measured column."""
    found: list[int | None] = made.score(pa.record_batch({"text": pa.array(texts, pa.string())}))[
        "entity_tokens"
    ].to_pylist()
    return found


@pytest.fixture(scope="module")
def lookups(wordnet: _wordnet.WordNet) -> list[EntityWords]:
    """All synsets as entities, then those whose offset has the first bit set, the second, …"""
    known = {offset for first in wordnet.first.values() for offset in first.values()}
    bits = [{offset for offset in known if offset >> bit & 1} for bit in range(24)]
    return [EntityWords(wordnet, ids) for ids in (known, *bits)]


def offsets(lookups: list[EntityWords], words: list[str]) -> list[int | None]:
    """The first synset of each word, bit by bit."""
    texts = pa.array(words, pa.string())
    is_named, *bits = [lookup.count(texts).astype(np.int64) for lookup in lookups]
    found = sum((bit << i for i, bit in enumerate(bits)), np.zeros(len(words), np.int64))
    return [int(offset) if named else None for offset, named in zip(found, is_named, strict=True)]


def forms(wordnet: _wordnet.WordNet) -> list[str]:
    """Every lemma and irregular form, and some of them with an ending put on or in the place of theirs."""
    words = sorted({word for part in "nvar" for word in (*wordnet.first[part], *wordnet.irregular[part])})
    chance = random.Random(0)
    made = [word[: chance.choice((None, -1, -2))] + chance.choice(ENDINGS) for word in chance.choices(words, k=30_000)]
    return words + made


def test_as_datacomp(reader: Any, wordnet: _wordnet.WordNet, lookups: list[EntityWords]) -> None:
    """Every lemma, irregular form and form by rule has the first synset of nltk 3.8.1's rule over nltk's tables."""
    words = forms(wordnet)
    differ = [w for w, found in zip(words, offsets(lookups, words), strict=True) if found != first_offset(reader, w)]
    assert differ == []


def test_as_nltk(reader: Any, wordnet: _wordnet.WordNet) -> None:
    """The rule with one round of endings is that of the nltk installed here, so its tables are read rightly."""
    for form in random.Random(1).choices(forms(wordnet), k=8000):
        found = reader.synsets(form)
        assert first_offset(reader, form, rounds=1) == (found[0].offset() if found else None), form


def test_known(wordnet: _wordnet.WordNet, lookups: list[EntityWords]) -> None:
    """Case, endings put on twice, irregular plurals, underscores and the sign for kelvin lead to the lemma."""
    words = ["Dogs", "womens", "geese", "Running", "golden_retriever", "\u212aNIFE", "dog" + "s" * 250]
    names = ["dog", "woman", "goose", "running", "golden_retriever", "knife", "dog"]
    assert offsets(lookups, words) == [wordnet.first["n"][name] for name in names]


def test_unknown(lookups: list[EntityWords]) -> None:
    """Punctuation, NUL, letters that only look alike, accents and endless tokens name nothing."""
    words = ["", "dog,", "dog's", "dog\0", "dog\0dogbane", "d\u0130g", "dög", "x" * 99_999, "dog" + "s" * 254]
    assert offsets(lookups, words) == [None] * len(words)


def caption() -> st.SearchStrategy[str]:
    """Captions of words, near-words and anything, with all kinds of space between."""
    names = (
        "dog",
        "Women",
        "CAT",
        "red",
        "the",
        "run",
        "geese",
        "knif",
        "golden_retriever",
        "\u212aing",
        "\u0130",
        "ß",
        "Σ",
    )
    word = st.builds(str.__add__, st.sampled_from(names), st.sampled_from(("", *ENDINGS, ",", "(a)")))
    some = word | st.text(st.sampled_from("aensgidr_'") | st.characters(exclude_categories=["Cs"]), max_size=8)
    return st.lists(some | st.sampled_from(SPACES)).map(" ".join) | st.lists(some | st.sampled_from(SPACES)).map(
        "".join
    )


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.none() | caption(), max_size=6), st.integers(0, 3))
def test_captions(reader: Any, made: TextEntities, texts: list[str | None], start: int) -> None:
    """Any captions, also in slices of a batch, count the tokens of ``split()`` that DataComp's rule accepts."""
    ids = read_ids("imagenet21k")
    expected = [None if t is None else sum(first_offset(reader, w) in ids for w in t.split()) for t in texts]
    batch = pa.record_batch({"text": pa.array(texts, pa.string())})
    assert made.score(batch.slice(start))["entity_tokens"].to_pylist() == expected[start:]


def test_every_character(reader: Any, made: TextEntities) -> None:
    """Each character of Unicode, beside and within a word, leads where Python's ``split`` and ``lower`` lead."""
    ids = read_ids("imagenet21k")
    points = [chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000]
    for shape in ("dog{}cat", "{}ing"):
        texts = [shape.format(point) for point in points]
        tokens = {w for t in texts for w in t.split() if w.lower().isascii()}
        named = {w for w in tokens if first_offset(reader, w) in ids}
        assert count(made, [*texts]) == [sum(w in named for w in t.split()) for t in texts]


def test_part_of_speech_is_dropped(made: TextEntities, wordnet: _wordnet.WordNet, lookups: list[EntityWords]) -> None:
    """A word that is no form of a noun counts where its offset is that of some entity."""
    ids, parts = read_ids("imagenet21k"), wordnet.first
    words = [w for part in "var" for w, at in parts[part].items() if at in ids and w not in parts["n"]]
    words = [w for w, at in zip(words, offsets(lookups, words), strict=True) if at in ids]
    assert words
    assert count(made, [*words]) == [1] * len(words)


def test_verdicts() -> None:
    """``least`` is inclusive; a null caption goes for that."""
    batch = pa.record_batch({"entity_tokens": pa.array([0, 1, 2, None], pa.int32())})
    assert TextEntities().keep(batch).to_pylist() == ["no_entity", None, None, "null_text"]
    assert TextEntities(least=2).keep(batch).to_pylist() == ["no_entity", "no_entity", None, "null_text"]
    with pytest.raises(ValueError, match="greater than 0"):
        TextEntities(least=0)


def test_lists(tmp_path: Path) -> None:
    """A list of the user's, and ImageNet-1k, decide instead of ImageNet-21k."""
    need_wordnet()
    (tmp_path / "ids.txt").write_text("n02084071\n")
    for entities, expected in ((str(tmp_path / "ids.txt"), [1, 0, 0]), ("imagenet1k", [0, 1, 1])):
        made = TextEntities(entities=entities)
        made.open()
        assert count(made, ["two dogs", "a tench", "tenches here"]) == expected


def test_huge(made: TextEntities) -> None:
    """Captions of 5 MB are counted in a moment."""
    began = time.perf_counter()
    assert count(made, ["dog " * 1_000_000, "x" * 5_000_000, "s" * 5_000_000, " " * 5_000_000]) == [1_000_000, 0, 0, 0]
    assert time.perf_counter() - began < 5


def test_no_place_to_keep_compiled_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no folder can be written to, each process compiles anew."""
    monkeypatch.setattr("numba.core.caching.CompileResultCacheImpl._locator_classes", [])
    assert _entity_words._compiled(_twice)(4) == 8


def _twice(number: int) -> int:
    return 2 * number


def test_no_rows(made: TextEntities) -> None:
    """An empty batch is no trouble."""
    assert count(made, []) == []
    assert count(made, [None]) == [None]


def debian_zip(path: Path, folder: str) -> Path:
    """A zip file as nltk downloads it."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name in (*(f"index.{p}" for p in _wordnet.PARTS.values()), *(f"{p}.exc" for p in _wordnet.PARTS.values())):
            file.write(DEBIAN / name, folder + name)
    return path


def test_zip(tmp_path: Path, wordnet: _wordnet.WordNet) -> None:
    """nltk's zip file holds the same WordNet as the folder, and is the file that the fingerprint covers."""
    path = debian_zip(tmp_path / "wordnet.zip", "wordnet/")
    assert _wordnet.WordNet.load(_wordnet.find(str(path))) == wordnet
    assert str(path) in TextEntities(wordnet=str(path)).files()


def test_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """WordNet's variables come first, then nltk's folders, then the system's."""
    need_wordnet()
    for name in ("WNSEARCHDIR", "WNHOME", "NLTK_DATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert _wordnet.find(None).path == DEBIAN
    corpora = tmp_path / "nltk_data" / "corpora"
    corpora.mkdir(parents=True)
    debian_zip(corpora / "wordnet.zip", "wordnet/")
    assert _wordnet.find(None).path == corpora / "wordnet.zip"
    shutil.copytree(corpora, tmp_path / "else" / "corpora")
    monkeypatch.setenv("NLTK_DATA", f"{tmp_path}/nothing:{tmp_path}/else")
    assert _wordnet.find(None).path == tmp_path / "else" / "corpora" / "wordnet.zip"
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "dict").symlink_to(DEBIAN)
    monkeypatch.setenv("WNHOME", str(tmp_path / "home"))
    assert _wordnet.find(None).path == tmp_path / "home" / "dict"


def test_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a WordNet the error says how to get one."""
    monkeypatch.setattr(_wordnet, "_places", lambda: iter([tmp_path]))
    with pytest.raises(UserError, match="apt install wordnet-base"):
        TextEntities().check({"text": pa.string()})
    with pytest.raises(UserError, match=r"holds no index\.noun"):
        TextEntities(wordnet=str(tmp_path)).check({"text": pa.string()})


def damaged(folder: Path, name: str, old: str, new: str) -> str:
    """A folder with one of the files changed."""
    need_wordnet()
    for file in DEBIAN.iterdir():
        if file.is_file():
            (folder / file.name).symlink_to(file)
    content = (folder / name).read_text()
    assert old in content
    (folder / name).unlink()
    (folder / name).write_text(content.replace(old, new))
    return str(folder)


def test_other_version(tmp_path: Path) -> None:
    """WordNet 3.1 is refused: its offsets are others."""
    with pytest.raises(UserError, match=r"is version 3\.1, and offsets are those of 3\.0"):
        TextEntities(wordnet=damaged(tmp_path, "index.noun", "WordNet 3.0", "WordNet 3.1")).check({})


def test_damaged_index(tmp_path: Path) -> None:
    """A damaged line is named."""
    made = TextEntities(wordnet=damaged(tmp_path, "index.verb", "abandon v 5 4", "abandon v 5 99"))
    with pytest.raises(UserError, match=r"index\.verb, line \d+ is damaged"):
        made.open()


def test_missing_file(tmp_path: Path) -> None:
    """A folder that lacks a file is refused with the file's name."""
    made = TextEntities(wordnet=damaged(tmp_path, "verb.exc", "", ""))
    (tmp_path / "verb.exc").unlink()
    with pytest.raises(UserError, match=r"verb\.exc cannot be read: No such file"):
        made.open()


@pytest.mark.parametrize(
    ("content", "says"), [("n0208407\n", "is no WordNet id"), ("", "is empty"), ("\0" * 9, "is no")]
)
def test_bad_list(tmp_path: Path, content: str, says: str) -> None:
    """A list of anything but WordNet ids is refused; so is one that is not there."""
    (tmp_path / "ids.txt").write_text(content)
    with pytest.raises(UserError, match=says):
        TextEntities(entities=str(tmp_path / "ids.txt")).check({})
    with pytest.raises(UserError, match="there is no file 'imagenet22k'; write imagenet21k, imagenet1k"):
        TextEntities(entities="imagenet22k").check({})


def test_changed_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A list that is not the published one does not pass under its name."""
    (tmp_path / "ids.txt").write_text("n02084071\n")
    monkeypatch.setattr("pairsieve.filters.text_entities._ids_file", lambda _: tmp_path / "ids.txt")
    with pytest.raises(UserError, match="is not DataComp's list"):
        read_ids("imagenet21k")


def test_run(tmp_path: Path) -> None:
    """A run keeps DataComp's pairs, and says of the others why they went."""
    need_wordnet()
    texts = ["Womens shoes", "of the and", "dog, dog.", "a DOG"]
    pool = write_csv(tmp_path / "list.csv", [{"url": f"http://e.org/{i}", "text": t} for i, t in enumerate(texts)])
    result = run(recipe(pool, "text_entities"), tmp_path / "run", engine="local", workers=1)
    assert kept_texts(result) == ["Womens shoes", "a DOG"]
    assert result.tally.dropped == {("text_entities", "no_entity"): 2}
