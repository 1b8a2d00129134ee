"""The demo, as a user runs it: through Ray, from the command line."""

import json
import re
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pairsieve.pipelines.catalog import query
from pairsieve.pipelines.cli import app
from pairsieve.pipelines.cli_documents import demo_document
from pairsieve.pipelines.demo import TARGETS, run_demo
from pairsieve.pipelines.demo_pool import DEFECTS
from pairsieve.pipelines.progress import Silent

LEAST_CAUGHT, MOST_LOST = 0.95, 0.05


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, "subprocess.CompletedProcess[str]"]:
    """One run of ``pairsieve demo`` with its default pool and engine, in a path with spaces."""
    out = tmp_path_factory.mktemp("the demo") / "run"
    command = [sys.executable, "-m", "pairsieve", "demo", "--out", str(out)]
    return out, subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)


def test_demo_ends_well(demo: tuple[Path, "subprocess.CompletedProcess[str]"]) -> None:
    """It exits 0 and shows the funnel and the planted defects."""
    _, done = demo
    assert done.returncode == 0, done.stderr
    assert "Funnel" in done.stdout
    assert "Planted defects" in done.stdout


@pytest.mark.parametrize("defect", [d for d, step in TARGETS.items() if step])
def test_demo_catches(demo: tuple[Path, "subprocess.CompletedProcess[str]"], defect: str) -> None:
    """At least 95 % of every class that a step targets is caught by that step."""
    found = re.search(rf"{defect} +│ +(\w+) +│ +(\d+) +│ +(\d+) ", demo[1].stdout)
    assert found, demo[1].stdout
    step, planted, caught = found[1], int(found[2]), int(found[3])
    assert step == TARGETS[defect]
    assert planted >= 30
    assert caught >= LEAST_CAUGHT * planted


def test_demo_loses_few_good_pairs(demo: tuple[Path, "subprocess.CompletedProcess[str]"]) -> None:
    """Outside the top-fraction cut at most 5 % of the good pairs are lost."""
    found = re.search(r"good pairs: ([\d,]+); lost by mistake: ([\d,]+)", demo[1].stdout)
    assert found
    good, lost = (int(n.replace(",", "")) for n in found.groups())
    assert good > 1500
    assert lost <= MOST_LOST * good


def test_demo_answers_queries(demo: tuple[Path, "subprocess.CompletedProcess[str]"]) -> None:
    """The query of the README adds up to the pool."""
    table = query(str(demo[0]), "SELECT dropped_by, count(*) AS n FROM verdicts GROUP BY 1")
    assert sum(table["n"].to_pylist()) == 3000
    assert None in table["dropped_by"].to_pylist()


def test_demo_separates_swapped_captions(demo: tuple[Path, "subprocess.CompletedProcess[str]"]) -> None:
    """The stored scores rank matched above swapped captions: AUC of at least 0.95."""
    sql = """
        WITH truth AS (SELECT *, row_number() OVER () - 1 AS place FROM read_parquet($truth)),
        scored AS (SELECT shard * 500 + row AS place, clip_score FROM scores WHERE clip_score IS NOT NULL),
        ranked AS (SELECT defect, rank() OVER (ORDER BY clip_score) AS rank FROM scored JOIN truth USING (place)
                   WHERE defect IS NULL OR defect = 'swapped_caption')
        SELECT (sum(rank) FILTER (defect IS NULL) - n * (n + 1) / 2) / (n * m) AS auc
        FROM ranked,
             (SELECT count(*) FILTER (defect IS NULL) AS n, count(*) FILTER (defect IS NOT NULL) AS m FROM ranked)
        GROUP BY n, m
    """
    truth = str(demo[0] / "demo" / "truth.parquet")
    assert query(str(demo[0]), sql, {"truth": truth})["auc"][0].as_py() >= 0.95


def test_every_defect_has_a_verdict_on_itself() -> None:
    """The table of targets names exactly the classes that the world plants."""
    assert set(TARGETS) == set(DEFECTS)


def test_demo_again_measures_nothing(tmp_path: Path) -> None:
    """A second demo in the same directory reuses every score and gives the same outcome, here as one JSON document."""
    first = run_demo(tmp_path, pairs=60, engine="local", workers=1, progress=Silent())
    stamps = {p: p.stat().st_mtime_ns for p in (tmp_path / "scores").rglob("*.parquet")}
    options = ["--pairs", "60", "--engine", "local", "--workers", "1", "--json"]
    done = CliRunner().invoke(app, ["demo", "--out", str(tmp_path), *options], catch_exceptions=False)
    second = json.loads(done.stdout)
    assert second["defects"] == [asdict(catch) for catch in first.catches]
    assert second.keys() == demo_document(first, "").keys()
    assert Path(second["report"]).is_file()
    assert second["funnel"][-1]["left"] == second["kept"] == first.result.kept
    assert "pairsieve why" not in done.stderr
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "scores").rglob("*.parquet")} == stamps
