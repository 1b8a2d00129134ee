"""nltk's reader on Debian's WordNet 3.0, and DataComp's rule written out slowly with nltk's own tables."""

import shutil
from pathlib import Path
from typing import Any

import pytest

DEBIAN = Path("/usr/share/wordnet")


def need_wordnet() -> None:
    """Skip where Debian's package is not installed; CI installs it."""
    if not (DEBIAN / "index.noun").is_file():
        pytest.skip("needs the Debian package wordnet-base")


def nltk_reader(folder: Path) -> Any:
    """nltk's reader of a corpus that is made of Debian's files, and of those that Debian leaves out."""
    import nltk
    from nltk.corpus.reader.wordnet import WordNetCorpusReader

    nltk.data.path.append(str(folder))  # nltk opens no file elsewhere, nor one behind a link
    corpus = folder / "corpora" / "wordnet"
    corpus.mkdir(parents=True)
    for file in DEBIAN.iterdir():
        if file.is_file():
            shutil.copy(file, corpus)
    (corpus / "lexnames").write_text("".join(f"{i:02d}\tname{i}\t1\n" for i in range(45)))
    (corpus / "index.sense").write_text("")
    return WordNetCorpusReader(str(corpus), object())


def first_offset(reader: Any, token: str, rounds: int | None = None) -> int | None:
    """The first synset's offset; endings go ``rounds`` times, or until a lemma is found, as in nltk 3.8.1."""
    word = token.lower()
    for part in "nvar":
        for form in _bases(reader, word, part, rounds):
            return int(reader._lemma_pos_offset_map[form][part][0])
    return None


def _bases(reader: Any, word: str, part: str, rounds: int | None) -> list[str]:
    def known(forms: list[str]) -> list[str]:
        return [f for f in forms if f in reader._lemma_pos_offset_map and part in reader._lemma_pos_offset_map[f]]

    if word in reader._exception_map[part]:
        return known([word, *reader._exception_map[part][word]])
    forms, done = [word], 0
    while forms:
        if found := known(forms):
            return found
        if done == rounds:
            break
        rules = reader.MORPHOLOGICAL_SUBSTITUTIONS[part]
        forms = [f.removesuffix(old) + new for f in forms for old, new in rules if f.endswith(old)]
        done += 1
    return []
