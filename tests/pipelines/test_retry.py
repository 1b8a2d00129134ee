"""retry: what failed for some reasons is asked for again in place; all else keeps its bytes."""

import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pairsieve.filters._codes import RETRIED, Code
from pairsieve.filters._http import STALE
from pairsieve.pipelines.forget import MARK, Forget, Wanted
from pairsieve.pipelines.hosts import page, report
from pairsieve.pipelines.retry import code, retry
from pairsieve.pipelines.run import run
from pairsieve.schemas.errors import UserError
from tests.support_downloads import files, recipe, scores, url_list
from tests.support_web import Site, serving

PATHS = ("/ok/{}", "/status/503/{}", "/status/404/{}", "/reset/{}")


@pytest.fixture
def site() -> Iterator[Site]:
    """The server, fresh for each test: pages are mended."""
    with serving() as served:
        yield served


def urls(site: Site, count: int = 40) -> list[str]:
    """A quarter each: good, failing for now, gone, reset."""
    return [site.url(PATHS[i % 4].format(i)) for i in range(count)]


def data(site: Site, folder: Path, **settings: Any) -> dict[str, Any]:
    """The recipe of most tests."""
    of_pool = {"image_shape": {"shortest": 20, "of": "pool"}}
    return recipe(url_list(folder, urls(site)), 10, [of_pool], timeout=3, **settings)


def mend(site: Site, start: str, count: int = 40) -> None:
    """Pages of one kind become photos."""
    for i in range(count):
        if PATHS[i % 4].startswith(start):
            site.mend(PATHS[i % 4].format(i))


def codes(run_dir: Path) -> Counter[str]:
    """How often each code stands in the scores."""
    return Counter(row["download_code"] for row in scores(run_dir))


def test_only_the_reasons_are_asked_for(site: Site, tmp_path: Path) -> None:
    """503 is asked again and comes, 404 and resets are left alone, good rows keep their values, outputs follow."""
    first = run(data(site, tmp_path), tmp_path / "run")
    assert (first.kept, codes(tmp_path / "run")["http_5xx"]) == (10, 10)
    before = {row["uid"]: row for row in scores(tmp_path / "run")}
    mend(site, "/status/503")
    site.hits.clear()
    again = retry(str(tmp_path / "run"), ["5xx"])
    assert (again.kept, again.measured["download"]) == (20, 10)
    assert set(site.hits) == {f"/status/503/{i}" for i in range(40) if i % 4 == 1}
    after = {row["uid"]: row for row in scores(tmp_path / "run")}
    assert [u for u in before if before[u] != after[u]] == [u for u, row in before.items() if row["http_status"] == 503]


def test_a_retry_ends_as_a_fresh_run(site: Site, tmp_path: Path) -> None:
    """Verdicts, subset and dataset are the bytes of a run that met the mended web."""
    recipe_ = data(site, tmp_path)
    run(recipe_, tmp_path / "run")
    mend(site, "/status/503")
    mend(site, "/reset")
    retry(str(tmp_path / "run"))
    run(recipe_, tmp_path / "fresh")
    for folder in ("verdicts", "dataset"):
        assert files(tmp_path / "run", folder) == files(tmp_path / "fresh", folder)
    assert scores(tmp_path / "run") == scores(tmp_path / "fresh")
    assert scores(tmp_path / "run", "image_shape") == scores(tmp_path / "fresh", "image_shape")


def test_shards_without_such_pairs_keep_their_files(site: Site, tmp_path: Path) -> None:
    """A file in which nothing is forgotten is not touched."""
    pages = [site.url(f"/status/503/{i}" if i == 25 else f"/ok/{i}") for i in range(40)]
    run(recipe(url_list(tmp_path, pages), 10), tmp_path / "run")
    before = files(tmp_path / "run")
    site.mend("/status/503/25")
    assert retry(str(tmp_path / "run"), ["5xx"]).kept == 40
    changed = {name for name, digest in files(tmp_path / "run").items() if before.get(name) != digest}
    assert changed == {"00002.parquet", "00002.1.parquet"}


