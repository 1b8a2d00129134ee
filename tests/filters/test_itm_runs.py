"""The matching filter in recipes: what is refused, whole runs, and what a changed setting measures again."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from pairsieve.filters._itm_texts import cleaned  # noqa: E402
from pairsieve.filters.itm import Itm  # noqa: E402
from pairsieve.pipelines.plan import make_plan  # noqa: E402
from pairsieve.pipelines.recipe import check  # noqa: E402
from pairsieve.pipelines.recipe_file import from_data  # noqa: E402
from pairsieve.pipelines.run import run  # noqa: E402
from pairsieve.schemas.errors import RecipeError, UserError  # noqa: E402
from tests.support import digests  # noqa: E402
from tests.support_capfilt import model  # noqa: E402
from tests.support_itm import captions_of, reference  # noqa: E402

Photo = Callable[..., bytes]
TYPES = {
    "url": pa.string(),
    "text": pa.string(),
    "image": pa.binary(),
    "caption": pa.list_(pa.string()),
    "n": pa.int32(),
}


def planned(**chosen: Any) -> Any:
    """A plan with one step."""
    source = from_data({"pool": {"pairs": "x"}, "filters": [{"itm": chosen}]})
    return make_plan(source, *check(source), TYPES | {"error": pa.string(), "Cosine_error": pa.string()})


@pytest.mark.parametrize(
    ("chosen", "says"),
    [
        ({"model": "{blip}"}, "BlipForConditionalGeneration, which has no matching head"),
        ({"model": "{sentences}"}, "is of type 'bert'; matching heads are of blip and blip-2"),
        ({"model": "{clip}"}, "holds no config.json"),
        ({"model": "{tmp}/bare"}, "holds no weights"),
        ({"model": "{tmp}/none"}, "there is no directory"),
        ({"model": "a\0b"}, "there is no directory"),
        ({}, "model"),
        ({"model": "{itm}", "revision": "main"}, "'revision' goes with a model on the hub"),
        ({"model": "{itm}", "texts": ["captoin"]}, "did you mean 'caption'"),
        ({"model": "{itm}", "texts": ["n"]}, "holds no texts"),
        ({"model": "{itm}", "texts": ["caption", "caption"]}, "stands there twice"),
        ({"model": "{itm}", "texts": ["error"]}, "would be called 'itm_error'"),
        ({"model": "{itm}", "min": 1.5}, "less than or equal to 1"),
        ({"model": "{itm}", "batch_size": 0}, "greater than 0"),
        ({"model": "{itm}", "precision": "int8"}, "precision"),
    ],
)
def test_refused_by_the_plan(tmp_path: Path, chosen: dict[str, Any], says: str) -> None:
    """A wrong model, directory, column or number is one line before anything runs."""
    (tmp_path / "bare").mkdir()
    shutil.copy(model("blip-itm") / "config.json", tmp_path / "bare")
    names = {"blip": model("blip"), "sentences": model("sentences"), "clip": model("clip"), "itm": model("blip-itm")}
    for name, folder in (names | {"tmp": tmp_path}).items():
        chosen = {n: v.replace(f"{{{name}}}", str(folder)) if isinstance(v, str) else v for n, v in chosen.items()}
    with pytest.raises(RecipeError, match=says) as caught:
        planned(**chosen)
    assert "\n" not in str(caught.value)


def test_thresholds_are_free_to_change_and_what_is_measured_is_not() -> None:
    """The fingerprint of a step."""
    names = {"model": str(model("blip-itm")), "texts": ["caption"]}
    base = planned(**names).steps[0].fingerprint
    for same in ({"min": 0.9}, {"min": None}, {"device": "cpu"}, {"threads": 3}):
        assert planned(**names, **same).steps[0].fingerprint == base
    for other in ({"clean": False}, {"precision": "bf16"}, {"batch_size": 2}, {"itc": True}):
        assert planned(**names, **other).steps[0].fingerprint != base


def broken(folder: Path, tmp_path: Path, change: Callable[[Path], object]) -> str:
    """What opening a model says that was changed."""
    here = tmp_path / "m"
    shutil.copytree(folder, here)
    change(here)
    with pytest.raises(UserError) as caught:
        Itm(model=str(here), device="cpu").open()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def _lacking(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    save_file({n: w for n, w in weights.items() if "itm_head" not in n}, folder / "model.safetensors", {"format": "pt"})


def _sized(folder: Path) -> None:
    for file in folder.glob("*processor*config.json"):
        text = file.read_text()
        file.write_text(text.replace('"height": 32', '"height": 40').replace('"width": 32', '"width": 40'))


def _pickled(folder: Path) -> None:
    torch.save({}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_lacking, "its weights lack 2 tensors, such as itm_head.bias"),
        (_sized, "makes pictures of 40×40, and its tower takes 32×32"),
        (_pickled, "safetensors"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"junk"), "cannot load model"),
        (lambda folder: [f.unlink() for f in folder.glob("*processor*config.json")], "cannot load model"),
    ],
)
def test_models_that_only_loading_shows_to_be_broken(
    tmp_path: Path, change: Callable[[Path], object], says: str
) -> None:
    """Weights that lack the head, another size, pickled or damaged weights, no transform: one line."""
    assert says in broken(model("blip-itm"), tmp_path, change)


def test_code_of_a_model_is_never_run(tmp_path: Path) -> None:
    """A configuration that names code of its own does not get it imported."""
    here = tmp_path / "m"
    shutil.copytree(model("blip-itm"), here)
    config = json.loads((here / "config.json").read_text())
    hook = {"AutoConfig": "evil.Config", "AutoModel": "evil.Model", "AutoTokenizer": ["evil.Tokenizer", None]}
    (here / "config.json").write_text(json.dumps(config | {"auto_map": hook}))
    tokenizer = json.loads((here / "tokenizer_config.json").read_text())
    (here / "tokenizer_config.json").write_text(json.dumps(tokenizer | {"auto_map": hook}))
    (here / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    Itm(model=str(here), device="cpu").open()
    assert not (tmp_path / "ran").exists()


def write_pool(folder: Path, photo: Photo, rows: int = 30) -> list[dict[str, Any]]:
    """Pairs in two files; some lack a text or an image."""
    pairs = [
        {
            "url": f"http://e.org/{i}",
            "text": None if i % 11 == 4 else f"a {['red', 'blue', 'small'][i % 3]} dog on the street"[: 5 + i],
            "image": None if i % 13 == 5 else b"junk" if i % 17 == 7 else photo(40 + i, 60, seed=i),
        }
        for i in range(rows)
    ]
    schema = pa.schema([("url", pa.string()), ("text", pa.string()), ("image", pa.binary())])
    folder.mkdir()
    for part in range(2):
        pq.write_table(pa.Table.from_pylist(pairs[part::2], schema), folder / f"{part}.parquet")
    return pairs


def test_a_run_gives_the_librarys_scores_and_loses_nothing(tmp_path: Path, photo: Photo) -> None:
    """Each pair has its scores or the reason why not."""
    pairs, folder = write_pool(tmp_path / "pool", photo), model("blip-itm")
    step = {"model": str(folder), "texts": ["caption"], "device": "cpu", "min": 0.31}
    recipe = {"pool": {"pairs": str(tmp_path / "pool")}, "filters": [{"tests.support_itm:Says": {}}, {"itm": step}]}
    result = run(recipe, tmp_path / "run1", workers=1)
    parts = (pq.read_table(file).to_pylist() for file in (tmp_path / "run1" / "scores" / "itm").glob("*.parquet"))
    lists = {row["uid"]: row for part in parts for row in part}
    rows = [row | lists.get(row["uid"], {}) for row in result.query("SELECT * FROM scores").to_pylist()]
    found = {row["url"]: row for row in rows}
    assert len(found) == len(pairs)
    assert {row["reason"] for row in rows} == {None, "unmatched", "no_image", "broken_image", "no_text"}
    for pair in pairs:
        row, captions = found[pair["url"]], captions_of(pair["text"]) or []
        assert (row["dropped_by"] is None) == (row["itm_best"] is not None and row["itm_best"] > 0.31)
        if row["itm"] is not None:
            want = [reference(folder, pair["image"], cleaned(text or "", 30))[0] for text in (pair["text"], *captions)]
            scores = [row["itm"], *(row["itm_caption"] or [])]
            assert [one is None for one in scores] == [text is None for text in (pair["text"], *captions)]
            assert all(abs(one - other) < 1e-5 for one, other in zip(scores, want, strict=True) if one is not None)


def test_captions_are_matched_and_compared_in_one_pass(tmp_path: Path, photo: Photo) -> None:
    """caption, itm and clip_score share an image's decoding, and one worker and two write the same bytes."""
    write_pool(tmp_path / "pool", photo, 12)
    steps = [
        {"caption": {"model": str(model("blip")), "count": 3, "device": "cpu"}},
        {"itm": {"model": str(model("blip-itm")), "texts": ["caption"], "min": None, "device": "cpu"}},
        {"clip_score": {"model": str(model("clip")), "texts": ["caption"], "device": "cpu"}},
    ]
    for n in (1, 2):
        run({"pool": {"pairs": str(tmp_path / "pool")}, "filters": steps}, tmp_path / f"run{n}", workers=n)
    assert digests(tmp_path / "run1") == digests(tmp_path / "run2")
    names = ("caption", "itm", "clip_score")
    files = {name: sorted((tmp_path / "run1" / "scores" / name).glob("*.parquet")) for name in names}
    tables = {name: pa.concat_tables(map(pq.read_table, found)).to_pylist() for name, found in files.items()}
    scored = 0
    for said, matched, compared in zip(*tables.values(), strict=True):
        lists = [said["caption"], matched["itm_caption"], compared["clip_score_caption"]]
        assert len({None if one is None else len(one) for one in lists}) == 1
        scored += lists[0] is not None
    assert scored == 10  # of twelve, one has no image and one a broken one
