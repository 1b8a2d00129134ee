"""The lock of a run directory: one run at a time, the dead make room, the displaced stop."""

import errno
import fcntl
import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pairsieve.pipelines import lock
from pairsieve.pipelines.lock import MARK, Holder, locked
from pairsieve.pipelines.run import run
from pairsieve.pipelines.store import Store
from pairsieve.schemas.errors import AccessError, RunBusyError
from tests.s3 import Faults, S3Server
from tests.support import digests, numbered_rows, recipe, write_csv

HOLD = """
import sys, time
from pairsieve.pipelines.lock import locked
from pairsieve.pipelines.store import Store
with locked(Store(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""
RACE = """
import sys
from pathlib import Path
from pairsieve.pipelines.lock import locked
from pairsieve.pipelines.store import Store
from pairsieve.schemas.errors import RunBusyError
sys.stdin.read()
try:
    with locked(Store(sys.argv[1])):
        print("held", flush=True)
        sys.stdout.close()
        Path(sys.argv[2]).read_bytes()  # a pipe: blocks until the test opens it
except RunBusyError:
    print("busy", flush=True)
"""


@pytest.fixture(params=["local", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """An empty run directory."""
    if request.param == "local":
        return Store(str(tmp_path / "run"))
    server: S3Server = request.getfixturevalue("s3")
    return Store(f"{server.make_bucket()}/run")


@pytest.fixture
def remote(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> Store:
    """An empty run directory on an object store, with leases of two seconds."""
    for name, seconds in {"FIRST_BEAT": 0.1, "BEAT": 0.2, "LEASE": 2.0}.items():
        monkeypatch.setattr(lock, name, seconds)
    return Store(f"{s3.make_bucket()}/run")


def stranger() -> Holder:
    """A run on another machine."""
    return replace(Holder.me(), owner="stranger", host="elsewhere", machine="another")


def holder_process(store: Store) -> "subprocess.Popen[str]":
    """A process that holds the lock by now."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, store.root], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_run_is_told_who_holds_the_first(store: Store) -> None:
    """At once, with process, machine and time."""
    with holder_process(store) as process:
        try:
            who = rf"another pairsieve works in this directory \(process {process.pid} on .+, since 2.+\); wait for it"
            with pytest.raises(RunBusyError, match=who), locked(store):
                pass
        finally:
            process.kill()


def test_a_killed_holder_makes_room_at_once(store: Store) -> None:
    """Also as long as nobody has collected its exit status."""
    with holder_process(store) as process:
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        with locked(store) as check:
            check()


def test_the_mark_stays(store: Store) -> None:
    """A directory is known as a run's after its run has ended, and may be locked again."""
    for _ in range(2):
        with locked(store):
            assert store.exists(MARK)
        assert store.exists(MARK)


def test_of_many_at_once_one_gets_it(store: Store, tmp_path: Path) -> None:
    """The others are refused, whoever was first."""
    gate = tmp_path / "gate"
    subprocess.run(["mkfifo", gate], check=True)
    command = [sys.executable, "-c", RACE, store.root, str(gate)]
    racers = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.close()
    said = [racer.stdout.readline() for racer in racers if racer.stdout is not None]
    gate.write_bytes(b"")
    for racer in racers:
        assert racer.wait() == 0
        assert racer.stdout is not None
        racer.stdout.close()
    assert sorted(said) == ["busy\n"] * 3 + ["held\n"]


@pytest.mark.parametrize("content", [b"", b"\xff\x00", b"null", b"[]", b"{}", b'{"owner": "x"}', b"123"])
def test_a_damaged_lock_is_nobodys(store: Store, content: bytes) -> None:
    """Empty, binary, or JSON of another shape."""
    store.write(MARK, content)
    with locked(store) as check:
        check()


@given(
    st.binary() | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(lambda v: json.dumps(v).encode())
)
def test_whatever_stands_in_a_lock_can_be_read(content: bytes) -> None:
    """Somebody or nobody, never an error."""
    assert Holder.read(content) is None


def test_a_holder_comes_back() -> None:
    """As it was written."""
    me = Holder.me()
    assert Holder.read(me.written()) == me


