"""Limits of hosts hold for all processes of a machine, end with a process, and let everybody through in the end."""

import asyncio
import multiprocessing
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pairsieve.filters._client import LEFT, Client, fetch_all
from pairsieve.filters._codes import Code
from pairsieve.filters._fetch import Policy
from pairsieve.filters._host_limits import FOLDER, HostLimits, shared
from pairsieve.filters._turns import Held, HostDownError, LeftError, Memory, Turns
from pairsieve.schemas.errors import UserError
from tests.support_web import HOSTS, Site, serving

POLICY = Policy(timeout=10, networks=("127.0.0.0/8",))


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    """A server with three host names."""
    with serving() as served:
        yield served


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Limits of a test are its own."""
    monkeypatch.setenv(FOLDER, str(tmp_path / "hosts"))
    yield
    monkeypatch.undo()


def test_connections_are_granted_up_to_the_limit(tmp_path: Path) -> None:
    """One more is refused until one is given back; another host has its own."""
    limits = HostLimits(2, None, tmp_path)
    assert [limits.enter("a") == 0 for _ in range(3)] == [True, True, False]
    assert limits.enter("b") == 0
    limits.leave("a")
    assert limits.enter("a") == 0
    limits.close()


def test_connections_are_of_all_holders(tmp_path: Path) -> None:
    """What one holds another cannot have, as in two processes."""
    one, other = HostLimits(2, None, tmp_path), HostLimits(2, None, tmp_path)
    assert [one.enter("a") == 0, other.enter("a") == 0] == [True, True]
    assert one.enter("a") > 0 and other.enter("a") > 0
    one.close()  # as the kernel does when a process dies
    assert other.enter("a") == 0
    other.close()


def _hold(folder: str, ready: Any) -> None:
    limits = HostLimits(1, None, Path(folder))
    assert limits.enter("a") == 0
    ready.set()
    time.sleep(60)


def test_a_killed_worker_holds_nothing(tmp_path: Path) -> None:
    """SIGKILL leaves no connection behind."""
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    worker = context.Process(target=_hold, args=(str(tmp_path), ready))
    worker.start()
    assert ready.wait(30)
    limits = HostLimits(1, None, tmp_path)
    assert limits.enter("a") > 0
    os.kill(worker.pid or 0, signal.SIGKILL)
    worker.join()
    assert limits.enter("a") == 0
    limits.close()


def test_requests_are_spaced(tmp_path: Path) -> None:
    """Twenty a second, by two holders together, means fifty milliseconds between any two."""
    both = [HostLimits(None, 20, tmp_path) for _ in range(2)]
    granted: list[tuple[float, float]] = []
    while len(granted) < 6:
        for limits in both:
            before = time.monotonic()
            if not limits.ask("a"):
                granted.append((before, time.monotonic()))
    assert all(after - before > 0.049 for (before, _), (_, after) in pairwise(granted))
    for limits in both:
        limits.close()


def test_a_pause_is_of_all(tmp_path: Path) -> None:
    """A host that wants to be left alone is, by everybody; others are not affected."""
    one, other = HostLimits(2, None, tmp_path), HostLimits(2, None, tmp_path)
    one.pause("a", 5)
    assert 4 < other.enter("a") <= 5
    assert other.enter("b") == 0
    one.close()
    other.close()


@given(st.binary(min_size=8, max_size=8))
@settings(max_examples=30, deadline=None)
def test_whatever_the_file_holds_nobody_waits_for_long(content: bytes) -> None:
    """Moments of another boot, or garbage, are not believed for more than ten minutes."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "moments").write_bytes(content * 2**10)
        limits = HostLimits(1, None, Path(folder))
        assert 0 <= limits.ask("a") <= 600
        limits.close()


def test_a_folder_of_others_is_refused(tmp_path: Path) -> None:
    """Locks in a place where others write could be held by anybody."""
    folder = tmp_path / "hosts"
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(UserError, match=f"{folder}: others may write there.*{FOLDER}"):
        HostLimits(1, None)


def test_a_folder_that_cannot_be_is_one_line(tmp_path: Path) -> None:
    """A file in its place is told, with the variable to change."""
    (tmp_path / "hosts").write_bytes(b"")
    with pytest.raises(UserError, match=f"hosts: File exists; .*{FOLDER}"):
        HostLimits(1, None)


def test_without_the_variable_limits_lie_in_the_temporary_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder of the user's own, so that all runs of a machine share it."""
    monkeypatch.delenv(FOLDER)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    HostLimits(1, None).close()
    assert (tmp_path / f"pairsieve-hosts-{os.getuid()}" / "connections").exists()


