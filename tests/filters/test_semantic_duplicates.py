"""SemDeDup: within a cluster, whatever lies near to a better pair goes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from pairsieve.filters._cosines import first_alike, normalised
from pairsieve.filters._products import device_of
from pairsieve.filters.semantic_duplicates import SemanticDuplicates
from pairsieve.pipelines.run import run
from pairsieve.pipelines.runner import Result
from pairsieve.schemas.errors import RecipeError, UserError
from tests.support import digests

Vectors = NDArray[np.float32]
WIDTH = 12


def literal(vectors: Vectors, clusters: Sequence[int], order: Sequence[int], epsilon: float) -> set[int]:
    """The pairs that go, one after the other, in Python's floats."""
    unit = [v / np.linalg.norm(v) for v in vectors.astype(np.float64)]
    gone = set()
    for place, i in enumerate(order):
        better = (j for j in order[:place] if clusters[j] == clusters[i])
        if any(float(unit[i] @ unit[j]) > 1 - epsilon for j in better):
            gone.add(i)
    return gone


def planted(rows: int, seed: int = 0) -> Vectors:
    """Vectors in groups of about three that lie close together, at all distances."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(rows // 3 + 1, WIDTH))
    found = centres[rng.integers(0, len(centres), rows)] + rng.normal(size=(rows, WIDTH)) * rng.uniform(
        0, 0.5, (rows, 1)
    )
    return np.asarray(found, np.float32)


@pytest.mark.parametrize("rows", [0, 1, 5, 1024, 2600])
@pytest.mark.parametrize("least", [0.5, 0.95])
def test_first_alike_is_the_literal_rule(rows: int, least: float) -> None:
    """Also across the edges of blocks."""
    unit = normalised(planted(rows))
    found = first_alike(unit, least, device_of("cpu"))
    products = unit.astype(np.float64) @ unit.astype(np.float64).T
    for i, first in enumerate(found):
        near = np.flatnonzero(products[i, :i] > least)
        assert first == (near[0] if len(near) else -1)


def test_the_limit_is_not_a_duplicate() -> None:
    """Exactly 1 - epsilon stays; equal vectors go unless epsilon is 0 and rounding keeps them at 1."""
    unit = np.array([[1, 0], [1, 0], [0, 1]], np.float32)
    assert first_alike(unit, 0.0, device_of("cpu")).tolist() == [-1, 0, -1]
    assert first_alike(unit, 1.0, device_of("cpu")).tolist() == [-1, -1, -1]


@pytest.fixture
def pool(tmp_path: Path) -> dict[str, Any]:
    """600 pairs with embeddings, some missing or broken, in three files; and five centroids."""
    vectors: list[Any] = planted(600).astype(np.float16).tolist()
    vectors[7], vectors[8], vectors[9] = None, [0.0] * WIDTH, [float("nan")] * WIDTH
    for part in range(3):
        rows = range(part * 200, part * 200 + 200)
        table = {
            "uid": [f"{i * 0x9E3779B97F4A7C15 % 2**128:032x}" for i in rows],
            "url": [f"http://e.org/{i}" for i in rows],
            "text": [str(i) for i in rows],
            "quality": [i * 7919 % 601 for i in rows],
            "vector": pa.array([vectors[i] for i in rows], pa.list_(pa.float16(), WIDTH)),
        }
        pq.write_table(pa.table(table), tmp_path / f"{part}.parquet", row_group_size=50)
    np.save(tmp_path / "centroids.npy", planted(5, seed=1))
    return {"urls": {"path": f"{tmp_path}/*.parquet", "shard_rows": 50}}


def step(pool: dict[str, Any], **settings: Any) -> dict[str, Any]:
    """The step, and the pool's centroids."""
    folder = Path(pool["urls"]["path"]).parent
    return {"semantic_duplicates": {"features": "vector", "centroids": f"{folder}/centroids.npy", **settings}}


def gone(found: Result) -> set[int]:
    """Pairs that are dropped, by number."""
    rows = found.query("SELECT text FROM scores WHERE dropped_by IS NOT NULL").to_pylist()
    return {int(row["text"]) for row in rows}


def wanted(found: Result, order: str, epsilon: float) -> set[int]:
    """What the rule drops, by the stored clusters."""
    sql = f"SELECT text, semantic_cluster AS cluster FROM scores WHERE cluster IS NOT NULL ORDER BY {order}, uid"
    rows = found.query(sql).to_pylist()
    vectors = planted(600).astype(np.float16).astype(np.float32)
    clusters = {int(row["text"]): row["cluster"] for row in rows}
    listed = [clusters.get(i, -1) for i in range(600)]
    return literal(vectors, listed, [int(row["text"]) for row in rows], epsilon)


def test_a_run_is_the_rule(pool: dict[str, Any], tmp_path: Path) -> None:
    """By default the farthest from its centroid is the best; pairs without an embedding stay."""
    found = run({"pool": pool, "filters": [step(pool, epsilon=0.05)]}, tmp_path / "run", workers=1)
    lost = gone(found)
    assert lost == wanted(found, "semantic_similarity", 0.05)
    assert 50 < len(lost) < 400
    assert not lost & {7, 8, 9}
    missing = found.query("SELECT text FROM scores WHERE semantic_cluster IS NULL ORDER BY 1")["text"].to_pylist()
    assert missing == ["7", "8", "9"]


def test_the_survivor_is_named(pool: dict[str, Any], tmp_path: Path) -> None:
    """``<step>_of`` is the uid of a better pair in the same cluster."""
    found = run({"pool": pool, "filters": [step(pool, epsilon=0.05)]}, tmp_path / "run", workers=1)
    sql = """
        SELECT count(*) AS n FROM scores s JOIN scores b ON s.semantic_duplicates_of = b.uid
        WHERE s.semantic_cluster = b.semantic_cluster AND s.semantic_similarity >= b.semantic_similarity
    """
    assert found.query(sql).to_pylist() == [{"n": len(gone(found))}]


