"""The bounded memory that the filters of a worker share."""

import pickle

from hypothesis import given
from hypothesis import strategies as st
from pydantic import PrivateAttr

from pairsieve.filters._shared import Reader, Shared, digest
from pairsieve.filters.base import AnyFilter, Opened


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 5), st.integers(0, 6))), st.integers(1, 12))
def test_shared_holds_at_most_so_many_bytes_and_nothing_else_than_was_put(
    calls: list[tuple[int, int, int]], most: int
) -> None:
    """Against a dictionary that forgets nothing but what is dropped."""
    shared, put = Shared(most), dict[int, tuple[str, int]]()
    for call, key, size in calls:
        if call == 0:
            shared.put(key, f"{key}:{size}", size)
            put[key] = f"{key}:{size}", size
            assert (shared.get(key) == f"{key}:{size}") == (size <= most)
        elif call == 1:
            shared.drop(key)
            put.pop(key, None)
        held = {key: shared.get(key) for key in range(6) if shared.get(key) is not None}
        assert held == {key: put[key][0] for key in held}
        assert sum(put[key][1] for key in held) <= most


def test_a_chunk_larger_than_the_memory_is_found_in_part() -> None:
    """Read in the order in which it was put, most of what the memory holds is there."""
    shared = Shared(200)
    for _ in range(3):
        for key in range(256):
            shared.put(key, "x", 1)
        assert sum(shared.get(key) is not None for key in range(256)) == 200


def test_what_is_held_is_not_made_again() -> None:
    """One call of ``make`` for two takes."""
    shared, made = Shared(), []

    def make() -> str:
        made.append(1)
        return "picture"

    assert [shared.take("a", make, len) for _ in range(2)] == ["picture", "picture"]
    assert made == [1]


def test_other_bytes_have_another_digest() -> None:
    """One bit is enough."""
    assert digest(b"a") != digest(b"b") and digest(b"a") == digest(b"a")


def test_the_last_reader_takes_an_entry_away() -> None:
    """It is held for those who joined later, and gone when the last of them has read it."""
    shared = Shared()
    first, second, third = (Reader(shared, kinds) for kinds in (["a", "b"], ["a"], ["a"]))
    first.put("a", b"1", "picture", 7)
    third.put("a", b"2", "nobody comes", 7)
    assert shared.get(("a", b"2")) is None
    first.put("b", b"1", "nobody reads it", 7)
    assert first.get("b", b"1") is None
    assert [reader.get("a", b"1") for reader in (first, second, third, first)] == ["picture"] * 3 + [None]


def test_readers_know_of_each_other_until_they_leave() -> None:
    """Kinds of others, and those of later ones."""
    shared = Shared()
    first, second = Reader(shared, ["a"]), Reader(shared, ["a", "b"])
    assert first.others() == first.later() == {"a", "b"} and second.others() == {"a"} and not second.later()
    second.leave()
    assert not first.others() and not first.later()


def test_another_process_begins_with_nothing() -> None:
    """What is held stays here, and the bound travels."""
    shared = Shared(10)
    shared.put("a", "picture", 7)
    Reader(shared, ["a"])
    other = pickle.loads(pickle.dumps(shared))
    other.put("b", "picture", 11)
    assert other.get("a") is None and other.get("b") is None and not other.readers


class Sees(AnyFilter):
    """Remembers what it was given to share."""

    _seen: list[Shared] = PrivateAttr(default_factory=list)

    def share(self, shared: Shared) -> None:
        """Keep it."""
        self._seen.append(shared)


def test_filters_of_a_worker_share_one_memory() -> None:
    """Two steps are given the same object, and another worker another."""
    one, other = Opened(), Opened()
    first, second, third = (opened.get(step, Sees()) for opened, step in ((one, "a"), (one, "b"), (other, "a")))
    assert isinstance(first, Sees) and isinstance(second, Sees) and isinstance(third, Sees)
    assert first._seen[-1] is second._seen[-1] and first._seen[-1] is not third._seen[-1]
