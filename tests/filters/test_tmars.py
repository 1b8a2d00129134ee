"""tmars: text found by real model files, masked, and scored again as open_clip does it."""

import json
from importlib import import_module
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError

from pairsieve.filters._detector import LARGEST_SIDE, DetectorSource, found_in
from pairsieve.filters._products import fixed
from pairsieve.filters.base import scoring_settings
from pairsieve.filters.tmars import Tmars, mask_of, masked
from pairsieve.pipelines.run import run
from pairsieve.schemas.errors import UserError
from tests import support_capfilt, support_clip
from tests.support import digests, recipe
from tests.support_detector import RED, RedBox, write_red_detector

hf: Any = import_module("transformers")
BOX = "tests.support_detector:RedBox"
TEXTS: list[str | None] = ["a red sign", "two dogs", "a plate of food on a table", "a cat"]


@pytest.fixture(scope="module")
def clip() -> str:
    """A tiny CLIP model."""
    return str(support_capfilt.model("clip"))


@pytest.fixture(scope="module")
def onnx(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The file of a detector that calls red pixels text."""
    return write_red_detector(tmp_path_factory.mktemp("onnx") / "red.onnx")


@pytest.fixture(scope="module")
def paddle(tmp_path_factory: pytest.TempPathFactory) -> str:
    """PP-OCRv5's mobile detector with random weights, in transformers' format."""
    import torch

    folder = tmp_path_factory.mktemp("paddle")
    with torch.random.fork_rng(), fixed():
        torch.manual_seed(0)
        hf.AutoModelForObjectDetection.from_config(hf.PPOCRV5MobileDetConfig()).save_pretrained(folder)
    hf.PPOCRV5ServerDetImageProcessor().save_pretrained(folder)
    return str(folder)


def canvas(seed: int, *boxes: tuple[int, int, int, int]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Noise without red, with red boxes (left, top, right, bottom)."""
    found = np.random.default_rng(seed).integers(0, 120, (60, 90, 3), dtype=np.uint8)
    for left, top, right, bottom in boxes:
        found[top:bottom, left:right] = RED
    return found


def file(pixels: np.ndarray[Any, np.dtype[np.uint8]], mode: str = "RGB") -> bytes:
    """As PNG."""
    out = BytesIO()
    Image.fromarray(pixels).convert(mode).save(out, "PNG")
    return out.getvalue()


def scores(made: Tmars, images: list[bytes | None], texts: list[str | None], size: int = 100) -> dict[str, list[Any]]:
    """What the filter writes, in batches of ``size``."""
    made.open()
    try:
        pairs = support_clip.pairs_of(images, texts)
        parts = [made.score(pairs.slice(i, size)) for i in range(0, len(images), size)]
    finally:
        made.close()
    assert all(part[name].type == kind for part in parts for name, kind in made.writes.items())
    return {name: [value for part in parts for value in part[name].to_pylist()] for name in made.writes}


def test_images_without_text(clip: str, onnx: str) -> None:
    """Where no text is found the score is clip_score's, bit for bit."""
    images: list[bytes | None] = [file(canvas(i)) for i in range(4)]
    found = scores(Tmars(model=clip, detector=onnx, size=96, device="cpu"), images, TEXTS)
    plain = support_clip.column(support_clip.opened(clip), images, TEXTS, "clip_score")
    assert found["tmars"] == plain and found["tmars_boxes"] == [0] * 4 and found["tmars_area"] == [0.0] * 4


@pytest.mark.parametrize("fill", ["mean", "surround"])
def test_masked_images(clip: str, fill: str) -> None:
    """The score is open_clip's of the image whose text has one colour: the image's mean, or that around the text."""
    box = (20, 10, 60, 30)
    whole = canvas(1, box)
    found = scores(Tmars(model=clip, detector=BOX, fill=fill, device="cpu"), [file(whole)], ["a red sign"])
    expected, inside = whole.copy(), np.zeros((60, 90), bool)
    inside[10:30, 20:60] = True
    ring = np.zeros((60, 90), bool)
    ring[2:38, 12:68] = True
    colour = whole.reshape(-1, 3) if fill == "mean" else whole[ring & ~inside]
    expected[inside] = colour.mean(axis=0).round()
    reference = support_clip.reference(clip, file(expected), "a red sign")["score"]
    assert found["tmars"] == [pytest.approx(reference, abs=1e-6)]
    assert found["tmars"][0] != pytest.approx(
        support_clip.reference(clip, file(whole), "a red sign")["score"], abs=1e-4
    )
    assert found["tmars_boxes"] == [1] and found["tmars_area"] == [pytest.approx(20 * 40 / 5400)]


def test_the_onnx_file_finds_text(onnx: str) -> None:
    """A DB network as a file finds each red box about where it is, in an image of any size, and none without red."""
    detector = DetectorSource(name=onnx, size=96, unclip=1.0).open("cpu")
    whole = np.full((300, 400, 3), 180, np.uint8)
    whole[100:140, 50:250], whole[200:220, 300:390] = RED, RED
    found = sorted(np.round(np.array(p)).tolist() for p in detector.polygons(whole))
    assert len(found) == 2
    for polygon, (left, top, right, bottom) in zip(found, ((50, 100, 250, 140), (300, 200, 390, 220)), strict=True):
        corners = np.array(polygon)
        grown = corners.min(axis=0) - (left, top), (right, bottom) - corners.max(axis=0)
        assert all((side > -30).all() and (side <= 3).all() for side in grown)  # DB models find text shrunk
    assert len(detector.polygons(np.full((300, 400, 3), 180, np.uint8))) == 0
    mask = mask_of(detector.polygons(whole), (300, 400), 8)
    assert mask[100:140, 50:250].all() and mask.mean() < 0.3


def test_a_model_of_transformers(paddle: str) -> None:
    """A PP-OCR model finds what transformers' own processor makes of its output."""
    import torch

    source = DetectorSource(name=paddle, threshold=0.3, box_threshold=0.2)
    source.check()
    whole = canvas(2)
    found = source.open("cpu").polygons(whole)
    processor = hf.AutoImageProcessor.from_pretrained(paddle)
    net = hf.AutoModelForObjectDetection.from_pretrained(paddle).eval()
    with fixed():
        given_ = processor(images=[whole], return_tensors="pt")
        out = net(pixel_values=given_["pixel_values"])
    (expected,) = processor.post_process_object_detection(out, 0.3, [torch.tensor((60, 90))], box_threshold=0.2)
    assert np.array_equal(np.array(found), expected["boxes"].numpy()) and len(found)


def test_batches(clip: str, onnx: str) -> None:
    """A score does not depend on its neighbours."""
    images: list[bytes | None] = [file(canvas(i, (5 * i, 5, 5 * i + 30, 25))) for i in range(4)]
    made = Tmars(model=clip, detector=onnx, size=96, device="cpu")
    whole = scores(made, images, TEXTS)
    assert scores(made, images, TEXTS, 1) == whole
    assert scores(made, images[::-1], TEXTS[::-1])["tmars"] == whole["tmars"][::-1]
    assert all(count == 1 for count in whole["tmars_boxes"])


def test_errors(clip: str) -> None:
    """What cannot be scored has a reason; other kinds of images can."""
    whole = canvas(0, (10, 10, 40, 30))
    grey, jpeg = file(whole, "L"), BytesIO()
    Image.fromarray(whole).save(jpeg, "JPEG")
    images = [None, b"x", file(whole)[:400], file(whole), file(whole), grey, file(whole, "P"), jpeg.getvalue()]
    texts = ["a", "a", "a", None, "  ", "a", "a", "a"]
    found = scores(Tmars(model=clip, detector=BOX, device="cpu"), images, texts)
    assert found["tmars_error"] == ["no_image", "broken_image", "broken_image", "no_text", "no_text", None, None, None]
    assert [value is None for value in found["tmars"]] == [True] * 5 + [False] * 3
    assert found["tmars_boxes"] == [None] * 5 + [0] * 3


def test_nonsense(clip: str) -> None:
    """A detector's corners that are no numbers or far outside mask what of them lies in the image, and no more."""
    made = Tmars(model=clip, detector="tests.support_detector:Nonsense", device="cpu")
    found = scores(made, [file(canvas(0))], ["a dog"])
    assert found["tmars_error"] == [None] and found["tmars_boxes"] == [3] and 0 < found["tmars_area"][0] <= 1


CORNER = st.floats(width=32) | st.integers(-20, 120).map(float)


@given(st.lists(st.lists(st.tuples(CORNER, CORNER), max_size=6), max_size=4), st.integers(0, 9))
def test_any_polygons(polygons: list[list[tuple[float, float]]], dilate: int) -> None:
    """Any corners give a mask of the image's shape, which dilating only widens; the rest of the image stays."""
    arrays = [np.array(polygon, np.float32).reshape(-1, 2) for polygon in polygons]
    plain, wide = mask_of(arrays, (40, 50), 0), mask_of(arrays, (40, 50), dilate)
    assert wide.shape == (40, 50) and not (plain & ~wide).any()
    whole = np.random.default_rng(0).integers(0, 255, (40, 50, 3), dtype=np.uint8)
    for fill in ("mean", "surround"):
        painted = masked(whole, wide, fill)
        assert (painted[~wide] == whole[~wide]).all()
        assert len(np.unique(painted[wide], axis=0)) <= max(len(polygons), 1) + (fill == "surround")


def test_large_images() -> None:
    """A detector sees no image larger than its bound; what it finds is put back in place."""
    whole = np.zeros((20, 2 * LARGEST_SIDE, 3), np.uint8)
    whole[4:16, 2000:6000] = RED
    (found,) = found_in(RedBox(), whole)
    assert found.min(axis=0).tolist() == pytest.approx([2000, 4], abs=3)
    assert found.max(axis=0).tolist() == pytest.approx([6000, 16], abs=4)


def test_settings_that_measure(clip: str) -> None:
    """Detector and masking are measured; min and top only decide."""
    made = Tmars(model=clip, detector=BOX)
    assert scoring_settings(made) == scoring_settings(Tmars(model=clip, detector=BOX, min=0.2, device="cpu"))
    for chosen in ({"fill": "surround"}, {"dilate": 1}, {"threshold": 0.5}, {"size": 64}):
        assert scoring_settings(made) != scoring_settings(Tmars(model=clip, detector=BOX, **chosen))


def test_files(clip: str, onnx: str, paddle: str) -> None:
    """The detector's files are part of the fingerprint."""
    assert onnx in Tmars(model=clip, detector=onnx).files()
    assert f"{paddle}/model.safetensors" in Tmars(model=clip, detector=paddle).files()
    assert "transformers" in Tmars(model=clip, detector=paddle).needs()


@pytest.mark.parametrize(
    ("detector", "message"),
    [
        ("none.onnx", "detector: there is no file 'none.onnx'"),
        ("nowhere", "detector: there is no directory 'nowhere'"),
        ("CLIP", "detector: .* holds no config.json"),
        ("LLAVA", "is of type 'llava'; text is found by"),
    ],
)
def test_check(clip: str, detector: str, message: str) -> None:
    """What is no detector is refused before anything is measured."""
    name = {"CLIP": clip, "LLAVA": str(support_capfilt.model("llava"))}.get(detector, detector)
    with pytest.raises(ValueError, match=message):
        Tmars(model=clip, detector=name, device="cpu").check({})


@pytest.mark.parametrize(
    ("detector", "message"),
    [
        ("BROKEN.onnx", "cannot load the detector"),
        ("tests.support_detector:Blind", "has no method 'polygons"),
        ("tests.support_detector:Broken", "RuntimeError: no licence for this detector"),
        ("tests.support_detector:Missing", "AttributeError"),
        ("no.such.module:X", "ModuleNotFoundError"),
        ("DAMAGED", "cannot load model"),
    ],
)
def test_open(clip: str, paddle: str, tmp_path: Path, detector: str, message: str) -> None:
    """A detector that cannot be loaded is one line."""
    (tmp_path / "x.onnx").write_bytes(b"no network")
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    (damaged / "config.json").write_text((Path(paddle) / "config.json").read_text())
    (damaged / "preprocessor_config.json").write_text(json.dumps({}))
    (damaged / "model.safetensors").write_bytes(b"{}")
    name = {"BROKEN.onnx": str(tmp_path / "x.onnx"), "DAMAGED": str(damaged)}.get(detector, detector)
    with pytest.raises(UserError, match=message) as caught:
        Tmars(model=clip, detector=name, device="cpu").open()
    assert "\n" not in str(caught.value)


def test_another_network(clip: str, tmp_path: Path) -> None:
    """A network that gives no map of text is one line."""
    name = write_red_detector(tmp_path / "two.onnx", maps=2)
    with pytest.raises(UserError, match=r"the detector gives \(1, 2, 96, 96\), no map of text; is it a DB model"):
        DetectorSource(name=name, size=96).open("cpu").polygons(canvas(0))


def test_wrong_settings() -> None:
    """A CLIP model and a detector are needed."""
    with pytest.raises(ValidationError, match="give the CLIP model"):
        Tmars(detector=BOX)
    with pytest.raises(ValidationError, match="detector"):
        Tmars(model="ViT-B-32")  # type: ignore[call-arg]


def test_runs(clip: str, onnx: str, tmp_path: Path) -> None:
    """One worker and two write the same bytes, and the best half by masked score stays."""
    texts = [f"a red dog {'near ' * (i % 7)}{i}" for i in range(12)]
    pq.write_table(
        pa.table({"url": [f"http://e.org/{i}" for i in range(12)], "text": texts}), tmp_path / "pool.parquet"
    )
    step = {"model": clip, "detector": onnx, "size": 96, "device": "cpu", "top": 0.5}
    made = recipe("", {"tests.support_filters:Painted": None}, {"tmars": step})
    made["pool"]["urls"] = {"path": str(tmp_path / "pool.parquet"), "shard_rows": 4}
    one, two = run(made, tmp_path / "one", workers=1), run(made, tmp_path / "two", workers=2)
    assert digests(tmp_path / "one") == digests(tmp_path / "two")
    assert one.kept == 7 and one.tally.dropped == {("tmars", "below_top"): 5} and two.kept == 7
