"""Languages of captions that people wrote in 78 languages: what ours says, and what the libraries say."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fasttext
import gcld3
import pyarrow as pa
import pytest

from pairsieve.filters._cld3 import LANGUAGES
from pairsieve.filters.language import Language
from tests.real.test_stamps import captions

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def pairs(stamp_files: list[Path]) -> list[tuple[str, str]]:
    """(language, caption) of every caption file."""
    return [pair for file in stamp_files if file.suffix == ".txt" for pair in captions(file)]


@pytest.fixture(scope="module")
def texts(pairs: list[tuple[str, str]]) -> list[str]:
    """Every caption, alone, and joined to three at a time: 19 and 60 characters on average."""
    alone = [text for _, text in pairs]
    return alone + ["\n".join(alone[i : i + 3]) for i in range(0, len(alone), 3)]


def measured(texts: Sequence[str], **settings: Any) -> list[tuple[str, float]]:
    """Both columns of the filter."""
    made = Language(**settings)
    made.open()
    found = made.score(pa.record_batch({"text": pa.array(texts)}))
    return list(zip(found["lang"].to_pylist(), found["lang_probability"].to_pylist(), strict=True))


def test_fasttext_on_every_caption(texts: list[str]) -> None:
    """Not one label differs from the library's, and no probability by a millionth."""
    peer: Any = fasttext.load_model(Language().files()[0])
    assert len(texts) > 80_000
    wrong = []
    for text, (language, probability) in zip(texts, measured(texts), strict=True):
        (label,), (p,) = peer.predict(text.replace("\n", " "))
        if label != f"__label__{language}" or abs(p - probability) > 1e-6:
            wrong.append((text, language, label))
    assert not wrong


def test_cld3_on_every_language(pairs: list[tuple[str, str]]) -> None:
    """Not one language differs from the library's over every fifth caption."""
    texts = [text for _, text in pairs[::5]]
    peer = gcld3.NNetLanguageIdentifier(min_num_bytes=0, max_num_bytes=1000)
    found = [name for name, _ in measured(texts, library="cld3")]
    assert found == [peer.FindLanguage(text).language for text in texts]
    assert set(found) <= LANGUAGES


def test_english_captions_are_found(pairs: list[tuple[str, str]]) -> None:
    """Of captions that say what they are in three words and more, most English ones stay, few others do."""
    kept: dict[bool, list[bool]] = {True: [], False: []}
    long = [(language.startswith("en"), text) for language, text in pairs if len(text.split()) >= 3]
    for (is_english, _), (found, _) in zip(long, measured([text for _, text in long]), strict=True):
        kept[is_english].append(found == "en")
    assert sum(kept[True]) / len(kept[True]) > 0.85
    assert sum(kept[False]) / len(kept[False]) < 0.08
