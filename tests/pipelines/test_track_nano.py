"""The nano track end to end, at a size that trains nothing of use: the same rows again, nothing done twice."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pairsieve.pipelines.nano_settings import METRICS, Size, Training
from pairsieve.pipelines.recipe_file import shipped
from pairsieve.pipelines.run import run
from pairsieve.pipelines.track import RECIPES, Nano, Row, read
from pairsieve.pipelines.track_table import lines
from pairsieve.schemas.errors import UserError

SIZE = Size(pairs=700, targets=40, clusters=20, seen=60, held_out=20, probe=60, retrieval=30)
TRAINING = Training(samples=512, batch_size=64, warmup=2)


def small(root: Path, samples: int = 512) -> Nano:
    """A track of a few seconds."""
    return Nano(root, SIZE, TRAINING.model_copy(update={"samples": samples}), workers=1)


def command(*arguments: str) -> "subprocess.CompletedProcess[str]":
    """``pairsieve track nano``, as a user calls it."""
    words = [sys.executable, "-m", "pairsieve", "track", "nano", *arguments]
    return subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Row]]:
    """A folder with rows of two recipes."""
    root = tmp_path_factory.mktemp("nano") / "track"
    return root, small(root).rows(["nano_no_filter", "nano_image_based_and_clip_30"], seeds=2)


def test_rows_say_what_was_trained(made: tuple[Path, list[Row]]) -> None:
    """Two recipes of two seeds, from pools of one digest, on datasets of two; every metric is a share."""
    _, rows = made
    assert [(row.recipe, row.seed) for row in rows] == [
        ("nano_no_filter", 0),
        ("nano_no_filter", 1),
        ("nano_image_based_and_clip_30", 0),
        ("nano_image_based_and_clip_30", 1),
    ]
    assert rows[0].kept == SIZE.pairs > rows[2].kept > TRAINING.batch_size
    assert len({row.pool for row in rows}) == 1
    assert len({row.data for row in rows}) == 2
    assert all(0 <= value <= 1 for row in rows for value in row.metrics.values())
    assert rows[0].metrics != rows[1].metrics


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_of_the_table_curates(made: tuple[Path, list[Row]], recipe: str, tmp_path: Path) -> None:
    """As it ships, over the pool of the track; each keeps something, and all but one drop something."""
    result = run(recipe, tmp_path / "run", overrides=[f"nano={made[0]}"], engine="local", workers=1)
    assert result.rows == SIZE.pairs
    assert 0 < result.kept <= SIZE.pairs + result.added
    assert (sum(dropped for _, _, dropped in result.funnel) == 0) == (recipe == "nano_no_filter")


def test_the_table_has_every_shipped_recipe() -> None:
    """None is forgotten, and none listed that does not ship."""
    assert set(RECIPES) == {name for name in shipped() if name.startswith("nano_")}


def test_another_folder_gives_the_same_rows(made: tuple[Path, list[Row]], tmp_path: Path) -> None:
    """Pool, dataset, training and evaluation depend on nothing else, nor on the number of workers."""
    track = small(tmp_path / "again")
    track.workers = 2
    again = track.rows(["nano_image_based_and_clip_30"], seeds=1)
    assert again == [made[1][2]]


def test_what_is_there_is_not_trained_again(made: tuple[Path, list[Row]]) -> None:
    """Rows stay as they are, and rows of other recipes are added to them."""
    root, rows = made
    forged = [row.model_copy(update={"metrics": {**row.metrics, "average": 0.5}}) for row in rows]
    (root / "results.jsonl").write_text("".join(row.model_dump_json() + "\n" for row in forged))
    found = small(root).rows(["nano_random_30", "nano_no_filter"], seeds=1)
    assert [row.recipe for row in found] == ["nano_no_filter"] * 2 + ["nano_random_30"] + [rows[2].recipe] * 2
    assert [row.metrics["average"] for row in found if row.recipe == "nano_no_filter"] == [0.5, 0.5]
    (root / "results.jsonl").write_text("".join(row.model_dump_json() + "\n" for row in rows))


def test_rows_of_another_protocol_are_no_rows(made: tuple[Path, list[Row]], tmp_path: Path) -> None:
    """A table never mixes models that have seen different numbers of samples."""
    root, rows = made
    found = small(root, samples=256).rows(["nano_random_30"], seeds=1)
    assert [row.recipe for row in found] == ["nano_random_30"]
    (root / "results.jsonl").write_text("".join(row.model_dump_json() + "\n" for row in rows))


def test_an_edited_recipe_is_trained_again(made: tuple[Path, list[Row]], tmp_path: Path) -> None:
    """Rows are of the data that the recipe gives now."""
    root, rows = made
    recipe = tmp_path / "mine.yaml"
    averages = []
    for fraction in (0.5, 0.7):
        recipe.write_text(f"extends: nano_no_filter\nfilters:\n  - random_sample: {{fraction: {fraction}}}\n")
        found = [row for row in small(root).rows([str(recipe)], seeds=1) if row.recipe == "mine"]
        averages.append([(row.kept, row.data) for row in found])
    assert len(averages[0]) == len(averages[1]) == 1
    assert averages[0][0][0] < averages[1][0][0]
    (root / "results.jsonl").write_text("".join(row.model_dump_json() + "\n" for row in rows))


def test_damaged_results_are_passed_over(made: tuple[Path, list[Row]]) -> None:
    """A line that another version wrote, or half of one, hides no other."""
    root, rows = made
    text = "".join(row.model_dump_json() + "\n" for row in rows)
    (root / "results.jsonl").write_bytes(b'{"recipe": "x"}\n\xff\n' + text.encode() + b'{"recipe": "nano_')
    assert read(root) == rows
    (root / "results.jsonl").write_text(text)


@pytest.mark.parametrize(
    ("recipe", "error", "message"),
    [
        ("nano_basics", UserError, "nano_basic"),
        ("missing.yaml", UserError, "missing.yaml"),
    ],
)
def test_unknown_recipes(made: tuple[Path, list[Row]], recipe: str, error: type[Exception], message: str) -> None:
    """One line that names it."""
    with pytest.raises(error, match=message):
        small(made[0]).rows([recipe], seeds=1)


def test_recipes_of_one_name(made: tuple[Path, list[Row]], tmp_path: Path) -> None:
    """Their rows could not be told apart."""
    with pytest.raises(UserError, match="two recipes of this name"):
        small(made[0]).rows(["nano_basic", str(tmp_path / "nano_basic.yaml")], seeds=1)


@pytest.mark.parametrize(
    "text", ["pool:\n  urls: {path: list.csv}\n", "extends: nano_no_filter\npool:\n  urls: {path: list.csv}\n"]
)
def test_a_recipe_of_another_pool(made: tuple[Path, list[Row]], tmp_path: Path, text: str) -> None:
    """It says what a recipe of the track extends."""
    recipe = tmp_path / "own.yaml"
    recipe.write_text(text)
    with pytest.raises(UserError, match="write 'extends: nano_no_filter', and no pool"):
        small(made[0]).rows([str(recipe)], seeds=1)


@pytest.mark.parametrize("name", ["..yaml", "...yaml", "a|b.yaml", "a b.yaml", "", "x/"])
def test_names_that_are_no_folders_of_their_own(made: tuple[Path, list[Row]], tmp_path: Path, name: str) -> None:
    """A row's name is a folder's beside others, and a cell of a table."""
    with pytest.raises(UserError, match=r"rename the file|no such recipe"):
        small(made[0]).rows([f"{tmp_path}/{name}" if name else ""], seeds=1)


def test_a_continued_table_has_its_columns(made: tuple[Path, list[Row]]) -> None:
    """Rows that were read and rows that were made stand in one order."""
    root, rows = made
    read_again = lines(read(root))
    assert [list(line.metrics) for line in read_again] == [list(line.metrics) for line in lines(rows)]
    assert list(read_again[0].metrics) == [*METRICS, "average"]


def test_a_deleted_file_is_made_again(made: tuple[Path, list[Row]]) -> None:
    """The same one, so rows stay."""
    root, rows = made
    (root / "tests.npz").unlink()
    assert small(root).rows(["nano_no_filter"], seeds=1)[:2] == rows[:2]
    assert (root / "tests.npz").exists()


def test_a_recipe_that_keeps_too_little(made: tuple[Path, list[Row]], tmp_path: Path) -> None:
    """A model needs a batch."""
    recipe = tmp_path / "few.yaml"
    recipe.write_text("extends: nano_no_filter\nfilters:\n  - random_sample: {fraction: 0.01}\n")
    with pytest.raises(UserError, match=r"few: keeps \d+ pairs, fewer than a batch of 64"):
        small(made[0]).rows([str(recipe)], seeds=1)


def test_a_recipe_without_dataset(made: tuple[Path, list[Row]], tmp_path: Path) -> None:
    """There is nothing to train on."""
    recipe = tmp_path / "none.yaml"
    recipe.write_text("extends: nano_no_filter\noutput:\n  dataset: false\n  subset: kept.npy\n")
    with pytest.raises(UserError, match="dataset"):
        small(made[0]).rows([str(recipe)], seeds=1)


def test_folders_of_others_stay_as_they_are(tmp_path: Path) -> None:
    """A folder with files that no track wrote is refused before anything is touched."""
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="no nano track wrote"):
        small(tmp_path).rows(["nano_no_filter"], seeds=1)
    assert [str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*")] == ["raw", "raw/mine.txt"]


def test_the_command_refuses_what_it_cannot_do(tmp_path: Path) -> None:
    """Without a recipe, and on an object store."""
    nothing = command("--out", str(tmp_path / "x"))
    assert (nothing.returncode, nothing.stderr.count("\n")) == (2, 1)
    assert "--recipe nano_basic" in nothing.stderr
    remote = command("--all", "--out", "s3://bucket/x")
    assert (remote.returncode, remote.stderr.count("\n")) == (2, 1)
    assert "local folder" in remote.stderr
    assert not (tmp_path / "x").exists()


def test_rows_are_json_lines(made: tuple[Path, list[Row]]) -> None:
    """For DuckDB and everybody else."""
    root, rows = made
    found = [json.loads(line) for line in (root / "results.jsonl").read_text().splitlines()]
    assert [row["recipe"] for row in found] == [row.recipe for row in rows]
    assert len(lines(rows)) == 2
