"""Pool ``img2dataset``: folders as img2dataset 1.47 writes them, in its three formats."""

import io
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pairsieve.pipelines.pool_img2dataset import Img2dataset
from pairsieve.pipelines.pools import PoolShard, complete
from pairsieve.schemas.errors import PoolError
from pairsieve.schemas.recipe import Img2datasetPool

FORMATS = ("webdataset", "files", "parquet")
STATUS = ["success", "failed_to_download", "success", "failed_to_resize", "success"]
TEXTS = ["zero", "one", None, "three", "four"]


def key(shard: int, row: int) -> str:
    """img2dataset's key for 10,000 samples a shard."""
    return f"{shard:05d}{row:04d}"


def image(shard: int, row: int) -> bytes:
    """What was downloaded."""
    return b"%d/%d" % (shard, row) * 50


def table(shard: int, **columns: Any) -> dict[str, Any]:
    """The Parquet file of a shard, without images."""
    rows = range(len(STATUS))
    width = pa.array([64 if s == "success" else None for s in STATUS], pa.int32())
    return {
        "caption": TEXTS,
        "url": [f"http://{shard}/{i}" for i in rows],
        "key": [key(shard, i) for i in rows],
        "status": STATUS,
        "error_message": [None if s == "success" else "HTTP Error 404" for s in STATUS],
        "width": width,
        "height": width,
        "sha256": pa.array(["0" * 64] * len(STATUS)),
    } | columns


def write(root: Path, kind: str, shard: int = 0, lost: int | None = None, **columns: Any) -> None:
    """A shard in one of the formats; the image of row ``lost`` is missing."""
    found = table(shard, **columns)
    images = [image(shard, i) if s == "success" and i != lost else None for i, s in enumerate(STATUS)]
    name = f"{shard:05d}"
    if kind == "parquet":
        found["jpg"] = pa.array(images, pa.binary())
    elif kind == "files":
        (root / name).mkdir()
        for i, content in enumerate(images):
            if content is not None:
                (root / name / f"{key(shard, i)}.jpg").write_bytes(content)
                (root / name / f"{key(shard, i)}.json").write_text("{}")
    else:
        write_tar(root / f"{name}.tar", shard, images)
    pq.write_table(pa.table({n: v for n, v in found.items() if v is not ...}), root / f"{name}.parquet")
    (root / f"{name}_stats.json").write_text("{}")


def write_tar(path: Path, shard: int, images: list[bytes | None]) -> None:
    """Image, JSON and caption of each success."""
    with tarfile.open(path, "w") as file:
        for i, content in enumerate(images):
            for ending, data in (
                ("jpg", content),
                ("json", json.dumps({"i": i}).encode()),
                ("txt", (TEXTS[i] or "").encode()),
            ):
                if content is not None and data is not None:
                    info = tarfile.TarInfo(f"{key(shard, i)}.{ending}")
                    info.size = len(data)
                    file.addfile(info, io.BytesIO(data))


def pool(root: Path, **options: Any) -> Img2dataset:
    """The pool of a folder."""
    return Img2dataset(Img2datasetPool(path=str(root), **options))


def ingest(made: Img2dataset) -> list[pa.Table]:
    """The shards."""
    return [complete(made.ingest(task), task.index, task.path) for task in made.tasks() or ()]


def images(made: Img2dataset) -> list[bytes | None]:
    """All images, read in two ranges."""
    found: list[bytes | None] = []
    for task, shard in zip(made.tasks() or (), ingest(made), strict=True):
        reader = made.images(PoolShard(task.index, len(shard), task.path, task.groups, "", 0), shard.select)
        assert reader is not None
        found += reader.read(0, 3).to_pylist() + reader.read(3, 5).to_pylist()
        reader.close()
    return found


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_gives_the_same_pairs_and_images(tmp_path: Path, kind: str) -> None:
    """Failed rows stay with img2dataset's status as the reason; captions are kept, also null ones."""
    write(tmp_path, kind)
    write(tmp_path, kind, 1)
    made = pool(tmp_path)
    first, second = ingest(made)
    assert first["reason"].to_pylist() == [None if s == "success" else s for s in STATUS]
    assert first["text"].to_pylist() == TEXTS
    assert second["url"].to_pylist() == [f"http://1/{i}" for i in range(5)]
    assert second["error_message"].to_pylist()[1] == "HTTP Error 404"
    assert made.types()["width"] == pa.int32()
    assert images(made) == [image(s, i) if STATUS[i] == "success" else None for s in (0, 1) for i in range(5)]


