"""Centroids trained on the pairs that a run kept."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner

from pairsieve.pipelines import cluster as kmeans
from pairsieve.pipelines.cli import app
from pairsieve.pipelines.cluster import check_out, cluster, save, train
from pairsieve.pipelines.progress import Lines
from pairsieve.pipelines.run import run
from pairsieve.schemas import uid
from pairsieve.schemas.errors import MissingExtraError, UserError
from tests.support_pools import photo

ROWS, WIDTH = 90, 4
CENTRES = np.eye(WIDTH, dtype=np.float32)[:3] * 10


def pool_vectors() -> NDArray[np.float16]:
    """Three clusters, row by row in turn."""
    noise = np.random.default_rng(0).standard_normal((ROWS, WIDTH)) * 0.1
    return (CENTRES[np.arange(ROWS) % 3] + noise).astype(np.float16)


def write_pool(folder: Path) -> dict[str, Any]:
    """A pool of images with embeddings, and of every third text a word that a recipe drops; one has no embedding."""
    vectors: list[Any] = [*pool_vectors()]
    vectors[1] = None
    columns = {
        "uid": [f"{i * 7919:032x}" for i in range(ROWS)],
        "image": [photo(30 + i, 30) for i in range(ROWS)],
        "text": ["one two" if i % 3 == 2 else "one two three" for i in range(ROWS)],
        "fixed": pa.array(vectors, pa.list_(pa.float16(), WIDTH)),
        "loose": pa.array(vectors, pa.list_(pa.float32())),
        "score": np.zeros(ROWS),
    }
    pq.write_table(pa.table(columns), folder / "x.parquet", row_group_size=40)
    return {
        "pool": {
            "pairs": {"path": str(folder / "x.parquet"), "columns": ["fixed", "loose", "score"], "shard_rows": 40}
        },
        "filters": [{"caption_words": {"least": 3}}],
        "output": {"subset": "subset.npy"},
    }


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that kept two of the three clusters."""
    folder = tmp_path_factory.mktemp("kmeans")
    result = run(write_pool(folder), folder / "run", engine="local", workers=1)
    assert result.kept == 60
    return folder / "run"


@pytest.mark.parametrize("column", ["fixed", "loose"])
def test_kept_pairs(finished: Path, column: str) -> None:
    """Centroids are the means of the kept pairs' clusters, of any list column; a pair without embedding is counted."""
    found = cluster(str(finished), column, 2)
    vectors = pool_vectors().astype(np.float32)
    means = vectors[0::3].mean(axis=0), vectors[4::3].mean(axis=0)  # row 1 has none
    assert np.allclose(sorted(found.centroids.tolist(), reverse=True), means, atol=1e-5)
    assert (found.vectors, found.missing) == (59, 1)


def test_same_again(finished: Path) -> None:
    """The same seed gives the same bits; another begins at other vectors."""
    found = [cluster(str(finished), "fixed", 7, seed=seed).centroids for seed in (3, 3, 4)]
    assert np.array_equal(found[0], found[1])
    assert not np.array_equal(found[0], found[2])


