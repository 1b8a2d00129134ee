"""A run: every candidate has one verdict, scores are measured once, output depends on the pairs alone."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pairsieve.pipelines.run import run
from pairsieve.schemas import uid
from pairsieve.schemas.errors import PairsieveError, RunBusyError, ShardError, UserError
from tests.support import digests, kept_texts, numbered_rows, recipe, write_csv

STEPS = [{"caption_words": {"least": 2}}, {"exact_duplicates": {}}, {"clip_score": {"column": "score", "top": 0.4}}]


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    """350 pairs, 4 shards."""
    return write_csv(tmp_path / "list.csv", numbered_rows(350))


def logged(log: Path) -> list[str]:
    """uids in the order in which they were measured."""
    return log.read_text().split() if log.exists() else []


def test_every_candidate_has_one_verdict(pool: Path, tmp_path: Path) -> None:
    """The verdicts are the pool, row by row, and kept plus dropped is all of it."""
    result = run(recipe(pool, *STEPS), tmp_path / "run")
    table = result.query("SELECT shard, row, count(*) AS n FROM verdicts GROUP BY ALL HAVING n <> 1")
    assert table.num_rows == 0
    assert result.query("SELECT uid FROM pairs ORDER BY shard, row") == result.query(
        "SELECT uid FROM verdicts ORDER BY shard, row"
    )
    assert result.rows == 350 == result.kept + sum(result.tally.dropped.values())


def test_funnel_adds_up(pool: Path, tmp_path: Path) -> None:
    """What reaches a step is what the step before it left."""
    result = run(recipe(pool, *STEPS), tmp_path / "run")
    left = [reached - dropped for _, reached, dropped in result.funnel]
    assert [reached for _, reached, _ in result.funnel] == [350, *left[:-1]]
    assert left[-1] == result.kept


def test_dropped_pairs_keep_their_scores(pool: Path, tmp_path: Path) -> None:
    """A pair that a step drops can be asked for its score; one that never reached the step has none."""
    result = run(recipe(pool, {"caption_words": {"least": 2}}, {"where": "score > 0.5"}), tmp_path / "run")
    table = result.query("SELECT caption_words FROM scores WHERE dropped_by = 'caption_words'")
    assert set(table["caption_words"].to_pylist()) == {1}


def test_top_takes_survivors_or_pool(pool: Path, tmp_path: Path) -> None:
    """``of: pool`` ranks among all candidates, the default among those that reach the step."""
    scores = np.array([row["score"] for row in numbered_rows(350)])
    words = np.array([row["text"] != "x" for row in numbered_rows(350)])
    for of, scope in (("pool", scores), ("survivors", scores[words])):
        step = {"clip_score": {"column": "score", "top": 0.1, "of": of}}
        result = run(recipe(pool, {"caption_words": {"least": 2}}, step), tmp_path / of)
        threshold = np.sort(scope)[::-1][int(len(scope) * 0.1)]
        assert result.kept == int((words & (scores >= threshold)).sum())


def test_measures_each_pair_once(pool: Path, tmp_path: Path) -> None:
    """A second run measures nothing, a looser threshold before the step only the newcomers."""
    log = tmp_path / "log"
    step = {"tests.support_filters:TextLength": {"log": str(log)}}
    run(recipe(pool, {"caption_words": {"least": 2}}, step), tmp_path / "run", workers=1)
    first = logged(log)
    assert len(first) == len(set(first)) == 280
    run(recipe(pool, {"caption_words": {"least": 2}}, step), tmp_path / "run", workers=1)
    assert logged(log) == first
    result = run(recipe(pool, {"caption_words": {"least": 1}}, step), tmp_path / "run", workers=1)
    assert len(logged(log)) == len(set(logged(log))) == 350
    assert result.kept == 350


def test_looser_threshold_equals_a_fresh_run(pool: Path, tmp_path: Path) -> None:
    """Verdicts, subset and dataset after an edited threshold are those of a fresh run."""
    step = {"tests.support_filters:TextLength": {"log": str(tmp_path / "log"), "least": 3}}
    run(recipe(pool, {"caption_words": {"least": 2}}, step), tmp_path / "edited")
    loose = recipe(pool, {"caption_words": {"least": 1}}, {**step})
    run(loose, tmp_path / "edited")
    run(loose, tmp_path / "fresh")
    edited, fresh = digests(tmp_path / "edited"), digests(tmp_path / "fresh")
    assert {k: v for k, v in edited.items() if not k.startswith("scores")} == {
        k: v for k, v in fresh.items() if not k.startswith("scores")
    }


def test_scoring_setting_measures_again(pool: Path, tmp_path: Path) -> None:
    """Another scoring setting makes the stored scores stale."""
    for log in (tmp_path / "one", tmp_path / "two"):
        run(recipe(pool, {"tests.support_filters:TextLength": {"log": str(log)}}), tmp_path / "run", workers=1)
    assert len(logged(tmp_path / "two")) == 350


def test_changed_pool_measures_again(pool: Path, tmp_path: Path) -> None:
    """Only the shards whose pairs changed are measured again."""
    log = tmp_path / "log"
    steps = {"tests.support_filters:TextLength": {"log": str(log)}}
    run(recipe(pool, steps), tmp_path / "run", workers=1)
    rows = numbered_rows(350)
    rows[320]["text"] = "another caption"
    write_csv(pool, rows)
    run(recipe(pool, steps), tmp_path / "run", workers=1)
    assert len(logged(log)) == 350 + 50


def test_broken_part_is_measured_again(pool: Path, tmp_path: Path) -> None:
    """A truncated score file counts as not there."""
    run(recipe(pool, *STEPS), tmp_path / "run")
    wanted = digests(tmp_path / "run")
    broken = tmp_path / "run" / "scores" / "caption_words" / "00001.parquet"
    broken.write_bytes(broken.read_bytes()[:100])
    run(recipe(pool, *STEPS), tmp_path / "run")
    assert digests(tmp_path / "run") == wanted


def test_dataset_files_are_equal_and_ordered(pool: Path, tmp_path: Path) -> None:
    """Files differ by one row at most, and rows go by the keyed hash of seed and uid."""
    output = {"dataset": {"rows_per_file": 60}, "subset": "kept.npy"}
    result = run(recipe(pool, *STEPS, output=output, seed=7), tmp_path / "run")
    tables = [pq.read_table(p) for p in sorted((tmp_path / "run" / "dataset").glob("*.parquet"))]
    sizes = [t.num_rows for t in tables]
    assert max(sizes) - min(sizes) <= 1
    assert max(sizes) <= 60
    assert sum(sizes) == result.kept
    hashes = np.concatenate([uid.keyed_hash(t["uid"].combine_chunks(), 7) for t in tables])
    assert (np.diff(hashes.astype(object)) >= 0).all()


def test_dataset_does_not_depend_on_shards(pool: Path, tmp_path: Path) -> None:
    """Pools cut otherwise give the same dataset and subset, byte for byte."""
    for rows in (100, 37):
        made = recipe(pool, *STEPS)
        made["pool"]["urls"]["shard_rows"] = rows
        run(made, tmp_path / str(rows))
    one, other = digests(tmp_path / "100"), digests(tmp_path / "37")
    names = [n for n in one if n.startswith(("dataset/0", "subset"))]
    assert len(names) == 2
    assert all(one[n] == other[n] for n in names)


def test_subset_is_datacomps_format(pool: Path, tmp_path: Path) -> None:
    """The subset holds the kept uids as sorted pairs of unsigned 64-bit numbers."""
    result = run(recipe(pool, *STEPS), tmp_path / "run")
    subset = np.load(tmp_path / "run" / "subset.npy")
    assert subset.dtype == np.dtype("u8,u8")
    kept = result.query("SELECT uid FROM verdicts WHERE dropped_by IS NULL ORDER BY uid")["uid"].to_pylist()
    assert uid.from_numbers(subset) == kept


def test_nothing_kept_is_a_run_too(pool: Path, tmp_path: Path) -> None:
    """A recipe that drops every pair ends well, with an empty subset and dataset."""
    result = run(recipe(pool, {"where": "score > 5"}), tmp_path / "run")
    assert result.kept == 0
    assert len(np.load(tmp_path / "run" / "subset.npy")) == 0
    assert json.loads((tmp_path / "run" / "dataset" / "_manifest.json").read_text())["rows"] == 0
    assert result.query("SELECT * FROM dataset").num_rows == 0


def test_no_filters_keep_all(pool: Path, tmp_path: Path) -> None:
    """A recipe without filters keeps the pool."""
    assert run(recipe(pool), tmp_path / "run").kept == 350


def test_same_pair_listed_twice_has_two_verdicts(tmp_path: Path) -> None:
    """Rows with one uid are two candidates; without deduplication both stay, as DataComp allows."""
    rows = numbered_rows(10)
    pool = write_csv(tmp_path / "list.csv", [*rows, *rows])
    assert run(recipe(pool), tmp_path / "both").kept == 20
    assert run(recipe(pool, {"exact_duplicates": {}}), tmp_path / "one").kept == 10


def test_pool_reasons_come_first(tmp_path: Path) -> None:
    """A row that the pool cannot give is dropped by the pool, before any step."""
    rows = [*numbered_rows(3), {"url": "", "text": "no address at all", "score": 1}]
    result = run(recipe(write_csv(tmp_path / "list.csv", rows), {"where": "true"}), tmp_path / "run")
    assert dict(result.tally.dropped) == {("pool", "no_url"): 1}


def test_broken_shard_does_not_stop_the_others(pool: Path, tmp_path: Path) -> None:
    """The failed shard is named, the others are done, and after mending only it is measured."""
    log, mended = tmp_path / "log", tmp_path / "mended"
    fragile = {"at": "a picture of thing number 151", "how": "raise", "mended": str(mended)}
    steps = [{"tests.support_filters:TextLength": {"log": str(log)}}, {"tests.support_filters:Fragile": fragile}]
    with pytest.raises(ShardError, match=r"shard 00001 failed: ValueError: this caption is too much"):
        run(recipe(pool, *steps), tmp_path / "run", workers=1)
    done = logged(log)
    mended.touch()
    assert run(recipe(pool, *steps), tmp_path / "run", workers=1).kept == 350
    assert len(logged(log)) == len(done) + 100


def test_worker_that_dies_is_set_aside(pool: Path, tmp_path: Path) -> None:
    """A shard that kills its worker three times is named; all others are done."""
    fragile = {"at": "a picture of thing number 151", "how": "kill", "mended": str(tmp_path / "mended")}
    with pytest.raises(ShardError, match="shard 00001 failed: killed its worker 3 times"):
        run(recipe(pool, {"tests.support_filters:Fragile": fragile}), tmp_path / "run", workers=2)
    found = sorted(p.name for p in (tmp_path / "run" / "scores" / "Fragile").glob("*.parquet"))
    assert found == ["00000.parquet", "00002.parquet", "00003.parquet"]


def test_a_worker_that_was_killed_leaves_no_attempt_behind(pool: Path, tmp_path: Path) -> None:
    """The run goes on without it, and ends with its own files only."""
    attempt = tmp_path / "run" / "scores" / "Fragile" / f"00001.parquet.{'0' * 32}.tmp"
    fragile = {"at": "a picture of thing number 151", "how": "once", "mended": str(attempt)}
    result = run(recipe(pool, {"tests.support_filters:Fragile": fragile}), tmp_path / "run", workers=2)
    assert result.kept == result.rows and not attempt.exists()


@pytest.mark.parametrize(
    ("name", "says"),
    [("WrongLength", "gave 1 values of 'one'"), ("WrongVerdict", "keep.. must return booleans or reasons")],
)
def test_filter_that_breaks_the_contract_is_named(pool: Path, tmp_path: Path, name: str, says: str) -> None:
    """A filter of the user's that returns the wrong thing gives one line that says which and what."""
    with pytest.raises(PairsieveError, match=says):
        run(recipe(pool, f"tests.support_filters:{name}"), tmp_path / "run", workers=1)


