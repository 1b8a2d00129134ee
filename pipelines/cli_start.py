"""The page that ``pairsieve`` alone shows: what to try first, and what lies here already."""

from pairsieve.pipelines.hints import command
from pairsieve.pipelines.near import runs_below

_SHOWN = 3


def page() -> str:
    """A dozen lines; with the runs below the current folder where there are any."""
    me = command()
    lines = [
        "pairsieve builds image-text datasets: a recipe names the pool, its filters and the output,",
        "and every pair gets a verdict that can be asked for.",
        "",
        *_steps("Try it, without any data or network:", {f"{me} demo": "about a minute; the run: runs/demo"}),
        *_steps(
            "With pairs of your own:",
            {
                f"{me} init": "five questions; writes recipe.yaml",
                f"{me} plan recipe.yaml": "what a run would do and cost; writes nothing",
                f"{me} run recipe.yaml --out runs/first": "run it, or continue it",
            },
        ),
        *_runs(me),
        f"{me} --help lists all commands, {me} doctor looks at this machine.",
    ]
    return "\n".join(lines)


def _steps(title: str, commands: dict[str, str]) -> list[str]:
    width = max(map(len, commands))
    return [title, *(f"  {command:<{width}}   {what}" for command, what in commands.items()), ""]


def _runs(me: str) -> list[str]:
    """A command for each run that lies here."""
    runs = runs_below("")[:_SHOWN]
    sql = '"SELECT dropped_by, count(*) FROM verdicts GROUP BY 1"'
    return [*_steps("Runs here:", {f"{me} query {run} {sql}": "what dropped how many" for run in runs})] if runs else []
