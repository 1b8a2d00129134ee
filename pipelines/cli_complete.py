"""What the shell offers at Tab: run directories, recipes, filters, reasons, columns.

A shell runs the command at every Tab, so nothing heavy is imported and listings are bounded.  Nothing found
means that the shell completes files.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import typer

from pairsieve.pipelines.near import RUN_FILE, runs_below

_RECIPES = (".yaml", ".yml")


def runs(incomplete: str) -> list[str]:
    """Run directories up to two levels below what is typed."""
    return [] if "://" in incomplete else runs_below(_folder(incomplete), incomplete)


def recipes(incomplete: str) -> list[str]:
    """Recipe files in the folder that is typed and one level below, then shipped recipes."""
    if "://" in incomplete:
        return []
    folder = _folder(incomplete)
    files = [str(path) for depth in ("", "*/") for path in sorted(Path(folder or ".").glob(f"{depth}*.y*ml"))]
    files = [path for path in files if path.endswith(_RECIPES) and Path(path).name != RUN_FILE]
    shipped = sorted(path.stem for path in Path(__file__).parent.glob("*.yaml"))
    dot = "./" if incomplete.startswith("./") else ""
    return [path for path in [*(dot + file for file in files), *shipped] if path.startswith(incomplete)]


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
    """Columns that the steps of the run on the line have stored, as its ``run.yaml`` and score files tell."""
    run = ctx.params.get("run_dir")
    if not isinstance(run, str) or "://" in run or not Path(run, "scores").is_dir():
        return []
    return sorted({name for name in _stored(Path(run, "scores")) if name.startswith(incomplete)})


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


def _folder(incomplete: str) -> str:
    """The folder part of what is typed: ``runs/`` of ``runs/de``."""
    head = os.path.dirname(incomplete)  # noqa: PTH120 (a Path would lose a trailing slash)
    return os.path.expanduser(head)  # noqa: PTH111
