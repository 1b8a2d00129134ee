"""A resharding job that is stopped anywhere: the same command ends with the same bytes."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pytest

from pairsieve.pipelines.reshard import reshard
from pairsieve.pipelines.store import Store
from tests.pipelines.test_reshard import digests
from tests.s3 import Faults, S3Server, download
from tests.support_processes import kill, workers
from tests.support_tars import write_pool, write_subset

WANTED = [*range(0, 60, 3), 6, 6, 51]


class Stopped(BaseException):
    """The end of a process, as far as a test within one can have it."""


class Fuse:
    """Ends the process at its n-th file: before the file has its name, or right after."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Never, so far."""
        self.left, self.is_before = 10**9, False
        create = Store.create

        @contextmanager
        def counted(store: Store, name: str, exclusive: bool) -> Iterator[IO[bytes]]:
            with create(store, name, exclusive) as file:
                yield file
                self.left -= self.is_before
                self._burn()
            self.left -= not self.is_before
            self._burn()

        monkeypatch.setattr(Store, "create", counted)

    def _burn(self) -> None:
        if self.left == 0:
            self.left = 10**9
            raise Stopped


@pytest.mark.parametrize("kind", ["tar", "parquet"])
def test_a_stop_at_every_file_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """Stopped at the first file, then at the next, and so on to the end: every time it goes on from there."""
    pool, subset = write_pool(tmp_path / "pool", 2, 30), write_subset(tmp_path / "s.npy", WANTED)
    options: dict[str, Any] = {"format": kind, "rows_per_shard": 12, "workers": 1}
    reshard(str(subset), str(pool), str(tmp_path / "whole"), **options)
    wanted, fuse, stops = digests(tmp_path / "whole"), Fuse(monkeypatch), 0
    for fuse.is_before in (True, False):
        for number in range(1, 40):
            fuse.left = number
            out = tmp_path / f"{fuse.is_before}-{number}"
            try:
                reshard(str(subset), str(pool), str(out), **options)
            except Stopped:
                stops += 1
                fuse.left = 10**9
                reshard(str(subset), str(pool), str(out), **options)
                assert digests(out) == wanted, f"stopped at file {number}"
            else:
                break
    assert stops > 20


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], dict[str, str]]:
    """A command without its OUT, of a job that takes a second; and what it writes."""
    root = tmp_path_factory.mktemp("job")
    pool, subset = write_pool(root / "pool", 12, 200), write_subset(root / "s.npy", [*range(0, 2400, 2), *[8] * 50])
    reshard(str(subset), str(pool), str(root / "whole"), rows_per_shard=100, workers=1)
    command = [sys.executable, "-m", "pairsieve", "reshard", str(subset), str(pool)]
    return [*command, "--rows-per-shard", "100", "--workers", "2", "-q"], digests(root / "whole")


@contextmanager
def started(command: list[str], out: Path) -> Iterator["subprocess.Popen[Any]"]:
    """The job in a session of its own; whatever is left of it in the end is killed."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    process = subprocess.Popen([*command, str(out)], env=environment, start_new_session=True)
    try:
        yield process
    finally:
        kill(process)


def wait_for(out: Path, pattern: str, count: int, process: "subprocess.Popen[Any]") -> None:
    """Until so many files are there."""
    until = time.monotonic() + 60
    while len(list(out.rglob(pattern))) < count and process.poll() is None:
        assert time.monotonic() < until
        time.sleep(0.002)


def test_killed_jobs_go_on(job: tuple[list[str], dict[str, str]], tmp_path: Path) -> None:
    """SIGKILL to all processes while they read and while they write, in one folder: the end is the same."""
    command, wanted = job
    for pattern, count in (("*.arrow", 1), ("*.arrow", 7), ("*.tar", 2), ("*.tar", 9)):
        with started(command, tmp_path / "out") as process:
            wait_for(tmp_path / "out", pattern, count, process)
            assert process.poll() is None or pattern == "*.tar"
    with started(command, tmp_path / "out") as process:
        assert process.wait(120) == 0
    assert digests(tmp_path / "out") == wanted


def test_killed_worker_is_replaced(job: tuple[list[str], dict[str, str]], tmp_path: Path) -> None:
    """The job ends well, and the same, though a worker died."""
    command, wanted = job
    with started(command, tmp_path / "out") as process:
        wait_for(tmp_path / "out", "*.arrow", 2, process)
        if found := workers(process.pid):
            os.kill(found[0], signal.SIGKILL)
        assert process.wait(120) == 0
    assert digests(tmp_path / "out") == wanted


def test_object_stores_hold_the_same_bytes(s3: S3Server, tmp_path: Path) -> None:
    """Pool, subset and shards on a store that answers badly: what a disk would hold."""
    import fsspec

    pool, subset = write_pool(tmp_path / "pool", 3), write_subset(tmp_path / "s.npy", WANTED)
    bucket = s3.make_bucket()
    fs, path = fsspec.core.url_to_fs(bucket)
    for file in [*pool.glob("*.tar"), subset]:
        fs.put_file(str(file), f"{path}/{file.parent.name if file != subset else 'in'}/{file.name}")
    s3.set(Faults(errors=0.05, cuts=0.02, slow=0.1, delay=0.01, seed=1))
    remote = (f"{bucket}/in/s.npy", f"{bucket}/pool/*.tar", f"{bucket}/out")
    reshard(*remote, rows_per_shard=9, workers=1)
    s3.set(Faults())
    reshard(str(subset), str(pool), str(tmp_path / "whole"), rows_per_shard=9, workers=1)
    held, whole = digests(download(f"{bucket}/out", tmp_path / "held")), digests(tmp_path / "whole")
    different = {name for name in held | whole if held.get(name) != whole.get(name)}
    assert different == {"_job.json", "_manifest.json", "meta.json"}  # they name the places


def test_ray_writes_the_same_bytes(tmp_path: Path) -> None:
    """The other engine runs the same tasks."""
    pool, subset = write_pool(tmp_path / "pool", 3), write_subset(tmp_path / "s.npy", WANTED)
    reshard(str(subset), str(pool), str(tmp_path / "local"), rows_per_shard=9, engine="local")
    reshard(str(subset), str(pool), str(tmp_path / "ray"), rows_per_shard=9, workers=2, engine="ray")
    assert digests(tmp_path / "local") == digests(tmp_path / "ray")
