"""SIEVE: how near a text is, as a sentence, to what a captioner says of the image (arXiv 2310.02110).

No image is read: captions come from an earlier step (8 by BLIP-base, nucleus, in the paper).  A sentence takes
5.5 ms of one core at the size of all-MiniLM-L6-v2, so a pair with 8 captions 50.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import Field, PrivateAttr, model_validator

from pairsieve.filters import _text_lists, _top
from pairsieve.filters._fused import Ranges, fused
from pairsieve.filters._products import resources_of
from pairsieve.filters._ranked import Ranked, missing
from pairsieve.filters._sentences import Sentences, SentenceSource
from pairsieve.filters.base import Resources, Runtime, Threshold, UnknownColumnError

Columns: TypeAlias = dict[str, pa.Array]

PHRASES = ("an image of", "a photo of", "stock photo", "photo stock", "a photo", "an image", "image", "photo")
"""What texts and captions say of the medium: ``REMOVE_PHRASES`` of facebookresearch/SIEVE
(sentence_similarity_inference.py, e926a51), deleted one after the other wherever they stand, in words too."""


class Sieve(Ranked):
    """Greatest cosine of the sentence embeddings of a pair's text and its captions; keep by ``min`` or ``top``.

    ``phrases`` are deleted from both sides first, in any case, as the authors' code does; it gives 0 where the nearest
    caption consists of nothing else.  With ``clip`` what is compared is ``weight`` · SIEVE + (1 − ``weight``) · CLIP,
    each brought to 0..1 by its least and greatest value in the scope, the derived column ``sieve_fused`` (float64); the
    paper has 0.5, OpenAI's ViT-L/14, and the top 20 % of the pool (write ``of: pool``).  A score that is the same
    everywhere counts 0.

    Columns: ``sieve`` (float32), ``sieve_error`` (``no_text``, ``no_caption``).  Reasons: those, ``no_score`` (no CLIP
    score), ``below_min``, ``below_top``; with ``exclude``, ``not_below``.  Without ``min`` and ``top`` all stay.
    """

    reads = ("text",)
    writes = {"sieve": pa.float32(), "sieve_error": pa.string()}
    batch_rows = 1024
    extra = "caption"
    loads_model = True

    texts: tuple[str, ...] = Field(("caption",), min_length=1, description="columns of the image's captions")
    model: str = Field(
        "sentence-transformers/all-MiniLM-L6-v2",
        min_length=1,
        max_length=4096,
        description="sentence encoder of mean pooling: directory, or org/name on the hub",
    )
    revision: str | None = Field(None, min_length=1, max_length=255, description="branch, tag or commit on the hub")
    phrases: tuple[str, ...] = Field(PHRASES, description="deleted from text and captions, in this order")
    clip: Threshold[str | None] = Field(None, description="column of CLIP scores to fuse with, as clip_score")
    weight: Threshold[float] = Field(0.5, description="of SIEVE in the fused score", ge=0, le=1)
    device: Runtime[Literal["auto", "cpu", "cuda"]] = Field("auto", description="auto: the GPU where there is one")

    _sentences: Sentences | None = PrivateAttr(None)

    @model_validator(mode="after")
    def _weighted(self) -> "Sieve":
        if self.clip is None and "weight" in self.model_fields_set:
            raise ValueError("'weight' goes with 'clip', a column of CLIP scores")
        if any(not phrase.strip() for phrase in self.phrases):
            raise ValueError("'phrases' holds one without a letter")
        return self

    @property
    def score_column(self) -> str:
        """The column that is compared."""
        return "sieve_fused" if self.clip else "sieve"

    @property
    def _source(self) -> SentenceSource:
        return SentenceSource(model=self.model, revision=self.revision)

    def needs(self) -> tuple[str, ...]:
        return ("torch", "transformers")

    def inputs(self, available: Mapping[str, pa.DataType]) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*self.reads, *self.texts)))

    def keep_inputs(self, available: Mapping[str, pa.DataType]) -> tuple[str, ...]:
        return (self.clip,) if self.clip else ()

    def derived(self, available: Mapping[str, pa.DataType]) -> dict[str, pa.DataType]:
        return {"sieve_fused": pa.float64()} if self.clip else {}

    def check(self, available: Mapping[str, pa.DataType]) -> None:
        _text_lists.check_texts(self.texts, available)
        if self.clip and self.clip not in available:
            raise UnknownColumnError(self.clip, available)
        if self.clip:
            _top.check_type(available[self.clip])
        self._source.check()

    def files(self) -> tuple[str, ...]:
        return self._source.files()

    def resources(self) -> Resources:
        return resources_of(self.device)

    def imports(self) -> tuple[str, ...]:
        return self.needs()

    def open(self) -> None:
        self._sentences = Sentences.load(self._source, self.device, "sieve")

    def close(self) -> None:
        self._sentences = None

    def score(self, pairs: pa.RecordBatch) -> Columns:
        texts = pairs["text"].to_pylist()
        captions = self._captions(pairs)
        errors = [None if own and _is_text(text) else "no_caption" if _is_text(text) else "no_text"
                  for text, own in zip(texts, captions, strict=True)]  # fmt: skip
        scores = self._nearest([(text, own) for text, own, no in zip(texts, captions, errors, strict=True) if not no])
        found = np.full(pairs.num_rows, np.nan, np.float32)
        found[[i for i, error in enumerate(errors) if not error]] = scores
        return {"sieve": pa.array(found, mask=np.isnan(found)), "sieve_error": pa.array(errors, pa.string())}

    def _captions(self, pairs: pa.RecordBatch) -> list[list[str]]:
        """Of each pair, those that hold anything."""
        found: list[list[str]] = [[] for _ in range(pairs.num_rows)]
        for name in self.texts:
            flat, rows = _text_lists.flat(pairs[name])
            for text, row in zip(flat.to_pylist(), rows.tolist(), strict=True):
                if _is_text(text):
                    found[row].append(text)
        return found

    def _nearest(self, pairs: Sequence[tuple[str, Sequence[str]]]) -> NDArray[np.float32]:
        """Scores of pairs that have a text and captions."""
        assert self._sentences is not None
        texts = [self._plain(text) for text, _ in pairs]
        captions = [self._plain(caption) for _, own in pairs for caption in own]
        rows = np.repeat(np.arange(len(pairs)), [len(own) for _, own in pairs])
        embedded = self._sentences.embed([*texts, *captions])
        one, other = embedded[: len(texts)], embedded[len(texts) :]
        return _greatest(one, other, rows, np.array([not caption for caption in captions], bool))

    def _plain(self, text: str) -> str:
        """Without the phrases."""
        for phrase in self.phrases:
            text = re.sub(re.escape(phrase), "", text, flags=re.IGNORECASE)
        return text

    def is_settled(self, settled: Mapping[str, Any]) -> bool:
        return super().is_settled(settled) and (not self.clip or "least" in settled)

    def summarize(self, pairs: pa.RecordBatch, settled: Mapping[str, Any]) -> Any:
        """First the ranges of the two scores, then the digits of the fused one."""
        if not self.clip:
            return super().summarize(pairs, settled)
        return _top.count(self._fused(pairs, settled), settled) if "least" in settled else Ranges.of(self._both(pairs))

    def merge(self, one: Any, other: Any) -> Any:
        return one + other

    def settle(self, summary: Any, settled: Mapping[str, Any]) -> dict[str, Any]:
        if isinstance(summary, Ranges):
            return summary.settled()
        ranges = {name: settled[name] for name in ("least", "greatest") if name in settled}
        return ranges | super().settle(summary, settled)

    def derive(self, pairs: pa.RecordBatch, settled: Mapping[str, Any]) -> Columns:
        return {"sieve_fused": self._fused(pairs, settled)} if self.clip else {}

    def _both(self, pairs: pa.RecordBatch) -> list[pa.Array]:
        return [pairs["sieve"], pairs[self.clip]]

    def _fused(self, pairs: pa.RecordBatch, settled: Mapping[str, Any]) -> pa.Array:
        return fused(self._both(pairs), (self.weight, 1 - self.weight), settled)

    def keep(self, pairs: pa.RecordBatch, settled: Mapping[str, Any]) -> pa.Array:
        if self.min is None and self.top is None:
            return pa.nulls(pairs.num_rows, pa.string())
        reasons = super().keep(pairs, settled).cast(pa.string())
        why = pc.and_(missing(pairs[self.score_column]), pc.is_valid(pairs["sieve_error"]))
        return pc.if_else(why, pairs["sieve_error"], reasons)


def _is_text(text: str | None) -> bool:
    """Whether it holds more than space."""
    return bool(text and text.strip())


def _greatest(
    texts: NDArray[np.float32], captions: NDArray[np.float32], rows: NDArray[np.int64], empty: NDArray[np.bool_]
) -> NDArray[np.float32]:
    """float32[texts]: the greatest cosine with one of its captions, of ``rows``; 0 where that caption is empty."""
    cosines = np.einsum("ij,ij->i", texts[rows].astype(np.float64), captions) if len(rows) else np.zeros(0)
    cosines[np.isnan(cosines)] = -np.inf
    found, first = np.full(len(texts), -np.inf), np.full(len(texts), len(rows))
    np.maximum.at(found, rows, cosines)
    is_best = cosines == found[rows]
    np.minimum.at(first, rows[is_best], np.flatnonzero(is_best))
    found[empty[first]] = 0.0
    return np.where(np.isinf(found), np.nan, found).astype(np.float32)