def test_longer_patience_for_what_timed_out(site: Site, tmp_path: Path) -> None:
    """A setting that does not decide what is measured may be others for the retry."""
    pages = [site.url(f"/slow/1.2/{i}" if i % 5 == 0 else f"/ok/{i}") for i in range(20)]
    run(recipe(url_list(tmp_path, pages), 10, timeout=0.6), tmp_path / "run")
    assert codes(tmp_path / "run")["timeout"] == 4
    result = retry(str(tmp_path / "run"), ["timeout"], overrides=["filters.download.timeout=10"])
    assert result.kept == 20


def test_the_same_retry_twice_asks_twice(site: Site, tmp_path: Path) -> None:
    """What fails again is asked for again by the next retry, and the run stays whole."""
    run(data(site, tmp_path), tmp_path / "run")
    for _ in range(2):
        site.hits.clear()
        assert retry(str(tmp_path / "run"), ["429", "5xx"]).measured["download"] == 10
        assert site.hits.total() == 10
    assert codes(tmp_path / "run") == Counter(success=10, http_5xx=10, http_404=10, connection_failed=10)


def test_a_stopped_retry_continues(site: Site, tmp_path: Path) -> None:
    """Once all is forgotten, the same command does not ask again for what has come or failed since."""
    run(data(site, tmp_path), tmp_path / "run")
    mend(site, "/status/503")
    wanted = Wanted(("download",), "download_code", ("http_5xx",))
    (tmp_path / "run" / MARK).write_bytes(wanted.written())  # as left by a kill after the last page was asked for
    site.hits.clear()
    assert retry(str(tmp_path / "run"), ["5xx"]).measured["download"] == 0
    assert site.hits.total() == 0
    assert not (tmp_path / "run" / MARK).exists()
    assert retry(str(tmp_path / "run"), ["5xx"]).kept == 20


def test_a_run_after_a_stopped_retry_asks_for_what_is_lacking(site: Site, tmp_path: Path) -> None:
    """Killed between the forgetting of two shards: the plain command makes the run whole."""
    from pairsieve.pipelines.pools import read_manifest
    from pairsieve.pipelines.run import load
    from pairsieve.pipelines.shard import Context
    from pairsieve.pipelines.store import Store

    recipe_ = data(site, tmp_path)
    run(recipe_, tmp_path / "run")
    pool, plan, _ = load(recipe_)
    store = Store(str(tmp_path / "run"))
    known = read_manifest(store)
    assert known is not None
    wanted = Wanted(("download",), "download_code", ("http_5xx",))
    assert Forget(Context(store, plan, pool), wanted)(known[1][1]) == 2
    assert len(scores(tmp_path / "run")) == 38
    result = run(recipe_, tmp_path / "run")
    assert result.measured == {"download": 2, "image_shape": 2}
    assert codes(tmp_path / "run")["http_5xx"] == 10


def test_steps_that_measured_failed_pairs_measure_them_again(site: Site, tmp_path: Path) -> None:
    """``of: pool`` had measured nothing of pairs without an image; with one they have values."""
    run(data(site, tmp_path), tmp_path / "run")
    mend(site, "/status/503")
    retry(str(tmp_path / "run"), ["5xx"])
    rows = {row["uid"]: row for row in scores(tmp_path / "run", "image_shape")}
    good = [row["uid"] for row in scores(tmp_path / "run") if row["download_code"] == "success"]
    assert len(good) == 20 and all(None not in rows[uid].values() for uid in good)


@pytest.mark.parametrize(
    ("reason", "found"),
    [("dns", Code.DNS_FAILURE), ("429", Code.HTTP_429), ("5XX ", Code.HTTP_5XX), ("timeout", Code.TIMEOUT)],
)
def test_reasons_have_short_names(reason: str, found: Code) -> None:
    """As people say them."""
    assert code(reason) == found.value


@pytest.mark.parametrize("reason", ["", "sucess", "success", "image_too_small", "timeouts", "5"])
def test_unknown_reasons_are_one_line(reason: str) -> None:
    """With the reasons that there are; a success or a threshold's verdict is none."""
    with pytest.raises(UserError, match=r"^--reasons .*: there are null_url, .*timeout.*") as error:
        code(reason)
    assert "\n" not in str(error.value)


