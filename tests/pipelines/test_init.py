"""init: every combination of answers is a recipe that validates, some are run, and nonsense is refused."""

import csv
import json
import subprocess
import sys
from collections.abc import Callable
from itertools import product
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from pairsieve.pipelines.cli import app
from pairsieve.pipelines.init_ask import languages
from pairsieve.pipelines.init_look import Found, look
from pairsieve.pipelines.init_recipe import PURPOSES, STRICTNESS, WRITES, Answers, recipe_text
from pairsieve.pipelines.run import load
from pairsieve.pipelines.run import run as run_recipe
from pairsieve.schemas.errors import UserError
from tests import support_datacomp
from tests.support_pools import write_img2dataset, write_pairs, write_webdataset

CLIP = ("--clip-model", "pairsieve-demo")


def _urls(root: Path) -> object:
    with (root / "list.csv").open("w", newline="") as file:
        rows = [(f"http://e.org/{i}.jpg", f"a picture of thing number {i}", i) for i in range(40)]
        csv.writer(file).writerows([("URL", "alt", "width"), *rows])
    return None


def _datacomp(root: Path) -> object:
    return support_datacomp.pool(root)


WRITERS: dict[str, Callable[[Path], object]] = {
    "urls": _urls,
    "datacomp": _datacomp,
    "img2dataset": write_img2dataset,
    "webdataset": write_webdataset,
    "pairs": write_pairs,
}


