"""Small pools of every kind that holds images, all of the same pairs: one image is too narrow, one is missing."""

import io
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

SIDES = [(300, 260), (90, 300), (260, 300), (400, 400), (240, 250), (300, 300)]
TEXTS = ["a photo of one", "far too narrow image", "one", "", None, "six and a half words, no image"]


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
