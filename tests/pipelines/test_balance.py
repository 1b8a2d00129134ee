"""``pairsieve balance``: a run's balance, and what another t would keep, from counts."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from pairsieve.filters import _balance_counts as maths
from pairsieve.pipelines.balance import choose, read_counts
from pairsieve.pipelines.cli import app
from pairsieve.pipelines.progress import reporter
from pairsieve.pipelines.run import run
from pairsieve.pipelines.runner import Result
from pairsieve.schemas.errors import UserError
from tests.support import recipe, write_csv

LETTERS = "tests.support_filters:Letters"
WORDS = ["photo", "a dog", "zebra", "image of sea", "quiz", "the sky", "", "jazz"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run in ``run``, t = 40, over the letters of 800 captions."""
    folder = tmp_path_factory.mktemp("balance")
    texts = [" ".join(WORDS[(i * k) % 8] for k in range(1, 1 + i % 4)) for i in range(800)]
    pool = write_csv(folder / "list.csv", [{"url": f"http://e.org/{i}", "text": t} for i, t in enumerate(texts)])
    names = folder / "letters.json"
    names.write_text(json.dumps([chr(i) for i in range(128)]))
    balance = {"metadata_balance": {"t": 40, "entries": "letters", "metadata": str(names)}}
    run(recipe(pool, LETTERS, balance), folder / "run", workers=1)
    return folder


def said(*arguments: object, code: int = 0) -> str:
    """What the command prints, with single spaces."""
    done = CliRunner().invoke(app, ["balance", *map(str, arguments)], catch_exceptions=True)
    text = re.sub(r"\s+", " ", f"{done.output} {done.exception or ''}")
    assert (done.exit_code == 0) == (code == 0), text
    return text


def kept(folder: Path, t: int) -> Result:
    """Another run of the same pool."""
    balance = {"metadata_balance": {"t": t, "entries": "letters"}}
    return run(recipe(folder / "list.csv", LETTERS, balance), folder / f"run-{t}", workers=1)


def test_a_run_tells_its_balance(folder: Path) -> None:
    """Head, tail, the frequent entries before and after, the expected and the actual size."""
    text = said(folder / "run", "--top", 9)
    of = read_counts(str(folder / "run"))
    assert of.kept is not None
    zero, _, head = maths.head_and_tail(of.counts, 40)
    assert f"match nothing │ {zero.entries} │" in text
    assert f"more than t │ {head.entries} │ {head.entries / 128:.1%} │ {head.matches:,} │" in text
    first = ord("a")
    assert f"│ {chr(first)} │ {of.counts[first]} │ {40 / of.counts[first]:.3g} │ {of.kept[first]} │" in text
    assert re.search(r"expected: \d+ pairs, standard deviation \d+; kept: \d+, [-+]\d\.\d\d of them away", text)


def test_the_counts_after_are_those_of_the_kept_pairs(folder: Path) -> None:
    """As a query over the lists finds them."""
    of = read_counts(str(folder / "run"))
    found = kept(folder, 40).query(
        "SELECT unnest(letters) AS id, count(*) AS n FROM scores_Letters SEMI JOIN"
        " (FROM verdicts WHERE dropped_by IS NULL) USING (shard, row) GROUP BY 1"
    )
    wanted = np.zeros(128, np.int64)
    wanted[found["id"].to_numpy()] = found["n"].to_numpy()
    assert of.kept is not None
    assert np.array_equal(of.kept, wanted)


@pytest.mark.parametrize("t", [1, 7, 90, 333])
def test_another_t_is_told_as_a_run_would_have_it(folder: Path, t: int) -> None:
    """Within 2 % between the measured sizes; parts and tail share exactly."""
    choice = choose(read_counts(str(folder / "run")), t=t)
    other = read_counts(kept(folder, t).root)
    assert choice.rows == pytest.approx(other.settled["expected_rows"], rel=0.02)
    assert choice.tail_share == pytest.approx(other.settled["tail_share"])
    assert choice.parts[2].entries == other.settled["head_entries"]


