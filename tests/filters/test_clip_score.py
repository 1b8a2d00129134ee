"""CLIP scores equal open_clip's, and depend on nothing but the pair."""

import shutil
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from PIL import Image

from pairsieve.filters.clip_score import ClipScore
from pairsieve.pipelines.plan import make_plan
from pairsieve.pipelines.recipe import check
from pairsieve.pipelines.recipe_file import from_data
from pairsieve.pipelines.run import run
from pairsieve.schemas.errors import PairsieveError, RecipeError, UserError

torch = pytest.importorskip("torch")
pytest.importorskip("open_clip")

from tests.support_clip import CLIP, opened, reference, write_model  # noqa: E402

DEMO = Path(ClipScore(model="pairsieve-demo").files()[0]).parent
Photo = Callable[..., bytes]


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A vision transformer of random weights in open_clip's directory format."""
    return write_model(tmp_path_factory.mktemp("models") / "vit", CLIP)


@pytest.fixture(scope="module", params=["demo", "vit"])
def model(request: pytest.FixtureRequest, vit: Path) -> str:
    """The packaged model and the random one."""
    return "pairsieve-demo" if request.param == "demo" else str(vit)


def measure(made: ClipScore, images: list[bytes | None], texts: list[str | None]) -> tuple[NDArray[Any], list[Any]]:
    """Scores (NaN for none) and errors."""
    batch = pa.record_batch({"image": pa.array(images, pa.binary()), "text": pa.array(texts, pa.string())})
    found = made.score(batch)
    return found["clip_score"].to_numpy(zero_copy_only=False), found["clip_score_error"].to_pylist()


def by_hand(model: str, image: bytes, text: str) -> float:
    """One pair through open_clip, as its README does it."""
    return float(reference(model, image, text)["score"])


def pairs(photo: Photo, count: int) -> tuple[list[bytes | None], list[str | None]]:
    """Distinct images and texts of many lengths."""
    images: list[bytes | None] = [photo(40 + i, 70 - i, seed=i) for i in range(count)]
    return images, [f"a red circle, number {i}" + " on blue" * (i % 40) for i in range(count)]


def test_equals_open_clip(photo: Photo, model: str) -> None:
    """Scores are open_clip's own, one pair at a time, to 1e-5."""
    images, texts = pairs(photo, 6)
    found, _ = measure(opened(model), images, texts)
    want = [by_hand(model, i or b"", t or "") for i, t in zip(images, texts, strict=True)]
    np.testing.assert_allclose(found, want, atol=1e-5)
    assert np.std(found) > 1e-4


@pytest.mark.parametrize("mode", ["RGBA", "P", "CMYK", "L", "I;16", "1"])
def test_modes(photo: Photo, mode: str) -> None:
    """Images of every mode score as open_clip's transform makes them."""
    kind = "TIFF" if mode == "CMYK" else "PNG"
    whole, out = Image.open(BytesIO(photo(60, 50))), BytesIO()
    grey = (np.asarray(whole.convert("L"), np.uint16) * 257).astype(np.uint16)
    (Image.fromarray(grey) if mode == "I;16" else whole.convert(mode)).save(out, kind)
    found, errors = measure(opened("pairsieve-demo"), [out.getvalue()], ["a red circle"])
    assert errors == [None]
    np.testing.assert_allclose(found, [by_hand("pairsieve-demo", out.getvalue(), "a red circle")], atol=1e-5)


def test_bits(photo: Photo, model: str) -> None:
    """A score has the same bits whatever the neighbours, the place in the batch, and the rest of the batch."""
    images, texts = pairs(photo, 24)
    made = opened(model, batch_size=16)
    whole, _ = measure(made, images, texts)
    for shift in (1, 5, 15):
        turned, _ = measure(made, images[shift:] + images[:shift], texts[shift:] + texts[:shift])
        np.testing.assert_array_equal(np.roll(turned, shift), whole)
    alone = [measure(made, [i], [t])[0][0] for i, t in zip(images, texts, strict=True)]
    np.testing.assert_array_equal(alone, whole)


