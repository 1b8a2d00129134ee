"""Keep one of the pairs whose captions are nearly the same, wherever they lie: MinHash, bands, Jaccard similarity.

A caption of 96 bytes takes 0.4 µs of CPU to measure as words, 0.7 µs as characters (2 µs more with SHA-1); a candidate
0.3 and 1.3 µs to compare.  Keys are 140 and 170 bytes a pair.
"""

from collections.abc import Mapping
from typing import Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field, FieldSerializationInfo, NonNegativeFloat, PositiveInt, field_serializer, model_validator

from pairsieve.filters import _jaccard
from pairsieve.filters._match_texts import is_text
from pairsieve.filters._minhash import KEYS, Hash, MinHash, Unit
from pairsieve.filters._minhash_bands import for_recall, optimum
from pairsieve.filters._normal_text import Normal, mapped_code_points, normal_texts
from pairsieve.filters._preferred import Preferred
from pairsieve.filters.base import NearFilter, Threshold, UnknownColumnError

NGRAM = {"characters": 5, "words": 1}
THRESHOLD = {"characters": 0.7, "words": 0.8}
BALANCED = (0.5, 0.5)
"""datasketch's own weights."""
KEY, SIGNATURE = "near_duplicate_text_keys", "near_duplicate_text_signature"


class NearDuplicateText(Preferred, NearFilter):
    """Keep the best pair of each cluster of nearly equal captions; the reason is ``near_duplicate``.

    Captions are compared without case, punctuation, symbols and repeated spaces, compatible forms of Unicode being
    one, by the Jaccard similarity of their sets of shingles: ``ngram`` code points or words in a row.  A caption of
    fewer is one shingle, itself; one without a letter or digit is like no other.  Candidates are captions that are
    equal once normal, and those whose MinHash signatures, which are datasketch's, agree in a band.

    Short captions: where one shingle more or less decides, "size 41" and "size 42" are either both dropped with
    hundreds of others or none is.  So a caption of fewer than ``least_shingles`` distinct ones is a duplicate only of
    those that are equal once normal.
    """

    batch_rows = 65_536
    extra = "dedup"
    loads_model = True
    opens_fast = True

    text: str = Field("text", description="column of captions")
    shingles: Unit = Field("characters", description="what shingles are made of; characters need no spaces (CJK)")
    ngram: PositiveInt | None = Field(None, le=1000, description="units of a shingle; null: 5 characters, or 1 word")
    threshold: Threshold[float | None] = Field(
        None,
        gt=0,
        le=1,
        description="least Jaccard similarity of duplicates; null: 0.7 for characters, 0.8 for words. Another one "
        "measures again where it means other bands; give 'bands' and 'rows' to try several",
    )
    verify: Literal["exact", "estimated", "none"] = Field(
        "exact",
        description="which candidates are duplicates: exact, those whose Jaccard similarity reaches the threshold; "
        "estimated, those whose signatures do (512 bytes a pair are stored); none, all of them",
    )
    num_perm: PositiveInt = Field(128, le=1024, description="values of a signature")
    hash: Hash = Field("xxh32", description="hash of a shingle; sha1 is datasketch's own, and 2 to 4 times slower")
    seed: int = Field(1, ge=0, lt=2**32, description="of the permutations, as datasketch's")
    bands: PositiveInt | None = Field(
        None,
        description="bands of a signature; null, with rows: such that 97.4 % of the pairs at the threshold meet, or "
        "by 'weights'",
    )
    rows: PositiveInt | None = Field(None, description="values of a band")
    weights: Threshold[tuple[NonNegativeFloat, NonNegativeFloat] | None] = Field(
        None,
        description="choose bands and rows as datasketch's MinHashLSH does with these weights of false positives and "
        "negatives; null: [0.5, 0.5] where verify is none, else for recall",
    )
    least_shingles: PositiveInt = Field(
        5, le=1000, description="captions of fewer distinct shingles are duplicates of equal ones only"
    )

    @model_validator(mode="after")
    def _goes_together(self) -> "NearDuplicateText":
        if (self.bands is None) != (self.rows is None):
            raise ValueError("give both 'bands' and 'rows', or neither")
        if self.bands is not None and self.weights and self.banding != self._chosen:
            raise ValueError("'weights' choose 'bands' and 'rows'; leave out the one or the others")
        if self.weights is not None and not 0.999 < sum(self.weights) < 1.001:
            raise ValueError("weights: they must add up to 1")
        bands, rows = self.banding
        if bands * rows > self.num_perm:
            raise ValueError(f"{bands} bands of {rows} rows are more values than num_perm, {self.num_perm}")
        return self

    @field_serializer("bands", "rows")
    def _in_force(self, value: int | None, info: FieldSerializationInfo) -> int:
        """Stored keys depend on those in force, so these are written: a threshold that changes neither is not."""
        return self.banding[info.field_name == "rows"]

    @property
    def banding(self) -> tuple[int, int]:
        """The bands, and the rows of each."""
        return (self.bands, self.rows) if self.bands is not None and self.rows is not None else self._chosen

    @property
    def _chosen(self) -> tuple[int, int]:
        weights = self.weights or (BALANCED if self.verify == "none" else None)
        return optimum(self.least, self.num_perm, weights) if weights else for_recall(self.least, self.num_perm)

    @property
    def least(self) -> float:
        """The least Jaccard similarity of duplicates."""
        return THRESHOLD[self.shingles] if self.threshold is None else self.threshold

    @property
    def units(self) -> int:
        """Code points or words of a shingle."""
        return self.ngram or NGRAM[self.shingles]

    @property
    def key_column(self) -> str:
        return KEY

    @property
    def reason(self) -> str:
        return "near_duplicate"

    def needs(self) -> tuple[str, ...]:
        return ("numba",)

    def imports(self) -> tuple[str, ...]:
        return tuple(f"pairsieve.filters._{name}_kernels" for name in ("normal_text", "minhash", "jaccard"))

    def inputs(self, available: Mapping[str, pa.DataType]) -> tuple[str, ...]:
        return (self.text,)

    def outputs(self, available: Mapping[str, pa.DataType]) -> dict[str, pa.DataType]:
        signature = {SIGNATURE: pa.list_(pa.uint32(), self.num_perm)} if self.verify == "estimated" else {}
        return {KEY: KEYS, **signature}

    def compared(self, available: Mapping[str, pa.DataType]) -> tuple[str, ...]:
        return (SIGNATURE,) if self.verify == "estimated" else (self.text,)

    def check(self, available: Mapping[str, pa.DataType]) -> None:
        if self.text not in available:
            raise UnknownColumnError(self.text, available)
        if not is_text(available[self.text]):
            raise ValueError(f"text: column {self.text!r} is {available[self.text]}, not strings")
        self.check_preferred(available)

    def open(self) -> None:
        from pairsieve.filters import _jaccard_kernels, _minhash_kernels, _normal_text_kernels  # noqa: F401

        mapped_code_points()

    def score(self, pairs: pa.RecordBatch) -> dict[str, pa.Array]:
        made = MinHash(self.shingles, self.units, self.num_perm, self.hash, self.seed)
        signed = self.verify == "estimated"
        found = made.sketch(_normal(pairs[self.text]), *self.banding, self.least_shingles, signed)
        return {KEY: found.keys, **({SIGNATURE: found.signatures} if signed else {})}

    def alike(self, one: pa.RecordBatch, other: pa.RecordBatch) -> NDArray[np.bool_]:
        if self.verify == "none":
            return np.ones(one.num_rows, np.bool_)
        if self.verify == "estimated":
            return _jaccard.estimated(one[SIGNATURE], other[SIGNATURE]) >= self.least
        texts, others = (_normal(pairs[self.text]) for pairs in (one, other))
        return _jaccard.exact(texts, others, self.shingles, self.units) >= self.least


def _normal(texts: pa.Array) -> Normal:
    is_plain = pa.types.is_string(texts.type) or pa.types.is_large_string(texts.type)
    return normal_texts(texts if is_plain else texts.cast(pa.large_string()))
