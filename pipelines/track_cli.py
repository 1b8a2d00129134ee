"""The commands ``pairsieve track ...``: recipes compared by the models that their datasets train."""

from pathlib import Path
from typing import Annotated

import typer

from pairsieve.pipelines.cli_options import JsonOption, QuietOption, WorkersOption
from pairsieve.pipelines.cli_output import emit, resumable
from pairsieve.pipelines.track_scales_cli import scale_command
from pairsieve.pipelines.track_score_cli import score
from pairsieve.schemas.errors import UserError

track = typer.Typer(
    help="Compare recipes by what models learn from them.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)


@track.command()
def nano(
    recipe: Annotated[
        list[str] | None, typer.Option("--recipe", help="shipped nano_* recipe, or a file that extends nano_no_filter")
    ] = None,
    all_: Annotated[bool, typer.Option("--all", help="every shipped one: the whole table")] = False,
    out: Annotated[str, typer.Option(help="local folder of pool, runs and results; continued where it is there")] = (
        "runs/nano"
    ),
    seeds: Annotated[int, typer.Option(min=1, max=100, help="models a recipe")] = 3,
    workers: WorkersOption = None,
    json_: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Train and evaluate recipes on a small world, without any download; a recipe takes minutes on two cores."""
    if "://" in out:
        raise UserError(f"--out {out}: the nano track works in a local folder")
    if not (all_ or recipe):
        raise UserError("name a recipe, such as --recipe nano_basic, or give --all")
    from pairsieve.pipelines.progress import reporter
    from pairsieve.pipelines.recipe_file import find
    from pairsieve.pipelines.track import RECIPES, Nano, require
    from pairsieve.pipelines.track_plot import svg
    from pairsieve.pipelines.track_table import as_json, lines, markdown, rich_table

    require()
    wanted = list(dict.fromkeys([*(RECIPES if all_ else ()), *(recipe or ())]))
    for name in wanted:
        find(name)  # before minutes go into the pool
    root = Path(out).resolve()
    with resumable():
        found = lines(Nano(root, workers=workers, progress=reporter(quiet)).rows(wanted, seeds))
    (root / "results.md").write_text(markdown(found))
    (root / "results.svg").write_text(svg(found))
    key = "± standard deviation of the seeds; * the gain is more than twice that of both"
    files = f"{root}/results.jsonl, .md and .svg; the runs: {root}/runs"
    emit(json_, lambda: {"out": str(root), "recipes": as_json(found)}, lambda: [rich_table(found), key, files])


for _name in ("small", "medium", "large", "xlarge", "debug"):
    track.command(_name)(scale_command(_name))
track.command("score")(score)
