"""Jaccard similarity: the kernel against Python's sets, and signatures as its estimate."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pairsieve.filters._jaccard import estimated, exact
from pairsieve.filters._minhash import MinHash, Unit
from pairsieve.filters._normal_text import normal_texts
from tests.support_minhash import TEXTS, jaccard

SHAPES: list[tuple[Unit, int]] = [("words", 1), ("words", 3), ("characters", 5), ("characters", 40)]


def similarities(one: list[str], other: list[str], unit: Unit, n: int) -> list[float]:
    """Of text i and text i."""
    texts, others = (normal_texts(pa.array(each, pa.string())) for each in (one, other))
    found: list[float] = exact(texts, others, unit, n).tolist()
    return found


@pytest.mark.parametrize(("unit", "n"), SHAPES)
@given(st.lists(st.tuples(TEXTS, TEXTS), max_size=6))
def test_sets(unit: Unit, n: int, pairs: list[tuple[str, str]]) -> None:
    """Exactly that of the sets of shingles, whichever text comes first, and 0 where one is empty."""
    one, other = [a for a, _ in pairs], [b for _, b in pairs]
    found = similarities(one, other, unit, n)
    assert found == [jaccard(a, b, unit, n) for a, b in pairs]
    assert similarities(other, one, unit, n) == found


def test_repeats() -> None:
    """A shingle counts once, however often it comes, in the text or the other."""
    assert similarities(["a a a b", "a"], ["b a b b", "a a a a"], "words", 1) == [1.0, 1.0]


@pytest.mark.parametrize(("threshold", "one", "other"), [(0.8, "abcd", "abcde"), (0.7, "abcdefg", "abcdefghij")])
def test_at_the_threshold(threshold: float, one: str, other: str) -> None:
    """A similarity that is the threshold as written reaches it: no rounding is in between."""
    assert similarities([" ".join(one)], [" ".join(other)], "words", 1)[0] >= threshold


def test_long_and_short() -> None:
    """A caption beside a text of a million words is compared with its own partner alone."""
    long = " ".join(map(str, range(200_000)))
    assert similarities(["a b", long, "c d"], ["a c", long + " x", "d c"], "words", 1) == [1 / 3, 200_000 / 200_001, 1]


def test_estimate() -> None:
    """The share of equal values is near the similarity, and 0 where a signature is missing."""
    texts = pa.array([" ".join(map(str, range(i, i + 50))) for i in (0, 5, 500)] + [""])
    found = MinHash("words", 1, 1024, "xxh32", 1).sketch(normal_texts(texts), 4, 4, 1, True).signatures
    assert found is not None and found.type == pa.list_(pa.uint32(), 1024)
    shared = estimated(found.take(pa.array([0, 0, 0, 3])), found.take(pa.array([0, 1, 2, 3])))
    assert shared[0] == 1 and shared[2] < 0.01 and shared[3] == 0
    assert abs(shared[1] - 45 / 55) < 4 * np.sqrt(45 / 55 * 10 / 55 / 1024)


def test_estimate_of_slices() -> None:
    """A part of an array of signatures is read from where it begins."""
    texts = normal_texts(pa.array(["a b", "c", None, "a c"]))
    found = MinHash("words", 1, 16, "xxh32", 1).sketch(texts, 4, 4, 1, True).signatures
    assert found is not None
    assert estimated(found.slice(1, 2), found.slice(1, 2)).tolist() == [1.0, 0.0]
