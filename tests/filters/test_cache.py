"""Arrays kept between processes."""

import multiprocessing
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pairsieve.filters import image_cluster
from pairsieve.filters._cache import cached, mapped
from pairsieve.filters.image_cluster import ImageCluster


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own."""
    monkeypatch.setenv("PAIRSIEVE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


class Counter:
    """Gives an array, and counts how often."""

    calls = 0

    def __call__(self) -> NDArray[np.int32]:
        """One more."""
        self.calls += 1
        return np.arange(self.calls, dtype=np.int32)


def test_made_once_for_the_same_files(tmp_path: Path) -> None:
    """Again where a file or what else decides has changed."""
    (tmp_path / "a").write_text("one")
    make, files = Counter(), [str(tmp_path / "a")]
    assert [len(cached(what, files, make)) for what in ("x", "x", "y", "x")] == [1, 1, 2, 1]
    (tmp_path / "a").write_text("other")
    assert len(cached("x", files, make)) == 3


@pytest.mark.parametrize("content", [b"", b"no array", b"\x93NUMPY\x01\x00"])
def test_damaged_file_is_made_again(tmp_path: Path, folder: Path, content: bytes) -> None:
    """And replaced."""
    make = Counter()
    cached("x", [], make)
    (file,) = folder.glob("*.npy")
    file.write_bytes(content)
    assert len(cached("x", [], make)) == 2 and len(cached("x", [], make)) == 2


def test_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Costs the time, not the run."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PAIRSIEVE_CACHE", str(tmp_path / "file" / "below"))
    make = Counter()
    assert [len(cached("x", [], make)) for _ in range(2)] == [1, 2]


def _slow(log: str) -> None:
    def make() -> NDArray[np.int32]:
        with Path(log).open("a") as file:
            file.write("made\n")
        time.sleep(0.3)
        return np.zeros(1, np.int32)

    cached("x", [], make)


def test_one_process_makes_it_for_all(tmp_path: Path) -> None:
    """The others wait."""
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_slow, args=(str(tmp_path / "log"),)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert (tmp_path / "log").read_text() == "made\n"


@pytest.mark.parametrize("is_written", [True, False])
def test_several_arrays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_written: bool) -> None:
    """Arrays of any size, shape and number type come back as they were, mapped or made, and cannot be written to."""
    if not is_written:
        (tmp_path / "file").write_text("")
        monkeypatch.setenv("PAIRSIEVE_CACHE", str(tmp_path / "file" / "below"))
    made: dict[str, NDArray[Any]] = {"a": np.arange(7, dtype=np.uint8), "b": np.empty((0, 3), np.float32)}
    made |= {"c": np.eye(5)[:, ::2], "d": np.ones(0)}
    calls = []

    def make() -> dict[str, NDArray[Any]]:
        calls.append("made")
        return {name: array.copy() for name, array in made.items()}

    for _ in range(2):
        found = mapped("x", [], make)
        assert list(found) == list(made)
        for name, array in found.items():
            np.testing.assert_array_equal(array, made[name], strict=True)
            assert not array.flags.writeable
    assert len(calls) == (1 if is_written else 2)


def test_targets_are_assigned_once(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second time they come from the cache, and are the same."""
    rng = np.random.default_rng(0)
    np.save(tmp_path / "c.npy", rng.standard_normal((9, 4)).astype(np.float32))
    np.save(tmp_path / "t.npy", rng.standard_normal((5, 4)).astype(np.float32))
    made = ImageCluster(features="f", centroids=str(tmp_path / "c.npy"), targets=str(tmp_path / "t.npy"))
    found = []
    for most in (10**9, 0, 0):
        monkeypatch.setattr(image_cluster, "CACHED_BYTES", most)
        opened = made.model_copy()
        opened.open()
        assert opened._is_target is not None
        found.append(opened._is_target.tolist())
    assert found[0] == found[1] == found[2] and len(list(folder.glob("*.npy"))) == 1
