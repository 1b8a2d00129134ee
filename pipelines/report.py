"""One self-contained HTML file that shows a run: funnel, thresholds, distributions, samples, duplicates, volumes.

Counts are exact, made by DuckDB over the run's Parquet files; pictures, captions and URLs are a bounded sample, so that
the file stays under 10 MB whatever the run.  The same run gives the same bytes.  Nothing of the run is changed.
Ten million pairs take 29 CPU-seconds and 1 GB, a small run a second or two (see BENCHMARKS.md).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pairsieve.pipelines import report_page
from pairsieve.pipelines.progress import Reporter, Silent
from pairsieve.pipelines.report_cuts import Cut
from pairsieve.pipelines.report_funnel import Line
from pairsieve.pipelines.report_gather import NAME, Gathered
from pairsieve.pipelines.report_source import open_run
from pairsieve.pipelines.store import Store
from pairsieve.schemas.errors import UserError


@dataclass(frozen=True)
class Report:
    """A report that was written: of which run, where, its bytes, the funnel, the thresholds in force.

    ``state`` says what is unfinished of the run, ``unread`` what could not be read.
    """

    run: str
    file: str
    bytes: int
    funnel: tuple[Line, ...]
    cuts: tuple[Cut, ...]
    state: tuple[str, ...]
    unread: tuple[str, ...]

    def document(self) -> dict[str, Any]:
        """It as JSON values."""
        names = ("step", "reached", "dropped", "left", "alone")
        steps = [line.step for line in self.funnel[1:]]
        return {
            "run": self.run,
            "file": self.file,
            "bytes": self.bytes,
            "funnel": [{name: getattr(line, name) for name in names} for line in self.funnel],
            "thresholds": [
                {"step": steps[cut.step], "column": cut.column, "sign": cut.sign, "value": cut.value}
                for cut in self.cuts
            ],
            "state": list(self.state),
            "unread": list(self.unread),
        }


def report(run: str | Path, out: str | Path | None = None, *, progress: Reporter | None = None) -> Report:
    """Write the report of a run, finished or not, to ``RUN/report.html`` or a file of your own.

    Both may be fsspec URLs.  Raises ``UserError`` where there is no run, or ``out`` is no file to write.
    """
    folder, name = _target(str(run), None if out is None else str(out))
    with open_run(str(run)) as source:
        made = Gathered(source, progress or Silent())
        page = report_page.render(made.content())
        folder.write(name, page)
        found = (tuple(made.funnel), tuple(made.cuts), source.state, tuple(source.unread))
        file = folder.path(name) if folder.local else folder.url(name)
        return Report(source.store.root, file, len(page), *found)


def _target(run: str, out: str | None) -> tuple[Store, str]:
    """The folder and the name of the file to write."""
    if out is None:
        return Store(run), NAME
    head, _, name = out.rpartition("/")
    if not name or ("://" not in out and Path(out).is_dir()):
        raise UserError(f"--out {out}: is a folder; name a file, such as {out.rstrip('/')}/{NAME}")
    return Store(head or ("/" if out.startswith("/") else ".")), name
