"""Settings of all tests, and the object store that some share."""

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator

import pytest
from hypothesis import settings

from pairsieve.filters._host_limits import FOLDER
from tests.s3 import Faults, S3Server, serve

# Other work on the machine must not fail a property; in CI the same examples run every time.
settings.register_profile("pairsieve", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("pairsieve")


def pytest_configure(config: pytest.Config) -> None:
    """What tests and the runs that they start inherit.

    A suite that a shell started in the background ignores Ctrl-C; and limits of hosts, which all runs of a user
    share, would let tests of other processes hold connections to the loopback that a test counts.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    folder = tempfile.mkdtemp(prefix="pairsieve-tests-hosts-")
    os.environ[FOLDER] = folder
    config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))


FIRST = ("chaos", "demo", "cluster", "engines", "track_scales", "track_nano", "s3", "tail", "feed")
"""Test files that take longest: ``test_<name>.py``."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that take longest come first: of several workers none ends with one of them while the others are done."""
    order = {f"test_{name}.py": place for place, name in enumerate(FIRST)}
    items.sort(key=lambda item: order.get(item.path.name, len(order)))


@pytest.fixture(scope="session")
def _s3_server() -> Iterator[S3Server]:
    """One server for all tests: clients are kept by process, and with them its address."""
    with serve() as server:
        yield server


@pytest.fixture
def s3(_s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """A faultless S3 API, which clients of this process and its children find by their environment."""
    for name, value in _s3_server.environment().items():
        monkeypatch.setenv(name, value)
    _s3_server.set(Faults())
    return _s3_server
