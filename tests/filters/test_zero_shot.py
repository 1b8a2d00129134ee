"""zero_shot: class vectors as open_clip makes them, the nearest label, its chance, and verdicts by it."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import ValidationError

import pairsieve
from pairsieve.filters._classes import Classifier, Logits, embedded
from pairsieve.filters._clip import Clip
from pairsieve.filters._labels import names_of, prompts_of
from pairsieve.filters._templates import IMAGENET_80, SIMPLE_7, filled
from pairsieve.filters.base import UnknownColumnError, deciding_settings, scoring_settings
from pairsieve.filters.zero_shot import ZeroShot
from pairsieve.schemas.errors import UserError

open_clip = pytest.importorskip("open_clip")
torch = pytest.importorskip("torch")

DEMO = Path(pairsieve.__file__).parent / "demo-clip"
LABELS = ["red bicycle", "dog", "two boats on the sea", "sign", "blue house"]
WIDTH = 48
TOKENIZE = open_clip.get_tokenizer(f"local-dir:{DEMO}")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Class vectors are made by each test."""
    monkeypatch.setenv("PAIRSIEVE_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def demo() -> Clip:
    """The packaged model."""
    return ZeroShot(model="pairsieve-demo", labels=("x",), device="cpu").load()


@pytest.fixture(scope="module")
def sigmoid(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The demo's architecture with a logit bias, as a model of the sigmoid loss has."""
    folder = tmp_path_factory.mktemp("sigmoid")
    shutil.copytree(DEMO, folder, dirs_exist_ok=True)
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["model_cfg"] |= {"init_logit_bias": -10, "init_logit_scale": 2.3}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "open_clip_model.safetensors")
    weights |= {"logit_bias": torch.tensor(-3.5), "logit_scale": torch.tensor(2.0)}
    save_file(weights, folder / "open_clip_model.safetensors")
    return str(folder)


def images(rows: int = 700, width: int = WIDTH) -> NDArray[np.float32]:
    """Random embeddings of length 1."""
    found = np.random.default_rng(0).standard_normal((rows, width))
    return np.asarray(found / np.linalg.norm(found, axis=1, keepdims=True), np.float32)


def column(vectors: NDArray[Any]) -> pa.RecordBatch:
    """As stored."""
    kind = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1])
    return pa.record_batch({"clip_image": kind})


def measured(pairs: pa.RecordBatch, **settings: Any) -> dict[str, Any]:
    """Label, score, probability; checked first as a plan does."""
    made = ZeroShot(**{"device": "cpu", "precision": "fp32", "labels": LABELS} | settings)
    made.check({"clip_image": pairs["clip_image"].type})
    made.open()
    found = made.score(pairs)
    made.close()
    assert {name: values.type for name, values in found.items()} == made.writes
    return {name.removeprefix("zero_shot_"): values for name, values in found.items()}


def test_templates_are_openais() -> None:
    """The two lists of open_clip, which are those of CLIP's notebook, in their order."""
    from open_clip.zero_shot_metadata import OPENAI_IMAGENET_TEMPLATES, SIMPLE_IMAGENET_TEMPLATES

    assert [filled(t, "cat {}") for t in IMAGENET_80] == [make("cat {}") for make in OPENAI_IMAGENET_TEMPLATES]
    assert [filled(t, "cat") for t in SIMPLE_7] == [make("cat") for make in SIMPLE_IMAGENET_TEMPLATES]
    assert (len(IMAGENET_80), len(SIMPLE_7)) == (80, 7)


