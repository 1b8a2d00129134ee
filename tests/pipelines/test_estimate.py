"""Estimates of a plan: sizes by footers and bytes, rates by a sample that really runs, errors in a line."""

import csv
import gzip
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pairsieve.pipelines.demo_pool import build_pool, write_url_list
from pairsieve.pipelines.demo_server import serve
from pairsieve.pipelines.estimate import estimate
from pairsieve.pipelines.figures import Figure, duration, size, wilson
from pairsieve.pipelines.plan_report import Report, StepCost
from pairsieve.pipelines.progress import Silent
from pairsieve.pipelines.run import load, run
from tests.support import numbered_rows, recipe, write_csv
from tests.support_pools import TEXTS, write_img2dataset, write_pairs, write_webdataset

LENGTH = "tests.support_filters:TextLength"
TOP = {"clip_score": {"column": "score", "top": 0.25}}


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    """2,000 pairs, 20 shards; every fifth caption is one letter."""
    return write_csv(tmp_path / "list.csv", numbered_rows(2000))


def planned(made: dict[str, Any], out: Path | None = None, sample: int = 256, workers: int | None = 1) -> Report:
    """The plan of a recipe."""
    opened, plan, _ = load(made)
    at = str(out) if out is not None else None
    return estimate(opened, plan, out=at, sample_rows=sample, workers=workers, progress=Silent())


def cost(report: Report, name: str) -> StepCost:
    """What a step costs."""
    found = next(step.cost for step in report.steps if step.id == name)
    assert found is not None
    return found


def todo(report: Report) -> dict[str, str]:
    """Pairs to measure, as they are printed."""
    return {step.id: str(step.work.todo) for step in report.steps}


def test_sample_really_runs(pool: Path, tmp_path: Path) -> None:
    """The sample measures its pairs with the real filter, each once, from places spread over the pool."""
    log = tmp_path / "log"
    found = planned(recipe(pool, {LENGTH: {"log": str(log)}}), sample=100)
    assert found.sample is not None and found.sample.rows == 100
    assert len(log.read_text().split()) == len(set(log.read_text().split())) == 100
    assert cost(found, "TextLength").source == "sample: 100 pairs"


def test_no_sample(pool: Path, tmp_path: Path) -> None:
    """Without a sample nothing is measured; the counts are upper bounds."""
    log = tmp_path / "log"
    found = planned(recipe(pool, {LENGTH: {"log": str(log)}}, "caption_words"), sample=0)
    assert not log.exists()
    assert (found.sample, todo(found)) == (None, {"TextLength": "2,000", "caption_words": "at most 2,000"})
    assert cost(found, "TextLength").worker_seconds is None


def test_shares(pool: Path) -> None:
    """What reaches a step goes by what the sample kept; a top fraction is itself."""
    found = planned(recipe(pool, {"caption_words": {"least": 2}}, "exact_duplicates", TOP))
    assert todo(found) == {"caption_words": "2,000", "exact_duplicates": "about 1,600", "clip_score": "0"}
    assert found.kept is not None and found.kept.kind == "about"
    assert (found.kept.least or 0) < 400 < (found.kept.most or 0)
    assert 0.23 < found.kept.value / 1600 < 0.27
    assert any("duplicates" in note for note in found.notes)


def test_estimates_hold(pool: Path, tmp_path: Path) -> None:
    """Bytes of scores and dataset come out within a third of what the run writes."""
    made = recipe(pool, {"caption_words": {"least": 2}}, "exact_duplicates", TOP)
    found = planned(made)
    run(made, tmp_path / "run", workers=1)

    def weight(folder: str) -> int:
        return sum(f.stat().st_size for f in (tmp_path / "run" / folder).rglob("*.parquet"))

    assert found.dataset_bytes is not None
    assert found.dataset_bytes.value == pytest.approx(weight("dataset"), rel=0.34)
    # small shards: a file's footer is some kilobytes
    footers = 20 * 5000
    assert abs((cost(found, "exact_duplicates").bytes or 0) - weight("scores/exact_duplicates")) < footers


