"""Reading recipes: lines, ``extends``, the environment and ``--set``."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from pairsieve.pipelines import recipe_file
from pairsieve.pipelines.recipe import check
from pairsieve.schemas.errors import PairsieveError, RecipeError

STEPS = """
filters:
  - caption_words: {least: 2}
  - where: "uid < '4'"
  - exact_duplicates: {as: twins, by: url}
  - where
"""


def written(folder: Path, text: str, name: str = "r.yaml") -> Path:
    """A recipe file."""
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


def test_lines(tmp_path: Path) -> None:
    """Every value knows its line, a missing one the line above it."""
    path = written(
        tmp_path, "# note\npool:\n  urls:\n    path: x\nfilters:\n- where: a\n- caption_words:\n    least: 1\n"
    )
    source = recipe_file.read(path)
    keys: list[tuple[recipe_file.Key, int]] = [
        (("pool", "urls", "path"), 4),
        (("filters", 0, "where"), 6),
        (("filters", 1, "caption_words", "least"), 8),
        (("filters", 1, "caption_words", "most"), 7),
        (("output",), 2),
    ]
    assert [source.place(key) for key, _ in keys] == [f"{path}:{line}" for _, line in keys]


def test_numbers(tmp_path: Path) -> None:
    """Numbers that YAML 1.1 takes for text are numbers, unless they are quoted."""
    source = recipe_file.read(written(tmp_path, "a: 1e-3\nb: '1e-3'\nc: 1e3\nd: 1.5e+2\ne: -2e1"))
    assert source.data == {"a": 0.001, "b": "1e-3", "c": 1000.0, "d": 150.0, "e": -20.0}


def test_byte_order_mark(tmp_path: Path) -> None:
    """A file as Windows editors save it is read."""
    (tmp_path / "r.yaml").write_bytes(b"\xef\xbb\xbfseed: 1\r\n")
    assert recipe_file.read(tmp_path / "r.yaml").data == {"seed": 1}


def test_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``${NAME}`` is the environment's value, ``$${`` a literal one; keys are left alone."""
    monkeypatch.setenv("PAIRSIEVE_X", "five: [")
    path = written(
        tmp_path, "a: ${PAIRSIEVE_X}/b\nb: $${PAIRSIEVE_X}\nc: $PAIRSIEVE_X\n'${PAIRSIEVE_X}': [\"${PAIRSIEVE_X}\"]"
    )
    assert recipe_file.read(path).data == {
        "a": "five: [/b",
        "b": "${PAIRSIEVE_X}",
        "c": "$PAIRSIEVE_X",
        "${PAIRSIEVE_X}": ["five: ["],
    }


def test_extends(tmp_path: Path) -> None:
    """Mappings merge, the pool and lists are replaced, and each value keeps the line of its own file."""
    base = written(
        tmp_path,
        "pool:\n  urls: {path: a, shard_rows: 5}\nseed: 1\noutput:\n  subset: a.npy\n  dataset: true\nfilters: [where]",
        "base.yaml",
    )
    middle = written(tmp_path, "extends: base.yaml\n\n\nseed: 2\noutput:\n  subset: b.npy\n", "middle.yaml")
    top = written(
        tmp_path, "extends: middle\npool: {urls: {path: b}}\nfilters:\n- caption_words".replace("middle", "middle.yaml")
    )
    source = recipe_file.read(top)
    assert source.data == {
        "pool": {"urls": {"path": "b"}},
        "seed": 2,
        "output": {"subset": "b.npy", "dataset": True},
        "filters": ["caption_words"],
    }
    places = [("pool", "urls", "path"), ("seed",), ("output", "subset"), ("output", "dataset"), ("filters", 0)]
    lines = [f"{top}:2", f"{middle}:4", f"{middle}:6", f"{base}:6", f"{top}:4"]
    assert [source.place(key) for key in places] == lines


