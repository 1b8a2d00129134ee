"""Find filters by file name or ``package.module:Class``.  There is no registry: the folder is the list."""

import sys
from difflib import get_close_matches
from importlib import import_module
from inspect import isabstract
from pathlib import Path
from typing import TypeGuard

from pairsieve.filters._names import names
from pairsieve.filters.base import AnyFilter, Filter, GroupFilter, PoolFilter

__all__ = ["describe", "load", "names", "short_name"]


def load(name: str) -> type[AnyFilter]:
    """The filter class of a name in a recipe; raises ``LookupError`` with a hint for an unknown one."""
    if ":" in name:
        return _load_foreign(*name.rsplit(":", 1))
    if name not in names():
        near = get_close_matches(name, names(), n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(names())}, or package.module:Class"
        raise LookupError(f"no filter {name!r}; {hint}")
    module = import_module(f"pairsieve.filters.{name}")
    found = [c for c in vars(module).values() if _is_filter(c) and c.__module__ == module.__name__]
    (only,) = found
    return only


def _load_foreign(module_name: str, class_name: str) -> type[AnyFilter]:
    """A filter of the user's; the current directory counts as importable, as for ``python -m``."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    try:
        made: object = getattr(import_module(module_name), class_name)
    except AttributeError as error:
        raise LookupError(_no_such(module_name, class_name, error)) from None
    except (ImportError, ValueError, TypeError) as error:  # the latter two: no name of a module at all
        raise LookupError(f"cannot import {module_name!r}: {_line(error)}; is it installed, or beside you?") from None
    except Exception as error:  # it is the user's code; whatever it raises
        raise LookupError(f"importing {module_name!r} fails: {type(error).__name__}: {_line(error)}") from None
    if not _is_filter(made):
        raise LookupError(f"{module_name}:{class_name} is no concrete Filter, PoolFilter or GroupFilter")
    return made


def _no_such(module_name: str, class_name: str, error: AttributeError) -> str:
    """The class is missing, or importing its module raised the same error."""
    if module_name not in sys.modules:
        return f"importing {module_name!r} fails: AttributeError: {_line(error)}"
    classes = [name for name, value in vars(sys.modules[module_name]).items() if _is_filter(value)]
    near = get_close_matches(class_name, classes, n=1)
    return f"{module_name} has no {class_name!r}" + (f"; did you mean {near[0]!r}?" if near else "")


def _line(error: Exception) -> str:
    """The error's first line."""
    return str(error).strip().split("\n")[0]


def short_name(name: str) -> str:
    """What a step of this filter is called without ``as:``."""
    return name.rsplit(":", 1)[-1]


def describe(kind: type[AnyFilter]) -> list[dict[str, str]]:
    """Name, type, default, description and role of each setting, in the order of the class body."""
    rows = []
    for name, field in kind.model_fields.items():
        roles = [type(mark).__name__.removesuffix("Mark").lower() for mark in field.metadata]
        role = next((r for r in roles if r in ("threshold", "runtime")), "scoring")
        default = "required" if field.is_required() else repr(field.default)
        kind_name = str(field.annotation).replace("typing.", "").replace("<class '", "").replace("'>", "")
        rows.append(
            {
                "name": field.alias or name,
                "type": kind_name,
                "default": default,
                "role": role,
                "what": field.description or "",
            }
        )
    return rows


def _is_filter(value: object) -> TypeGuard[type[AnyFilter]]:
    return isinstance(value, type) and issubclass(value, Filter | PoolFilter | GroupFilter) and not isabstract(value)
