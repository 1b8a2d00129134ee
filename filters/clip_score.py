"""CLIP scores and embeddings, by one or more open_clip models over one decoding.

Scores equal open_clip's own loop to 1e-5 in float32.  A pair's score depends on the pair alone: batches are padded to
a fixed size, run on one thread of a CPU, and texts are shortened by their own length only.  The model is the cost:
15 GFLOP a pair for ViT-B/32 (9 of them the image), 175 for ViT-L/14.  On one core ViT-B/32 takes 0.13 s a pair, 1.4
times as fast as its two towers in full on tensors in memory, because most texts are short; 1 % of it is decoding.
"""

import re
from collections import deque
from collections.abc import Generator, Iterator, Mapping
from typing import Any, Literal, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import Field, PositiveInt, PrivateAttr, field_validator, model_validator

from pairsieve.filters import _text_lists, _top
from pairsieve.filters._clip import Clip
from pairsieve.filters._clip_batches import Rows
from pairsieve.filters._clip_flow import Embedded, Flow, Part, Wants, decoders
from pairsieve.filters._clip_model import ClipModel
from pairsieve.filters._clip_source import ClipSource
from pairsieve.filters._ranked import Ranked, missing
from pairsieve.filters._shared import Shared
from pairsieve.filters.base import Resources, Runtime, UnknownColumnError
from pairsieve.schemas.errors import UserError

Columns: TypeAlias = dict[str, pa.Array]

_NAME = re.compile(r"(?!error$|flipped|cut)(?!.*clip_(?:image|text))[a-z][a-z0-9_]{0,39}")
"""Of a further model; ``clip_score_error``, ``clip_score_flipped`` and ``clip_text_cut`` are columns."""


