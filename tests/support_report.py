"""A run to report on: pictures, broken ones too, hostile captions and URLs, duplicates, scores with ties and gaps."""

import io
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from pairsieve.pipelines.run import run
from pairsieve.pipelines.runner import Result

ROWS = 240
SCRIPT = "<script>document.title = 'hacked'</script>"
HOSTILE_TEXTS = (
    f"{SCRIPT} a picture of a cat",
    "</style><img src=x onerror=\"document.title='hacked'\"> words",
    "</script></title></textarea>--> and <!-- on",
    "\u202eright to left override\u202c and \u2066isolates\u2069 too",
    "عربي ومعه a mixed caption مع كلمات",
    "x" * 100_000 + " end of it",
    "👩‍👩‍👧‍👦 family 🏳️‍🌈 flag 🇳🇱 of emoji",
    "nul \x00 escape \x1b[31m bell \x07 delete \x7f here",
    "{{ 7 * 7 }} {% raw %} ${1+1} #{2} templates",
    "one\nline\r\nafter\tanother \u2028 of them",
    "&lt;b&gt; &amp; &quot; entities &#x27;",
    "",
)
HOSTILE_URLS = (
    "javascript:document.title='hacked'",
    "data:text/html,<script>document.title='hacked'</script>",
    'http://e.org/"onmouseover="document.title=1',
    "http://e.org/'><svg onload=document.title=1>.jpg",
    "http://e.org/" + "a" * 100_000,
    "http://user:secret@host.example:8080/x.jpg",
    "file:///etc/passwd",
)
HOSTILE_COLUMN = "\"><script>document.title='hacked'</script> {{ 7 * 7 }}"


@cache
def picture(seed: int, side: int = 40) -> bytes:
    """A small JPEG of noise."""
    out = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 255, (side, side + 20, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(out, "JPEG")
    return out.getvalue()


def bomb() -> bytes:
    """A PNG whose header claims 60,000 by 60,000 pixels."""
    out = io.BytesIO()
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(out, "PNG")
    data = bytearray(out.getvalue())
    data[16:24] = (60_000).to_bytes(4, "big") * 2
    return bytes(data)


def image(row: int) -> bytes | None:
    """Of a row of the pool: one in ten is no good."""
    broken = {3: picture(3)[:300], 13: b"<html>no picture</html>", 23: bomb(), 33: b"", 43: None}
    return broken[row] if row in broken else picture(row % 40)


def table(rows: int = ROWS) -> pa.Table:
    """Pairs with scores: ties, NaN and nulls among them; every eighth caption is the one before."""
    number = np.arange(rows)
    score = ((number * 7919 % 1000) / 1000).astype(np.float32)
    score[number % 29 == 5] = np.nan
    texts = [f"a picture of thing number {i - (i % 8 == 7)}" for i in range(rows)]
    texts[: len(HOSTILE_TEXTS)] = HOSTILE_TEXTS[:rows]
    urls = [f"https://host{i % 7}.example/{i}.jpg" for i in range(rows)]
    urls[: len(HOSTILE_URLS)] = HOSTILE_URLS[:rows]
    return pa.table(
        {
            "uid": [f"{i * 2654435761 % 2**32:032x}" for i in range(rows)],
            "image": pa.array([image(i) for i in range(rows)], pa.binary()),
            "url": urls[:rows],
            "text": texts[:rows],
            "score": pa.array(score, mask=number % 31 == 6),
            "width": pa.array(200 + 10 * (number % 50), pa.int32()),
            "height": pa.array(300 + 7 * (number % 30), pa.int32()),
            "lang": [("en", "de", "zh")[i % 3] for i in range(rows)],
            "is_ad": [i % 11 == 0 for i in range(rows)],
            HOSTILE_COLUMN: number * 0.5,
        }
    )


STEPS: tuple[Any, ...] = (
    {"caption_words": {"least": 3, "of": "pool"}},
    {"image_shape": {"shortest": 300, "aspect": 1.5}},
    {"exact_duplicates": {"by": "text"}},
    {"clip_score": {"column": "score", "top": 0.6}},
    {"where": "score < 0.95 AND lang <> 'zh'"},
    {"random_sample": {"fraction": 0.8}},
)


def curate(folder: Path, *steps: Any, rows: int = ROWS, root: str | None = None) -> Result:
    """Run some steps over the pool of a folder, which is made where it is not there yet; the run is ``folder/run``."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "pool.parquet").exists():
        pq.write_table(table(rows), folder / "pool.parquet", row_group_size=60)
    columns = ["url", "score", "width", "height", "lang", "is_ad", HOSTILE_COLUMN]
    spec = {"path": str(folder / "pool.parquet"), "columns": columns, "shard_rows": 60}
    recipe = {"pool": {"pairs": spec}, "filters": list(steps), "output": {"subset": "subset.npy"}}
    return run(recipe, root or folder / "run", engine="local", workers=1)
