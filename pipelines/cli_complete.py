"""What the shell offers at Tab: run directories, recipes, filters, reasons, columns.

A shell runs the command at every Tab, so nothing heavy is imported and listings are bounded.  Nothing found
means that the shell completes files.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import typer

from pairsieve.pipelines.near import MOST_ENTRIES, RUN_FILE, folders, runs_below

_RECIPES = (".yaml", ".yml")
_CUT = frozenset(" '\"\\$&|;()<>*?[]{}`!#~")


def runs(incomplete: str) -> list[str]:
    """Run directories up to two levels below what is typed."""
    return [] if _is_odd(incomplete) else [p for p in runs_below(_folder(incomplete), incomplete) if not _is_odd(p)]


def recipes(incomplete: str) -> list[str]:
    """Recipe files in the folder that is typed and one level below, then shipped recipes."""
    if _is_odd(incomplete):
        return []
    folder = _folder(incomplete)
    files = [file for file in (*_recipes_in(folder), *_recipes_below(folder)) if not _is_odd(file)]
    shipped = sorted(path.stem for path in Path(__file__).parent.glob("*.yaml"))
    return [path for path in [*files, *shipped] if path.startswith(incomplete)]


def _recipes_in(folder: str) -> list[str]:
    try:
        with os.scandir(folder or ".") as entries:
            found = sorted(entry.name for _, entry in zip(range(MOST_ENTRIES), entries, strict=False))
    except (OSError, ValueError):
        return []
    return [os.path.join(folder, name) for name in found if name.endswith(_RECIPES) and name != RUN_FILE]  # noqa: PTH118


def _recipes_below(folder: str) -> list[str]:
    return [file for inner in folders(folder or ".") for file in _recipes_in(os.path.join(folder, inner))]  # noqa: PTH118


def filters(incomplete: str) -> list[str]:
    """Names of the filters that ship."""
    from pairsieve.filters._names import names

    return [name for name in names() if name.startswith(incomplete)]


def reasons(incomplete: str) -> list[str]:
    """Why a download may fail: after a comma the next one."""
    from pairsieve.filters._codes import Code

    head, comma, last = incomplete.rpartition(",")
    known = [code.value for code in Code if code is not Code.SUCCESS]
    taken = set(head.split(","))
    return [f"{head}{comma}{name}" for name in known if name.startswith(last) and name not in taken]


def columns(ctx: typer.Context, incomplete: str) -> list[str]:
    """Embeddings that the steps of the run on the line have stored, as its score files tell.

    While the option has no value yet, the parser leaves the run among what it could not place.
    """
    words = [word for word in (ctx.params.get("run_dir"), *ctx.args) if isinstance(word, str) and "://" not in word]
    scores = next((path for word in words if (path := Path(word, "scores")).is_dir()), None)
    return sorted({name for name in _stored(scores) if name.startswith(incomplete)}) if scores is not None else []


def one_of(*known: str) -> Callable[[str], list[str]]:
    """The values of an option that takes one of a few."""

    def values(incomplete: str) -> list[str]:
        return [value for value in known if value.startswith(incomplete)]

    return values


def _stored(scores: Path) -> list[str]:
    """List columns of the first score file of each step."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    found: list[str] = []
    for folder in sorted(scores.iterdir()):
        file = next(iter(sorted(folder.glob("*.parquet"))), None)
        schema: Any = pq.read_schema(file) if file is not None else ()
        found += [field.name for field in schema if pa.types.is_list(field.type) or _is_fixed(field.type)]
    return found


def _is_fixed(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_fixed_size_list(kind))


def _is_odd(path: str) -> bool:
    """URLs cannot be listed in time, and no function can quote for bash what a shell would cut."""
    return "://" in path or bool(set(path) & _CUT) or not path.isprintable()


def _folder(incomplete: str) -> str:
    """The folder part of what is typed: ``runs/`` of ``runs/de``."""
    return os.path.dirname(incomplete)  # noqa: PTH120 (a Path would lose a trailing slash)
