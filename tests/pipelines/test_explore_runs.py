"""explore: stories are those of ``why``, comparisons those of ``diff``; the command starts, answers and ends."""

import os
import re
import resource
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from http.cookiejar import CookieJar
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from typer.testing import CliRunner

from pairsieve.pipelines import machine
from pairsieve.pipelines.cli import app
from pairsieve.pipelines.explore import listen, opened
from pairsieve.pipelines.explore_compare import spearman
from pairsieve.pipelines.explore_session import Session
from pairsieve.pipelines.progress import Silent
from pairsieve.pipelines.provenance import diff, why
from pairsieve.pipelines.run import run
from pairsieve.pipelines.search import Query, search
from pairsieve.schemas.errors import UserError
from tests import support_explore as support
from tests.pipelines.test_added import CHOOSE, curate
from tests.support import digests


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two runs over one pool."""
    folder = tmp_path_factory.mktemp("runs")
    pool = support.write_pool(folder / "pool")
    support.make_run(pool, folder / "one", support.steps())
    support.make_run(pool, folder / "other", support.steps(clip_score={"top": 0.3}, caption_words={"least": 1}))
    return folder / "one", folder / "other"


@pytest.fixture(scope="module")
def session(roots: tuple[Path, Path]) -> Iterator[Session]:
    """Both, explored."""
    with opened(str(roots[0]), str(roots[1]), Silent()) as found:
        yield found


@pytest.mark.parametrize("number", range(0, 300, 23))
def test_a_story_is_that_of_why(roots: tuple[Path, Path], session: Session, number: int) -> None:
    """Step by step the same outcome and the same survivor."""
    found = session.one.story(number)
    (known,) = (s for s in why(str(roots[0]), found["pair"]["uid"]) if s.pair["row"] == found["pair"]["row"])
    outcomes = {"stays": "stays", "not reached": "not reached", "dropped": f"dropped: {known.reason}"}
    assert [outcomes[c["state"]] for c in found["chapters"]] == [c.outcome for c in known.chapters]
    assert (found["dropped_by"], found["reason"]) == (known.dropped_by, known.reason)
    assert [other["uid"] for other in found["survivor"]] == ([known.survivor.uid] if known.survivor else [])


def test_duplicates_and_survivors_name_each_other(session: Session) -> None:
    """From the loser to the survivor, and back."""
    _, numbers = session.one.pairs.page("dropped_by = 'exact_duplicates'", None, False, 0, 5)
    for number in numbers:
        (survivor,) = session.one.story(number)["survivor"]
        assert number in [pair["number"] for pair in session.one.story(survivor["number"])["duplicates"]]


def test_a_pair_that_is_listed_twice_lost_to_its_twin(tmp_path: Path) -> None:
    """Both have one uid; the one that stayed is the survivor, and the one that went is no duplicate of itself."""
    (tmp_path / "pool").mkdir()
    table = {"url": ["http://e.example/1"] * 2, "text": ["a b c"] * 2}
    pq.write_table(pa.table(table), tmp_path / "pool" / "x.parquet")
    recipe = {"pool": {"urls": {"path": str(tmp_path / "pool")}}, "filters": [{"exact_duplicates": {}}]}
    run({**recipe, "output": {"subset": "subset.npy"}}, tmp_path / "run", engine="local")
    with opened(str(tmp_path / "run"), None, Silent()) as session:
        kept, lost = (session.one.story(number) for number in (0, 1))
    assert [other["number"] for other in lost["survivor"]] == [0]
    assert lost["duplicates"] == []
    assert [other["number"] for other in kept["duplicates"]] == [1]


def test_the_comparison_is_that_of_diff(roots: tuple[Path, Path], session: Session) -> None:
    """Overlap, and what the other run did with what one alone keeps."""
    found, known = session.compare().overlap(), diff(str(roots[0]), str(roots[1]))
    assert (found["both"], found["one"], found["other"]) == (
        known.both,
        known.one - known.both,
        known.other - known.both,
    )
    assert found["jaccard"] == known.jaccard
    for side, only in (("only_one", known.only_one), ("only_other", known.only_other)):
        assert {(row["step"], row["reason"]): row["pairs"] for row in found[side]} == only
    assert found["one"] and found["other"]


def test_pairs_of_a_side_are_kept_by_that_run_alone(session: Session) -> None:
    """With the verdict of the other beside it; pages do not overlap."""
    first = session.compared("one", None, None, 0, 20)
    second = session.compared("one", None, None, 20, 20)
    numbers = [pair["number"] for pair in first["pairs"] + second["pairs"]]
    assert len(set(numbers)) == len(numbers) == min(40, first["count"])
    assert all(p["dropped_by"] is None and p["there"]["dropped_by"] is not None for p in first["pairs"])


def test_a_verdict_of_the_other_run_narrows_a_side(session: Session) -> None:
    """As many as the table says."""
    row = session.compare().overlap()["only_one"][0]
    found = session.compared("one", row["step"], row["reason"], 0, 200)
    assert found["count"] == len(found["pairs"]) == row["pairs"]


def test_a_shared_score_agrees_with_itself(session: Session) -> None:
    """Both runs read the same column of the pool."""
    found = session.compare().correlation("score")
    assert found["spearman"] == pytest.approx(1)
    assert 0 < found["pairs"] < support.PAIRS


@pytest.mark.parametrize(
    ("one", "other", "wanted"),
    [
        ([1, 2, 3, 4], [10, 20, 30, 45], 1.0),
        ([1, 2, 3, 4], [4, 3, 2, 1], -1.0),
        ([1, 2, 3, 4, 5], [1, 2, 3, 5, 4], 0.9),
        ([1, 1, 2, 2], [1, 1, 2, 2], 1.0),
        ([1, 2, 2, 3], [1, 3, 2, 4], 0.9486832980505138),
        ([1, 1, 1], [1, 2, 3], None),
        ([1], [1], None),
    ],
)
def test_spearman(one: list[float], other: list[float], wanted: float | None) -> None:
    """Known values, ties at their mean rank."""
    found = spearman(np.array(one, np.float64), np.array(other, np.float64))
    assert found == (None if wanted is None else pytest.approx(wanted))


def test_a_condition_is_exported_as_a_step_that_runs(
    roots: tuple[Path, Path], session: Session, tmp_path: Path
) -> None:
    """The line says after which step; a real run with it keeps those pairs for which it is true."""
    where = 'caption_words % 2 = 0 AND "odd ""name""; --" <> \'v1\''
    found = session.one.where_step(where)
    assert found["after"] == "caption_words"
    (step,) = yaml.safe_load(found["line"])
    steps = support.steps()
    real = support.make_run(roots[0].parent / "pool", tmp_path / "run", [steps[0], step])
    assert real.kept == session.one.pairs.count(f"({where}) AND caption_words BETWEEN 3 AND 8")


@pytest.mark.parametrize("where", ["dropped_by IS NULL", "reason = 'x'", "shard = 1", ""])
def test_what_no_recipe_knows_is_not_exported(session: Session, where: str) -> None:
    """A verdict is known after a run only."""
    with pytest.raises(UserError):
        session.one.where_step(where)


def test_two_hundred_columns(tmp_path: Path) -> None:
    """They are listed, shown and sorted by like few."""
    (tmp_path / "pool").mkdir()
    table: dict[str, list[str] | list[int]] = {
        "url": ["http://e.example/1", "http://e.example/2"],
        "text": ["a b c", "d e f"],
    }
    table |= {f"c{i}": [i, i + 1] for i in range(200)}
    pq.write_table(pa.table(table), tmp_path / "pool" / "x.parquet")
    run({"pool": {"urls": {"path": str(tmp_path / "pool")}}, "filters": []}, tmp_path / "run", engine="local")
    with opened(str(tmp_path / "run"), None, Silent()) as session:
        overview = session.overview()["one"]
        page = session.one.page("c199 = 200", "c7", True, 0, 10, [f"c{i}" for i in range(200)])
    assert len(overview["columns"]) > 200
    assert not overview["has_images"]
    assert (page["count"], page["pairs"][0]["c0"]) == (1, 1)


def test_pairs_that_a_step_adds_are_there(tmp_path: Path) -> None:
    """With their parent's columns and verdicts of their own; parent and child name each other."""
    result = curate(tmp_path, {"caption_words": {"least": 1}}, CHOOSE)
    with opened(result.root, None, Silent()) as session:
        overview = session.overview()["one"]
        assert (overview["pairs"], overview["kept"]) == (result.rows + result.added, result.kept)
        _, (number, *_) = session.one.pairs.page("parent IS NOT NULL AND dropped_by IS NULL", None, False, 0, 5)
        added = session.one.story(number)
        (parent,) = added["parents"]
        assert number in [pair["number"] for pair in session.one.story(parent["number"])["added"]]
        known = session.one.pairs.pairs([number, parent["number"]])
        assert known[0]["width"] == known[1]["width"]
        assert known[0]["text"] != known[1]["text"]
        assert [row["is_taken"] for row in overview["funnel"]] == [False, False, True]


