"""The packaged captioner: it is there as a whole, its name resolves, and it says what fresh scenes show."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

import pairsieve
from pairsieve.pipelines.demo_phrases import Said, read
from pairsieve.pipelines.demo_world import Scene, encode, render, sample_scene
from pairsieve.pipelines.nano_world import junk_picture, stored

pytest.importorskip("transformers")
pytest.importorskip("torch")

from pairsieve.filters.caption import Caption
from pairsieve.filters.clip_score import ClipScore
from pairsieve.filters.itm import Itm

PACKAGE = Path(pairsieve.__file__).parent
PROJECT = Path(__file__).parent.parent / "pyproject.toml"
SEED = 7103
SCENES = 120


def captions(images: Sequence[bytes], **settings: object) -> list[str]:
    """What the filter writes, one caption of each image."""
    made = Caption.model_validate({"model": "pairsieve-demo", "decoding": "greedy", "device": "cpu", **settings})
    made.open()
    uids = [f"{index:032x}" for index in range(len(images))]
    found = made.score(pa.record_batch({"uid": uids, "image": pa.array(images, pa.binary())}))["caption"]
    made.close()
    return [texts[0] for texts in found.to_pylist()]


def scenes() -> list[Scene]:
    """Fresh ones, of seeds that neither training nor a pool uses."""
    return [sample_scene(SEED, index) for index in range(SCENES)]


def share(shown: Sequence[Scene], **settings: object) -> float:
    """How many captions name shape, colour and count of what is shown."""
    texts = captions([encode(render(scene), "JPEG", 85) for scene in shown], **settings)
    right = [read(text) == Said.of(scene) for scene, text in zip(shown, texts, strict=True)]
    return sum(right) / len(right)


def test_fresh_scenes_are_described() -> None:
    """Greedy captions of pictures as the nano pool stores them are true of nine in ten."""
    assert share([stored(scene) for scene in scenes()]) >= 0.9


def test_large_pictures_are_described() -> None:
    """So are those of pictures as the demo's server sends them."""
    assert share(scenes()[:60]) >= 0.85


def test_drawn_captions_are_true_too() -> None:
    """The filter's own default for BLIP, nucleus sampling, is hardly worse."""
    assert share([stored(scene) for scene in scenes()], decoding=None) >= 0.8


def test_backgrounds_are_named() -> None:
    """Where a caption names a background, it is the scene's."""
    shown = [replace(stored(scene), background="striped") for scene in scenes()[:40]]
    texts = captions([encode(render(scene), "JPEG", 85) for scene in shown])
    named = [text for text in texts if text.endswith("background")]
    assert len(named) > 5
    assert sum(text.endswith("a striped background") for text in named) >= 0.9 * len(named)


def test_junk_is_told() -> None:
    """A picture without shapes is called that."""
    texts = captions([encode(junk_picture(SEED, index, 96, 64), "JPEG", 85) for index in range(40)])
    assert sum(text == "a page without shapes" for text in texts) >= 36


def test_captions_do_not_depend_on_neighbours() -> None:
    """Small pictures are encoded together, and yet each caption is that of the image alone."""
    images = [encode(render(stored(scene)), "JPEG", 85) for scene in scenes()[:21]]
    together = captions(images)
    assert together == [captions([image])[0] for image in images[:9]] + captions(images[9:])
    assert together[::-1] == captions(images[::-1])


def test_the_name_means_one_model_of_each_kind() -> None:
    """``pairsieve-demo`` is the CLIP to clip_score and the BLIP to caption."""
    folders = [{Path(file).parent for file in made(model="pairsieve-demo").files()} for made in (ClipScore, Caption)]
    assert folders == [{PACKAGE / "demo-clip"}, {PACKAGE / "demo-blip"}]


def test_the_name_means_nothing_to_others() -> None:
    """There is no demo model that matches: the line says what to give."""
    with pytest.raises(ValueError, match="there is no directory 'pairsieve-demo'; give one"):
        Itm(model="pairsieve-demo").check({})


def test_the_package_holds_every_file() -> None:
    """What a wheel takes along covers all files of the models, under 3 MB for the captioner."""
    patterns = tomllib.loads(PROJECT.read_text())["tool"]["setuptools"]["package-data"]["pairsieve"]
    taken = {path for pattern in patterns for path in PACKAGE.glob(pattern)}
    own = set((PACKAGE / "demo-blip").iterdir())
    assert own | set((PACKAGE / "demo-clip").iterdir()) <= taken
    assert {"config.json", "model.safetensors", "tokenizer.json", "processor_config.json"} <= {p.name for p in own}
    assert sum(path.stat().st_size for path in own) < 3_000_000
