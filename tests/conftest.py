"""Settings of all tests, and the object store that some share."""

import os
import signal
from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests.s3 import Faults, S3Server, serve

# Other work on the machine must not fail a property; in CI the same examples run every time.
settings.register_profile("pairsieve", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("pairsieve")


def pytest_configure() -> None:
    """A suite that a shell started in the background ignores Ctrl-C; the runs under test must not inherit that."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


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