def test_what_t_for_so_many_pairs(folder: Path) -> None:
    """The answer's neighbours straddle the target; units are understood."""
    of = read_counts(str(folder / "run"))
    found = choose(of, target=450)
    before = choose(of, t=found.t - 1)
    assert found.rows is not None and before.rows is not None
    assert before.rows < 450 <= found.rows
    assert said(folder / "run", "--dry-run", "--target-rows", "0.45k").count(f"at t = {found.t}") == 1


def test_a_file_of_counts(tmp_path: Path) -> None:
    """JSON of entries and counts, as MetaCLIP released, or Parquet: bounds, and an estimate with the matched pairs."""
    counts = {"in": 120_000, "photo": 54_000, "zebra": 30, "quagga": 0}
    (tmp_path / "counts.json").write_text(json.dumps(counts))
    pq.write_table(pa.table({"entry": list(counts), "count": list(counts.values())}), tmp_path / "counts.parquet")
    for name in ("counts.json", "counts.parquet"):
        text = said(tmp_path / name, "--t", "20k")
        assert "zebra │ 30 │ 1 │" in text
        assert "the expected size is at most 40,030, the sum of min(count, t)" in text
        assert "give --matched-rows" in text
        text = said(tmp_path / name, "--target-rows", "50k", "--matched-rows", "150_000")
        assert "an estimate: entries of a pair taken as independent" in text
    assert choose(read_counts(str(tmp_path / "counts.json")), tail_share=0.3).t == 54_000


def test_entries_are_written_with_their_probabilities(folder: Path, tmp_path: Path) -> None:
    """What a loader needs to draw anew in every epoch; an existing file stays."""
    out = tmp_path / "entries.parquet"
    said(folder / "run", "--t", 5, "--out", out)
    found = pq.read_table(out)
    assert found.schema.names == ["entry_id", "entry", "language", "count", "probability"]
    counts = found["count"].to_numpy()
    assert np.array_equal(found["probability"].to_numpy(), 5 / np.maximum(counts, 5))
    assert "is there already" in said(folder / "run", "--t", 5, "--out", out, code=2)


WRONG: dict[str, tuple[list[str], str]] = {
    "two wishes": (["{run}", "--t", "5", "--tail-share", "0.1"], "give one of --t, --tail-share and --target-rows"),
    "no wish for a file": (["{here}/good.json"], "give --t, --tail-share or --target-rows"),
    "too much": (["{run}", "--target-rows", "10M"], "no t keeps 10,000,000: all pairs that match are"),
    "no size": (["{here}/good.json", "--target-rows", "5"], "give --matched-rows"),
    "no number": (["{run}", "--t", "many"], "--t many: give a whole number from 1, such as 20000, 20k or 1.6B"),
    "half a pair": (["{run}", "--t", "0.5"], "--t 0.5: give a whole number"),
    "no run": (["{here}/nothing"], "no run here"),
    "no file": (["{here}/nothing.json", "--t", "5"], "no such file"),
    "no counts": (["{here}/list.json", "--t", "5"], "is no JSON object; give a JSON object"),
    "text counts": (["{here}/text.json", "--t", "5"], "counts are string, not whole numbers; give a JSON object"),
    "halves": (["{here}/halves.json", "--t", "5"], "counts are double, not whole numbers"),
    "huge": (["{here}/huge.json", "--t", "5"], "give a JSON object of entries and whole numbers"),
    "another kind": (["{here}/counts.csv", "--t", "5"], "counts are read from .json and .parquet files"),
    "too few matched": (
        ["{here}/good.json", "--t", "5", "--matched-rows", "1"],
        "--matched-rows 1: give 2 (the greatest",
    ),
    "too many matched": (["{here}/good.json", "--t", "5", "--matched-rows", "9"], "to 3 (all matches)"),
    "matched of a run": (["{run}", "--matched-rows", "9"], "a run knows that itself; leave it out"),
    "negative": (["{here}/negative.json", "--t", "5"], "a count is negative"),
    "no json": (["{here}/broken.json", "--t", "5"], "give a JSON object"),
    "no count column": (["{here}/other.parquet", "--t", "5"], "has no column 'count', but x"),
    "dry and out": (["{run}", "--dry-run", "--out", "x"], "--dry-run writes nothing"),
    "other step": (["{run}", "--step", "b"], "no metadata_balance is called 'b'; there is metadata_balance"),
    "no balance": (["{here}/plain"], "the recipe has no metadata_balance"),
}


