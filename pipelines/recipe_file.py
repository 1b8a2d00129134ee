"""Read a recipe from YAML: every value knows its file and line, so that an error can say where it is.

Adds to YAML: ``extends: other.yaml`` (mappings merge, anything else is replaced), ``${NAME}`` from
the environment (``$${`` for a literal ``${``), and ``--set key=value`` from the command line.
"""

import os
import re
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import yaml

from pairsieve.schemas.errors import RecipeError

Key: TypeAlias = tuple[str | int, ...]
_ENV = re.compile(r"\$\$\{|\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_DEPTH = 40


@dataclass
class Source:
    """Plain data of a recipe, and for each key where it was written."""

    name: str
    data: dict[str, Any]
    places: dict[Key, str] = field(default_factory=dict)

    def place(self, key: Key) -> str:
        """``file:line`` of a key, or of the nearest one above it."""
        for end in range(len(key), -1, -1):
            if key[:end] in self.places:
                return self.places[key[:end]]
        return self.name

    def error(self, key: Key, message: str) -> RecipeError:
        """The error of a key."""
        return RecipeError(f"{self.place(key)}: {message}")


def read(path: str | Path, overrides: Sequence[str] = ()) -> Source:
    """A recipe file with its ``extends`` and overrides applied; ``path`` may name a shipped recipe."""
    source = _read(find(path), ())
    for override in overrides:
        _override(source, override)
    return source


def from_data(data: Mapping[str, Any], overrides: Sequence[str] = ()) -> Source:
    """A recipe written as Python data; errors call it ``recipe``."""
    source = Source("recipe", deepcopy(dict(data)))
    for override in overrides:
        _override(source, override)
    return source


def shipped() -> dict[str, Path]:
    """The recipes that come with pairsieve, by name."""
    return {p.stem: p for p in sorted(Path(__file__).parent.glob("*.yaml"))}


def find(path: str | Path, beside: Path | None = None) -> Path:
    """The file of a recipe: a path (relative to ``beside``), else the name of a shipped recipe."""
    given = Path(path).expanduser()
    candidate = beside / given if beside and not given.is_absolute() else given
    if candidate.is_file():
        return candidate
    if str(path).removesuffix(".yaml") in shipped():
        return shipped()[str(path).removesuffix(".yaml")]
    raise RecipeError(f"{candidate}: no such recipe; shipped recipes: {', '.join(shipped())}")


def _read(path: Path, chain: tuple[Path, ...]) -> Source:
    if path.resolve() in chain:
        raise RecipeError(f"{path}: extends itself: {' -> '.join(p.name for p in (*chain, path))}")
    source = _parse(path)
    base_name = source.data.pop("extends", None)
    if base_name is None:
        return source
    if not isinstance(base_name, str):
        raise source.error(("extends",), "extends: name one recipe file")
    base = _read(find(base_name, path.parent), (*chain, path.resolve()))
    _merge(base, (), source.data, source)
    return base


def _merge(base: Source, key: Key, new: Any, source: Source) -> None:
    """Lay a value over the base: mappings merge, but a pool or a list is replaced as a whole."""
    old = _at(base.data, key)
    if isinstance(old, dict) and isinstance(new, dict) and key != ("pool",):
        for name, value in new.items():
            _merge(base, (*key, name), value, source)
        return
    base.places = {k: p for k, p in base.places.items() if k[: len(key)] != key}
    base.places |= {k: p for k, p in source.places.items() if k[: len(key)] == key}
    _at(base.data, key[:-1])[key[-1]] = new


def _at(data: Any, key: Key) -> Any:
    for name in key:
        data = data.get(name) if isinstance(data, dict) else None
    return data


def _parse(path: Path) -> Source:
    try:
        node = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise RecipeError(f"{path}:{line}: not YAML: {error.problem or error.context}") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise RecipeError(f"{path}: cannot be read: {str(error).splitlines()[0]}") from None
    source = Source(str(path), {})
    if not isinstance(node, yaml.MappingNode):
        raise RecipeError(f"{path}:1: a recipe is a mapping with pool, filters and output")
    source.data = _construct(node, (), source, 0)
    return source


def _construct(node: yaml.Node, key: Key, source: Source, depth: int) -> Any:
    """Plain values from YAML nodes, with the line of each."""
    source.places.setdefault(key, f"{source.name}:{node.start_mark.line + 1}")
    if depth > _DEPTH:
        raise source.error(key, "nested too deeply (or an alias that holds itself)")
    if isinstance(node, yaml.MappingNode):
        return _construct_mapping(node, key, source, depth)
    if isinstance(node, yaml.SequenceNode):
        return [_construct(child, (*key, i), source, depth + 1) for i, child in enumerate(node.value)]
    value = _scalar(node, key, source)
    return _expand(value, key, source) if isinstance(value, str) else value


def _construct_mapping(node: yaml.MappingNode, key: Key, source: Source, depth: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name_node, value_node in node.value:
        name = name_node.value if isinstance(name_node, yaml.ScalarNode) else str(name_node.tag)
        place = f"{source.name}:{name_node.start_mark.line + 1}"
        if name in found:
            raise RecipeError(f"{place}: {name} is written twice")
        source.places[(*key, name)] = place
        found[name] = _construct(value_node, (*key, name), source, depth + 1)
    return found


def _scalar(node: yaml.Node, key: Key, source: Source) -> Any:
    """A scalar as SafeLoader reads it; numbers such as 1e-3 too, which YAML 1.1 takes for text."""
    try:
        value = yaml.SafeLoader("").construct_object(node)
    except (yaml.YAMLError, ValueError):
        raise source.error(key, f"cannot read the value {getattr(node, 'value', '')!r}") from None
    if (
        isinstance(value, str)
        and getattr(node, "style", None) is None
        and re.fullmatch(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+", value)
    ):
        return float(value)
    return value


def _expand(text: str, key: Key, source: Source) -> str:
    def value(match: re.Match[str]) -> str:
        name = match.group(1)
        if name is None:
            return "${"
        if name not in os.environ:
            raise source.error(key, f"the environment has no {name}; set it, or write $${{ for a literal ${{")
        return os.environ[name]

    return _ENV.sub(value, text)


def _override(source: Source, override: str) -> None:
    """Apply ``a.b.c=value``; a step is named by its ``as:`` or its filter."""
    path, equals, text = override.partition("=")
    place = f"--set {override}"
    if not equals or not path:
        raise RecipeError(f"{place}: write key=value, as in --set seed=1")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        value = text
    names = path.split(".")
    target: Any = source.data
    key: list[str | int] = []
    for name in names[:-1]:
        step, target = _enter(target, name, place)
        key += step
    step = _last(target, names[-1], value, place)
    source.places[(*key, *step)] = place


def _enter(target: Any, name: str, place: str) -> tuple[Key, Any]:
    """Go one name down, making a mapping where there is none; a step's name leads to its settings."""
    if isinstance(target, list):
        i = _index(target, name, place)
        if not isinstance(target[i], dict):
            target[i] = {str(target[i]): {}}
        filter_name = next(iter(target[i]))
        if not isinstance(target[i][filter_name], dict):
            target[i][filter_name] = {}
        return (i, filter_name), target[i][filter_name]
    if not isinstance(target, dict):
        raise RecipeError(f"{place}: there is nothing below {name!r} to set")
    if target.get(name) is None:
        target[name] = {}
    return (name,), target[name]


def _last(target: Any, name: str, value: Any, place: str) -> Key:
    if isinstance(target, list):
        i = _index(target, name, place)
        target[i] = {next(iter(target[i])) if isinstance(target[i], dict) else target[i]: value}
        return (i,)
    if not isinstance(target, dict):
        raise RecipeError(f"{place}: {name!r} cannot be set on {target!r}")
    target[name] = value
    return (name,)


def _index(steps: list[Any], name: str, place: str) -> int:
    """Position of a step by number, ``as:`` or filter name."""
    if name.isdigit() and int(name) < len(steps):
        return int(name)
    labels = [_labels(step) for step in steps]
    hits = [i for i, label in enumerate(labels) if name in label]
    if len(hits) != 1:
        what = "several steps are" if hits else "no step is"
        raise RecipeError(f"{place}: {what} called {name!r}; steps: {', '.join(label[0] for label in labels)}")
    return hits[0]


def _labels(step: Any) -> tuple[str, ...]:
    """What a step may be called: its ``as:`` first, then its filter."""
    name = next(iter(step), "") if isinstance(step, dict) else step
    body = step.get(name) if isinstance(step, dict) else None
    given = body.get("as") if isinstance(body, dict) else None
    return (str(given), str(name)) if given else (str(name),)
