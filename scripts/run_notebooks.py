"""Execute the notebooks of a folder and store what they show: `make notebooks`.  About a minute on two cores.

    python -m scripts.run_notebooks notebooks

A notebook that raises, or writes a warning, is named and left as it was.
"""

import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode

SECONDS = 240
"""Of one cell, at most."""


def execute(file: Path) -> NotebookNode:
    """The notebook run from its beginning in its own folder, with no times of the day in it."""
    notebook = nbformat.read(file, as_version=4)
    settings = {"timeout": SECONDS, "kernel_name": "python3", "record_timing": False}
    NotebookClient(notebook, resources={"metadata": {"path": str(file.parent)}}, **settings).execute()
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    return notebook


def warnings(notebook: NotebookNode) -> list[str]:
    """What its cells wrote to the standard error."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return [output.text for output in outputs if output.get("name") == "stderr"]


def main() -> None:
    """Every notebook of the folder, one after the other."""
    failed = 0
    for file in sorted(Path(sys.argv[1]).glob("*.ipynb")):
        try:
            done = execute(file)
        except CellExecutionError as error:
            print(f"error: {file}: {error}", file=sys.stderr)
            failed += 1
            continue
        if said := warnings(done):
            print(f"error: {file}: writes warnings: {said[0]}", file=sys.stderr)
            failed += 1
            continue
        nbformat.write(done, file)
        print(file)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