def test_extends_beside(tmp_path: Path) -> None:
    """A base is looked for beside the recipe, not beside the user; else it is a shipped one."""
    (tmp_path / "sub").mkdir()
    written(tmp_path / "sub", "seed: 3", "base.yaml")
    assert recipe_file.read(written(tmp_path / "sub", "extends: base.yaml")).data == {"seed": 3}
    assert "pool" in recipe_file.read(written(tmp_path, "extends: demo")).data


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("filters.caption_words.least=5", (0, "caption_words", "least"), 5),
        ("filters.0.most=9", (0, "caption_words", "most"), 9),
        ("filters.twins.by=[text]", (2, "exact_duplicates", "by"), ["text"]),
        ("filters.exact_duplicates.prefer=a: b", (2, "exact_duplicates", "prefer"), "a: b"),
        ("filters.1=uid < '5'", (1, "where"), "uid < '5'"),
        ("filters.1.as=tenth", (1, "where", "as"), "tenth"),
        ("filters.3=true", (3, "where"), True),
        ("filters.3.expression=a = b", (3, "where", "expression"), "a = b"),
        ("filters.caption_words={least: 1}", (0, "caption_words"), {"least": 1}),
    ],
)
def test_set_steps(tmp_path: Path, override: str, key: tuple[Any, ...], value: Any) -> None:
    """A step is found by its filter, its ``as``, or its number; a bare filter takes settings or the shorthand."""
    source = recipe_file.read(written(tmp_path, STEPS), [override])
    found: Any = source.data["filters"]
    for name in key:
        found = found[name]
    assert found == value
    assert source.place(("filters", *key)).startswith("--set ")
    assert source.place(("filters", 2, "exact_duplicates", "as")).endswith(":5")


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("a.b.c=1", {"a": {"b": {"c": 1}}}),
        ("a=1e-3", {"a": 0.001}),
        ("a=", {"a": None}),
        ("a=[1, x]", {"a": [1, "x"]}),
        ("a={b: 1}", {"a": {"b": 1}}),
        ("a=b=c", {"a": "b=c"}),
        ("a=[", {"a": "["}),
        ("a=s3://b/c?d", {"a": "s3://b/c?d"}),
        ("a='1'", {"a": "1"}),
    ],
)
def test_set_values(override: str, value: Any) -> None:
    """Values are YAML where they are, else text; mappings on the way are made."""
    assert recipe_file.from_data({}, [override]).data == value


@pytest.mark.parametrize(
    "override",
    [
        "seed",
        "=1",
        "a..b=1",
        ".=1",
        "filters.where=x",
        "filters.nope=1",
        "filters.9=1",
        "filters.²=1",
        "filters.-1=1",
        "filters.99999999999999999999=1",
        "filters.caption_words.least.x=1",
        "a=2020-13-45",
        "seed=!!bool x",
        "a=${NO_SUCH_VARIABLE_X}",
    ],
)
def test_bad_set(tmp_path: Path, override: str) -> None:
    """An override that cannot be applied is one line that quotes it."""
    with pytest.raises(RecipeError, match=r"^--set ") as caught:
        recipe_file.read(written(tmp_path, STEPS + "seed: 1"), [override])
    assert "\n" not in str(caught.value)


def test_data_is_plain(tmp_path: Path) -> None:
    """A recipe as Python data may hold paths, tuples and numpy's numbers; the caller's data stays as it is."""
    given_ = {"pool": {"urls": {"path": tmp_path, "columns": ("a",)}}, "seed": np.int64(3), "x": np.float32(0.5)}
    source = recipe_file.from_data(given_, ["seed=4"])
    assert source.data == {"pool": {"urls": {"path": str(tmp_path), "columns": ["a"]}}, "seed": 4, "x": 0.5}
    assert yaml.safe_load(yaml.safe_dump(source.data)) == source.data
    assert given_["seed"] == 3


def test_data_that_is_none() -> None:
    """What YAML cannot say is refused, and so is data that holds itself."""
    with pytest.raises(RecipeError, match="seed: a recipe holds text"):
        recipe_file.from_data({"seed": object()})
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(RecipeError, match="holds itself"):
        recipe_file.from_data({"filters": loop})


@pytest.mark.parametrize("name", sorted(recipe_file.shipped()))
def test_shipped_by_name(name: str) -> None:
    """A shipped recipe is found by its name, with or without its ending."""
    assert recipe_file.find(name) == recipe_file.find(f"{name}.yaml")


