"""Pairs in the clusters of target images."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from pydantic import ValidationError

from pairsieve.filters import _tensors
from pairsieve.filters.base import UnknownColumnError
from pairsieve.filters.image_cluster import ImageCluster, target_clusters
from pairsieve.pipelines.run import run
from pairsieve.schemas.errors import PairsieveError, UserError
from tests.support_pools import photo

CENTROIDS = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [0.5, 0.5, 0.5]], np.float32)
TARGETS = np.array([[9, 1, 0], [0.1, 0, 2], [8, 2, 0]], np.float32)
ROWS = [[2.0, 1, 0], None, [0, 3, 0], [0, 1, 4], [1, np.nan, 0], [1, 1, 1], [0, np.inf, 1]]
CLUSTERS = [0, None, 1, 2, None, 3, None]
IS_TARGET = [True, None, False, True, None, False, None]
REASONS = [None, "no_features", "other_cluster", None, "no_features", "other_cluster", "no_features"]
KIND = pa.list_(pa.float16(), 3)


@pytest.fixture(autouse=True)
def _files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Centroids and targets, in the current directory."""
    monkeypatch.chdir(tmp_path)
    np.save("centroids.npy", CENTROIDS)
    torch.save(CENTROIDS, "centroids.pt")
    np.save("targets.npy", TARGETS)
    torch.save({"image_features": torch.from_numpy(TARGETS[:2])}, "part_0.pt")
    torch.save({"image_features": torch.from_numpy(TARGETS[2:])}, "part_1.pt")
    np.save("ids.npy", np.array([2, 0, 2]))


def opened(**settings: Any) -> ImageCluster:
    """The filter, opened."""
    made = ImageCluster(**{"features": "f", "centroids": "centroids.npy", "targets": "targets.npy", **settings})
    made.check({"f": KIND})
    made.open()
    return made


def judged(made: ImageCluster, column: pa.Array) -> tuple[list[Any], list[Any], list[Any]]:
    """Cluster, whether it is a target's, and the reason."""
    scored = made.score(pa.record_batch({"f": column}))
    verdict = made.keep(pa.record_batch(scored))
    return scored["image_cluster"].to_pylist(), scored["in_target_cluster"].to_pylist(), verdict.to_pylist()


@pytest.mark.parametrize("kind", [KIND, pa.list_(pa.float32(), 3), pa.list_(pa.float32()), pa.list_(pa.float64())])
def test_verdicts(kind: pa.DataType) -> None:
    """Pairs in a target's cluster stay; without a finite embedding they go for that; the type does not matter."""
    assert judged(opened(), pa.array(ROWS, kind)) == (CLUSTERS, IS_TARGET, REASONS)


def test_slices() -> None:
    """A slice of a batch is judged as its rows are."""
    made, column = opened(), pa.array([[9.0] * 3, *ROWS, [9.0] * 3], KIND)
    for start in range(len(ROWS)):
        assert judged(made, column.slice(1 + start, 2))[0] == [*CLUSTERS, 3][start : start + 2]


@pytest.mark.parametrize("centroids", ["centroids.npy", "centroids.pt"])
@pytest.mark.parametrize("targets", ["targets.npy", "part_*.pt", ("part_0.pt", "part_1.pt"), "ids.npy", ("ids.npy",)])
def test_files(centroids: str, targets: Any) -> None:
    """Every way to write centroids and targets down means the same; ``files`` names what was read."""
    made = opened(centroids=centroids, targets=targets)
    assert judged(made, pa.array(ROWS, KIND))[1] == IS_TARGET
    assert made.files()[0] == centroids
    assert len(made.files()) >= 2


def test_target_clusters() -> None:
    """Clusters worked out once, and saved, stand for the target embeddings."""
    found = target_clusters("centroids.pt", "part_*.pt")
    assert found.tolist() == [0, 2]
    np.save("saved.npy", found)
    assert judged(opened(targets="saved.npy"), pa.array(ROWS, KIND))[2] == REASONS


def test_all_null() -> None:
    """A batch without any embedding is dropped pair by pair."""
    assert judged(opened(), pa.nulls(2, KIND))[2] == ["no_features"] * 2


def test_columns() -> None:
    """What is no column of embeddings, or of another width, is said before anything runs."""
    made = ImageCluster(features="f", centroids="centroids.npy", targets="targets.npy")
    with pytest.raises(UnknownColumnError, match="did you mean 'F'"):
        made.check({"F": KIND})
    with pytest.raises(ValueError, match="not embeddings"):
        made.check({"f": pa.list_(pa.int32(), 3)})
    with pytest.raises(ValueError, match="not embeddings"):
        made.check({"f": pa.float32()})
    with pytest.raises(ValueError, match="holds 4 × 3, and column 'f' has width 5"):
        made.check({"f": pa.list_(pa.float32(), 5)})


def write(name: str, values: Any) -> None:
    """A file of the kind that its name says."""
    if name.endswith(".pt"):
        torch.save(values, name, pickle_protocol=4)  # as DataComp's script does
    else:
        (np.save if name.endswith(".npy") else np.savez)(name, values)


@pytest.mark.parametrize("name", ["bad.npy", "bad.npz", "bad.pt"])
def test_check_reads_centroids(name: str) -> None:
    """Centroids that cannot be used are refused before anything runs, whatever the format."""
    made = ImageCluster(features="f", centroids=name, targets="targets.npy")
    for values, says in (
        (np.ones((4, 8), np.float32), "holds 4 × 8, and column 'f' has width 3"),
        (np.array([[1, np.nan, 0]], np.float32), "row 0 is not finite"),
        (np.ones((0, 3), np.float32), "holds 0 × 3|empty"),
        (np.ones(3, np.float32), "not a float matrix"),
    ):
        write(name, values)
        with pytest.raises((ValueError, UserError), match=says):
            made.check({"f": KIND})


