"""Who a duplicate lost to: ``verdicts.duplicate_of``, the view ``clusters``, the story of a pair."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pairsieve.pipelines import catalog
from pairsieve.pipelines.cli import app
from pairsieve.pipelines.provenance import diff, why
from pairsieve.pipelines.run import run
from pairsieve.pipelines.runner import Result
from pairsieve.schemas.errors import PairsieveError
from tests.support import recipe, write_csv

NEAR = "tests.support_filters:NearNumbers"
STEPS: tuple[Any, ...] = (
    {"caption_words": {"least": 2}},
    {"exact_duplicates": {"by": "text", "prefer": "score DESC"}},
    {NEAR: {"within": 0.5, "prefer": "score", "as": "close"}},
    {"where": "score < 40"},
)


def write(path: Path) -> Path:
    """400 pairs: each caption twice to four times, scores in clumps, a fifth of the captions too short."""
    texts = [f"thing number {i * 31 % 140}" if i % 5 else "x" for i in range(400)]
    rows = [{"url": f"http://e.org/{i}", "text": t, "score": i * 37 % 200 / 4} for i, t in enumerate(texts)]
    return write_csv(path, rows)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Result:
    """A run with an exact and a near step, another before and behind them."""
    folder = tmp_path_factory.mktemp("survivors")
    return run(recipe(write(folder / "list.csv"), *STEPS), folder / "run", workers=1)


def told(result: Result) -> dict[tuple[str, int, int], str]:
    """(step, shard, row) of every pair that lost, with the survivor, from what the group steps wrote."""
    losers = {}
    for step in ("exact_duplicates", "close"):
        for row in result.query(f'SELECT * FROM "derived_{step}"').to_pylist():
            losers[step, row["shard"], row["row"]] = row["duplicate_of"]
    return losers


def test_a_verdict_names_the_survivor(found: Result) -> None:
    """Every drop by a group step has the uid that stayed there; no other verdict has one."""
    rows = found.query("SELECT * FROM verdicts").to_pylist()
    named = {(r["dropped_by"], r["shard"], r["row"]): r["duplicate_of"] for r in rows if r["duplicate_of"]}
    assert named == told(found)
    assert {step for step, *_ in named} == {"exact_duplicates", "close"}
    assert {r["dropped_by"] for r in rows if not r["duplicate_of"]} == {None, "caption_words", "where"}


def test_clusters_have_a_row_for_each_member(found: Result) -> None:
    """Losers and, once, the survivor, which passed the step itself."""
    rows = found.query("SELECT * FROM clusters").to_pylist()
    assert list(rows[0]) == ["step", "survivor", "uid", "shard", "row"]
    losers = told(found)
    lost = {(r["step"], r["shard"], r["row"]): r["survivor"] for r in rows if r["uid"] != r["survivor"]}
    assert lost == losers
    stayed = [(r["step"], r["survivor"]) for r in rows if r["uid"] == r["survivor"]]
    assert sorted(stayed) == sorted({(step, uid) for (step, *_), uid in losers.items()})
    sql = """
        SELECT v.uid = c.uid AS same, v.dropped_by FROM clusters c JOIN verdicts v USING (shard, row)
        WHERE c.uid = c.survivor
    """
    verdicts = found.query(sql).to_pylist()
    assert all(r["same"] for r in verdicts)
    assert {r["dropped_by"] for r in verdicts} == {None, "close", "where"}


def test_counting_a_clusters_rows_counts_its_members(found: Result) -> None:
    """The sizes are those of the captions that reached the step."""
    sql = "SELECT count(*) AS n FROM clusters WHERE step = 'exact_duplicates' GROUP BY survivor ORDER BY 1"
    wanted = "SELECT count(*) AS n FROM pairs WHERE text <> 'x' GROUP BY text HAVING n > 1 ORDER BY 1"
    assert found.query(sql).to_pylist() == found.query(wanted).to_pylist() != []


def test_a_pair_listed_twice_is_one_survivor(tmp_path: Path) -> None:
    """Loser and survivor have one uid: the two places tell them apart."""
    rows = [{"url": "http://e.org/1", "text": "a b", "score": 1}] * 3
    result = run(recipe(write_csv(tmp_path / "list.csv", rows), "exact_duplicates"), tmp_path / "run", workers=1)
    found = result.query("SELECT survivor = uid AS same, row FROM clusters ORDER BY row").to_pylist()
    assert found == [{"same": True, "row": row} for row in range(3)]


@pytest.mark.parametrize("shard_rows", [100, 2])
@pytest.mark.parametrize("place", ["disk", "memory"])
def test_one_that_loses_by_a_later_key_is_no_survivor(tmp_path: Path, place: str, shard_rows: int) -> None:
    """a and b have one title, b and c one caption, c and d one number: all name d, wherever they lie."""
    rows = [
        {"url": f"http://e.org/{i}", "title": keys[0], "text": keys[1], "number": keys[2], "place": i}
        for i, keys in enumerate(["Aap", "Abq", "rbx", "tcx", "uvw", "usv"])
    ]
    steps = {"exact_duplicates": {"by": ["title", "text", "number"], "prefer": "place DESC"}}
    made = recipe(write_csv(tmp_path / "list.csv", rows), steps)
    made["pool"]["urls"]["shard_rows"] = shard_rows
    root = tmp_path / "run" if place == "disk" else f"memory://{tmp_path.name}/run"
    result = run(made, root, workers=1)
    sql = """
        SELECT p.place, b.place AS best, v.reason FROM verdicts v JOIN pairs p USING (uid)
        JOIN pairs b ON b.uid = duplicate_of ORDER BY 1
    """
    found = [tuple(row.values()) for row in result.query(sql).to_pylist()]
    assert found == [(0, 3, "same_title"), (1, 3, "same_text"), (2, 3, "same_number"), (4, 5, "same_title")]
    clusters = "SELECT count(*) AS n FROM clusters GROUP BY survivor ORDER BY 1"
    assert result.query(clusters)["n"].to_pylist() == [2, 4]


def test_a_survivor_of_semantic_duplicates_stays(tmp_path: Path) -> None:
    """Also where a pair goes because of one that goes itself: vectors on an arc, each near to its neighbours only."""
    angles = np.arange(12) * 0.1
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    np.save(tmp_path / "centroids.npy", np.ones((1, 2), np.float32))
    pool: dict[str, Any] = {"url": [f"http://e.org/{i}" for i in range(12)], "text": [str(i) for i in range(12)]}
    pool |= {"place": np.arange(12), "vector": pa.array(vectors.tolist(), pa.list_(pa.float32(), 2))}
    pq.write_table(pa.table(pool), tmp_path / "list.parquet")
    settings = {"features": "vector", "centroids": f"{tmp_path}/centroids.npy", "epsilon": 0.006, "prefer": "place"}
    made = recipe(tmp_path / "list.parquet", {"semantic_duplicates": settings})
    result = run(made, tmp_path / "run", workers=1)
    assert result.kept == 1
    assert result.query(
        "SELECT survivor = uid AS stays, count(*) AS n FROM clusters GROUP BY ALL ORDER BY 1"
    ).to_pylist() == [
        {"stays": False, "n": 11},
        {"stays": True, "n": 1},
    ]


def test_members_that_lose_to_each_other_are_refused(tmp_path: Path) -> None:
    """A filter that leaves no survivor is named."""
    pool = write_csv(tmp_path / "list.csv", [{"url": f"http://e.org/{i}", "text": "a b", "score": 1} for i in range(3)])
    with pytest.raises(PairsieveError, match=r"Circle: losers\(\) lets members lose to each other in a circle"):
        run(recipe(pool, "tests.support_filters:Circle"), tmp_path / "run", workers=1)


def test_a_column_of_the_pool_does_not_hide_the_survivor(tmp_path: Path) -> None:
    """``<step>_of`` is the step's in the view ``scores``; the pool's is seen as ``source_<name>``, by recipes too."""
    rows = [{"url": f"http://e.org/{i}", "text": "a b", "close_of": f"p{i}", "score": 1} for i in range(2)]
    steps = ({"exact_duplicates": {"by": "text", "as": "close"}}, {"where": "source_close_of <> 'none'"})
    made = recipe(write_csv(tmp_path / "list.csv", rows), *steps, output={"dataset": {"columns": ["source_close_of"]}})
    result = run(made, tmp_path / "run", workers=1)
    sql = (
        "SELECT s.source_close_of, s.close_of = v.duplicate_of AS same FROM scores s JOIN verdicts v USING (shard, row)"
    )
    found = result.query(f"{sql} ORDER BY row").to_pylist()
    assert [row["source_close_of"] for row in found] == ["p0", "p1"]
    assert sorted([row["same"] for row in found], key=str) == [None, True]


def test_no_group_step_no_clusters(tmp_path: Path) -> None:
    """The view is there and empty, the column null."""
    result = run(recipe(write(tmp_path / "list.csv"), *STEPS[::3]), tmp_path / "run", workers=1)
    assert result.query("SELECT * FROM clusters").num_rows == 0
    assert result.query("SELECT count(duplicate_of) AS n FROM verdicts")["n"].to_pylist() == [0]
    file = pq.ParquetFile(tmp_path / "run" / "verdicts" / "00000.parquet")
    assert file.schema_arrow.field("duplicate_of").type == pa.string()


def test_a_run_elsewhere(tmp_path: Path, found: Result) -> None:
    """On another filesystem the views are the same, and the story is told."""
    result = run(recipe(write(tmp_path / "list.csv"), *STEPS), f"memory://{tmp_path.name}/run", workers=1)
    for sql in ("SELECT * FROM clusters ORDER BY ALL", "SELECT * FROM verdicts ORDER BY shard, row"):
        assert result.query(sql).equals(found.query(sql))
    lost = found.query("SELECT uid FROM verdicts WHERE dropped_by = 'close' LIMIT 1")["uid"][0].as_py()
    assert why(result.root, lost)[0].survivor == why(found.root, lost)[0].survivor is not None
    fsspec.filesystem("memory").rm(f"/{tmp_path.name}", recursive=True)


ENDS = """
    SELECT v.uid, v.duplicate_of, b.dropped_by FROM verdicts v JOIN verdicts b ON b.uid = v.duplicate_of
    WHERE v.dropped_by = 'exact_duplicates' AND b.dropped_by IS NOT DISTINCT FROM ? ORDER BY v.uid LIMIT 1
