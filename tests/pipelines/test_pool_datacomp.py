"""DataComp's metadata and features, read where they lie."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pairsieve.pipelines.run import run
from pairsieve.schemas.errors import PoolError, RecipeError
from tests.support_datacomp import SCHEMA, features, pairs, pool, recipe, subset, uid_of, write_shard

SEE = {"tests.support_filters:Features": {"column": "l14_img"}}


def test_no_filter_keeps_every_uid(tmp_path: Path) -> None:
    """In DataComp's order, uids above 2^63 at the end."""
    pool(tmp_path / "pool")
    run(recipe(tmp_path / "pool"), tmp_path / "run", workers=1)
    wanted = sorted((int(u[:16], 16), int(u[16:], 16)) for u in map(uid_of, range(100)))
    assert subset(tmp_path / "run") == wanted
    assert any(high >= 2**63 for high, _ in wanted)


def test_nothing_is_copied(tmp_path: Path) -> None:
    """The run holds a list of the shards and no pairs."""
    pool(tmp_path / "pool")
    run(recipe(tmp_path / "pool"), tmp_path / "run", workers=1)
    assert [p.name for p in (tmp_path / "run" / "pairs").iterdir()] == ["_pool.json"]


def test_features_come_with_their_rows(tmp_path: Path) -> None:
    """Each pair gets the row of the npz that has its number, bit for bit."""
    pool(tmp_path / "pool")
    result = run(recipe(tmp_path / "pool", SEE), tmp_path / "run", workers=1)
    found = {row["uid"]: row["first"] for row in result.query("SELECT uid, first FROM scores").to_pylist()}
    wanted = np.concatenate([features(60, 0)["l14_img"][:, 0], features(40, 1)["l14_img"][:, 0]])
    assert found == {uid_of(i): float(value) for i, value in enumerate(wanted)}


@pytest.mark.parametrize("compressed", [True, False])
def test_a_large_file_is_several_shards(tmp_path: Path, compressed: bool) -> None:
    """The features of a shard that begins within a file are those of its rows."""
    write_shard(tmp_path / "pool", "a", pairs(90), features(90), group=20, compressed=compressed)
    result = run(recipe(tmp_path / "pool", SEE, shard_rows=40), tmp_path / "run", workers=2)
    rows = result.query("SELECT shard, count(*) AS n FROM verdicts GROUP BY 1 ORDER BY 1").to_pylist()
    assert [tuple(row.values()) for row in rows] == [(0, 40), (1, 40), (2, 10)]
    found = {row["uid"]: row["first"] for row in result.query("SELECT uid, first FROM scores").to_pylist()}
    assert found == {uid_of(i): float(v) for i, v in enumerate(features(90)["l14_img"][:, 0])}


def test_only_survivors_features_are_measured(tmp_path: Path) -> None:
    """After another filter, whose gaps are skipped."""
    pool(tmp_path / "pool", (300, 50))
    steps = [{"where": "original_width >= 345"}, SEE]
    result = run(recipe(tmp_path / "pool", *steps), tmp_path / "run", workers=1)
    wanted = np.concatenate([features(300, 0)["l14_img"][:, 0], features(50, 1)["l14_img"][:, 0]])
    found = {row["uid"]: row["first"] for row in result.query("SELECT uid, first FROM scores_Features").to_pylist()}
    assert found == {uid_of(i): float(v) for i, v in enumerate(wanted) if 300 + i % 50 >= 345}


def test_nested_parts(tmp_path: Path) -> None:
    """``part_*`` folders are one pool."""
    pool(tmp_path / "pool" / "part_0", (10,))
    write_shard(tmp_path / "pool" / "part_1", "x", pairs(5, 10), features(5))
    assert run(recipe(tmp_path / "pool"), tmp_path / "run", workers=1).rows == 15


