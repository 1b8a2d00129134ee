"""What ``clip_score`` writes where it is asked: logits, embeddings, further models, mirrored scores, cuts."""

import shutil
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageOps

pytest.importorskip("torch")
pytest.importorskip("open_clip")

from pairsieve.filters.base import scoring_settings
from pairsieve.filters.clip_score import ClipScore
from pairsieve.pipelines.plan import make_plan
from pairsieve.pipelines.recipe import check
from pairsieve.pipelines.recipe_file import from_data, read
from pairsieve.pipelines.run import run
from pairsieve.schemas.errors import RecipeError, UserError
from tests.support_clip import CLIP, SIGLIP, column, matrix, opened, pairs_of, reference, write_model

Photo = Callable[..., bytes]
DEMO = "pairsieve-demo"


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A vision transformer with a causal text tower."""
    return write_model(tmp_path_factory.mktemp("models") / "vit", CLIP)


@pytest.fixture(scope="module")
def siglip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sigmoid model of another size, with another mean."""
    folder = tmp_path_factory.mktemp("models") / "siglip"
    return write_model(folder, SIGLIP, 1, mean=[0.5] * 3, std=[0.5] * 3, resize_mode="squash")


def some(photo: Photo, count: int = 5) -> tuple[list[bytes | None], list[str | None]]:
    """Distinct pairs."""
    images: list[bytes | None] = [photo(60 + i, 50 + 2 * i, seed=i) for i in range(count)]
    return images, [f"a circle, number {i}" + " on blue" * (9 * i) for i in range(count)]


def test_sigmoid_model(photo: Photo, siglip: Path) -> None:
    """A sigmoid model gives open_clip's cosine, logit and probability."""
    images, texts = some(photo)
    found = opened(siglip).score(pairs_of(images, texts))
    want = [reference(siglip, i or b"", t or "") for i, t in zip(images, texts, strict=True)]
    np.testing.assert_allclose(found["clip_score"], [w["score"] for w in want], atol=1e-5)
    np.testing.assert_allclose(found["clip_logit"], [w["logit"] for w in want], atol=1e-4)
    np.testing.assert_allclose(found["clip_probability"], [1 / (1 + np.exp(-w["logit"])) for w in want], rtol=1e-4)
    assert found["clip_logit"].type == found["clip_probability"].type == pa.float32()


def test_columns_only_where_asked(vit: Path, siglip: Path) -> None:
    """A model without a bias has no logits, and nothing else is written unasked."""
    assert set(ClipScore(model=str(vit)).outputs({})) == {"clip_score", "clip_score_error"}
    logits = {"clip_logit", "clip_probability"}
    assert set(ClipScore(model=str(siglip)).outputs({})) == {"clip_score", "clip_score_error"} | logits
    built_in = ClipScore(model="ViT-B-16-SigLIP", pretrained="webli")
    assert logits < set(built_in.outputs({}))
    assert {"timm", "transformers"} < set(built_in.needs())


def test_embeddings(photo: Photo, vit: Path) -> None:
    """Embeddings are open_clip's, of length one, rounded to float16; a side that is missing leaves the other."""
    images, texts = some(photo)
    images += [None, photo(50, 50), b"x", None]
    texts += ["a", " ", "b", None]
    made = opened(vit, embeddings=True)
    found = made.score(pairs_of(images, texts))
    assert found["clip_image"].type == made.outputs({})["clip_image"] == pa.list_(pa.float16(), 64)
    want = [reference(vit, i or b"", t or "") for i, t in zip(images[:5], texts[:5], strict=True)]
    for side in ("image", "text"):
        rows = matrix(found[f"clip_{side}"][:5])
        np.testing.assert_allclose(rows, [w[side] for w in want], atol=1e-3)
        np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-3)
    assert found["clip_image"].is_valid().to_pylist()[5:] == [False, True, False, False]
    assert found["clip_text"].is_valid().to_pylist()[5:] == [True, False, True, False]
    assert found["clip_score"].is_valid().to_pylist()[5:] == [False] * 4


def test_settings_do_not_change_the_score(photo: Photo, vit: Path, siglip: Path) -> None:
    """A score has the same bits with embeddings, mirrored scores, counts and further models beside it."""
    images, texts = some(photo)
    alone = column(opened(vit), images, texts, "clip_score")
    many = opened(vit, embeddings=True, flipped=True, text_cut=True, also={"other": {"model": str(siglip)}})
    assert column(many, images, texts, "clip_score") == alone


