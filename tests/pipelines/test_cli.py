"""The command line: every command works, and no mistake ends in a traceback."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import numbered_rows, recipe, write_csv

GOOD = """\
pool:
  urls: {path: list.csv, shard_rows: 100}
filters:
  - caption_words: {least: 2}
  - where: "score >= 0.2"
output: {dataset: true, subset: subset.npy}
"""


def pairsieve(*arguments: str, cwd: Path) -> "subprocess.CompletedProcess[str]":
    """Run the command as a user does."""
    command = [sys.executable, "-m", "pairsieve", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A list, a recipe and a finished run, in a path with spaces."""
    here = tmp_path_factory.mktemp("my data")
    write_csv(here / "list.csv", numbered_rows(150))
    (here / "recipe.yaml").write_text(GOOD)
    done = pairsieve("run", "recipe.yaml", "--out", "run", cwd=here)
    assert done.returncode == 0, done.stderr
    return here


def test_run_prints_the_funnel(folder: Path) -> None:
    """The funnel goes to standard output, progress to standard error as plain lines."""
    done = pairsieve("run", "recipe.yaml", "--out", "run", "--set", "filters.caption_words.least=3", cwd=folder)
    assert done.returncode == 0
    assert "Funnel" in done.stdout
    assert "caption_words" in done.stdout
    assert "verdicts: 150 of 150 pairs" in done.stderr


def test_query_answers_in_sql(folder: Path) -> None:
    """A query over the run's views comes as csv into a pipe, as JSON lines if asked."""
    sql = "SELECT dropped_by, count(*) AS n FROM verdicts GROUP BY 1 ORDER BY 1"
    done = pairsieve("query", "run", sql, cwd=folder)
    assert done.stdout.splitlines()[:2] == ["dropped_by,n", "caption_words,30"]
    rows = pairsieve("query", "run", sql, "--format", "jsonl", cwd=folder).stdout.splitlines()
    assert json.loads(rows[0]) == {"dropped_by": "caption_words", "n": 30}
    assert "caption_words" in pairsieve("query", "run", sql, "--format", "table", cwd=folder).stdout


def test_plan_shows_steps_and_touches_nothing(folder: Path) -> None:
    """A plan names each step, its columns and thresholds, what a run re-uses, and writes no file."""
    before = sorted(folder.rglob("*"))
    done = pairsieve("plan", "recipe.yaml", "--out", "run", cwd=folder)
    assert done.returncode == 0
    for word in ("caption_words", "least: 2", "where", "score >= 0.2", "dataset/ kept", "subset.npy", "a finished run"):
        assert word in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 120
    assert sorted(folder.rglob("*")) == before


def test_filters_lists_and_describes(folder: Path) -> None:
    """``filters`` names every filter; with a name it prints the settings and their meaning."""
    assert "exact_duplicates" in pairsieve("filters", cwd=folder).stdout
    page = pairsieve("filters", "caption_words", cwd=folder).stdout
    assert "fewest words that stay" in page
    assert "threshold" in page


def test_schema_is_json_schema(folder: Path) -> None:
    """``schema`` prints a JSON Schema that editors can use."""
    schema = json.loads(pairsieve("schema", cwd=folder).stdout)
    assert schema["properties"]["filters"]["type"] == "array"


MISTAKES = {
    "no such recipe": (["run", "nothing.yaml", "--out", "x"], "nothing.yaml: no such recipe"),
    "unknown filter": (
        ["run", "bad.yaml", "--out", "x"],
        "bad.yaml:4: no filter 'caption_word'; did you mean 'caption_words'?",
    ),
    "unknown setting": (
        ["plan", "setting.yaml"],
        "setting.yaml:4: caption_words.leest: no such setting; did you mean 'least'?",
    ),
    "no such input": (
        ["run", "recipe.yaml", "--out", "x", "--set", "pool.urls.path=gone.csv"],
        "gone.csv: no such file",
    ),
    "plan into a file": (["plan", "recipe.yaml", "--out", "list.csv"], "list.csv: is a file; name a directory"),
    "plan elsewhere": (
        ["plan", "recipe.yaml", "--engine", "local", "--ray-address", "x"],
        "--ray-address x goes with --engine ray, not local",
    ),
    "bad override": (["plan", "recipe.yaml", "--set", "filters.caption.least=3"], "no step is called 'caption'"),
    "no run there": (["query", "nowhere", "SELECT 1"], "nowhere: no finished run here"),
    "bad sql": (["query", "run", "SELECT * FROM verdict"], "verdict"),
    "sql without rows": (["query", "run", "SELEC 1"], "SELEC"),
    "unknown engine": (
        ["run", "recipe.yaml", "--out", "x", "--engine", "spark"],
        "--engine spark: there are auto, local, ray",
    ),
    "unknown format": (["query", "run", "SELECT 1", "--format", "xml"], "--format xml: there are"),
    "unknown filter page": (["filters", "clip_scor"], "did you mean 'clip_score'?"),
    "unknown protocol": (["run", "recipe.yaml", "--out", "nosuch://x/y"], "nosuch"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistake_is_one_line_and_exit_2(folder: Path, name: str) -> None:
    """Each kind of mistake is answered with one line on standard error and exit code 2."""
    arguments, says = MISTAKES[name]
    (folder / "bad.yaml").write_text(GOOD.replace("caption_words", "caption_word"))
    (folder / "setting.yaml").write_text(GOOD.replace("least", "leest"))
    done = pairsieve(*arguments, cwd=folder)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("error: ")
    assert says in line


@pytest.mark.parametrize(
    "arguments", [["run"], ["run", "recipe.yaml"], ["runn"], ["run", "recipe.yaml", "--out", "x", "--worker", "2"]]
)
def test_wrong_usage_is_exit_2(folder: Path, arguments: list[str]) -> None:
    """A missing argument, an unknown command or option is a usage message, not a traceback."""
    done = pairsieve(*arguments, cwd=folder)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_library_gives_the_same(folder: Path, tmp_path: Path) -> None:
    """The library's ``run`` on the same recipe as data gives the command's verdicts, without a main guard."""
    made = recipe(folder / "list.csv", {"caption_words": {"least": 2}}, {"where": "score >= 0.2"})
    script = tmp_path / "script.py"
    script.write_text(
        "import json, pairsieve\n"
        f"result = pairsieve.run(json.loads({json.dumps(made)!r}), {str(tmp_path / 'run')!r}, workers=2)\n"
        'print(result.kept, result.query("SELECT count(*) AS n FROM dataset")["n"][0])\n'
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    kept, rows = done.stdout.split()
    assert kept == rows != "0"


def test_columns_of_one_name_stay_apart(folder: Path) -> None:
    """A query that names two columns alike loses neither."""
    done = pairsieve("query", "run", "SELECT 1 AS a, 2 AS a", cwd=folder)
    assert done.stdout.splitlines() == ["a,a", "1,2"]
    rows = pairsieve("query", "run", "SELECT 1 AS a, 2 AS a", "--format", "jsonl", cwd=folder).stdout
    assert json.loads(rows) == {"a": 1, "a_1": 2}


def test_out_that_is_a_file_is_a_line(folder: Path) -> None:
    """A file where the run directory should be is one line and exit code 2."""
    done = pairsieve("run", "recipe.yaml", "--out", "list.csv", cwd=folder)
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert "list.csv" in line
