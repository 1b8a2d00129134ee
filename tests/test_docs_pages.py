"""The pages themselves: YAML, Python and SQL in them hold, and who follows the page on filters gets what it says."""

import ast
import csv
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml

import pairsieve
from pairsieve.filters.load import names
from pairsieve.pipelines.catalog import query
from pairsieve.pipelines.demo_pool import build_pool, write_url_list
from pairsieve.pipelines.demo_replies import image_bytes
from pairsieve.pipelines.demo_server import serve
from pairsieve.pipelines.describe import json_schema
from pairsieve.pipelines.run import load, run
from pairsieve.schemas.errors import UserError
from scripts import cost_model
from tests import support_datacomp
from tests.support_docs import PAGES, ROOT, Block, blocks

EXAMPLES = sorted((ROOT / "docs" / "examples").glob("*.yaml"))
SCHEMA = json_schema()
OTHER_YAML = ("cluster.md",)
"""Pages with YAML that is no recipe."""


def recipe_blocks() -> Iterator[Block]:
    """Blocks of YAML that are recipes, or parts of one."""
    return (block for block in blocks("yaml") if block.page.name not in OTHER_YAML)


@pytest.mark.parametrize("block", list(recipe_blocks()), ids=str)
def test_yaml_is_a_recipe(block: Block) -> None:
    """Every recipe of a page, or part of one, is what the JSON Schema of recipes allows."""
    found = yaml.safe_load(block.text)
    data = {"filters": found} if isinstance(found, list) else found
    jsonschema.validate(data, SCHEMA)


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.stem)
def test_example_is_a_recipe(file: Path) -> None:
    """A filter's example is a whole recipe that uses it."""
    found = yaml.safe_load(file.read_text())
    jsonschema.validate(found, SCHEMA)
    assert {"pool", "filters", "output"} == set(found)
    steps = [step if isinstance(step, str) else next(iter(step)) for step in found["filters"]]
    assert file.stem in steps


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every pool and file that an example names, with next to nothing in it."""
    root = tmp_path_factory.mktemp("examples")
    for folder in ("shards", "eval/imagenet"):
        (root / folder).mkdir(parents=True)
    picture = image_bytes(build_pool(40).pairs[0])
    (root / "eval/imagenet/1.jpg").write_bytes(picture)
    pair = {"text": "a red ball", "width": 300, "height": 200}
    (root / "list.csv").write_text("url,text\nhttp://example.org/1.jpg,a red ball\n")
    pq.write_table(pa.Table.from_pylist([{"image": picture, **pair}]), root / "shards/0.parquet")
    (root / "metadata.txt").write_text("red ball\n")
    support_datacomp.pool(root / "metadata", (20,))
    for name in ("centroids", "in1k_1"):
        np.save(root / f"{name}.npy", np.eye(4, 12, dtype=np.float32))
    for name in ("sac+logos+ava1-l14-linearMSE", "clip_ViT-L-14_openai_binary_nsfw_head"):
        torch.save({"weight": torch.zeros(1, 768), "bias": torch.zeros(1)}, root / f"{name}.pth")
    return root


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.stem)
def test_example_can_be_planned(file: Path, files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With its pool and files beside it a run of it would begin: files are read, columns of every step are there.

    Where a model of a hub is not to be had, that is the one thing it lacks.
    """
    monkeypatch.chdir(files)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # no waiting for a network
    try:
        _, plan, _ = load(str(file))
    except UserError as error:
        assert re.search(r"cannot fetch config.json of '|'en_core_web_sm' is no folder", str(error))
        assert file.stem in ("caption", "choose", "itm", "sieve", "tmars", "entry_cap", "noun_phrases")
    else:
        assert file.stem in [step.id for step in plan.steps]


def test_every_filter_has_an_example() -> None:
    """And there is no example of a filter that is gone."""
    assert [file.stem for file in EXAMPLES] == names()


