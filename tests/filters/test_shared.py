"""The bounded memory that the filters of a worker share."""

from collections import OrderedDict

from hypothesis import given
from hypothesis import strategies as st
from pydantic import PrivateAttr

from pairsieve.filters._shared import Shared, digest
from pairsieve.filters.base import AnyFilter, Opened


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5), st.integers(0, 6))), st.integers(1, 12))
def test_shared_is_a_least_recently_used_memory_of_so_many_bytes(calls: list[tuple[bool, int, int]], most: int) -> None:
    """Against a dictionary that is cut from its front."""
    shared, model = Shared(most), OrderedDict[int, int]()
    for is_put, key, size in calls:
        if is_put:
            shared.put(key, f"{key}:{size}", size)
            model.pop(key, None)
            if size <= most:
                model[key] = size
            while sum(model.values()) > most:
                model.popitem(last=False)
        else:
            held = shared.get(key)
            assert held == (f"{key}:{model[key]}" if key in model else None)
            if key in model:
                model.move_to_end(key)


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
