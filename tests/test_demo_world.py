"""The demo's world and pool: determinism, true captions, and every planted defect being what its name says."""

from __future__ import annotations

import hashlib
import io
import warnings
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pairsieve.pipelines.demo_captions import LANGUAGES, LEXICONS, caption, names_background
from pairsieve.pipelines.demo_pool import (
    DEFECTS,
    SMALLEST_POOL,
    Defect,
    DemoPool,
    PlantedPair,
    build_pool,
    url_rows,
    write_truth,
    write_url_list,
)
from pairsieve.pipelines.demo_replies import BOMB_SIDE, Reply, image_bytes, picture, reply_to
from pairsieve.pipelines.demo_world import (
    BACKGROUNDS,
    COLOURS,
    RGB,
    SHAPES,
    centres,
    keyed_rng,
    render,
    sample_scene,
)


@pytest.fixture(scope="module")
def pool() -> DemoPool:
    """The default pool."""
    return build_pool()


def reply(pool: DemoPool, pair: PlantedPair) -> Reply:
    """Return what is served for a pair."""
    answer = reply_to(pool, pair.path)
    assert answer is not None
    return answer


def size_of(body: bytes) -> tuple[int, int]:
    """Decode an image completely and return its width and height."""
    with Image.open(io.BytesIO(body)) as image:
        image.load()
        return image.size


def digest(pool: DemoPool, count: int) -> str:
    """Hash the plan and the first replies of a pool."""
    state = hashlib.blake2b(repr(pool.pairs).encode())
    for pair in pool.pairs[:count]:
        state.update(reply(pool, pair).body)
    return state.hexdigest()


def test_same_seed_gives_the_same_bytes() -> None:
    """Two pools of one seed agree in every field and in the bytes they serve."""
    assert digest(build_pool(200, seed=3), 60) == digest(build_pool(200, seed=3), 60)


def test_other_seed_gives_another_pool() -> None:
    """Another seed changes scenes and texts."""
    one, two = build_pool(60, seed=1), build_pool(60, seed=2)
    assert not {pair.scene for pair in one} & {pair.scene for pair in two}


def test_scene_does_not_depend_on_the_size_of_the_pool() -> None:
    """A pair that is good in two pools of one seed is the same pair in both."""
    small, large = build_pool(100), build_pool(200)
    both = [(a, b) for a, b in zip(small, large, strict=False) if a.defect is None and b.defect is None]
    assert both
    assert all(a == b for a, b in both)


def test_pictures_differ_between_jitters() -> None:
    """The same attributes with another key make another picture."""
    scene = sample_scene(1, 1)
    assert np.abs(render(scene).astype(int) - render(replace(scene, jitter=scene.jitter + 1))).mean() > 3


@pytest.mark.parametrize("language", LANGUAGES)
def test_captions_have_three_words(language: str) -> None:
    """Every caption in every language has at least three words by whitespace."""
    chosen = next(known for known in LANGUAGES if known == language)
    texts = [caption(sample_scene(2, i), chosen, keyed_rng(2, i, "text")) for i in range(500)]
    assert min(len(text.split()) for text in texts) >= 3


@pytest.mark.parametrize("language", LANGUAGES)
def test_captions_of_different_scenes_differ(language: str) -> None:
    """Two scenes that differ in shape, colour or count never share a caption, so a swapped caption is false."""
    chosen = next(known for known in LANGUAGES if known == language)
    told: dict[str, tuple[str, str, int]] = {}
    for index in range(3000):
        scene = sample_scene(4, index)
        facts = (scene.shape, scene.colour, scene.count)
        assert told.setdefault(caption(scene, chosen, keyed_rng(4, index, "text")), facts) == facts


def test_lexicons_are_complete() -> None:
    """Each language has a word for every shape, colour, count and background."""
    for lexicon in LEXICONS.values():
        tables = (lexicon.nouns, lexicon.colours, lexicon.counts, lexicon.grounds)
        assert [len(table.split(",")) for table in tables] == [len(SHAPES), len(COLOURS), 4, len(BACKGROUNDS)]


