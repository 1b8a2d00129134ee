"""What to do next, after a run: real commands with a real pair, on standard error and to a person at a terminal alone.

An outcome that keeps nothing is explained to everybody.  Costs the reading of one shard's verdicts.
"""

import os
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from pairsieve.pipelines.cli_output import note

if TYPE_CHECKING:
    from pairsieve.pipelines.runner import Result

_SQL = "SELECT dropped_by, reason, count(*) FROM verdicts GROUP BY ALL ORDER BY 3 DESC"


def command() -> str:
    """How this person starts pairsieve: by name where a shell finds it, else by its path."""
    if shutil.which("pairsieve"):
        return "pairsieve"
    script = Path(sys.executable).with_name("pairsieve")
    if not script.exists():
        return "python -m pairsieve"
    relative = os.path.relpath(script)
    return shlex.quote(relative if not relative.startswith("..") else str(script))


def after_run(result: "Result", out: str, *, is_quiet: bool, has_report: bool = False) -> None:
    """Explain an empty outcome, and show what to ask of the run."""
    if is_quiet:
        return
    if not result.kept:
        note(nothing_kept(result))
    if sys.stdout.isatty() and sys.stderr.isatty():
        for line in ("", "next:", *(f"  {line}" for line in next_steps(result, out, has_report))):
            note(line)


def nothing_kept(result: "Result") -> str:
    """Why a run kept no pair: the step after which none was left, and its most frequent reason."""
    if not result.rows:
        return "nothing was kept: the pool has no pair; look at the pool's path in the recipe"
    last = next((step for step, reached, dropped in result.funnel if reached and reached == dropped), None)
    counts = {reason: n for (step, reason), n in result.tally.dropped.items() if step == last}
    if last is None or not counts:
        return "nothing was kept"
    reason = max(counts, key=lambda name: (counts[name], name))
    told = f"nothing was kept: {last} dropped the last {sum(counts.values()):,} pairs, most of them as {reason!r}"
    more = "the pool's files" if last == "pool" else f"its threshold: --set filters.{last}.…, pairsieve filters"
    return f"{told}; look at {more}"


def next_steps(result: "Result", out: str, has_report: bool) -> Iterator[str]:
    """Commands that work on this run."""
    me, run = command(), shlex.quote(out)
    uid = dropped_uid(result)
    if uid is not None:
        yield f"{me} why {run} {uid}   # why this pair was dropped"
    yield f'{me} query {run} "{_SQL}"'
    if not has_report:
        yield f"{me} report {run}   # one page to look at: funnel, scores, samples"
    yield f"{me} explore {run}   # browse pairs, move thresholds"


def dropped_uid(result: "Result") -> str | None:
    """A pair of the first shard that the last step dropped, where it dropped any there; None where none was dropped."""
    import pyarrow.compute as pc

    from pairsieve.pipelines.store import Store
    from pairsieve.pipelines.tasks import verdicts_name

    store = Store(result.root)
    name = verdicts_name(0)
    if not store.exists(name):
        return None
    table = store.table(name, ["uid", "dropped_by"])
    for step in reversed([step for step, _, dropped in result.funnel if dropped]):
        found = table.filter(pc.equal(table["dropped_by"], step))
        if found.num_rows:
            return str(found["uid"][0].as_py())
    return None
