"""The plan of an epoch: every row once, equal ranks, exact resume, whatever is killed and divided again."""

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pairsieve.pipelines.feed_order import Layout, Order
from pairsieve.pipelines.feed_plan import Pieces, Topology, after, divide, rows_of, whole
from tests.support_feed import flat, layouts, order_of, streams, topologies

WINDOWS = st.sampled_from([10, 90, 200, 10_000])


def orders() -> st.SearchStrategy[Order]:
    """Orders of small datasets, with and without weights."""
    return st.builds(_order, layouts(), WINDOWS, st.booleans(), st.booleans())


def _order(layout: Layout, window: int, shuffle: bool, weighted: bool) -> Order:
    weights = np.random.default_rng(0).random(int(layout.rows.sum())) * 2.2 if weighted else None
    return order_of(layout, window, shuffle=shuffle, weights=weights)


def all_rows(order: Order) -> list[int]:
    """What an epoch holds, copies counted."""
    rows = np.arange(order.layout.starts[-1])
    return np.repeat(rows, order._copies(0, len(rows)) if order.weights is not None else 1).tolist()


def counts(rows: list[int]) -> dict[int, int]:
    """How often each row comes."""
    found, times = np.unique(np.array(rows, np.int64), return_counts=True)
    return dict(zip(found.tolist(), times.tolist(), strict=True))


def stays_in(few: list[int], many: list[int]) -> bool:
    """Whether no row comes more often than it should."""
    has = counts(many)
    return all(times <= has.get(row, 0) for row, times in counts(few).items())


def most_left(topology: Topology) -> int:
    """Rows that may rest in an epoch that runs to its end."""
    short = topology.world * (topology.batch_size - 1) if topology.drop_last else 0
    return topology.world - 1 + short


@given(orders(), topologies())
def test_an_epoch_hands_out_every_row_once(order: Order, topology: Topology) -> None:
    """But for the stated remainder; ranks have as many batches of the same sizes, of which the last may be short."""
    ranks = streams(order, [whole(0, order.rows)], topology)
    given_out = flat(flat(ranks))  # type: ignore[arg-type]
    assert stays_in(given_out, all_rows(order))
    assert order.rows - len(given_out) <= most_left(topology)
    sizes = [[len(batch) for batch in rank] for rank in ranks]
    assert all(one == sizes[0] for one in sizes)
    assert set(sizes[0][:-1]) <= {topology.batch_size}
    assert not topology.drop_last or set(sizes[0]) <= {topology.batch_size}


@given(orders(), topologies(), st.data())
def test_killed_and_resumed_alike_is_the_unkilled_stream(order: Order, topology: Topology, data: Any) -> None:
    """Batch by batch on every rank, however often it is killed."""
    pieces: Pieces = (whole(0, order.rows),)
    wanted = streams(order, pieces, topology)
    found: list[list[list[int]]] = [[] for _ in wanted]
    for steps in data.draw(st.lists(st.integers(0, 6), max_size=4)):
        for rank, some in zip(found, streams(order, pieces, topology, steps), strict=True):
            rank += some
        pieces = after(pieces, topology, steps)
    for rank, rest in zip(found, streams(order, pieces, topology), strict=True):
        rank += rest
    assert found == wanted


@given(orders(), st.lists(st.tuples(topologies(), st.integers(0, 6)), max_size=4), topologies())
def test_other_ranks_workers_and_batches_hand_out_the_rest(
    order: Order, kills: list[tuple[Topology, int]], last: Topology
) -> None:
    """No row twice and none lost but for the last topology's remainder, after any kills of any topologies."""
    found = list[int]()
    pieces: Pieces = (whole(0, order.rows),)
    for topology, steps in kills:
        found += flat(flat(streams(order, pieces, topology, steps)))  # type: ignore[arg-type]
        pieces = after(pieces, topology, steps)
        assert rows_of(pieces) == order.rows - len(found)
    found += flat(flat(streams(order, pieces, last)))  # type: ignore[arg-type]
    assert stays_in(found, all_rows(order))
    assert order.rows - len(found) <= most_left(last)


@given(st.integers(0, 5000), topologies(), st.integers(0, 400))
def test_workers_of_a_rank_share_its_rows(rows: int, topology: Topology, steps: int) -> None:
    """What the workers have handed out after some steps is what the rank has."""
    steps = min(steps, topology.batches(rows))
    given_out = sum(topology.handed_out(rows, worker, steps) for worker in range(topology.workers))
    assert given_out == min(steps * topology.batch_size, rows // topology.world)


@given(topologies(), st.integers(0, 900))
def test_what_rests_is_smaller_than_the_world(topology: Topology, rows: int) -> None:
    """And what a rank leaves, with ``drop_last``, is smaller than a batch."""
    division = divide([whole(0, rows)], topology)
    assert rows_of(division.rest) < topology.world
    assert all(rows_of(left) < (topology.batch_size if topology.drop_last else 1) for left in division.left)


def test_pieces_stay_few() -> None:
    """A state of 64 ranks of 8 workers that is saved after every step has two pieces a worker at most."""
    topology = Topology(64, 8, 256, False)
    pieces: Pieces = (whole(0, 100_000_000),)
    for _ in range(20):
        pieces = after(pieces, topology, 1)
    assert len(pieces) <= 2 * 64 * 8