def test_captions_may_leave_out_the_background() -> None:
    """Some English captions name the background and some do not, which names_background tells apart."""
    scene = sample_scene(0, 0)
    texts = [caption(scene, "en", keyed_rng(0, i, "text")) for i in range(100)]
    assert {names_background(text, scene, "en") for text in texts} == {True, False}


def test_every_defect_has_thirty_members(pool: DemoPool) -> None:
    """At the default size each class has at least 30 pairs and 60 to 75 % of the pool is good."""
    counts = Counter(pair.defect for pair in pool)
    assert min(counts[defect] for defect in DEFECTS) >= 30
    assert 0.65 <= counts[None] / len(pool) <= 0.75


def test_smallest_pool_has_every_defect() -> None:
    """The smallest pool allowed still has a pair of each class, and good ones."""
    assert {pair.defect for pair in build_pool(SMALLEST_POOL)} == {None, *DEFECTS}


def test_too_small_a_pool_is_refused() -> None:
    """A pool that cannot hold every class is an error which says how many pairs are needed."""
    with pytest.raises(ValueError, match=f"at least {SMALLEST_POOL} pairs"):
        build_pool(SMALLEST_POOL - 1)


def test_paths_differ_by_pair(pool: DemoPool) -> None:
    """Only a repeated row shares its path, with the row that it repeats."""
    paths = Counter(pair.path for pair in pool)
    assert sum(paths.values()) - len(paths) == len(pool.members("repeated_row"))
    assert all(pair.path == pool.pairs[pair.duplicate_of or 0].path for pair in pool.members("repeated_row"))


def test_good_images_decode_at_their_size(pool: DemoPool) -> None:
    """A good image decodes to its scene's size, at least 128 px on the shortest side."""
    for pair in pool.members(None)[:60]:
        size = size_of(reply(pool, pair).body)
        assert size == (pair.scene.width, pair.scene.height)
        assert min(size) >= 128


def test_swapped_captions_are_far_off(pool: DemoPool) -> None:
    """A swapped caption belongs to a scene which differs in at least two of shape, colour and count."""
    for pair in pool.members("swapped_caption"):
        other = pair.text_scene
        assert other is not None
        here = (pair.scene.shape, pair.scene.colour, pair.scene.count)
        assert sum(a != b for a, b in zip(here, (other.shape, other.colour, other.count), strict=True)) >= 2


def test_boilerplate_has_fewer_than_three_words(pool: DemoPool) -> None:
    """Boilerplate texts are missing, empty or shorter than three words, and all three kinds occur."""
    texts = {pair.text for pair in pool.members("boilerplate_text")}
    assert {None, ""} < texts
    assert max(len((text or "").split()) for text in texts) < 3


def test_exact_duplicates_serve_equal_bytes(pool: DemoPool) -> None:
    """An exact duplicate has another path than its original, a good pair, and the same bytes."""
    for pair in pool.members("exact_duplicate")[:20]:
        original = pool.pairs[pair.duplicate_of or 0]
        assert original.defect is None
        assert original.path != pair.path
        assert reply(pool, original).body == reply(pool, pair).body


def test_repeated_rows_equal_their_original(pool: DemoPool) -> None:
    """A repeated row has the URL and the text of a good row."""
    for pair in pool.members("repeated_row"):
        original = pool.pairs[pair.duplicate_of or 0]
        assert (original.defect, original.path, original.text) == (None, pair.path, pair.text)


def test_reencoded_duplicates_look_alike(pool: DemoPool) -> None:
    """A re-encoded duplicate has other bytes and another size, but nearly the same pixels at a common size."""
    for pair in pool.members("reencoded_duplicate")[:20]:
        original = pool.pairs[pair.duplicate_of or 0]
        bodies = [reply(pool, member).body for member in (original, pair)]
        assert size_of(bodies[0]) != size_of(bodies[1])
        small = [Image.open(io.BytesIO(body)).convert("L").resize((16, 16), Image.Resampling.BOX) for body in bodies]
        assert np.abs(np.asarray(small[0], dtype=int) - np.asarray(small[1], dtype=int)).mean() < 3


def test_each_original_has_one_duplicate(pool: DemoPool) -> None:
    """No good pair is the original of two duplicates."""
    originals = [pair.duplicate_of for pair in pool if pair.duplicate_of is not None]
    assert len(originals) == len(set(originals))


