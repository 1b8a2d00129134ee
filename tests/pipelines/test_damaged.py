"""A run directory in which somebody else, or a broken disk, wrote: done again, or one line."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pairsieve.pipelines import catalog, provenance
from pairsieve.pipelines.run import run
from pairsieve.schemas.errors import StorageError, UserError
from tests.support import digests, numbered_rows, recipe, write_csv

MANIFESTS = ["run.yaml", "pairs/_pool.json", "dataset/_manifest.json", "catalog.duckdb"]
CONTENTS = {
    "empty": b"",
    "binary": bytes(range(256)) * 3,
    "list": b"[]",
    "null": b"null",
    "text": b'"x"',
    "mapping": b"{}",
    "deep": b'{"identity": [], "version": null, "shards": [null], "recipe": {"output": "x"}, "files": {}}',
}


Finished = tuple[dict[str, Any], Path]


@pytest.fixture(scope="module")
def _finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    folder = tmp_path_factory.mktemp("damaged")
    pool = write_csv(folder / "list.csv", numbered_rows(250))
    made = recipe(pool, {"caption_words": {"least": 2}}, "exact_duplicates")
    run(made, folder / "run", workers=1)
    return made, folder / "run"


@pytest.fixture
def made(_finished: Finished) -> dict[str, Any]:
    """A recipe with every kind of output."""
    return _finished[0]


@pytest.fixture
def folder(_finished: Finished, tmp_path: Path) -> Path:
    """A finished run of it, to damage."""
    return shutil.copytree(_finished[1], tmp_path / "run")


@pytest.mark.parametrize("name", MANIFESTS)
def test_a_damaged_manifest_is_written_again(made: dict[str, Any], folder: Path, name: str) -> None:
    """Whatever stands in it, the same command ends with the same bytes."""
    wanted, content = digests(folder), (folder / name).read_bytes()
    for damage in CONTENTS.values():
        (folder / name).write_bytes(damage)
        assert run(made, folder, workers=1).query("SELECT count(*) AS n FROM pairs")["n"].to_pylist() == [250]
        assert digests(folder) == wanted
        assert (folder / name).read_bytes() == content or name == "catalog.duckdb"


@pytest.mark.parametrize("name", ["pairs/_pool.json", "dataset/_manifest.json", "catalog.duckdb"])
def test_a_directory_for_a_manifest_makes_room(made: dict[str, Any], folder: Path, name: str) -> None:
    """Where the run replaces the file anyway."""
    wanted = digests(folder)
    (folder / name).unlink()
    (folder / name / "sub").mkdir(parents=True)
    run(made, folder, workers=1)
    assert digests(folder) == wanted


@pytest.mark.parametrize("name", ["run.yaml", "subset.npy", ".lock"])
def test_a_directory_for_a_file_is_one_line(made: dict[str, Any], folder: Path, name: str) -> None:
    """Named, with the next step; nothing of it is removed."""
    (folder / name).unlink()
    (folder / name / "sub").mkdir(parents=True)
    with pytest.raises((StorageError, UserError), match=rf"run/{name}: Is a directory; (remove|choose)"):
        run(made, folder, workers=1)
    assert (folder / name / "sub").exists()


@pytest.mark.parametrize("name", ["pairs", "scores", "verdicts", "dataset"])
def test_a_file_for_a_folder_is_replaced_or_one_line(made: dict[str, Any], folder: Path, name: str) -> None:
    """Never a traceback."""
    (folder / name).rename(folder / "moved")
    (folder / name).write_bytes(b"x")
    try:
        run(made, folder, workers=1)
    except StorageError as error:
        assert f"run/{name}" in str(error)
        assert "remove the file that stands where a directory belongs" in str(error)


QUESTIONS: dict[str, Callable[[str], Any]] = {
    "why": lambda root: provenance.why(root, "0" * 32),
    "query": lambda root: catalog.query(root, "SELECT 1"),
}


@pytest.mark.parametrize(
    ("question", "name"), [("why", "run.yaml"), ("why", "catalog.duckdb"), ("query", "catalog.duckdb")]
)
@pytest.mark.parametrize("damage", [*CONTENTS, "directory"])
def test_questions_to_a_damaged_run_are_one_line(folder: Path, question: str, name: str, damage: str) -> None:
    """What is damaged, and the next step."""
    (folder / name).unlink()
    (folder / name).mkdir() if damage == "directory" else (folder / name).write_bytes(CONTENTS[damage])
    with pytest.raises(UserError, match=rf"run: {name} is damaged; run the recipe again"):
        QUESTIONS[question](str(folder))
