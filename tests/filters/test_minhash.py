"""MinHash: datasketch's signatures, permutations, bands and candidates; keys of bands and of texts."""

from itertools import combinations, pairwise
from typing import Any

import datasketch
import numpy as np
import pyarrow as pa
import pytest
import xxhash
from datasketch.lsh import _optimal_param
from hypothesis import given, settings
from hypothesis import strategies as st

from pairsieve.filters._minhash import MinHash, Unit, permutations
from pairsieve.filters._minhash_bands import FOUND, for_recall, optimum, probability
from pairsieve.filters._normal_text import Normal, normal, normal_texts
from tests.support_minhash import TEXTS, captions, jaccard, shingles, signature

SHAPES: list[tuple[Unit, int]] = [("words", 1), ("words", 3), ("characters", 5), ("characters", 60)]


def made(**chosen: Any) -> MinHash:
    """A MinHash, by default of words."""
    all_: dict[str, Any] = {"unit": "words", "n": 1, "num_perm": 128, "hash": "xxh32", "seed": 1} | chosen
    return MinHash(**all_)


def of(texts: list[str]) -> Normal:
    """The texts as kernels take them."""
    return normal_texts(pa.array(texts, pa.string()))


def keys(texts: list[str], bands: int = 16, rows: int = 7, least: int = 1, **chosen: Any) -> list[list[int] | None]:
    """The keys of each text."""
    found: list[list[int] | None] = made(**chosen).sketch(of(texts), bands, rows, least, False).keys.to_pylist()
    return found


@pytest.mark.parametrize("seed", [1, 7])
@pytest.mark.parametrize("num_perm", [1, 3, 64, 128, 200])
def test_permutations(num_perm: int, seed: int) -> None:
    """They are datasketch's."""
    wanted = datasketch.MinHash(num_perm=num_perm, seed=seed).permutations
    assert np.array_equal(permutations(num_perm, seed), wanted)


@pytest.mark.parametrize("hash", ["xxh32", "sha1"])
@pytest.mark.parametrize("num_perm", [1, 3, 64, 128])
@pytest.mark.parametrize("shape", SHAPES)
@settings(max_examples=8)
@given(texts=st.lists(TEXTS, min_size=1, max_size=5))
def test_signatures(shape: tuple[Unit, int], num_perm: int, hash: Any, texts: list[str]) -> None:
    """Every bit is datasketch's, for any text, shingle, hash and number of permutations; ones for an empty text."""
    unit, n = shape
    found = made(unit=unit, n=n, num_perm=num_perm, hash=hash).signatures(of(texts))
    for row, text in zip(found, map(normal, texts), strict=True):
        assert np.array_equal(row, signature(text, unit, n, num_perm, hash).hashvalues), text


@pytest.mark.parametrize("hash", ["xxh32", "sha1"])
def test_sizes_of_shingles(hash: Any) -> None:
    """Shingles of every size from 1 to 200 bytes, which pass all block sizes of both hashes, one or many a text."""
    texts = ["x" * size for size in range(1, 201)]
    texts += [" ".join(texts[first : first + 37]) for first in range(0, 160, 9)]
    found = made(hash=hash).signatures(of(texts))
    assert all(
        np.array_equal(row, signature(t, "words", 1, 128, hash).hashvalues) for row, t in zip(found, texts, strict=True)
    )


def test_default_of_datasketch() -> None:
    """With ``hash: sha1`` and nothing else said, it is what ``MinHash()`` gives."""
    wanted = datasketch.MinHash()
    wanted.update_batch([word.encode() for word in ["a", "dog", "猫"]])
    assert np.array_equal(made(hash="sha1").signatures(of(["a dog 猫"]))[0], wanted.hashvalues)


@given(st.lists(st.sampled_from("abcdefgh"), min_size=1), st.lists(st.sampled_from("abcdefgh"), min_size=1))
def test_union(one: list[str], other: list[str]) -> None:
    """The signature of a union is the smaller value of both."""
    a, b, both = made().signatures(of([" ".join(one), " ".join(other), " ".join(one + other)]))
    assert np.array_equal(np.minimum(a, b), both)


@given(st.lists(TEXTS, max_size=12), st.integers(0, 12))
def test_rows_are_apart(texts: list[str], cut: int) -> None:
    """A text's keys do not depend on its neighbours."""
    assert keys(texts) == keys(texts[:cut]) + keys(texts[cut:])


def test_more_than_a_chunk() -> None:
    """So with more texts than are worked on at a time."""
    texts = captions(2500)
    assert keys(texts) == keys(texts[:700]) + keys(texts[700:])


