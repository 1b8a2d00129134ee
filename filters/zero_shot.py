"""Name what an image shows, of some labels, from its stored CLIP embedding: no image is decoded.

On a core 3 µs a pair for 10 labels, 21 for 1,000.  Prompts are embedded once a machine, and kept in its cache.
"""

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, PrivateAttr, field_validator, model_validator

from pairsieve.filters._cache import mapped
from pairsieve.filters._classes import Classifier, Logits, class_vectors, embedded
from pairsieve.filters._clip_model import ClipModel
from pairsieve.filters._labels import check_known, labels_file, names_of, prompts_of
from pairsieve.filters._of_embeddings import OfEmbeddings
from pairsieve.filters._products import device_of, resources_of
from pairsieve.filters._templates import templates_of
from pairsieve.filters._tensors import all_files, check_rows
from pairsieve.filters.base import Filter, Resources, Threshold, first_reason

CLIP_SCALE = 100.0
"""What CLIP's logit scale is bounded by in training, and ends at."""


class ZeroShot(OfEmbeddings, ClipModel, Filter):
    """Store the label whose prompts are nearest to an image's embedding; keep or drop pairs by it.

    A label's vector is the mean of the embeddings of its prompts, each of length 1, as in CLIP's zero-shot
    classification; ``model`` is the one that made the embeddings.  Or vectors come from a file (``classes``), and no
    model is run.  ``zero_shot_score`` is the cosine; ``zero_shot_probability`` the softmax over the labels at the
    model's logit scale, for models of the sigmoid loss the sigmoid.  A label below ``min`` or ``min_probability`` does
    not count: with ``drop`` such a pair stays, else it goes.  Reasons: ``no_embedding`` (null, zero, of another width,
    or not finite; not with ``drop``), ``below_min``, ``low_probability``, ``other_label`` (not of ``keep``),
    ``is_<label>`` (of ``drop``).
    """

    writes = {
        "zero_shot_label": pa.string(),
        "zero_shot_score": pa.float32(),
        "zero_shot_probability": pa.float32(),
    }
    batch_rows = 8192
    extra = "clip"
    loads_model = True

    labels: str | tuple[str, ...] | Mapping[str, str | tuple[str, ...]] = Field(
        description="list; or label: prompts; or a file of either: .txt (a label a line), .json"
    )
    templates: Literal["imagenet80", "simple"] | tuple[str, ...] | None = Field(
        None,
        description="imagenet80 (CLIP's 80), simple (7 of them), or a list with {} for the label; "
        "default: simple, and prompts of your own as they are",
    )
    classes: str | None = Field(
        None, description="vectors of the labels instead of a model: .npy, .npz or .pt, a row (or column) a label"
    )
    key: str | None = Field(None, description="array of a file of classes with several")
    logit_scale: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="of the softmax; default: the model's; 100 with classes"
    )
    kept: Threshold[tuple[str, ...] | None] = Field(None, alias="keep", description="labels that stay; no other does")
    dropped: Threshold[tuple[str, ...] | None] = Field(
        None, alias="drop", description="labels that go; all others stay"
    )
    min: Threshold[float | None] = Field(None, allow_inf_nan=False, description="least cosine of a label that counts")
    min_probability: Threshold[float | None] = Field(
        None, ge=0, le=1, description="least probability of a label that counts"
    )

    _classifier: Classifier | None = PrivateAttr(None)
    _names: pa.Array | None = PrivateAttr(None)

    @field_validator("labels", "templates", mode="before")
    @classmethod
    def _texts(cls, value: Any) -> Any:
        """YAML reads yes, no, 1 and null otherwise than they look."""
        odd = [one for one in value if not isinstance(one, str)] if isinstance(value, list | tuple | dict) else []
        if odd:
            raise ValueError(f"{odd[0]!r} is no text; put it in quotes")
        return value

    @model_validator(mode="after")
    def _goes_together(self) -> "ZeroShot":
        if (self.model is None) == (self.classes is None):
            raise ValueError("give either 'model', the one that made the embeddings, or 'classes'")
        if self.model is not None:
            _ = self.source  # refuses what does not go together
        elif self.pretrained or self.templates is not None:
            raise ValueError(f"'{'pretrained' if self.pretrained else 'templates'}' goes with 'model', not 'classes'")
        for name, names in (("keep", self.kept), ("drop", self.dropped), ("templates", self.templates)):
            if names is not None and not names:
                raise ValueError(f"{name}: names nothing; leave it out, or name one")
        if self.key and not self.classes:
            raise ValueError("'key' is the array of a file of 'classes'")
        if self.kept and self.dropped:
            raise ValueError("give 'keep' or 'drop': all other labels are the other")
        if not isinstance(self.templates, str | None):
            templates_of(self.templates)
        return self

    def needs(self) -> tuple[str, ...]:
        return self.model_modules() if self.model else ("torch",)

    def check(self, available: Mapping[str, pa.DataType]) -> None:
        width = self.column_width(available)
        labels = list(names_of(self.labels))
        check_known("keep", self.kept or (), labels)
        check_known("drop", self.dropped or (), labels)
        if self.classes:
            dimension, whose = class_vectors(self.classes, self.key, len(labels)).shape[1], f"classes: {self.classes}"
        else:
            self.check_model()
            dimension, whose = self.dimension(), f"model: {self.model}"
        if width not in (None, dimension):
            text = f"has embeddings of width {dimension}, and column {self.embeddings!r} has width {width}"
            raise ValueError(f"{whose} {text}; give the model that made them")

    def files(self) -> tuple[str, ...]:
        file = labels_file(self.labels)
        model = self.model_files() if self.model else all_files(self.classes or ())
        return (*((file,) if file else ()), *model)

    def resources(self) -> Resources:
        return resources_of(self.device)

    def open(self) -> None:
        prompts = prompts_of(self.labels, self.templates)
        if self.classes:
            vectors, logits = class_vectors(self.classes, self.key, len(prompts)), Logits(CLIP_SCALE)
        else:
            vectors, logits = self._made(tuple(prompts.values()))
        if self.logit_scale is not None:
            logits = Logits(self.logit_scale, logits.bias)
        self._classifier = Classifier.on(device_of(self.device), vectors, logits)
        self._names = pa.array(prompts, pa.string())

    def _made(self, prompts: tuple[tuple[str, ...], ...]) -> tuple[np.ndarray[Any, np.dtype[np.float32]], Logits]:
        """The vectors of the labels by the model, from the cache where they are there: then it is not even loaded."""
        versions = [version(name) for name in ("open_clip_torch", "torch")]
        device = device_of(self.device).type
        what = repr(("zero-shot", self.model, self.pretrained, self.precision, device, versions, prompts))
        found = mapped(what, self.model_files(), lambda: self._computed(prompts))
        scale, bias = (float(value) for value in found["logits"])
        return found["vectors"], Logits(scale, None if np.isnan(bias) else bias)

    def _computed(self, prompts: tuple[tuple[str, ...], ...]) -> dict[str, np.ndarray[Any, Any]]:
        clip = self.load()
        logits = Logits.of(clip)
        bias = np.nan if logits.bias is None else logits.bias
        return {"vectors": embedded(clip, prompts), "logits": np.array([logits.scale, bias])}

    def close(self) -> None:
        self._classifier = self._names = None

    def score(self, pairs: pa.RecordBatch) -> dict[str, pa.Array]:
        assert self._classifier is not None and self._names is not None
        column = pairs[self.embeddings]
        check_rows(column, self._classifier.width, self.embeddings, "the labels have")
        place, score, chance = self._classifier.best(column)
        is_missing = place < 0
        return {
            "zero_shot_label": self._names.take(pa.array(place, mask=is_missing)),
            "zero_shot_score": pa.array(score, mask=is_missing),
            "zero_shot_probability": pa.array(chance, mask=is_missing),
        }

    def keep(self, pairs: pa.RecordBatch) -> pa.Array:
        label = pairs["zero_shot_label"]
        if self.dropped:
            is_weak = _any([test for test, _ in self._weak(pairs)], len(label))
            which = pc.index_in(label, value_set=pa.array(self.dropped, pa.string()))
            codes = pc.if_else(is_weak, pa.scalar(None, pa.int32()), which)
            return pa.DictionaryArray.from_arrays(codes, pa.array([f"is_{name}" for name in self.dropped]))
        tests = self._weak(pairs)
        if self.kept:
            wanted = pa.array(self.kept, pa.string())
            tests.append((pc.invert(pc.is_in(label, value_set=wanted)), "other_label"))
        return first_reason(len(label), *([(pc.is_null(label), "no_embedding")] if tests else []), *tests)

    def _weak(self, pairs: pa.RecordBatch) -> list[tuple[pa.Array, str]]:
        """Where a label does not count, and why."""
        tests = []
        if self.min is not None:
            tests.append((pc.less(pairs["zero_shot_score"], pa.scalar(self.min, pa.float32())), "below_min"))
        if self.min_probability is not None:
            least = pa.scalar(self.min_probability, pa.float32())
            tests.append((pc.less(pairs["zero_shot_probability"], least), "low_probability"))
        return tests


def _any(tests: list[pa.Array], rows: int) -> pa.Array:
    """Where one of the tests holds."""
    found = np.zeros(rows, np.bool_)
    for test in tests:
        found |= pc.fill_null(test, False).to_numpy(zero_copy_only=False)
    return pa.array(found)
