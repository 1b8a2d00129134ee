"""A user's mistake is one line: file and line, cause, next step."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pairsieve.pipelines.run import load
from pairsieve.schemas.errors import MissingExtraError, PoolError, RecipeError, UserError

POOL = "pool: {urls: pool.csv}\n"
STEPS = POOL + "filters:\n"
DEEP = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [*{a}, *{a}, *{a}, *{a}, *{a}, *{a}, *{a}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)

MISTAKES = {
    "empty file": ("", 1, "a recipe is a mapping"),
    "only a comment": ("# nothing\n", 1, "a recipe is a mapping"),
    "a list": ("- pool\n- filters\n", 1, "a recipe is a mapping"),
    "a word": ("pool", 1, "a recipe is a mapping"),
    "two documents": (POOL + "---\n" + POOL, 2, "not YAML"),
    "a tab": (STEPS + "\t- where: a\n", 3, "not YAML"),
    "bad indentation": (STEPS + "  - caption_words:\n      least: 2\n    most: 3\n   x: 1\n", 6, "not YAML"),
    "open bracket": (POOL + "filters: [where\noutput:\n", 3, "not YAML"),
    "control character": (POOL + "filters: \1\n", 2, "is not allowed"),
    "very deep": ("a: " + "[" * 5000, 1, "nested too deeply"),
    "deep": ("a: " + "[" * 60 + "]" * 60, 1, "nested too deeply"),
    "alias of itself": ("a: &a [*a]\n", 1, "alias that holds itself"),
    "alias that multiplies": (DEEP, 1, "alias that holds itself"),
    "key twice": (POOL + "seed: 1\nseed: 2\n", 3, "seed is written twice"),
    "setting twice": (STEPS + "- caption_words:\n    least: 1\n    least: 2\n", 5, "least is written twice"),
    "bad tag": (POOL + "seed: !!int x\n", 2, "cannot read the value 'x'"),
    "foreign tag": (POOL + "seed: !!python/object:os.system x\n", 2, "cannot read the value"),
    "no environment": (POOL + "output:\n  subset: ${PAIRSIEVE_NOT_THERE}.npy\n", 3, "PAIRSIEVE_NOT_THERE"),
    "unknown part": (POOL + "filter:\n- where: a\n", 2, "filter: no such part of a recipe; did you mean 'filters'"),
    "a part with a line break": (POOL + '"a\\nb": 1\n', 2, "no such part"),
    "no pool": ("filters: []\n", 1, "pool: name one kind of pool"),
    "two pools": ("seed: 1\npool:\n  urls: a\n  pairs: b\n", 2, "pool: name one kind of pool"),
    "unknown pool": ("pool:\n  url: pool.csv\n", 2, "no kind 'url'; did you mean 'urls'"),
    "unknown pool setting": ("pool:\n  urls:\n    path: pool.csv\n    url_column: x\n", 4, "did you mean 'url_col'"),
    "pool without path": ("pool:\n  urls:\n    format: csv\n", 2, "pool.urls.path: is missing"),
    "pool of a number": ("pool:\n  urls: 5\n", 2, "not 5"),
    "pool of an empty list": ("pool:\n  urls: []\n", 2, "pool.urls: input should be"),
    "shard_rows of 0": (
        "pool:\n  urls: {path: pool.csv,\n    shard_rows: 0}\n",
        3,
        "shard_rows: .*greater than 0, not 0",
    ),
    "filters no list": (POOL + "filters:\n  where: a\n", 2, "filters: write a list"),
    "unknown filter": (
        STEPS + "- where: 'true'\n- captoin_words\n",
        4,
        "no filter 'captoin_words'; did you mean 'caption_words'",
    ),
    "two filters in a step": (STEPS + "- where: a\n  caption_words: {}\n", 3, "a step is one filter"),
    "empty step": (STEPS + "-\n", 3, "a step is one filter"),
    "own filter missing": (STEPS + "- no_such_module_x:Y\n", 3, "cannot import 'no_such_module_x'"),
    "unknown setting": (
        STEPS + "- caption_words: {least: 1,\n    mots: 3}\n",
        4,
        "caption_words.mots: no such setting; did you mean 'most'",
    ),
    "wrong type": (STEPS + "- caption_words:\n    least: many\n", 4, "caption_words.least: .*integer.*not 'many'"),
    "Norway": (STEPS + "- where:\n    expression: no\n", 4, "where.expression: .*string, not False; put it in quotes"),
    "out of range": (
        STEPS + "- clip_score:\n    column: score\n    top: 30\n",
        5,
        "clip_score.top: .*less than or equal to 1, not 30",
    ),
    "missing setting": (STEPS + "- where:\n", 3, "where.expression: is missing"),
    "bare settings": (STEPS + "- caption_words: 5\n", 3, "write settings as"),
    "settings that disagree": (STEPS + "- caption_words: {least: 5, most: 4}\n", 3, "least .5. is above most .4."),
    "bad name": (STEPS + "- caption_words:\n    as: My Words\n", 4, "caption_words.as: "),
    "own name": (STEPS + "- caption_words:\n    as: dataset\n", 4, "'dataset' is a name of pairsieve's own"),
    "bad of": (STEPS + "- caption_words:\n    of: everything\n", 4, "caption_words.of: .*'pool' or 'survivors'"),
    "name twice": (STEPS + "- caption_words\n- caption_words\n", 4, "a step above has this name"),
    "as twice": (
        STEPS + "- where: {as: a, expression: 'true'}\n- caption_words: {as: a}\n",
        4,
        "a step above has this name",
    ),
    "no image": (STEPS + "- clip_score: {model: pairsieve-demo}\n", 3, "reads 'image', .* put '- download' above it"),
    "column of a later step": (
        STEPS + "- where: caption_words > 3\n- caption_words\n",
        3,
        "no column 'caption_words' here; .*put '- caption_words' above it",
    ),
    "column of image_shape": (STEPS + "- where: short_side > 3\n", 3, "put '- image_shape' above it"),
    "unknown column": (STEPS + "- where: scor > 3\n", 3, "no column 'scor' here; did you mean 'score'"),
    "unknown key": (STEPS + "- exact_duplicates: {by: txt}\n", 3, "reads 'txt'.*did you mean 'text'"),
    "impure": (STEPS + "- where: random() < 0.5\n", 3, "random.. is no function of one row"),
    "no boolean": (STEPS + "- where: score\n", 3, "not BOOLEAN"),
    "survivors for the pool": (
        STEPS + "- where: 'true'\n- caption_words\n- where:\n    expression: caption_words > 3\n    of: pool\n",
        5,
        "of: pool needs 'caption_words' of every pair, but caption_words measures it for survivors of where",
    ),
    "unknown output": (
        POOL + "output:\n  datasets: {}\n",
        3,
        "output.datasets: no such setting; did you mean 'dataset'",
    ),
    "unknown output column": (
        POOL + "output:\n  dataset:\n    columns: [text,\n     scoer]\n",
        5,
        "no column 'scoer' here; did you mean 'score'",
    ),
    "subset elsewhere": (POOL + "output:\n  subset: ../x.npy\n", 3, "output.subset"),
    "negative seed": (POOL + "seed: -1\n", 2, "seed: .*not -1"),
    "extends a list": ("seed: 1\nextends: [a]\n", 2, "extends: name one recipe file"),
    "extends nothing": ("seed: 1\nextends: nowhere.yaml\n", 2, "extends: .*nowhere.yaml: no such recipe"),
    "extends a null byte": ('extends: "a\\0b"\n', 1, "no such recipe"),
    "extends a long name": (f"extends: {'x' * 5000}\n", 1, "extends: "),
    "extends itself": ("seed: 1\nextends: r.yaml\n", 2, "extends itself: r.yaml -> r.yaml"),
}


@pytest.fixture(autouse=True)
def pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A folder with a pool of one pair, as the current directory."""
    (tmp_path / "pool.csv").write_text("url,text,score,width,height\nhttp://e.org/a,a b c,0.5,1,1\n")
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    yield


