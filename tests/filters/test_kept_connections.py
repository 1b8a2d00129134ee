"""Kept connections that a server closes: the request is repeated where that says nothing of the URL, and counted."""

import resource
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path

import pyarrow as pa
import pytest

from pairsieve.filters._client import Client
from pairsieve.filters._codes import Code
from pairsieve.filters._fetch import Fetched, Policy
from pairsieve.filters._http import STALE
from pairsieve.filters.download import Download
from tests.support_web import photo

POLICY = Policy(timeout=10, networks=("127.0.0.0/8",))


@dataclass
class Impatient:
    """A server that promises to keep connections and does not: each gives so many answers.

    It closes a connection ``idle`` seconds after an answer, or, without it, once a further request has come in;
    at a path with ``shut`` it closes always.
    """

    answers: int
    idle: float | None = None
    port: int = 0
    connections: int = 0
    hits: Counter[str] = field(default_factory=Counter)

    def url(self, path: str) -> str:
        """The URL of a path."""
        return f"http://127.0.0.1:{self.port}{path}"

    def listen(self, listener: socket.socket) -> None:
        """Take connections until the listener is closed."""
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._serve, args=[connection], daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as lines:
            for given in count():
                path = _requested(lines.readline())
                while lines.readline().strip():
                    pass
                if not path:
                    return
                self.hits[path] += 1
                if given >= self.answers or "shut" in path:
                    return
                body = photo()
                head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\nConnection: keep-alive\r\n\r\n"
                connection.sendall(head.encode() + body)
                if self.idle is not None and given + 1 == self.answers:
                    time.sleep(self.idle)
                    return


def _requested(line: bytes) -> str:
    """The path of a request's first line; empty at the end of a connection."""
    parts = line.decode("latin-1").split()
    return parts[1] if len(parts) == 3 else ""


@contextmanager
def serving(answers: int, idle: float | None = None, host: str = "127.0.0.1") -> Iterator[Impatient]:
    """The server, for the length of the block."""
    with socket.create_server((host, 0)) as listener:
        server = Impatient(answers, idle, listener.getsockname()[1])
        threading.Thread(target=server.listen, args=[listener], daemon=True).start()
        yield server
        listener.shutdown(socket.SHUT_RDWR)


def fetched(client: Client[Fetched], url: str) -> Fetched:
    """One URL, alone."""
    (found,) = client.begin([url]).result()
    return found


def test_a_kept_connection_that_is_closed_is_asked_over_another_once() -> None:
    """A server that closes when the second request comes in: it is repeated over a new connection, and counted."""
    with serving(answers=1) as server, Client(POLICY, lambda found: found) as client:
        found = [fetched(client, server.url(f"/{i}")) for i in range(4)]
        assert [one.code for one in found] == [Code.SUCCESS] * 4
        assert [one.requests for one in found] == [1, 2, 2, 2]
        assert server.hits == {"/0": 1, "/1": 2, "/2": 2, "/3": 2}
        assert server.connections == 4


@pytest.mark.parametrize("answers", [1, 3])
def test_a_connection_that_was_closed_while_idle_costs_no_url(answers: int) -> None:
    """A server that gives up idle connections: the next URL comes all the same, with one request that it sees."""
    with serving(answers, idle=0.02) as server, Client(POLICY, lambda found: found) as client:
        for number in range(2 * answers):
            assert fetched(client, server.url(f"/{number}")).code is Code.SUCCESS
            time.sleep(0.1)
        assert set(server.hits.values()) == {1}
        assert server.connections == 2


def test_a_new_connection_that_is_closed_is_the_urls_fault() -> None:
    """Nothing is repeated where no connection was kept."""
    with serving(answers=9) as server, Client(POLICY, lambda found: found) as client:
        found = fetched(client, server.url("/shut"))
        assert (found.code, found.requests, server.hits["/shut"]) == (Code.CONNECTION_FAILED, 1, 1)


def test_a_url_at_which_servers_hang_up_is_not_asked_over_all_connections() -> None:
    """However many connections are kept, one URL closes few of them; every request is counted."""
    with serving(answers=9) as server, Client(POLICY, lambda found: found) as client:
        client.begin([server.url(f"/{i}") for i in range(20)]).result()
        found = fetched(client, server.url("/shut"))
        assert found.code is Code.CONNECTION_FAILED
        assert found.requests == server.hits["/shut"] <= STALE + 1


def test_a_repeated_request_is_one_url_of_the_report() -> None:
    """The tally has a URL once, with all its requests, as the server counts them."""
    with serving(answers=1) as server:
        made = Download(allow_addresses=("127.0.0.0/8",), concurrency=1)
        made.open()
        made.score(pa.record_batch({"url": [server.url(f"/{i}") for i in range(6)]}))
        facts = made.facts()
        made.close()
    assert facts is not None
    (row,) = facts.to_pylist()
    assert (row["host"], row["code"], row["urls"]) == ("127.0.0.1", "success", 6)
    assert row["requests"] == server.hits.total() == 1 + 2 * 5
    assert row["bytes"] == 6 * len(photo())


def test_kept_connections_need_no_more_files_than_there_are() -> None:
    """Many hosts that keep connections, and a limit of open files as systems have it: no URL is lost to it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with serving(answers=9, host="0.0.0.0") as server:
        resource.setrlimit(resource.RLIMIT_NOFILE, (len(list(Path("/proc/self/fd").iterdir())) + 60, hard))
        try:
            policy = replace(POLICY, networks=("127.0.0.0/8",), concurrency=16)
            with Client(policy, lambda found: found.code) as client:
                urls = [f"http://127.0.{i}.1:{server.port}/" for i in range(200)]
                assert set(client.begin(urls).result()) == {Code.SUCCESS}
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
