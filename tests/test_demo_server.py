"""The demo server over real HTTP on the loopback interface: each defect reaches a client as what it claims to be."""

from __future__ import annotations

import http.client
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from pairsieve.pipelines.demo_pool import Defect, DemoPool, build_pool
from pairsieve.pipelines.demo_replies import CONTENT_TYPES, image_bytes
from pairsieve.pipelines.demo_server import DemoServer, serve


@pytest.fixture(scope="module")
def pool() -> DemoPool:
    """A pool with some members of every class."""
    return build_pool(pairs=300, seed=5)


@pytest.fixture(scope="module")
def server(pool: DemoPool) -> Iterator[DemoServer]:
    """One server for the tests that do not stop it."""
    with serve(pool) as running:
        yield running


def first_path(pool: DemoPool, defect: Defect | None) -> str:
    """Return the path of the first pair of a class."""
    return pool.members(defect)[0].path


def connect(server: DemoServer, path: str) -> http.client.HTTPResponse:
    """Send a GET and return the response with its body unread."""
    request = urllib.request.Request(server.url + path)
    response = urllib.request.urlopen(request, timeout=5)
    assert isinstance(response, http.client.HTTPResponse)
    return response


def status_of(server: DemoServer, path: str) -> int:
    """Return the status of an error page."""
    with pytest.raises(urllib.error.HTTPError) as caught:
        connect(server, path)
    with caught.value as error:
        return error.code


def test_good_image_arrives_unchanged(server: DemoServer, pool: DemoPool) -> None:
    """A good pair's bytes come over the wire exactly as the pool makes them, with their type."""
    pair = pool.members(None)[0]
    with connect(server, pair.path) as response:
        assert response.read() == image_bytes(pair)
        assert response.headers["Content-Type"] == CONTENT_TYPES[pair.image_format]


def test_same_path_gives_the_same_bytes_twice(server: DemoServer, pool: DemoPool) -> None:
    """Two requests for one path get equal bodies although nothing is kept between them."""
    path = first_path(pool, "truncated_file")
    with connect(server, path) as one, connect(server, path) as two:
        assert one.read() == two.read()


def test_missing_image_is_a_404(server: DemoServer, pool: DemoPool) -> None:
    """Every not_found pair answers 404."""
    assert {status_of(server, pair.path) for pair in pool.members("not_found")} == {404}


def test_unknown_path_is_a_404(server: DemoServer) -> None:
    """A path which the pool does not have answers 404."""
    assert status_of(server, "/images/none.jpg") == 404


def test_server_errors_are_500_or_503(server: DemoServer, pool: DemoPool) -> None:
    """Every server_error pair answers 500 or 503."""
    assert {status_of(server, pair.path) for pair in pool.members("server_error")} <= {500, 503}


def test_html_comes_under_an_image_path(server: DemoServer, pool: DemoPool) -> None:
    """An html_page pair is a 200 whose body is a page although its path ends in .jpg."""
    path = first_path(pool, "html_page")
    with connect(server, path) as response:
        assert path.endswith(".jpg")
        assert response.read().startswith(b"<!DOCTYPE html>")


def test_every_opt_out_sends_its_header(server: DemoServer, pool: DemoPool) -> None:
    """Each opted_out pair carries X-Robots-Tag with noai, noimageai or none, on one line or several."""
    for pair in pool.members("opted_out"):
        with connect(server, pair.path) as response:
            tags = response.headers.get_all("X-Robots-Tag")
        assert tags == list(pair.robots)
        words = {word.strip().lower() for tag in tags for word in tag.split(",")}
        assert words & {"noai", "noimageai", "none"}


def test_slow_response_drips(server: DemoServer, pool: DemoPool) -> None:
    """A slow_response pair announces its length and then sends only a few bytes in half a second."""
    with connect(server, first_path(pool, "slow_response")) as response:
        assert int(response.headers["Content-Length"]) > 1000
        start = time.monotonic()
        assert len(response.read(4)) == 4
        assert time.monotonic() - start > 0.5


def test_endless_response_passes_any_cap(server: DemoServer, pool: DemoPool) -> None:
    """An endless_response pair announces no length and goes on past 20 MB."""
    with connect(server, first_path(pool, "endless_response")) as response:
        assert response.headers["Content-Length"] is None
        assert sum(len(response.read(1 << 20)) for _ in range(20)) == 20 << 20


def test_requests_are_counted(pool: DemoPool) -> None:
    """The server counts requests by path, so that a test can see what a client asked for."""
    path = first_path(pool, None)
    with serve(pool) as running:
        for _ in range(2):
            connect(running, path).close()
        assert running.requests == {path: 2}


def test_robots_txt_is_served_when_given(pool: DemoPool) -> None:
    """A robots.txt given to the server is what a client reads."""
    rules = b"User-agent: *\nDisallow: /images/\n"
    with serve(pool, robots_txt=rules.decode()) as running, connect(running, "/robots.txt") as response:
        assert response.read() == rules


@pytest.mark.parametrize("defect", ["slow_response", "endless_response"])
def test_shutdown_is_quick_with_a_reply_in_flight(pool: DemoPool, defect: Defect) -> None:
    """Leaving the block takes less than a second although a client is still in the middle of an endless reply."""
    with serve(pool) as running:
        response = connect(running, first_path(pool, defect))
        response.read(2)
        start = time.monotonic()
    assert time.monotonic() - start < 1
    response.close()


def test_port_is_free_after_the_block(pool: DemoPool) -> None:
    """Nothing listens on the port once the block is left."""
    with serve(pool) as running:
        address = (str(urlsplit(running.url).hostname), running.port)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address, timeout=1)


def test_taken_port_is_reported(pool: DemoPool, server: DemoServer) -> None:
    """Asking for a port that is in use raises an error which names it."""
    with pytest.raises(OSError, match=f"cannot listen on {server.url}"), serve(pool, port=server.port):
        pass
