"""Pool ``pairs``: images in Parquet, whatever they are stored as, read forward and never copied."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pairsieve.pipelines.in_place import runs
from pairsieve.pipelines.pool_pairs import Pairs, ParquetImages
from pairsieve.pipelines.pools import PoolShard, complete
from pairsieve.pipelines.store import filesystem
from pairsieve.schemas.errors import PoolError
from pairsieve.schemas.recipe import PairsPool

IMAGES = [b"one", None, b"", b"four" * 1000, b"five"]
STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def pool(path: object, **options: Any) -> Pairs:
    """The pool of a path."""
    return Pairs(PairsPool(path=str(path), **options))


def ingest(made: Pairs) -> list[dict[str, Any]]:
    """All rows of all shards."""
    return [row for t in made.tasks() or () for row in complete(made.ingest(t), t.index, t.path).to_pylist()]


def images(made: Pairs) -> list[bytes | None]:
    """All images of all shards."""
    found: list[bytes | None] = []
    for task in made.tasks() or ():
        rows = made.ingest(task).num_rows
        reader = made.images(PoolShard(task.index, rows, task.path, task.groups, "", 0), lambda names: pa.table({}))
        assert reader is not None
        found += reader.read(0, rows).to_pylist()
        reader.close()
    return found


def stored(kind: pa.DataType) -> pa.Array:
    """IMAGES as a column of a type."""
    if pa.types.is_struct(kind):
        return pa.array(
            [{"bytes": None, "path": "p"} if i is None else {"bytes": i, "path": "p"} for i in IMAGES], kind
        )
    return pa.array(IMAGES, kind)


def write(path: Path, rows: int, group: int, **columns: Any) -> Path:
    """A Parquet file with ``rows`` numbered images."""
    table = {"image": [b"%d" % i for i in range(rows)], "text": [f"t{i}" for i in range(rows)]} | columns
    pq.write_table(pa.table(table), path, row_group_size=group)
    return path


@pytest.mark.parametrize("statistics", [True, False])
@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), pa.binary_view(), STRUCT], ids=str)
def test_images_come_back_as_they_are(tmp_path: Path, kind: pa.DataType, statistics: bool) -> None:
    """Plain, large, and as Hugging Face writes them; a null image is a row with a reason."""
    path = tmp_path / "x.parquet"
    pq.write_table(
        pa.table({"image": stored(kind), "text": list("abcde")}), path, row_group_size=2, write_statistics=statistics
    )
    made = pool(path)
    assert made.types() == {"url": pa.string(), "text": pa.string(), "image": pa.binary()}
    assert images(made) == IMAGES
    assert [r["reason"] for r in ingest(made)] == [None, "no_image", None, None, None]


def test_a_null_struct_is_a_null_image(tmp_path: Path) -> None:
    """Not only its bytes may be missing."""
    path = tmp_path / "x.parquet"
    pq.write_table(
        pa.table({"image": pa.array([None, {"bytes": b"x", "path": None}], STRUCT), "text": ["a", "b"]}), path
    )
    assert [r["reason"] for r in ingest(pool(path))] == ["no_image", None]


@settings(deadline=None)
@given(st.lists(st.integers(0, 40), max_size=20), st.integers(1, 60))
def test_shards_are_whole_row_groups_in_order(sizes: list[int], rows: int) -> None:
    """Every group once; every shard but the last has at least ``rows`` rows, and none a group too many."""
    found = list(runs(sizes, rows))
    assert [g for run in found for g in run] == list(range(len(sizes)))
    assert all(sum(sizes[g] for g in run) >= rows for run in found[:-1])
    assert all(sum(sizes[g] for g in run[:-1]) < rows for run in found)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 60), max_size=12), st.integers(1, 9), st.sets(st.integers(0, 6), min_size=1))
def test_any_growing_ranges_give_the_same_as_slicing(
    tmp_path_factory: pytest.TempPathFactory, cuts: list[int], rows: int, chosen: set[int]
) -> None:
    """Whatever is skipped, within a row group or over several."""
    path = tmp_path_factory.getbasetemp() / "growing.parquet"
    if not path.exists():
        write(path, 60, 9)
    groups = sorted(chosen)
    expected = [b"%d" % i for g in groups for i in range(9 * g, min(9 * g + 9, 60))]
    reader = ParquetImages(filesystem("file://")[0], str(path), groups, "image", rows)
    edges = sorted(min(c, len(expected)) for c in cuts)
    for start, stop in zip(edges[::2], edges[1::2], strict=False):
        assert reader.read(start, stop).to_pylist() == expected[start:stop]
    reader.close()


def test_skipped_images_are_not_held(tmp_path: Path) -> None:
    """A reader that jumps to the end of one large row group holds a batch, not the group."""
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"image": [bytes(10_000)] * 2000}), path)
    reader = ParquetImages(filesystem("file://")[0], str(path), [0], "image", 50)
    before = pa.total_allocated_bytes()
    assert len(reader.read(1990, 2000)) == 10
    assert sum(len(held) for held in reader._held) <= 50
    assert pa.total_allocated_bytes() - before < 15_000_000
    reader.close()


def test_several_files_and_shards(tmp_path: Path) -> None:
    """Shards do not cross files; rows are numbered within their shard."""
    write(tmp_path / "a.parquet", 10, 4)
    write(tmp_path / "b.parquet", 3, 4)
    made = pool(tmp_path, shard_rows=5)
    assert [t.groups for t in made.tasks() or ()] == [(0, 1), (2,), (0,)]
    assert [(r["shard"], r["row"], r["text"]) for r in ingest(made)][7:11] == [
        (0, 7, "t7"),
        (1, 0, "t8"),
        (1, 1, "t9"),
        (2, 0, "t0"),
    ]


def test_heavy_columns_stay_behind_and_light_ones_keep_their_type(tmp_path: Path) -> None:
    """Embeddings are not copied into the run; a reserved name gets its prefix."""
    path = write(tmp_path / "x.parquet", 2, 2, emb=[[0.5], [0.5]], width=pa.array([1, 2], pa.int16()), row=[7, 8])
    made = pool(path)
    assert list(made.types()) == ["url", "text", "image", "width", "source_row"]
    assert [(r["width"], r["source_row"], r["row"]) for r in ingest(made)] == [(1, 7, 0), (2, 8, 1)]


def test_ready_uids_are_kept_or_are_an_ordinary_column(tmp_path: Path) -> None:
    """Also where they are stored as large strings."""
    uids = [f"{i:032x}" for i in range(2)]
    path = write(tmp_path / "x.parquet", 2, 2, uid=pa.array(uids, pa.large_string()))
    assert [r["uid"] for r in ingest(pool(path))] == uids
    path = write(tmp_path / "x.parquet", 2, 2, uid=["a", "b"])
    assert [r["source_uid"] for r in ingest(pool(path))] == ["a", "b"]
    with pytest.raises(PoolError, match="uid 'a' is not 32"):
        ingest(pool(path, uid_col="uid"))


@pytest.mark.parametrize("lost", ["image", "text", "w"])
def test_a_column_missing_in_a_later_file_is_named(tmp_path: Path, lost: str) -> None:
    """The first file says what the pool has."""
    write(tmp_path / "a.parquet", 2, 2, w=[1, 2])
    path = write(tmp_path / "b.parquet", 2, 2, w=[1, 2])
    pq.write_table(pq.read_table(path).drop_columns([lost]), path)
    with pytest.raises(PoolError, match=f"b.parquet: no column '{lost}', which the first file of the pool has"):
        ingest(pool(tmp_path))


def test_later_files_take_the_types_of_the_first(tmp_path: Path) -> None:
    """int32 beside int64 is one column; words beside numbers are an error."""
    write(tmp_path / "a.parquet", 1, 2, w=pa.array([1], pa.int64()))
    write(tmp_path / "b.parquet", 1, 2, w=pa.array([2], pa.int32()))
    made = pool(tmp_path)
    assert {made.ingest(t)["w"].type for t in made.tasks() or ()} == {pa.int64()}
    write(tmp_path / "b.parquet", 1, 2, w=["x"])
    with pytest.raises(PoolError, match=r"b.parquet: column 'w' does not fit the first file's int64"):
        ingest(pool(tmp_path))


def test_a_column_of_names_is_not_images(tmp_path: Path) -> None:
    """A list of URLs or paths is another kind of pool."""
    path = write(tmp_path / "x.parquet", 1, 1, image=["http://x"])
    with pytest.raises(
        PoolError, match="column 'image' holds string, not image bytes; set image_col, or use pool urls"
    ):
        pool(path).types()


def test_a_missing_image_column_is_named(tmp_path: Path) -> None:
    """With the nearest name."""
    path = write(tmp_path / "x.parquet", 1, 1)
    with pytest.raises(PoolError, match=r"no column 'imge'; did you mean 'image'\? set image_col"):
        pool(path, image_col="imge").types()


@pytest.mark.parametrize("which", ["a.parquet", "b.parquet"])
def test_a_cut_file_is_named(tmp_path: Path, which: str) -> None:
    """The first and any other."""
    for name in ("a.parquet", "b.parquet"):
        write(tmp_path / name, 500, 100)
    path = tmp_path / which
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(PoolError, match=f"{which}: no readable Parquet file: .*; fetch it again"):
        ingest(pool(tmp_path))


def test_broken_image_pages_are_named_when_they_are_read(tmp_path: Path) -> None:
    """Light columns may be whole where images are not."""
    path = tmp_path / "x.parquet"
    table = pa.table({"image": [b"%d" % i * 50 for i in range(3000)], "text": ["t"] * 3000})
    pq.write_table(table, path, compression="zstd")
    data = path.read_bytes()
    path.write_bytes(data[:100] + b"\xff" * 3000 + data[3100:])
    made = pool(path)
    assert len(ingest(made)) == 3000
    with pytest.raises(PoolError, match=r"x.parquet: broken Parquet file: .*; fetch it again"):
        images(made)