@given(st.lists(st.text("ab c", max_size=12), max_size=8), st.integers(1, 6))
def test_short_texts(texts: list[str], least: int) -> None:
    """Nothing without a shingle; below ``least`` distinct ones the text's own key alone."""
    for text, own in zip(texts, keys(texts, unit="characters", n=2, least=least), strict=True):
        distinct = len(set(shingles(normal(text), "characters", 2)))
        assert (own is None) == (distinct == 0)
        assert len(own or [0]) == (17 if distinct >= least else 1)


def test_key_of_the_text() -> None:
    """The first key is the xxHash64 of the normal text, of any size."""
    texts = ["x" * size for size in range(1, 150)] + ["猫 " * 40]
    assert [(own or [])[0] for own in keys(texts)] == [xxhash.xxh64_intdigest(normal(text).encode()) for text in texts]


@pytest.mark.parametrize(("bands", "rows"), [(9, 13), (16, 7), (128, 1), (2, 64), (5, 2)])
def test_candidates(bands: int, rows: int) -> None:
    """Texts share a band's key where ``MinHashLSH`` puts them into one bucket, no matter if r is odd."""
    texts = captions(150) + ["a b", "b a", "c"] * 4
    index = datasketch.MinHashLSH(num_perm=128, params=(bands, rows))
    signatures = [signature(text, "words", 1, 128, "xxh32") for text in map(normal, texts)]
    for i, own in enumerate(signatures):
        index.insert(i, own)
    wanted = {(i, j) for i, own in enumerate(signatures) for j in index.query(own) if i < j}
    found = [set((own or [])[1:]) for own in keys(texts, bands, rows)]
    assert {(i, j) for i, j in combinations(range(len(texts)), 2) if found[i] & found[j]} == wanted
    assert len(wanted) > 10


def test_bands_have_keys_of_their_own() -> None:
    """Equal values in two bands are two keys: all keys of a text differ."""
    own = keys(["a"], 128, 1)[0] or []
    assert len(set(own)) == len(own) == 129


@pytest.mark.parametrize("weights", [(0.5, 0.5), (0.1, 0.9), (1.0, 0.0), (0.0, 1.0)])
@pytest.mark.parametrize("num_perm", [1, 7, 32])
def test_optimum(num_perm: int, weights: tuple[float, float]) -> None:
    """Bands and rows are those that datasketch chooses."""
    for threshold in (0.1, 0.5, 0.7, 0.8, 0.95):
        assert optimum(threshold, num_perm, weights) == _optimal_param(threshold, num_perm, *weights)


def test_optimum_of_128() -> None:
    """So with its default of 128 permutations."""
    assert optimum(0.8, 128, (0.5, 0.5)) == _optimal_param(0.8, 128, 0.5, 0.5) == (9, 13)
    assert optimum(0.7, 128, (0.1, 0.9)) == (20, 6)


@given(st.floats(0.01, 1), st.integers(1, 200))
def test_for_recall(threshold: float, num_perm: int) -> None:
    """Enough pairs meet, with as few bands as that takes; where the values do not allow it, in most bands there are."""
    bands, rows = for_recall(threshold, num_perm)
    assert bands * rows <= num_perm
    if probability(threshold, bands, rows) < FOUND:
        assert (bands, rows) == (num_perm, 1)
    else:
        assert bands == 1 or probability(threshold, bands - 1, rows) < FOUND
        longer = range(rows + 1, num_perm + 1)
        assert all(probability(threshold, num_perm // more, more) < FOUND for more in longer)


def test_measured_designs() -> None:
    """The rule gives the bands that were measured best."""
    assert [for_recall(0.7, 128), for_recall(0.8, 128), for_recall(0.7, 64)] == [(20, 5), (16, 7), (14, 4)]


@pytest.mark.parametrize(("unit", "n", "bands", "rows"), [("words", 1, 16, 7), ("characters", 5, 20, 5)])
def test_recall(unit: Unit, n: int, bands: int, rows: int) -> None:
    """As many pairs meet in a band as their similarities promise, within three standard deviations."""
    texts = [text for text in captions(1500, share=0.5)]
    found = [set((own or [])[1:]) for own in keys(texts, bands, rows, unit=unit, n=n)]
    similar = [jaccard(a, b, unit, n) for a, b in pairwise(sorted(texts))]
    order = sorted(range(len(texts)), key=lambda i: texts[i])
    met = sum(bool(found[i] & found[j]) for i, j in pairwise(order))
    chance = np.array([probability(s, bands, rows) for s in similar])
    assert abs(met - chance.sum()) < 3 * np.sqrt((chance * (1 - chance)).sum()) + 1
    assert met > 100