def test_files_beside_parts_are_read_too(tmp_path: Path) -> None:
    """None is left out in silence."""
    pool(tmp_path / "pool" / "part_0", (10,))
    write_shard(tmp_path / "pool", "x", pairs(5, 10), features(5))
    assert run(recipe(tmp_path / "pool"), tmp_path / "run", workers=1).rows == 15


def test_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``~`` is expanded, as a shell would not within ``--set data=~/x``."""
    monkeypatch.setenv("HOME", str(tmp_path))
    pool(tmp_path / "pool", (10,))
    assert run(recipe(Path("~/pool")), tmp_path / "run", workers=1).rows == 10


def test_metadata_without_captions(tmp_path: Path) -> None:
    """Serves recipes that read none; others are refused, not run dry."""
    write_shard(tmp_path / "pool", "a", pairs(5), schema=SCHEMA.remove(2))
    assert run(recipe(tmp_path / "pool"), tmp_path / "run", workers=1).kept == 5
    with pytest.raises(RecipeError, match="reads 'text', which neither the pool nor a step above gives"):
        run(recipe(tmp_path / "pool", "caption_words"), tmp_path / "run", workers=1)


def test_rows_without_url_are_candidates(tmp_path: Path) -> None:
    """DataComp's baselines look at no URL."""
    rows = [{**row, "url": None} for row in pairs(5)]
    write_shard(tmp_path / "pool", "a", rows)
    assert run(recipe(tmp_path / "pool"), tmp_path / "run", workers=1).kept == 5


def test_scores_keep_their_type(tmp_path: Path) -> None:
    """A double is not narrowed: f64(f32(0.7)) < 0.7 although f32(0.7) >= f32(0.7)."""
    wide = SCHEMA.set(6, pa.field("clip_l14_similarity_score", pa.float64()))
    rows = [{**row, "clip_l14_similarity_score": float(np.float32(0.7))} for row in pairs(4)]
    step = {"clip_score": {"column": "clip_l14_similarity_score", "min": 0.7}}
    kept = {}
    for name, schema in {"f32": SCHEMA, "f64": wide}.items():
        write_shard(tmp_path / name, "a", rows, schema=schema)
        kept[name] = run(recipe(tmp_path / name, step), tmp_path / f"run-{name}", workers=1).kept
    assert kept == {"f32": 4, "f64": 0}


def test_npz_is_not_needed_where_no_feature_is_read(tmp_path: Path) -> None:
    """A filter of scores runs without features."""
    pool(tmp_path / "pool")
    next((tmp_path / "pool").glob("*1.npz")).unlink()
    assert run(recipe(tmp_path / "pool"), tmp_path / "run", workers=1).kept == 100


def broken(folder: Path, how: str) -> None:
    """Damage the second file's features."""
    path = folder / f"{1:032x}.npz"
    if how == "missing":
        path.unlink()
    elif how == "rows":
        np.savez(path, **features(39))  # type: ignore[arg-type]
    elif how == "array":
        np.savez(path, b32_img=features(40)["b32_img"])
    elif how == "width":
        np.savez(path, l14_img=np.zeros((40, 13), np.float16))
    elif how == "dtype":
        np.savez(path, l14_img=np.zeros((40, 12), np.float32))
    elif how == "columns":
        np.savez(path, l14_img=np.asfortranarray(features(40)["l14_img"]))
    elif how == "objects":
        np.savez(path, l14_img=np.array([[{}] * 12] * 40, object))
    else:
        path.write_bytes(path.read_bytes()[:200])


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("missing", "1.npz: no such file; fetch the features"),
        ("rows", "1.npz: array 'l14_img' has 39 rows, the Parquet file 40"),
        ("array", "1.npz: no array 'l14_img'"),
        ("width", "1.npz: array 'l14_img' is fixed_size_list"),
        ("dtype", "1.npz: array 'l14_img' is fixed_size_list"),
        ("columns", "1.npz: array 'l14_img' is no table of floats, row by row"),
        ("objects", "1.npz: array 'l14_img' is no table of floats"),
        ("cut", "1.npz: no readable npz archive"),
    ],
)
def test_features_that_do_not_fit_are_named(tmp_path: Path, how: str, said: str) -> None:
    """Before anything runs."""
    pool(tmp_path / "pool")
    broken(tmp_path / "pool", how)
    with pytest.raises(PoolError) as caught:
        run(recipe(tmp_path / "pool", SEE), tmp_path / "run", workers=1)
    assert said in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_damage_within_features_is_named(tmp_path: Path) -> None:
    """Bytes that do not unpack, or not to what was packed: the shard fails, the others are done."""
    pool(tmp_path / "pool", (400, 40))
    path = tmp_path / "pool" / f"{0:032x}.npz"
    content = bytearray(path.read_bytes())
    start = content.index(b"l14_img.npy") + 600
    content[start : start + 300] = bytes(300)
    path.write_bytes(content)
    with pytest.raises(PoolError, match=r"0\.npz: broken archive"):
        run(recipe(tmp_path / "pool", SEE), tmp_path / "run", workers=1)


