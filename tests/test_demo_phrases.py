"""Noun phrases of the world: every one is read as what it was made of, and nothing else is read as one."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pairsieve.pipelines.demo_captions import LEXICONS, caption
from pairsieve.pipelines.demo_phrases import Said, noun_phrases, read
from pairsieve.pipelines.demo_world import BACKGROUNDS, COLOURS, COUNTS, SHAPES, Scene

SCENES = st.builds(
    Scene,
    st.sampled_from(SHAPES),
    st.sampled_from(COLOURS),
    st.sampled_from(COUNTS),
    st.sampled_from(BACKGROUNDS),
    st.just(96),
    st.just(64),
    st.just(0),
)
TAILS = st.sampled_from(["", " on a light blue background", " drawn on a striped background", " and a light"])


@given(SCENES, TAILS, st.data())
def test_phrases_are_read_as_their_scene(scene: Scene, tail: str, data: st.DataObject) -> None:
    """Each noun phrase of a scene says its shape, colour and count, whatever follows it and in capitals too."""
    phrase = data.draw(st.sampled_from(noun_phrases(scene)))
    assert read(phrase + tail) == read((phrase + tail).upper()) == Said.of(scene)


@given(SCENES, st.integers(0, 1000))
def test_phrases_are_those_of_captions(scene: Scene, seed: int) -> None:
    """A caption of the world holds one of its scene's noun phrases."""
    text = caption(scene, "en", np.random.default_rng(seed)).lower()
    assert any(phrase in text for phrase in noun_phrases(scene))


@given(st.text(max_size=60))
def test_any_text_is_read_or_not(text: str) -> None:
    """Whatever stands there, it is nothing or a thing of the world."""
    said = read(text)
    assert said is None or said.shape in SHAPES


@pytest.mark.parametrize(
    "text", ["", "red stars", "two red", "two red star", "six red stars", "a page without shapes", "on two red stars"]
)
def test_other_texts_say_nothing(text: str) -> None:
    """Half a phrase, a wrong number of the noun, or one that begins later is none."""
    assert read(text) is None


def test_phrases_are_as_many_as_the_numerals() -> None:
    """A scene has a phrase for each variant of its numeral."""
    ones = LEXICONS["en"].one.split("/")
    assert len(noun_phrases(Scene("star", "red", 1, "grey", 9, 9, 0))) == len(ones) == 4
