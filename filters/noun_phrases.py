"""The noun phrases of a caption, by spaCy's parser: what ``entry_cap`` balances in LLaVA's way.

About 1.7 ms of CPU a caption of 16 words with spaCy's smallest architecture, the wall of a recipe that uses it.
"""

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, PositiveInt, PrivateAttr

from pairsieve.filters.base import Filter, first_reason
from pairsieve.schemas.errors import UserError

BATCH = 64
"""Captions that the parser is given together: what each gets does not depend on it, bit for bit, as tests check."""


class NounPhrases(Filter):
    """List the distinct noun phrases of each caption, ascending; drop captions that are null.

    A phrase is the text of a spaCy noun chunk with its white space made single spaces.  A caption without one
    has an empty list and stays: ``entry_cap`` decides.  A chunk is a noun with all that comes before it
    ("the green grass"), so articles make two phrases of one unless ``determiners: false`` takes them off.
    Reason: ``no_text``.
    """

    reads = ("text",)
    writes = {"noun_phrases": pa.list_(pa.string()), "noun_phrase_count": pa.int32()}
    batch_rows = 1024
    extra = "phrases"
    loads_model = True

    model: str = Field("en_core_web_sm", description="spaCy pipeline with a parser: an installed package, or a folder")
    lower: bool = Field(True, description="phrases in lower case")
    determiners: bool = Field(True, description="keep a determiner at the beginning: 'a dog', 'the dog', 'this dog'")
    most_characters: PositiveInt = Field(10_000, description="of a longer caption only so many characters are read")

    _nlp: Any = PrivateAttr(None)

    def needs(self) -> tuple[str, ...]:
        return ("spacy",)

    def check(self, available: Mapping[str, pa.DataType]) -> None:
        if find_spec("spacy") is not None:  # ``require_extra`` says where it is missing
            self._folder()

    def files(self) -> tuple[str, ...]:
        found = (path for path in self._folder().rglob("*") if path.is_file() and path.suffix not in (".pyc", ".py"))
        return tuple(str(path) for path in sorted(found))

    def imports(self) -> tuple[str, ...]:
        return ("spacy",)

    def open(self) -> None:
        import spacy

        try:
            self._nlp = spacy.load(self.model, exclude=["ner", "lemmatizer", "textcat"])
        except Exception as error:  # a damaged folder raises anything
            raise UserError(f"noun_phrases: model {self.model!r}: {_line(error)}; give a spaCy pipeline") from None
        if not {"parser", "tagger"} <= set(self._nlp.pipe_names):
            raise UserError(f"noun_phrases: model {self.model!r} has no tagger and parser; noun chunks need both")

    def close(self) -> None:
        self._nlp = None

    def score(self, pairs: pa.RecordBatch) -> dict[str, pa.Array]:
        texts = [None if t is None else t[: self.most_characters] for t in pairs["text"].to_pylist()]
        with self._nlp.memory_zone():  # what a caption's words leave behind goes with the batch
            docs = self._nlp.pipe([text for text in texts if text is not None], batch_size=BATCH)
            found = [None if text is None else self._phrases(next(docs)) for text in texts]
        counts = [None if phrases is None else len(phrases) for phrases in found]
        return {
            "noun_phrases": pa.array(found, pa.list_(pa.string())),
            "noun_phrase_count": pa.array(counts, pa.int32()),
        }

    def keep(self, pairs: pa.RecordBatch) -> pa.Array:
        return first_reason(pairs.num_rows, (pc.is_null(pairs["noun_phrase_count"]), "no_text"))

    def _phrases(self, doc: Any) -> list[str]:
        return sorted({text for chunk in doc.noun_chunks if (text := self._text(chunk))})

    def _text(self, chunk: Any) -> str:
        words = list(chunk)
        while not self.determiners and words and words[0].pos_ == "DET":
            words = words[1:]
        text = " ".join("".join(word.text_with_ws for word in words).split())
        return text.lower() if self.lower else text

    def _folder(self) -> Path:
        """Where the model's files are; raises ``UserError`` where there are none."""
        if Path(self.model).is_dir():
            return Path(self.model)
        spec = find_spec(self.model) if self.model.isidentifier() else None
        if spec is None or spec.origin is None:
            raise UserError(
                f"model {self.model!r} is no folder and no installed package; python -m spacy download en_core_web_sm"
            )
        return Path(spec.origin).parent


def _line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