@pytest.mark.parametrize("name", ["bad.npy", "bad.npz", "bad.pt"])
@pytest.mark.parametrize(
    ("values", "says"),
    [
        (np.array([0, 4]), "outside 0 to 3"),
        (np.ones((2, 5), np.float32), "width 5, and the centroids have 3"),
        (np.array([[np.nan] * 3]), "not finite"),
    ],
)
def test_check_reads_targets(name: str, values: Any, says: str) -> None:
    """Targets that do not belong to the centroids are refused before anything runs, whatever the column's type."""
    write(name, values)
    made = ImageCluster(features="f", centroids="centroids.pt", targets=("ids.npy", name))
    for kind in (KIND, pa.list_(pa.float32())):
        with pytest.raises(UserError, match=says):
            made.check({"f": kind})


def test_check_leaves_large_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Centroids and targets beyond the limit are not read twice; a .npy file tells its width all the same."""
    monkeypatch.setattr(_tensors, "LOOK_BYTES", 1)
    write("bad.pt", np.ones((2, 5), np.float32))
    write("bad.npy", np.ones((2, 5), np.float32))
    ImageCluster(features="f", centroids="centroids.npy", targets="bad.pt").check({"f": KIND})
    ImageCluster(features="f", centroids="bad.pt", targets="ids.npy").check({"f": KIND})
    with pytest.raises(UserError, match="width 5, and the centroids have 3"):
        ImageCluster(features="f", centroids="centroids.npy", targets="bad.npy").check({"f": KIND})


def test_no_targets() -> None:
    """An empty list of targets is a mistake in the recipe."""
    with pytest.raises(ValidationError, match="names no file; give a file or a glob"):
        ImageCluster(centroids="centroids.npy", targets=())


def test_rows_of_another_model() -> None:
    """Rows that all have another width are no pairs without features: the file is another model's."""
    with pytest.raises(UserError, match="width 5, and the centroids have 3"):
        judged(opened(), pa.array([[1.0] * 5] * 3, pa.list_(pa.float32())))


def test_run_of_another_model(tmp_path: Path) -> None:
    """A run over such rows ends with one line that names both widths."""
    images = [photo(20 + i, 20) for i in range(4)]
    table = {"image": images, "text": list("abcd"), "f": pa.array([[1.0] * 5] * 4, pa.list_(pa.float32()))}
    pq.write_table(pa.table(table), tmp_path / "x.parquet")
    recipe = {
        "pool": {"pairs": {"path": str(tmp_path / "x.parquet"), "columns": ["f"]}},
        "filters": [{"image_cluster": {"features": "f", "centroids": "centroids.pt", "targets": "part_*.pt"}}],
    }
    with pytest.raises(PairsieveError, match="width 5, and the centroids have 3") as error:
        run(recipe, tmp_path / "run", engine="local", workers=1)
    assert "\n" not in str(error.value)


def test_other_widths_of_rows() -> None:
    """Where only the rows tell their width, one that does not fit has no embedding."""
    column = pa.array([[1.0, 0.0], [1.0, 0.0, 0.0], []], pa.list_(pa.float32()))
    assert judged(opened(), column)[2] == ["no_features", None, "no_features"]


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (np.array([4]), "outside 0 to 3"),
        (np.array([-1]), "outside 0 to 3"),
        (np.ones((2, 5), np.float32), "width 5, and the centroids have 3"),
        (np.array([0.5]), "not a float matrix"),
        (np.ones((2, 3), np.int64), "not a float matrix"),
    ],
)
def test_bad_targets(values: Any, says: str) -> None:
    """Targets that do not belong to the centroids are refused with the file's name."""
    np.save("bad.npy", values)
    with pytest.raises(UserError, match=rf"targets: bad\.npy.*{says}"):
        opened(targets=("ids.npy", "bad.npy"))


def test_missing_files() -> None:
    """Files that are not there are said before anything runs."""
    with pytest.raises(UserError, match=r"nothing\.npy: no such file"):
        opened(centroids="nothing.npy")
    with pytest.raises(UserError, match="no file matches"):
        opened(targets=("ids.npy", "nothing*"))


def test_resources() -> None:
    """A GPU is taken where there is one, unless the device says otherwise."""
    settings = {"centroids": "centroids.npy", "targets": "ids.npy"}
    found = [ImageCluster(**settings, device=device).resources() for device in ("auto", "cpu", "cuda")]
    assert [(r.gpus, r.gpu_optional) for r in found] == [(1, True), (0, False), (1, False)]


def test_run(tmp_path: Path) -> None:
    """A run over a pool with a column of embeddings stores clusters and gives every pair its verdict."""
    images = [photo(20 + i, 20) for i in range(len(ROWS))]
    table = {"image": images, "text": list("abcdefg"), "f": pa.array(ROWS, KIND)}
    pq.write_table(pa.table(table), tmp_path / "x.parquet", row_group_size=3)
    recipe = {
        "pool": {"pairs": {"path": str(tmp_path / "x.parquet"), "columns": ["f"], "shard_rows": 3}},
        "filters": [{"image_cluster": {"features": "f", "centroids": "centroids.pt", "targets": "part_*.pt"}}],
    }
    result = run(recipe, tmp_path / "run", engine="local", workers=1)
    rows = result.query("SELECT text, image_cluster, reason FROM scores ORDER BY text").to_pylist()
    assert [row["image_cluster"] for row in rows] == CLUSTERS
    assert [row["reason"] for row in rows] == REASONS
