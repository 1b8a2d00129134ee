"""Read a recipe from YAML: every value knows its file and line, so that an error can say where it is.

Adds to YAML: ``extends: other.yaml`` (mappings merge, anything else is replaced), ``${name}`` for a
parameter or the environment (see ``recipe_values``), and ``--set key=value`` from the command line.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from difflib import get_close_matches
from itertools import islice
from pathlib import Path, PurePath
from typing import Any, TypeAlias

import yaml

from pairsieve.pipelines.recipe_values import PARAMETERS, expand, parameters, refuse_large
from pairsieve.schemas.errors import RecipeError

Key: TypeAlias = tuple[str | int, ...]
_DEPTH = 40
_NODES = 100_000
"""A recipe of more values is an alias that multiplies itself."""
_NEAR = 1_000
"""Files of a folder among which a mistyped name is looked for."""
_LONGEST = 500
"""Places and messages of more characters are cut."""


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
        return _error(self.place(key), message)


def _error(place: str, message: str) -> RecipeError:
    """One line, whatever a value held."""
    return RecipeError(f"{_short(place)}: {_short(message)}")


def _short(text: str) -> str:
    text = "".join(c if c.isprintable() else " " for c in text)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def read(path: str | Path, overrides: Sequence[str] = ()) -> Source:
    """A recipe file with its ``extends`` and overrides applied; ``path`` may name a shipped recipe."""
    source = _read(find(path), ())
    for override in overrides:
        _override(source, override)
    known = parameters(source.data.pop(PARAMETERS, None), source.error)
    source.data = expand(source.data, known, (), source.error)
    refuse_large(source.data, (), source.error)
    return source


def from_data(data: Mapping[str, Any], overrides: Sequence[str] = ()) -> Source:
    """A recipe written as Python data; errors call it ``recipe``."""
    source = Source("recipe", {})
    source.data = _plain(data, (), source)
    for override in overrides:
        _override(source, override, is_expanded=True)
    refuse_large(source.data, (), source.error)
    return source


def shipped() -> dict[str, Path]:
    """The recipes that come with pairsieve, by name."""
    return {p.stem: p for p in sorted(Path(__file__).parent.glob("*.yaml"))}


def _listed(names: Iterable[str]) -> str:
    """Names, those of DataComp's track by what follows: one line holds no more."""
    track = [name.removeprefix("datacomp_") for name in names if name.startswith("datacomp_")]
    others = [name for name in names if not name.startswith("datacomp_")]
    return ", ".join([*others, f"datacomp_ + {', '.join(track)}"])


def find(path: str | Path, beside: Path | None = None) -> Path:
    """The file of a recipe: a path (relative to ``beside``), else the name of a shipped recipe."""
    candidate = Path(path)
    name = str(path).removesuffix(".yaml")
    try:
        given = candidate.expanduser()
        candidate = beside / given if beside and not given.is_absolute() else given
        if candidate.is_file():
            return candidate
    except (OSError, RuntimeError, ValueError):
        pass  # no name of a file: too long, of no user, or with a null byte
    if name in shipped():
        return shipped()[name]
    near = get_close_matches(str(candidate), [*_beside(candidate), *shipped()], n=1)
    guess = f"did you mean {near[0]!r}?" if near else f"shipped recipes: {_listed(shipped())}"
    raise _error(str(candidate) if str(path) else "''", f"no such recipe; {guess}")


def _beside(candidate: Path) -> list[str]:
    """Recipe files in the folder of one that is not there, as they would be written."""
    try:
        return sorted(str(path) for path in islice(candidate.parent.glob("*.y*ml"), _NEAR))
    except (OSError, ValueError):
        return []


