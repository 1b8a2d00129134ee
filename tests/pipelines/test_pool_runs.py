"""Every kind of pool through a whole run: each pair has a verdict, each image arrives as it was."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pairsieve.pipelines.run import Result, run

SIDES = [(300, 260), (90, 300), (260, 300), (400, 400), (240, 250), (300, 300)]
TEXTS = ["a photo of one", "far too narrow image", "one", "", None, "six and a half words, no image"]
KEPT = ["a photo of one"]


def photo(width: int, height: int) -> bytes:
    """A JPEG of noise, so that no two are alike."""
    out = io.BytesIO()
    pixels = np.random.default_rng(width * height).integers(0, 255, (height // 10, width // 10, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((width, height)).save(out, "JPEG")
    return out.getvalue()


PHOTOS = [photo(*side) for side in SIDES[:-1]] + [None]


def write_pairs(root: Path) -> dict[str, Any]:
    """Parquet in three row groups."""
    pq.write_table(pa.table({"image": PHOTOS, "text": TEXTS}), root / "x.parquet", row_group_size=2)
    return {"pairs": {"path": str(root), "shard_rows": 3}}


def write_members(path: Path, with_text: bool) -> None:
    """A tar of the images (and captions) that there are."""
    with tarfile.open(path, "w") as file:
        for i, (image, text) in enumerate(zip(PHOTOS, TEXTS, strict=True)):
            for ending, data in (("jpg", image), ("txt", None if text is None or not with_text else text.encode())):
                if data is not None:
                    info = tarfile.TarInfo(f"00000{i:04d}.{ending}")
                    info.size = len(data)
                    file.addfile(info, io.BytesIO(data))


def write_webdataset(root: Path) -> dict[str, Any]:
    """One tar."""
    write_members(root / "x.tar", True)
    return {"webdataset": {"path": f"{root}/*.tar"}}


def write_img2dataset(root: Path) -> dict[str, Any]:
    """A tar and its Parquet file; the last row says success, though there is no image."""
    keys = [f"00000{i:04d}" for i in range(len(TEXTS))]
    write_members(root / "00000.tar", False)
    columns = {"url": keys, "caption": TEXTS, "key": keys, "status": ["success"] * len(keys)}
    pq.write_table(pa.table(columns), root / "00000.parquet")
    return {"img2dataset": str(root)}


def go(root: Path, pool: dict[str, Any], *filters: dict[str, Any]) -> Result:
    """A run in this process."""
    recipe = {"pool": pool, "filters": list(filters), "output": {"dataset": {}}}
    return run(recipe, root / "run", engine="local", workers=1)


def dataset(result: Result) -> list[dict[str, Any]]:
    """The training pairs."""
    return [row for f in sorted(Path(result.root, "dataset").glob("*.parquet")) for row in pq.read_table(f).to_pylist()]


@pytest.mark.parametrize("write", [write_pairs, write_webdataset, write_img2dataset])
def test_images_in_place_arrive_unchanged_in_the_dataset(tmp_path: Path, write: Any) -> None:
    """And every other pair has its step and reason."""
    (tmp_path / "in").mkdir()
    result = go(tmp_path, write(tmp_path / "in"), {"caption_words": {"least": 2}}, {"image_shape": {}})
    assert result.rows == len(TEXTS)
    found = dataset(result)
    assert [row["text"] for row in found] == KEPT
    assert [row["image"] for row in found] == [PHOTOS[0]]
    assert sum(result.tally.dropped.values()) == len(TEXTS) - len(KEPT)
    assert result.tally.dropped[("pool", "no_image")] == 1
    assert result.tally.dropped[("image_shape", "too_small")] == 1


@pytest.mark.parametrize("write", [write_pairs, write_webdataset, write_img2dataset])
def test_without_filters_all_images_arrive_once(tmp_path: Path, write: Any) -> None:
    """In the order of a hash, so compared as a set; also those with no caption."""
    (tmp_path / "in").mkdir()
    result = go(tmp_path, write(tmp_path / "in"))
    assert sorted(row["image"] for row in dataset(result)) == sorted(p for p in PHOTOS if p is not None)


def test_a_list_of_urls_runs_without_images(tmp_path: Path) -> None:
    """Broken lines and rows without a URL are dropped by the pool, with their reasons."""
    lines = [json.dumps({"url": f"http://x/{i}", "text": t}) for i, t in enumerate(TEXTS)]
    (tmp_path / "in.jsonl").write_text("\n".join([*lines, '{"url":', '{"text": "no url at all"}']))
    result = go(
        tmp_path, {"urls": {"path": str(tmp_path / "in.jsonl"), "shard_rows": 3}}, {"caption_words": {"least": 2}}
    )
    assert sorted(row["text"] for row in dataset(result)) == sorted(t for t in TEXTS if t and " " in t)
    dropped = {key: n for key, n in result.tally.dropped.items() if key[0] == "pool"}
    assert dropped == {("pool", "bad_line"): 1, ("pool", "no_url"): 1}
    assert (result.rows, result.kept + sum(result.tally.dropped.values())) == (len(TEXTS) + 2, len(TEXTS) + 2)
