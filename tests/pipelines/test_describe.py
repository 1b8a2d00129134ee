"""What people and editors are shown: tables, filter pages, the JSON Schema."""

import json
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console, RenderableType

from pairsieve.filters.load import describe, load, names
from pairsieve.pipelines.describe import filter_page, filters_table, json_schema
from pairsieve.pipelines.estimate import estimate
from pairsieve.pipelines.plan_page import plan_page
from pairsieve.pipelines.progress import Silent
from pairsieve.pipelines.recipe import check
from pairsieve.pipelines.recipe_file import from_data, shipped
from pairsieve.pipelines.run import load as load_recipe
from pairsieve.schemas.errors import RecipeError, UserError

jsonschema = pytest.importorskip("jsonschema")

GOOD: list[Any] = [
    {"pool": {"urls": "x.csv"}},
    {"extends": "demo", "seed": 3},
    {"pool": {"pairs": {"path": "x", "columns": ["a"]}}, "filters": []},
    {"pool": {"urls": "x"}, "filters": ["caption_words", "image_shape", "exact_duplicates"]},
    {"pool": {"urls": "x"}, "filters": [{"caption_words": None}, {"where": "true"}]},
    {"pool": {"urls": "x"}, "filters": [{"where": {"expression": "true", "as": "a", "of": "pool"}}]},
    {"pool": {"urls": "x"}, "filters": [{"exact_duplicates": {"by": "url"}}]},
    {"pool": {"urls": "x"}, "filters": [{"exact_duplicates": {"by": ["sha256", ["url", "text"]], "prefer": "uid"}}]},
    {"pool": {"urls": "x"}, "filters": [{"clip_score": {"column": "s", "top": 0.3}}]},
    {"pool": {"urls": "x"}, "output": {"dataset": True, "subset": "s.npy"}},
    {"pool": {"urls": "x"}, "output": {"dataset": {"rows_per_file": 5}}},
    {"pool": {"urls": "x"}, "output": {"dataset": None, "subset": None}, "seed": 0},
]
BAD: list[Any] = [
    [],
    {"pol": {"urls": "x"}},
    {"pool": {"urls": "x", "pairs": "y"}},
    {"pool": {"url": "x"}},
    {"pool": {"urls": {"path": "x", "shard_rows": 0}}},
    {"pool": {"urls": "x"}, "filters": {"where": "true"}},
    {"pool": {"urls": "x"}, "filters": ["caption_word"]},
    {"pool": {"urls": "x"}, "filters": ["where"]},
    {"pool": {"urls": "x"}, "filters": [{"where": None}]},
    {"pool": {"urls": "x"}, "filters": [{"where": 3}]},
    {"pool": {"urls": "x"}, "filters": [{"where": {"expression": "true", "as": "A b"}}]},
    {"pool": {"urls": "x"}, "filters": [{"where": {"expression": "true", "of": "all"}}]},
    {"pool": {"urls": "x"}, "filters": [{"where": "true", "caption_words": {}}]},
    {"pool": {"urls": "x"}, "filters": [{"caption_words": {"lest": 1}}]},
    {"pool": {"urls": "x"}, "filters": [{"caption_words": {"least": -1}}]},
    {"pool": {"urls": "x"}, "filters": [{"caption_words": 5}]},
    {"pool": {"urls": "x"}, "filters": [{"exact_duplicates": {"by": []}}]},
    {"pool": {"urls": "x"}, "filters": [{"clip_score": {"column": "s", "top": 2}}]},
    {"pool": {"urls": "x"}, "output": {"subset": "a/b.npy"}},
    {"pool": {"urls": "x"}, "output": {"datasets": {}}},
    {"pool": {"urls": "x"}, "seed": -1},
]


def shown(*parts: RenderableType) -> str:
    """As a terminal shows it."""
    out = StringIO()
    console = Console(file=out, width=400, color_system=None)
    for part in parts:
        console.print(part)
    return out.getvalue()


@pytest.fixture(scope="module")
def validator() -> Any:
    """A validator of the schema, which is itself valid, as JSON."""
    schema = json.loads(json.dumps(json_schema()))
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


@pytest.mark.parametrize("recipe", GOOD, ids=str)
def test_good(validator: Any, recipe: Any) -> None:
    """Editors accept what the program accepts."""
    assert [error.message for error in validator.iter_errors(recipe)] == []
    if "extends" not in recipe:
        check(from_data(recipe))


@pytest.mark.parametrize("recipe", BAD, ids=str)
def test_bad(validator: Any, recipe: Any) -> None:
    """Editors mark what the program refuses."""
    assert not validator.is_valid(recipe)
    if isinstance(recipe, dict):
        with pytest.raises(RecipeError):
            check(from_data(recipe))


@pytest.mark.parametrize("name", sorted(shipped()))
def test_shipped(validator: Any, name: str) -> None:
    """Shipped recipes carry no mark in an editor."""
    recipe = yaml.safe_load(shipped()[name].read_text())
    assert [error.message for error in validator.iter_errors(recipe)] == []


@pytest.mark.parametrize("name", names())
def test_page(name: str) -> None:
    """A filter's page shows its text and each setting with its type, default and meaning, to the letter."""
    page = shown(*filter_page(name))
    assert (load(name).__doc__ or "").strip().split("\n")[0] in page
    for row in describe(load(name)):
        for cell in ("name", "type", "default"):
            assert row[cell] in page


def test_table() -> None:
    """Every filter is listed."""
    assert [name for name in names() if name not in shown(filters_table())] == []


def test_no_page() -> None:
    """A page of no filter is the user's mistake."""
    with pytest.raises(UserError, match="did you mean 'where'"):
        filter_page("were")


def test_plan_table(tmp_path: Path) -> None:
    """A plan shows its steps as they were written, brackets too."""
    (tmp_path / "pool.csv").write_text("url,text,[bold]\nu,a,1\n")
    steps = [{"where": "text[1:2] = [text][1] or text = '[/red]'"}, {"caption_words": {"least": 4}}]
    pool, plan, _ = load_recipe({"pool": {"urls": tmp_path / "pool.csv"}, "filters": steps})
    page = shown(*plan_page(plan, estimate(pool, plan, sample_rows=0, progress=Silent())))
    assert "[text][1] or text = '[/red]'" in page and "least: 4" in page and "[bold]" in page
