"""From recipe data to a checked :class:`Recipe`: every mistake is one line with its place and the next step."""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from pairsieve.filters.base import SECRET, AnyFilter, require_extra
from pairsieve.filters.load import load
from pairsieve.pipelines.recipe_file import Key, Source
from pairsieve.schemas.errors import MissingExtraError
from pairsieve.schemas.recipe import POOLS, Output, Recipe, StepSpec

M = TypeVar("M", bound=BaseModel)
_TOP = ("extends", "parameters", "pool", "filters", "output", "seed")
_STEP = ("as", "of")


def check(source: Source) -> tuple[Recipe, tuple[AnyFilter, ...]]:
    """The recipe and its filters, settings checked; raises ``RecipeError`` or ``MissingExtraError``."""
    for name in source.data:
        if name not in _TOP:
            raise source.error((name,), f"{name}: no such part of a recipe; {hint(name, _TOP)}")
    kind, pool = _pool(source)
    specs, made = _steps(source)
    rest = {name: source.data[name] for name in ("output", "seed") if source.data.get(name) is not None}
    if "output" in rest:
        rest["output"] = validated(Output, _with_defaults(rest["output"]), source, ("output",))
    recipe = validated(Recipe, {"pool_kind": kind, "pool": pool, "filters": specs, **rest}, source, ())
    return recipe, made


def hint(name: str, known: Iterable[str]) -> str:
    """``did you mean 'x'?`` where one is near, else what there is."""
    known = list(known)
    near = get_close_matches(name, known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(known)}"


def validated(model: type[M], data: Any, source: Source, key: Key, label: str = "") -> M:
    """A pydantic model of the data; the first mistake becomes a ``RecipeError`` at its line."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        bad = error.errors(include_url=False)[0]
        raise source.error((*key, *bad["loc"]), _message(model, bad, label or ".".join(map(str, key)))) from None


def _message(model: type[BaseModel], bad: Mapping[str, Any], label: str) -> str:
    where = ".".join([label, *(str(part) for part in bad["loc"])]).strip(".")
    if bad["type"] == "extra_forbidden" and len(bad["loc"]) == 1:
        names = [field.alias or name for name, field in model.model_fields.items()]
        name = str(bad["loc"][0])
        elsewhere: Mapping[str, str] = getattr(model, "elsewhere", {})
        return f"{where}: no such setting; {elsewhere.get(name) or hint(name, names)}"
    if bad["type"] == "extra_forbidden":
        return f"{where}: no such setting"
    if bad["type"] == "missing":
        return f"{where}: is missing; write it"
    text = str(bad["msg"]).removeprefix("Value error, ")
    is_shown = bad["type"] != SECRET and not isinstance(bad["input"], Mapping | list | BaseModel)
    given = f", not {bad['input']!r}" if is_shown else ""
    quote = "; put it in quotes" if bad["type"] == "string_type" and given and bad["input"] is not None else ""
    return f"{where}: {text[:1].lower()}{text[1:]}{given}{quote}"


def _pool(source: Source) -> tuple[str, BaseModel]:
    pool = source.data.get("pool")
    if not isinstance(pool, dict) or len(pool) != 1:
        raise source.error(("pool",), f"pool: name one kind of pool; there are: {', '.join(POOLS)}")
    ((kind, settings),) = pool.items()
    if kind not in POOLS:
        raise source.error(("pool", kind), f"pool: no kind {kind!r}; {hint(kind, POOLS)}")
    settings = {"path": settings} if isinstance(settings, str) else {} if settings is None else settings
    return kind, validated(POOLS[kind], settings, source, ("pool", kind), f"pool.{kind}")


def _with_defaults(output: Any) -> Any:
    """``dataset:`` alone, or ``dataset: true``, means dataset shards with default settings."""
    if not isinstance(output, dict):
        return output
    named = {name: ({} if name == "dataset" and value in (None, True) else value) for name, value in output.items()}
    return {name: None if name == "dataset" and value is False else value for name, value in named.items()}


def _steps(source: Source) -> tuple[tuple[StepSpec, ...], tuple[AnyFilter, ...]]:
    steps = source.data.get("filters")
    steps = [] if steps is None else steps
    if not isinstance(steps, list):
        raise source.error(("filters",), "filters: write a list, one '- filter: {settings}' a line")
    pairs = [_step(source, i, step) for i, step in enumerate(steps)]
    return tuple(spec for spec, _ in pairs), tuple(made for _, made in pairs)


def _step(source: Source, i: int, step: Any) -> tuple[StepSpec, AnyFilter]:
    key: Key = ("filters", i)
    if isinstance(step, str):
        step = {step: None}
    if not isinstance(step, dict) or len(step) != 1:
        raise source.error(key, "a step is one filter: write '- name: {settings}'")
    ((name, settings),) = step.items()
    try:
        kind = load(str(name))
    except LookupError as error:
        raise source.error((*key, name), str(error)) from None
    settings = _settings(source, (*key, name), kind, settings)
    own = {n: v for n, v in settings.items() if n not in _STEP}
    common = {n: v for n, v in settings.items() if n in _STEP}
    spec = validated(StepSpec, {"filter": name, "settings": own, **common}, source, (*key, name), str(name))
    made = validated(kind, own, source, (*key, name), str(name))
    try:
        require_extra(made)
    except MissingExtraError as error:
        raise MissingExtraError(f"{source.place((*key, name))}: {name} {error}") from None
    return spec, made


def _settings(source: Source, key: Key, kind: type[AnyFilter], settings: Any) -> dict[str, Any]:
    if settings is None:
        return {}
    if isinstance(settings, dict):
        return settings
    if kind.shorthand:
        return {kind.shorthand: settings}
    raise source.error(key, f"{key[-1]}: write settings as {{name: value}}, not {settings!r}")