@pytest.mark.parametrize(("precision", "near"), [("fp32", 1e-5), ("fp16", 2e-3), ("bf16", 2e-2)])
def test_precisions(photo: Photo, vit: Path, precision: str, near: float) -> None:
    """Scores of half precision are near those of float32, which a CPU gives by itself."""
    images, texts = pairs(photo, 6)
    want, _ = measure(opened(vit), images, texts)
    found, _ = measure(opened(vit, precision=precision), images, texts)
    np.testing.assert_allclose(found, want, atol=near)
    assert (found == want).all() == (precision == "fp32")


def test_work_is_skipped(photo: Photo, vit: Path) -> None:
    """Texts of pairs without an image are not encoded, nor images of pairs without a text."""
    made, seen = opened(vit, batch_size=4), []
    for tower in (made._clips[0].model.visual, made._clips[0].model.transformer):
        tower.register_forward_pre_hook(lambda module, given: seen.append(len(given[0])))
    measure(made, [None, b"x", photo(40, 40)] * 4, ["a", "b", None] * 4)
    assert not seen
    measure(made, [photo(40, 40), None] * 4, ["a", "b"] * 4)
    assert seen == [4, 4]


def test_neighbours_broken(photo: Photo) -> None:
    """Broken pairs beside it do not change a pair's score."""
    made = opened("pairsieve-demo", batch_size=8)
    images, texts = pairs(photo, 1)
    want, _ = measure(made, images, texts)
    found, _ = measure(made, [None, b"x", *images], ["a", "b", *texts])
    assert found[2] == want[0]


def claim(side: int, png: bytes) -> bytes:
    """A PNG whose header claims a square of this side."""
    head = b"IHDR" + side.to_bytes(4, "big") * 2 + png[24:29]
    return png[:12] + head + crc32(head).to_bytes(4, "big") + png[33:]


