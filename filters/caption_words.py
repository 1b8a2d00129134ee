"""Keep captions of a sane length, in words and in characters.  About 0.25 µs a caption of nine words."""

from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, NonNegativeInt, model_validator

from pairsieve.filters._texts import count_tokens
from pairsieve.filters.base import Filter, Threshold, first_reason


class CaptionWords(Filter):
    """Count words and characters; keep captions of ``least`` to ``most`` words.

    One-word captions are mostly file names; the rest of a very long one never reaches a text encoder of 77
    tokens.  DataComp's basic rule: ``least: 3, most: null, least_characters: 6``; the caption rule of its
    image-based baseline: ``tokenizer: fasttext, least: 2, most: null, least_characters: 6``.
    Reasons: ``null_text``, ``too_few_words``, ``too_many_words``, ``too_short``.
    """

    reads = ("text",)
    writes = {"caption_words": pa.int32(), "caption_characters": pa.int32()}
    batch_rows = 65_536
    version = 2

    tokenizer: Literal["python", "fasttext"] = Field(
        "python",
        description="python: str.split, at any Unicode space; fasttext: fasttext.tokenize, at ASCII spaces and NUL, "
        "and one more word for each newline",
    )
    least: Threshold[NonNegativeInt] = Field(3, description="fewest words that stay")
    most: Threshold[NonNegativeInt | None] = Field(64, description="most words that stay; null: any number")
    least_characters: Threshold[NonNegativeInt] = Field(0, description="fewest code points that stay, spaces included")

    @model_validator(mode="after")
    def _in_order(self) -> "CaptionWords":
        if self.most is not None and self.least > self.most:
            raise ValueError(f"least ({self.least}) is above most ({self.most})")
        return self

    def score(self, pairs: pa.RecordBatch) -> dict[str, pa.Array]:
        text = pairs["text"]
        words = count_tokens(text) if self.tokenizer == "fasttext" else _split(text)
        return {"caption_words": words, "caption_characters": pc.utf8_length(text).cast(pa.int32())}

    def keep(self, pairs: pa.RecordBatch) -> pa.Array:
        words = pairs["caption_words"]
        tests = [(pc.is_null(words), "null_text"), (pc.less(words, self.least), "too_few_words")]
        if self.most is not None:
            tests.append((pc.greater(words, self.most), "too_many_words"))
        if self.least_characters:
            tests.append((pc.less(pairs["caption_characters"], self.least_characters), "too_short"))
        return first_reason(len(words), *tests)


def _split(text: pa.Array) -> pa.Array:
    """Words as ``str.split`` counts them."""
    text = pc.utf8_trim_whitespace(text)
    words = pc.list_value_length(pc.utf8_split_whitespace(text))
    # splitting an empty string gives one empty word
    return pc.if_else(pc.equal(text, ""), 0, words).cast(pa.int32())
