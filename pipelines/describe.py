"""What filters and recipes look like, for people and editors."""

from typing import Any

from pydantic import BaseModel
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from pairsieve.filters.base import AnyFilter, GroupFilter, PoolFilter
from pairsieve.filters.load import describe, load, names
from pairsieve.schemas.errors import UserError
from pairsieve.schemas.recipe import POOLS, Output, Recipe


def cells(*values: str) -> list[Text]:
    """Plain text: rich would take ``[text]`` in an expression or a type for a style."""
    return [Text(printable(value)) for value in values]


def printable(text: str) -> str:
    """Text that is safe on a terminal: whoever wrote a caption must not move the cursor or set a title."""
    return "".join(c if c.isprintable() or c == "\n" else " " for c in text)


def kind_of(made: type[AnyFilter]) -> str:
    """Which of the three kinds a filter is."""
    return "group" if issubclass(made, GroupFilter) else "pool" if issubclass(made, PoolFilter) else "pair"


def filters_table() -> RenderableType:
    """One line a filter."""
    table = Table(title="Filters (pairsieve filters NAME for all settings)")
    for column in ("name", "kind", "what it does"):
        table.add_column(column)
    for name in names():
        made = load(name)
        table.add_row(*cells(name, kind_of(made), (made.__doc__ or "").strip().split("\n")[0]))
    return table


def loaded(name: str) -> type[AnyFilter]:
    """The filter of a name; raises ``UserError`` for an unknown one."""
    try:
        return load(name)
    except LookupError as error:
        raise UserError(str(error)) from None


def filter_page(name: str) -> list[RenderableType]:
    """One filter: its docstring, columns and settings."""
    made = loaded(name)
    table = Table(title="Settings")
    for column in ("name", "type", "default", "role", "what"):
        table.add_column(column, overflow="fold")
    for row in describe(made):
        table.add_row(*cells(*row.values()))
    lines = [line.removeprefix("    ") for line in (made.__doc__ or "").strip().split("\n")]
    writes = ", ".join(f"{column} {kind}" for column, kind in made.writes.items())
    if issubclass(made, PoolFilter) and made.derives:
        writes += "\nderives: " + ", ".join(f"{column} {kind}" for column, kind in made.derives.items())
    reads = ", ".join(made.reads)
    return [
        f"{name} ({kind_of(made)} filter)\n",
        "\n".join(lines),
        f"\nreads: {reads or 'as its settings say'}\nwrites: {writes or 'as its settings say'}\n",
        table,
    ]


def json_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of recipe files."""
    definitions: dict[str, Any] = {}
    pools = {kind: _anchored(model, definitions) for kind, model in POOLS.items()}
    steps = [_step_schema(name, definitions) for name in names()]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "pairsieve recipe",
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "extends": {"type": "string"},
            "parameters": {"type": "object", "additionalProperties": {"type": ["string", "number", "boolean", "null"]}},
            "pool": {
                "type": "object",
                "minProperties": 1,
                "maxProperties": 1,
                "additionalProperties": False,
                "properties": {kind: {"anyOf": [{"type": "string"}, body]} for kind, body in pools.items()},
            },
            "filters": {"type": "array", "items": {"anyOf": [*steps, _foreign_step()]}},
            "output": _output_schema(definitions),
            "seed": Recipe.model_json_schema()["properties"]["seed"],
        },
        "$defs": definitions,
    }


def _output_schema(definitions: dict[str, Any]) -> dict[str, Any]:
    body = _anchored(Output, definitions)
    body["properties"]["dataset"] = {"anyOf": [{"type": ["boolean", "null"]}, body["properties"]["dataset"]]}
    return body


def _step_schema(name: str, definitions: dict[str, Any]) -> dict[str, Any]:
    made = load(name)
    body = _anchored(made, definitions)
    body["properties"] |= {
        "as": {"type": "string", "pattern": "^[a-z][a-z0-9_]*$", "description": "name of the step"},
        "of": {"enum": ["pool", "survivors"], "description": "pool: measure every pair"},
    }
    bare = body["properties"][made.shorthand] if made.shorthand else {"type": "null"}
    step = {
        "type": "object",
        "additionalProperties": False,
        "required": [name],
        "properties": {name: {"anyOf": [bare, body]}},
    }
    return step if body.get("required") else {"anyOf": [{"const": name}, step]}


def _foreign_step() -> dict[str, Any]:
    """A filter of the user's: ``package.module:Class``."""
    name = r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$"
    patterns = {name: {"type": ["object", "null"]}}
    named = {"type": "object", "additionalProperties": False, "minProperties": 1, "patternProperties": patterns}
    return {"anyOf": [{"type": "string", "pattern": name}, named]}


def _anchored(model: type[BaseModel], definitions: dict[str, Any]) -> dict[str, Any]:
    """A model's schema, its own definitions moved to the common ones."""
    schema: dict[str, Any] = _with_parameters(model.model_json_schema(ref_template="#/$defs/{model}"))
    definitions |= schema.pop("$defs", {})
    schema.setdefault("properties", {})
    return schema


def _with_parameters(schema: Any) -> Any:
    """A schema in which any value of a mapping, at any depth, may be a parameter."""
    if isinstance(schema, list):
        return [_with_parameters(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    found = {name: _with_parameters(value) for name, value in schema.items()}
    if isinstance(found.get("properties"), dict):
        found["properties"] = {name: _or_parameter(value) for name, value in found["properties"].items()}
    if isinstance(found.get("additionalProperties"), dict):
        found["additionalProperties"] = _or_parameter(found["additionalProperties"])
    return found


def _or_parameter(value: dict[str, Any]) -> dict[str, Any]:
    """A value's schema, or ``${name}``: a parameter takes its own type."""
    about: dict[str, Any] = {name: value[name] for name in ("title", "description", "default") if name in value}
    return {**about, "anyOf": [value, {"type": "string", "pattern": r"^\$\{[A-Za-z_][A-Za-z0-9_]*\}$"}]}