@pytest.fixture(scope="module")
def pools(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder of each kind of pool, and entries for a balance."""
    root = tmp_path_factory.mktemp("pools of mine")
    for kind, write in WRITERS.items():
        (root / kind).mkdir()
        write(root / kind)
    (root / "entries.txt").write_text("picture\nthing\nphoto\n")
    return {kind: root / kind for kind in WRITERS} | {"entries": root / "entries.txt"}


def init(*arguments: str, typed: str | None = None) -> Result:
    """Run the command in this process, with answers typed or none asked."""
    return CliRunner().invoke(app, ["init", *arguments, *([] if typed is not None else ["--yes"])], input=typed)


@pytest.mark.parametrize("kind", WRITERS)
def test_a_folder_is_known(pools: dict[str, Path], kind: str) -> None:
    """What lies in a folder is taken for what it is."""
    assert look(str(pools[kind])).kind == kind


def test_columns_are_guessed(pools: dict[str, Path]) -> None:
    """URLs and captions are found under the names that lists give them."""
    found = look(str(pools["urls"] / "list.csv"))
    assert (found.url_col, found.caption_col) == ("URL", "alt")


def test_a_list_without_captions_is_not_judged_by_them(tmp_path: Path) -> None:
    """Bare URLs get a recipe that would not drop each of them for its missing words; what needs captions is refused."""
    (tmp_path / "urls.txt").write_text("http://e.org/1.jpg\nhttp://e.org/2.jpg\n")
    given_ = ("--path", str(tmp_path / "urls.txt"))
    assert init(str(tmp_path / "r.yaml"), *given_).exit_code == 0
    steps = [next(iter(step)) for step in yaml.safe_load((tmp_path / "r.yaml").read_text())["filters"]]
    assert steps == ["exact_duplicates", "download", "image_shape", "exact_duplicates"]
    refused = init(str(tmp_path / "x.yaml"), *given_, "--strict", "clip")
    assert "--strict clip: needs captions" in str(refused.exception)


def test_images_in_structs_are_found(tmp_path: Path) -> None:
    """Parquet as the datasets library writes it: the image is a struct with bytes."""
    pq.write_table(pa.table({"image": [{"bytes": b"x", "path": "a.jpg"}], "caption": ["a"]}), tmp_path / "x.parquet")
    found = look(str(tmp_path / "x.parquet"))
    assert (found.kind, found.image_col, found.caption_col) == ("pairs", "image", "caption")


def test_a_column_of_addresses_is_found_by_its_values(tmp_path: Path) -> None:
    """Where no name helps, the column that holds addresses is that of URLs."""
    (tmp_path / "x.csv").write_text("words,where\na cat,https://e.org/1.jpg\na dog,https://e.org/2.jpg\n")
    found = look(str(tmp_path / "x.csv"))
    assert (found.url_col, found.caption_col) == ("where", "words")


@pytest.mark.parametrize("kind", WRITERS)
def test_every_combination_validates(pools: dict[str, Path], tmp_path: Path, kind: str) -> None:
    """All answers together give a recipe whose columns, settings and outputs are checked as for a run."""
    pool = look(str(pools[kind]))
    choices = product(PURPOSES, (("en",), ()), STRICTNESS, WRITES)
    for number, (purpose, spoken, strict, write) in enumerate(choices):
        made = Answers(pool, purpose, spoken, strict, write, str(pools["entries"]), "pairsieve-demo", None)  # type: ignore[arg-type]
        file = tmp_path / f"{number}.yaml"
        file.write_text(recipe_text(made))
        _, plan, _ = load(file)
        assert (plan.recipe.output.subset is not None) == (write != "dataset")
        assert (plan.recipe.output.dataset is not None) == (write != "subset")
        assert ("clip_score" in [step.name for step in plan.steps]) == (strict == "clip")


@pytest.mark.parametrize(
    ("kind", "strict", "write"),
    [("webdataset", "basic", "both"), ("pairs", "clip", "dataset"), ("datacomp", "balance", "subset")],
)
def test_recipes_run(pools: dict[str, Path], tmp_path: Path, kind: str, strict: str, write: str) -> None:
    """What init writes runs to its end and gives every pair a verdict."""
    file = tmp_path / "recipe.yaml"
    given_ = ("--path", str(pools[kind]), "--strict", strict, "--write", write, "--language", "any", *CLIP)
    done = init(str(file), *given_, "--metadata", str(pools["entries"]))
    assert done.exit_code == 0, done.output
    result = run_recipe(file, tmp_path / "run", engine="local", workers=1)
    assert result.query("SELECT count(*) AS n FROM verdicts")["n"].to_pylist() == [result.rows]
    assert (tmp_path / "run" / "kept.npy").exists() == (write != "dataset")


def test_plan_accepts_it(pools: dict[str, Path], tmp_path: Path) -> None:
    """The first of the commands that init names works as printed."""
    file = tmp_path / "recipe.yaml"
    told = json.loads(init(str(file), "--path", str(pools["urls"]), "--json").stdout)
    assert told["pool"] == "urls"
    assert told["needs"] == []
    assert told["next"][0].split()[-2:] == ["plan", str(file)]
    done = CliRunner().invoke(app, ["plan", str(file), "--sample", "0", "--json"])
    assert json.loads(done.stdout)["pool"]["rows"]["value"] == 40


def test_questions_are_asked_one_by_one(pools: dict[str, Path], tmp_path: Path) -> None:
    """Numbers, names and Enter are answers; the questions stand on standard error."""
    file = tmp_path / "recipe.yaml"
    typed = "\n".join([str(pools["webdataset"]), "yes", "2", "any", "clip", "3", ""])
    done = init(str(file), *CLIP, typed=typed)
    assert done.exit_code == 0, done.output
    data = yaml.safe_load(file.read_text())
    assert data["pool"]["webdataset"] == {"path": str(pools["webdataset"])}
    assert [next(iter(step)) for step in data["filters"]] == [
        "caption_words",
        "image_shape",
        "exact_duplicates",
        "clip_score",
    ]
    assert data["output"].keys() == {"dataset", "subset"}
    assert "What are the pairs for?" in done.stderr
    assert "What are the pairs for?" not in done.stdout


def test_nonsense_is_refused_and_asked_again(pools: dict[str, Path], tmp_path: Path) -> None:
    """A path that is not there, a number that is none, a language that nobody speaks: a line, then the question."""
    file = tmp_path / "recipe.yaml"
    answers = ["", "/nowhere/at/all", str(pools["pairs"]), "maybe", "y", "9", "clip", "klingonese", "en", "-1", "basic"]
    done = init(str(file), typed="\n".join([*answers, "gold", "both", ""]))
    assert done.exit_code == 0, done.output
    for line in ("no such file", "maybe: yes, or one of", "9: there are clip, captioning", "klingonese", "gold: there"):
        assert line in done.stderr


def test_the_kind_may_be_put_right(pools: dict[str, Path], tmp_path: Path) -> None:
    """The guess may be answered with another kind, which then counts."""
    file = tmp_path / "recipe.yaml"
    done = init(str(file), typed="\n".join([str(pools["img2dataset"]), "webdataset", "", "", "", "", ""]))
    assert done.exit_code == 0, done.output
    assert "webdataset" in yaml.safe_load(file.read_text())["pool"]


def test_an_existing_file_stays(pools: dict[str, Path], tmp_path: Path) -> None:
    """Without agreement nothing is overwritten; --force agrees."""
    file = tmp_path / "recipe.yaml"
    file.write_text("mine")
    given_ = ("--path", str(pools["urls"]))
    assert "exists; name another file, or --force" in str(init(str(file), *given_).exception)
    refused = init(str(file), *given_, typed="n\n")
    assert "left as it is" in str(refused.exception)
    assert file.read_text() == "mine"
    assert init(str(file), *given_, "--force").exit_code == 0
    assert file.read_text() != "mine"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "--path is missing"),
        (["--path", "nowhere.csv"], "--path nowhere.csv: no such file"),
        (["--path", "{urls}", "--pool", "ftp"], "--pool ftp: there are urls"),
        (["--path", "{urls}", "--purpose", "fun"], "--purpose fun: there are clip, captioning"),
        (["--path", "{urls}", "--language", "klingonese"], "--language 'klingonese' is no code"),
        (["--path", "{urls}", "--url-col", "nope"], "--url-col nope: no such column; there are URL, alt, width"),
        (["--path", "{urls}", "--strict", "clip", "--clip-model", "ViT-Z"], "ViT-Z"),
    ],
)
def test_options_are_checked(pools: dict[str, Path], tmp_path: Path, arguments: list[str], says: str) -> None:
    """A wrong option is one line, and no file is written."""
    file = tmp_path / "recipe.yaml"
    done = init(str(file), *(text.format(urls=pools["urls"] / "list.csv") for text in arguments))
    assert isinstance(done.exception, UserError)
    assert says in str(done.exception)
    assert not file.exists()


@pytest.mark.parametrize(
    ("name", "says"), [("recipe.txt", "a recipe is a .yaml file"), ("no/folder/r.yaml", "there is no folder")]
)
def test_file_that_cannot_be_written_is_told_first(tmp_path: Path, name: str, says: str) -> None:
    """Nothing is asked for a file that cannot come to be."""
    done = init(str(tmp_path / name), typed="")
    assert says in str(done.exception)


def test_end_of_input_writes_nothing(pools: dict[str, Path], tmp_path: Path) -> None:
    """Ctrl-D in the middle: a line, exit code 130, no file."""
    command = [sys.executable, "-m", "pairsieve", "init", "recipe.yaml"]
    done = subprocess.run(
        command, cwd=tmp_path, input=f"{pools['urls']}\n", capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 130
    assert done.stderr.rstrip().endswith("stopped")
    assert list(tmp_path.iterdir()) == []


def test_missing_entries_come_first(pools: dict[str, Path], tmp_path: Path) -> None:
    """A balance without its list names the command that makes it."""
    given_ = ("--path", str(pools["urls"]), "--strict", "balance", "--metadata", str(tmp_path / "gone.parquet"))
    told = json.loads(init(str(tmp_path / "r.yaml"), *given_, "--json").stdout)
    assert told["needs"] == [f"pairsieve metadata {tmp_path / 'gone.parquet'}"]


@given(st.text(min_size=1).filter(str.strip), st.text(min_size=1), st.text(min_size=1))
def test_any_path_and_column_survive_yaml(path: str, url: str, caption: str) -> None:
    """Whatever paths and columns are called, the recipe reads them back as they are; ``${`` is doubled for recipes."""
    text = recipe_text(Answers(Found("urls", path, url, caption)))
    pool = yaml.safe_load(text)["pool"]["urls"]
    assert pool == {key: value.replace("${", "$${") for key, value in zip(pool, (path, url, caption), strict=True)}


@given(st.lists(st.sampled_from(["en", "de", "no", "zh", "fr"]), min_size=1, max_size=4))
def test_codes_keep_their_order(codes: list[str]) -> None:
    """Languages come once each, in the order in which they were given."""
    assert languages(", ".join(codes)) == tuple(dict.fromkeys(codes))
