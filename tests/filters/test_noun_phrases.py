"""Noun phrases by a real spaCy parser, a small one that is trained here."""

import random
from pathlib import Path

import pyarrow as pa
import pytest

from pairsieve.filters.noun_phrases import NounPhrases
from pairsieve.pipelines.run import run
from pairsieve.schemas.errors import PairsieveError, RecipeError
from tests.support import recipe, write_csv
from tests.support_spacy import SENTENCES, WORDS, write_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a pipeline."""
    return write_model(tmp_path_factory.mktemp("spacy") / "model")


def phrases(made: NounPhrases, texts: list[str | None]) -> list[list[str] | None]:
    """What the opened filter lists."""
    found = made.score(pa.record_batch({"text": pa.array(texts, pa.string())}))
    lists: list[list[str] | None] = found["noun_phrases"].to_pylist()
    assert found["noun_phrase_count"].to_pylist() == [None if one is None else len(one) for one in lists]
    return lists


def opened(model: Path, **settings: bool | int) -> NounPhrases:
    """A filter with the model loaded."""
    made = NounPhrases.model_validate({"model": str(model), **settings})
    made.open()
    return made


def test_noun_chunks_are_listed(model: Path) -> None:
    """Distinct, ascending, in lower case; null has none, and no text no phrase."""
    texts = [SENTENCES[0][0], "The cat eats  two small fish", None, ""]
    wanted = [["a black dog", "the green grass"], ["the cat", "two small fish"], None, []]
    assert phrases(opened(model), texts) == wanted


def test_case_and_determiners(model: Path) -> None:
    """Both are the user's choice."""
    assert phrases(opened(model, lower=False), ["The cat eats two small fish"]) == [["The cat", "two small fish"]]
    assert phrases(opened(model, determiners=False), [SENTENCES[0][0]]) == [["black dog", "green grass"]]


def test_neighbours_do_not_matter(model: Path) -> None:
    """Each caption has what it has alone, in whatever batch."""
    rng = random.Random(0)
    texts: list[str | None] = [" ".join(rng.choices(WORDS, k=rng.randint(1, 30))) for _ in range(200)]
    made = opened(model)
    together = phrases(made, texts)
    assert [phrases(made, [text])[0] for text in texts] == together


def test_a_huge_caption_is_cut(model: Path) -> None:
    """A megabyte costs no more than its first characters."""
    made = opened(model, most_characters=36)
    assert phrases(made, [SENTENCES[0][0] + " the cat" * 100_000]) == phrases(made, [SENTENCES[0][0]])


def test_a_run_caps_what_captions_name(model: Path, tmp_path: Path) -> None:
    """LLaVA's rule: phrases of at least 3 captions choose at most 5 each."""
    rows = [{"url": f"http://e.org/{i}", "text": SENTENCES[i % 2][0] if i < 40 else f"{i}"} for i in range(42)]
    pool = write_csv(tmp_path / "list.csv", rows)
    steps = ({"noun_phrases": {"model": str(model)}}, {"entry_cap": {"entries": "noun_phrases", "most": 5, "least": 3}})
    found = run(recipe(pool, *steps), tmp_path / "run", workers=1)
    # two phrases of 20 captions choose 5 each, of the same 20: 5 to 10 of each sentence stay
    kept = found.query("SELECT text, count(*) AS n FROM scores WHERE dropped_by IS NULL GROUP BY 1").to_pylist()
    assert len(kept) == 2
    assert all(5 <= row["n"] <= 10 for row in kept)


def test_no_model(tmp_path: Path) -> None:
    """Named with what to do, before anything runs."""
    pool = write_csv(tmp_path / "list.csv", [{"url": "http://e.org/1", "text": "a"}])
    with pytest.raises(RecipeError, match="is no folder and no installed package; python -m spacy download"):
        run(recipe(pool, {"noun_phrases": {"model": "en_core_web_none"}}), tmp_path / "run")


def test_a_damaged_model(model: Path, tmp_path: Path) -> None:
    """One line."""
    folder = tmp_path / "damaged"
    folder.mkdir()
    (folder / "config.cfg").write_text("[nlp]\nlang = 'none'")
    pool = write_csv(tmp_path / "list.csv", [{"url": "http://e.org/1", "text": "a"}])
    with pytest.raises(PairsieveError, match=r"noun_phrases: model .*damaged"):
        run(recipe(pool, {"noun_phrases": {"model": str(folder)}}), tmp_path / "run", workers=1)