words = st.text(max_size=8).filter(lambda word: not re.fullmatch(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+", word))
"""Not as 1e3, which PyYAML writes plain and which is a number in a recipe."""
leaves = st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | words
keys = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="$"), max_size=5)
nested = st.recursive(leaves, lambda x: st.lists(x, max_size=3) | st.dictionaries(keys, x, max_size=3))


@settings(deadline=None)
@given(st.dictionaries(keys, nested, max_size=4))
def test_round_trip(tmp_path_factory: pytest.TempPathFactory, data: dict[str, Any]) -> None:
    """What PyYAML writes of a recipe is read back as it was."""
    data = {name: value for name, value in data.items() if name != "extends"}
    path = tmp_path_factory.getbasetemp() / "round.yaml"
    path.write_text(yaml.safe_dump(data).replace("${", "$${"), encoding="utf-8")
    assert recipe_file.read(path).data == recipe_file.from_data(data).data


PIECES = [
    "pool:",
    "urls:",
    "path: x",
    "filters:",
    "- ",
    "where: a",
    "\n",
    "\n  ",
    "\n\t",
    "{",
    "}",
    "[",
    "]",
    "&a ",
    "*a",
    "!!bool x",
    "!!int ''",
    "!!timestamp x",
    "? ",
    ": ",
    "'",
    '"',
    "#",
    "|",
    ">",
    "%",
    "@",
    "`",
    "${A}",
    "$${",
    "extends: r",
    "<<: *a",
    "\0",
    "\x85",
    "\ufeff",
    "- - -",
    "seed: 1",
    "1e5",
    "2020-01-01",
    "---\n",
    "...\n",
    "output:",
    "dataset:",
    "caption_words",
    "as: x",
    "of: pool",
    "é",
    "0o9",
    "0x",
    ".inf",
]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(PIECES) | st.text(max_size=3), max_size=14).map("".join))
def test_any_text(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    """Whatever a file holds, it is a recipe or one line of a mistake with its file."""
    path = tmp_path_factory.getbasetemp() / "fuzz.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        check(recipe_file.read(path))
    except PairsieveError as error:
        assert str(error).startswith(str(path)) and "\n" not in str(error)


def random_recipes() -> st.SearchStrategy[dict[Any, Any]]:
    """Data that resembles a recipe more or less."""
    names = st.sampled_from(["where", "caption_words", "clip_score", "exact_duplicates", "image_shape", "x", ""])
    settings_ = st.sampled_from(
        ["as", "of", "by", "least", "most", "min", "top", "column", "expression", "prefer", "zzz", 3]
    )
    values = nested | st.sampled_from(["pool", "uid", 0.3, [["url"]], float("nan"), float("inf"), 10**400, b"x"])
    bodies = values | st.dictionaries(settings_, values, max_size=3)
    steps = names | st.dictionaries(names, bodies, max_size=2) | values
    pools = values | st.dictionaries(
        st.sampled_from(["urls", "pairs", "img2dataset", "x"]), bodies | st.just("x"), max_size=2
    )
    parts = {
        "pool": pools,
        "filters": st.lists(steps, max_size=3) | values,
        "output": bodies,
        "seed": values,
        "odd\n": values,
    }
    return st.fixed_dictionaries({}, optional=parts)


@settings(max_examples=300, deadline=None)
@given(
    random_recipes(),
    st.lists(st.text(max_size=12) | st.sampled_from(["filters.0.min=1", "pool.urls.path=a"]), max_size=2),
)
def test_any_data(data: dict[Any, Any], overrides: list[str]) -> None:
    """Whatever data and overrides are given, they are a recipe or one line of a mistake."""
    try:
        check(recipe_file.from_data(data, overrides))
    except PairsieveError as error:
        assert "\n" not in str(error) and len(str(error)) < 1100


def test_set_beside_a_bare_path(tmp_path: Path) -> None:
    """A pool that is a bare path can be given another path, or a setting beside it."""
    (tmp_path / "recipe.yaml").write_text("pool: {urls: a.csv}\n")
    source = recipe_file.read(tmp_path / "recipe.yaml", ["pool.urls.shard_rows=5"])
    assert source.data["pool"] == {"urls": {"path": "a.csv", "shard_rows": 5}}
    source = recipe_file.read(tmp_path / "recipe.yaml", ["pool.urls.path=b.csv"])
    assert source.data["pool"] == {"urls": {"path": "b.csv"}}


PARAMETERS = """
parameters: {scale: small, side: 200, folder: "${HOME_X}/data", pool: "${folder}/datacomp_${scale}"}
pool: {datacomp: "${pool}"}
filters: [{image_shape: {shortest: "${side}"}}]
"""


def test_parameters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``${name}`` is a parameter before it is the environment's; alone it keeps its type; ``--set name=`` sets it."""
    monkeypatch.setenv("HOME_X", "home")
    monkeypatch.setenv("scale", "nothing")
    path = tmp_path / "recipe.yaml"
    path.write_text(PARAMETERS)
    assert recipe_file.read(path).data == {
        "pool": {"datacomp": "home/data/datacomp_small"},
        "filters": [{"image_shape": {"shortest": 200}}],
    }
    found = recipe_file.read(path, ["scale=large", "side=64", "pool.datacomp.shard_rows=9"]).data
    assert found["pool"] == {"datacomp": {"path": "home/data/datacomp_large", "shard_rows": 9}}
    assert found["filters"] == [{"image_shape": {"shortest": 64}}]


def test_parameters_of_the_base(tmp_path: Path) -> None:
    """A recipe that extends another may give its parameters other values."""
    (tmp_path / "base.yaml").write_text("parameters: {scale: small, k: 1}\npool: {datacomp: '${scale}-${k}'}\n")
    (tmp_path / "own.yaml").write_text("extends: base.yaml\nparameters: {k: 2}\n")
    assert recipe_file.read(tmp_path / "own.yaml").data["pool"] == {"datacomp": "small-2"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("parameters: [1]", "parameters: write names with values"),
        ("parameters: {a b: 1}", "parameters: a b: give a plain name one text or number"),
        ("parameters: {a: [1]}", "parameters: a: give a plain name"),
        ("parameters: {a: 1}\npool: {urls: '${b}'}", "recipe.yaml:2: there is no parameter b (a) and the environment"),
    ],
)
def test_parameters_that_are_none(tmp_path: Path, text: str, said: str) -> None:
    """With file and line."""
    (tmp_path / "recipe.yaml").write_text(text)
    with pytest.raises(RecipeError) as caught:
        recipe_file.read(tmp_path / "recipe.yaml")
    assert said in str(caught.value)