def test_directory_in_use_is_refused(pool: Path, tmp_path: Path) -> None:
    """A second process on one directory is turned away with a line."""
    made = json.dumps(recipe(pool, "tests.support_filters:Slow"))
    code = f"import json, pairsieve; pairsieve.run(json.loads({made!r}), {str(tmp_path / 'run')!r}, workers=1)"
    other = subprocess.Popen([sys.executable, "-c", code], env=_environment())
    try:
        _wait_for(tmp_path / "run" / "scores", other)
        with pytest.raises(RunBusyError, match="another pairsieve works in this directory"):
            run(recipe(pool), tmp_path / "run")
    finally:
        other.kill()
        other.wait()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
@pytest.mark.parametrize("workers", [1, 2])
def test_stopped_run_resumes(pool: Path, tmp_path: Path, how: signal.Signals, workers: int) -> None:
    """A run stopped in the middle by Ctrl-C or kill -9 continues to the bytes of an uninterrupted one."""
    made = recipe(pool, "tests.support_filters:Slow", *STEPS)
    file = tmp_path / "recipe.yaml"
    file.write_text(json.dumps(made))
    command = [
        sys.executable,
        "-m",
        "pairsieve",
        "run",
        str(file),
        "--out",
        str(tmp_path / "run"),
        "--workers",
        str(workers),
    ]
    stopped = subprocess.Popen(command, env=_environment(), stderr=subprocess.PIPE, text=True, start_new_session=True)
    _wait_for(tmp_path / "run" / "scores" / "Slow" / "00000.parquet", stopped)
    os.killpg(stopped.pid, how)
    _, said = stopped.communicate(timeout=60)
    assert "Traceback" not in said
    if how == signal.SIGINT:
        assert stopped.returncode == 130
        assert said.rstrip().endswith("stopped; the same command continues")
    assert not (tmp_path / "run" / "catalog.duckdb").exists()
    run(made, tmp_path / "run", workers=workers)
    run(made, tmp_path / "fresh", workers=workers)
    assert digests(tmp_path / "run") == digests(tmp_path / "fresh")
    assert not list((tmp_path / "run").rglob("*.tmp"))


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}


