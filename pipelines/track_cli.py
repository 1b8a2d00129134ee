"""The commands ``pairsieve track ...``: recipes compared by the models that their datasets train."""

import json
from pathlib import Path
from typing import Annotated

import typer

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
    workers: Annotated[int | None, typer.Option(min=1, help="processes; default: one a CPU")] = None,
    json_: Annotated[bool, typer.Option("--json", help="one JSON array instead of a table")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="show no progress")] = False,
) -> None:
    """Train and evaluate recipes on a small world, without any download; a recipe takes minutes on two cores."""
    if "://" in out:
        raise UserError(f"--out {out}: the nano track works in a local folder")
    if not (all_ or recipe):
        raise UserError("name a recipe, such as --recipe nano_basic, or give --all")
    from pairsieve.pipelines import cli
    from pairsieve.pipelines.progress import reporter
    from pairsieve.pipelines.track import RECIPES, Nano, require
    from pairsieve.pipelines.track_plot import svg
    from pairsieve.pipelines.track_table import as_json, lines, markdown, rich_table

    require()
    wanted = list(dict.fromkeys([*(RECIPES if all_ else ()), *(recipe or ())]))
    root = Path(out).resolve()
    with cli._resumable():
        found = lines(Nano(root, workers=workers, progress=reporter(quiet)).rows(wanted, seeds))
    (root / "results.md").write_text(markdown(found))
    (root / "results.svg").write_text(svg(found))
    if json_:
        print(json.dumps(as_json(found), indent=2))
        return
    console = cli._console()
    console.print(rich_table(found))
    console.print("± standard deviation of the seeds; * the gain is more than twice that of both", soft_wrap=True)
    console.print(f"{root}/results.jsonl, .md and .svg; the runs: {root}/runs", soft_wrap=True, markup=False)


for _name in ("small", "medium", "large", "xlarge", "debug"):
    track.command(_name)(scale_command(_name))
track.command("score")(score)
