"""A pydantic model's settings as Markdown: types and bounds in plain words, from its JSON Schema; costs nothing."""

import inspect
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel

_BOUNDS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
_KINDS = {"string": "text", "integer": "integer", "number": "number", "boolean": "true or false", "null": "null"}
LONG = 10**7
"""Bounds beyond it are those of the machine, not of the setting."""


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; cells may hold anything but their own Markdown is kept."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(_cell(value) for value in line) + " |" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def escaped(text: str) -> str:
    """Plain words that must not become markup: ``<`` and ``*`` of descriptions."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace("*", "\\*").replace("_", "\\_")


def prose(docstring: str | None) -> str:
    """A docstring as Markdown: its code signs stay, all else is plain words."""
    parts = re.split(r"``(.+?)``", inspect.cleandoc(docstring or ""), flags=re.S)
    return "".join(f"`{part}`" if i % 2 else escaped(part) for i, part in enumerate(parts))


def settings_tables(model: type[BaseModel], roles: Mapping[str, str] | None = None) -> str:
    """Every setting of a model with its type, bounds and default; nested ones in tables of their own.

    ``roles`` gives a further column, such as whether a setting decides or measures.
    """
    schema = model.model_json_schema()
    parts = [_settings(schema, roles)] if schema.get("properties") else ["It has no settings."]
    for name, nested in schema.get("$defs", {}).items():
        if "properties" in nested:
            parts.append(f"### {name}\n\n{escaped(_first(nested.get('description', '')))}\n\n{_settings(nested, None)}")
    return "\n\n".join(parts)


def _first(text: str) -> str:
    return " ".join(text.split("\n\n")[0].split())


def _settings(schema: Mapping[str, Any], roles: Mapping[str, str] | None) -> str:
    required = schema.get("required", [])
    rows = []
    for name, field in schema["properties"].items():
        default = "required" if name in required else _literal(field.get("default"))
        row = [f"`{name}`", type_text(field), default, escaped(field.get("description", ""))]
        rows.append(row if roles is None else [*row[:3], roles.get(name, ""), row[3]])
    heads = ["setting", "type", "default", "what"]
    return table(heads if roles is None else [*heads[:3], "role", heads[3]], rows)


def _literal(value: Any) -> str:
    """A default as YAML has it, in code signs."""
    if isinstance(value, bool) or value is None:
        return f"`{str(value).lower() if value is not None else 'null'}`"
    if isinstance(value, str):
        return f"`{value}`" if value else "`''`"
    if isinstance(value, list):
        return f"`[{', '.join(str(item) for item in value)}]`"
    return f"`{value}`"


def type_text(field: Mapping[str, Any]) -> str:
    """What a value may be: ``integer ≥ 0 or null``."""
    if "$ref" in field:
        return f"settings of {field['$ref'].rsplit('/', 1)[-1]}"
    if "anyOf" in field:
        return " or ".join(dict.fromkeys(type_text(one) for one in field["anyOf"]))
    if "enum" in field or "const" in field:
        return ", ".join(f"`{value}`" for value in field.get("enum", [field.get("const")]))
    if field.get("type") == "array":
        return _list_text(field)
    if field.get("type") == "object":
        inner = field.get("additionalProperties")
        return f"mapping of names to {type_text(inner)}" if isinstance(inner, dict) else "mapping"
    return " ".join([_KINDS.get(str(field.get("type")), "any value"), *_bounds(field)])


def _list_text(field: Mapping[str, Any]) -> str:
    if "prefixItems" in field:
        return "list of " + ", ".join(type_text(one) for one in field["prefixItems"])
    return " ".join(["list of", type_text(field.get("items", {})), *_bounds(field)])


def _bounds(field: Mapping[str, Any]) -> list[str]:
    """Bounds in signs, or ``from 0 to 1``; lengths with their unit."""
    limits = {key: field[key] for key in _BOUNDS if key in field and abs(field[key]) < LONG}
    if limits.keys() == {"minimum", "maximum"}:
        found = [f"from {limits['minimum']:g} to {limits['maximum']:g}"]
    else:
        found = [f"{_BOUNDS[key]} {value:g}" for key, value in limits.items()]
    if "multipleOf" in field:
        found.append(f"in steps of {field['multipleOf']}")
    if "minItems" in field and "maxItems" not in field:
        found.append(f"({field['minItems']} at least)")
    if "maxLength" in field:
        found.append(f"of at most {field['maxLength']} characters")
    return [", ".join(found)] if found else []