class ClipScore(ClipModel, Ranked):
    """Cosine of image and text (float32, no logit scale, no prompt); keep by ``min`` or ``top``.

    ``model`` is an open_clip architecture with ``pretrained``, ``hf-hub:org/name``, or a directory
    in open_clip's format.  With ``column`` nothing is measured: a stored score is compared, in its
    own type.  Without ``min`` and ``top`` every pair stays.  Reasons: ``no_image``,
    ``broken_image``, ``too_many_pixels`` (before or after resizing), ``no_text``, ``no_score``,
    ``below_min``, ``below_top``; with ``exclude``, ``not_below``.

    Columns: ``clip_score``, ``clip_score_error``; for a sigmoid model (SigLIP) ``clip_logit``, cosine ·
    exp(logit_scale) + logit_bias, and ``clip_probability``, its sigmoid; where asked for ``clip_score_flipped`` (of
    the mirrored picture: what falls with it is text in the image), ``clip_image`` and ``clip_text`` (embeddings,
    float16, normalised before rounding; also of a pair without the other side) and ``clip_text_cut``; for each column
    ``c`` of ``texts`` ``clip_score_c``, a list of scores from the one encoding of the image, null where a text is null
    or empty, and no list where there is no picture.  The models of ``also`` write the same with their name behind, as
    ``clip_score_b32`` and ``clip_score_c_b32``; they keep nothing.  All null where there is none.

    Texts are never augmented: what a model has no room for is cut off at the end.  On a CPU the bits are the same on
    every machine of a kind; a GPU's differ in the last places, and with ``precision: auto`` by float16.
    """

    reads = ("image", "text")
    batch_rows = 512
    extra = "clip"
    loads_model = True

    column: str | None = Field(None, description="a stored score to compare instead of measuring one")
    texts: tuple[str, ...] = Field((), description="columns of further texts of the image, as caption's: scored too")
    also: dict[str, ClipSource] = Field({}, description="further models by name, in the same step")
    mode: Literal["pair", "image", "text"] = Field(
        "pair", description="image, text: embeddings of that side only, without a score"
    )
    embeddings: bool = Field(False, description="write the normalised embeddings too, as float16 lists")
    flipped: bool = Field(False, description="score the mirrored image too; twice the work on images")
    text_cut: bool = Field(False, description="write how many tokens were beyond the model's context and cut off")
    preprocess: Literal["exact", "fast"] = Field(
        "exact", description="exact: open_clip's transform, bit for bit; fast: JPEGs far too large are decoded small"
    )
    batch_size: PositiveInt | None = Field(
        None,
        le=65_536,
        description="rows a batch, every batch padded to it; null: 16 on a CPU, as many as fit up to 512 on a GPU",
    )
    threads: Runtime[PositiveInt | None] = Field(
        None, description="threads that decode; null: a GPU's share of the cores; on a CPU, none beside the model's"
    )
    per_gpu: Runtime[PositiveInt] = Field(1, description="workers that share a GPU, each with its own model", le=16)

    _clips: list[Clip] = PrivateAttr(default_factory=list)
    _flow: Flow | None = PrivateAttr(None)
    _shared: Shared | None = PrivateAttr(None)

    @field_validator("also")
    @classmethod
    def _names(cls, also: dict[str, ClipSource]) -> dict[str, ClipSource]:
        for name in also:
            if not _NAME.fullmatch(name):
                raise ValueError(f"{name!r} cannot be part of a column's name; write small letters, digits and _")
        return also

    @model_validator(mode="after")
    def _one_source(self) -> "ClipScore":
        if (self.model is None) == (self.column is None):
            raise ValueError("give either 'model' or 'column'")
        if self.model is not None:
            _ = self.source  # refuses what does not go together
        elif self.pretrained:
            raise ValueError("'pretrained' goes with the name of an open_clip architecture as 'model'")
        measured = {"also": self.also, "texts": self.texts, "embeddings": self.embeddings, "flipped": self.flipped}
        measured |= {"text_cut": self.text_cut, "mode": self.mode != "pair"}
        if self.column and (name := next((name for name, value in measured.items() if value), None)):
            raise ValueError(f"{name!r} needs a 'model'; with 'column' nothing is measured")
        return self

    @model_validator(mode="after")
    def _one_side(self) -> "ClipScore":
        if self.mode == "pair":
            return self
        if not self.embeddings:
            raise ValueError(f"'mode: {self.mode}' gives no score; write 'embeddings: true' with it")
        if self.min is not None or self.top is not None or self.flipped:
            raise ValueError(f"'mode: {self.mode}' gives no score for 'min', 'top' or 'flipped'")
        if self.texts:
            raise ValueError(f"'mode: {self.mode}' gives no score of 'texts'")
        if self.mode == "image" and self.text_cut:
            raise ValueError("'mode: image' reads no text to cut")
        return self

    @property
    def score_column(self) -> str:
        """The column that is compared."""
        return self.column or "clip_score"

    @property
    def _sources(self) -> dict[str, ClipSource]:
        """The models by what their columns end in."""
        return {"": self.source} | {f"_{name}": source for name, source in self.also.items()}

    @property
    def _sides(self) -> tuple[str, ...]:
        """Of which there are embeddings."""
        return ("image", "text") if self.mode == "pair" else (self.mode,)

    def needs(self) -> tuple[str, ...]:
        if self.column:
            return ()
        kernels = ("numba",) if self.preprocess == "fast" else ()
        return tuple(dict.fromkeys([*(n for source in self._sources.values() for n in source.modules()), *kernels]))

    def inputs(self, available: Mapping[str, pa.DataType]) -> tuple[str, ...]:
        if self.column:
            return ()
        sides = {"image": ("image",), "text": ("text",)}.get(self.mode, self.reads)
        return tuple(dict.fromkeys((*sides, *self.texts)))

    def keep_inputs(self, available: Mapping[str, pa.DataType]) -> tuple[str, ...]:
        return (self.column,) if self.column else ()

    def outputs(self, available: Mapping[str, pa.DataType]) -> dict[str, pa.DataType]:
        if self.column:
            return {}
        found = self._written("", self.source)
        found["clip_score_error"] = pa.string()
        for end, source in list(self._sources.items())[1:]:
            found |= self._written(end, source)
        return found

    def _written(self, end: str, source: ClipSource) -> dict[str, pa.DataType]:
        """The columns of one model."""
        found: dict[str, pa.DataType] = {}
        if self.mode == "pair":
            found[f"clip_score{end}"] = pa.float32()
            if source.is_sigmoid():
                found |= {f"clip_logit{end}": pa.float32(), f"clip_probability{end}": pa.float32()}
            if self.flipped:
                found[f"clip_score_flipped{end}"] = pa.float32()
        found |= {f"clip_score_{name}{end}": _text_lists.SCORES for name in self.texts}
        if self.embeddings:
            found |= {f"clip_{side}{end}": _list_type(source) for side in self._sides}
        if self.text_cut:
            found[f"clip_text_cut{end}"] = pa.int32()
        return found

    def check(self, available: Mapping[str, pa.DataType]) -> None:
        if self.column:
            _check_column(self.column, available, self.top is not None)
            return
        _text_lists.check_texts(self.texts, available)
        self._check_names()
        for end, source in self._sources.items():
            try:
                source.check()
                _ = self.embeddings and source.dimension()
            except (ValueError, UserError) as error:
                if not end:
                    raise
                kind = UserError if isinstance(error, UserError) else ValueError
                raise kind(f"also: {end[1:]}: {error}") from None

    def _check_names(self) -> None:
        """Refuse columns of texts whose scores would have the name of something else."""
        plain = self.model_copy(update={"texts": ()})
        taken = {name.casefold() for name in plain.outputs({})}
        for name in (f"clip_score_{text}{end}" for end in self._sources for text in self.texts):
            if name.casefold() in taken:
                raise ValueError(f"texts: their scores would be called {name!r}, as another column is; rename a column")
            taken.add(name.casefold())

    def files(self) -> tuple[str, ...]:
        return () if self.column else tuple(file for source in self._sources.values() for file in source.files())

    def resources(self) -> Resources:
        if self.column:
            return Resources()
        gpus = 0.0 if self.device == "cpu" else 1 / self.per_gpu
        return Resources(cpus=self.threads or 1, gpus=gpus, gpu_optional=self.device == "auto")

    def imports(self) -> tuple[str, ...]:
        return self.needs()

    def share(self, shared: Shared) -> None:
        self._shared = shared

    def open(self) -> None:
        if self.column:
            return
        self._clips = [self.load_other(source, self.batch_size) for source in self._sources.values()]
        wants = Wants(
            self.mode != "text", self.mode != "image", self.embeddings, self.flipped, self.text_cut, self.texts
        )
        threads = decoders(self.threads, self._clips[0].device.type, self.per_gpu)
        self._flow = Flow(self._clips, wants, self.preprocess == "fast", threads, self._shared)

    def close(self) -> None:
        if self._flow:
            self._flow.close()
        self._flow, self._clips = None, []

    def score(self, pairs: pa.RecordBatch) -> Columns:
        return next(self.score_all(iter([pairs])))

    def score_all(self, batches: Iterator[pa.RecordBatch]) -> Generator[Columns, None, None]:
        """``score`` of each part, in order; later parts are taken and decoded while earlier ones are computed.

        Batches are formed across parts.  The caller is asked for a part whenever there is room for it.
        """
        assert self._flow is not None
        lists: deque[dict[str, pa.Array]] = deque()  # of texts, without which their scores cannot be made lists

        def seen() -> Iterator[pa.RecordBatch]:
            for pairs in batches:
                lists.append({name: pairs[name] for name in self.texts})
                yield pairs

        for part in self._flow.stream(seen()):
            texts, found = lists.popleft(), Columns()
            for (end, source), clip, own in zip(self._sources.items(), self._clips, part.models, strict=True):
                found |= self._columns(end, source, clip, own, part)
                for (name, column), rows in zip(texts.items(), own.others, strict=True):
                    found[f"clip_score_{name}{end}"] = _listed(column, own, rows)
            yield found | {"clip_score_error": pa.array(part.errors, pa.string())}

    def _columns(self, end: str, source: ClipSource, clip: Clip, own: Embedded, part: Part) -> Columns:
        """One model's columns of a part."""
        found: Columns = {}
        if self.mode == "pair":
            cosines = _cosines(own.image, own.text)
            found[f"clip_score{end}"] = _floats(cosines)
            if source.is_sigmoid():
                logits = clip.logits(cosines)
                found |= {f"clip_logit{end}": _floats(logits), f"clip_probability{end}": _floats(_sigmoid(logits))}
            if self.flipped:
                found[f"clip_score_flipped{end}"] = _floats(_cosines(own.mirrored, own.text))
        if self.embeddings:
            rows = {"image": own.image, "text": own.text}
            found |= {f"clip_{side}{end}": _lists(rows[side], source.dimension()) for side in self._sides}
        if self.text_cut:
            found[f"clip_text_cut{end}"] = pa.array(own.cut, mask=own.cut < 0)
        return found

    def keep(self, pairs: pa.RecordBatch, settled: Mapping[str, Any]) -> pa.Array:
        if self.min is None and self.top is None:
            return pa.nulls(pairs.num_rows, pa.string())
        reasons = super().keep(pairs, settled)
        if self.column:
            return reasons
        return _say_why(reasons, missing(pairs[self.score_column]), pairs["clip_score_error"])