def _wait_for(path: Path, process: "subprocess.Popen[Any]") -> None:
    for _ in range(600):
        if path.exists():
            return
        assert process.poll() is None, "the run ended before it could be stopped"
        time.sleep(0.05)
    raise AssertionError(f"{path} did not appear")


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    first=st.tuples(st.integers(0, 4), st.floats(0.05, 1)),
    second=st.tuples(st.integers(0, 4), st.floats(0.05, 1)),
    rows=st.integers(1, 60),
)
def test_any_threshold_change_equals_a_fresh_run(
    tmp_path_factory: pytest.TempPathFactory, first: tuple[int, float], second: tuple[int, float], rows: int
) -> None:
    """Whatever was run before with other thresholds, the verdicts are those of a fresh run."""
    folder = tmp_path_factory.mktemp("change")
    pool = write_csv(folder / "list.csv", numbered_rows(rows))

    def made(words: int, top: float) -> dict[str, Any]:
        return recipe(pool, {"caption_words": {"least": words}}, {"clip_score": {"column": "score", "top": top}})

    run(made(*first), folder / "run", workers=1)
    edited = run(made(*second), folder / "run", workers=1)
    fresh = run(made(*second), folder / "fresh", workers=1)
    assert kept_texts(edited) == kept_texts(fresh)
    assert edited.tally == fresh.tally


