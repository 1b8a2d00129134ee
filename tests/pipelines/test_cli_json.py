"""--json: standard output is one JSON object with the keys that docs/cli.md promises; an error is a line beside it."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from pairsieve.pipelines.cli import app
from pairsieve.pipelines.cli_documents import cluster_document, distinct
from pairsieve.pipelines.cli_output import plain
from pairsieve.pipelines.cluster import Trained
from pairsieve.pipelines.run import run as run_recipe
from pairsieve.schemas.errors import PairsieveError
from tests.support_pools import write_webdataset
from tests.support_tars import write_pool, write_subset

DOCS = Path(__file__).parents[2] / "docs" / "cli.md"
RUNNER = CliRunner()


def documented() -> dict[str, set[str]]:
    """Command -> the top keys of its document, from the table in the docs."""
    found: dict[str, set[str]] = {}
    for names, keys in re.findall(r"^\| (`[^|]+`) \| ((?:`|those).*) \|$", DOCS.read_text(), re.MULTILINE):
        inner = re.sub(r"\([^)]*\)|;.*", "", keys)
        top = set(re.findall(r"`([a-z0-9_]+)`", inner))
        for name in re.findall(r"`([^`]+)`", names):
            found[name] = top | (found["run"] if keys.startswith("those") else set())
    return found


DOCUMENTED = documented()


def document(*arguments: str) -> Any:
    """What a command prints with --json, which must be one JSON object and nothing else."""
    done = RUNNER.invoke(app, [*arguments, "--json"], catch_exceptions=False)
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    assert isinstance(found, dict)
    return found


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run over a tar, with images and a dataset."""
    root = tmp_path_factory.mktemp("json")
    (root / "tars").mkdir()
    recipe = {"pool": write_webdataset(root / "tars"), "filters": ["caption_words", "image_shape"]}
    assert run_recipe(recipe, root / "run", engine="local", workers=1).kept
    return root / "run"