def test_workers_share(pool: Path, tmp_path: Path) -> None:
    """Wall time is worker time over workers, but never over more than there are shards; unknown for a cluster."""
    made = recipe(pool, {LENGTH: {"log": str(tmp_path / "log")}})
    one = cost(planned(made, workers=1), "TextLength")
    assert one.wall_seconds == one.worker_seconds is not None
    many = cost(planned(made, workers=1000), "TextLength")
    assert many.wall_seconds == pytest.approx((many.worker_seconds or 0) / 20)
    opened, plan, _ = load(made)
    found = estimate(opened, plan, is_cluster=True, progress=Silent())
    assert (found.workers, cost(found, "TextLength").wall_seconds) == (None, None)


def test_measured_rates_come_first(pool: Path, tmp_path: Path) -> None:
    """Where a run has measured a step, its own rate counts, and no sample is taken."""
    log = tmp_path / "log"
    steps = {LENGTH: {"log": str(log)}}
    run(recipe(pool, {"caption_words": {"least": 2}}, steps), tmp_path / "run", workers=1)
    measured = len(log.read_text().split())
    found = planned(recipe(pool, {"caption_words": {"least": 1}}, steps), tmp_path / "run")
    assert cost(found, "TextLength").source == "this run: 1,600 pairs"
    assert (found.sample, len(log.read_text().split())) == (None, measured)


def test_stored_scores_feed_the_sample(pool: Path, tmp_path: Path) -> None:
    """A step that is new in a run is tried on what the run has stored; steps above it are not run again."""
    log = tmp_path / "log"
    length = {LENGTH: {"log": str(log)}}
    run(recipe(pool, length), tmp_path / "run", workers=1)
    before = log.read_text()
    found = planned(recipe(pool, length, "tests.support_filters:ReadsLength"), tmp_path / "run", sample=80)
    assert cost(found, "ReadsLength").source == "sample: 80 pairs"
    assert log.read_text() == before


FAILURES = [
    ("NoModel", "not known: cannot load model 'nothing': no such file"),
    ("NeedsGpu", "not known: it needs a GPU, and this machine has none"),
]


@pytest.mark.parametrize(("name", "says"), FAILURES)
def test_step_that_cannot_be_tried(pool: Path, tmp_path: Path, name: str, says: str) -> None:
    """A step without its model or GPU is named in a line; those that read it are left out, others are tried."""
    if name == "NeedsGpu" and _has_gpu():
        pytest.skip("this machine has a GPU")
    steps = [{f"tests.support_filters:{name}": {"log": str(tmp_path / "log")}}, "tests.support_filters:ReadsLength"]
    found = planned(recipe(pool, "caption_words", *steps, "exact_duplicates"))
    assert cost(found, name).source == says
    assert cost(found, "ReadsLength").source == f"not known: it reads what {name} measures"
    assert cost(found, "exact_duplicates").source.startswith("sample: ")
    assert todo(found)["exact_duplicates"].startswith("at most about ")
    assert not (tmp_path / "log").exists()


def _has_gpu() -> bool:
    torch = pytest.importorskip("torch")
    return bool(torch.cuda.is_available())


def test_filter_that_raises(pool: Path, tmp_path: Path) -> None:
    """A filter that raises on the sample is one line too."""
    at = {"at": "a picture of thing number 1", "how": "raise", "mended": str(tmp_path / "mended")}
    write_csv(pool, [{**row, "text": "a picture of thing number 1"} for row in numbered_rows(100)])
    found = planned(recipe(pool, {"tests.support_filters:Fragile": at}))
    assert cost(found, "Fragile").source == "not known: ValueError: this caption is too much"


@pytest.mark.parametrize(
    ("write", "rows"), [(write_pairs, "6"), (write_webdataset, "about 6"), (write_img2dataset, "6")]
)
def test_pools_with_images(tmp_path: Path, write: Any, rows: str) -> None:
    """Every kind of pool is tried with its images where they lie; its size is exact where footers tell."""
    (tmp_path / "in").mkdir()
    made = {"pool": write(tmp_path / "in"), "filters": [{"image_shape": {}}]}
    found = planned(made)
    assert str(found.size.rows) == rows
    assert found.sample is not None and (found.sample.rows, found.sample.kept) == (len(TEXTS), 4)
    without = planned(made, sample=0)
    assert without.size.rows is None if rows.startswith("about") else str(without.size.rows) == rows


