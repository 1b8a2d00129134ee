"""The demo: serve the synthetic world on loopback, curate it with ``demo.yaml``, count what was caught.

The defects are planted and recorded, so the count is exact.  About a minute on two cores.
"""

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import RenderableType
from rich.table import Table

from pairsieve.pipelines import catalog
from pairsieve.pipelines.demo_pool import DemoPool, build_pool, write_truth, write_url_list
from pairsieve.pipelines.demo_server import DemoServer, serve
from pairsieve.pipelines.engines import EngineName
from pairsieve.pipelines.funnel import funnel_table
from pairsieve.pipelines.progress import Reporter
from pairsieve.pipelines.run import run
from pairsieve.pipelines.runner import Result

TARGETS = {
    "boilerplate_text": "caption_words",
    "repeated_row": "same_row",
    "not_found": "download",
    "server_error": "download",
    "slow_response": "download",
    "endless_response": "download",
    "html_page": "download",
    "broken_file": "download",
    "truncated_file": "download",
    "huge_image_header": "download",
    "opted_out": "download",
    "tiny_image": "image_shape",
    "extreme_aspect": "image_shape",
    "exact_duplicate": "same_image",
    "swapped_caption": "clip_score",
    "reencoded_duplicate": None,
}
"""The step of ``demo.yaml`` that is there for a defect; None = no filter of this recipe."""

CUT = "clip_score"
"""The top-fraction cut: what it drops among good pairs is the price of a fraction, not a mistake."""


@dataclass(frozen=True)
class Catch:
    """One class of planted defects: how many there are, and how many its step dropped."""

    defect: str
    step: str | None
    planted: int
    caught: int

    @property
    def share(self) -> float:
        """Caught over planted."""
        return self.caught / self.planted if self.planted else 1.0


@dataclass(frozen=True)
class Score:
    """The outcome of a demo: every class, and what good pairs were lost."""

    result: Result
    catches: tuple[Catch, ...]
    good: int
    good_lost: int
    good_cut: int


def run_demo(
    out: str | Path, *, pairs: int = 3000, engine: EngineName = "ray", workers: int | None = None, progress: Reporter
) -> Score:
    """Build, serve, curate and count; the URL list and the truth lie under ``demo/`` of the run."""
    folder = Path(out) / "demo"
    folder.mkdir(parents=True, exist_ok=True)
    pool = build_pool(pairs)
    with _serving(pool, folder / "port") as server:
        if not (folder / "truth.parquet").exists() or _changed(folder / "port", server.port):
            write_url_list(pool, server.url, folder / "urls.parquet")
            write_truth(pool, server.url, folder / "truth.parquet")
            (folder / "port").write_text(str(server.port))
        overrides = [f"pool.urls.path={json.dumps(str(folder / 'urls.parquet'))}"]
        result = run("demo", out, overrides=overrides, engine=engine, workers=workers, progress=progress)
    return score(result, folder / "truth.parquet")


def _changed(file: Path, port: int) -> bool:
    return not file.exists() or file.read_text() != str(port)


@contextmanager
def _serving(pool: DemoPool, port_file: Path) -> Iterator[DemoServer]:
    """On the port of an earlier run where it is free: the URLs, and so the uids, stay the same."""
    before = int(port_file.read_text()) if port_file.exists() else 0
    try:
        context = serve(pool, before)
        server = context.__enter__()
    except OSError:
        context = serve(pool)
        server = context.__enter__()
    with ExitStack() as stack:
        stack.push(context)
        yield server


_JUDGED = """
    CREATE TEMP TABLE judged AS
    WITH places AS (SELECT *, row_number() OVER () - 1 AS place FROM read_parquet($truth)),
    found AS (
        SELECT s.shard * $shard_rows + s.row AS place, s.uid, s.dropped_by,
               coalesce(s.same_row_of, s.same_image_of) AS keeper
        FROM scores s
    )
    SELECT t.defect, t.index, coalesce(t.duplicate_of, t.index) AS cluster, f.uid, f.dropped_by, f.keeper
    FROM places t JOIN found f USING (place)
"""
_TARGETS = "SELECT unnest($defects) AS defect, unnest($steps) AS target"
_CAUGHT = f"""
    WITH targets AS ({_TARGETS})
    SELECT defect, any_value(target), count(*), count(*) FILTER (
        dropped_by = target OR EXISTS (
            FROM judged other WHERE other.keeper = judged.uid AND other.dropped_by = target
                                AND other.index = judged.cluster AND other.index <> judged.index
        )
    )
    FROM judged JOIN targets USING (defect) GROUP BY defect
"""
_GOOD = """
    SELECT count(*),
           count(*) FILTER (dropped_by IS NOT NULL AND dropped_by <> $cut AND NOT coalesce(keeper IN (
               SELECT other.uid FROM judged other WHERE other.cluster = judged.cluster), false)),
           coalesce(count(*) FILTER (dropped_by = $cut), 0)
    FROM judged WHERE defect IS NULL
"""


def score(result: Result, truth: Path) -> Score:
    """Join verdicts and truth by position in the list.

    A duplicate is caught if it, or the pair that it repeats, was dropped in favour of the other;
    a good pair is lost if something else than the top-fraction cut or its own duplicate cost it its place.
    """
    spec = result.plan.recipe.pool
    with catalog.connect(result.root) as con:
        con.execute(_JUDGED, {"truth": str(truth), "shard_rows": spec.shard_rows})
        found = con.execute(_CAUGHT, {"defects": list(TARGETS), "steps": list(TARGETS.values())}).fetchall()
        ((good, lost, cut),) = con.execute(_GOOD, {"cut": CUT}).fetchall()
    catches = {row[0]: Catch(*row) for row in found}
    return Score(result, tuple(catches[d] for d in TARGETS if d in catches), good, lost, cut)


def page(score: Score) -> Iterator[RenderableType]:
    """The funnel and the count of planted defects."""
    yield funnel_table(score.result)
    table = Table(title="Planted defects")
    for name in ("defect", "step that targets it"):
        table.add_column(name)
    for name in ("planted", "caught", "share"):
        table.add_column(name, justify="right")
    for catch in score.catches:
        share = f"{catch.share:.1%}" if catch.step else "-"
        table.add_row(catch.defect, catch.step or "none in this recipe", str(catch.planted), str(catch.caught), share)
    yield table
    lost = f"{score.good_lost:,} ({score.good_lost / max(1, score.good):.1%})"
    yield f"good pairs: {score.good:,}; lost by mistake: {lost}; below the top-fraction cut: {score.good_cut:,}"
    yield f"the run: {score.result.root}"
