"""What the nano track measures: metrics against their definitions, prompts that name what they should."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pairsieve.pipelines.demo_world import BACKGROUNDS, COLOURS, COUNTS, SHAPES
from pairsieve.pipelines.nano_eval import accuracy, probe, recall
from pairsieve.pipelines.nano_tests import (
    ATTRIBUTES,
    all_prompts,
    asked_scene,
    distinct,
    full_caption,
    phrase,
    prompts,
    show,
)
from pairsieve.pipelines.nano_words import CONTEXT, Vocabulary
from pairsieve.pipelines.nano_world import is_held_out

CLASSES = dict(zip(ATTRIBUTES, (len(SHAPES), len(COLOURS), len(COUNTS), len(BACKGROUNDS)), strict=True))


def vectors(seed: int, rows: int, width: int) -> torch.Tensor:
    """Random directions."""
    drawn = np.random.default_rng(seed).normal(size=(rows, width)).astype(np.float32)
    return torch.nn.functional.normalize(torch.from_numpy(drawn), dim=-1)


@given(st.integers(0, 2**32 - 1), st.integers(1, 30))
def test_recall_counts_as_by_hand(seed: int, rows: int) -> None:
    """Both directions, row by row."""
    images, texts = vectors(seed, rows, 4), vectors(seed + 1, rows, 4)
    scores = (images @ texts.T).numpy()
    there = sum(int(np.argmax(scores[i])) == i for i in range(rows)) / rows
    back = sum(int(np.argmax(scores[:, i])) == i for i in range(rows)) / rows
    assert recall(images, texts) == pytest.approx((there + back) / 2)


@given(st.integers(0, 2**32 - 1), st.integers(1, 30))
def test_accuracy_counts_as_by_hand(seed: int, rows: int) -> None:
    """The nearest class is the answer."""
    images, classes = vectors(seed, rows, 4), vectors(seed + 1, 3, 4)
    labels = np.random.default_rng(seed).integers(0, 3, rows)
    right = sum(int(np.argmax((images[i] @ classes.T).numpy())) == labels[i] for i in range(rows))
    assert accuracy(images, classes, labels) == pytest.approx(right / rows)


def blobs(seed: int, rows: int) -> tuple[torch.Tensor, NDArray[np.int64]]:
    """Three clouds that a line parts, and where each point belongs."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, rows)
    points = np.eye(3)[labels] * 4 + rng.normal(scale=0.5, size=(rows, 3))
    return torch.from_numpy(points.astype(np.float32)), labels


def test_a_probe_learns_what_a_line_parts() -> None:
    """And only that: labels at random stay near chance."""
    (train, labels), (test, answers) = blobs(0, 300), blobs(1, 300)
    assert probe(train, labels, test, answers) > 0.99
    guesses = np.random.default_rng(2).integers(0, 3, 300)
    assert probe(train, guesses, test, np.random.default_rng(3).integers(0, 3, 300)) < 0.5


@pytest.mark.parametrize("attribute", ATTRIBUTES)
def test_every_class_has_the_same_prompts_but_for_its_name(attribute: str) -> None:
    """As many for each class, and none of two classes."""
    found = prompts(attribute)
    assert len(found) == CLASSES[attribute]
    assert len({len(texts) for texts in found}) == 1
    flat = [text for texts in found for text in texts]
    assert len(set(flat)) == len(flat)


def test_prompts_of_a_shape_name_it() -> None:
    """In both numbers."""
    assert phrase("star", "red", 1) == "one red star"
    assert phrase("cross", "blue", 3) == "three blue crosses"
    assert all(" star" in text for text in prompts("shape")[SHAPES.index("star")])


def test_asked_scenes_are_held_out_or_not() -> None:
    """As asked."""
    for held_out in (False, True):
        scenes = [asked_scene("seen", index, held_out) for index in range(50)]
        assert {is_held_out(scene.shape, scene.colour) for scene in scenes} == {held_out}


def test_distinct_scenes_have_distinct_captions() -> None:
    """So that retrieval has one right answer."""
    scenes = [asked_scene("seen", index, False) for index in range(300)]
    chosen = distinct(scenes, 100)
    assert len(chosen) == 100
    assert len({full_caption(scenes[place]) for place in chosen}) == 100


def test_pictures_have_the_size_of_a_model_and_their_labels() -> None:
    """uint8, channels first."""
    scenes = [asked_scene("probe", index, False) for index in range(4)]
    shown = show(scenes, 64)
    assert shown.pixels.shape == (4, 3, 64, 64)
    assert shown.pixels.dtype == np.uint8
    assert SHAPES[shown.labels[2, 0]] == scenes[2].shape
    assert shown.compositions[1] == shown.labels[1, 0] * 8 + shown.labels[1, 1]


@settings(deadline=None)
@given(st.lists(st.sampled_from(all_prompts()), min_size=1, max_size=5))
def test_a_vocabulary_keeps_open_clips_tokens(texts: list[str]) -> None:
    """Known texts come back as open_clip has them, renumbered in order; the highest number is the text's end."""
    from open_clip import SimpleTokenizer

    words = Vocabulary.of(texts)
    found = words(texts)
    assert torch.equal(torch.from_numpy(words.tokens)[found], SimpleTokenizer(context_length=CONTEXT)(texts))
    assert bool((found.max(1).values == len(words) - 1).all())


@given(st.text(max_size=2000))
def test_any_text_becomes_tokens(text: str) -> None:
    """Unknown words are left out, long texts cut; begin and end stay."""
    words = Vocabulary.of(["one red star"])
    (row,) = words([text]).tolist()
    assert len(row) == CONTEXT
    assert row[0] == len(words) - 2
    assert row.count(len(words) - 1) == 1
