"""near_duplicate_text in real runs: workers, shards, second runs, chains, large clusters, boilerplate."""

import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pairsieve.pipelines.run import run
from pairsieve.pipelines.runner import Result
from tests.support import recipe
from tests.support_minhash import captions, chain

TEXTS = captions(1201, share=0.5)


def dedup(
    folder: Path, texts: Sequence[str | None], shard_rows: int = 1000, workers: int = 1, step: int = 1, **chosen: Any
) -> Result:
    """A run over captions, whose uids come from their urls; in the pool they lie in steps of ``step``."""
    folder.mkdir(exist_ok=True)
    urls = [f"http://e.org/{i}" for i in range(len(texts))]
    scores = pa.array([(7 * i) % 101 for i in range(len(texts))], pa.int32())
    table = pa.table({"url": urls, "text": pa.array(texts, pa.string()), "score": scores})
    order = [(row * step) % len(texts) for row in range(len(texts))]
    pq.write_table(table.take(pa.array(order, pa.int64())), folder / "pool.parquet")
    made = recipe("", {"near_duplicate_text": chosen})
    made["pool"]["urls"] = {"path": str(folder / "pool.parquet"), "shard_rows": shard_rows}
    return run(made, folder / "run", workers=workers)


def kept(found: Result) -> list[str | None]:
    """Captions of the pairs that stay, in the order of the pool."""
    sql = "SELECT text FROM scores WHERE dropped_by IS NULL ORDER BY shard, row"
    texts: list[str | None] = found.query(sql)["text"].to_pylist()
    return texts


def uids(found: Result) -> list[str]:
    """The pairs that stay."""
    stay: list[str] = found.query("SELECT uid FROM verdicts WHERE dropped_by IS NULL ORDER BY uid")["uid"].to_pylist()
    return stay


@pytest.mark.parametrize(("verify", "workers"), [("exact", 2), ("estimated", 1), ("none", 1)])
def test_workers_and_shards(tmp_path: Path, verify: str, workers: int) -> None:
    """The same pairs stay of one shard, and of small ones in another order by more workers; far fewer than came."""
    one = dedup(tmp_path / "one", TEXTS, 5000, 1, verify=verify)
    two = dedup(tmp_path / "two", TEXTS, 170, workers, step=7, verify=verify)
    assert uids(one) == uids(two)
    assert len(kept(one)) < 0.8 * len(TEXTS)
    assert one.tally.dropped == {("near_duplicate_text", "near_duplicate"): len(TEXTS) - one.kept}


def test_twice(tmp_path: Path) -> None:
    """A second run over what stays drops nothing."""
    first = dedup(tmp_path / "first", TEXTS)
    again = dedup(tmp_path / "again", kept(first))
    assert again.kept == again.rows == first.kept < len(TEXTS)


def test_the_best_stays(tmp_path: Path) -> None:
    """By ``prefer``: no pair has a better score than the one it is a duplicate of."""
    found = dedup(tmp_path, TEXTS, prefer="score DESC")
    sql = "SELECT s.score, b.score AS best FROM scores s JOIN scores b ON s.near_duplicate_text_of = b.uid"
    rows = found.query(sql).to_pylist()
    assert len(rows) == len(TEXTS) - found.kept > 100
    assert all(row["score"] <= row["best"] for row in rows)


def test_captions_without_words(tmp_path: Path) -> None:
    """Nulls, empty captions and marks are duplicates of nothing."""
    texts = [None, "", "?!", "?!", None, "", "a cat", "A cat."]
    assert kept(dedup(tmp_path, texts)) in (texts[:7], [*texts[:6], texts[7]])


def test_threshold_alone(tmp_path: Path) -> None:
    """With bands as they are another threshold decides anew from stored keys, as a fresh run does."""
    banding = {"bands": 20, "rows": 5}
    loose = dedup(tmp_path / "a", TEXTS, threshold=0.7, **banding)
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "a/run/scores").rglob("*.parquet")}
    strict = dedup(tmp_path / "a", TEXTS, threshold=0.95, **banding)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "a/run/scores").rglob("*.parquet")} == written
    assert kept(strict) == kept(dedup(tmp_path / "b", TEXTS, threshold=0.95, **banding))
    assert strict.kept > loose.kept


def test_chain(tmp_path: Path) -> None:
    """A chain of captions, each like the next, is one cluster."""
    texts = chain(300, 1, 30)
    found = dedup(tmp_path, texts, shingles="words", num_perm=256, bands=256, rows=1)
    assert found.kept == 1


def test_large_cluster(tmp_path: Path) -> None:
    """100,000 captions of one template become one pair, in seconds."""
    draw = random.Random(0)
    texts = [
        f"a photo of the old town hall in the market square number {draw.randrange(10**6)}" for _ in range(100_000)
    ]
    began = time.process_time()
    assert dedup(tmp_path, texts, 50_000).kept == 1
    assert time.process_time() - began < 12


def test_boilerplate(tmp_path: Path) -> None:
    """A caption that half the pool has costs no more than others, whatever it is; one of each stays."""
    texts = ["stock photo"] * 30_000 + ["image"] * 20_000 + captions(3000, share=0)
    draw = random.Random(1)
    draw.shuffle(texts)
    began = time.process_time()
    left = kept(dedup(tmp_path, texts, 20_000))
    assert time.process_time() - began < 12
    assert left.count("stock photo") == left.count("image") == 1
    assert len(left) > 2900
