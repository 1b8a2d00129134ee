"""WordNet's part of the metadata: 86,654 entries of version 3.0."""

from pathlib import Path

import pytest

from pairsieve.filters import _wordnet
from pairsieve.pipelines.metadata_wordnet import find_wordnet, wordnet_entries
from pairsieve.schemas.errors import UserError
from tests.support_wordnet import DEBIAN, need_wordnet


@pytest.fixture(scope="module")
def entries() -> list[str]:
    """Of Debian's WordNet 3.0."""
    need_wordnet()
    return wordnet_entries(find_wordnet(str(DEBIAN)))


def test_wordnet_gives_the_papers_number(entries: list[str]) -> None:
    """86,654 distinct entries, sorted, none empty: the number of MetaCLIP's Table 1."""
    assert len(entries) == len(set(entries)) == 86_654
    assert entries == sorted(entries)
    assert "" not in entries


def test_names_are_cut_as_in_the_paper(entries: list[str]) -> None:
    """Lower case, no marker, cut at the first full stop, spaces; the numbers to 99 and no more."""
    assert {"st", "ph", "o", "ice cream", "galore", "0", "99"} <= set(entries)
    assert not {"100", "st.", "Ph.D.", "ice_cream", "galore(ip)"} & set(entries)
    assert not any("_" in entry or "." in entry or entry.endswith(")") for entry in entries)


def test_every_synset_is_read() -> None:
    """One lemma for each of WordNet 3.0's 117,659 synsets."""
    need_wordnet()
    assert sum(1 for _ in _wordnet.synset_names(_wordnet.find(str(DEBIAN)))) == 117_659


def test_a_damaged_file_is_one_line(tmp_path: Path) -> None:
    """A line without fields names file, line and next step; so does a folder without the data files."""
    need_wordnet()
    (tmp_path / "index.noun").write_bytes((DEBIAN / "index.noun").read_bytes()[:4096])
    source = find_wordnet(str(tmp_path))
    with pytest.raises(UserError, match=r"data\.noun cannot be read"):
        wordnet_entries(source)
    (tmp_path / "data.noun").write_text("  1 licence\n00001740 03 n\n")
    with pytest.raises(UserError, match=r"data\.noun, line 2 is damaged"):
        wordnet_entries(source)