def test_a_text_search_is_that_of_the_command(tmp_path: Path) -> None:
    """Where a step stored embeddings and their model is here: the same pairs in the same order."""
    pool = support.write_pool(tmp_path / "pool", 30)
    result = support.make_run(pool, tmp_path / "run", [{"clip_score": {"model": "pairsieve-demo", "embeddings": True}}])
    with opened(result.root, None, Silent()) as session:
        assert session.overview()["one"]["embeddings"] == "clip_image"
        found = session.one.search("three red circles")
    known = search(result.root, Query("three red circles"), top=60)
    assert [(pair["shard"], pair["row"]) for pair in found["pairs"]] == [(hit.shard, hit.row) for hit in known.hits]
    assert found["pairs"][0]["similarity"] == round(known.hits[0].score, 4)


def test_a_run_without_embeddings_is_not_searched(session: Session) -> None:
    """One line says what would make it so."""
    assert session.overview()["one"]["embeddings"] is None
    with pytest.raises(UserError, match="embeddings: true"):
        session.one.search("a cat")


def test_a_run_that_changed_on_disk_is_noticed(roots: tuple[Path, Path], tmp_path: Path) -> None:
    """Run again with another threshold, or in the middle of a run: the page is told."""
    pool = roots[0].parent / "pool"
    support.make_run(pool, tmp_path / "run", support.steps())
    with opened(str(tmp_path / "run"), None, Silent()) as session:
        assert not session.has_changed()
        support.make_run(pool, tmp_path / "run", support.steps(clip_score={"top": 0.1}))
        assert session.has_changed()
        (tmp_path / "run" / "catalog.duckdb").unlink()
        assert session.has_changed()