def test_several_models(photo: Photo, vit: Path, siglip: Path) -> None:
    """Each model writes what it writes alone, under its name."""
    images, texts = some(photo)
    batch = pairs_of([*images, None], [*texts, "a"])
    chosen: dict[str, Any] = {"embeddings": True, "flipped": True, "text_cut": True}
    made = opened(DEMO, also={"b32": {"model": str(vit)}, "sig_1": {"model": str(siglip)}}, **chosen)
    found = made.score(batch)
    for end, model in (("", DEMO), ("_b32", vit), ("_sig_1", siglip)):
        alone = opened(model, **chosen).score(batch)
        for name, values in alone.items():
            assert found[name if name == "clip_score_error" else f"{name}{end}"].equals(values), (name, end)
    assert list(found) == sorted(found, key=list(found).index)
    assert set(found) == set(made.outputs({}))


def test_an_image_that_another_model_cannot_take_keeps_its_score(photo: Photo, vit: Path, tmp_path: Path) -> None:
    """The other model's columns are null; the first one's scores and errors are as without it."""
    longest = write_model(tmp_path / "longest", CLIP, 2, resize_mode="longest")
    thin = photo(414, 2, kind="PNG")
    pairs = pairs_of([photo(40, 50), thin, b"broken", None], ["red", "a thin red line", "red", "red"])
    alone = opened(str(vit), embeddings=True).score(pairs)
    both = opened(str(vit), embeddings=True, also={"l": {"model": str(longest)}}).score(pairs)
    assert all(both[name].equals(values) for name, values in alone.items())
    assert both["clip_score_error"].to_pylist() == [None, None, "broken_image", "no_image"]
    assert both["clip_score_l"].is_valid().to_pylist() == [True, False, False, False]
    assert both["clip_image_l"].is_valid().to_pylist() == [True, False, False, False]


