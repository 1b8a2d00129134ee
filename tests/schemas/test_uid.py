"""uids: DataComp's numbers, and 128 bits that tell pairs apart."""

import hashlib
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pairsieve.schemas import uid

UIDS = st.lists(st.integers(0, 2**128 - 1).map(lambda n: f"{n:032x}"), max_size=20)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
README = {
    "139e4a9b22a614771f06c700a8ebe150": (1413649363202610295, 2235693070683988304),
    "6e356964a967af455c8016b75d691203": (7941369398997528389, 6665352425310327299),
}


def of(*pairs: tuple[str | None, str | None]) -> list[str]:
    """The uids of pairs."""
    urls, texts = (pa.array([p[i] for p in pairs], pa.string()) for i in (0, 1))
    return list(uid.of_pairs(urls, texts).to_pylist())


@settings(deadline=None)
@given(UIDS)
def test_numbers_and_back(uids: list[str]) -> None:
    """No uid changes, none is lost."""
    assert uid.from_numbers(uid.to_numbers(pa.array(uids, pa.string()))) == uids


def test_datacomps_examples() -> None:
    """The two of its README, in its dtype."""
    numbers = uid.to_numbers(pa.array(list(README)))
    assert numbers.tolist() == list(README.values())
    assert numbers.dtype == np.dtype("u8,u8")


@settings(deadline=None)
@given(UIDS)
def test_the_subset_is_sorted_as_text_is(uids: list[str]) -> None:
    """Unsigned and lexicographic: 2**63 after 1; a uid that comes twice stays twice."""
    found = uid.from_numbers(uid.sorted_subset(uid.to_numbers(pa.array([*uids, *uids], pa.string()))))
    assert found == sorted([*uids, *uids])


def test_large_halves_sort_after_small_ones() -> None:
    """In both halves."""
    uids = [f"{high:016x}{low:016x}" for high in (1, 2**63) for low in (1, 2**63)]
    assert uid.from_numbers(uid.sorted_subset(uid.to_numbers(pa.array(uids[::-1])))) == uids


@settings(deadline=None)
@given(st.text("ab:1-0\0", max_size=6), st.text("ab:1-0\0", max_size=6), st.integers(0, 6))
def test_moving_text_into_the_url_gives_another_uid(url: str, text: str, n: int) -> None:
    """What is hashed is not the mere concatenation."""
    both = url + text
    first, second = of((url, text), (both[:n], both[n:]))
    assert (first == second) == ((url, text) == (both[:n], both[n:]))


@settings(deadline=None)
@given(st.lists(st.tuples(st.none() | TEXT, st.none() | TEXT), max_size=8))
def test_different_pairs_have_different_uids(pairs: list[tuple[str | None, str | None]]) -> None:
    """A null url is not an empty one; a null caption counts as an empty one."""
    assert len(set(of(*pairs))) == len({(url, text or "") for url, text in pairs})


def test_the_uid_is_sha256_as_documented() -> None:
    """Anyone can compute it: bytes of the url, colon, url, text."""
    assert of(("http://æ", "猫")) == [hashlib.sha256("9:http://æ猫".encode()).hexdigest()[:32]]
    assert of((None, None)) == [hashlib.sha256(b"-1:").hexdigest()[:32]]
    assert of() == []


@pytest.mark.parametrize("value", ["", "0" * 31, "0" * 33, "A" * 32, "g" * 32, "0" * 32 + "\n", "０" * 32, None])
def test_what_is_no_uid(value: str | None) -> None:
    """32 lower-case hex characters and nothing else."""
    assert value is None or not uid.is_uid(value)
    assert uid.first_bad(pa.array(["0" * 32, value, "zz"], pa.string())) == repr(value)


@settings(deadline=None)
@given(UIDS)
def test_what_is_a_uid(uids: list[str]) -> None:
    """Any 128 bits."""
    assert all(map(uid.is_uid, uids))
    assert uid.first_bad(pa.array(uids, pa.string())) is None


@settings(deadline=None)
@given(UIDS, st.integers(0, 2**63 - 1))
def test_the_hash_depends_on_seed_and_uid_alone(uids: list[str], seed: int) -> None:
    """Not on the order, the neighbours or where an array begins."""
    whole = uid.keyed_hash(pa.array(uids, pa.string()), seed).tolist()
    assert uid.keyed_hash(pa.array(["0" * 32, *uids[::-1]], pa.string()).slice(1), seed).tolist() == whole[::-1]
    assert [uid.keyed_hash(pa.array([u]), seed)[0] for u in uids] == whole


def test_the_hash_is_uniform_and_another_for_every_seed() -> None:
    """Also over uids that differ in one bit: 64 bins of 100,000 values, χ² below the 1-in-a-million bound."""
    uids = pa.array([f"{i:032x}" for i in range(50_000)] + [f"{i << 64:032x}" for i in range(1, 50_001)])
    hashes = [uid.keyed_hash(uids, seed) for seed in (0, 1, 2**63 - 1)]
    for found in hashes:
        assert len(np.unique(found)) == 100_000
        for shift in (58, 0):
            bins = np.bincount(((found >> np.uint64(shift)) & np.uint64(63)).astype(np.int64), minlength=64)
            assert ((bins - 100_000 / 64) ** 2 / (100_000 / 64)).sum() < 130
    assert not any((a == b).any() for a, b in pairwise(hashes))
    assert abs(np.corrcoef(hashes[0].astype(float), hashes[1].astype(float))[0, 1]) < 0.02