@pytest.mark.parametrize("templates", ["simple", ("a photo of a {}.", "{}")])
def test_class_vectors_are_open_clips(demo: Clip, templates: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """To 1e-6, however many prompts are embedded at once."""
    chosen = SIMPLE_7 if templates == "simple" else templates
    wanted = open_clip.build_zero_shot_classifier(demo.model, TOKENIZE, LABELS, chosen, None)
    prompts = list(prompts_of(tuple(LABELS), templates).values())
    found = embedded(demo, prompts)
    assert np.abs(found - wanted.T.numpy()).max() < 1e-6
    monkeypatch.setattr("pairsieve.filters._classes.TEXTS", 10)
    assert np.array_equal(embedded(demo, prompts), found)


def test_all_eighty(demo: Clip) -> None:
    """CLIP's own ensemble, as open_clip makes it from its functions."""
    from open_clip.zero_shot_metadata import OPENAI_IMAGENET_TEMPLATES

    wanted = open_clip.build_zero_shot_classifier(demo.model, TOKENIZE, ["dog"], OPENAI_IMAGENET_TEMPLATES)
    found = embedded(demo, list(prompts_of(("dog",), "imagenet80").values()))
    assert np.abs(found - wanted.T.numpy()).max() < 1e-6


def test_label_score_and_softmax_are_open_clips(demo: Clip) -> None:
    """Best of 100·cosine as in its zero-shot evaluation, and its softmax."""
    classifier = open_clip.build_zero_shot_classifier(demo.model, TOKENIZE, LABELS, SIMPLE_7, None)
    vectors = images()
    found = measured(column(vectors), model="pairsieve-demo")
    with torch.inference_mode():
        cosines = torch.from_numpy(vectors) @ classifier
        chances = (demo.model.logit_scale.exp() * cosines).softmax(dim=1)
    best = cosines.argmax(dim=1)
    assert found["label"].to_pylist() == [LABELS[i] for i in best]
    assert np.abs(found["score"].to_numpy() - cosines.amax(dim=1).numpy()).max() < 1e-6
    assert np.abs(found["probability"].to_numpy() - chances.amax(dim=1).numpy()).max() < 1e-5


def test_a_model_of_the_sigmoid_loss_gives_sigmoids(sigmoid: str) -> None:
    """Of the label's own logit, with the model's scale and bias; other labels play no part."""
    vectors = images(50)
    found = measured(column(vectors), model=sigmoid)
    cosines = found["score"].to_numpy().astype(np.float64)
    wanted = 1 / (1 + np.exp(-(np.exp(2.0) * cosines - 3.5)))
    assert np.abs(found["probability"].to_numpy() - wanted).max() < 1e-6


def test_logit_scale_is_what_is_asked_for() -> None:
    """At a scale near nothing all labels are equally probable."""
    found = measured(column(images(20)), model="pairsieve-demo", logit_scale=1e-6)
    assert np.allclose(found["probability"].to_numpy(), 1 / len(LABELS), atol=1e-5)


def test_length_does_not_matter() -> None:
    """Embeddings are brought to length 1."""
    one, other = (measured(column(images(30) * length), model="pairsieve-demo") for length in (1, 12))
    assert one["label"].equals(other["label"])
    assert np.allclose(one["score"].to_numpy(), other["score"].to_numpy(), atol=1e-6)


def test_neighbours_change_nothing() -> None:
    """Bit by bit: any order, any batch."""
    vectors = images(1300).astype(np.float16)
    whole = measured(column(vectors), model="pairsieve-demo")
    order = np.random.default_rng(1).permutation(len(vectors))
    mixed = measured(column(vectors[order]), model="pairsieve-demo")
    parts = [measured(column(vectors[i : i + 77]), model="pairsieve-demo") for i in range(0, 1300, 77)]
    for name, values in whole.items():
        assert mixed[name].equals(values.take(pa.array(order)))
        assert pa.concat_arrays([part[name] for part in parts]).equals(values)


@pytest.mark.parametrize("kind", [pa.list_(pa.float16()), pa.list_(pa.float32(), WIDTH)])
def test_what_has_no_embedding_is_null(kind: pa.DataType) -> None:
    """Null, zero, not finite; its neighbours have their labels."""
    rows: list[Any] = [None, [0.0] * WIDTH, [float("nan")] * WIDTH, images(1)[0].tolist()]
    found = measured(pa.record_batch({"clip_image": pa.array(rows, kind)}), model="pairsieve-demo")
    for values in found.values():
        assert values.is_valid().to_pylist() == [False, False, False, True]


def test_vectors_are_made_once_for_a_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next worker finds them in the cache and loads no model; other prompts are made anew."""
    pairs = column(images(20))
    first = measured(pairs, model="pairsieve-demo")
    loads = []
    load = ZeroShot.load

    def counted(self: ZeroShot, *given: Any) -> Clip:
        loads.append(self)
        return load(self, *given)

    monkeypatch.setattr(ZeroShot, "load", counted)
    again = measured(pairs, model="pairsieve-demo")
    assert not loads
    assert all(again[name].equals(values) for name, values in first.items())
    measured(pairs, model="pairsieve-demo", templates=["a {}"])
    assert len(loads) == 1


@pytest.mark.parametrize("is_transposed", [False, True])
@pytest.mark.parametrize("ending", [".npy", ".npz", ".pt"])
def test_vectors_of_classes_from_a_file(tmp_path: Path, demo: Clip, ending: str, is_transposed: bool) -> None:
    """A row or a column a label, of any length: the same labels as by the model, and no model is run."""
    vectors = embedded(demo, list(prompts_of(tuple(LABELS), None).values())) * 7
    written = np.ascontiguousarray(vectors.T) if is_transposed else vectors
    file = str(tmp_path / f"classes{ending}")
    if ending == ".pt":
        torch.save(torch.from_numpy(written), file)
    else:
        (np.save if ending == ".npy" else np.savez)(file, written)
    pairs = column(images())
    found, wanted = measured(pairs, classes=file), measured(pairs, model="pairsieve-demo", logit_scale=100.0)
    assert found["label"].equals(wanted["label"])
    for name in ("score", "probability"):
        assert np.allclose(found[name].to_numpy(), wanted[name].to_numpy(), atol=1e-5)


def test_first_of_equal_labels() -> None:
    """Two labels of one prompt: the first, with half the chance."""
    found = measured(column(images(10)), model="pairsieve-demo", labels={"a": "dog", "b": "dog"})
    assert set(found["label"].to_pylist()) == {"a"}
    assert np.allclose(found["probability"].to_numpy(), 0.5)


def test_prompts_of_ones_own_are_taken_as_they_are() -> None:
    """But for templates that are asked for; a list of labels gets the seven."""
    own: dict[str, str | tuple[str, ...]] = {"dog": ("a dog", "puppies"), "cat": "a {} cat"}
    assert prompts_of(own, None) == {"dog": ("a dog", "puppies"), "cat": ("a {} cat",)}
    assert prompts_of(own, ("x {}", "{} y"))["dog"] == ("x a dog", "a dog y", "x puppies", "puppies y")
    assert prompts_of(("dog",), None)["dog"] == tuple(t.replace("{}", "dog") for t in SIMPLE_7)


@given(st.lists(st.text("abc {}%\\", min_size=1, max_size=8).filter(str.strip), min_size=1, unique=True))
def test_names_are_put_in_as_they_are(names: list[str]) -> None:
    """Braces and percent signs in a label mean nothing."""
    assert [p for (p,) in prompts_of(tuple(names), ("<{}>",)).values()] == [f"<{name}>" for name in names]


def test_labels_from_files(tmp_path: Path) -> None:
    """A label a line, a JSON list, a JSON object of prompts; the file is in the fingerprint."""
    (tmp_path / "a.txt").write_text("\ufeffdog\r\n\n  cat \n", encoding="utf-8")
    (tmp_path / "b.json").write_text('["dog", "cat"]')
    (tmp_path / "c.json").write_text('{"dog": ["a dog", "puppy"], "cat": "kitten"}')
    assert list(names_of(str(tmp_path / "a.txt"))) == list(names_of(str(tmp_path / "b.json"))) == ["dog", "cat"]
    assert prompts_of(str(tmp_path / "c.json"), None) == {"dog": ("a dog", "puppy"), "cat": ("kitten",)}
    made = ZeroShot(model="pairsieve-demo", labels=str(tmp_path / "c.json"))
    assert made.files()[0] == str(tmp_path / "c.json")
    assert any(file.endswith("open_clip_model.safetensors") for file in made.files())


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("[1, 2]", "holds no list of strings"),
        ('{"dog": 3}', "holds no list of strings"),
        ("{", "Expecting"),
        ("[" * 100_000, "x.json"),
        ('["dog", "dog"]', "'dog' is there twice"),
        ("[]", "there are 0; give 1 to"),
        ('{"dog": []}', "'dog' has no prompt"),
        ('["a\\nb"]', "printable"),
        ('["\\ud800"]', "printable"),
        (json.dumps(["x" * 201]), "1 to 200 printable"),
        ("\xff\xfe", "x.json"),
    ],
)
def test_bad_files_of_labels_are_one_line(tmp_path: Path, content: str, says: str) -> None:
    """Whatever a file holds."""
    (tmp_path / "x.json").write_bytes(content.encode("latin1"))
    with pytest.raises((UserError, ValueError), match=says) as caught:
        names_of(str(tmp_path / "x.json"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({}, "give either 'model'"),
        ({"model": "pairsieve-demo", "classes": "x.npy"}, "give either 'model'"),
        ({"model": "pairsieve-demo", "keep": ["dog"], "drop": ["sign"]}, "give 'keep' or 'drop'"),
        ({"classes": "x.npy", "templates": "simple"}, "'templates' goes with 'model'"),
        ({"classes": "x.npy", "pretrained": "openai"}, "'pretrained' goes with 'model'"),
        ({"model": "pairsieve-demo", "key": "x"}, "'key' is the array"),
        ({"model": "pairsieve-demo", "templates": ["a photo"]}, "'a photo' has no {}"),
        ({"model": "pairsieve-demo", "templates": []}, "templates"),
        ({"model": "pairsieve-demo", "keep": []}, "keep"),
        ({"model": "pairsieve-demo", "labels": [True, False]}, "True is no text; put it in quotes"),
        ({"model": "pairsieve-demo", "templates": [5]}, "5 is no text; put it in quotes"),
        ({"model": "pairsieve-demo", "min_probability": 2}, "min_probability"),
    ],
)
def test_settings_that_do_not_go_together(settings: dict[str, Any], says: str) -> None:
    """Are refused when a recipe is read."""
    with pytest.raises(ValidationError, match=says):
        ZeroShot(**{"labels": LABELS} | settings)


def test_mistakes_are_one_line(tmp_path: Path) -> None:
    """Unknown labels, columns, models, files; embeddings of another model."""
    kind = {"clip_image": pa.list_(pa.float16(), WIDTH)}
    with pytest.raises(ValueError, match="keep: there is no label 'dgo'; did you mean 'dog'"):
        ZeroShot(model="pairsieve-demo", labels=LABELS, keep=["dgo"]).check(kind)
    with pytest.raises(ValueError, match="drop: there is no label 'x'; there are red bicycle, dog"):
        ZeroShot(model="pairsieve-demo", labels=LABELS, drop=["x"]).check(kind)
    with pytest.raises(UnknownColumnError, match="did you mean 'clip_image'"):
        ZeroShot(model="pairsieve-demo", labels=LABELS, embeddings="clip_imag").check(kind)
    with pytest.raises(UserError, match=r"no file 'dog'; write a list for a single label: \[dog\]"):
        ZeroShot(model="pairsieve-demo", labels="dog").check(kind)
    other = {"clip_image": pa.list_(pa.float16(), 99)}
    with pytest.raises(ValueError, match=f"pairsieve-demo has embeddings of width {WIDTH}, and column .* width 99"):
        ZeroShot(model="pairsieve-demo", labels=LABELS).check(other)
    np.save(tmp_path / "c.npy", np.ones((5, 99), np.float32))
    with pytest.raises(ValueError, match=r"c\.npy has embeddings of width 99"):
        ZeroShot(classes=str(tmp_path / "c.npy"), labels=LABELS).check(kind)
    with pytest.raises(UserError, match="5 × 99 values, and there are 2 labels"):
        ZeroShot(classes=str(tmp_path / "c.npy"), labels=LABELS[:2]).check(kind)
    np.save(tmp_path / "c.npy", np.zeros((5, WIDTH), np.float32))
    with pytest.raises(UserError, match="class 0 has a vector of length 0"):
        ZeroShot(classes=str(tmp_path / "c.npy"), labels=LABELS).check(kind)
    loose = pa.record_batch({"clip_image": pa.array([[1.0] * 5] * 2, pa.list_(pa.float16()))})
    with pytest.raises(UserError, match=f"of width 5, and the labels have {WIDTH}"):
        measured(loose, model="pairsieve-demo")


BATCH = pa.record_batch(
    {
        "zero_shot_label": pa.array(["dog", "sign", "dog", "sign", None]),
        "zero_shot_score": pa.array([0.3, 0.3, 0.1, 0.1, None], pa.float32()),
        "zero_shot_probability": pa.array([0.9, 0.5, 0.9, 0.5, None], pa.float32()),
    }
)


@pytest.mark.parametrize(
    ("settings", "reasons"),
    [
        ({}, [None] * 5),
        ({"keep": ["dog"]}, [None, "other_label", None, "other_label", "no_embedding"]),
        ({"drop": ["sign"]}, [None, "is_sign", None, "is_sign", None]),
        ({"min": 0.3}, [None, None, "below_min", "below_min", "no_embedding"]),
        ({"min_probability": 0.6}, [None, "low_probability", None, "low_probability", "no_embedding"]),
        ({"keep": ["dog"], "min": 0.2}, [None, "other_label", "below_min", "below_min", "no_embedding"]),
        ({"drop": ["sign"], "min": 0.2}, [None, "is_sign", None, None, None]),
        ({"drop": ["sign"], "min_probability": 0.6}, [None] * 5),
    ],
)
def test_verdicts(settings: dict[str, Any], reasons: list[str | None]) -> None:
    """By label, and by how sure it is: one that does not count neither keeps nor drops."""
    made = ZeroShot(model="pairsieve-demo", labels=LABELS, **settings)
    assert made.keep(BATCH).to_pylist() == reasons


def test_verdicts_measure_nothing_again() -> None:
    """Labels that stay or go and thresholds are no part of the fingerprint; labels and templates are."""
    made = ZeroShot(model="pairsieve-demo", labels=LABELS, keep=["dog"], min=0.1, min_probability=0.5)
    assert set(deciding_settings(made)) == {"keep", "drop", "min", "min_probability"}
    assert {"labels", "templates", "embeddings", "model", "logit_scale"} <= set(scoring_settings(made))


def test_classes_are_compared_in_float32() -> None:
    """Cosines of float16 embeddings with 300 classes: the greatest by numpy in float64, but for ties of rounding."""
    vectors, classes = images(400).astype(np.float16), images(300)[::-1]
    made = Classifier.on(torch.device("cpu"), classes, Logits(100.0))
    place, score, _ = made.best(column(vectors)["clip_image"])
    exact = vectors.astype(np.float64)
    exact = exact / np.linalg.norm(exact, axis=1, keepdims=True) @ classes.T.astype(np.float64)
    assert np.abs(score - exact.max(axis=1)).max() < 1e-6
    assert (exact.max(axis=1) - exact[np.arange(400), place]).max() < 1e-6