def test_a_run_that_is_not_finished_is_refused(roots: tuple[Path, Path], tmp_path: Path) -> None:
    """In one line, with what to do, as any of the user's mistakes."""
    for one, other in ((tmp_path, None), (roots[0], tmp_path), (tmp_path / "nowhere", None)):
        with (
            pytest.raises(UserError, match="no finished run here"),
            opened(str(one), None if other is None else str(other), Silent()),
        ):
            pass


def test_a_port_that_is_taken_is_one_line(roots: tuple[Path, Path]) -> None:
    """Before anything is served."""
    with listen(0) as sock, pytest.raises(UserError, match=r"^--port \d+: .*choose another"):
        listen(sock.getsockname()[1])


def test_help_says_what_it_is() -> None:
    """The command is there, with its options."""
    text = CliRunner().invoke(app, ["explore", "--help"]).output
    assert "from this machine only" in " ".join(text.split())
    assert "--no-browser" in text


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 0), (signal.SIGTERM, 143), (signal.SIGHUP, 143)])
def test_the_command_serves_until_it_is_stopped(
    roots: tuple[Path, Path], tmp_path: Path, number: int, code: int
) -> None:
    """The printed address opens; Ctrl-C ends it with 0; however it ends, its files go, the run is as it was."""
    if signal.getsignal(number) is signal.SIG_IGN:
        pytest.skip("these tests run under nohup")
    before = digests(roots[0])
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    command = [sys.executable, "-c", "from pairsieve.pipelines.cli import main; main()", "explore", str(roots[0])]
    process = subprocess.Popen(
        [*command, "--no-browser", "-q"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        match = re.fullmatch(r"open (http://127\.0\.0\.1:(\d+)/\?token=\S+)\n", line)
        assert match, line
        opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(CookieJar()))
        assert b"pairsieve explore" in opener.open(match[1]).read()
        assert b'"pairs":300' in opener.open(f"http://127.0.0.1:{match[2]}/api/overview").read()
        assert list(tmp_path.iterdir())
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == code, said
    assert "Traceback" not in said
    assert not list(tmp_path.iterdir())
    assert digests(roots[0]) == before


def test_questions_have_a_bound_of_their_own(roots: tuple[Path, Path]) -> None:
    """Values that DuckDB's own account leaves out: once the run is loaded the process may take little more."""
    command = [sys.executable, "-c", "from pairsieve.pipelines.cli import main; main()", "explore", str(roots[0])]
    with subprocess.Popen([*command, "--no-browser", "-q"], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline().startswith("open ")
            found, _ = resource.prlimit(process.pid, resource.RLIMIT_DATA)
        finally:
            process.kill()
    assert found < 0.6 * machine.memory()
