"""A disk that is full, or fails otherwise: the run stops soon, in one line, and continues when there is room.

The full disks are real: small ones in memory, mounted in a namespace of a child process.
"""

import errno
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pairsieve.pipelines.engine import Needs
from pairsieve.pipelines.engine_local import LocalEngine
from pairsieve.pipelines.run import run
from pairsieve.pipelines.storage_errors import NEXT_STEPS, explain
from pairsieve.pipelines.store import Store
from pairsieve.schemas.errors import PairsieveError, StorageError
from tests.support import digests, numbered_rows, recipe, write_csv

MOUNT = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
SMALL = 'mount -t tmpfs -o size=4m none "$0" && exec "$@"'
STEPS: list[Any] = [
    {"caption_words": {"least": 2}},
    "exact_duplicates",
    {"clip_score": {"column": "score", "top": 0.4}},
]


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a recipe over 6 shards, and a run of it with room enough."""
    folder = tmp_path_factory.mktemp("reference")
    pool = write_csv(folder / "list.csv", numbered_rows(600))
    made = recipe(pool, *STEPS, output={"dataset": {"rows_per_file": 100}, "subset": "subset.npy"})
    (folder / "recipe.json").write_text(json.dumps(made))
    run(made, folder / "run", workers=1)
    return folder


def on_small_disk(function: str, tmp_path: Path, **environment: str) -> Any:
    """What a function of this file gives (through JSON) in a process that sees a disk of 4 MB in ``small``."""
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run([*MOUNT, SMALL, small, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this machine lets nobody mount a small disk")
    begin = (
        f"import json, pathlib; from tests.pipelines import test_disk_full as t; small = pathlib.Path({str(small)!r})"
    )
    command = [*MOUNT, SMALL, str(small), sys.executable, "-c", f"{begin}; print(json.dumps(t.{function}))"]
    root = Path(__file__).parents[2]
    env = {**os.environ, "PYTHONPATH": str(root), **environment}
    ended = subprocess.run(command, cwd=root, env=env, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout.splitlines()[-1])


def fill(small: Path, room: int) -> Path:
    """A file that leaves so many bytes of a disk."""
    disk = os.statvfs(small)
    ballast = small / "ballast"
    with ballast.open("wb") as file:
        file.write(b"0" * (disk.f_bavail * disk.f_frsize - room))
    return ballast


def said_by(call: Callable[[], Any]) -> str:
    """The message of the error that a call ends with."""
    try:
        call()
    except PairsieveError as error:
        return f"{type(error).__name__}: {error}"
    return ""


def readable(folder: Path) -> bool:
    """Whether every Parquet file is whole."""
    return all(pq.read_table(p).num_rows for p in folder.rglob("*.parquet"))


def run_in_rooms(reference: str, small: Path, workers: int, shares: Sequence[float]) -> list[Any]:
    """A run on disks with ever more room left, each continued when the rest is free."""
    made = json.loads(Path(f"{reference}/recipe.json").read_text())
    size = sum(p.stat().st_size for p in Path(f"{reference}/run").rglob("*") if p.is_file())
    found = []
    for share in shares:
        ballast = fill(small, int(share * size))
        said = said_by(lambda: run(made, small / "run", workers=workers))
        whole = readable(small / "run")
        ballast.unlink()
        run(made, small / "run", workers=workers)
        left = [p.name for p in small.rglob("*.tmp")]
        found.append([said, whole, digests(small / "run") == digests(Path(f"{reference}/run")), left])
        shutil.rmtree(small / "run")
    return found


@pytest.mark.parametrize(("workers", "shares"), [(1, (0.0, 0.1, 0.5, 0.9)), (2, (0.4, 0.7))])
def test_a_full_disk_is_one_line_and_no_loss(
    reference: Path, tmp_path: Path, workers: int, shares: tuple[float, ...]
) -> None:
    """Wherever it fills up; with space again the same command gives the bytes of an uninterrupted run."""
    outcomes = on_small_disk(f"run_in_rooms({str(reference)!r}, small, {workers}, {shares})", tmp_path)
    for said, is_whole, is_same, left in outcomes:
        assert said.startswith(f"StorageError: {tmp_path}/small/run/")
        assert said.endswith(": No space left on device; free space, then the same command continues")
        assert is_whole
        assert is_same
        assert left == []


def run_read_only(reference: str, small: Path) -> str:
    """A finished run on a disk that may only be read by now."""
    made = json.loads(Path(f"{reference}/recipe.json").read_text())
    run(made, small / "run", workers=1)
    subprocess.run(["mount", "-o", "remount,ro", small], check=True)
    return said_by(lambda: run(made, small / "run", workers=1))


def test_a_read_only_disk_is_one_line(reference: Path, tmp_path: Path) -> None:
    """With the next step."""
    said = on_small_disk(f"run_read_only({str(reference)!r}, small)", tmp_path)
    assert said.startswith(f"StorageError: {tmp_path}/small/run")
    assert said.endswith("Read-only file system; mount it for writing, then the same command continues")


def run_without_room_for_work(reference: str, small: Path) -> str:
    """A run whose temporary files find no room."""
    made = json.loads(Path(f"{reference}/recipe.json").read_text())
    tempfile.gettempdir()  # a folder without any room would be passed over
    fill(small, 8192)
    return said_by(lambda: run(made, small.parent / "run", workers=1))


def test_a_full_temporary_folder_is_one_line(reference: Path, tmp_path: Path) -> None:
    """DuckDB's words for it count as the system's."""
    function = f"run_without_room_for_work({str(reference)!r}, small)"
    said = on_small_disk(function, tmp_path, TMPDIR=f"{tmp_path}/small")
    assert said.startswith("StorageError: ")
    assert f"{tmp_path}/small" in said
    assert said.endswith("No space left on device; free space, then the same command continues")


@pytest.mark.parametrize(
    ("limit", "number", "workers", "says"),
    [
        (resource.RLIMIT_FSIZE, 2048, 2, "File too large; raise the limit (ulimit -f)"),
        (resource.RLIMIT_FSIZE, 12_000, 1, "File too large; raise the limit (ulimit -f)"),
        (resource.RLIMIT_NOFILE, 14, 1, "Too many open files; raise the limit (ulimit -n)"),
    ],
)
def test_a_limit_of_the_system_is_one_line(
    reference: Path, tmp_path: Path, limit: int, number: int, workers: int, says: str
) -> None:
    """Exit code 1; without the limit the same command gives the bytes of an uninterrupted run."""
    command = [sys.executable, "-m", "pairsieve", "run", str(reference / "recipe.json"), "-q"]
    command += ["--out", str(tmp_path / "run"), "--workers", str(workers)]

    def limited() -> None:
        resource.setrlimit(limit, (number, number))

    ended = subprocess.run(command, preexec_fn=limited, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert ended.stderr.startswith("error: ")
    assert says in ended.stderr
    assert ended.stderr.endswith("then the same command continues\n")
    assert ended.stderr.count("\n") == 1
    assert readable(tmp_path / "run")
    subprocess.run(command, capture_output=True, check=True)
    assert digests(tmp_path / "run") == digests(reference / "run")
    assert not list((tmp_path / "run").rglob("*.tmp"))


class OutOfSpace:
    """A task that finds the disk full, and notes that it was called."""

    def __init__(self, notes: Path) -> None:
        """Where to note."""
        self.notes = notes

    def __call__(self, item: int) -> int:
        """Fail."""
        (self.notes / str(item)).touch()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("workers", [1, 2])
def test_a_full_disk_stops_a_pass_soon(tmp_path: Path, workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not after a thousand shards have been tried."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    engine = LocalEngine(workers)
    with pytest.raises(StorageError, match="No space left on device; free space"):
        list(engine.map(OutOfSpace(tmp_path), range(1000), Needs(), "pass"))
    engine.close()
    assert len(list(tmp_path.iterdir())) <= 4 * workers


@pytest.mark.parametrize("number", [*NEXT_STEPS, errno.EACCES, errno.EPERM, errno.EISDIR, errno.EIO])
def test_an_error_of_the_system_is_explained(number: int) -> None:
    """Place, cause, next step."""
    error = OSError(number, "x", "/data/file")
    place, cause, step = str(explain(error, "/data")).replace("; ", ": ", 1).split(": ", 2)
    assert (place, cause) == ("/data/file", os.strerror(number))
    assert step.endswith(", then the same command continues")


def test_an_error_of_the_block_is_its_own(tmp_path: Path) -> None:
    """A filter that cannot reach a server, or lacks a file of its own, does not speak of the run's disk."""
    store = Store(str(tmp_path))
    for error in (ConnectionRefusedError(111, "refused"), PermissionError(13, "denied", "/models/x")):
        with pytest.raises(type(error)), store.create("x", exclusive=True):
            raise error
