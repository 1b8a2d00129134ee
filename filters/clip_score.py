"""CLIP score: cosine of a pair's image and text embeddings, by any open_clip model.

Images take open_clip's own transform (PIL), so scores equal open_clip's.  Batches are padded to a
fixed size and run on a fixed number of threads: a pair's score does not depend on its neighbours.
The model, not the decoding, is the cost: about 15 GFLOP a pair for ViT-B/32, 175 for ViT-L/14.
"""

import json
from collections.abc import Mapping
from difflib import get_close_matches
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, PositiveInt, PrivateAttr, model_validator

from pairsieve.filters import _top
from pairsieve.filters._clip import Clip
from pairsieve.filters._ranked import Ranked, missing
from pairsieve.filters.base import Resources, Runtime, UnknownColumnError, batches
from pairsieve.schemas.errors import UserError

DEMO = "pairsieve-demo"
"""Name of the tiny model that ships with pairsieve; it knows the demo's world and nothing else."""


_WEIGHTS = (".safetensors", ".bin", ".pth")
_MODEL_FILES = (*_WEIGHTS, ".json", ".txt", ".model")
"""Weights, configuration and tokenizer of a model's directory."""


class ClipScore(Ranked):
    """Cosine of image and text (float32, no logit scale, no prompt); keep by ``min`` or ``top``.

    ``model`` is an open_clip architecture with ``pretrained``, ``hf-hub:org/name``, or a directory
    in open_clip's format.  With ``column`` nothing is measured: a stored score is compared, in its
    own type.  Without ``min`` and ``top`` every pair stays.  Reasons: ``no_image``,
    ``broken_image``, ``too_many_pixels`` (before or after resizing), ``no_text``, ``no_score``,
    ``below_min``, ``below_top``; with ``exclude``, ``not_below``.
    """

    reads = ("image", "text")
    batch_rows = 512
    extra = "clip"
    loads_model = True

    model: str | None = Field(None, description="open_clip name, hf-hub:org/name, local directory, or 'pairsieve-demo'")
    pretrained: str | None = Field(None, description="open_clip's pretrained tag, or a weights file")
    column: str | None = Field(None, description="a stored score to compare instead of measuring one")
    precision: Literal["fp32", "fp16", "bf16"] = Field("fp32", description="of weights and activations")
    device: Runtime[Literal["auto", "cpu", "cuda"]] = Field("auto", description="auto: the GPU where there is one")
    batch_size: PositiveInt = Field(64, description="images a forward pass; every batch is padded to it")

    _clip: Clip | None = PrivateAttr(None)

    @model_validator(mode="after")
    def _one_source(self) -> "ClipScore":
        if (self.model is None) == (self.column is None):
            raise ValueError("give either 'model' or 'column'")
        if self.pretrained and (self.model is None or self.model.startswith("hf-hub:") or _directory(self.model)):
            raise ValueError("'pretrained' goes with the name of an open_clip architecture as 'model'")
        return self

    @property
    def score_column(self) -> str:
        """The column that is compared."""
        return self.column or "clip_score"

    def needs(self) -> tuple[str, ...]:
        return ("open_clip", "torch") if self.model else ()

    def inputs(self, available: Mapping[str, pa.DataType]) -> tuple[str, ...]:
        return () if self.column else self.reads

    def keep_inputs(self, available: Mapping[str, pa.DataType]) -> tuple[str, ...]:
        return (self.column,) if self.column else ()

    def outputs(self, available: Mapping[str, pa.DataType]) -> dict[str, pa.DataType]:
        return {} if self.column else {"clip_score": pa.float32(), "clip_score_error": pa.string()}

    def check(self, available: Mapping[str, pa.DataType]) -> None:
        if self.column:
            _check_column(self.column, available, self.top is not None)
        elif self.model and (folder := _directory(self.model)):
            _check_directory(folder)
        elif self.model and not self.model.startswith("hf-hub:"):
            _check_name(self.model, self.pretrained)

    def files(self) -> tuple[str, ...]:
        if self.model and (folder := _directory(self.model)):
            return tuple(str(p) for p in sorted(folder.iterdir()) if p.is_file() and p.suffix in _MODEL_FILES)
        return (self.pretrained,) if self.pretrained and Path(self.pretrained).is_file() else ()

    def resources(self) -> Resources:
        gpus = 0.0 if self.column or self.device == "cpu" else 1.0
        return Resources(cpus=1, gpus=gpus, gpu_optional=self.device == "auto")

    def imports(self) -> tuple[str, ...]:
        return self.needs()

    def open(self) -> None:
        if self.model is not None:
            source = str(_directory(self.model) or self.model)
            try:
                self._clip = Clip.load(source, self.pretrained, self.precision, self.device, self.batch_size)
            except Exception as error:  # whatever open_clip, its hub or a broken weights file raises
                why = (str(error).strip() or type(error).__name__).split("\n")[0].rstrip(": ")
                raise UserError(f"clip_score: cannot load model {self.model!r}: {why}") from error

    def close(self) -> None:
        self._clip = None

    def score(self, pairs: pa.RecordBatch) -> dict[str, pa.Array]:
        assert self._clip is not None
        scores = np.full(pairs.num_rows, np.nan, np.float32)
        errors: list[str | None] = []
        for part in batches(pairs, self.batch_size):
            at = len(errors)
            found, why = self._clip.score(part["image"], part["text"].to_pylist())
            scores[at : at + part.num_rows] = found
            errors += why
        error = pa.array(errors, pa.string())
        return {"clip_score": pa.array(scores, mask=pc.is_valid(error).to_numpy(False)), "clip_score_error": error}

    def keep(self, pairs: pa.RecordBatch, settled: Mapping[str, Any]) -> pa.Array:
        reasons = super().keep(pairs, settled)
        if self.column or (self.min is None and self.top is None):
            return reasons
        return _say_why(reasons, missing(pairs[self.score_column]), pairs["clip_score_error"])


