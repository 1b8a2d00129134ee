"""A run in the directory of another recipe's says so; the same recipe again says nothing."""

from pathlib import Path
from typing import Any

import pytest

from pairsieve.pipelines.progress import Lines
from pairsieve.pipelines.replaced import notice
from pairsieve.pipelines.run import run
from pairsieve.pipelines.store import Store
from tests.support import numbered_rows, recipe, write_csv


def said(data: dict[str, Any], out: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """What a run says of the one before it."""
    capsys.readouterr()
    run(data, out, workers=1, progress=Lines())
    return "".join(line for line in capsys.readouterr().err.splitlines() if "another recipe" in line)


def test_another_recipe_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Once, with the parts that differ."""
    pool, out = write_csv(tmp_path / "list.csv", numbered_rows(20)), tmp_path / "run"
    one, other = recipe(pool, "caption_words"), recipe(pool, {"caption_words": {"least": 2}}, seed=3)
    found = [said(data, out, capsys) for data in (one, one, other, other)]
    assert found[:2] == ["", ""] and found[3] == ""
    assert found[2] == f"{out}: another recipe ran here (filters, seed); its outputs are replaced, scores re-used"


@pytest.mark.parametrize("text", [b"", b"\xff", b"recipe: [1", b"recipe: {a: 1}"])
def test_damaged_run_file(tmp_path: Path, text: bytes) -> None:
    """Nothing is known of the run before."""
    (tmp_path / "run.yaml").write_bytes(text)
    assert notice(Store(str(tmp_path)), {"seed": 1}) is None