def _read(path: Path, chain: tuple[Path, ...]) -> Source:
    source = _parse(path)
    base_name = source.data.pop("extends", None)
    if base_name is None:
        return source
    if not isinstance(base_name, str):
        raise source.error(("extends",), "extends: name one recipe file")
    try:
        base_path = find(base_name, path.parent)
    except RecipeError as error:
        raise source.error(("extends",), f"extends: {error}") from None
    chain = (*chain, path.resolve())
    if base_path.resolve() in chain:
        raise source.error(("extends",), f"extends itself: {' -> '.join(p.name for p in (*chain, base_path))}")
    base = _read(base_path, chain)
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
    source = Source(str(path), {})
    node = _compose(_text(path), str(path))
    if not isinstance(node, yaml.MappingNode):
        raise _error(f"{path}:1", "a recipe is a mapping with pool, filters and output")
    source.data = _construct(node, (), source, 0)
    return source


def _text(path: Path) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise _error(str(path), f"cannot be read: {error.strerror or error}") from None
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise _error(f"{path}:{line}", f"not UTF-8: {error.reason}; save the file as UTF-8") from None


def _compose(text: str, name: str) -> yaml.Node | None:
    """The one document of a YAML text; raises ``RecipeError``."""
    try:
        return yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise _error(f"{name}:{line}", f"not YAML: {error.problem or error.context}") from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise _error(f"{name}:{line}", f"not YAML: character {error.character!r} is not allowed") from None
    except (RecursionError, yaml.YAMLError, ValueError, IndexError):  # the parser's own slips at odd input
        raise _error(f"{name}:1", "not YAML, or nested too deeply") from None


def _construct(node: yaml.Node, key: Key, source: Source, depth: int) -> Any:
    """Plain values from YAML nodes, with the line of each."""
    source.places.setdefault(key, f"{source.name}:{node.start_mark.line + 1}")
    if depth > _DEPTH or len(source.places) > _NODES:
        raise source.error(key, "nested too deeply (or an alias that holds itself)")
    if isinstance(node, yaml.MappingNode):
        return _construct_mapping(node, key, source, depth)
    if isinstance(node, yaml.SequenceNode):
        return [_construct(child, (*key, i), source, depth + 1) for i, child in enumerate(node.value)]
    return _scalar(node, key, source)


def _construct_mapping(node: yaml.MappingNode, key: Key, source: Source, depth: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name_node, value_node in node.value:
        name = name_node.value if isinstance(name_node, yaml.ScalarNode) else str(name_node.tag)
        place = f"{source.name}:{name_node.start_mark.line + 1}"
        if name in found:
            raise _error(place, f"{name} is written twice")
        source.places[(*key, name)] = place
        found[name] = _construct(value_node, (*key, name), source, depth + 1)
    return found


def _scalar(node: yaml.Node, key: Key, source: Source) -> Any:
    """A scalar as SafeLoader reads it; numbers such as 1e-3 too, which YAML 1.1 takes for text."""
    try:
        value = yaml.SafeLoader("").construct_object(node)
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError, OverflowError):  # as !!bool x
        raise source.error(key, f"cannot read the value {getattr(node, 'value', '')!r}") from None
    if (
        isinstance(value, str)
        and getattr(node, "style", None) is None
        and re.fullmatch(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+", value)
    ):
        return float(value)
    return value


def _plain(value: Any, key: Key, source: Source) -> Any:
    """Python data as YAML would give it; raises ``RecipeError`` for what YAML cannot say."""
    if len(key) > _DEPTH:
        raise source.error(key[:1], f"{key[0]}: nested too deeply (or data that holds itself)")
    if isinstance(value, Mapping):
        return {str(name): _plain(inner, (*key, str(name)), source) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner, (*key, i), source) for i, inner in enumerate(value)]
    plain = _plain_scalar(value)
    if value is not None and plain is None:
        where = ".".join(map(str, key))
        raise source.error(
            key, f"{where}: a recipe holds text, numbers, lists and mappings, not {type(value).__name__}"
        )
    return plain


def _plain_scalar(value: Any) -> Any:
    """A scalar as its plain type: also numpy's numbers, string enums and paths; None for anything else."""
    value = value.item() if hasattr(value, "item") and not hasattr(value, "__len__") else value
    if isinstance(value, PurePath):
        return str(value)
    casts: tuple[Callable[[Any], Any], ...] = (str, int, float)
    if isinstance(value, bool | bytes | date):
        return value
    return next((cast(value) for cast in casts if isinstance(value, cast)), None)  # type: ignore[arg-type]