@pytest.mark.parametrize(
    ("field", "said"),
    [
        (pa.field("uid", pa.binary()), "'uid' is binary, not text"),
        (pa.field("original_width", pa.string()), "'original_width' is string, not an integer"),
        (pa.field("clip_l14_similarity_score", pa.int64()), "'clip_l14_similarity_score' is int64, not a float"),
        (pa.field("text", pa.list_(pa.string())), "'text' is list<"),
    ],
)
def test_columns_of_the_wrong_type_are_named(tmp_path: Path, field: pa.Field, said: str) -> None:
    """With the file."""
    schema = SCHEMA.set(SCHEMA.get_field_index(field.name), field)
    (tmp_path / "pool").mkdir()
    pq.write_table(schema.empty_table(), tmp_path / "pool" / "a.parquet")
    with pytest.raises(PoolError, match=r"a\.parquet") as caught:
        run(recipe(tmp_path / "pool"), tmp_path / "run", workers=1)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s: s.remove(6), "b.parquet: no column 'clip_l14_similarity_score'"),
        (lambda s: s.set(6, pa.field(s.names[6], pa.float64())), "is double, the first file's float"),
    ],
)
def test_files_of_another_schema_are_named(tmp_path: Path, change: Any, said: str) -> None:
    """A column that is not there, or of another type: casting would move explicit thresholds."""
    write_shard(tmp_path / "pool", "a", pairs(5))
    write_shard(tmp_path / "pool", "b", pairs(5, 5), schema=change(SCHEMA))
    with pytest.raises(PoolError) as caught:
        run(recipe(tmp_path / "pool"), tmp_path / "run", workers=1)
    assert said in str(caught.value)


def test_unknown_feature_is_named(tmp_path: Path) -> None:
    """With those that there are."""
    pool(tmp_path / "pool")
    with pytest.raises(PoolError, match=r"no array 'l14_image'; there are: b32_img"):
        run(recipe(tmp_path / "pool", features=["l14_image"]), tmp_path / "run", workers=1)


def test_empty_file_is_no_shard(tmp_path: Path) -> None:
    """And no error."""
    write_shard(tmp_path / "pool", "a", [])
    write_shard(tmp_path / "pool", "b", pairs(3))
    assert run(recipe(tmp_path / "pool"), tmp_path / "run", workers=1).rows == 3


def test_remote_pool(tmp_path: Path) -> None:
    """Metadata and features through fsspec."""
    import fsspec

    pool(tmp_path / "pool")
    memory = fsspec.filesystem("memory")
    memory.put(str(tmp_path / "pool"), "/datacomp-pool", recursive=True)
    made = recipe(tmp_path, SEE)
    made["pool"]["datacomp"]["path"] = "memory://datacomp-pool"
    try:
        assert run(made, tmp_path / "run", workers=1, engine="local").measured == {"Features": 100}
    finally:
        memory.rm("/datacomp-pool", recursive=True)
