"""Compiled kernels: compiled once for a machine, and never the reason why a run ends."""

import os
import subprocess
import sys
from pathlib import Path

CODE = """
from numba import types
from pairsieve.filters._jit import kernel

@kernel(types.int64(types.int64))
def twice(x: int) -> int:
    return 2 * x

print(twice(21), sum(twice.stats.cache_hits.values()))
"""


def twice(folder: Path, **environment: str) -> list[int]:
    """The answer of a small kernel in a new process, and whether it came from the cache."""
    path = folder / "small.py"
    if not path.exists():
        path.write_text(CODE)
    said = subprocess.run(
        [sys.executable, str(path)],
        env={**os.environ, "PYTHONPATH": str(Path.cwd()), **environment},
        check=True,
        capture_output=True,
        text=True,
    )
    assert not said.stderr
    return [int(number) for number in said.stdout.split()]


def test_compiled_once(tmp_path: Path) -> None:
    """The second process takes what the first one compiled, from beside the module."""
    assert [twice(tmp_path), twice(tmp_path)] == [[42, 0], [42, 1]]
    assert list((tmp_path / "__pycache__").glob("*.nbc"))


def test_folder_of_the_user(tmp_path: Path) -> None:
    """NUMBA_CACHE_DIR is where it is kept instead."""
    assert twice(tmp_path, NUMBA_CACHE_DIR=str(tmp_path / "cache")) == [42, 0]
    assert list((tmp_path / "cache").rglob("*.nbc")) and not (tmp_path / "__pycache__").exists()


def test_read_only_package(tmp_path: Path) -> None:
    """Where nothing can be kept beside the module, it is kept in the user's cache."""
    (tmp_path / "__pycache__").write_text("a file, so that no folder can be made")
    home = tmp_path / "home"
    assert twice(tmp_path, HOME=str(home), XDG_CACHE_HOME=str(home / ".cache")) == [42, 0]
    assert list((home / ".cache" / "numba").rglob("*.nbc"))


def test_nowhere_to_write(tmp_path: Path) -> None:
    """Where no folder can be written, it is compiled all the same."""
    nowhere = {"NUMBA_CACHE_DIR": "/dev/null/x", "NUMBA_CACHE_LOCATOR_CLASSES": "UserProvidedCacheLocator"}
    assert twice(tmp_path, **nowhere) == [42, 0]


def test_damaged_cache(tmp_path: Path) -> None:
    """Damaged files of the cache cost the time of compiling."""
    twice(tmp_path)
    for kind in ("*.nbc", "*.nbi"):
        for file in (tmp_path / "__pycache__").glob(kind):
            file.write_bytes(b"\x80\x05")
        assert twice(tmp_path)[0] == 42
