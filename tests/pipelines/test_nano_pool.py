"""The nano pool: noise at stated rates, nothing held out in it, the same bytes from the same numbers."""

from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pairsieve.filters._images import decode_image
from pairsieve.pipelines import nano_pool
from pairsieve.pipelines.demo_captions import LEXICONS
from pairsieve.pipelines.demo_world import COLOURS, SHAPES
from pairsieve.pipelines.nano_pool import COPY, JUNK, NanoPair, image_of, plan_pair, write_file
from pairsieve.pipelines.nano_world import HELD_OUT, LONGEST, is_held_out, web_scene

PLANNED = 3000


@pytest.fixture(scope="module")
def planned() -> list[NanoPair]:
    """The first pairs of the pool."""
    return [plan_pair(nano_pool.SEED, index) for index in range(PLANNED)]


def share(planned: list[NanoPair], chosen: Counter[bool]) -> float:
    """Of all pairs."""
    return chosen[True] / len(planned)


def test_copies_and_junk_have_their_rates(planned: list[NanoPair]) -> None:
    """A sixth of the pictures is a copy, a fifth shows nothing of the world, within four standard deviations."""
    copies = share(planned, Counter(pair.picture != pair.index for pair in planned))
    originals = [pair for pair in planned if pair.picture == pair.index]
    junk = share(originals, Counter(pair.scene is None for pair in originals))
    assert abs(copies - COPY) < 4 * (COPY * (1 - COPY) / PLANNED) ** 0.5
    assert abs(junk - JUNK) < 4 * (JUNK * (1 - JUNK) / len(originals)) ** 0.5


def test_half_of_the_texts_with_words_are_english(planned: list[NanoPair]) -> None:
    """As in CommonPool."""
    said = [pair for pair in planned if pair.says != "boilerplate"]
    assert abs(share(said, Counter(pair.language == "en" for pair in said)) - 0.5) < 4 * 0.5 / len(said) ** 0.5


def test_some_pictures_stand_in_many_places(planned: list[NanoPair]) -> None:
    """Copies gather at few pictures, as on the web."""
    assert Counter(pair.picture for pair in planned).most_common(1)[0][1] > 10


def test_nothing_held_out_occurs(planned: list[NanoPair]) -> None:
    """No picture shows a composition that tests hold out, and no English text names one."""
    forms = [noun.split(" ") for noun in LEXICONS["en"].nouns.split(",")]
    words = LEXICONS["en"].colours.split(",")
    names = [f"{words[COLOURS.index(c)]} {form}" for s, c in HELD_OUT for form in forms[SHAPES.index(s)][1:]]
    texts = [f" {(pair.text or '').lower()} " for pair in planned]
    assert not [name for name in names if any(f" {name} " in text for text in texts)]
    assert not [pair for pair in planned if pair.scene and is_held_out(pair.scene.shape, pair.scene.colour)]


def test_each_shape_and_each_colour_misses_one_composition() -> None:
    """So that every word of a held-out composition is known from others."""
    assert sorted(shape for shape, _ in HELD_OUT) == sorted(SHAPES)
    assert sorted(colour for _, colour in HELD_OUT) == sorted(COLOURS)


def test_concepts_follow_zipf() -> None:
    """The first shape comes about eight times as often as the last."""
    found = Counter(web_scene(1, index).shape for index in range(4000))
    assert 5 < found[SHAPES[0]] / found[SHAPES[-1]] < 12


@given(st.integers(0, 2**40), st.integers(0, 5000))
def test_a_pair_is_a_function_of_seed_and_index(seed: int, index: int) -> None:
    """Its picture is its own or an earlier one, which shows the same to all its copies."""
    pair = plan_pair(seed, index)
    assert pair == plan_pair(seed, index)
    assert 0 <= pair.picture <= index
    original = plan_pair(seed, pair.picture)
    assert (original.picture, original.scene) == (pair.picture, pair.scene)


def test_images_decode_to_what_is_stored(planned: list[NanoPair]) -> None:
    """Sizes are those of the columns and within the limit."""
    for pair in planned[:60]:
        data, width, height = image_of(pair, nano_pool.SEED)
        assert decode_image(data, 10**6).pixels.shape == (height, width, 3)
        assert max(width, height) <= LONGEST


def test_half_of_the_copies_are_the_same_file(planned: list[NanoPair]) -> None:
    """The others are the same picture, compressed anew."""
    copies = [pair for pair in planned[:1500] if pair.picture != pair.index][:80]
    files = [(image_of(pair, nano_pool.SEED)[0], image_of(planned[pair.picture], nano_pool.SEED)[0]) for pair in copies]
    assert 20 < sum(one == other for one, other in files) < 60


def test_files_are_the_same_bytes(tmp_path: Path) -> None:
    """And hold the rows that were asked for."""
    for name in ("a", "b"):
        write_file(tmp_path / f"{name}.parquet", 5, 10, 40)
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()
    table = pq.read_table(tmp_path / "a.parquet")
    assert table["url"][0].as_py().endswith("/000010.jpg")
    assert table.num_rows == 30
    assert not np.any(table["image"].is_null().to_numpy())
