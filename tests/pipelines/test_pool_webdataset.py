"""Pool ``webdataset``: samples become pairs, images are read where they lie."""

import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pytest

from pairsieve.pipelines.pool_webdataset import Webdataset
from pairsieve.pipelines.pools import PoolShard, complete
from pairsieve.schemas.errors import PoolError
from pairsieve.schemas.recipe import WebdatasetPool

HEX = "139e4a9b22a614771f06c700a8ebe150"


def tar(members: Sequence[tuple[str, bytes]]) -> bytes:
    """A tar of regular files."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as file:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    return out.getvalue()


def fields(**values: Any) -> bytes:
    """A JSON member."""
    return json.dumps(values).encode()


def pool(path: object, **options: Any) -> Webdataset:
    """The pool of a path."""
    return Webdataset(WebdatasetPool(path=str(path), **options))


def ingest(made: Webdataset) -> pa.Table:
    """All rows."""
    return pa.concat_tables([complete(made.ingest(t), t.index, t.path) for t in made.tasks() or ()])


def one(folder: Path, *members: tuple[str, bytes], **options: Any) -> list[dict[str, Any]]:
    """The rows of one tar."""
    (folder / "x.tar").write_bytes(tar(members))
    return list(ingest(pool(folder / "x.tar", **options)).to_pylist())


def test_captions_come_from_txt_else_from_json(tmp_path: Path) -> None:
    """An empty txt is a caption; a list or a boolean in the JSON is none."""
    found = one(
        tmp_path,
        *[("a.jpg", b"x"), ("a.txt", b"txt"), ("a.json", fields(caption="json"))],
        *[("b.jpg", b"x"), ("b.json", fields(caption="", text="second"))],
        *[("c.jpg", b"x"), ("c.txt", b""), ("c.json", fields(caption="json"))],
        *[("d.jpg", b"x"), ("d.json", fields(caption=["x"], text=5))],
        *[("f.jpg", b"x"), ("f.json", fields(caption=True, text={"a": 1}))],
        ("e.jpg", b"x"),
    )
    assert [r["text"] for r in found] == ["txt", "second", "", "5", None, None]
    assert [r["reason"] for r in found] == [None] * 6


def test_a_sample_without_an_image_is_a_row_with_a_reason(tmp_path: Path) -> None:
    """Caption alone, or an image of an ending that is not asked for."""
    found = one(tmp_path, ("a.txt", b"t"), ("b.tiff", b"x"), ("c.webp", b"x"))
    assert [(r["key"], r["reason"]) for r in found] == [("a", "no_image"), ("b", "no_image"), ("c", None)]


def test_endings_may_be_written_with_a_dot_and_in_any_case(tmp_path: Path) -> None:
    """As people write them."""
    found = one(tmp_path, ("a.tiff", b"x"), ("a.cap", b"t"), image_ext=(".TIFF",), text_ext=".CAP")
    assert [(r["text"], r["reason"]) for r in found] == [("t", None)]


def test_uid_and_url_come_from_json(tmp_path: Path) -> None:
    """DataComp's shards hold both."""
    (row,) = one(tmp_path, ("a.jpg", b"x"), ("a.json", fields(uid=HEX, url="http://x", width=5)))
    assert (row["uid"], row["url"], json.loads(row["json"])["width"]) == (HEX, "http://x", 5)


@pytest.mark.parametrize("second", [fields(uid="short"), fields(uid=5), b"{", fields()])
def test_uids_that_not_all_samples_have_are_not_used(tmp_path: Path, second: bytes) -> None:
    """One rule for a whole tar."""
    found = one(tmp_path, ("a.jpg", b"x"), ("a.json", fields(uid=HEX)), ("b.jpg", b"x"), ("b.json", second))
    assert len({r["uid"] for r in found} - {HEX}) == 2


def test_without_a_url_tar_and_key_tell_pairs_apart(tmp_path: Path) -> None:
    """The same caption twice is two pairs; in the same tar elsewhere it is the same pair."""
    first = one(tmp_path, ("a.jpg", b"x"), ("b.jpg", b"x"))
    (tmp_path / "moved").mkdir()
    assert first[0]["uid"] != first[1]["uid"]
    assert [r["uid"] for r in one(tmp_path / "moved", ("a.jpg", b"y"), ("b.jpg", b"y"))] == [r["uid"] for r in first]


def test_text_that_is_no_utf8_is_replaced(tmp_path: Path) -> None:
    """In the caption, in the JSON, and as half a surrogate pair."""
    found = one(tmp_path, ("a.txt", b"\xff"), ("b.json", b'{"caption": "\\ud800", "url": "\\udfff"}'))
    assert [(r["text"], r["url"]) for r in found] == [("�", None), ("?", "?")]


@pytest.mark.parametrize("where", ["file", "memory"])
def test_images_come_back_as_they_are(tmp_path: Path, where: str) -> None:
    """Any range, locally and from an object store; an empty image is empty, a missing one null."""
    content = [b"one" * 999, None, b"", b"four"]
    members = [(f"{i}.jpg" if c is not None else f"{i}.txt", c or b"") for i, c in enumerate(content)]
    root = f"memory://wds{tmp_path.name}" if where == "memory" else str(tmp_path)
    with fsspec.open(f"{root}/x.tar", "wb") as file:
        file.write(tar(members))
    made = pool(f"{root}/x.tar")
    (task,) = list(made.tasks() or [])
    table = made.ingest(task)
    reader = made.images(PoolShard(0, 4, task.path, (), "", 0), table.select)
    assert reader is not None
    assert reader.read(0, 2).to_pylist() + reader.read(2, 2).to_pylist() + reader.read(2, 4).to_pylist() == content


def test_every_tar_is_a_shard(tmp_path: Path) -> None:
    """In the order of their names, an empty one too."""
    for name, members in [("b.tar", [("x.jpg", b"")]), ("a.tar", []), ("c.tar", [("y.jpg", b""), ("z.jpg", b"")])]:
        (tmp_path / name).write_bytes(tar(members))
    found = ingest(pool(tmp_path))
    assert [(r["shard"], r["row"], r["key"]) for r in found.to_pylist()] == [(1, 0, "x"), (2, 0, "y"), (2, 1, "z")]


def test_a_packed_tar_is_refused(tmp_path: Path) -> None:
    """It cannot be read in place."""
    (tmp_path / "x.tar.gz").write_bytes(b"")
    with pytest.raises(PoolError, match=r"x\.tar\.gz: only plain \.tar files can be read in place; unpack"):
        pool(tmp_path / "*")


def test_a_cut_tar_is_named(tmp_path: Path) -> None:
    """And what to do about it."""
    (tmp_path / "x.tar").write_bytes(tar([("a.jpg", b"x" * 5000)])[:3000])
    with pytest.raises(PoolError, match=r"x\.tar: broken tar: .*; fetch it again, or leave it out"):
        ingest(pool(tmp_path))