def test_sample(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sample is decided by seed and uid alone."""
    seen: list[Any] = []

    def keep(features: Any, *_: Any) -> Any:
        seen.append(features)
        return features[:1]

    monkeypatch.setattr(kmeans, "train", keep)
    cluster(str(finished), "fixed", 1, sample=0.5, seed=5)
    uids = pa.array([f"{i * 7919:032x}" for i in range(ROWS)])
    is_taken = uid.keyed_hash(uids, 5) < 2**63
    rows = [i for i in range(ROWS) if i % 3 != 2 and i != 1 and is_taken[i]]
    assert 10 < len(rows) < 50
    assert np.array_equal(seen[0], pool_vectors()[rows].astype(np.float32))


def test_lloyd() -> None:
    """Every centroid is the mean of the vectors nearest to it, once iterations change nothing."""
    vectors = np.random.default_rng(1).standard_normal((400, 3)).astype(np.float32)
    centroids = train(vectors, 5, iterations=100, seed=1)
    nearest = ((vectors[:, None] - centroids) ** 2).sum(axis=2).argmin(axis=1)
    assert np.allclose(centroids, [vectors[nearest == i].mean(axis=0) for i in range(5)], atol=1e-5)


def test_as_many_clusters_as_vectors() -> None:
    """Then the centroids are the vectors, without a word on standard error."""
    vectors = np.random.default_rng(1).standard_normal((6, 3)).astype(np.float32)
    assert np.array_equal(np.sort(train(vectors, 6), axis=0), np.sort(vectors, axis=0))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"features": "fixd", "clusters": 2}, "--features: no column 'fixd' here; did you mean 'fixed'"),
        ({"features": "score", "clusters": 2}, "'score' is double, not embeddings"),
        ({"features": "image", "clusters": 2}, "'image' is binary, not embeddings"),
        ({"features": "fixed", "clusters": 61}, "the run kept only 60 pairs of the sample; ask for fewer"),
        ({"features": "fixed", "clusters": 60}, "there are only 59 vectors"),
        ({"features": "fixed", "clusters": 2, "sample": 0.0}, "kept only 0 pairs"),
    ],
)
def test_mistakes(finished: Path, settings: dict[str, Any], says: str) -> None:
    """What cannot be trained is one line."""
    with pytest.raises(UserError, match=says):
        cluster(str(finished), **settings)


def test_unfinished(tmp_path: Path, finished: Path) -> None:
    """A run that is not there, not finished, or whose pool has changed is named."""
    with pytest.raises(UserError, match="no finished run here"):
        cluster(str(tmp_path), "fixed", 2)
    shutil.copytree(finished, tmp_path / "run")
    (tmp_path / "run" / "pairs" / "_pool.json").write_text("{}")
    with pytest.raises(UserError, match="the pool is not as the run read it"):
        cluster(str(tmp_path / "run"), "fixed", 2)


def test_memory(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Vectors that do not fit into memory are refused with a sample that would."""
    monkeypatch.setattr("pairsieve.pipelines.machine.memory", lambda: 600)
    with pytest.raises(UserError, match=r"such as --sample 0\.45"):
        cluster(str(finished), "fixed", 2)


def test_no_faiss(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without faiss the error is the command that installs it."""
    monkeypatch.setattr(kmeans, "find_spec", lambda _: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'pairsieve\[cluster\]'"):
        train(np.zeros((2, 2), np.float32), 1)


def test_save(tmp_path: Path) -> None:
    """A file is written as a whole, over an old one."""
    for value in (1.0, 2.0):
        save(f"{tmp_path}/x.npy", np.full((2, 2), value, np.float32))
        assert np.load(tmp_path / "x.npy").tolist() == [[value] * 2] * 2
    assert [p.name for p in tmp_path.iterdir()] == ["x.npy"]


@pytest.mark.parametrize(
    ("out", "says"),
    [
        ("x.pt", r"written as \.npy"),
        ("folder", r"is a folder; give the name of a \.npy file"),
        ("folder.npy", "is a folder"),
        ("folder.npy/", "is a folder"),
        ("a/b/x.npy", "there is no folder .*/a/b; create it"),
        ("file.txt/x.npy", "there is no folder"),
    ],
)
def test_places_that_cannot_be(tmp_path: Path, finished: Path, out: str, says: str) -> None:
    """The command refuses a bad --out before it reads anything, and creates nothing."""
    for name in ("folder", "folder.npy"):
        (tmp_path / name).mkdir()
    (tmp_path / "file.txt").touch()
    before = sorted(tmp_path.rglob("*"))
    options = ["--features", "fixed", "--clusters", "2", "--out", f"{tmp_path}/{out}"]
    found = CliRunner().invoke(app, ["cluster", str(finished), *options])
    assert isinstance(found.exception, UserError)
    assert re.search(says, str(found.exception))
    assert "read fixed" not in found.output
    assert sorted(tmp_path.rglob("*")) == before


def test_empty_place() -> None:
    """An empty name is no folder."""
    with pytest.raises(UserError, match="--out is empty"):
        check_out("")


def test_progress(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Both stages end with all that they were given."""
    cluster(str(finished), "fixed", 2, progress=Lines())
    read, trained = capsys.readouterr().err.splitlines()
    assert read.startswith("read fixed: 60 of 60 pairs")
    assert trained.startswith("k-means, 20 iterations: 59 of 59 pairs")


def test_command(finished: Path, tmp_path: Path) -> None:
    """The command writes what ``image_cluster`` reads, and a mistake ends in one line."""
    command = [sys.executable, "-m", "pairsieve", "cluster", str(finished), "--features", "fixed", "--clusters"]
    done = subprocess.run(
        [*command, "2", "--out", "c.npy", "-q"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "2 centroids from 59 pairs, 1 had no embedding: c.npy\n"
    assert np.array_equal(np.load(tmp_path / "c.npy"), cluster(str(finished), "fixed", 2).centroids)
    done = subprocess.run([*command, "99", "--out", "d.npy"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "d.npy").exists()
