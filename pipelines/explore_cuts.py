"""Which settings of a run's steps can be moved by eye: their column, their range, and the recipe's line for them."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from math import floor, isfinite, log10
from typing import Any

import numpy as np
import pyarrow as pa
import yaml
from numpy.typing import NDArray
from pydantic import ValidationError

from pairsieve.filters._ranked import Ranked
from pairsieve.filters.base import AnyFilter, deciding_settings
from pairsieve.pipelines.step import Step
from pairsieve.schemas.errors import UserError
from pairsieve.schemas.run import RunManifest

BINS = 80
_COLUMNS = {
    ("caption_words", "least"): "caption_words",
    ("caption_words", "most"): "caption_words",
    ("caption_words", "least_characters"): "caption_characters",
    ("image_shape", "shortest"): "short_side",
    ("image_shape", "aspect"): "aspect_ratio",
    ("decontaminate", "threshold"): "decontaminate_similarity",
}
"""What a setting is compared with, by the filter's own names, where it writes several numbers."""


@dataclass(frozen=True)
class Cut:
    """A number of a step that only decides: ``value`` null = not set; ``column`` is what it is compared with.

    ``on_scale``: the setting is a value of the column; else it is a fraction, or something else.
    """

    step: str
    setting: str
    value: float | int | None
    is_integer: bool
    may_be_unset: bool
    column: str | None
    on_scale: bool
    is_share: bool
    says: str


def cuts_of(step: Step) -> list[Cut]:
    """The settings of a step that can be moved."""
    found = []
    for name, value in deciding_settings(step.filter).items():
        kind = _number(type(step.filter), name)
        if kind is None or name == "seed" or isinstance(value, dict):
            continue
        column = _column(step, name)
        is_share = kind["least"] == 0 and kind["most"] == 1 and (name in ("top", "fraction") or column is None)
        on_scale = column is not None and (not is_share or name == "fraction")
        found.append(Cut(step.id, name, value, kind["integer"], kind["null"], column, on_scale, is_share, kind["says"]))
    return found


def changed(step: Step, changes: Mapping[str, float | int | None]) -> AnyFilter:
    """The filter with other values of some settings; raises ``UserError`` with one line where it cannot be."""
    made = step.filter
    try:
        return type(made).model_validate({**made.model_dump(by_alias=True), **changes})
    except ValidationError as error:
        text = str(error.errors()[0]["msg"]).removeprefix("Value error, ")
        raise UserError(f"{step.id}.{next(iter(changes))}: {text}") from None


def recipe_line(manifest: RunManifest, k: int, changes: Mapping[str, Any]) -> str:
    """The step as a line of YAML with some settings changed; null takes one out."""
    name, settings = _written(manifest, k)
    settings = {n: v for n, v in {**settings, **changes}.items() if v is not None or n not in changes}
    return as_line({name: settings} if settings else name)


def as_line(step: Any) -> str:
    """A step of a recipe in one line."""
    text = yaml.safe_dump(step, default_flow_style=True, sort_keys=False, allow_unicode=True, width=1_000_000)
    text = text.strip().removesuffix("...").strip()
    return f"- {text[1:-1] if isinstance(step, dict) else text}"


def _written(manifest: RunManifest, k: int) -> tuple[str, dict[str, Any]]:
    """A step's filter and settings as the recipe has them."""
    step = manifest.recipe["filters"][k]
    if isinstance(step, str):
        return step, {}
    ((name, settings),) = step.items()
    return name, dict(settings) if isinstance(settings, dict) else {}


@cache
def _schema(made: type[AnyFilter]) -> Mapping[str, Any]:
    return made.model_json_schema().get("properties", {})  # type: ignore[no-any-return]


