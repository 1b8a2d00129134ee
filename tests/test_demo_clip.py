"""The packaged demo weights: they load in open_clip from the folder alone and tell true captions from swapped ones."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import pairsieve
from pairsieve.pipelines.demo_captions import LANGUAGES
from pairsieve.pipelines.demo_pool import PlantedPair, build_pool
from pairsieve.pipelines.demo_replies import image_bytes

open_clip = pytest.importorskip("open_clip")
torch = pytest.importorskip("torch")

FOLDER = Path(pairsieve.__file__).parent / "demo-clip"
REFERENCE = f"local-dir:{FOLDER}"
SWAPPED = 240
GOOD = 360


@pytest.fixture(scope="module")
def sample() -> list[PlantedPair]:
    """All swapped pairs of the default pool and the first good ones, 600 together."""
    pool = build_pool()
    return pool.members("swapped_caption")[:SWAPPED] + pool.members(None)[:GOOD]


@pytest.fixture(scope="module")
def scores(sample: list[PlantedPair]) -> NDArray[np.float64]:
    """The cosine of each sampled pair, with the transform and the tokenizer that the folder describes."""
    model, transform = open_clip.create_model_from_pretrained(REFERENCE, precision="fp32")
    model.eval()
    images = torch.stack([transform(Image.open(io.BytesIO(image_bytes(pair)))) for pair in sample])
    tokens = open_clip.get_tokenizer(REFERENCE)([pair.text or "" for pair in sample])
    with torch.inference_mode():
        cosines = (model.encode_image(images, normalize=True) * model.encode_text(tokens, normalize=True)).sum(-1)
    return np.asarray(cosines.numpy(), dtype=np.float64)


def auc(good: NDArray[np.float64], bad: NDArray[np.float64]) -> float:
    """Return the chance that a good pair scores above a bad one."""
    return float((good[:, None] > bad[None, :]).mean())


def test_weights_are_small() -> None:
    """The folder holds the two files open_clip reads, under 5 MB together."""
    sizes = {path.name: path.stat().st_size for path in FOLDER.iterdir()}
    assert set(sizes) == {"open_clip_config.json", "open_clip_model.safetensors"}
    assert sum(sizes.values()) < 5_000_000


def test_scores_are_cosines(scores: NDArray[np.float64]) -> None:
    """Every pair has a finite score within -1 and 1."""
    assert np.isfinite(scores).all()
    assert np.abs(scores).max() <= 1 + 1e-5


def test_true_captions_rank_above_swapped_ones(scores: NDArray[np.float64]) -> None:
    """A true caption outranks a swapped one in at least 95 of 100 draws."""
    assert auc(scores[SWAPPED:], scores[:SWAPPED]) >= 0.95


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_language_is_understood(sample: list[PlantedPair], scores: NDArray[np.float64], language: str) -> None:
    """The ranking holds among the captions of each language by itself."""
    spoken = np.array([pair.language == language for pair in sample])
    swapped = np.arange(len(sample)) < SWAPPED
    assert auc(scores[spoken & ~swapped], scores[spoken & swapped]) >= 0.95


def test_scores_do_not_depend_on_the_language(sample: list[PlantedPair], scores: NDArray[np.float64]) -> None:
    """Good pairs score alike in all languages, so one threshold does not favour English."""
    good = np.arange(len(sample)) >= SWAPPED
    medians = [np.median(scores[[p.language == name for p in sample] & good]) for name in LANGUAGES]
    assert max(medians) - min(medians) < 0.2