@pytest.fixture(scope="module")
def fetched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run that asked an address where nothing listens."""
    root = tmp_path_factory.mktemp("fetched")
    (root / "list.csv").write_text("url,text\nhttp://127.0.0.1:9/1.jpg,a red bicycle here\n")
    settings = {"retries": 0, "timeout": 2, "patience": 2, "allow_addresses": ["127.0.0.1/32"]}
    recipe = {"pool": {"urls": str(root / "list.csv")}, "filters": [{"download": settings}]}
    assert run_recipe(recipe, root / "run", engine="local", workers=1).kept == 0
    return root / "run"


def test_the_table_is_read() -> None:
    """The docs name the commands that print results."""
    assert {"run", "demo", "query", "why", "diff", "export", "doctor", "filters NAME"} <= DOCUMENTED.keys()
    assert DOCUMENTED["demo"] >= {"kept", "defects"}


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("query", ["query", "{run}", "SELECT dropped_by, count(*) AS n FROM verdicts GROUP BY 1 ORDER BY 1"]),
        ("diff", ["diff", "{run}", "{run}"]),
        ("hosts", ["hosts", "{fetched}"]),
        ("why", ["why", "{run}", "{uid}"]),
        ("export", ["export", "hf", "{run}", "{out}/hf", "-q"]),
        ("export", ["export", "webdataset", "{run}", "{out}/tars", "-q", "--loader-workers", "1"]),
        ("export", ["export", "img2dataset", "{fetched}", "{out}/img", "-q"]),
        ("filters", ["filters"]),
        ("filters NAME", ["filters", "clip_score"]),
    ],
)
def test_documents_of_a_run(run: Path, fetched: Path, tmp_path: Path, name: str, arguments: list[str]) -> None:
    """Each has the documented keys, no more and no less."""
    with duckdb.connect() as con:
        ((uid,),) = con.execute(f"SELECT min(uid) FROM '{run}/verdicts/*.parquet'").fetchall()
    told = document(*(text.format(run=run, fetched=fetched, uid=uid, out=tmp_path) for text in arguments))
    assert told.keys() == DOCUMENTED[name]


def test_run_and_plan(tmp_path: Path) -> None:
    """A run tells what it measured now; a plan all that its docs list."""
    (tmp_path / "list.csv").write_text("url,text\nhttp://e.org/1.jpg,a red bicycle here\nhttp://e.org/2.jpg,x\n")
    recipe = tmp_path / "r.yaml"
    recipe.write_text(f"pool: {{urls: {tmp_path}/list.csv}}\nfilters:\n  - caption_words\noutput: {{subset: s.npy}}\n")
    assert document("plan", str(recipe), "--sample", "0").keys() == DOCUMENTED["plan"]
    told = document("run", str(recipe), "--out", str(tmp_path / "run"), "-q", "--workers", "1")
    assert told.keys() == DOCUMENTED["run"]
    assert (told["kept"], told["measured"]) == (1, {"caption_words": 2})


def test_retry_tells_as_run(fetched: Path) -> None:
    """A retry's document is a run's: where nothing listens, nothing comes."""
    told = document("retry", str(fetched), "--reasons", "connection", "--workers", "1", "-q")
    assert told.keys() == DOCUMENTED["retry"]
    assert (told["kept"], told["measured"]) == (0, {"download": 1})


def test_query_keeps_types_and_equal_names(run: Path) -> None:
    """Columns of one name stay apart, NaN is null, bytes are their number."""
    sql = "SELECT 1 AS a, 2 AS a, 'NaN'::DOUBLE AS n, image FROM dataset LIMIT 1"
    told = document("query", str(run), sql)
    assert [column["name"] for column in told["columns"]] == ["a", "a_1", "n", "image"]
    (row,) = told["rows"]
    assert (row["a"], row["a_1"], row["n"]) == (1, 2, None)
    assert re.fullmatch(r"<\d+ bytes>", row["image"])


def test_reshard(tmp_path: Path) -> None:
    """What was written of a subset, by file."""
    write_pool(tmp_path / "tars", 2)
    subset = write_subset(tmp_path / "s.npy", range(0, 30, 3))
    told = document("reshard", str(subset), str(tmp_path / "tars"), str(tmp_path / "out"), "-q", "--workers", "1")
    assert told.keys() == DOCUMENTED["reshard"]
    assert sum(file["rows"] for file in told["files"]) == told["written"] == 10


def test_balance(tmp_path: Path) -> None:
    """Head and tail at a t, and the most frequent entries."""
    (tmp_path / "counts.json").write_text(json.dumps({"cat": 90, "dog": 5, "emu": 0}))
    told = document("balance", str(tmp_path / "counts.json"), "--t", "10")
    assert told.keys() == DOCUMENTED["balance"]
    assert told["top"][0]["name"] == "cat"
    assert {part["name"]: part["entries"] for part in told["parts"]} == {"zero": 1, "tail": 1, "head": 1}


def test_metadata(tmp_path: Path) -> None:
    """Entries by source and language."""
    (tmp_path / "wiki.jsonl").write_text(json.dumps({"text": "ice cream in New York. " * 120}))
    options = ["--no-wordnet", "--wikipedia", str(tmp_path / "wiki.jsonl"), "--workers", "1", "-q"]
    told = document("metadata", str(tmp_path / "m.parquet"), *options)
    assert told.keys() == DOCUMENTED["metadata"]
    assert told["entries"] == sum(told["languages"].values()) > 0


def test_cluster() -> None:
    """Centroids by number and width."""
    told = cluster_document(Trained(np.zeros((3, 8), np.float32), 20, 1), "c.npy")
    assert told.keys() == DOCUMENTED["cluster"]
    assert (told["clusters"], told["width"]) == (3, 8)


def test_track_score(tmp_path: Path) -> None:
    """The models are in an object, so that keys may come."""
    (tmp_path / "r.jsonl").write_text(
        json.dumps({"key": "imagenet1k", "dataset": "wds/imagenet1k", "metrics": {"acc1": 0.5}})
    )
    told = document("track", "score", str(tmp_path / "r.jsonl"), "--allow-missing")
    assert told.keys() == DOCUMENTED["track score"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["query", "nowhere", "SELECT 1"],
        ["why", "nowhere", "f" * 32],
        ["diff", "nowhere", "nowhere"],
        ["hosts", "nowhere"],
        ["retry", "nowhere"],
        ["export", "hf", "nowhere", "out"],
        ["search", "nowhere", "cat"],
        ["plan", "nowhere.yaml"],
        ["run", "nowhere.yaml", "--out", "x"],
        ["balance", "nowhere"],
        ["filters", "nowhere"],
        ["init", "x.yaml", "--yes", "--path", "nowhere"],
        ["demo", "--out", "s3://x/y"],
    ],
)
def test_an_error_leaves_standard_output_empty(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mistake is raised for the one line and exit code 2, and nothing is printed that a program might read."""
    monkeypatch.chdir(tmp_path)
    done = RUNNER.invoke(app, [*arguments, "--json"])
    assert isinstance(done.exception, PairsieveError), done.output
    assert done.exception.exit_code == 2
    assert done.stdout == ""


def test_every_command_takes_json() -> None:
    """Whatever prints a result has the option; only trainings, which print a command for the shell, do not."""
    without = {command for command, options in _commands(app_command(), "") if "--json" not in options}
    assert without == {
        "schema",
        "explore",
        "track small",
        "track medium",
        "track large",
        "track xlarge",
        "track debug",
    } & {command for command, _ in _commands(app_command(), "")}


def app_command() -> Any:
    """The whole tree of commands."""
    import typer

    return typer.main.get_command(app)


def _commands(group: Any, head: str) -> Iterator[tuple[str, set[str]]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _commands(command, f"{head}{name} ")
        else:
            yield f"{head}{name}", {option for parameter in command.params for option in parameter.opts}


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(VALUES)
def test_any_value_becomes_json(value: Any) -> None:
    """Whatever a query may return is strict JSON, that means the same when read back."""
    text = json.dumps(plain(value), allow_nan=False)
    assert json.loads(text) == plain(value)


@given(st.lists(st.sampled_from(["a", "b", "a_1"]), max_size=4))
def test_no_column_is_lost(names: list[str]) -> None:
    """Names of columns are made distinct, the first of each unchanged."""
    found = distinct(names)
    assert len(set(found)) == len(names)
    assert all(found[names.index(name)] == name for name in names)
