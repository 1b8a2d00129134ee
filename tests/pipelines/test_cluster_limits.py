"""Limits of hosts on a cluster: each node's workers keep to the node's share."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from pairsieve.filters._host_limits import shared
from tests.support_cluster import Nodes


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    """A head without CPUs and two nodes of one CPU."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        found = Nodes(2)
        yield found
        found.shutdown()


def test_limits_are_shared_by_the_nodes_with_cpus(nodes: Nodes) -> None:
    """Two nodes have half of a rate each, and half of the connections, but one at least; the head has no workers."""
    import ray

    ray.init(address=nodes.address, log_to_driver=False, logging_level=logging.ERROR)
    found = ray.get(ray.remote(lambda: (shared(5, 10.0), shared(1, None), shared(None, 0.5))).remote())
    assert found == ((2, 5.0), (1, None), (None, 0.25))