def test_tiny_images_are_tiny(pool: DemoPool) -> None:
    """A tiny image decodes, to a shortest side below 48 px."""
    assert max(min(size_of(reply(pool, pair).body)) for pair in pool.members("tiny_image")) < 48


def test_extreme_aspects_are_not_small(pool: DemoPool) -> None:
    """An image of extreme aspect is over four times as long as wide, yet at least 100 px on the shortest side."""
    sizes = [size_of(reply(pool, pair).body) for pair in pool.members("extreme_aspect")]
    assert min(max(size) / min(size) for size in sizes) > 4
    assert min(min(size) for size in sizes) >= 100


@pytest.mark.parametrize("defect", ["broken_file", "truncated_file"])
def test_damaged_files_do_not_decode(pool: DemoPool, defect: Defect) -> None:
    """Garbage after a magic number, and a file cut short, start like an image and fail to decode, all of them."""
    for pair in pool.members(defect):
        body = reply(pool, pair).body
        assert body[:3] in (b"\xff\xd8\xff", b"\x89PN")
        with pytest.raises((OSError, SyntaxError, ValueError)):
            size_of(body)


def test_truncated_files_are_the_start_of_a_valid_one(pool: DemoPool) -> None:
    """A truncated file is the first 30 to 70 % of an image that does decode."""
    for pair in pool.members("truncated_file")[:10]:
        whole, body = image_bytes(pair), reply(pool, pair).body
        assert whole.startswith(body)
        assert 0.29 < len(body) / len(whole) <= 0.7
        assert size_of(whole)


def test_bomb_claims_its_size(pool: DemoPool) -> None:
    """A PNG of under 200 bytes claims 60000 x 60000 pixels, and PIL calls it a decompression bomb."""
    body = reply(pool, pool.members("huge_image_header")[0]).body
    assert len(body) < 200
    assert (int.from_bytes(body[16:20]), int.from_bytes(body[20:24])) == (BOMB_SIDE, BOMB_SIDE)
    with pytest.raises(Image.DecompressionBombError), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        Image.open(io.BytesIO(body))


def test_url_list_is_a_shuffle_of_all_rows(pool: DemoPool) -> None:
    """The URL list has every row once, in an order that depends on the seed and not on the index."""
    indices = [row.index for row in url_rows(pool, "http://host/")]
    assert sorted(indices) == list(range(len(pool)))
    assert indices != sorted(indices)


def test_files_agree_with_the_rows(pool: DemoPool, tmp_path: Path) -> None:
    """Both parquet files keep the rows' order, a missing text apart from an empty one."""
    write_url_list(pool, "http://host", tmp_path / "urls.parquet")
    write_truth(pool, "http://host", tmp_path / "truth.parquet")
    urls, truth = pq.read_table(tmp_path / "urls.parquet"), pq.read_table(tmp_path / "truth.parquet")
    rows = url_rows(pool, "http://host")
    assert urls.column_names == ["url", "text"]
    assert urls["text"].to_pylist() == [row.text for row in rows] == truth["text"].to_pylist()
    assert urls["url"].to_pylist() == truth["url"].to_pylist()
    assert truth["defect"].to_pylist() == [row.defect for row in rows]


def test_shapes_stay_inside_the_central_square(pool: DemoPool) -> None:
    """Outside the central square, which is all that CLIP sees, a wide picture on a plain ground shows the ground."""
    pair = next(p for p in pool.members("extreme_aspect") if p.scene.background == "grey" and p.scene.width > 300)
    margin = picture(pair)[:, : (pair.scene.width - pair.scene.height) // 2].astype(int)
    assert (margin.max(axis=2) - margin.min(axis=2)).max() <= 2


@pytest.mark.parametrize("index", range(30))
def test_centres_lie_in_the_shapes(index: int) -> None:
    """Each centre of a filled shape has the shape's colour but for light and noise, and there are as many as shapes."""
    scene = replace(sample_scene(5, index), shape="square")
    found = centres(scene)
    columns, rows = found.astype(int).T
    assert len(found) == scene.count
    assert np.abs(render(scene)[rows, columns].astype(int) - RGB[scene.colour]).max() < 75