def test_a_number_that_another_process_has_now_is_no_sign_of_life() -> None:
    """A process is known by number and start."""
    me = Holder.me()
    assert not me.is_gone()
    assert replace(me, started="1").is_gone()
    assert not replace(me, started="1", machine="another").is_gone()


def test_a_silent_stranger_is_waited_for(remote: Store) -> None:
    """A lease of another machine that stands still is taken over when it has run out, with a line."""
    remote.write(MARK, stranger().written())
    said: list[str] = []
    began = time.monotonic()
    with locked(remote, said.append) as check:
        assert time.monotonic() - began >= lock.LEASE
        check()
    (line,) = said
    assert "held by process" in line
    assert "on elsewhere" in line
    assert line.endswith("waiting 2 s for a sign of life")


def test_a_living_stranger_is_not_disturbed(remote: Store) -> None:
    """A sign of life refuses the second run."""
    remote.write(MARK, stranger().written())
    signs = threading.Timer(0.3, lambda: remote.write(MARK, replace(stranger(), beat=1).written()))
    signs.start()
    with pytest.raises(RunBusyError, match="on elsewhere"), locked(remote):
        pass
    signs.join()


def test_a_holder_gives_signs_of_life(remote: Store) -> None:
    """Its lease changes as long as it runs, and says nobody afterwards."""
    seen: set[int] = set()
    with locked(remote) as check:
        while len(seen) < 3:
            holder = Holder.read(remote.read(MARK))
            assert holder is not None
            seen.add(holder.beat)
            check()
    assert Holder.read(remote.read(MARK)) is None


def test_a_run_that_lost_its_lease_stops(remote: Store, tmp_path: Path) -> None:
    """With one line, without taking it back; what it had done stays for the next."""
    pool = write_csv(tmp_path / "list.csv", numbered_rows(600))
    made = recipe(pool, {"tests.support_filters:Slow": {}}, output={"subset": "subset.npy"})
    thief = threading.Timer(1.0, lambda: remote.write(MARK, stranger().written()))
    thief.start()
    with pytest.raises(RunBusyError, match="on elsewhere"):
        run(made, remote.root, workers=1)
    thief.join()
    holder = Holder.read(remote.read(MARK))
    assert holder is not None
    assert holder.host == "elsewhere"
    assert not remote.exists("catalog.duckdb")


def test_a_lost_answer_is_no_other_run(s3: S3Server, remote: Store) -> None:
    """A PUT that was done although its answer never came is known as one's own."""
    s3.set(Faults(errors=0.2, cuts=0.3, seed=1))
    for _ in range(5):
        with locked(remote) as check:
            time.sleep(0.3)
            check()
    assert s3.counts()["cut"] >= 3


def test_a_removed_lease_is_written_again(remote: Store) -> None:
    """Somebody cleaned up beneath the run."""
    with locked(remote) as check:
        remote.fs.rm_file(remote.path(MARK))
        while not remote.exists(MARK):
            check()
            time.sleep(0.05)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_filesystem_without_locks_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """As some network filesystems are mounted."""

    def refuse(*_: object) -> None:
        raise OSError(number, "no locks")

    monkeypatch.setattr(fcntl, "flock", refuse)
    says = r"run: no file locks here: no locks; mount it with locks .*, or choose"
    with pytest.raises(AccessError, match=says), locked(Store(str(tmp_path / "run"))):
        pass


def test_runs_that_race_give_one_result(tmp_path: Path) -> None:
    """Of several command lines at once, those that end well leave the same bytes as one alone."""
    pool = write_csv(tmp_path / "list.csv", numbered_rows(350))
    made = recipe(pool, "caption_words", "exact_duplicates")
    (tmp_path / "recipe.json").write_text(json.dumps(made))
    command = [sys.executable, "-m", "pairsieve", "run", str(tmp_path / "recipe.json"), "--out", str(tmp_path / "run")]
    racers = [
        subprocess.Popen([*command, "-q", "--workers", "1"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    ended = [(racer.communicate()[1], racer.returncode) for racer in racers]
    assert ("", 0) in ended
    assert all(code == 0 or "another pairsieve works in this directory" in said for said, code in ended)
    run(made, tmp_path / "alone", workers=1)
    assert digests(tmp_path / "run") == digests(tmp_path / "alone")