def test_bad_pairs(photo: Photo) -> None:
    """What cannot be scored has no score and a reason; nothing raises."""
    good = photo(64, 48)
    cases: list[tuple[bytes | None, str | None, str | None]] = [
        (good, "a red circle", None),
        (None, "a", "no_image"),
        (b"", "a", "broken_image"),
        (b"<html>" * 50, "a", "broken_image"),
        (good[: len(good) // 2], "a", "broken_image"),
        (photo(kind="PNG")[:-40], "a", "broken_image"),
        (photo(20_000, 1, kind="PNG"), "a", None),
        (photo(60_000, 1, kind="PNG"), "a", "too_many_pixels"),
        (claim(60_000, photo(kind="PNG")), "a", "too_many_pixels"),
        (photo(kind="EPS"), "a", "broken_image"),
        (good, None, "no_text"),
        (good, "", "no_text"),
        (good, " \n\u3000", "no_text"),
        (None, None, "no_image"),
    ]
    scores, errors = measure(opened("pairsieve-demo"), [c[0] for c in cases], [c[1] for c in cases])
    assert errors == [c[2] for c in cases]
    assert [bool(np.isnan(s)) for s in scores] == [c[2] is not None for c in cases]


def test_huge_text(photo: Photo) -> None:
    """A caption of megabytes without a space costs no more than its beginning."""
    made, image = opened("pairsieve-demo"), photo(64, 48)
    rng = np.random.default_rng(0)
    text = "".join(rng.choice(list("abcdefgh"), 3_000_000))
    found, _ = measure(made, [image, image], [text, text[:10_000]])
    assert found[0] == found[1]


def test_empty_batch() -> None:
    """No pairs, no scores."""
    assert measure(opened("pairsieve-demo"), [], [])[1] == []


def test_threads_restored(photo: Photo) -> None:
    """The host process keeps its own number of threads."""
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        made = opened("pairsieve-demo")
        assert torch.get_num_threads() == 2
        measure(made, [photo(64, 48)], ["a red circle"])
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def fingerprint(model: str, **chosen: Any) -> str:
    """Fingerprint of a step."""
    data = {"pool": {"pairs": "x"}, "filters": [{"clip_score": {"model": model, **chosen}}]}
    source = from_data(data)
    recipe, made = check(source)
    types = {"url": pa.string(), "text": pa.string(), "image": pa.binary()}
    return make_plan(source, recipe, made, types).steps[0].fingerprint


def test_weights_in_fingerprint(vit: Path, tmp_path: Path) -> None:
    """Other weights, configuration or tokenizer under the same name are another model; notes are not."""
    here = tmp_path / "m"
    shutil.copytree(vit, here)
    seen = [fingerprint(str(here))]
    (here / "README.md").write_text("x")
    assert fingerprint(str(here)) == seen[0]
    weights = here / "open_clip_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
    seen.append(fingerprint(str(here)))
    (here / "tokenizer.json").write_text("{}")
    seen.append(fingerprint(str(here)))
    assert len(set(seen)) == 3


def test_settings_in_fingerprint() -> None:
    """Thresholds and the device are free to change; precision and padding are not."""
    base = fingerprint("pairsieve-demo")
    assert base == fingerprint("pairsieve-demo", min=0.3) == fingerprint("pairsieve-demo", top=0.5, device="cpu")
    assert base != fingerprint("pairsieve-demo", precision="bf16") != fingerprint("pairsieve-demo", batch_size=32)


@pytest.mark.parametrize(
    ("chosen", "says"),
    [
        ({"model": "ViT-B-33", "pretrained": "openai"}, "did you mean 'ViT-B-32'"),
        ({"model": "models/none"}, "no architecture and no directory"),
        ({"model": "ViT-B-32"}, "pretrained: give the weights"),
        ({"model": "ViT-B-32", "pretrained": "laion2b_s34b_b79"}, "did you mean 'laion2b_s34b_b79k'"),
        ({"model": "ViT-L-14", "pretrained": "openai"}, "QuickGELU.*write ViT-L-14-quickgelu"),
        ({"model": "ViT-B/32", "pretrained": "laion400m_e32"}, "QuickGELU.*write ViT-B-32-quickgelu"),
        ({"model": "pairsieve-demo", "pretrained": "openai"}, "'pretrained' goes with"),
        ({"model": "{tmp}"}, "open_clip_config.json"),
        ({"model": "{tmp}/junk"}, "is not JSON"),
        ({"model": "{tmp}/empty"}, "no 'model_cfg'"),
        ({"model": "{tmp}/bare"}, "holds no weights"),
        ({"model": "a\0b"}, "no architecture"),
        ({}, "give either"),
        ({"model": "pairsieve-demo", "column": "clip"}, "give either"),
        ({"column": "clp"}, "did you mean 'clip'"),
        ({"column": "text", "min": 0.3}, "float column, not string"),
        ({"column": "count", "top": 0.3}, "float column, not int32"),
        ({"column": "clip", "min": float("nan")}, "finite"),
        ({"column": "clip", "top": -0.1}, "greater than or equal to 0"),
        ({"column": "clip", "top": 1.1}, "less than or equal to 1"),
    ],
)
def test_refused_by_the_plan(tmp_path: Path, chosen: dict[str, Any], says: str) -> None:
    """A wrong model, tag, directory or column is one line before anything runs."""
    for name, text in (("junk", "{"), ("empty", "{}"), ("bare", '{"model_cfg": {}}')):
        (tmp_path / name).mkdir()
        (tmp_path / name / "open_clip_config.json").write_text(text)
    chosen = {n: v.replace("{tmp}", str(tmp_path)) if isinstance(v, str) else v for n, v in chosen.items()}
    source = from_data({"pool": {"pairs": "x"}, "filters": [{"clip_score": chosen}]})
    types = {"image": pa.binary(), "text": pa.string(), "clip": pa.float32(), "count": pa.int32()}
    with pytest.raises(RecipeError, match=says) as caught:
        make_plan(source, *check(source), types)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("model", "tag"),
    [
        ("ViT-L-14-quickgelu", "openai"),
        ("ViT-B-32", "laion2b_s34b_b79k"),
        ("roberta-ViT-B-32", "laion2b_s12b_b32k"),
        ("ViT-B-16-SigLIP", "webli"),
    ],
)
def test_tags_that_fit(model: str, tag: str) -> None:
    """Tags whose activation is the architecture's, or the only one there is, pass."""
    ClipScore(model=model, pretrained=tag).check({})


def test_broken_weights(vit: Path, tmp_path: Path) -> None:
    """Weights that only loading shows to be broken are one line."""
    shutil.copytree(vit, tmp_path / "m")
    (tmp_path / "m" / "open_clip_model.safetensors").write_bytes(b"junk")
    with pytest.raises(UserError, match=r"clip_score: cannot load model .*header") as caught:
        ClipScore(model=str(tmp_path / "m"), device="cpu").open()
    assert "\n" not in str(caught.value)


def test_other_architecture(vit: Path, tmp_path: Path) -> None:
    """Weights of another architecture end a run in one line, not in a traceback."""
    shutil.copytree(vit, tmp_path / "m")
    shutil.copy(DEMO / "open_clip_model.safetensors", tmp_path / "m")
    pool = tmp_path / "p.parquet"
    pq.write_table(pa.table({"url": ["u"], "text": ["t"], "image": pa.array([b"x"], pa.binary())}), pool)
    recipe = {"pool": {"pairs": pool}, "filters": [{"clip_score": {"model": tmp_path / "m"}}]}
    with pytest.raises(PairsieveError, match="cannot load model") as caught:
        run(recipe, tmp_path / "out", workers=1)
    assert "\n" not in str(caught.value)


def kept(scores: list[float | None], **chosen: Any) -> list[str | None]:
    """Reasons in ``column`` mode, after the engine's rounds."""
    made = ClipScore(column="s", **chosen)
    batch = pa.record_batch({"s": pa.array(scores, pa.float32())})
    settled: dict[str, Any] = {}
    while not made.is_settled(settled):
        settled = made.settle(made.summarize(batch, settled), settled)
    return list(made.keep(batch, settled).to_pylist())


def test_column_mode() -> None:
    """A stored score is compared by min, by top, by both, or not at all."""
    scores = [0.1, 0.2, 0.3, 0.4, None]
    low, few, none = "below_min", "below_top", "no_score"
    assert kept(scores, min=0.2) == [low, None, None, None, none]
    assert kept(scores, top=0.2) == [few, few, None, None, none]
    assert kept(scores, top=0.2, min=0.25) == [low, low, None, None, none]
    assert kept(scores, top=0.2, min=0.35) == [low, low, low, None, none]
    assert kept(scores) == [None] * 5
    assert kept(scores, top=1.0) == [None, None, None, None, none]
    assert ClipScore(column="s").outputs({}) == {}


def test_measured_mode_reasons() -> None:
    """Where the score was measured, its error is the reason; without bounds everybody stays."""
    columns = {
        "clip_score": pa.array([0.1, 0.4, None, None, float("nan")], pa.float32()),
        "clip_score_error": pa.array([None, None, "no_image", "no_text", None]),
    }
    batch = pa.record_batch(columns)
    bounded = ClipScore(model="pairsieve-demo", min=0.3).keep(batch, {})
    assert bounded.to_pylist() == ["below_min", None, "no_image", "no_text", "no_score"]
    assert ClipScore(model="pairsieve-demo").keep(batch, {}).null_count == 5


@pytest.mark.parametrize("settings", [{"min": 0.3}, {"top": 0.5}])
def test_exclude_keeps_the_others(settings: dict[str, float]) -> None:
    """Every pair with a score stays with one of the two, never with both; one without, with neither."""
    scores = pa.array([0.1, 0.3, 0.30000001, None, float("nan"), 0.9, 0.2], pa.float64())
    batch = pa.record_batch({"score": scores})
    found = []
    for exclude in (False, True):
        made = ClipScore(column="score", exclude=exclude, **settings)
        settled: dict[str, object] = {}
        while not made.is_settled(settled):
            settled = made.settle(made.summarize(batch, settled), settled)
        found.append([reason is None for reason in made.keep(batch, settled).to_pylist()])
    assert [one + other for one, other in zip(*found, strict=True)] == [1, 1, 1, 0, 0, 1, 1]


def test_exclude_alone_is_refused() -> None:
    """There is nothing to turn round."""
    with pytest.raises(ValueError, match="turns 'min' or 'top' round"):
        ClipScore(column="score", exclude=True)
