"""The reference of the command line, made from the commands themselves."""

from collections.abc import Iterator
from typing import Any

import typer.main

from pairsieve.pipelines.cli import app
from scripts.docs_schema import escaped, table

URI = "cli-reference.md"


def commands() -> Iterator[tuple[str, Any]]:
    """Every command that does something, with its whole name."""
    yield from _below(typer.main.get_command(app), "pairsieve")


def _below(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    for sub, inner in sorted(getattr(command, "commands", {}).items()):
        if not inner.hidden:
            yield from _below(inner, f"{name} {sub}")
    if not hasattr(command, "commands"):
        yield name, command


def page() -> str:
    """All commands with their arguments and options."""
    return f"""# Commands

Made from the program; `pairsieve COMMAND --help` says the same.

{"".join(_section(name, command) for name, command in commands())}"""


def _section(name: str, command: Any) -> str:
    context = command.context_class(command, info_name=name)
    usage = " ".join(command.get_usage(context).removeprefix("Usage: ").split())
    parts = [f"## {name}\n\n{escaped(' '.join((command.help or '').split()))}\n\n```text\n{usage}\n```\n"]
    for kind in ("argument", "option"):
        shown = [p for p in command.params if p.param_type_name == kind and not p.hidden and p.name != "help"]
        if shown:
            parts.append(table([kind, "default", "what"], [_row(p, context) for p in shown]) + "\n")
    return "\n".join(parts) + "\n"


def _row(parameter: Any, context: Any) -> tuple[str, str, str]:
    """The name and value as in ``--help``, what counts where nothing is given, and what it is."""
    name = parameter.metavar if parameter.param_type_name == "argument" else parameter.get_help_record(context)[0]
    return f"`{name or parameter.name.upper()}`", _default(parameter), escaped(parameter.help or "")


def _default(parameter: Any) -> str:
    value = parameter.default
    if parameter.required:
        return "required"
    return "" if callable(value) or value in (None, (), [], False) else f"`{value}`"
