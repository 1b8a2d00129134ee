"""Engines: one worker or two, this machine or Ray, the bytes are the same."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pairsieve.pipelines.demo_pool import build_pool, write_url_list
from pairsieve.pipelines.demo_server import serve
from pairsieve.pipelines.engine_ray import OBJECT_STORE
from pairsieve.pipelines.run import run
from pairsieve.pipelines.runner import Result
from pairsieve.schemas.errors import ShardError
from tests.support import digests, numbered_rows, recipe, write_csv
from tests.support_chaos import without_timeouts

RUNS = {"one worker": ("local", 1), "two workers": ("local", 2), "ray": ("ray", 2)}


@pytest.fixture(scope="module")
def _one_ray() -> Iterator[None]:
    """A Ray of this process that runs join, whose workers import the tests' filters by name.

    The run of ``runs`` has a Ray of its own, as users' have.
    """
    import ray

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        ray.init("local", num_cpus=2, object_store_memory=OBJECT_STORE, include_dashboard=False, logging_level="ERROR")
        yield
        ray.shutdown()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Result]]:
    """The demo's recipe over a small demo pool without timeouts, by every engine, from one server."""
    folder = tmp_path_factory.mktemp("a path with spaces")
    pool = without_timeouts(build_pool(240))
    found = {}
    with serve(pool) as server:
        write_url_list(pool, server.url, folder / "urls.parquet")
        settings = [f'pool.urls={{"path": "{folder}/urls.parquet", "shard_rows": 60}}', "filters.download.timeout=60"]
        for name, (engine, workers) in RUNS.items():
            out = folder / name
            found[name] = out, run("demo", out, overrides=settings, engine=engine, workers=workers)  # type: ignore[arg-type]
    return found


@pytest.mark.parametrize("other", ["two workers", "ray"])
def test_engines_give_the_same_bytes(runs: dict[str, tuple[Path, Result]], other: str) -> None:
    """scores/, verdicts/, dataset/ and the subset are byte-identical."""
    wanted = digests(runs["one worker"][0])
    assert len(wanted) > 20
    assert digests(runs[other][0]) == wanted


@pytest.mark.parametrize("name", RUNS)
def test_verdicts_are_the_pool(runs: dict[str, tuple[Path, Result]], name: str) -> None:
    """Every candidate has exactly one verdict, whatever the engine."""
    result = runs[name][1]
    counts = result.query("SELECT count(*) AS n, count(DISTINCT (shard, row)) AS places FROM verdicts")
    assert counts.to_pylist() == [{"n": 240, "places": 240}]
    assert result.kept + sum(result.tally.dropped.values()) == 240


def test_dataset_holds_decodable_images(runs: dict[str, tuple[Path, Result]]) -> None:
    """Training shards begin with uid, image, text, and every image decodes to its stated size."""
    import io

    import pyarrow.parquet as pq
    from PIL import Image

    folder, result = runs["ray"]
    tables = [pq.read_table(p) for p in sorted((folder / "dataset").glob("*.parquet"))]
    assert tables[0].column_names[:5] == ["uid", "image", "text", "width", "height"]
    rows = [row for table in tables for row in table.select(["image", "width", "height"]).to_pylist()]
    assert len(rows) == result.kept
    for row in rows:
        with Image.open(io.BytesIO(row["image"])) as image:
            assert image.size == (row["width"], row["height"])
            image.load()


@pytest.mark.usefixtures("_one_ray")
@pytest.mark.parametrize(
    ("how", "says"), [("raise", "ValueError: this caption is too much"), ("kill", "killed its worker 3 times")]
)
def test_ray_sets_a_broken_shard_aside(tmp_path: Path, how: str, says: str) -> None:
    """On Ray too a shard that fails, or kills its worker three times, is named and the others are done."""
    pool = write_csv(tmp_path / "list.csv", numbered_rows(350))
    fragile = {"at": "a picture of thing number 151", "how": how, "mended": str(tmp_path / "mended")}
    with pytest.raises(ShardError, match=f"shard 00001 failed: {says}"):
        run(recipe(pool, {"tests.support_filters:Fragile": fragile}), tmp_path / "run", engine="ray", workers=2)
    found = sorted(p.name for p in (tmp_path / "run" / "scores" / "Fragile").glob("*.parquet"))
    assert found == ["00000.parquet", "00002.parquet", "00003.parquet"]


@pytest.mark.usefixtures("_one_ray")
def test_what_a_pool_filter_derives_is_the_same_on_ray(tmp_path: Path) -> None:
    """Vectors of counts travel to Ray's workers as to any other."""
    pool = write_csv(tmp_path / "list.csv", numbered_rows(400))
    steps = ("tests.support_filters:Letters", {"metadata_balance": {"target_rows": 150, "entries": "letters"}})
    for engine in ("local", "ray"):
        run(recipe(pool, *steps), tmp_path / engine, engine=engine, workers=2)
    assert digests(tmp_path / "ray") == digests(tmp_path / "local")


@pytest.mark.usefixtures("_one_ray")
def test_near_and_semantic_duplicates_are_the_same_on_ray(tmp_path: Path) -> None:
    """Clusters, and decisions within groups, which run as tasks of their own."""
    rng = np.random.default_rng(0)
    rows = [row | {"score": float(rng.integers(0, 900) / 10)} for row in numbered_rows(300)]
    vectors = rng.normal(size=(300, 4)) * [1, 1, 0.05, 0.05]
    table = pa.Table.from_pylist(rows).append_column("vector", pa.array(vectors.tolist(), pa.list_(pa.float32(), 4)))
    uids = pa.array([f"{i:032x}" for i in range(300)])
    pq.write_table(table.append_column("uid", uids), tmp_path / "pool.parquet", row_group_size=30)
    np.save(tmp_path / "centroids.npy", rng.normal(size=(6, 4)).astype(np.float32))
    semantic = {"features": "vector", "centroids": str(tmp_path / "centroids.npy"), "epsilon": 0.001}
    steps = [{"tests.support_filters:NearNumbers": {"within": 0.1}}, {"semantic_duplicates": semantic}]
    made = {"pool": {"urls": {"path": str(tmp_path / "pool.parquet"), "shard_rows": 30}}, "filters": steps}
    found = {engine: run(made, tmp_path / engine, engine=engine, workers=2) for engine in ("local", "ray")}
    assert digests(tmp_path / "ray") == digests(tmp_path / "local")
    assert {step for step, _ in found["ray"].tally.dropped} == {"NearNumbers", "semantic_duplicates"}
