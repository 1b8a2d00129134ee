"""Slow URLs are left for a pass of their own, and come out of it as if they had been measured at once."""

import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pairsieve.pipelines.pools import PoolShard
from pairsieve.pipelines.run import run
from pairsieve.pipelines.tail import GROUP, SHARDS, groups
from tests.support_downloads import files, killed, recipe, scores, url_list
from tests.support_web import HOSTS, Site, serving

SHAPE = {"image_shape": {"shortest": 20}}


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    """The server."""
    with serving() as served:
        yield served


def mixed(site: Site, count: int) -> list[str]:
    """Two in ten are slow, one of them for good; one is gone."""
    paths = {3: "/slow/1/{}", 4: "/hang/{}", 5: "/status/404/{}"}
    return [site.url(paths.get(i % 10, "/ok/{}").format(i)) for i in range(count)]


def facts(run_dir: Path) -> list[dict[str, object]]:
    """What was measured, without times."""
    return [{k: v for k, v in row.items() if k != "error_message"} for row in scores(run_dir)]


def test_a_run_with_a_tail_is_a_run_without(site: Site, tmp_path: Path) -> None:
    """Scores, verdicts, subset and dataset are the same bytes, whether slow URLs were left or waited for."""
    file = url_list(tmp_path, mixed(site, 60))
    left = run(recipe(file, 20, [SHAPE], timeout=2, patience=0.4), tmp_path / "left")
    waited = run(recipe(file, 20, [SHAPE], timeout=2, patience=2), tmp_path / "waited")
    assert left.funnel == waited.funnel == [("pool", 60, 0), ("download", 60, 12), ("image_shape", 48, 0)]
    assert left.measured == waited.measured == {"download": 60, "image_shape": 48}
    assert facts(tmp_path / "left") == facts(tmp_path / "waited")
    for folder in ("verdicts", "dataset"):
        assert files(tmp_path / "left", folder) == files(tmp_path / "waited", folder)
    assert (tmp_path / "left/kept.npy").read_bytes() == (tmp_path / "waited/kept.npy").read_bytes()
    assert "00000.1.parquet" in files(tmp_path / "left") and "00000.1.parquet" not in files(tmp_path / "waited")


def test_shards_do_not_wait_for_slow_urls(site: Site, tmp_path: Path) -> None:
    """Ten shards with a slow URL each take one time-out in all, not ten."""
    urls = [site.url(f"/hang/{i}" if i % 5 == 0 else f"/ok/{i}") for i in range(50)]
    began = time.monotonic()
    result = run(recipe(url_list(tmp_path, urls), 5, timeout=4, patience=0.3), tmp_path / "run", workers=1)
    assert time.monotonic() - began < 20  # 10 x 0.3 + 4, and what a busy machine adds; not 40
    assert [(r["reason"], r["n"]) for r in result.query(COUNTS).to_pylist()] == [("timeout", 10), (None, 40)]


COUNTS = "SELECT reason, count(*) AS n FROM verdicts GROUP BY ALL ORDER BY n"


@pytest.mark.parametrize("workers", [1, 2])
def test_the_outcome_is_not_the_workers(site: Site, tmp_path: Path, workers: int) -> None:
    """One worker or two: the same dataset, the same verdicts."""
    file = url_list(tmp_path, mixed(site, 40))
    result = run(recipe(file, 10, timeout=2, patience=0.4), tmp_path / "run", workers=workers)
    assert result.kept == 32
    assert [row["download_code"] for row in scores(tmp_path / "run")].count("timeout") == 4