def _number(made: type[AnyFilter], name: str) -> dict[str, Any] | None:
    """What a setting may be, where it is a number."""
    field = _schema(made).get(name, {})
    kinds = [kind for kind in field.get("anyOf", [field]) if kind.get("type") != "null"]
    if len(kinds) != 1 or kinds[0].get("type") not in ("number", "integer"):
        return None
    bounds = field | kinds[0]
    least, most = (bounds.get(key) for key in ("minimum", "maximum"))
    is_null = any(kind.get("type") == "null" for kind in field.get("anyOf", []))
    says = str(field.get("description", ""))
    return {"integer": kinds[0]["type"] == "integer", "null": is_null, "least": least, "most": most, "says": says}


def _column(step: Step, setting: str) -> str | None:
    """The stored column that a setting is compared with, where that is known."""
    own = _COLUMNS.get((step.name, setting))
    if isinstance(step.filter, Ranked):
        own = step.filter.score_column
    if own is not None:
        return step.writes[own][0] if own in step.writes else own
    numbers = [stored for stored, kind in step.stored.items() if _is_number(kind)]
    return numbers[0] if len(numbers) == 1 else None


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


@dataclass(frozen=True)
class Histogram:
    """Values in bins of equal width between two of them: the bin of each (-1: no number), and who stayed and went.

    What lies beyond ``low`` and ``high`` counts in the first and the last bin.
    """

    low: float
    high: float
    bins: NDArray[np.int16]
    stays: NDArray[np.int64]
    goes: NDArray[np.int64]
    missing: int

    def counts(self, gained: NDArray[np.int64], lost: NDArray[np.int64]) -> dict[str, Any]:
        """Pairs of each bin that stay, and that go, when those at some places change sides."""
        change = _tally(self.bins[gained], len(self.stays)) - _tally(self.bins[lost], len(self.stays))
        stays, goes = (self.stays + change).tolist(), (self.goes - change).tolist()
        return {"low": self.low, "high": self.high, "missing": self.missing, "stays": stays, "goes": goes}


def _tally(bins: NDArray[np.int16], count: int) -> NDArray[np.int64]:
    return np.bincount(bins.astype(np.int32) + 1, minlength=count + 1)[1:]


def histogram(values: NDArray[np.float64], marks: list[float], is_whole: bool, stays: NDArray[np.bool_]) -> Histogram:
    """Bins between the 0.1 % and the 99.9 % quantile, widened to the marks; of whole numbers each holds as many."""
    real = np.isfinite(values)
    low, high, count = _range(values[real], [mark for mark in marks if isfinite(mark)], is_whole)
    places = np.zeros(len(values), np.float64)
    np.multiply(values - low, count / (high - low), out=places, where=real)
    bins = np.where(real, np.clip(places, 0, count - 1), -1).astype(np.int16)
    kept = _tally(bins[stays], count)
    return Histogram(low, high, bins, kept, _tally(bins, count) - kept, int(len(values) - np.count_nonzero(real)))


def _range(numbers: NDArray[np.float64], marks: list[float], is_whole: bool) -> tuple[float, float, int]:
    """The least and the greatest edge, and the number of bins."""
    if not len(numbers):
        return (min([0.0, *marks]), max([1.0, *marks]), BINS)
    some = numbers[:: max(1, len(numbers) // 200_000)]
    low, high = (float(value) for value in np.quantile(some, [0.001, 0.999]))
    low, high = min([low, *marks]), max([high, *marks])
    if is_whole:
        span = floor(high) - floor(low) + 1
        width = -(-span // BINS)
        return floor(low), float(floor(low) + width * -(-span // width)), -(-span // width)
    return (low, high, BINS) if high > low else (low - 0.5, high + 0.5, BINS)


def notch(low: float, high: float, is_integer: bool) -> float:
    """A round step of a slider: a few hundred of them between two values."""
    if is_integer:
        return 1
    rough = (high - low) / 400
    power = 10.0 ** floor(log10(rough)) if rough > 0 else 0.001
    return float(min((m * power for m in (1, 2, 5, 10)), key=lambda step: abs(step - rough)))