@pytest.mark.parametrize("name", WRONG)
def test_mistakes_are_one_line(folder: Path, tmp_path: Path, name: str) -> None:
    """Place, cause, next step."""
    files: dict[str, Any] = {"good": {"a": 1, "b": 2}, "list": [1], "text": {"a": "b"}, "negative": {"a": -1}}
    files |= {"halves": {"a": 1.5}, "huge": {"a": 10**20}}
    (tmp_path / "counts.csv").write_text("a,1")
    for file, content in files.items():
        (tmp_path / f"{file}.json").write_text(json.dumps(content))
    (tmp_path / "broken.json").write_text("{")
    pq.write_table(pa.table({"x": [1]}), tmp_path / "other.parquet")
    if name == "no balance":
        run(recipe(folder / "list.csv"), tmp_path / "plain", workers=1)
    arguments, wanted = WRONG[name]
    places = {"run": str(folder / "run"), "here": str(tmp_path)}
    text = said(*(one.format(**places) for one in arguments), code=2)
    assert wanted in text


@pytest.mark.parametrize("table", ["entries", "sizes"])
def test_damaged_tables_are_named(folder: Path, tmp_path: Path, table: str) -> None:
    """With what to do, as the run makes them again."""
    shutil.copytree(folder / "run", tmp_path / "run")
    file = tmp_path / "run" / "derived" / "metadata_balance" / "tables" / f"{table}.parquet"
    file.write_bytes(file.read_bytes()[:-9])
    text = said(tmp_path / "run", code=2)
    assert f"{table}.parquet: is damaged" in text and "the run's command makes it again" in text


def test_a_run_for_online_drawing(folder: Path, tmp_path: Path) -> None:
    """What an epoch has, not what the run kept."""
    balance = {"metadata_balance": {"t": 40, "entries": "letters", "online": True}}
    run(recipe(folder / "list.csv", LETTERS, balance), tmp_path / "run", workers=1)
    text = said(tmp_path / "run", "--top", 0)
    assert "online: every pair with an entry stays" in text and "away" not in text
    assert re.search(r"expected in an epoch: \d+ pairs", text)


@pytest.mark.parametrize("target", [3, 49, 100, 333, 600])
def test_a_target_that_is_met_exactly(folder: Path, tmp_path: Path, target: int) -> None:
    """Of 600 captions with one entry t pairs are expected: the run finds t = target, and so does the command."""
    rows = [{"url": f"http://e.org/{i}", "text": "a"} for i in range(600)]
    balance = {"metadata_balance": {"target_rows": target, "entries": "letters"}}
    found = run(recipe(write_csv(tmp_path / "list.csv", rows), LETTERS, balance), tmp_path / "run", workers=1)
    assert found.settled["metadata_balance"]["t"] == target
    assert choose(read_counts(str(tmp_path / "run")), target=target).t == target


def test_an_unreachable_target_is_told(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In the progress of the run."""
    balance = {"metadata_balance": {"target_rows": 5000, "entries": "letters"}}
    run(recipe(folder / "list.csv", LETTERS, balance), tmp_path / "run", workers=1, progress=reporter())
    said = capsys.readouterr().err
    assert "metadata_balance: target_rows 5,000: all 600 pairs with an entry are fewer" in said


def test_a_run_that_has_not_decided_yet(folder: Path, tmp_path: Path) -> None:
    """Told, not guessed."""
    (tmp_path / "run.yaml").write_bytes((folder / "run" / "run.yaml").read_bytes())
    with pytest.raises(UserError, match="has not decided yet; the run's command continues it"):
        read_counts(str(tmp_path))