@pytest.mark.parametrize("name", MISTAKES)
def test_mistake(name: str) -> None:
    """The mistake is named at its line, with exit code 2."""
    text, line, says = MISTAKES[name]
    Path("r.yaml").write_text(text)
    with pytest.raises(RecipeError, match=says) as caught:
        load("r.yaml")
    assert str(caught.value).startswith(f"r.yaml:{line}: ")
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


def test_line_of_the_base() -> None:
    """A mistake in a base is at the base's line; an override's is at the override."""
    Path("base.yaml").write_text(STEPS + "- caption_words: {lest: 1}\n")
    Path("r.yaml").write_text("extends: base.yaml\n")
    with pytest.raises(RecipeError, match=r"^base.yaml:3: "):
        load("r.yaml")
    with pytest.raises(RecipeError, match=r"^--set seed=x: seed: "):
        load("r.yaml", ["filters=[]", "seed=x"])


def test_loop_of_two() -> None:
    """A loop over several files names them."""
    Path("base.yaml").write_text("extends: r.yaml\n")
    Path("r.yaml").write_text("extends: base.yaml\n")
    with pytest.raises(RecipeError, match=r"^base.yaml:1: extends itself: r.yaml -> base.yaml -> r.yaml$"):
        load("r.yaml")


def test_not_utf8() -> None:
    """A file of another encoding is refused at the line of its first foreign byte."""
    Path("r.yaml").write_bytes(POOL.encode() + b"# caf\xe9\n")
    with pytest.raises(RecipeError, match=r"^r.yaml:2: not UTF-8"):
        load("r.yaml")


@pytest.mark.parametrize("name", ["nowhere.yaml", "", "~nobody_at_all/x.yaml", "a\0b", "x" * 5000, "."])
def test_no_such_file(name: str) -> None:
    """What is no file is one line that lists the shipped recipes."""
    with pytest.raises(RecipeError, match=r"no such recipe; shipped recipes: .*demo") as caught:
        load(name)
    assert "\n" not in str(caught.value)


def test_no_pool_file() -> None:
    """A missing pool file is the pool's error."""
    Path("r.yaml").write_text("pool: {urls: nowhere.csv}\n")
    with pytest.raises(PoolError, match=r"nowhere.csv: no such file"):
        load("r.yaml")


def test_missing_extra(tmp_path: Path) -> None:
    """A filter whose packages are not installed names the pip command, at its line."""
    own = """
from pairsieve.filters.where import Where

class Own(Where):
    extra = "clip"

    def needs(self):
        return ("no_such_package_x",)
"""
    (tmp_path / "own_extra.py").write_text(own)
    Path("r.yaml").write_text(STEPS + "- where: 'true'\n- own_extra:Own: 'true'\n")
    with pytest.raises(
        MissingExtraError, match=r"^r.yaml:4: own_extra:Own needs no_such_package_x: pip install 'pairsieve\[clip\]'"
    ):
        load("r.yaml")


def test_errors_are_the_users() -> None:
    """All of these are of the tree that the command line turns into exit code 2."""
    assert issubclass(RecipeError, UserError) and issubclass(MissingExtraError, UserError)