def test_limits_of_two_folders_are_two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who names another folder shares no host with anybody."""
    one = HostLimits(1, None)
    monkeypatch.setenv(FOLDER, str(tmp_path / "others"))
    other = HostLimits(1, None)
    assert one.enter("a") == other.enter("a") == 0
    one.close()
    other.close()


def test_the_whole_limit_is_this_machines_without_ray() -> None:
    """Outside a cluster nothing is shared."""
    assert shared(32, 10.0) == (32, 10.0)


def _fetch_some(base: str, count: int) -> None:
    codes = fetch_all([f"{base}{i}" for i in range(count)], replace(POLICY, host_concurrency=3))
    assert all(found.code is Code.SUCCESS for found in codes)


def test_connections_hold_across_workers(site: Site) -> None:
    """Two processes with room for hundreds ask a host three times at once, and no more."""
    site.most.clear()
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_fetch_some, args=(site.url("/slow/0.05/"), 30)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert site.most[HOSTS[0]] == 3


def test_rates_hold_for_every_request(site: Site) -> None:
    """Redirects and retries count too: twenty a second, whatever is asked."""
    site.times.clear()
    began = time.monotonic()
    urls = [site.url(f"/redirect?to=/ok/{i}") for i in range(3)] + [site.url("/status/503/1")]
    fetch_all(urls, replace(POLICY, host_rate=20.0, retries=1))
    assert len(site.times) == 8
    assert time.monotonic() - began > 7 * 0.05


def test_a_pause_that_others_brought_costs_a_url_no_time(site: Site) -> None:
    """Who is led on to a host that wants a rest waits for it beyond the deadline; with patience it is left."""
    url = site.url(f"/redirect?to={site.url('/ok/1', HOSTS[1])}")
    limits = HostLimits(1, None)
    with Client(replace(POLICY, timeout=1.0), lambda fetched: fetched) as client:
        limits.pause(HOSTS[1], 2.5)
        assert client.begin([url], 0.3).result() == [LEFT]
        assert client.begin([url]).result()[0].code is Code.SUCCESS
    limits.close()


def test_a_limited_host_does_not_hold_up_others(site: Site) -> None:
    """Many URLs of a slow host come first in the list, and those of others do not wait for the last of them."""
    slow = [site.url(f"/slow/0.2/{i}") for i in range(20)]
    quick = [site.url(f"/ok/{i}", HOSTS[1]) for i in range(20)]
    done: list[str] = []
    policy = replace(POLICY, host_concurrency=2, concurrency=4)
    with Client(policy, lambda fetched: done.append(fetched.host)) as client:
        client.begin(slow + quick).result()
    assert done.count(HOSTS[1]) == 20
    assert done[-3:] == [HOSTS[0]] * 3


def test_patience_leaves_what_waits_for_its_host(site: Site) -> None:
    """With patience a URL whose host lets nobody in is left, unasked; without, it waits for its turn."""
    urls = [site.url(f"/slow/0.3/{i}") for i in range(12)]
    policy = replace(POLICY, host_concurrency=1)
    site.hits.clear()
    with Client(policy, lambda fetched: fetched) as client:
        found = client.begin(urls, 1.0).result()
        left = [f is LEFT for f in found]
        assert 2 <= left.count(False) <= 5
        assert site.hits.total() == left.count(False)
        assert all(f.code is Code.SUCCESS for f in client.begin(urls[:4]).result())


def test_waiting_for_places_is_no_slowness(site: Site) -> None:
    """Where this worker itself is busy nothing is left, however long it takes."""
    urls = [site.url(f"/slow/0.1/{i}") for i in range(20)]
    with Client(replace(POLICY, concurrency=1), lambda fetched: fetched.code) as client:
        assert client.begin(urls, 0.5).result() == [Code.SUCCESS] * 20


def test_retry_after_is_the_hosts(site: Site) -> None:
    """A host that asks to wait is left alone by all its URLs for so long."""
    site.times.clear()
    with Client(POLICY, lambda fetched: fetched.code) as client:
        assert client.begin([site.url("/status/429/1?after=1")]).result() == [Code.HTTP_429]
        client.begin([site.url("/ok/1")]).result()
    first, second = (when for when, _ in site.times)
    assert 0.9 < second - first < 3


def test_a_host_that_gives_nothing_is_given_up_on_request(site: Site) -> None:
    """After ``max_host_failures`` silent URLs the rest are not asked for; other hosts are."""
    urls = [site.url(f"/reset/{i}", HOSTS[2]) for i in range(150)]
    site.hits.clear()
    policy = replace(POLICY, host_concurrency=4, max_host_failures=100)
    with Client(policy, lambda fetched: fetched) as client:
        codes = Counter(found.code for found in client.begin(urls).result())
        assert 40 <= codes[Code.HOST_DOWN] <= 50
        assert codes[Code.CONNECTION_FAILED] == site.hits.total() == 150 - codes[Code.HOST_DOWN]
        again = client.begin([site.url("/ok/1", HOSTS[2]), site.url("/ok/1")]).result()
        assert [found.code for found in again] == [Code.HOST_DOWN, Code.SUCCESS]


def test_no_url_is_given_up_for_what_became_of_others(site: Site) -> None:
    """Of a host that gives nothing URLs are left while that is possible, and then each is asked for."""
    urls = [site.url(f"/reset/{i}", HOSTS[2]) for i in range(150)]
    good = site.url("/ok/1", HOSTS[2])
    with Client(POLICY, lambda fetched: fetched) as client:
        assert {found.code for found in client.begin(urls).result()} == {Code.CONNECTION_FAILED}
        assert client.begin([good], 1.0).result() == [LEFT]
        assert client.begin([good]).result()[0].code is Code.SUCCESS


def test_one_answer_makes_a_host_alive(tmp_path: Path) -> None:
    """Silences count in a row: a page that is merely gone ends them."""

    async def scene() -> None:
        limits = HostLimits(None, None, tmp_path)
        turns = Turns(10, limits, 100)
        for is_silent in [True] * 99 + [False] + [True] * 99:
            turns.note("a", is_silent)
        with await turns.enter("a", None):
            turns.note("a", True)
        with pytest.raises(HostDownError):
            await turns.enter("a", None)
        limits.close()

    asyncio.run(scene())


def test_turns_are_left_after_patience(tmp_path: Path) -> None:
    """Who waits for a host alone for too long gets an error, and the line moves on."""

    async def wait() -> None:
        limits = HostLimits(1, None, tmp_path)
        turns = Turns(10, limits)
        with await turns.enter("a", None), pytest.raises(LeftError):
            await turns.enter("a", 0.2)
        with await turns.enter("a", 0.2):
            pass
        limits.close()

    asyncio.run(wait())


@given(st.lists(st.lists(st.integers(1, 40), min_size=1, max_size=4), min_size=1, max_size=12), st.integers(1, 60))
@settings(max_examples=60, deadline=None)
def test_memory_is_bounded_and_everybody_ends(bodies: list[list[int]], most: int) -> None:
    """At most the bound and one body are held at any moment, and every body grows to its end."""
    held: Counter[int] = Counter()
    peaks: list[int] = []

    async def one(memory: Memory, number: int, steps: list[int]) -> None:
        with Held(memory) as share:
            for step in steps:
                await share.grow(step)
                held[number] += step
                peaks.append(sum(held.values()))
                await asyncio.sleep(0)
            held[number] = 0

    async def all_of_them() -> None:
        memory = Memory(most)
        async with asyncio.timeout(10), asyncio.TaskGroup() as group:
            for number, steps in enumerate(bodies):
                group.create_task(one(memory, number, steps))

    asyncio.run(all_of_them())
    assert max(peaks) <= most + max(map(sum, bodies))


def test_memory_survives_bodies_that_are_given_up() -> None:
    """A body that is cancelled while it waits leaves the line, and the next one goes on."""

    async def scene() -> None:
        memory = Memory(10)
        first, favoured, given_up, last = (Held(memory) for _ in range(4))
        await first.grow(10)
        await favoured.grow(5)  # the one that may go beyond
        waiting = asyncio.create_task(given_up.grow(5))
        after = asyncio.create_task(last.grow(5))
        await asyncio.sleep(0)
        waiting.cancel()
        with suppress(asyncio.CancelledError):
            await waiting
        memory.give_back(first)
        await asyncio.wait_for(after, 1)

    asyncio.run(scene())


def test_the_largest_body_goes_on_where_memory_is_used_up() -> None:
    """One that holds nothing yet, and may be slow, does not keep those waiting that would free memory."""

    async def scene() -> None:
        memory = Memory(10)
        large, middle, favoured, small = (Held(memory) for _ in range(4))
        await large.grow(6)
        await middle.grow(4)
        await favoured.grow(1)  # the one that may go beyond
        waiting = [asyncio.create_task(held.grow(5)) for held in (small, middle, large)]
        await asyncio.sleep(0)
        memory.give_back(favoured)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert [task.done() for task in waiting] == [False, False, True]
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)

    asyncio.run(scene())
