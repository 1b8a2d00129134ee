"""Options that several commands share, each declared once, and how their values are checked.

``takes_job`` gives a command the four options of everything that runs on an engine.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Annotated, Any, TypedDict, get_type_hints

import typer

from pairsieve.pipelines import cli_complete as complete
from pairsieve.schemas.errors import UserError

if TYPE_CHECKING:
    from pairsieve.pipelines.engines import EngineName
    from pairsieve.pipelines.progress import Reporter

ENGINES = ("auto", "local", "ray")
DEVICES = ("auto", "cpu", "cuda")


def run_arg(what: str = "a finished run", metavar: str = "RUN") -> Any:
    """An argument that is a run directory."""
    return typer.Argument(help=what, metavar=metavar, autocompletion=complete.runs)


def one_of(*names: str, values: tuple[str, ...], what: str = "") -> Any:
    """An option that takes one of a few values; ``chosen`` refuses others."""
    listed = f"{', '.join(values[:-1])} or {values[-1]}"
    return typer.Option(*names, help=f"{what}: {listed}" if what else listed, autocompletion=complete.one_of(*values))


def chosen(option: str, value: str, known: tuple[str, ...]) -> Any:
    """The value of an option; raises ``UserError`` for one that is not known."""
    if value not in known:
        raise UserError(f"{option} {value}: there are {', '.join(known)}")
    return value


RunArg = Annotated[str, run_arg()]
RecipeArg = Annotated[
    str,
    typer.Argument(
        help="recipe file, or the name of a shipped recipe", metavar="RECIPE", autocompletion=complete.recipes
    ),
]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="override a value of the recipe")
]
OutOption = Annotated[str, typer.Option(help="run directory, local or any fsspec URL", autocompletion=complete.runs)]
EngineOption = Annotated[str, one_of(values=ENGINES)]
AddressOption = Annotated[str | None, typer.Option(help="address of a Ray cluster; implies --engine ray")]
WorkersOption = Annotated[int | None, typer.Option(min=1, help="worker processes; default: one a CPU")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="show no progress")]
DeviceOption = Annotated[str, one_of(values=DEVICES, what="of the model")]
JsonOption = Annotated[bool, typer.Option("--json", help="one JSON document on standard output, for programs")]


class Settings(TypedDict):
    """The job's options as the library's functions take them."""

    engine: "EngineName"
    ray_address: str | None
    workers: int | None
    progress: "Reporter"


@dataclass(frozen=True)
class Job:
    """Where a command works and whether it shows progress; a field is an option."""

    engine: EngineOption = "auto"
    ray_address: AddressOption = None
    workers: WorkersOption = None
    quiet: QuietOption = False

    @property
    def settings(self) -> Settings:
        """Arguments of the library; raises ``UserError`` for an unknown engine."""
        from pairsieve.pipelines.progress import reporter

        return {
            "engine": chosen("--engine", self.engine, ENGINES),
            "ray_address": self.ray_address,
            "workers": self.workers,
            "progress": reporter(self.quiet),
        }


def takes_job(command: Callable[..., None]) -> Callable[..., None]:
    """The command with the fields of ``Job`` as options; it gets them as ``job``.

    Typer reads a function's signature, and knows no options that are grouped.
    """
    keyword = inspect.Parameter.KEYWORD_ONLY
    hints = get_type_hints(Job, include_extras=True)
    own = [p.replace(kind=keyword) for p in inspect.signature(command).parameters.values() if p.name != "job"]
    added = [inspect.Parameter(n, keyword, default=getattr(Job, n), annotation=hint) for n, hint in hints.items()]

    @wraps(command)
    def with_job(**given: Any) -> None:
        job = Job(**{name: given.pop(name) for name in hints})
        command(**given, job=job)

    with_job.__signature__ = inspect.Signature([*own, *added])  # type: ignore[attr-defined]
    return with_job
