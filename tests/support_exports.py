"""Small finished runs to export: pictures in the formats of the web, captions of every kind."""

import hashlib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from pairsieve.pipelines.run import run

ENDINGS = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP"}


def picture(number: int, kind: str = "JPEG", side: int = 24) -> bytes:
    """Noise that no other number has."""
    out = io.BytesIO()
    pixels = np.random.default_rng(number).integers(0, 255, (side, side, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(out, kind)
    return out.getvalue()


def pictures(count: int) -> list[bytes | None]:
    """JPEG, PNG and WebP by turns."""
    kinds = list(ENDINGS.values())
    return [picture(number, kinds[number % 3]) for number in range(count)]


def make_run(
    root: Path,
    images: Sequence[bytes | None] | None,
    texts: Sequence[Any],
    filters: Sequence[Any] = (),
    extra: Mapping[str, Any] | None = None,
    **output: Any,
) -> Path:
    """A finished run over pairs of these images (or none), texts, columns; ``output`` are settings of its dataset."""
    found: dict[str, Any] = {"image": pa.array(images, pa.binary())} if images is not None else {}
    found |= {"text": pa.array(texts, pa.string())} | dict(extra or {})
    root.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(found), root / "pool.parquet", row_group_size=40)
    kind = "pairs" if images is not None else "urls"
    pool: dict[str, Any] = {"path": str(root / "pool.parquet"), "shard_rows": 40}
    if extra:
        pool["columns"] = [name for name in extra if name not in ("uid", "url")]  # lists too
    recipe = {"pool": {kind: pool}, "filters": list(filters), "output": {"dataset": output or {"rows_per_file": 30}}}
    run(recipe, root / "run", workers=1, engine="local")
    return root / "run"


def numbered(root: Path, count: int = 100, **rest: Any) -> Path:
    """A run of so many pairs with captions ``thing 0`` and so on, in files of 30."""
    return make_run(root, pictures(count), [f"thing {number}" for number in range(count)], **rest)


def dataset_rows(root: Path) -> list[dict[str, Any]]:
    """The rows of a run's dataset in order."""
    files = sorted((root / "dataset").glob("*.parquet"))
    return [row for file in files for row in pq.read_table(file).to_pylist()]


def digests(out: Path) -> dict[str, str]:
    """Every file of an export but its locks."""
    found = [path for path in out.rglob("*") if path.is_file() and path.name not in (".lock", ".workers")]
    return {str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(found)}