def test_prefer_and_epsilon_measure_nothing_again(pool: dict[str, Any], tmp_path: Path) -> None:
    """Both only decide; ``prefer`` may name columns of the pool and its own."""
    run({"pool": pool, "filters": [step(pool, epsilon=0.05)]}, tmp_path / "run", workers=1)
    made = {"pool": pool, "filters": [step(pool, epsilon=0.2, prefer="quality DESC, semantic_similarity")]}
    found = run(made, tmp_path / "run", workers=1)
    assert found.measured == {"semantic_duplicates": 0}
    assert gone(found) == wanted(found, "quality DESC, semantic_similarity", 0.2)


def test_shards_and_workers_do_not_matter(pool: dict[str, Any], tmp_path: Path) -> None:
    """The same pairs go; with the same shards the same bytes."""
    filters = [step(pool, epsilon=0.1), step(pool, epsilon=0.2) | {}]
    filters[1]["semantic_duplicates"]["as"] = "again"
    one = run({"pool": pool, "filters": filters}, tmp_path / "one", workers=1)
    run({"pool": pool, "filters": filters}, tmp_path / "two", workers=2)
    assert digests(tmp_path / "one") == digests(tmp_path / "two")
    large = {"urls": {**pool["urls"], "shard_rows": 1000}}
    other = run({"pool": large, "filters": filters}, tmp_path / "large", workers=1)
    assert gone(other) == gone(one)


def test_small_stretches_of_groups(pool: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Groups that do not fit together are taken one after the other, with the same outcome."""
    from pairsieve.pipelines import within

    made = {"pool": pool, "filters": [step(pool, epsilon=0.1)]}
    run(made, tmp_path / "one", workers=1)
    monkeypatch.setattr(within, "STRETCH_BYTES", 3000)
    monkeypatch.setattr(within, "PAGE_BYTES", 500)
    run(made, tmp_path / "small", workers=1)
    assert digests(tmp_path / "one") == digests(tmp_path / "small")


def test_an_idempotent_second_run(pool: dict[str, Any], tmp_path: Path) -> None:
    """What stays has no near neighbour before it, so a second step with the same rule drops nothing."""
    filters = [step(pool, epsilon=0.1), step(pool, epsilon=0.1) | {}]
    filters[1]["semantic_duplicates"]["as"] = "again"
    found = run({"pool": pool, "filters": filters}, tmp_path / "run", workers=1)
    assert {name for name, _ in found.tally.dropped} == {"semantic_duplicates"}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"epsilon": 0.1, "features": "text"}, "column 'text' is string, not embeddings"),
        ({"epsilon": 0.1, "features": "vectors"}, "reads 'vectors', which neither .* did you mean 'vector'"),
        ({"epsilon": 3}, "less than or equal to 2"),
        ({}, "epsilon"),
        ({"epsilon": 0.1, "centroids": "nothing.npy"}, "nothing.npy"),
        ({"epsilon": 0.1, "prefer": "qualty"}, "qualty"),
    ],
)
def test_mistakes(pool: dict[str, Any], tmp_path: Path, settings: dict[str, Any], said: str) -> None:
    """One line, before anything runs."""
    with pytest.raises(RecipeError, match=said):
        run({"pool": pool, "filters": [step(pool, **settings)]}, tmp_path / "run")


def test_centroids_of_another_width(pool: dict[str, Any], tmp_path: Path) -> None:
    """Named with both widths."""
    np.save(tmp_path / "wide.npy", np.ones((3, 7), np.float32))
    made = step(pool, epsilon=0.1, centroids=str(tmp_path / "wide.npy"))
    with pytest.raises(RecipeError, match="holds vectors of width 7, and column 'vector' has width 12"):
        run({"pool": pool, "filters": [made]}, tmp_path / "run")


@pytest.mark.parametrize(("rows", "said"), [([3], "row 3 is"), ([1, 2, 4], "3 rows are all zeros, row 1 the first")])
def test_centroids_of_zeros_are_refused(
    pool: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: list[int], said: str
) -> None:
    """Before anything runs; where the file is too large for a look, by the worker."""
    centroids = planted(5, seed=1)
    centroids[rows] = 0
    np.save(tmp_path / "centroids.npy", centroids)
    with pytest.raises(RecipeError, match=rf"centroids: .*centroids\.npy: {said}.*; train them with"):
        run({"pool": pool, "filters": [step(pool, epsilon=0.1)]}, tmp_path / "run")
    monkeypatch.setattr("pairsieve.filters._tensors.LOOK_BYTES", 10)
    with pytest.raises(UserError, match=rf"shard 00000.*: centroids: .*centroids\.npy: {said}") as error:
        run({"pool": pool, "filters": [step(pool, epsilon=0.1)]}, tmp_path / "run", workers=1)
    assert "resumes" not in str(error.value)


def test_scores_do_not_depend_on_neighbours(pool: dict[str, Any], tmp_path: Path) -> None:
    """One at a time or all together."""
    made = SemanticDuplicates.model_validate(step(pool, epsilon=0.1)["semantic_duplicates"])
    made.open()
    vectors = pa.array(planted(40).tolist(), pa.list_(pa.float32(), WIDTH))
    together = made.score(pa.record_batch({"vector": vectors}))
    alone = [made.score(pa.record_batch({"vector": vectors.slice(i, 1)})) for i in range(40)]
    for name, values in together.items():
        assert values.to_pylist() == [one[name][0].as_py() for one in alone]
