"""The entries that CLIP's authors, and MetaCLIP's, took of WordNet: 86,654 of version 3.0.

The name of a synset is its first lemma, in lower case, without the marker of an adjective's place, cut at the
first full stop ("St._Petersburg" is "st"), underscores as spaces.  "0" to "99" come with them.
"""

import hashlib
import re
from collections.abc import Iterable

from pairsieve.filters import _wordnet
from pairsieve.filters._wordnet import Source
from pairsieve.pipelines.metadata_out import FileEntry

_MARKER = re.compile(r"\((a|p|ip)\)$")
NUMBERS = 100


def find_wordnet(given: str | None) -> Source:
    """WordNet 3.0 at a path, or in the usual places; raises ``UserError``."""
    return _wordnet.find(given)


def wordnet_entries(source: Source) -> list[str]:
    """The entries, sorted by code points; raises ``UserError`` for damaged files."""
    names = {_name(lemma) for lemma in _wordnet.synset_names(source)} - {""}
    return sorted(names | {str(number) for number in range(NUMBERS)})


def _name(lemma: str) -> str:
    return _MARKER.sub("", lemma).lower().split(".", 1)[0].replace("_", " ")


def wordnet_files(source: Source) -> Iterable[FileEntry]:
    """WordNet's data files, by their digests, for the manifest."""
    for part in _wordnet.PARTS.values():
        content = source.read(f"data.{part}")
        digest = hashlib.sha256(content).hexdigest()
        yield FileEntry(path=f"{source.path}: data.{part}", size=len(content), stamp=f"sha256 {digest}")