def test_one_decoding(photo: Photo, vit: Path, siglip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three models decode an image once."""
    calls, decode = [], Image.open

    def counted(*given: Any, **named: Any) -> Image.Image:
        calls.append(given)
        return decode(*given, **named)

    monkeypatch.setattr(Image, "open", counted)
    made = opened(DEMO, also={"a": {"model": str(vit)}, "b": {"model": str(siglip)}})
    column(made, [photo(60, 50)], ["a"], "clip_score")
    assert len(calls) == 1


def test_mirrored(photo: Photo, vit: Path) -> None:
    """The flipped score is that of the image mirrored beforehand; a mirrored pair of scores is mirrored."""
    images: list[bytes | None] = []
    for seed in range(4):
        out = BytesIO()
        ImageOps.mirror(Image.open(BytesIO(photo(48, 40, kind="PNG", seed=seed)))).save(out, "PNG")
        images += [photo(48, 40, kind="PNG", seed=seed), out.getvalue()]
    found = opened(vit, flipped=True).score(pairs_of(images, ["a red circle"] * 8))
    plain, flipped = (found[name].to_numpy() for name in ("clip_score", "clip_score_flipped"))
    np.testing.assert_allclose(flipped[0::2], plain[1::2], atol=1e-4)
    assert np.abs(flipped - plain).max() > 1e-3


def test_text_cut(photo: Photo, vit: Path, siglip: Path) -> None:
    """Tokens that did not fit are counted, by each model's own context, of a pair without an image too."""
    image = photo(50, 50)
    made = opened(vit, text_cut=True, also={"s": {"model": str(siglip)}})
    found = made.score(pairs_of([image, image, None, image], ["cat " * 10, "cat " * 80, "cat " * 90, None]))
    assert found["clip_text_cut"].to_pylist() == [0, 5, 15, None]
    assert found["clip_text_cut_s"].to_pylist() == [0, 18, 28, None]


@pytest.mark.parametrize("side", ["image", "text"])
def test_one_side(photo: Photo, vit: Path, side: Any) -> None:
    """One side alone is embedded as in pairs, without the other in the pool; what is broken says why."""
    images, texts = some(photo)
    want = opened(vit, embeddings=True).score(pairs_of(images, texts))[f"clip_{side}"]
    made = opened(vit, embeddings=True, mode=side)
    assert made.inputs({}) == (side,)
    assert set(made.outputs({})) == {f"clip_{side}", "clip_score_error"}
    pool = pairs_of([*images, None, b"x"], [*texts, None, " "]).select([side])
    found = made.score(pool)
    assert found[f"clip_{side}"][:5].equals(want)
    assert found[f"clip_{side}"].null_count == 2
    errors = ["no_image", "broken_image"] if side == "image" else ["no_text", "no_text"]
    assert found["clip_score_error"].to_pylist() == [*[None] * 5, *errors]
    assert made.keep(pa.record_batch({"clip_score_error": found["clip_score_error"]}), {}).null_count == 7


def test_no_pair_can_be_scored(vit: Path) -> None:
    """Where nothing is embedded every column is null, of its type."""
    made = opened(vit, embeddings=True, flipped=True, text_cut=True)
    found = made.score(pairs_of([None, b"x"], [None, ""]))
    for name, kind in made.outputs({}).items():
        assert found[name].type == kind
        assert found[name].null_count == (0 if name == "clip_score_error" else 2)


def test_a_run_stores_embeddings(photo: Photo, vit: Path, tmp_path: Path) -> None:
    """Embeddings of a run lie in its scores as float16 lists of a fixed size, and queries see them."""
    images, texts = some(photo)
    table = pa.table({"url": [f"u{i}" for i in range(5)], "text": texts, "image": pa.array(images, pa.binary())})
    pq.write_table(table, tmp_path / "p.parquet")
    step = {"clip_score": {"model": str(vit), "embeddings": True, "device": "cpu", "top": 0.5}}
    result = run({"pool": {"pairs": tmp_path / "p.parquet"}, "filters": [step]}, tmp_path / "out", workers=1)
    file = next((tmp_path / "out" / "scores" / "clip_score").glob("*.parquet"))
    assert pq.read_schema(file).field("clip_text").type == pa.list_(pa.float16(), 64)
    # the same sum in the catalog's SQL as in the filter, up to the rounding to float16
    sql = "SELECT clip_score, list_dot_product(clip_image::FLOAT[], clip_text::FLOAT[]) AS again FROM scores_clip_score"
    found = result.query(sql)
    np.testing.assert_allclose(found["again"], found["clip_score"], atol=2e-3)


@pytest.mark.parametrize(
    ("chosen", "says"),
    [
        ({"mode": "image"}, "'mode: image' gives no score; write 'embeddings: true'"),
        ({"mode": "text", "embeddings": True, "min": 0.2}, "gives no score for 'min'"),
        ({"mode": "text", "embeddings": True, "top": 0.2}, "gives no score for 'min'"),
        ({"mode": "image", "embeddings": True, "flipped": True}, "gives no score for"),
        ({"mode": "image", "embeddings": True, "text_cut": True}, "reads no text to cut"),
        ({"also": {"B 32": {"model": DEMO}}}, "'B 32' cannot be part of a column's name"),
        ({"also": {"error": {"model": DEMO}}}, "'error' cannot be part"),
        ({"also": {"flipped_x": {"model": DEMO}}}, "'flipped_x' cannot be part"),
        ({"also": {"cut": {"model": DEMO}}}, "'cut' cannot be part"),
        ({"also": {"clip_image": {"model": DEMO}}}, "'clip_image' cannot be part"),
        ({"batch_size": 100_000}, "batch_size"),
        ({"model": ""}, "model"),
        ({"also": {"": {"model": DEMO}}}, "'' cannot be part"),
        ({"also": {"b": {"model": "ViT-B-33", "pretrained": "openai"}}}, "also: b: .*did you mean 'ViT-B-32'"),
        ({"also": {"b": {"model": "ViT-B-32"}}}, "also: b: pretrained: give the weights"),
        ({"also": {"b": {"model": DEMO, "pretrained": "openai"}}}, "'pretrained' goes with"),
        ({"also": {"b": {"model": DEMO, "tag": 1}}}, "tag"),
        ({"embeddings": True, "model": "{tmp}/huge"}, "no embed_dim that makes sense: 100000000"),
        ({"embeddings": True, "model": "{tmp}/odd"}, "no embed_dim that makes sense: True"),
        ({"embeddings": True, "model": "{tmp}/list"}, "has no 'model_cfg'"),
        ({"per_gpu": 0}, "greater than 0"),
        ({"threads": 0}, "greater than 0"),
        ({"batch_size": 0}, "greater than 0"),
        ({"precision": "int8"}, "auto"),
    ],
)
def test_refused_by_the_plan(tmp_path: Path, chosen: dict[str, Any], says: str) -> None:
    """Settings that do not go together are one line before anything runs."""
    odd = '{"model_cfg": {"embed_dim": true, "text_cfg": 5, "vision_cfg": null}}'
    for name, text in (
        ("odd", odd),
        ("huge", '{"model_cfg": {"embed_dim": 100000000}}'),
        ("list", '{"model_cfg": [1]}'),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "open_clip_config.json").write_text(text)
        (tmp_path / name / "w.bin").write_bytes(b"")
    settings = {"model": DEMO} | chosen
    settings["model"] = str(settings["model"]).replace("{tmp}", str(tmp_path))
    with pytest.raises(RecipeError, match=says) as caught:
        planned(settings)
    assert "\n" not in str(caught.value)


def planned(settings: dict[str, Any]) -> Any:
    """The step as it would be run."""
    source = from_data({"pool": {"pairs": "x"}, "filters": [{"clip_score": settings}]})
    types = {"url": pa.string(), "text": pa.string(), "image": pa.binary()}
    return make_plan(source, *check(source), types).steps[0]


@pytest.mark.parametrize("name", ["also", "embeddings", "flipped", "text_cut", "mode"])
def test_nothing_is_measured_of_a_column(name: str) -> None:
    """With a stored score there is no model to write more."""
    value: Any = {"also": {"b": {"model": DEMO}}, "mode": "image"}.get(name, True)
    with pytest.raises(ValueError, match=f"'{name}' needs a 'model'"):
        ClipScore(column="s", **{name: value})


def test_fingerprint(vit: Path, tmp_path: Path) -> None:
    """What changes the values is in the fingerprint, files of further models too; the speed is not."""
    base = planned({"model": DEMO}).fingerprint
    assert base == planned({"model": DEMO, "threads": 3, "per_gpu": 2, "device": "cpu"}).fingerprint
    for chosen in ({"embeddings": True}, {"flipped": True}, {"text_cut": True}, {"preprocess": "fast"}):
        assert planned({"model": DEMO} | chosen).fingerprint != base
    shutil.copytree(vit, tmp_path / "m")
    also = {"model": DEMO, "also": {"b": {"model": str(tmp_path / "m")}}}
    before = planned(also).fingerprint
    (tmp_path / "m" / "tokenizer.json").write_text("{}")
    assert planned(also).fingerprint != before
    assert "threads" not in scoring_settings(ClipScore(model=DEMO))


def test_resources() -> None:
    """Workers that share a GPU ask for their part of it, and for the cores that their threads need."""
    assert ClipScore(model=DEMO).resources().gpus == 1
    shared = ClipScore(model=DEMO, per_gpu=4, threads=3).resources()
    assert (shared.gpus, shared.cpus, shared.gpu_optional) == (0.25, 3, True)
    assert ClipScore(model=DEMO, device="cpu").resources().gpus == 0
    assert ClipScore(column="s").resources().gpus == 0


def test_the_shipped_recipe() -> None:
    """DataComp's scores and embeddings: both models with QuickGELU, 768 and 512 numbers, nothing dropped."""
    source = read("clip_scores")
    types = {"url": pa.string(), "text": pa.string(), "image": pa.binary()}
    step = make_plan(source, *check(source), types).steps[0]
    assert (step.stored["clip_image"].list_size, step.stored["clip_text_b32"].list_size) == (768, 512)
    assert not step.is_barrier


def hub(folder: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache of the hub's client that holds ``org/tiny``, and no network."""
    snapshot = folder / "models--org--tiny" / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (folder / "models--org--tiny" / "refs").mkdir()
    (folder / "models--org--tiny" / "refs" / "main").write_text("0" * 40)
    for file in model.iterdir():
        shutil.copy(file, snapshot)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(folder))


def test_a_model_of_the_hub(photo: Photo, siglip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hub id gives what its files give from a directory: columns, dimension and scores."""
    hub(tmp_path, siglip, monkeypatch)
    name = "hf-hub:org/tiny"
    step = planned({"model": name, "embeddings": True})
    assert step.stored["clip_image"] == pa.list_(pa.float16(), 48)
    assert "clip_logit" in step.stored
    images, texts = some(photo)
    assert column(opened(name), images, texts, "clip_score") == column(opened(siglip), images, texts, "clip_score")


@pytest.mark.parametrize("settings", [{}, {"embeddings": True}])
def test_the_hub_cannot_be_reached(monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any]) -> None:
    """A hub id that cannot be fetched is one line with what to do."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(
        RecipeError, match=r"cannot fetch open_clip_config.json of 'hf-hub:no/body'.*go online"
    ) as caught:
        planned({"model": "hf-hub:no/body"} | settings)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["hf-hub:name", "hf-hub:a//b", "hf-hub:"])
def test_a_hub_id_has_two_parts(name: str) -> None:
    """Anything else is refused before the hub is asked."""
    with pytest.raises(RecipeError, match="not of the form hf-hub:org/name"):
        planned({"model": name})


def test_weights_of_a_file(photo: Photo, tmp_path: Path) -> None:
    """A model that cannot be loaded among others is named."""
    with pytest.raises(UserError, match="clip_score: cannot load model 'ViT-B-32'"):
        (tmp_path / "w.safetensors").write_bytes(b"junk")
        also = {"b": {"model": "ViT-B-32", "pretrained": str(tmp_path / "w.safetensors")}}
        opened(DEMO, also=also)
