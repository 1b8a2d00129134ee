"""Keep captions that name a thing of ImageNet, by WordNet: DataComp's text-based filter, without its language test.

About 1 µs a caption of 7.4 words.  Opening takes 0.8 s, and some seconds more at the first use on a machine.
"""

import hashlib
import re
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, PositiveInt, PrivateAttr

from pairsieve.filters import _wordnet
from pairsieve.filters.base import Filter, Runtime, Threshold, first_reason
from pairsieve.schemas.errors import UserError

if TYPE_CHECKING:
    from pairsieve.filters._entity_words import EntityWords

PUBLISHED = "66362bdedf36d933382edca5493fc562dcc17128ce36403c9e730a75f48cb2f2"
"""SHA-256 of DataComp's ``imagenet21k_wordnet_ids.txt``; timm ships the same file under another name."""
_LISTS = {"imagenet21k": "imagenet21k_goog_synsets.txt", "imagenet1k": "imagenet_synsets.txt"}
_MOST_BYTES = 1 << 26


class TextEntities(Filter):
    """Count words whose first WordNet 3.0 synset is an entity; keep captions with at least ``least`` of them.

    Words are those of Python's ``str.split()``: punctuation belongs to them, so *dog,* names
    nothing.  Case does not matter; *dogs* and *womens* are *dog* and *woman* (morphy, nltk 3.8.1).
    The first synset is that of the noun, else verb, adjective, adverb; its offset is looked for
    among the entities', whatever the part of speech, as DataComp does.  Reasons: ``null_text``,
    ``no_entity``.
    """

    reads = ("text",)
    writes = {"entity_tokens": pa.int32()}
    batch_rows = 65_536
    extra = "entities"

    wordnet: Runtime[str | None] = Field(
        None, description="WordNet 3.0's dict folder, nltk's corpora/wordnet or its zip; default: the usual places"
    )
    entities: str = Field("imagenet21k", description="imagenet21k, imagenet1k, or a file of n######## lines")
    least: Threshold[PositiveInt] = Field(1, description="fewest entity words that stay")

    _words: "EntityWords | None" = PrivateAttr(None)

    def needs(self) -> tuple[str, ...]:
        return ("numba", "timm") if self.entities in _LISTS else ("numba",)

    def check(self, available: Mapping[str, pa.DataType]) -> None:
        _wordnet.find(self.wordnet)
        if self.entities not in _LISTS or find_spec("timm"):  # ``require_extra`` says where it is missing
            read_ids(self.entities)

    def files(self) -> tuple[str, ...]:
        return (*_wordnet.find(self.wordnet).files, str(_ids_file(self.entities)))

    def imports(self) -> tuple[str, ...]:
        return ("pairsieve.filters._entity_words",)

    def open(self) -> None:
        from pairsieve.filters._entity_words import EntityWords  # numba takes 0.4 s to import

        wordnet = _wordnet.WordNet.load(_wordnet.find(self.wordnet))
        self._words = EntityWords(wordnet, read_ids(self.entities))

    def close(self) -> None:
        self._words = None

    def score(self, pairs: pa.RecordBatch) -> dict[str, pa.Array]:
        assert self._words is not None
        texts = pairs["text"].cast(pa.string())
        counts = self._words.count(texts)
        return {"entity_tokens": pa.array(counts, mask=pc.is_null(texts).to_numpy(zero_copy_only=False))}

    def keep(self, pairs: pa.RecordBatch) -> pa.Array:
        found = pairs["entity_tokens"]
        return first_reason(len(found), (pc.is_null(found), "null_text"), (pc.less(found, self.least), "no_entity"))


def read_ids(entities: str) -> frozenset[int]:
    """The offsets of a list of entities; raises ``UserError`` for a file that is missing or of another kind."""
    path = _ids_file(entities)
    try:
        content = path.read_bytes()[:_MOST_BYTES]
    except OSError as error:
        raise UserError(f"entities: {path} cannot be read: {error.strerror or error}") from None
    if entities == "imagenet21k" and hashlib.sha256(content).hexdigest() != PUBLISHED:
        raise UserError(f"entities: {path} is not DataComp's list; give its imagenet21k_wordnet_ids.txt as 'entities'")
    lines = content.decode("utf-8", "replace").split()
    if bad := next((line for line in lines if not re.fullmatch(r"[nvasr][0-9]{8}", line)), None):
        raise UserError(f"entities: {path}: {bad[:40]!r} is no WordNet id such as n02084071")
    if not lines:
        raise UserError(f"entities: {path} is empty; one WordNet id a line, such as n02084071")
    return frozenset(int(line[1:]) for line in lines)


def _ids_file(entities: str) -> Path:
    """The file of a list: timm's, found without importing timm, or a file of the user's."""
    if entities not in _LISTS:
        path = Path(entities).expanduser()
        if not path.is_file():
            raise UserError(f"entities: there is no file {entities!r}; write {', '.join(_LISTS)}, or name a file")
        return path
    spec = find_spec("timm")
    if spec is None or spec.origin is None:
        raise UserError(f"entities: {entities} is a file of timm's: pip install 'pairsieve[entities]'")
    return Path(spec.origin).parent / "data" / "_info" / _LISTS[entities]
