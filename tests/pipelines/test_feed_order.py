"""The order of an epoch: permutations in windows, copies by weight, and how well it mixes."""

import time
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pairsieve.pipelines.feed_order import READAHEAD, Layout
from pairsieve.pipelines.feed_plan import Piece, whole
from pairsieve.pipelines.feed_window import windows
from tests.support_feed import FAR, layouts, order_of, rows_in


@given(layouts(), st.sampled_from([10, 60, 300, FAR]), st.data())
def test_a_span_is_a_permutation(layout: Layout, window: int, data: st.DataObject) -> None:
    """Of its rows in the order in which they are read."""
    order = order_of(layout, window)
    start = data.draw(st.integers(0, order.rows - 1))
    stop = data.draw(st.integers(start + 1, order.rows))
    read = rows_in(order_of(layout, window, shuffle=False), [whole(0, order.rows)])
    assert read == list(range(order.rows))
    slots = [layout.starts[g] + np.arange(layout.rows[g]) for g in order.groups]
    assert sorted(rows_in(order, [whole(start, stop)])) == sorted(np.concatenate(slots)[start:stop].tolist())


@given(layouts(), st.sampled_from([10, 60, 300, FAR]), st.data())
def test_a_piece_is_a_part_of_its_span(layout: Layout, window: int, data: st.DataObject) -> None:
    """Whatever went before it is not read."""
    order = order_of(layout, window)
    span = rows_in(order, [whole(0, order.rows)])
    first = data.draw(st.integers(0, order.rows - 1))
    last = data.draw(st.integers(first + 1, order.rows))
    piece = Piece(0, order.rows, first, last)
    assert rows_in(order, [piece]) == span[first:last]
    groups = [int(np.searchsorted(layout.starts, row, "right")) - 1 for row in span[first:last]]
    assert {int(order.groups[s]) for chunk in order.chunks(piece) for s in chunk.entries.slots} == set(groups)


class Held:
    """A group that counts the bytes of all that are alive."""

    alive = most = 0

    def __init__(self, size: int) -> None:
        """One more."""
        self.size = size
        Held.alive += size
        Held.most = max(Held.most, Held.alive)

    def __del__(self) -> None:
        """One less."""
        Held.alive -= self.size


@given(layouts(60), st.integers(40, 900), st.integers(0, 100), st.booleans())
def test_memory_stays_within_the_bound(layout: Layout, held: int, skipped: int, shuffle: bool) -> None:
    """Groups in memory, those read ahead counted, never exceed ``window_bytes``, or four groups where that is more."""
    order = order_of(layout, layout.window(held), shuffle=shuffle)
    skipped = min(skipped, order.rows - 1)
    middle = (order.rows + skipped) // 2
    Held.alive = Held.most = 0
    parts = [Piece(0, order.rows, skipped, middle), Piece(0, order.rows, middle, order.rows)]
    for _, groups in windows(order, parts, lambda slot: Held(int(layout.bytes[order.groups[slot]]))):
        del groups
    assert Held.alive == 0 < Held.most <= max(held, (READAHEAD + 2) * int(layout.bytes.max()))


@given(layouts(60), st.integers(40, 900))
def test_a_group_is_read_once_in_a_span(layout: Layout, held: int) -> None:
    """Not again for later rows of it."""
    order, read = order_of(layout, layout.window(held)), list[int]()
    for _ in windows(order, [whole(0, order.rows)], read.append):
        pass
    assert sorted(read) == list(range(len(layout.rows)))


def test_what_reading_raises_comes_out() -> None:
    """In the thread that iterates."""
    layout = Layout(np.array([3, 3, 3, 3]), np.array([30] * 4))
    order = order_of(layout, 30)

    def read(slot: int) -> int:
        return slot if slot < 2 else 1 // 0

    with pytest.raises(ZeroDivisionError):
        list(windows(order, [whole(0, 12)], read))


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    """The same seed and epoch have the same one."""
    layout = Layout(np.full(20, 50), np.full(20, 500))
    made = {(s, e): rows_in(order_of(layout, 2000, seed=s, epoch=e), [whole(0, 1000)]) for s in (0, 1) for e in (0, 1)}
    assert len(set(map(tuple, made.values()))) == 4
    assert made[1, 1] == rows_in(order_of(layout, 2000, seed=1, epoch=1), [whole(0, 1000)])