def test_run_on_another_filesystem_is_the_same(pool: Path, tmp_path: Path) -> None:
    """A run on an fsspec URL writes the bytes of a local one, and can be queried and continued there."""
    import fsspec

    steps = [{"caption_words": {"least": 2}}, {"exact_duplicates": {}}, *STEPS[2:]]
    remote = run(recipe(pool, *steps), "memory://a run/1", workers=1)
    run(recipe(pool, *steps), tmp_path / "local", workers=1)
    files = fsspec.filesystem("memory")
    for name, digest in digests(tmp_path / "local").items():
        assert hashlib.sha256(files.cat_file(f"/a run/1/{name}")).hexdigest() == digest, name
    assert remote.query("SELECT count(*) AS n FROM verdicts")["n"][0].as_py() == 350
    assert run(recipe(pool, *steps), "memory://a run/1", workers=1).tally == remote.tally


def test_list_columns_of_the_pool_reach_the_dataset(tmp_path: Path) -> None:
    """A list column of the source can be carried into the training shards."""
    rows = {"url": ["http://e.org/1", "http://e.org/2"], "text": ["a b c", "x"], "tags": [["t"], ["u", "v"]]}
    pq.write_table(pa.table(rows), tmp_path / "list.parquet")
    made = recipe(tmp_path / "list.parquet", "caption_words", output={"dataset": {"columns": ["tags"]}})
    table = run(made, tmp_path / "run").query("SELECT tags FROM dataset")
    assert table["tags"].to_pylist() == [["t"]]


def test_smaller_pool_leaves_no_scores_behind(tmp_path: Path) -> None:
    """Scores of shards that the pool no longer has are gone, and the views are those of a fresh run."""
    steps = [{"caption_words": {"least": 2}}, {"exact_duplicates": {"by": "text"}}]
    run(recipe(write_csv(tmp_path / "list.csv", numbered_rows(350)), *steps), tmp_path / "run", workers=1)
    small = recipe(write_csv(tmp_path / "list.csv", numbered_rows(150)), steps[0], "exact_duplicates")
    edited = run(small, tmp_path / "run", workers=1)
    fresh = run(small, tmp_path / "fresh", workers=1)
    assert digests(tmp_path / "run") == digests(tmp_path / "fresh")
    assert edited.query("SELECT count(*) AS n FROM scores_caption_words")["n"][0].as_py() == 150
    assert edited.tally == fresh.tally


@pytest.mark.parametrize("folder", ["pairs", "verdicts", "dataset", "_work"])
def test_somebody_elses_files_are_not_touched(tmp_path: Path, folder: str) -> None:
    """A directory that holds one of a run's folders, but is no run, is refused; nothing in it changes."""
    theirs = tmp_path / "data" / folder / "list.csv"
    theirs.parent.mkdir(parents=True)
    write_csv(theirs, numbered_rows(3))
    with pytest.raises(UserError, match=f"holds '{folder}', which no run of pairsieve wrote"):
        run(recipe(theirs), tmp_path / "data")
    assert theirs.exists()