"""


@pytest.mark.parametrize(
    ("end", "said"), [(None, "kept"), ("close", "dropped by close: near_number"), ("where", "dropped by where: false")]
)
def test_a_story_tells_what_came_of_the_survivor(
    found: Result, end: str | None, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Kept in the end, or dropped by a later step, by name and reason."""
    with catalog.connect(found.root) as con:
        uid, survivor, _ = con.execute(ENDS, [end]).fetchall()[0]
    (story,) = why(found.root, uid)
    assert story.survivor is not None
    assert (story.survivor.uid, story.survivor.dropped_by) == (survivor, end)
    app(["why", found.root, uid], standalone_mode=False)
    last = " ".join(capsys.readouterr().out.split()).replace("│", "")
    assert last.endswith(f"dropped by exact_duplicates: same_text, a duplicate of {survivor}, which was {said}")


def test_a_survivor_listed_twice_is_the_one_that_passed(tmp_path: Path) -> None:
    """Of the survivor's places the one that the step before dropped is not meant."""
    pairs = [("x", "a"), ("a b", "a"), ("a b", "b")]
    rows = [{"url": f"http://e.org/{i}", "text": text, "uid": letter * 32} for i, (text, letter) in enumerate(pairs)]
    made = recipe(write_csv(tmp_path / "list.csv", rows), "caption_words", {"exact_duplicates": {"by": "text"}})
    made["pool"]["urls"]["uid_col"] = "uid"
    made["filters"][0] = {"caption_words": {"least": 2}}
    result = run(made, tmp_path / "run", workers=1)
    found = result.query("SELECT uid, row FROM clusters WHERE uid = survivor").to_pylist()
    assert found == [{"uid": "a" * 32, "row": 1}]
    (story,) = why(result.root, "b" * 32)
    assert story.survivor is not None
    assert story.survivor.dropped_by is None


