"""The explorer over a large run: start-up, every kind of question over HTTP, peak memory.

    python -m tests.benchmarks.explore FOLDER [rows, 10,000,000] [compare]

Makes ``big_run`` in FOLDER where it is not there yet; with ``compare`` a second run with other thresholds too.  Each
question is asked seven times over loopback: the median and the worst wall time, and CPU time over all threads, which a
busy machine changes little.  Thumbnails are those of 300 JPEGs of 640×480 in Parquet, each asked for once.
"""

import json
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pairsieve.pipelines.run import run
from tests.benchmarks import big_run
from tests.support_explore import Served, served
from tests.support_pools import photo

TIMES = 7
MOVES = {
    "caption_words.least": ("caption_words", "least", (2, 5, 7, 4)),
    "image_shape.shortest": ("image_shape", "shortest", (150, 250, 400, 300)),
    "clip_score.top (a fraction)": ("clip_score", "top", (0.3, 0.35, 0.5, 0.6)),
    "clip_b32.min": ("clip_b32", "min", (0.2, 0.25, 0.3, 0.21)),
}
CONDITIONS = {
    "all": "",
    "a verdict": "dropped_by = 'clip_score' AND reason = 'below_top'",
    "two scores": "caption_words > 5 AND clip_l14_similarity_score > 0.25",
    "text LIKE": "text LIKE '%kitchen%'",
    "text ILIKE (any case)": "text ILIKE '%kitchen%'",
    "url LIKE": "url LIKE '%site-0000%'",
}


def main() -> None:
    """Print the table."""
    if len(sys.argv) < 2:
        sys.exit(str(__doc__))
    folder = Path(sys.argv[1])
    rows = int(sys.argv[2].replace(",", "")) if len(sys.argv) > 2 else 10_000_000
    if not (folder / "run" / "catalog.duckdb").exists():
        big_run.big_run(folder, rows)
    other = _other(folder) if "compare" in sys.argv else None
    began, spent = time.perf_counter(), time.process_time()
    with served(folder / "run", other) as server:
        print(f"start: {time.perf_counter() - began:.0f} s, {time.process_time() - spent:.0f} CPU-s, {_peak()} MiB")
        print("question | median ms | worst ms | CPU-ms\n---|---:|---:|---:")
        for name, questions in _questions(server, rows, other is not None):
            _measure(name, questions)
        print(f"peak memory: {_peak()} MiB")
    _thumbnails(folder / "pictures")


def _other(folder: Path) -> Path:
    """A second run over the same pool."""
    recipe = big_run.recipe(folder / "pool")
    recipe["filters"][4]["clip_score"]["top"] = 0.3
    if not (folder / "other" / "catalog.duckdb").exists():
        run(recipe, folder / "other", engine="local")
    return folder / "other"


def _questions(server: Served, rows: int, is_compared: bool) -> Iterator[tuple[str, list[Callable[[], Any]]]]:
    cookie = {"Cookie": server.cookie}
    headers = cookie | {"Content-Type": "application/json"}

    def get(path: str) -> Callable[[], Any]:
        return lambda: _good(server.ask("GET", path, cookie).json)

    def post(path: str, question: dict[str, Any]) -> Callable[[], Any]:
        return lambda: _good(server.ask("POST", path, headers, json.dumps(question).encode()).json)

    yield "the run at a glance", [get("/api/overview")] * TIMES
    for name, where in CONDITIONS.items():
        yield f"page, count: {name}", [post("/api/pairs", {"where": where, "order": ""})] * TIMES
    for order in ("clip_l14_similarity_score", "text"):
        sorts = {"where": CONDITIONS["two scores"], "order": order, "descending": True, "columns": ["caption_words"]}
        yield f"two scores, sorted by {order}", [post("/api/pairs", sorts)] * TIMES
    deep = {"where": "", "order": "clip_l14_similarity_score", "start": 9_900}
    yield "the last page that can be turned to", [post("/api/pairs", deep)] * TIMES
    ticket = 0
    for name, (step, setting, values) in MOVES.items():
        moved = []
        for value in (values * 2)[:TIMES]:
            ticket += 1
            question = {"step": step, "setting": setting, "changes": {setting: value}, "ticket": ticket}
            moved.append(post("/api/moved", question))
        yield f"slider: {name}", moved
    yield "a story", [get(f"/api/story/one/{number}") for number in range(0, rows, -(-rows // TIMES))]
    if is_compared:
        yield "compare: overlap", [get("/api/overlap")] * TIMES
        yield "compare: a page of one side", [post("/api/sides", {"side": "one"})] * TIMES
        yield "compare: rank correlation", [get("/api/correlation?column=clip_l14_similarity_score")] * TIMES


def _good(answer: Any) -> None:
    assert "error" not in answer and "superseded" not in answer, answer


def _measure(name: str, questions: list[Callable[[], Any]]) -> None:
    walls, spent = [], []
    for question in questions:
        began, cpu = time.perf_counter(), time.process_time()
        question()
        walls.append(1000 * (time.perf_counter() - began))
        spent.append(1000 * (time.process_time() - cpu))
    print(f"{name} | {statistics.median(walls):,.0f} | {max(walls):,.0f} | {statistics.median(spent):,.0f}", flush=True)


def _thumbnails(folder: Path) -> None:
    """A small run with pictures, every thumbnail asked for once."""
    folder.mkdir(parents=True, exist_ok=True)
    images = [photo(640 + i % 3, 480) for i in range(300)]
    table = pa.table({"image": images, "text": [f"picture {i}" for i in range(300)], "n": np.arange(300)})
    pq.write_table(table, folder / "x.parquet", row_group_size=100)
    recipe = {"pool": {"pairs": {"path": str(folder / "x.parquet")}}, "filters": []}
    run({**recipe, "output": {"subset": "subset.npy"}}, folder / "run", engine="local")
    with served(folder / "run") as server:
        cookie = {"Cookie": server.cookie}
        paths = [f"/api/thumbnail/one/{number * 97 % 300}/240" for number in range(300)]
        _measure("a thumbnail", [partial(server.ask, "GET", path, cookie) for path in paths])


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10


if __name__ == "__main__":
    main()
