"""The notebooks: each runs from nothing in a clean folder without a warning; what is stored is small and clean.

What a notebook claims it asserts itself, in the cells that are read.
"""

import base64
import re
import shutil
from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode

from scripts.run_notebooks import execute, warnings

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
LARGEST = 300_000
"""Bytes of a stored notebook."""


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the notebooks without what they show, and of the page that one of them reads."""
    root = tmp_path_factory.mktemp("notebooks")
    for folder in ("notebooks", "docs"):
        (root / folder).mkdir()
    shutil.copy(ROOT / "docs/track.md", root / "docs/track.md")
    for file in NOTEBOOKS:
        notebook = nbformat.read(file, as_version=4)
        for cell in code(notebook):
            cell.outputs, cell.execution_count = [], None
        nbformat.write(notebook, root / "notebooks" / file.name)
    return root / "notebooks"


def code(notebook: NotebookNode) -> list[NotebookNode]:
    """Cells that are run."""
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def pictures(notebook: NotebookNode) -> list[bytes]:
    """Every plot as PNG."""
    data = [output.get("data", {}) for cell in code(notebook) for output in cell.outputs]
    return [base64.b64decode(one["image/png"]) for one in data if "image/png" in one]


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_notebook_runs(file: Path, clean: Path) -> None:
    """From nothing: no cell raises, none warns, and as many plots come as are stored."""
    done = execute(clean / file.name)
    assert warnings(done) == []
    assert len(pictures(done)) == len(pictures(nbformat.read(file, as_version=4)))


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_stored_notebook_is_whole(file: Path) -> None:
    """Every cell was run, in order, without a warning or an error."""
    stored = nbformat.read(file, as_version=4)
    nbformat.validate(stored)
    assert [cell.execution_count for cell in code(stored)] == list(range(1, len(code(stored)) + 1))
    assert warnings(stored) == []
    assert len(pictures(stored)) >= 3


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_stored_notebook_is_small_and_clean(file: Path) -> None:
    """It is under 300 kB and has no path of a machine, no port, no time of the day."""
    text = file.read_text()
    shown = str([cell.outputs for cell in code(nbformat.read(file, as_version=4))])
    assert len(text.encode()) < LARGEST
    assert re.findall(r"/(?:tmp|home|root|work|usr)/|127\.0\.0\.1|\d\d:\d\d:\d\d", shown) == []


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_notebook_asks_one_question(file: Path) -> None:
    """Its title is a question, and it checks what it says."""
    stored = nbformat.read(file, as_version=4)
    title = stored.cells[0].source.split("\n")[0]
    assert title.startswith("# ") and title.endswith("?")
    assert sum(cell.source.count("\nassert ") for cell in code(stored)) >= 5