@pytest.fixture
def old(tmp_path: Path) -> Iterator[Result]:
    """A run as an earlier version left it: five columns of verdicts, no view of clusters."""
    result = run(recipe(write(tmp_path / "list.csv"), *STEPS), tmp_path / "run", workers=1)
    for file in (tmp_path / "run" / "verdicts").iterdir():
        pq.write_table(pq.read_table(file).drop(["duplicate_of"]), file)
    with duckdb.connect(str(tmp_path / "run" / catalog.CATALOG)) as con:
        con.execute(f"SET file_search_path = '{tmp_path}/run'")
        con.execute("DROP VIEW clusters")
        con.execute("CREATE OR REPLACE VIEW verdicts AS SELECT * FROM read_parquet('verdicts/*.parquet')")
    yield result


def test_an_earlier_run_can_still_be_asked(old: Result, found: Result) -> None:
    """Survivors come from what its group steps wrote; its files stay as they are."""
    before = Path(old.root, catalog.CATALOG).read_bytes()
    for sql in (
        "SELECT * FROM clusters ORDER BY ALL",
        "SELECT * FROM verdicts ORDER BY shard, row",
        "SELECT uid, reason, close_of FROM scores ORDER BY shard, row",
    ):
        assert old.query(sql).to_pylist() == found.query(sql).to_pylist()
    assert Path(old.root, catalog.CATALOG).read_bytes() == before


