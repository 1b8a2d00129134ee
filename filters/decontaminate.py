"""Drop pairs that are too close to an evaluation set: by embeddings, captions, perceptual hashes, or a stored score.

Embeddings cost one product with each reference: 0.2 GFLOP a pair for 200,000 of width 512, which is 350 pairs a
CPU-second.  Captions of 140 bytes cost 1 to 2 µs, whatever the number of references; these take 6 µs each when a
worker starts.  A hash that is stored takes 1 µs against 100,000 references within 4 of 64 bits, one to be measured what
``near_duplicate_image`` takes.  A stored score costs nothing.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import (
    Field,
    PrivateAttr,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from pairsieve.filters._match_texts import is_text
from pairsieve.filters._products import resources_of
from pairsieve.filters._ranked import missing
from pairsieve.filters._reference_embeddings import Nearest
from pairsieve.filters._reference_files import CAPTIONS, EMBEDDINGS, sets_of
from pairsieve.filters._reference_hashes import HASHES, PICTURES, USUAL, WIDEST, Kind
from pairsieve.filters._reference_look import look
from pairsieve.filters._reference_ngrams import Grams
from pairsieve.filters._tensors import FileNames, check_column, check_rows, matrix_of
from pairsieve.filters.base import AnyFilter, Filter, Resources, Runtime, Threshold, UnknownColumnError, first_reason

if TYPE_CHECKING:  # decoders take 0.15 s to import
    from pairsieve.filters._near_hashes import NearHashes

COLUMNS = {"embeddings": "dedup", "captions": "text", "score": "dedup-isc-ft-v107-score", "hashes": "image"}
"""The usual column of each measure: the descriptors of DataComp's pool, captions, DataComp's stored score, images."""
OF_HASHES = ("bits", "radius", "distance", "mirrored", "decode")
ONLY = {"normalize": "embeddings", "device": "embeddings", "ngram": "captions", **dict.fromkeys(OF_HASHES, "hashes")}
"""Settings that belong to one measure."""
MISSING = {"embeddings": "no_embedding", "captions": "no_text", "hashes": "no_hash"}
MOST_SETS = 1000
DISTANCE = "decontaminate_distance"


class Decontaminate(Filter):
    """Measure how close a pair is to the nearest evaluation set; drop what is above ``threshold``.

    ``by: embeddings``: the greatest cosine with a reference, exactly (``normalize: false``: inner product).
    ``by: captions``: the greatest share of the caption's n-grams of words that one set has; a caption of fewer
    than ``ngram`` words counts as a whole, and is close only to the very same caption.  ``by: hashes``: the least
    Hamming distance of perceptual hashes as ``near_duplicate_image`` has them, exactly within ``radius``
    (``decontaminate_distance``; radius + 1 stands for all that is farther); what is within ``distance`` goes.
    ``by: score``: a column that holds such a measure already; nothing is written.  DataComp drops cosines above
    0.604169 on the descriptors of ISC21's winner.  A threshold counts in the column's own type, as in pandas:
    0.604169 as float32 is not above itself.
    ``decontaminate_set`` names the nearest set, of equals the first in the alphabet, and is null where no n-gram
    is shared or no hash is within the radius; a pair that is close to two sets counts for the nearest.
    Reasons: ``like_<set>`` (``like_reference`` by score), ``no_embedding`` (null, of another width, not finite, or
    zeros, which have no cosine), ``no_text``, ``no_hash`` (no image, or one that is broken, too large or flat),
    ``no_score`` (null or NaN): what cannot be compared is not known to be clean.
    """

    writes = {"decontaminate_similarity": pa.float32(), "decontaminate_set": pa.string()}
    batch_rows = 8192
    loads_model = True

    by: Literal["embeddings", "captions", "hashes", "score"] = Field(description="what is compared")
    references: Mapping[str, str | tuple[str, ...]] = Field(
        {},
        description="set: files or globs of embeddings (.npy, .npz, .pt, .parquet), captions (.parquet, .txt), hashes "
        "(.npy, .parquet) or images (folders, files, .tar, .parquet)",
    )
    threshold: Threshold[float | None] = Field(
        None, description="what is above it goes; needed unless by hashes", allow_inf_nan=False
    )
    column: str | None = Field(
        None,
        description="what of the pair is compared; default: dedup, text, dedup-isc-ft-v107-score, or the image itself; "
        "by hashes also a column of hashes, as 'phash' of near_duplicate_image",
    )
    key: str | None = Field(None, description="array or column of a reference file with several")
    normalize: bool = Field(True, description="divide embeddings by their lengths, so that products are cosines")
    ngram: int = Field(13, description="words of an n-gram", ge=1, le=100)
    bits: Literal[64, 256] = Field(64, description="bits of a hash")
    radius: int | None = Field(
        None, ge=0, description="distance that is searched for; null: 4 of 64 bits (12 at most), 14 of 256 (48)"
    )
    distance: Threshold[int | None] = Field(None, ge=0, description="bits that may differ; null: radius (the most)")
    mirrored: bool = Field(False, description="also find mirror images; a column's hashes must be 'mirrored' ones")
    decode: Literal["fast", "exact"] = Field("fast", description="fast: JPEGs are decoded small and grey")
    device: Runtime[Literal["auto", "cpu", "cuda"]] = Field("auto", description="auto: the GPU where there is one")

    _nearest: Nearest | Grams | None = PrivateAttr(None)
    _hashes: "NearHashes | None" = PrivateAttr(None)
    _names: tuple[str, ...] = PrivateAttr(())

    @field_validator("references", mode="before")
    @classmethod
    def _are_named(cls, value: object) -> object:
        if isinstance(value, str | list | tuple):
            example = value if isinstance(value, str) else "FILE"
            raise ValueError(f"give each set a name: 'references: {{NAME: {example}}}'")
        return value

    @field_validator("references")
    @classmethod
    def _plain_names(cls, value: Mapping[str, FileNames]) -> Mapping[str, FileNames]:
        """Names become reasons and rows of reports."""
        for name, files in value.items():
            if not files:
                raise ValueError(f"{name}: names no file; give a file or a glob")
            if not re.fullmatch(r"[A-Za-z0-9][\w.-]{0,63}", name, re.ASCII):
                raise ValueError(f"{name!r}: name a set with up to 64 letters, digits, '_', '.' and '-'")
        if len(value) > MOST_SETS:
            raise ValueError(f"{len(value)} sets, more than {MOST_SETS}; several files may be one set")
        return value

    @model_validator(mode="after")
    def _goes_together(self) -> "Decontaminate":
        if self.by == "score" and (self.references or self.key is not None):
            raise ValueError("by: score compares nothing with 'references' or their 'key'; leave them out")
        if self.by != "score" and not self.references:
            raise ValueError(f"by: {self.by} compares with 'references'; name the files of at least one set")
        for name in sorted(self.model_fields_set & ONLY.keys()):
            if ONLY[name] != self.by:
                raise ValueError(f"{name!r} belongs to by: {ONLY[name]}, and this is by: {self.by}; leave it out")
        if (self.threshold is None) != (self.by == "hashes"):
            wanted = "give 'distance' instead" if self.by == "hashes" else "give one; what is above it goes"
            raise ValueError(f"threshold: by: {self.by} {'has none' if self.by == 'hashes' else 'needs it'}; {wanted}")
        if self._radius > WIDEST[self.bits]:
            raise ValueError(f"'radius' of {self.bits} bits is at most {WIDEST[self.bits]}")
        if self._distance > self._radius:
            raise ValueError(f"'distance' is at most 'radius', here {self._radius}: raise 'radius' too")
        if self.by == "captions" and not 0 <= self._threshold < 1:
            raise ValueError(f"threshold: {self.threshold} is no share; give one from 0 to below 1 (0: any n-gram)")
        return self

    @model_serializer(mode="wrap")
    def _in_force(self, given: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Settings of hashes are written where hashes are compared, so that other steps measure as before."""
        found: dict[str, Any] = given(self)
        other = ("threshold",) if self.by == "hashes" else OF_HASHES
        own = {name: value for name, value in found.items() if name not in other}
        return own | ({"radius": self._radius} if "radius" in own else {})

    @property
    def _threshold(self) -> float:
        assert self.threshold is not None  # but by hashes
        return self.threshold

    @property
    def _radius(self) -> int:
        return USUAL[self.bits] if self.radius is None else self.radius

    @property
    def _distance(self) -> int:
        return self._radius if self.distance is None else self.distance

    @property
    def _kind(self) -> Kind:
        return Kind(self.bits, self.mirrored, self.decode == "fast")

    @property
    def _column(self) -> str:
        return self.column or COLUMNS[self.by]

    def needs(self) -> tuple[str, ...]:
        return {"embeddings": ("torch",), "captions": ("numba",), "hashes": ("numba",), "score": ()}[self.by]

    def imports(self) -> tuple[str, ...]:
        names = {"captions": "_reference_kernels", "hashes": "_hash_kernels"}
        return (f"pairsieve.filters.{names[self.by]}",) if self.by in names else ()

    def inputs(self, available: Mapping[str, pa.DataType]) -> tuple[str, ...]:
        return () if self.by == "score" else (self._column,)

    def keep_inputs(self, available: Mapping[str, pa.DataType]) -> tuple[str, ...]:
        return (self._column,) if self.by == "score" else ()

    def outputs(self, available: Mapping[str, pa.DataType]) -> dict[str, pa.DataType]:
        if self.by == "hashes":
            return {DISTANCE: pa.int16(), "decontaminate_set": pa.string()}
        return {} if self.by == "score" else dict(self.writes)

    def check(self, available: Mapping[str, pa.DataType]) -> None:
        if self._column not in available:
            raise UnknownColumnError(self._column, available)
        kind = available[self._column]
        if self.by == "score" and not pa.types.is_floating(kind):
            raise ValueError(f"column {self._column!r} is {kind}, not a float score")
        if self.by == "captions" and not is_text(kind):
            raise ValueError(f"column {self._column!r} is {kind}, not strings")
        if self.by == "hashes":
            from pairsieve.filters._near_hashes import check_hash_column

            check_hash_column(kind, self._column, self.bits, self.column in (None, COLUMNS["hashes"]))
        width = check_column(kind, self._column) if self.by == "embeddings" else None
        widths = {} if width is None else {f"column {self._column!r}": width}
        look(self.by, self._sets(), self.key, self._kind, widths)

    def check_after(self, earlier: Sequence[AnyFilter]) -> None:
        if self.by == "hashes" and self._column != COLUMNS["hashes"]:
            from pairsieve.filters._near_hashes import check_hashes_before

            check_hashes_before(self._column, self._kind, earlier)

    def _sets(self) -> dict[str, tuple[str, ...]]:
        if self.by == "hashes":
            return sets_of(self.references, HASHES, PICTURES)
        return sets_of(self.references, CAPTIONS if self.by == "captions" else EMBEDDINGS)

    def files(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(file for files in self._sets().values() for file in files))

    def resources(self) -> Resources:
        return resources_of(self.device if self.by == "embeddings" else "cpu")

    def prepare(self) -> tuple[str, ...]:
        if self.by != "hashes":
            return ()
        from pairsieve.filters._reference_pictures import reference_hashes

        return tuple(reference_hashes(self._sets(), self.key, self._kind)[2])

    def open(self) -> None:
        sets = self._sets()
        self._names = tuple(sets)
        if self.by == "embeddings":
            self._nearest = Nearest(sets, self.key, self.normalize, self.device)
        elif self.by == "captions":
            self._nearest = Grams(sets, self.ngram, self.key)
        elif self.by == "hashes":
            from pairsieve.filters._near_hashes import NearHashes

            self._hashes = NearHashes(sets, self.key, self._kind, self._radius)

    def close(self) -> None:
        self._nearest = self._hashes = None

    def score(self, pairs: pa.RecordBatch) -> dict[str, pa.Array]:
        if self.by == "score":
            return {}
        names = pa.array(self._names, pa.string())
        if self._hashes is not None:
            distances, sets, lost = self._hashes.find(pairs[self._column])
            nearest = {DISTANCE: pa.array(distances, mask=lost)}
            return {**nearest, "decontaminate_set": names.take(pa.array(sets, mask=lost | (sets < 0)))}
        values, places = self._measure(pairs[self._column])
        return {
            "decontaminate_similarity": pa.array(values, mask=np.isnan(values)),
            "decontaminate_set": names.take(pa.array(places, mask=places < 0)),
        }

    def _measure(self, column: pa.Array) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """float32[n]: the greatest similarity, NaN for none; int64[n]: the place of its set, -1 for none."""
        if isinstance(self._nearest, Nearest):
            check_rows(column, self._nearest.width, self._column, "the references have")
            vectors, is_known = matrix_of(column, self._nearest.width)
            values, places = self._nearest.find(vectors)
        else:
            assert isinstance(self._nearest, Grams)
            is_plain = pa.types.is_string(column.type) or pa.types.is_large_string(column.type)
            values, places = self._nearest.find(column if is_plain else column.cast(pa.large_string()))
            is_known = column.is_valid().to_numpy(zero_copy_only=False)
        return np.where(is_known, values, np.float32(math.nan)), np.where(is_known, places, -1)

    def keep(self, pairs: pa.RecordBatch) -> pa.Array:
        if self.by == "score":
            scores = pairs[self._column]
            tests = (missing(scores), "no_score"), (_above(scores, self._threshold), "like_reference")
            return first_reason(pairs.num_rows, *tests)
        measured, sets = pairs[next(iter(self.outputs({})))], pairs["decontaminate_set"].dictionary_encode()
        reasons = pa.array([MISSING[self.by], *(f"like_{name}" for name in sets.dictionary.to_pylist())], pa.string())
        is_missing = pc.is_null(measured)
        codes = pc.if_else(is_missing, 0, pc.add(pc.fill_null(sets.indices, 0), 1))
        if self.by == "hashes":
            is_close = pc.fill_null(pc.less_equal(measured, self._distance), False)
        else:
            is_close = _above(measured, self._threshold)
        stays = pc.invert(pc.or_(is_missing, is_close))
        return pa.DictionaryArray.from_arrays(pc.if_else(stays, None, codes).cast(pa.int32()), reasons)


def _above(scores: pa.Array, threshold: float) -> pa.Array:
    """Where a score is above a threshold of its own type; false where there is none."""
    values = scores.to_numpy(zero_copy_only=False)
    with np.errstate(over="ignore"):
        return pa.array(values > values.dtype.type(threshold))