@pytest.mark.parametrize("number", [2**63, -(2**63) - 1, 10**500])
def test_numbers_that_no_column_holds(tmp_path: Path, number: int) -> None:
    """With the place, before anything is measured."""
    (tmp_path / "recipe.yaml").write_text(f"pool: {{urls: a.csv}}\nfilters:\n  - caption_words: {{least: {number}}}\n")
    with pytest.raises(RecipeError, match=r"recipe.yaml:3: least: a whole number of more than 64 bits"):
        recipe_file.read(tmp_path / "recipe.yaml")


@pytest.mark.parametrize("override", [[], ["filters.caption_words.least=99999999999999999999"]])
def test_numbers_that_no_column_holds_as_data(override: list[str]) -> None:
    """A recipe as Python data, or what is set in it, is no other."""
    number = 1 if override else 2**63
    data = {"pool": {"urls": "a.csv"}, "filters": [{"caption_words": {"least": number}}]}
    with pytest.raises(RecipeError, match=r"least: a whole number of more than 64 bits"):
        recipe_file.from_data(data, override)


def test_the_largest_number(tmp_path: Path) -> None:
    """Of 64 bits is one like any other."""
    (tmp_path / "recipe.yaml").write_text(f"seed: {2**63 - 1}")
    assert recipe_file.read(tmp_path / "recipe.yaml").data == {"seed": 2**63 - 1}