def _override(source: Source, override: str, is_expanded: bool = False) -> None:
    """Apply ``a.b.c=value``; a step is named by its ``as:`` or its filter, a parameter by its name."""
    path, equals, text = override.partition("=")
    place = f"--set {override}"
    if not equals or not all(path.split(".")):
        raise _error(place, "write key=value, as in --set seed=1")
    names = path.split(".")
    declared = source.data.get(PARAMETERS)
    names = [PARAMETERS, *names] if isinstance(declared, dict) and path in declared else names
    _spell_out_pool(source.data, names)
    target: Any = source.data
    key: list[str | int] = []
    for name in names[:-1]:
        step, target = _enter(target, name, place)
        key += step
    value = _value(text, place)
    if is_expanded:  # a recipe given as data is not expanded as a whole
        value = expand(value, {}, (), lambda _, message: _error(place, message))
    step = _last(target, names[-1], value, place)
    whole = (*key, *step)
    source.places = {k: p for k, p in source.places.items() if k[: len(whole)] != whole} | {whole: place}


def _spell_out_pool(data: dict[str, Any], names: Sequence[str]) -> None:
    """``pool: {urls: list.csv}`` means ``{path: list.csv}``: so that a setting beside it can be set."""
    pool = data.get("pool")
    if names[0] == "pool" and len(names) > 2 and isinstance(pool, dict) and isinstance(pool.get(names[1]), str):
        pool[names[1]] = {"path": pool[names[1]]}


def _value(text: str, place: str) -> Any:
    """The value of an override: YAML where it is, else the text itself."""
    try:
        node = _compose(text, place)
    except RecipeError:
        return text
    if node is None:
        return None
    scratch = Source(place, {}, {(): place})
    value = _construct(node, (), scratch, 0)
    return text if isinstance(value, dict) and not text.lstrip().startswith("{") else value


def _enter(target: Any, name: str, place: str) -> tuple[Key, Any]:
    """Go one name down, making a mapping where there is none; a step's name leads to its settings."""
    if isinstance(target, list):
        i, filter_name = _named_step(target, name, place)
        if not isinstance(target[i], dict):
            target[i] = {filter_name: {}}
        if not isinstance(target[i][filter_name], dict):
            target[i][filter_name] = {}
        return (i, filter_name), target[i][filter_name]
    if not isinstance(target, dict):
        raise _error(place, f"there is nothing below {name!r} to set")
    if target.get(name) is None:
        target[name] = {}
    return (name,), target[name]


def _last(target: Any, name: str, value: Any, place: str) -> Key:
    if isinstance(target, list):
        i, filter_name = _named_step(target, name, place)
        target[i] = {filter_name: value}
        return (i,)
    if not isinstance(target, dict):
        raise _error(place, f"{name!r} cannot be set on {target!r}")
    target[name] = value
    return (name,)


def _named_step(steps: list[Any], name: str, place: str) -> tuple[int, str]:
    """Position of a step by number, ``as:`` or filter name; and its filter."""
    labels = [_labels(step) for step in steps]
    if name.isascii() and name.isdigit() and int(name[:9]) < len(steps):
        hits = [int(name[:9])]
    else:
        hits = [i for i, label in enumerate(labels) if name in label]
    if len(hits) != 1 or not labels[hits[0]]:
        what = "several steps are" if len(hits) > 1 else "no step is"
        raise _error(place, f"{what} called {name!r}; steps: {', '.join(label[0] for label in labels if label)}")
    return hits[0], labels[hits[0]][-1]


def _labels(step: Any) -> tuple[str, ...]:
    """What a step may be called: its ``as:`` first, its filter last; nothing where it is no step."""
    if isinstance(step, str):
        return (step,)
    if not isinstance(step, dict) or len(step) != 1:
        return ()
    ((name, body),) = step.items()
    given = body.get("as") if isinstance(body, dict) else None
    return (str(given), name) if given else (name,)
