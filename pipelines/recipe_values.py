"""Values of a recipe that stand elsewhere: ``${name}`` is a parameter of the recipe, else the environment's.

``parameters:`` lists names with their values; ``--set name=value`` sets one.  A value that is nothing
but ``${name}`` takes the parameter's own type; ``$${`` is a literal ``${``.
"""

import os
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

Key: TypeAlias = tuple[str | int, ...]
Refuse: TypeAlias = Callable[[Key, str], Exception]
"""Makes the error of a key."""

PARAMETERS = "parameters"
_NAME = r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}"
_REFERENCE = re.compile(rf"\$\$\{{|{_NAME}")


def parameters(found: Any, refuse: Refuse) -> dict[str, Any]:
    """The parameters, each expanded by those above it and the environment; raises what ``refuse`` makes."""
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise refuse((PARAMETERS,), f"{PARAMETERS}: write names with values, not {found!r}")
    for name, value in found.items():
        if not re.fullmatch(_NAME, f"${{{name}}}") or isinstance(value, dict | list):
            raise refuse((PARAMETERS, name), f"{PARAMETERS}: {name}: give a plain name one text or number, or null")
    known: dict[str, Any] = {}
    for name, value in found.items():
        known[name] = expand(value, known, (PARAMETERS, name), refuse)
    return known


def expand(value: Any, known: Mapping[str, Any], key: Key, refuse: Refuse) -> Any:
    """The value with every reference in its texts replaced; keys are left alone."""
    if isinstance(value, dict):
        return {name: expand(inner, known, (*key, name), refuse) for name, inner in value.items()}
    if isinstance(value, list):
        return [expand(inner, known, (*key, i), refuse) for i, inner in enumerate(value)]
    return _expand_text(value, known, key, refuse) if isinstance(value, str) else value


def refuse_large(value: Any, key: Key, refuse: Refuse) -> None:
    """Raise for a whole number that no column can hold: filters compare columns with their settings."""
    if isinstance(value, dict | list):
        for name, inner in value.items() if isinstance(value, dict) else enumerate(value):
            refuse_large(inner, (*key, name), refuse)
    elif isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise refuse(key, f"{key[-1]}: a whole number of more than 64 bits; write it with a point, or a smaller one")


def _expand_text(text: str, known: Mapping[str, Any], key: Key, refuse: Refuse) -> Any:
    def look_up(match: re.Match[str]) -> str:
        name = match.group(1)
        if name is None:
            return "${"
        if name in known and known[name] is None:
            raise refuse(key, f"the parameter {name} is null, which is no part of a text; set it")
        if name in known:
            return str(known[name])
        if name not in os.environ:
            raise refuse(key, _unknown(name, known))
        return os.environ[name]

    whole = re.fullmatch(_NAME, text)
    return known[whole.group(1)] if whole and whole.group(1) in known else _REFERENCE.sub(look_up, text)


def _unknown(name: str, known: Mapping[str, Any]) -> str:
    parameter = f"there is no parameter {name} ({', '.join(known)}) and " if known else ""
    return f"{parameter}the environment has no {name}; set it, or write $${{ for a literal ${{"
