"""What it costs to forget: a retry of one row in each shard, whose file of images is copied without it.

    python -m tests.benchmarks.retry [rows] [shard_rows] [bytes of an image]

A run over a server on loopback stores bodies as they come; one URL a shard is a 503.  Reported are CPU-seconds of
forgetting, and of the retry as a whole.  About a minute on two cores.
"""

import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from pairsieve.pipelines.forget import Forget
from pairsieve.pipelines.pools import PoolShard
from pairsieve.pipelines.retry import retry
from pairsieve.pipelines.run import run
from tests.support_downloads import recipe, url_list
from tests.support_web import photo, serving


class Timed(Forget):
    """Forgets, and adds up what it takes."""

    seconds = 0.0
    rows = 0

    def __call__(self, record: PoolShard) -> int:
        """One shard."""
        began = time.process_time()
        found = super().__call__(record)
        Timed.seconds += time.process_time() - began
        Timed.rows += found
        return found


def main(rows: int = 20_000, shard_rows: int = 10_000, size: int = 18_000) -> None:
    """Make the run, retry, report."""
    bodies = [photo(seed) + np.random.default_rng(seed).bytes(size) for seed in range(64)]
    with (
        tempfile.TemporaryDirectory() as name,
        patch("tests.support_web.photo", bodies.__getitem__),
        patch("pairsieve.pipelines.runner.Forget", Timed),
        serving(records=False) as site,
    ):
        folder = Path(name)
        urls = [site.url(f"/status/503/{i}" if i % shard_rows == 7 else f"/ok/{i % 64}?{i}") for i in range(rows)]
        settings: dict[str, Any] = {"disable_all_reencoding": True, "timeout": 60, "host_concurrency": None}
        settings["patience"] = settings["timeout"]
        run(recipe(url_list(folder, urls), shard_rows, **settings), folder / "run", workers=1, engine="local")
        stored = sum(file.stat().st_size for file in (folder / "run/scores/download").iterdir())
        began = time.process_time()
        retry(str(folder / "run"), ["5xx"], workers=1, engine="local")
        whole = time.process_time() - began
    shards = -(-rows // shard_rows)
    print(f"{rows:,} rows in {shards} shards, {stored / 1e6:,.0f} MB of scores; {Timed.rows} rows forgotten")
    print(f"forgetting: {Timed.seconds / shards:.2f} CPU-s a shard; the retry: {whole:.2f} CPU-s")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