def test_the_usual_reasons_are_those_that_may_change(site: Site, tmp_path: Path) -> None:
    """Without --reasons: time-outs, names, connections, 429, 5xx; what is final is not asked for."""
    from pairsieve.pipelines.retry import USUAL

    assert set(USUAL) == {c.value for c in RETRIED} | {"too_slow", "host_down"}
    assert not {"http_404", "opted_out", "robots_txt", "not_an_image"} & set(USUAL)


def test_what_decides_scores_may_not_be_overridden(site: Site, tmp_path: Path) -> None:
    """Another image size would measure everything again: that is said, and nothing is forgotten."""
    run(data(site, tmp_path), tmp_path / "run")
    before = files(tmp_path / "run")
    with pytest.raises(UserError, match="step download would measure all pairs again"):
        retry(str(tmp_path / "run"), ["5xx"], overrides=["filters.download.image_size=64"])
    assert files(tmp_path / "run") == before


def test_refusals(site: Site, tmp_path: Path) -> None:
    """No run, no download step, no such step: one line each."""
    with pytest.raises(UserError, match="no run here"):
        retry(str(tmp_path / "nothing"))
    file = url_list(tmp_path, urls(site, 4))
    run({"pool": {"urls": {"path": str(file)}}, "filters": [{"caption_words": {}}]}, tmp_path / "words")
    with pytest.raises(UserError, match="no download step"):
        retry(str(tmp_path / "words"))
    run(data(site, tmp_path), tmp_path / "run")
    with pytest.raises(UserError, match="--step downlod: no download step; there are download"):
        retry(str(tmp_path / "run"), steps=["downlod"])
    with pytest.raises(UserError, match="has fetched anything"):
        report(str(tmp_path / "words"))
    with pytest.raises(UserError, match="--by size: there are urls, failed, bytes, seconds"):
        report(str(tmp_path / "run"), by="size")


def test_hosts_are_reported(site: Site, tmp_path: Path) -> None:
    """Reasons as in the scores; a host's URLs, failures, requests, bytes; all of it in SQL too."""
    result = run(data(site, tmp_path, retries=1), tmp_path / "run")
    found = report(str(tmp_path / "run"))
    assert {row["reason"]: row["urls"] for row in found.reasons} == codes(tmp_path / "run")
    (host,) = found.hosts
    assert (host["host"], host["urls"], host["failed"]) == ("127.0.0.1", 40, 30)
    twice = 40 + 20  # 503 and resets; a reset over a kept connection may be that connection's fault
    assert twice <= host["requests"] <= twice + 20 * STALE
    assert host["bytes"] > 10_000 and host["seconds"] > 0
    assert result.query("SELECT sum(urls) AS n FROM facts_download").to_pylist() == [{"n": 40}]
    assert len(page(found)) == 2


def test_the_commands(site: Site, tmp_path: Path) -> None:
    """`pairsieve retry` and `pairsieve hosts` as typed; an unknown reason is one line and exit code 2."""
    run(data(site, tmp_path), tmp_path / "run")
    mend(site, "/status/503")

    def typed(*words: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run([sys.executable, "-m", "pairsieve", *words], capture_output=True, text=True, check=False)

    done = typed("retry", str(tmp_path / "run"), "--reasons", "5xx,dns", "-q", "--workers", "1")
    assert (done.returncode, "kept 20 of 40 pairs" in done.stdout) == (0, True), done.stderr
    shown = typed("hosts", str(tmp_path / "run"), "--by", "failed")
    assert (shown.returncode, "http_404" in shown.stdout, "127.0.0.1" in shown.stdout) == (0, True, True), shown.stderr
    wrong = typed("retry", str(tmp_path / "run"), "--reasons", "slow")
    assert wrong.returncode == 2 and wrong.stderr.startswith("error: --reasons slow: there are")
    assert wrong.stderr.count("\n") == 1
