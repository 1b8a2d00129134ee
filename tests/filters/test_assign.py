"""The greatest inner product: numpy's argmax, made exact, whatever the blocks."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from pairsieve.filters import _assign
from pairsieve.filters._assign import Assigner
from pairsieve.schemas.errors import UserError

Matrix = NDArray[np.float32]


@pytest.fixture(autouse=True, params=[(512, 4096), (3, 5)])
def _blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks as they are, and blocks that cut everything."""
    monkeypatch.setattr(_assign, "CPU_BLOCK", request.param)


def normal(rows: int, width: int, seed: int = 0) -> Matrix:
    """Random vectors."""
    return np.random.default_rng(seed).standard_normal((rows, width)).astype(np.float32)


def exact(vectors: Matrix, centroids: Matrix) -> list[int]:
    """The greatest product in rational numbers, the lowest id of equals."""
    found = []
    for vector in vectors.tolist():
        products = [sum(Fraction(a) * Fraction(b) for a, b in zip(vector, c, strict=True)) for c in centroids.tolist()]
        found.append(products.index(max(products)))
    return found


def test_as_argmax() -> None:
    """Where no two products are close it is numpy's argmax."""
    vectors, centroids = normal(40, 64), normal(300, 64, seed=1)
    products = vectors @ centroids.T
    first, second = np.sort(products, axis=1)[:, :-3:-1].T
    assert (first - second > 1e-4).all()
    assert Assigner(centroids).assign(vectors).tolist() == products.argmax(axis=1).tolist()


def test_not_normalised() -> None:
    """A long centroid wins over one of the same direction: neither distance nor cosine decides."""
    centroids = np.array([[1, 0], [5, 1]], np.float32)
    assert Assigner(centroids).assign(np.array([[1, 0]], np.float32)).tolist() == [1]


def test_ties() -> None:
    """Of equal centroids, wherever they lie, the first is taken."""
    centroids = np.repeat(normal(4, 8), 5, axis=0)[[*range(0, 20, 5), *range(20)]]
    vectors = normal(50, 8, seed=2)
    assert Assigner(centroids).assign(vectors).tolist() == (vectors @ centroids[:4].T).argmax(axis=1).tolist()


def test_zeros() -> None:
    """All products of a vector of zeros are equal, and so are those of all with centroids of zeros."""
    assert Assigner(normal(9, 4)).assign(np.zeros((2, 4), np.float32)).tolist() == [0, 0]
    assert Assigner(np.zeros((9, 4), np.float32)).assign(normal(2, 4)).tolist() == [0, 0]


def test_cancellation() -> None:
    """Where float32 rounding hides which product is greater, the truly greater one is found."""
    chance = np.random.default_rng(0)
    base = chance.standard_normal(32).astype(np.float32) * np.float32(1e3)
    centroids = np.stack([base + (chance.random(32) < 0.1) * np.spacing(base) for _ in range(12)]).astype(np.float32)
    vectors = normal(60, 32, seed=3)
    vectors -= np.outer(vectors @ base / (base @ base), base)  # products are tiny differences of large terms
    expected = exact(vectors, centroids)
    assert Assigner(centroids).assign(vectors).tolist() == expected
    assert (vectors @ centroids.T).argmax(axis=1).tolist() != expected


@given(st.integers(0, 2**32), st.integers(1, 9), st.integers(1, 12), st.sampled_from([1, 2, 7, 33]))
def test_exact(seed: int, rows: int, clusters: int, width: int) -> None:
    """Small whole numbers, full of ties, and the same numbers tiny, give what rational arithmetic gives."""
    chance = np.random.default_rng(seed)
    vectors = chance.integers(-2, 3, (rows, width)).astype(np.float32)
    centroids = chance.integers(-2, 3, (clusters, width)).astype(np.float32)
    expected = exact(vectors, centroids)
    assert Assigner(centroids).assign(vectors).tolist() == expected
    scale = np.float32(2.0**-140)
    assert Assigner(centroids).assign(vectors * scale).tolist() == expected


def test_neighbours() -> None:
    """A vector's centroid is the same alone, in company, and in any order, with near ties and any number of threads."""
    centroids = normal(50, 96)
    centroids[25:] = centroids[:25] * np.float32(1 + 2**-23)
    vectors = normal(37, 96, seed=1)
    assigner, before = Assigner(centroids), torch.get_num_threads()
    whole = assigner.assign(vectors)
    order = np.random.default_rng(0).permutation(37)
    assert (assigner.assign(vectors[order]) == whole[order]).all()
    assert [int(assigner.assign(vectors[i : i + 1])[0]) for i in range(37)] == whole.tolist()
    assert torch.get_num_threads() == before


def test_many_candidates(monkeypatch: pytest.MonkeyPatch) -> None:
    """Candidates that would fill the memory are settled on the way, to the same end."""
    centroids = np.concatenate([normal(1, 16) + np.zeros((40, 1), np.float32), normal(40, 16) * np.float32(1e-3)])
    vectors = normal(11, 16, seed=4)
    expected = exact(vectors, centroids)
    monkeypatch.setattr(_assign, "_MANY", 10)
    monkeypatch.setattr(_assign, "_AT_ONCE", 3)
    assert Assigner(centroids).assign(vectors).tolist() == expected


def test_overflow() -> None:
    """Products that leave float32's range have no greatest."""
    centroids = np.array([[3e38, 3e38], [3e38, -3e38], [1, 1]], np.float32)
    vectors = np.array([[10, 10], [10, -10], [1e-3, 1e-3]], np.float32)
    assert Assigner(centroids).assign(vectors).tolist() == [-1, -1, 0]


def test_no_vectors() -> None:
    """No vectors, no centroids of theirs."""
    assert Assigner(normal(3, 4)).assign(np.empty((0, 4), np.float32)).tolist() == []


def test_no_gpu() -> None:
    """A GPU that is asked for and not there is one line."""
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    with pytest.raises(UserError, match="no GPU; write device: auto"):
        Assigner(normal(3, 4), "cuda")
