"""What several tests share: small pools on disk, and runs compared byte by byte."""

import csv
import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

FOLDERS = ("scores", "verdicts", "dataset", "derived")


def write_csv(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    """A csv file with the columns of the first row."""
    rows = list(rows)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def numbered_rows(count: int) -> list[dict[str, Any]]:
    """Distinct pairs with a score column that has ties."""
    texts = [f"a picture of thing number {i}" if i % 5 else "x" for i in range(count)]
    return [{"url": f"http://e.org/{i}.jpg", "text": texts[i], "score": (i * 7919 % 1000) / 1000} for i in range(count)]


def recipe(pool: Path | str, *filters: Any, **rest: Any) -> dict[str, Any]:
    """A recipe over a list of URLs, in shards of 100 pairs."""
    return {"pool": {"urls": {"path": str(pool), "shard_rows": 100}}, "filters": list(filters), **rest}


def digests(run: Path) -> dict[str, str]:
    """SHA-256 of every output file of a run, by its path within the run."""
    files = [p for folder in FOLDERS for p in (run / folder).rglob("*") if p.is_file()]
    files += sorted(run.glob("*.npy"))
    return {str(p.relative_to(run)): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(files)}


def kept_texts(result: Any) -> list[str]:
    """Captions of the kept pairs, sorted."""
    table = result.query("SELECT text FROM scores WHERE dropped_by IS NULL ORDER BY text")
    return [str(text) for text in table["text"].to_pylist()]