def test_parquet_in_place(tmp_path: Path) -> None:
    """A Parquet list that is read in place is counted by its footers, and sampled from all over."""
    (tmp_path / "pool").mkdir()
    for i in range(9):
        rows = {"uid": [f"{i:016x}{n:016x}" for n in range(100)], "url": ["u"] * 100, "text": [f"shard {i}"] * 100}
        pq.write_table(pa.table(rows), tmp_path / "pool" / f"{i}.parquet")
    log = tmp_path / "log"
    found = planned(recipe(tmp_path / "pool", {LENGTH: {"log": str(log)}}), sample=40)
    assert (str(found.size.rows), str(found.size.shards)) == ("900", "9")
    assert {int(uid[:16], 16) for uid in log.read_text().split()} == {1, 3, 5, 7}


def test_packed_list_is_counted_by_bytes(tmp_path: Path) -> None:
    """Of a packed text list the head tells about how many pairs there are."""
    with gzip.open(tmp_path / "list.csv.gz", "wt") as file:
        writer = csv.writer(file)
        writer.writerow(["url", "text"])
        writer.writerows([f"http://e.org/{i * 7919 % 100003}.jpg", f"caption {i}"] for i in range(200_000))
    found = planned(recipe(tmp_path / "list.csv.gz", "caption_words"), sample=0)
    assert found.size.rows is not None and found.size.rows.kind == "about"
    assert found.size.rows.value == pytest.approx(200_000, rel=0.1)


def test_download_is_bounded_by_its_connections(tmp_path: Path) -> None:
    """A step that waits is reckoned with its connections busy, from real fetches; images weigh what they weigh."""
    pool = build_pool(120)
    with serve(pool) as server:
        write_url_list(pool, server.url, tmp_path / "urls.parquet")
        step = {"download": {"allow_addresses": ["127.0.0.1/32"], "timeout": 6, "image_size": 64}}
        made = recipe(tmp_path / "urls.parquet", {"where": "url not like '%slow%'"}, step)
        found = cost(planned(made, sample=40), "download")
        run(made, tmp_path / "run", workers=1)
    assert "if 256 are under way at a time" in found.source
    stored = sum(f.stat().st_size for f in (tmp_path / "run" / "scores" / "download").iterdir())
    assert found.bytes == pytest.approx(stored, rel=0.5)


def test_figures() -> None:
    """Numbers are printed with as many digits as they are worth, and with their unit."""
    shown = [str(Figure(2812.4)), str(Figure(2812.4, "about")), str(Figure(2812, "at most")), str(Figure(0, "unknown"))]
    assert shown == ["2,812", "about 2,800", "at most 2,812", "?"]
    assert [size(n) for n in (0, 999, 1200, 5.27e7, 9.996e8, 3.1e12)] == [
        "0 bytes",
        "1,000 bytes",
        "1.2 kB",
        "53 MB",
        "1.0 GB",
        "3.1 TB",
    ]
    times = ["0 s", "under 1 s", "43 s", "12 min", "7.5 h", "12 days"]
    assert [duration(s) for s in (0, 0.2, 43, 700, 27_000, 1.05e6)] == times


def test_wilson() -> None:
    """The interval of a share is that of the textbook, and stays within 0 and 1."""
    assert wilson(10, 100) == pytest.approx((0.0552, 0.1744), abs=1e-3)
    assert (wilson(0, 50)[0], wilson(50, 50)[1], wilson(0, 0)) == (0.0, 1.0, (0.0, 1.0))


def test_json(pool: Path, tmp_path: Path) -> None:
    """``--json`` prints one object with the same numbers, and nothing else on standard output."""
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe(pool, {"caption_words": {"least": 2}}, TOP)))
    command = [sys.executable, "-m", "pairsieve", "plan", "recipe.yaml", "--json", "--out", "run"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["pool"]["rows"]["value"] == 2000
    assert [step["id"] for step in found["steps"]] == ["caption_words", "clip_score"]
    assert found["steps"][0]["to_measure"] == {"value": 2000, "kind": "exact", "least": None, "most": None}
    assert found["steps"][0]["cost"]["source"] == "sample: 256 pairs"
    assert not (tmp_path / "run").exists()
