"""Pools with DataComp's schema: metadata Parquet files with an npz of features beside each."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

SCHEMA = pa.schema(
    [
        ("uid", pa.string()),
        ("url", pa.string()),
        ("text", pa.string()),
        ("original_width", pa.int64()),
        ("original_height", pa.int64()),
        ("clip_b32_similarity_score", pa.float32()),
        ("clip_l14_similarity_score", pa.float32()),
        ("face_bboxes", pa.list_(pa.list_(pa.float64()))),
        ("sha256", pa.string()),
    ]
)
WIDTHS = {"b32_img": 8, "b32_txt": 8, "l14_img": 12, "l14_txt": 12, "dedup": 4}


def uid_of(number: int) -> str:
    """A uid, of which half are at least 2^63."""
    return hashlib.md5(str(number).encode()).hexdigest()


def pairs(count: int, first: int = 0) -> list[dict[str, Any]]:
    """Numbered pairs with everything a baseline looks at."""
    return [
        {
            "uid": uid_of(i),
            "url": f"http://example.org/{i}.jpg",
            "text": f"a photo of dog number {i}",
            "original_width": 300 + i % 50,
            "original_height": 250,
            "clip_b32_similarity_score": (i * 37 % 100) / 100,
            "clip_l14_similarity_score": (i * 61 % 100) / 100,
            "face_bboxes": [],
            "sha256": None,
        }
        for i in range(first, first + count)
    ]


def features(count: int, seed: int = 0) -> dict[str, np.ndarray[Any, np.dtype[np.float16]]]:
    """Unit vectors of every kind, in half precision."""
    rng = np.random.default_rng(seed)
    found = {}
    for name, width in WIDTHS.items():
        made = rng.standard_normal((count, width))
        found[name] = (made / np.linalg.norm(made, axis=1, keepdims=True)).astype(np.float16)
    return found


def write_shard(
    folder: Path,
    name: str,
    rows: Sequence[Mapping[str, Any]],
    arrays: Mapping[str, Any] | None = None,
    *,
    schema: pa.Schema = SCHEMA,
    group: int | None = None,
    compressed: bool = True,
) -> Path:
    """One metadata file, with its npz where there are arrays."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.parquet"
    pq.write_table(pa.Table.from_pylist([dict(r) for r in rows], schema), path, row_group_size=group or len(rows) or 1)
    if arrays is not None:
        (np.savez_compressed if compressed else np.savez)(path.with_suffix(".npz"), **arrays)
    return path


def pool(folder: Path, counts: Sequence[int] = (60, 40), *, with_features: bool = True) -> Path:
    """Several metadata files."""
    first = 0
    for number, count in enumerate(counts):
        arrays = features(count, number) if with_features else None
        write_shard(folder, f"{number:032x}", pairs(count, first), arrays)
        first += count
    return folder


def recipe(path: Path, *steps: Any, output: Mapping[str, Any] | None = None, **settings: Any) -> dict[str, Any]:
    """A recipe over such a pool that writes a subset only."""
    spec = {"path": str(path), **settings}
    return {"pool": {"datacomp": spec}, "filters": list(steps), "output": output or {"subset": "subset.npy"}}


def subset(run: Path, name: str = "subset.npy") -> list[tuple[int, int]]:
    """The records of a subset file."""
    return [(int(a), int(b)) for a, b in np.load(run / name)]
