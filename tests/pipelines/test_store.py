"""The store: whole files or none, on a disk and on an object store."""

import pickle
from pathlib import Path

import pyarrow as pa
import pytest

from pairsieve.pipelines.store import Store
from pairsieve.schemas.errors import PoolError


@pytest.fixture(params=["local", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """An empty store."""
    return Store(str(tmp_path / "run") if request.param == "local" else f"memory://store/{tmp_path.name}")


def test_a_file_comes_back(store: Store) -> None:
    """Bytes, JSON and tables, in folders that nobody made."""
    store.write("a/b/c.bin", b"x")
    store.write_json("a/d.json", {"b": "æ", "a": 1})
    store.write_table("t.parquet", pa.table({"a": [1, 2], "b": [3, 4]}))
    assert store.read("a/b/c.bin") == b"x"
    assert store.read("a/d.json").decode() == '{\n  "a": 1,\n  "b": "æ"\n}\n'
    assert store.table("t.parquet", ["b"]).to_pydict() == {"b": [3, 4]}


@pytest.mark.parametrize("exclusive", [True, False])
def test_an_exception_leaves_nothing(store: Store, exclusive: bool) -> None:
    """Neither the file nor anything beside it."""
    store.write("a/other", b"")
    with pytest.raises(RuntimeError), store.create("a/x", exclusive=exclusive) as file:
        file.write(b"half")
        raise RuntimeError
    assert not store.exists("a/x")
    assert [str(p).rsplit("/", 1)[-1] for p in store.fs.ls(store.path("a"), detail=False)] == ["other"]


def test_an_exception_leaves_the_old_file(store: Store) -> None:
    """Replacing is whole or not at all."""
    store.write("x", b"old")
    with pytest.raises(RuntimeError), store.create("x", exclusive=False) as file:
        file.write(b"half")
        raise RuntimeError
    assert store.read("x") == b"old"


def test_a_file_is_not_there_before_its_block_ends(store: Store) -> None:
    """No reader sees a half."""
    with store.create("x", exclusive=True) as file:
        file.write(b"half")
        file.flush()
        assert not store.exists("x")
        assert store.names("") == []
    assert store.exists("x")


def test_the_first_writer_wins(store: Store) -> None:
    """A second exclusive writer is dropped in silence; a plain one replaces."""
    for content in (b"first", b"second"):
        with store.create("x", exclusive=True) as file:
            file.write(content)
    assert store.read("x") == b"first"
    store.write("x", b"third")
    assert store.read("x") == b"third"


def test_of_two_writers_at_once_the_first_to_end_wins(tmp_path: Path) -> None:
    """On a disk this holds even when both began before either ended."""
    store = Store(str(tmp_path))
    with store.create("x", exclusive=True) as slow:
        with store.create("x", exclusive=True) as fast:
            fast.write(b"fast")
        slow.write(b"slow")
    assert store.read("x") == b"fast"
    assert store.names("") == ["x"]


def test_names_are_sorted_files_without_temporaries(store: Store) -> None:
    """A missing folder has none."""
    for name in ("b.parquet", "a.parquet", "c.json", f"d.parquet.{'0' * 32}.tmp"):
        store.write(f"f/{name}", b"")
    assert store.names("f") == ["a.parquet", "b.parquet", "c.json"]
    assert store.names("f", ".parquet") == ["a.parquet", "b.parquet"]
    assert store.names("nothing") == []


def test_clean_removes_what_a_killed_writer_left(tmp_path: Path) -> None:
    """Work files and attempts, at any depth, but no file of the user's."""
    store = Store(str(tmp_path))
    killed = store.create("a/b/x.parquet", exclusive=True)
    killed.__enter__().write(b"half")
    (left,) = (tmp_path / "a/b").iterdir()
    for name in ("a/notes.tmp", "a/x.parquet", "_work/w"):
        store.write(name, b"")
    store.clean()
    assert not left.exists()
    assert sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()) == [
        "a/notes.tmp",
        "a/x.parquet",
    ]


def test_remove_takes_files_and_folders_and_is_content_with_none(store: Store) -> None:
    """Removing twice is no error."""
    for name in ("f/a", "f/g/b", "c"):
        store.write(name, b"")
    for _ in range(2):
        store.remove("f")
        store.remove("c")
    assert not any(store.exists(name) for name in ("f/a", "f/g/b", "c"))


def test_a_store_travels_to_workers(store: Store) -> None:
    """As its root alone, which a worker in another directory understands."""
    store.write("x", b"1")
    copy = pickle.loads(pickle.dumps(store))
    assert (copy.root, copy.read("x")) == (store.root, b"1")


def test_a_relative_root_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker may have another current directory."""
    monkeypatch.chdir(tmp_path)
    assert Store("run").path("x") == f"{tmp_path}/run/x"


def test_an_unknown_protocol_is_an_error_of_the_user() -> None:
    """With the next step."""
    with pytest.raises(PoolError, match=r"xyz://x: .*; install the filesystem's package, or use a local path"):
        Store("xyz://x")


def test_a_folder_goes_although_others_remove_within_it(tmp_path: Path) -> None:
    """A file that goes while the folder is removed leaves no other behind."""
    store = Store(str(tmp_path))

    class Racing(type(store.fs)):  # type: ignore[misc]
        """Removes like the disk, but finds at first that a file has gone."""

        calls = 0

        def rm(self, path: str, recursive: bool = False, maxdepth: int | None = None) -> None:
            Racing.calls += 1
            if Racing.calls == 1:
                raise FileNotFoundError(path)
            super().rm(path, recursive, maxdepth)

    store.fs = Racing()
    store.write("_work/a", b"a")
    store.remove("_work")
    assert not (tmp_path / "_work").exists()