@pytest.fixture(scope="module")
def half_dead(site: Site, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """A host of which 120 URLs in a row are reset before 40 that come; and a run of it by one worker."""
    folder = tmp_path_factory.mktemp("half-dead")
    urls = [site.url(f"/reset/{i}" if i < 120 else f"/ok/{i}", HOSTS[2]) for i in range(160)]
    data = recipe(url_list(folder, urls), 20, timeout=5, concurrency=1)
    run(data, folder / "run", workers=1, engine="local")
    return data, folder / "run"


def test_what_became_of_others_decides_nothing(half_dead: tuple[dict[str, Any], Path]) -> None:
    """After a hundred resets in a row the URLs of the host that would come do come."""
    codes = [row["download_code"] for row in scores(half_dead[1])]
    assert codes == ["connection_failed"] * 120 + ["success"] * 40
    assert any(".1." in name for name in files(half_dead[1])), "nothing was left: the test tells nothing"


def test_a_host_that_fails_is_the_same_for_all_numbers_of_workers(
    half_dead: tuple[dict[str, Any], Path], tmp_path: Path
) -> None:
    """Three workers, of which none has seen a hundred failures: the same verdicts and dataset as of one."""
    data, one = half_dead
    run(data, tmp_path / "three", workers=3, engine="local")
    for folder in ("verdicts", "dataset"):
        assert files(tmp_path / "three", folder) == files(one, folder)
    assert facts(tmp_path / "three") == facts(one)


@pytest.fixture(scope="module")
def reference(site: Site, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """A recipe, and an uninterrupted run of it."""
    folder = tmp_path_factory.mktemp("reference")
    data = recipe(url_list(folder, mixed(site, 30)), 10, [SHAPE], timeout=2, patience=0.4)
    run(data, folder / "run")
    return data, folder / "run"


@pytest.mark.parametrize("marker", ["scores/download/00000.parquet", "scores/download/00000.1.parquet"])
def test_a_kill_loses_and_doubles_nothing(reference: tuple[dict[str, Any], Path], tmp_path: Path, marker: str) -> None:
    """Killed in the first sweep or in the tail, the same command ends as an uninterrupted run."""
    data, whole = reference
    out = tmp_path / "struck"
    assert killed(data, out, lambda: (out / marker).exists())
    done = {name: digest for name, digest in files(out).items() if ".1." not in name}
    run(data, out)
    assert facts(out) == facts(whole)
    assert done.items() <= files(out).items()
    for folder in ("verdicts", "dataset"):
        assert files(out, folder) == files(whole, folder)


def test_a_run_that_continues_asks_slow_urls_once(
    site: Site, reference: tuple[dict[str, Any], Path], tmp_path: Path
) -> None:
    """What was left before a kill goes straight to the tail: shards that are done cost no patience again."""
    data, whole = reference
    out = tmp_path / "struck"
    assert killed(data, out, lambda: len(files(out)) == 3)
    before = Counter(site.hits)
    result = run(data, out)
    asked = {path: count for path, count in (site.hits - before).items() if not path.startswith("/ok/")}
    assert len(asked) == 6 and set(asked.values()) == {1}
    assert result.measured["download"] == 6 and facts(out) == facts(whole)


def test_limited_hosts_are_left_and_come(site: Site, tmp_path: Path) -> None:
    """URLs of a host that lets two in at a time wait in the tail, not in their shards; all of them come."""
    urls = [site.url(f"/slow/0.1/{i}" if i % 2 else f"/ok/{i}", HOSTS[i % 2]) for i in range(60)]
    settings: dict[str, Any] = {"timeout": 5, "patience": 0.3, "host_concurrency": 2}
    result = run(recipe(url_list(tmp_path, urls), 20, **settings), tmp_path / "run", workers=1)
    assert result.kept == 60


def _shard(index: int) -> PoolShard:
    return PoolShard(index=index, rows=10, media=None, groups=(), fingerprint="")


@given(st.lists(st.integers(1, 3 * GROUP), max_size=80))
def test_groups_hold_every_shard_once_in_order(counts: list[int]) -> None:
    """Groups are the shards in their order, none too large unless one shard is."""
    left = [(_shard(i), count) for i, count in enumerate(counts)]
    found = groups(left)
    assert [s.index for g in found for s in g.shards] == list(range(len(counts)))
    assert all(len(g.shards) <= SHARDS for g in found)
    assert all(len(g.shards) == 1 or sum(counts[s.index] for s in g.shards) <= GROUP for g in found)