def test_an_earlier_run_tells_and_compares(old: Result, found: Result) -> None:
    """``why`` and ``diff`` too, also with a newer run."""
    uid = found.query("SELECT uid FROM verdicts WHERE duplicate_of IS NOT NULL ORDER BY uid LIMIT 1")["uid"][0].as_py()
    assert why(old.root, uid)[-1].survivor == why(found.root, uid)[-1].survivor
    assert diff(old.root, found.root).jaccard == 1


def test_an_earlier_run_without_a_run_file_can_be_asked(old: Result) -> None:
    """What needs the order of the steps is not there; the rest is."""
    Path(old.root, "run.yaml").write_text("steps: 3")
    assert old.query("SELECT count(*) AS n FROM verdicts")["n"].to_pylist() == [400]


def test_an_earlier_run_goes_on(old: Result, found: Result) -> None:
    """Its verdicts are written anew."""
    again = run(recipe(Path(old.root).parent / "list.csv", *STEPS), old.root, workers=1)
    assert dict(again.measured) == {"caption_words": 0, "exact_duplicates": 0, "close": 0}
    sql = "SELECT * FROM verdicts ORDER BY shard, row"
    assert again.query(sql).to_pylist() == found.query(sql).to_pylist()


@pytest.mark.parametrize(
    ("rows", "wanted"),
    [
        ([(1, 1, 1, 1), (10, 1, 2, 2), (1, 2, 3, 9), (11, 2, 9, 1)], [10, None, None, 1]),
        ([(1, 1, 1, 1), (10, 1, 2, 2), (1, 2, 2, 9)], [1, 1, None]),
    ],
    ids=["unrelated", "circle"],
)
def test_a_uid_that_is_listed_twice_names_the_pair_that_won(
    tmp_path: Path, rows: list[tuple[int, ...]], wanted: list[int | None]
) -> None:
    """Chains over several keys are followed from place to place: the other listing of a uid is another pair."""
    names = ("uid", "a", "b", "q")
    pairs: list[dict[str, Any]] = [{**dict(zip(names, row, strict=True)), "url": "x", "text": "t"} for row in rows]
    pq.write_table(
        pa.Table.from_pylist([{**pair, "uid": f"{pair['uid']:032x}"} for pair in pairs]), tmp_path / "list.parquet"
    )
    made = recipe("", {"exact_duplicates": {"by": ["a", "b"], "prefer": "q DESC"}})
    made["pool"]["urls"] = {"path": str(tmp_path / "list.parquet"), "uid_col": "uid"}
    verdicts = run(made, tmp_path / "run", workers=1).query("SELECT duplicate_of FROM verdicts ORDER BY row")
    assert verdicts["duplicate_of"].to_pylist() == [n and f"{n:032x}" for n in wanted]