def test_pool_inside_the_run_is_refused(pool: Path, tmp_path: Path) -> None:
    """A pool that lies in a folder which the run replaces is refused, and stays."""
    run(recipe(pool), tmp_path / "run")
    shard = tmp_path / "run" / "dataset" / "00000.parquet"
    with pytest.raises(UserError, match=r"the pool's .* lies in it"):
        run(recipe(shard), tmp_path / "run")
    assert shard.exists()


@pytest.mark.parametrize("name", ["", " ", "a,b", "x[1]", "x*y", "x?"])
def test_odd_directory_names_are_refused(pool: Path, tmp_path: Path, name: str) -> None:
    """A directory name that is empty, or that DuckDB would read as a pattern, is one line."""
    with pytest.raises(UserError, match="--out"):
        run(recipe(pool), f"{tmp_path}/{name}" if name.strip() else name)


@pytest.mark.parametrize("name", ["shard=7", "uid=5", "it's"])
def test_names_like_hive_partitions_are_names(pool: Path, tmp_path: Path, name: str) -> None:
    """``key=value`` in the path is no column of the run."""
    result = run(recipe(pool, *STEPS), tmp_path / name, workers=1)
    assert result.query("SELECT count(DISTINCT shard) AS n FROM verdicts")["n"][0].as_py() == 4


def test_pool_scope_is_what_the_pool_could_give(tmp_path: Path) -> None:
    """``of: pool`` ranks among pairs that the pool gave, whatever an earlier recipe had measured."""
    rows = [*numbered_rows(7), *({"url": "", "text": "no address", "score": 0.99} for _ in range(3))]
    pool = write_csv(tmp_path / "list.csv", rows)
    top = {"clip_score": {"column": "score", "top": 0.3, "of": "pool"}}
    log = {"log": str(tmp_path / "log")}
    run(recipe(pool, {"tests.support_filters:TextLength": {**log, "of": "pool"}}, top), tmp_path / "edited", workers=1)
    plain = recipe(pool, {"tests.support_filters:TextLength": log}, top)
    edited, fresh = run(plain, tmp_path / "edited", workers=1), run(plain, tmp_path / "fresh", workers=1)
    assert edited.tally == fresh.tally
    assert edited.settled["clip_score"]["rows"] == 7


def test_part_without_its_predecessor_is_not_counted(pool: Path, tmp_path: Path) -> None:
    """After the first part of a shard's scores is lost, every pair is measured once again, and stands once."""
    step = {"log": str(tmp_path / "log")}
    steps = [{"caption_words": {"least": 2}}, {"tests.support_filters:TextLength": step}]
    run(recipe(pool, *steps), tmp_path / "run", workers=1)
    loose = recipe(pool, {"caption_words": {"least": 1}}, steps[1])
    wanted = run(loose, tmp_path / "run", workers=1)
    scores = tmp_path / "run" / "scores" / "TextLength"
    assert (scores / "00000.1.parquet").exists()
    (scores / "00000.parquet").unlink()
    again = run(loose, tmp_path / "run", workers=1)
    assert again.tally == wanted.tally
    assert again.query("SELECT count(*) AS n FROM scores")["n"][0].as_py() == 350


def test_subset_of_an_earlier_recipe_goes(pool: Path, tmp_path: Path) -> None:
    """A recipe that writes no subset, or another, does not leave the old one to be taken for its own."""
    run(recipe(pool), tmp_path / "run")
    run(recipe(pool, output={"subset": "other.npy"}), tmp_path / "run")
    assert [p.name for p in (tmp_path / "run").glob("*.npy")] == ["other.npy"]
    run(recipe(pool, output={"dataset": True}), tmp_path / "run")
    assert not list((tmp_path / "run").glob("*.npy"))


def test_nameless_and_reserved_columns_come_through(tmp_path: Path) -> None:
    """A csv index without a name, and columns with names of pairsieve's own, keep their values."""
    (tmp_path / "list.csv").write_text(",url,text,_key\n0,http://e.org/1,a b c,u\n1,http://e.org/2,d e f,v\n")
    result = run(recipe(tmp_path / "list.csv", "caption_words"), tmp_path / "run", workers=1)
    table = result.query("SELECT column_0, source__key FROM dataset ORDER BY 1")
    assert table.to_pylist() == [{"column_0": 0, "source__key": "u"}, {"column_0": 1, "source__key": "v"}]