@pytest.mark.parametrize("kind", FORMATS)
def test_a_success_without_its_image_is_a_row_with_a_reason(tmp_path: Path, kind: str) -> None:
    """The Parquet file may promise more than there is."""
    write(tmp_path, kind, lost=2)
    (found,) = ingest(pool(tmp_path))
    assert found["reason"].to_pylist() == [None, STATUS[1], "no_image", STATUS[3], None]
    assert images(pool(tmp_path))[2] is None


@pytest.mark.parametrize("kind", FORMATS)
def test_keys_may_have_become_numbers(tmp_path: Path, kind: str) -> None:
    """pandas makes 000010002 to 10002."""
    write(tmp_path, kind, 1, key=pa.array([int(key(1, i)) for i in range(5)]))
    assert images(pool(tmp_path)) == [image(1, i) if STATUS[i] == "success" else None for i in range(5)]


@pytest.mark.parametrize("kind", ["webdataset", "files"])
def test_a_missing_tar_or_folder_is_named(tmp_path: Path, kind: str) -> None:
    """With the two things one can do."""
    write(tmp_path, kind)
    write(tmp_path, "webdataset", 1)
    (tmp_path / "00001.tar").unlink()
    with pytest.raises(PoolError, match=r"00001\.tar is missing beside .*00001\.parquet; download that shard again"):
        pool(tmp_path).identity()


def test_without_a_caption_column_the_tar_has_the_captions(tmp_path: Path) -> None:
    """Only of those that were downloaded; a failed row has none."""
    write(tmp_path, "webdataset", caption=...)
    (found,) = ingest(pool(tmp_path))
    assert found["text"].to_pylist() == ["zero", None, "", None, "four"]


def test_a_caption_column_may_be_named(tmp_path: Path) -> None:
    """``alt`` here; a wrong name is an error."""
    write(tmp_path, "parquet", caption=..., alt=TEXTS)
    assert ingest(pool(tmp_path, caption_col="alt"))[0]["text"].to_pylist() == TEXTS
    with pytest.raises(PoolError, match="no column 'atl'; did you mean 'alt'"):
        pool(tmp_path, caption_col="atl")


def test_datacomps_uids_are_kept(tmp_path: Path) -> None:
    """As an additional column; what is no uid is an ordinary column."""
    uids = [f"{i:032x}" for i in range(5)]
    write(tmp_path, "webdataset", uid=uids)
    assert ingest(pool(tmp_path))[0]["uid"].to_pylist() == uids
    write(tmp_path, "webdataset", uid=list("abcde"))
    assert ingest(pool(tmp_path))[0]["source_uid"].to_pylist() == list("abcde")


def test_a_folder_of_other_parquet_files_is_refused(tmp_path: Path) -> None:
    """Before anything is read."""
    pq.write_table(pa.table({"url": ["u"]}), tmp_path / "x.parquet")
    with pytest.raises(PoolError, match=r"x\.parquet: no column 'key'; is this a folder that img2dataset wrote\?"):
        pool(tmp_path)


def test_a_column_missing_in_a_later_shard_is_named(tmp_path: Path) -> None:
    """Two runs of img2dataset with other settings in one folder."""
    write(tmp_path, "webdataset")
    write(tmp_path, "webdataset", 1, sha256=...)
    with pytest.raises(PoolError, match=r"00001\.parquet: no column 'sha256'"):
        ingest(pool(tmp_path))


@pytest.mark.parametrize("kind", FORMATS)
def test_a_changed_image_changes_the_pool(tmp_path: Path, kind: str) -> None:
    """Its identity covers the media, not only the Parquet files; nothing else changes it."""
    write(tmp_path, kind)
    before = pool(tmp_path).identity()
    (tmp_path / "00000_stats.json").write_text("other")
    assert pool(tmp_path).identity() == before
    changed = {"webdataset": "00000.tar", "files": "00000/000000000.jpg", "parquet": "00000.parquet"}[kind]
    os.utime(tmp_path / changed, ns=(1, 1))
    assert pool(tmp_path).identity() != before
