"""Runs on an object store that answers badly: the same bytes as on a disk, nothing half, nothing twice."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from pairsieve.pipelines import provenance, remote
from pairsieve.pipelines.run import run
from pairsieve.pipelines.store import Store, filesystem, open_parquet
from pairsieve.schemas.errors import AccessError, StorageError
from tests.s3 import Faults, S3Server, download
from tests.support import digests, numbered_rows, recipe, write_csv

FAULTS = Faults(errors=0.05, cuts=0.02, slow=0.2, very_slow=0.01, seed=1)
OUTPUT = {"dataset": {"rows_per_file": 60}, "subset": "subset.npy"}
TOP = {"clip_score": {"column": "score", "top": 0.4}}


def steps(log: Path) -> list[Any]:
    """A step that counts what it measures, one that looks at the whole pool, one that groups."""
    counting = {"tests.support_filters:TextLength": {"log": str(log), "least": 3}}
    return [{"caption_words": {"least": 2}}, counting, "exact_duplicates", TOP]


@pytest.fixture
def bucket(s3: S3Server) -> str:
    """A bucket of the test's own."""
    return s3.make_bucket()


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    """190 pairs, 2 shards."""
    return write_csv(tmp_path / "list.csv", numbered_rows(190))


def cli(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command line, in a process of its own."""
    command = [sys.executable, "-m", "pairsieve", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment}, check=False)


def write_recipe(path: Path, made: dict[str, Any]) -> str:
    """A recipe as a file."""
    path.write_text(yaml.safe_dump(made))
    return str(path)


def test_a_bad_store_gives_the_files_of_a_disk(s3: S3Server, bucket: str, pool: Path, tmp_path: Path) -> None:
    """Byte for byte, with errors, cut answers and delays, whatever the workers; and a second run measures nothing."""
    log = tmp_path / "log"
    Store(bucket).write("list.csv", pool.read_bytes())
    made = recipe(f"{bucket}/list.csv", *steps(log), output=OUTPUT)
    run(made, tmp_path / "local", workers=1)
    wanted, measured = digests(tmp_path / "local"), sorted(log.read_text().split())
    for workers in (1, 2):
        log.unlink()
        s3.set(FAULTS)
        run(made, f"{bucket}/run{workers}", workers=workers)
        counts = s3.counts()
        s3.set(Faults())
        assert min(counts["error"], counts["cut"], counts["slow"]) >= 3
        assert digests(download(f"{bucket}/run{workers}", tmp_path / f"copy{workers}")) == wanted
        assert sorted(log.read_text().split()) == measured
    assert run(made, f"{bucket}/run1", workers=1).kept == 61
    assert sorted(log.read_text().split()) == measured


def test_images_on_a_bad_store(s3: S3Server, bucket: str, tmp_path: Path) -> None:
    """Stored images are read from the store and written to it, as from and to a disk."""
    noise = np.random.default_rng(0)
    images = [_png(noise.integers(0, 256, (20 + i % 9, 30, 3), dtype=np.uint8)) for i in range(120)]
    table = pa.table({"text": [f"picture number {i}" for i in range(120)], "image": images})
    pq.write_table(table, tmp_path / "pairs.parquet", row_group_size=30)
    Store(bucket).write("pairs.parquet", (tmp_path / "pairs.parquet").read_bytes())
    made = {
        "pool": {"pairs": {"path": f"{bucket}/pairs.parquet", "shard_rows": 60}},
        "filters": [{"image_shape": {"shortest": 22}}],
        "output": {"dataset": {"rows_per_file": 40}},
    }
    run(made, tmp_path / "local", workers=1)
    s3.set(replace(FAULTS, errors=0.08, seed=2))
    result = run(made, f"{bucket}/run", workers=1)
    assert s3.counts()["error"] >= 3
    s3.set(Faults())
    assert result.kept == 92
    assert digests(download(f"{bucket}/run", tmp_path / "copy")) == digests(tmp_path / "local")


def _png(pixels: Any) -> bytes:
    import cv2

    return bytes(cv2.imencode(".png", pixels)[1].tobytes())


def test_a_killed_run_continues(s3: S3Server, bucket: str, pool: Path, tmp_path: Path) -> None:
    """After ``kill -9`` of the driver, from another process at once, and the bytes are those of a fresh run."""
    made = recipe(pool, {"tests.support_filters:Slow": {}}, {"caption_words": {"least": 2}}, output=OUTPUT)
    made["pool"]["urls"]["shard_rows"] = 50
    run(made, tmp_path / "local", workers=1)
    command = [sys.executable, "-m", "pairsieve", "run", write_recipe(tmp_path / "recipe.yaml", made)]
    driver = subprocess.Popen([*command, "--out", f"{bucket}/run", "--workers", "2", "-q"], start_new_session=True)
    store = Store(f"{bucket}/run")
    while not store.names("scores/caption_words"):
        assert driver.poll() is None
        time.sleep(0.05)
    os.killpg(driver.pid, signal.SIGKILL)
    s3.set(Faults(errors=0.03, seed=3))
    run(made, f"{bucket}/run", workers=1)
    s3.set(Faults())
    driver.wait()
    assert digests(download(f"{bucket}/run", tmp_path / "copy")) == digests(tmp_path / "local")


def test_questions_to_a_run_on_a_store(bucket: str, pool: Path, tmp_path: Path) -> None:
    """``query``, ``why`` and ``diff`` answer as for a run on a disk."""
    made = recipe(pool, *steps(tmp_path / "log"), output=OUTPUT)
    local, remote = (run(made, out, workers=1) for out in (tmp_path / "run", f"{bucket}/run"))
    sql = "SELECT dropped_by, reason, count(*) AS n FROM scores GROUP BY ALL ORDER BY ALL"
    assert remote.query(sql) == local.query(sql)
    uid = local.query("SELECT uid FROM dataset ORDER BY uid LIMIT 1")["uid"][0].as_py()
    assert provenance.why(remote.root, uid) == provenance.why(local.root, uid)
    assert provenance.diff(local.root, remote.root).jaccard == 1
    assert provenance.diff(remote.root, remote.root).both == local.kept


def test_what_another_process_wrote_is_seen(bucket: str) -> None:
    """A listing of the past is not taken for the present."""
    store = Store(f"{bucket}/run")
    store.write("scores/a.parquet", b"a")
    assert store.names("scores") == ["a.parquet"]
    assert not store.exists("scores/b.parquet")
    script = f"from pairsieve.pipelines.store import Store; Store({store.root!r}).write('scores/b.parquet', b'b')"
    subprocess.run([sys.executable, "-c", script], check=True)
    assert store.exists("scores/b.parquet")
    assert store.sizes("scores") == {"a.parquet": 1, "b.parquet": 1}
    assert store.fs.glob(store.path("scores/*.parquet")) == [store.path(f"scores/{n}.parquet") for n in "ab"]


def test_of_two_writers_at_once_the_first_to_end_wins(bucket: str) -> None:
    """The store decides, even when both began before either ended."""
    store = Store(f"{bucket}/run")
    with store.create("x", exclusive=True) as slow:
        with store.create("x", exclusive=True) as fast:
            fast.write(b"fast")
        slow.write(b"slow")
    assert store.read("x") == b"fast"


@pytest.fixture(scope="module")
def large() -> bytes:
    """More than one part of an upload."""
    return np.random.default_rng(0).bytes(105 * 2**20)


def test_a_large_file_is_there_when_all_of_it_is(s3: S3Server, bucket: str, large: bytes) -> None:
    """An upload in several parts, some of which fail or lose their answer; the second one does not replace it."""
    store = Store(f"{bucket}/run")
    s3.set(Faults(errors=0.3, cuts=0.3, seed=5))
    for content in (large, b"\0" + large):
        with store.create("x", exclusive=True) as file:
            file.write(content)
    s3.set(Faults())
    assert store.sizes("") == {"x": len(large)}
    assert store.read("x") == large


def test_an_upload_that_fails_is_not_seen(s3: S3Server, bucket: str, large: bytes) -> None:
    """Parts that came are no file."""
    store = Store(f"{bucket}/run")
    s3.set(Faults(denied="partNumber=3"))
    with pytest.raises(AccessError, match=r"run/x: .*Forbidden; check the name"), store.create("x", False) as file:
        file.write(large)
    assert store.names("") == []
    assert not store.exists("x")


def test_removing_takes_a_folder_and_no_other(bucket: str) -> None:
    """Names that begin alike stay."""
    store = Store(f"{bucket}/run")
    for name in ("data/a", "data/b/c", "data2/a", "data.txt"):
        store.write(name, b"")
    for _ in range(2):
        store.remove("data")
    assert store.names("") == ["data.txt", "data2"]


@pytest.mark.parametrize("protocol", ["s3", "http"])
def test_parquet_is_read_through_faults(s3: S3Server, bucket: str, protocol: str) -> None:
    """Failed and cut ranges are fetched again, also where the filesystem repeats nothing itself."""
    table = pa.table({"a": np.random.default_rng(0).integers(0, 2**60, 30_000)})
    store = Store(bucket)
    store.write_table("x.parquet", table)
    s3.set(Faults(errors=0.15, cuts=0.15, seed=5))
    name = store.url("x.parquet") if protocol == "s3" else store.url("x.parquet").replace("s3:/", s3.url)
    fs, path = filesystem(name)
    for _ in range(4):
        with open_parquet(fs, path) as file:
            assert file.read() == table
    assert min(s3.counts()["error"], s3.counts()["cut"]) >= 2


def test_a_file_that_changes_beneath_a_reader_is_one_line(bucket: str) -> None:
    """Not a mixture of both."""
    store = Store(bucket)
    store.write("x", b"old" * 1000)
    with store.fs.open(store.path("x"), "rb", block_size=100) as file:
        file.read(10)
        store.write("x", b"new" * 1000)
        with pytest.raises(StorageError, match="x: changed while it was read; the same command begins"):
            file.read()


def test_duckdb_reads_through_faults(s3: S3Server, bucket: str) -> None:
    """Queries see whole files too."""
    store = Store(bucket)
    for i in range(4):
        store.write_table(f"t/{i}.parquet", pa.table({"a": np.arange(1000) + 1000 * i}))
    s3.set(Faults(errors=0.15, cuts=0.15, seed=4))
    with duckdb.connect() as con:
        con.register_filesystem(store.fs)
        found = con.execute(f"SELECT count(DISTINCT a) FROM read_parquet('{store.url('t/*.parquet')}')").fetchall()
    assert found == [(4000,)]
    assert s3.counts()["error"] >= 1


@pytest.mark.parametrize(
    ("out", "environment", "says"),
    [
        ("s3://no-such-bucket/run", {}, "The specified bucket does not exist; create the bucket, or name another"),
        ("{bucket}/run", {"AWS_ACCESS_KEY_ID": "wrong"}, "Forbidden; check the name, the access rights"),
        ("{bucket}/run", {"AWS_ACCESS_KEY_ID": "", "AWS_EC2_METADATA_DISABLED": "true"}, "credentials; check"),
    ],
    ids=["no bucket", "wrong key", "no key"],
)
def test_what_cannot_be_used_is_one_line(
    bucket: str, pool: Path, tmp_path: Path, out: str, environment: dict[str, str], says: str
) -> None:
    """At once: place, cause, next step; exit code 2."""
    made = write_recipe(tmp_path / "recipe.yaml", recipe(pool, "caption_words"))
    ended = cli("run", made, "--out", out.format(bucket=bucket), "-q", **environment)
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: s3://")
    assert says in ended.stderr
    assert ended.stderr.count("\n") == 1


def test_access_that_ends_stops_the_run(s3: S3Server, bucket: str, pool: Path, tmp_path: Path) -> None:
    """One line and exit code 1 where a shard may not be written; with access again the same command continues."""
    made = recipe(pool, "caption_words")
    file = write_recipe(tmp_path / "recipe.yaml", made)
    s3.set(Faults(denied="scores/caption_words/00001"))
    ended = cli("run", file, "--out", f"{bucket}/run", "-q", "--workers", "1")
    assert (ended.returncode, ended.stderr.count("\n")) == (1, 1)
    assert "scores/caption_words/00001.parquet: Forbidden" in ended.stderr
    s3.set(Faults())
    assert run(made, f"{bucket}/run", workers=1).kept == 152


def test_a_store_that_only_fails_is_one_line(
    s3: S3Server, bucket: str, pool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After some patience: what it says, and that the same command continues."""
    monkeypatch.setattr(remote, "PAUSES", (0.0,))
    s3.set(Faults(errors=1.0))
    says = rf"^{bucket}/run/.* \(tried for \d+ s\); check the endpoint, then the same command continues$"
    with pytest.raises(StorageError, match=says):
        run(recipe(pool, "caption_words"), f"{bucket}/run")


@pytest.fixture(autouse=True)
def _children_find_tests(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The tests' filters by name."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    yield