def _cosines(image: Rows, text: Rows) -> NDArray[np.float32]:
    """float32[n] of two sides of unit rows, NaN where one is missing; exact sums, so that their order is no matter."""
    if image.values is None or text.values is None:
        return np.full(image.count, np.nan, np.float32)
    parts: list[NDArray[np.float32]] = []
    for start in range(0, image.count, 1024):
        one, other = (rows.values[start : start + 1024] for rows in (image, text) if rows.values is not None)
        parts.append((one.astype(np.float64) * other).sum(axis=1).astype(np.float32))
    return np.concatenate(parts) if parts else np.zeros(0, np.float32)


def _listed(texts: pa.Array, own: Embedded, others: Rows) -> pa.Array:
    """Scores of a column of texts, as lists of the same lengths; null without a picture."""
    rows, scores = _text_lists.flat(texts)[1], np.full(others.count, np.nan, np.float32)
    for start in range(0, others.count, 1024):
        some = slice(start, start + 1024)
        image, text = own.image.part(rows[some]), others.part(some)
        scores[some] = _cosines(image, text)
    lists = _text_lists.regrouped(_floats(scores), texts)
    return pc.if_else(pa.array(own.has_picture), lists, pa.scalar(None, lists.type))


def _sigmoid(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """float32[n]; no logit is too small for it."""
    wide = logits.astype(np.float64)
    small = np.exp(-np.abs(wide))
    return np.asarray(np.where(wide < 0, small, 1.0) / (1 + small), np.float32)


def _floats(values: NDArray[np.float32]) -> pa.Array:
    """With null for NaN."""
    return pa.array(values, mask=np.isnan(values))


def _list_type(source: ClipSource) -> pa.DataType:
    """Of a model's embeddings; without a size where ``check`` is going to refuse the model."""
    try:
        return pa.list_(pa.float16(), source.dimension())
    except (OSError, ValueError, UserError):
        return pa.list_(pa.float16())


def _lists(rows: Rows, size: int) -> pa.Array:
    """float16 lists of a fixed size, null where there is no embedding."""
    kind = pa.list_(pa.float16(), size)
    if rows.values is None:
        return pa.nulls(rows.count, kind)
    absent = np.isnan(rows.values[:, 0])
    flat = np.nan_to_num(rows.values.astype(np.float16), copy=False).reshape(-1)
    return pa.FixedSizeListArray.from_arrays(pa.array(flat), size, mask=pa.array(absent))


def _say_why(reasons: pa.DictionaryArray, lost: pa.Array, error: pa.Array) -> pa.Array:
    """The error of a pair that could not be scored, where one was recorded."""
    return pc.if_else(pc.and_(lost, pc.is_valid(error)), error, reasons.cast(pa.string()))


def _check_column(column: str, available: Mapping[str, pa.DataType], ranked: bool) -> None:
    if column not in available:
        raise UnknownColumnError(column, available)
    if ranked or not pa.types.is_floating(available[column]):
        _top.check_type(available[column])
