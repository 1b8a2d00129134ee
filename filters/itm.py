"""Image-text matching: the probability, by BLIP or BLIP-2, that a text belongs to its image (CapFilt's filter).

An image is encoded once for its own text and all captions, and each layer's cross-attention keys and values are made
once an image.  The model is the cost: for BLIP-base at 384 pixels 111 GFLOP an image, 16 for its keys and values,
and 3 to 8 a text.  On one core an image with its text and ten captions takes 2.5 s there: 8.8 times as fast as the
library's forward pass text by text, 2.0 times as fast as that with the image encoded once.
"""

from collections import deque
from collections.abc import Generator, Iterator, Mapping
from typing import Literal, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import Field, PositiveInt, PrivateAttr

from pairsieve.filters import _text_lists
from pairsieve.filters._clip_flow import decoders
from pairsieve.filters._itm_flow import ItmFlow, Part, Scored
from pairsieve.filters._itm_model import ItmSource, load
from pairsieve.filters._ranked import missing
from pairsieve.filters._shared import Shared
from pairsieve.filters.base import Filter, Resources, Runtime, Threshold, first_reason

Columns: TypeAlias = dict[str, pa.Array]


class Itm(Filter):
    """P(match) of image and text: one softmax over the two logits of a matching head; keep what is above ``min``.

    BLIP (CapFilt, arXiv 2201.12086): texts as its filter saw them in training, [ENC] first.  BLIP-2: logits averaged
    over its queries.  With ``texts`` the captions of other columns are scored from the same encoding of the image; the
    paper's rule, > 0.5 (the argmax), is applied to the best of all texts, and ``choose`` says which of them stay.

    Columns: ``itm``, ``itm_error`` (why there is none: ``no_image``, ``broken_image``, ``too_many_pixels``,
    ``no_text``); for each column ``c`` of ``texts`` ``itm_c``, a list of scores, null where a text is null or empty,
    and no list where the image is broken; with ``texts`` ``itm_best``, the greatest of all; with ``itc`` the same of
    the contrastive cosine as ``itm_cosine`` and ``itm_cosine_c``.  Reasons: those errors, ``unmatched``, and
    ``no_score`` where the model gave no number.

    On a CPU a score's bits depend on its image, its text and the settings alone.
    """

    reads = ("image", "text")
    batch_rows = 256
    version = 2
    extra = "caption"
    loads_model = True

    model: str = Field(
        min_length=1, max_length=4096, description="directory of transformers' format, or org/name on the hub"
    )
    revision: str | None = Field(None, min_length=1, max_length=255, description="branch, tag or commit on the hub")
    texts: tuple[str, ...] = Field((), description="columns of further texts of the image, as caption's")
    min: Threshold[float | None] = Field(
        0.5, description="keep above this; null keeps every pair", ge=0, le=1, allow_inf_nan=False
    )
    itc: bool = Field(False, description="write the cosine of contrastive training too; one more pass over each text")
    clean: bool = Field(
        True, description='texts as in training: small letters, without .!"()*#:;~, 30 words (BLIP-2: 50)'
    )
    precision: Literal["auto", "fp32", "fp16", "bf16"] = Field(
        "auto", description="of weights and activations; auto: fp32 on a CPU, fp16 on a GPU"
    )
    device: Runtime[Literal["auto", "cpu", "cuda"]] = Field("auto", description="auto: the GPU where there is one")
    batch_size: PositiveInt | None = Field(
        None,
        le=256,
        description="images that are encoded at once; null: 64 on a GPU; on a CPU 1, and up to 16 of small ones",
    )
    threads: Runtime[PositiveInt | None] = Field(
        None, description="threads that decode; null: the GPU's share of the cores; on a CPU, none beside the model's"
    )
    per_gpu: Runtime[PositiveInt] = Field(1, description="workers that share a GPU, each with its own model", le=16)

    _flow: ItmFlow | None = PrivateAttr(None)
    _shared: Shared | None = PrivateAttr(None)

    @property
    def _source(self) -> ItmSource:
        return ItmSource(model=self.model, revision=self.revision)

    def needs(self) -> tuple[str, ...]:
        return ("open_clip", "torch", "transformers")

    def inputs(self, available: Mapping[str, pa.DataType]) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*self.reads, *self.texts)))

    def outputs(self, available: Mapping[str, pa.DataType]) -> dict[str, pa.DataType]:
        found = {"itm": pa.float32(), "itm_error": pa.string()}
        if self.texts:
            found |= {"itm_best": pa.float32()}
        if self.itc:
            found |= {"itm_cosine": pa.float32()}
        return found | {name: _text_lists.SCORES for _, name in self._lists()}

    def _lists(self) -> list[tuple[str, str]]:
        """The columns of texts, and of their scores and then their cosines."""
        kinds = ("itm_", "itm_cosine_")[: 1 + self.itc]
        return [(text, kind + text) for kind in kinds for text in self.texts]

    def check(self, available: Mapping[str, pa.DataType]) -> None:
        _text_lists.check_texts(self.texts, available)
        taken = {"itm", "itm_error", "itm_best", "itm_cosine"}
        for text, name in self._lists():
            if name.casefold() in taken:
                raise ValueError(f"texts: the scores of {text!r} would be called {name!r}, as another column is")
            taken.add(name.casefold())
        self._source.check()

    def files(self) -> tuple[str, ...]:
        return self._source.files()

    def resources(self) -> Resources:
        gpus = 0.0 if self.device == "cpu" else 1 / self.per_gpu
        return Resources(cpus=self.threads or 1, gpus=gpus, gpu_optional=self.device == "auto")

    def imports(self) -> tuple[str, ...]:
        return self.needs()

    def share(self, shared: Shared) -> None:
        self._shared = shared

    def open(self) -> None:
        model = load(self._source, self.precision, self.device, self.clean)
        threads = decoders(self.threads, model.device.type, self.per_gpu)
        self._flow = ItmFlow(model, self._shared, self.batch_size, threads, self.itc)

    def close(self) -> None:
        if self._flow:
            self._flow.close()
        self._flow = None

    def score(self, pairs: pa.RecordBatch) -> Columns:
        return next(self.score_all(iter([pairs])))

    def score_all(self, batches: Iterator[pa.RecordBatch]) -> Generator[Columns, None, None]:
        """``score`` of each batch, in order; on a GPU the next one is decoded while one is computed."""
        assert self._flow is not None
        given: deque[tuple[pa.RecordBatch, Part]] = deque()

        def parts() -> Iterator[Part]:
            for batch in batches:
                given.append((batch, self._part(batch)))
                yield given[-1][1]

        for scored in self._flow.stream(parts()):
            yield self._columns(*given.popleft(), scored)

    def _part(self, pairs: pa.RecordBatch) -> Part:
        """Images, and all texts with the rows of their images."""
        flat = [_text_lists.flat(pairs[name]) for name in ("text", *self.texts)]
        texts = [text for texts, _ in flat for text in texts.to_pylist()]
        return Part(pairs["image"].to_pylist(), texts, np.concatenate([rows for _, rows in flat]))

    def _columns(self, pairs: pa.RecordBatch, part: Part, scored: Scored) -> Columns:
        """What is written of a batch."""
        rows = pairs.num_rows
        errors = [error or ("no_text" if scored.empty[i] else None) for i, error in enumerate(scored.errors)]
        found: Columns = {"itm_error": pa.array(errors, pa.string())}
        if self.texts:
            best = np.full(rows, np.nan, np.float32)
            np.fmax.at(best, part.rows, scored.matched)
            found["itm_best"] = _floats(best)
        for kind, values in (("itm", scored.matched), ("itm_cosine", scored.cosines))[: 1 + self.itc]:
            found[kind], start = _floats(values[:rows]), rows
            for name in self.texts:
                end = start + int(_text_lists.lengths(pairs[name]).sum())
                lists = _text_lists.regrouped(_floats(values[start:end]), pairs[name])
                found[f"{kind}_{name}"], start = pc.if_else(pa.array(scored.broken, pa.bool_()), None, lists), end
        return found

    def keep(self, pairs: pa.RecordBatch) -> pa.Array:
        if self.min is None:
            return pa.nulls(pairs.num_rows, pa.string())
        scores = pairs["itm_best" if self.texts else "itm"]
        is_lost, below = missing(scores), pc.less_equal(scores, pa.scalar(self.min, pa.float32()))
        reasons = first_reason(pairs.num_rows, (is_lost, "no_score"), (below, "unmatched")).cast(pa.string())
        return pc.if_else(pc.and_(is_lost, pc.is_valid(pairs["itm_error"])), pairs["itm_error"], reasons)


def _floats(values: NDArray[np.float32]) -> pa.Array:
    """With null for NaN."""
    return pa.array(values, mask=np.isnan(values))
