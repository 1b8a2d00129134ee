"""A long download from a hostile server, killed and resumed: success rate, wall time, memory, rows lost or doubled.

    python -m tests.benchmarks.download_soak [urls] [kills]

Of the URLs 60 % are good; the others are gone, reset, redirect for ever, announce more than they send, send a gzip
bomb, fail, or (3 in 100) drip, hang and stream without an end.  The run is killed with SIGKILL, workers and all,
after equal shares of its shards; memory is the largest resident set of any of its processes.
"""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import duckdb

from tests.support_downloads import recipe, url_list
from tests.support_web import serving

BAD = (
    *["/status/404/{}"] * 10,
    *["/status/503/{}"] * 7,
    *["/reset/{}"] * 7,
    *["/loop/{}"] * 4,
    *["/short/{}"] * 5,
    *["/gzip/{}"] * 4,
    *["/drip/{}", "/hang/{}", "/endless/{}"],
)
"""Forty paths, of a hundred."""
SHARD = 10_000
LIMIT: dict[str, Any] = {"timeout": 6, "patience": 2, "low_speed_time": 3, "max_bytes": 1_000_000}
LIMIT |= {"host_concurrency": 256}


def path(i: int) -> str:
    """The page of a URL."""
    place = i * 7919 % 100
    return (BAD[place] if place < len(BAD) else "/ok/{}").format(i)


def _server(pipe: Connection) -> None:
    with serving(records=False) as site:
        pipe.send(site.port)
        pipe.recv()


@contextmanager
def server() -> Iterator[int]:
    """The port of a server in a process of its own."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_server, args=(theirs,))
    process.start()
    try:
        yield ours.recv()
    finally:
        ours.send(None)
        process.join(20)


def resident(group: int) -> int:
    """Bytes of the largest process of a session."""
    largest = 0
    for status in Path("/proc").glob("[0-9]*/status"):
        with suppress(OSError):
            if os.getsid(int(status.parent.name)) == group:
                text = status.read_text()
                largest = max(largest, int(text.partition("VmRSS:")[2].split()[0]) if "VmRSS:" in text else 0)
    return largest * 1024


def run_once(file: Path, out: Path, until: int | None) -> tuple[bool, int]:
    """Run, or continue; killed once so many shards are there.  Gives whether it ended, and its memory."""
    command = [sys.executable, "-m", "pairsieve", "run", str(file), "--out", str(out), "-q"]
    process = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL)
    most = 0
    while process.poll() is None:
        most = max(most, resident(process.pid))
        if until is not None and len(list(out.glob("scores/download/?????.parquet"))) >= until:
            os.killpg(process.pid, signal.SIGKILL)
        time.sleep(0.1)
    return process.returncode == 0, most


def main(count: int = 100_000, kills: int = 3) -> None:
    """Run it, and print what came of it."""
    with tempfile.TemporaryDirectory() as folder, server() as port:
        root = Path(folder)
        urls = [f"http://127.0.0.1:{port}{path(i)}" for i in range(count)]
        file = root / "recipe.json"
        data = recipe(url_list(root, urls), SHARD, **LIMIT)
        data["output"] = {"subset": "kept.npy"}
        file.write_text(json.dumps(data))
        out, began, memory = root / "run", time.monotonic(), []
        for share in [*(k / (kills + 1) for k in range(1, kills + 1)), None]:
            ended, most = run_once(file, out, None if share is None else int(share * count / SHARD))
            memory.append(most)
            print(
                f"{'ended' if ended else 'killed'} after {time.monotonic() - began:.0f} s, {most / 1e6:.0f} MB at most"
            )
        with duckdb.connect() as con:
            scores = f"read_parquet('{out}/scores/download/*.parquet')"
            rows, different = con.sql(f"SELECT count(*), count(DISTINCT (shard, row)) FROM {scores}").fetchall()[0]
            codes = Counter(dict(con.sql(f"SELECT download_code, count(*) FROM {scores} GROUP BY 1").fetchall()))
        good = sum("/ok/" in url for url in urls)
        print(f"{count:,} URLs: {rows:,} rows, {different:,} different; {codes['success']:,} of {good:,} good images")
        print(", ".join(f"{code} {n:,}" for code, n in codes.most_common()))
        if (rows, different, codes["success"]) != (count, count, good):
            raise SystemExit("rows were lost or doubled, or good images missed")


if __name__ == "__main__":
    main(*(int(text) for text in sys.argv[1:]))