@pytest.mark.parametrize("block", list(blocks("python")), ids=str)
def test_python_is_sound(block: Block) -> None:
    """It compiles, and what it imports and takes from pairsieve is there."""
    tree = ast.parse(block.text)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pairsieve"):
            module = import_module(str(node.module))
            assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "pairsieve":
            assert hasattr(pairsieve, node.attr)


def files_of(page: Path) -> dict[str, str]:
    """Files that a page says to save, by their names."""
    found = re.findall(r"ave this as `([^`]+)`:\n\n```\w+\n(.*?)^```", page.read_text(), re.M | re.S)
    return dict(found)


def test_filter_page_is_followed(tmp_path: Path) -> None:
    """Its files are saved, its commands typed in order: verdicts, re-used scores and the test are as it says."""
    page = ROOT / "docs" / "write-a-filter.md"
    saved = files_of(page)
    assert set(saved) == {"list.csv", "my_filters.py", "recipe.yaml", "test_my_filters.py"}
    for name, text in saved.items():
        (tmp_path / name).write_text(text)
    outputs = [_type(line, tmp_path) for block in blocks("sh", pages=[page]) for line in block.text.splitlines()]
    shown = dict(zip(("filters", "plan", "run", "query", "plan again", "run again", "test"), outputs, strict=True))
    assert "greatest share of digits that stays" in shown["filters"]
    rows = list(csv.DictReader(shown["query"].splitlines()))
    reasons = {row["text"]: row["reason"] for row in rows}
    assert reasons == {
        "A red kite over the sea": "",
        "DSC 00041 2019 11 07": "too_many_digits",
        "Two dogs in the snow": "",
        "4471-0021-88": "too_many_digits",
        "": "no_text",
    }
    assert [round(float(row["digit_share"]), 2) for row in rows if row["text"].startswith("DSC")] == [0.65]
    assert re.search(r"digits +│ +5 +│ +5 +│ +0 ", shown["plan again"])
    assert "kept 3 of 5" in shown["run again"]
    assert "1 passed" in shown["test"]


def _type(line: str, folder: Path) -> str:
    """What a command of the page prints; it must end well."""
    program = ["-m", "pairsieve"] if line.startswith("pairsieve") else []
    command = re.sub(r"^(pairsieve|python) ", "", line)
    words = [sys.executable, *program, *shlex.split(command)]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def taken_down(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes, list[str]]:
    """A run from which docs/security.md takes a kept image out; gives its folder, the image and its uids."""
    root = tmp_path_factory.mktemp("taken down")
    pool = build_pool(60)
    steps: list[Any] = [
        {"download": {"image_size": 128, "timeout": 2, "patience": 2, "allow_addresses": ["127.0.0.1/32"]}},
        {"image_shape": {"shortest": 50, "aspect": 9}},
    ]
    with serve(pool) as server:
        write_url_list(pool, server.url, root / "list.parquet")
        recipe = {"pool": {"urls": str(root / "list.parquet")}, "filters": steps, "output": {"dataset": True}}
        result = run(recipe, root / "run", engine="local", workers=1)
        (gone,) = result.query(_TWICE).to_pylist()
        (block,) = [b for b in blocks("yaml", pages=[ROOT / "docs/security.md"]) if "uid NOT IN" in b.text]
        named = block.text.replace("0123456789abcdef0123456789abcdef", "', '".join(gone["uids"]))
        recipe["filters"] = [*yaml.safe_load(named)["filters"], *steps]
        (text,) = [b.text for b in blocks("python", pages=[ROOT / "docs/security.md"])]
        text = text.replace('"recipe.yaml", "runs/first"', "recipe, folder, engine='local', workers=1")
        exec(text.replace("the hash that the query gave", gone["sha256"]), {"recipe": recipe, "folder": root / "run"})
    return root / "run", gone["image"], gone["uids"]


_TWICE = """
    SELECT s.sha256, list(DISTINCT s.uid) AS uids, any_value(d.image) AS image
    FROM scores s JOIN dataset d USING (uid) GROUP BY 1 ORDER BY count(DISTINCT s.uid) DESC, 1 LIMIT 1
"""
"""An image that several pairs have."""