def copies(weights: list[float], epochs: int) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
    """int64[epochs, rows]: how often each row comes."""
    layout = Layout(np.full(len(weights) // 10, 10), np.full(len(weights) // 10, 100))
    found = []
    for epoch in range(epochs):
        order = order_of(layout, 300, epoch=epoch, weights=np.array(weights))
        came = Counter(rows_in(order, [whole(0, order.rows)]))
        assert order.rows == sum(came.values())
        found.append([came[row] for row in range(len(weights))])
    return np.array(found)


def test_copies_are_the_weight_rounded_up_or_down() -> None:
    """Their mean over epochs is the weight: 200 epochs, four standard deviations."""
    weights = (np.arange(100) / 40).tolist()
    found = copies(weights, 200)
    assert np.all((found == np.floor(weights)) | (found == np.floor(weights) + 1))
    part = np.array(weights) % 1
    spread = np.sqrt(part * (1 - part) / len(found))
    assert np.all(np.abs(found.mean(0) - weights) <= 4.5 * spread + 1e-12)
    assert np.corrcoef(found[:100].mean(0), weights)[0, 1] > 0.99


def test_copies_of_a_row_lie_apart() -> None:
    """Each has random bits of its own."""
    layout = Layout(np.full(40, 10), np.full(40, 100))
    order = order_of(layout, FAR, weights=np.full(400, 2.0))
    rows = rows_in(order, [whole(0, 800)])
    gaps = [np.diff(np.flatnonzero(np.array(rows) == row))[0] for row in range(400)]
    assert np.mean(gaps) > 200
    hashes = np.concatenate([order.entries(slot).hashes for slot in range(40)])
    assert len(np.unique(hashes)) == 800


def test_counts_are_the_same_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Copies are counted a million rows at a time."""
    layout = Layout(np.array([5, 900, 30, 30, 30, 1]), np.ones(6, np.int64))
    weights = np.random.default_rng(1).random(996) * 3
    whole_counts = order_of(layout, 1, weights=weights).ends
    monkeypatch.setattr("pairsieve.pipelines.feed_order._BLOCK", 64)
    assert np.array_equal(order_of(layout, 1, weights=weights).ends, whole_counts)


def spread(rows: list[int], batch: int = 256) -> float:
    """Standard deviation of batches' mean positions, over that of full permutations."""
    means = np.array(rows)[: len(rows) // batch * batch].reshape(-1, batch).mean(1)
    return float(means.std() / (len(rows) / np.sqrt(12 * batch)))


@pytest.mark.parametrize(("rows", "groups", "most"), [(256, 8, 8.0), (256, 32, 3.2), (64, 32, 3.6)])
def test_mixing_is_as_good_as_its_window(rows: int, groups: int, most: float) -> None:
    """Factors over a full permutation of 20,000 rows, the median of 9 seeds; the window is what would be held."""
    count = 20_000 // rows
    layout = Layout(np.full(count, rows), np.full(count, rows * 10))
    window = layout.window(groups * rows * 10)
    found = [spread(rows_in(order_of(layout, window, seed=s), [whole(0, rows * count)])) for s in range(9)]
    assert np.median(found) < most
    assert (
        0.8
        < np.median([spread(rows_in(order_of(layout, FAR, seed=s), [whole(0, rows * count)])) for s in range(9)])
        < 1.2
    )


def test_groups_are_read_ahead() -> None:
    """While the first rows are handed out, two further groups are read, and no more."""
    layout = Layout(np.full(12, 4), np.full(12, 40))
    order, read = order_of(layout, layout.window(1), shuffle=False), list[int]()
    stream = windows(order, [whole(0, order.rows)], read.append)
    for slot in range(4):
        next(stream)
        until = time.monotonic() + 30
        while len(read) < slot + 1 + READAHEAD and time.monotonic() < until:
            time.sleep(0.001)
        time.sleep(0.02)
        assert sorted(read) == list(range(slot + 1 + READAHEAD))
