"""Runs with a download step over ``support_web``: recipes, score files, and a process that is killed on the way."""

import csv
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq


def url_list(folder: Path, urls: Sequence[str]) -> Path:
    """A list of URLs with captions."""
    file = folder / "list.csv"
    with file.open("w", newline="") as out:
        rows = csv.writer(out)
        rows.writerow(["url", "text"])
        rows.writerows([url, f"caption number {i}"] for i, url in enumerate(urls))
    return file


def recipe(file: Path, shard_rows: int, more: Sequence[dict[str, Any]] = (), **settings: Any) -> dict[str, Any]:
    """A recipe that downloads a list."""
    download = {"allow_addresses": ["127.0.0.0/8"], "image_size": 32, **settings}
    return {
        "pool": {"urls": {"path": str(file), "shard_rows": shard_rows}},
        "filters": [{"download": download}, *more],
        "output": {"dataset": True, "subset": "kept.npy"},
    }


def files(run: Path, folder: str = "scores/download") -> dict[str, str]:
    """SHA-256 of the files of a folder of a run."""
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted((run / folder).glob("*.parquet"))}


def scores(run: Path, step: str = "download") -> list[dict[str, Any]]:
    """All rows of a step's scores, by their place; each place once."""
    rows = [row for p in sorted((run / "scores" / step).glob("*.parquet")) for row in pq.read_table(p).to_pylist()]
    rows.sort(key=lambda row: (row["shard"], row["row"]))
    places = [(row["shard"], row["row"]) for row in rows]
    assert len(set(places)) == len(places)
    return rows


def killed(data: dict[str, Any], out: Path, when: Callable[[], bool]) -> bool:
    """Run a recipe in a process and kill it with its workers once something is so; false if it ended before."""
    file = out.parent / "killed.json"
    file.write_text(json.dumps(data))
    command = [sys.executable, "-m", "pairsieve", "run", str(file), "--out", str(out), "-q", "--workers", "2"]
    process = subprocess.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        while process.poll() is None and not when():
            time.sleep(0.01)
        return process.poll() is None
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