def test_a_pair_can_be_taken_out(taken_down: tuple[Path, bytes, list[str]]) -> None:
    """No file of the run holds the image's bytes any more; the verdict says that it is out."""
    folder, image, uids = taken_down
    assert len(image) > 500
    assert len(uids) > 1
    assert [str(file) for file in folder.rglob("*") if file.is_file() and image in file.read_bytes()] == []
    tables = [pq.read_table(file) for file in folder.rglob("*.parquet")]
    assert not any(image in table["image"].to_pylist() for table in tables if "image" in table.column_names)
    verdicts = query(str(folder), "SELECT uid, dropped_by FROM verdicts WHERE dropped_by = 'where'")
    assert set(verdicts["uid"].to_pylist()) == set(uids)


def test_cost_page_has_the_tables_of_the_model() -> None:
    """docs/cost.md is what the script would write; ``python -m scripts.cost_model --write docs/cost.md`` renews it."""
    text = (ROOT / "docs/cost.md").read_text()
    assert cost_model.page_with_tables(text) == text


@pytest.mark.parametrize("name", [n for n, c in cost_model.CONSTANTS.items() if c.quote])
def test_measured_constants_stand_in_their_files(name: str) -> None:
    """The words that a constant quotes are in the file that it names: a figure measured anew is seen here."""
    constant = cost_model.CONSTANTS[name]
    assert constant.quote in (ROOT / constant.source).read_text()


def test_every_measured_constant_quotes_its_file() -> None:
    """None is called measured without a place where that can be read."""
    assert [n for n, c in cost_model.CONSTANTS.items() if c.basis == "measured" and not c.quote] == []


def test_costs_grow_with_the_pool_and_the_price() -> None:
    """Work is proportional to the pairs; a dearer GPU makes only what uses it dearer; storage is the images'."""
    plain, dear = cost_model.values(), cost_model.values({"gpu_dollars": 5.0})
    for work in cost_model.WAYS.values():
        one, ten = work(1e8, plain), work(1e9, plain)
        assert ten.cpu_hours == pytest.approx(10 * one.cpu_hours)
        assert (cost_model.dollars(one, dear) > cost_model.dollars(one, plain)) == (one.gpu_hours > 0)
    by_hand = 1e6 * 0.7 * 35 / 1e9
    assert cost_model.scored(1e6, plain).stored_tb == pytest.approx(by_hand)
    gpu_seconds = 1e6 * 0.7 * 175.3e9 / 120e12
    assert cost_model.scored(1e6, plain).gpu_hours == pytest.approx(gpu_seconds / 3600)


def test_an_unknown_constant_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    """A typo in ``--set`` ends in one line that lists what there is; a size of nothing is refused."""
    with pytest.raises(SystemExit, match="no constant 'gpu_dolars'; there are: top_us"):
        cost_model.main(["--set", "gpu_dolars=2"])
    for wrong in ("0", "-5M", "many"):
        with pytest.raises(SystemExit):
            cost_model.main(["--pairs", wrong])
    assert "error" in capsys.readouterr().err


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_to_files_lead_somewhere(page: Path) -> None:
    """Every relative link of a page, also outside docs/, is a file that is there, with its heading."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not re.match(r"[a-z]+:", target):
            file, _, anchor = target.partition("#")
            whole = (page.parent / file) if file else page
            made = whole.name in MADE or whole.parent.name == "filter-reference"
            assert made or whole.exists(), f"{page.name}: {target}"
            assert not anchor or made or anchor in headings(whole), f"{page.name}: {target}"


MADE = ("pools.md", "shipped-recipes.md", "cli-reference.md", "benchmarks.md", "changelog.md")
"""Pages that are made when the site is built."""


def headings(page: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub and the site make them."""
    found = re.findall(r"^#+ (.+)$", page.read_text(), re.M)
    return {
        re.sub(r"[^\w\- ]", "", re.sub(r"`|\*|\[([^\]]*)\]\([^)]*\)", r"\1", one).lower()).replace(" ", "-")
        for one in found
    }