def _say_why(reasons: pa.DictionaryArray, lost: pa.Array, error: pa.Array) -> pa.Array:
    """The error of a pair that could not be scored, where one was recorded."""
    return pc.if_else(pc.and_(lost, pc.is_valid(error)), error, reasons.cast(pa.string()))


def _directory(model: str) -> Path | None:
    """The local directory of a model, where it is one."""
    if model == DEMO:
        return Path(str(files("pairsieve"))) / "demo-clip"
    path = Path(model).expanduser() if model.startswith("~/") else Path(model)
    return path if "\0" not in model and path.is_dir() else None


def _check_column(column: str, available: Mapping[str, pa.DataType], ranked: bool) -> None:
    if column not in available:
        raise UnknownColumnError(column, available)
    if ranked or not pa.types.is_floating(available[column]):
        _top.check_type(available[column])


def _check_directory(folder: Path) -> None:
    """Refuse a directory that holds no model, before anything runs."""
    config = folder / "open_clip_config.json"
    if not config.is_file():
        raise ValueError(f"model: {folder} holds no open_clip_config.json; give a directory in open_clip's format")
    try:
        found = json.loads(config.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"model: {config} is not JSON: {error}") from None
    if not isinstance(found, dict) or "model_cfg" not in found:
        raise ValueError(f"model: {config} has no 'model_cfg'")
    if not any(p.suffix in _WEIGHTS for p in folder.iterdir()):
        raise ValueError(f"model: {folder} holds no weights ({', '.join(_WEIGHTS)})")


def _check_name(model: str, pretrained: str | None) -> None:
    """Refuse what open_clip does not know.  Architectures are read from its files; only tags need its import."""
    spec = find_spec("open_clip")
    if spec is None or spec.origin is None:  # ``require_extra`` says so
        return
    known = [DEMO, *sorted(p.stem for p in (Path(spec.origin).parent / "model_configs").glob("*.json"))]
    if model.replace("/", "-") not in known:
        near = get_close_matches(model, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else "give an open_clip name, hf-hub:org/name, or a directory"
        raise ValueError(f"model: there is no architecture and no directory {model!r}; {hint}")
    if pretrained is None:
        raise ValueError(f"pretrained: give the weights of {model}, a tag or a file")
    if not Path(pretrained).is_file():
        _check_tag(model.replace("/", "-"), pretrained)


def _check_tag(model: str, tag: str) -> None:
    import open_clip

    tags = open_clip.list_pretrained_tags_by_model(model)
    if not open_clip.get_pretrained_cfg(model, tag):
        near = get_close_matches(tag, tags, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(tags) or 'none'}"
        raise ValueError(f"pretrained: {model} has no tag and there is no file {tag!r}; {hint}")
