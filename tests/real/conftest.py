"""The stamps of Tux Paint: photographs and drawings with human captions in 78 languages, served over HTTP."""

import asyncio
import os
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from aiohttp import web

PACKAGE = "tuxpaint-stamps-default"
LISTING = Path(f"/var/lib/dpkg/info/{PACKAGE}.list")
STAMPS = Path("/usr/share/tuxpaint/stamps")
"""Other packages put stamps here too: only the files of the package's own listing count."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@pytest.fixture(scope="session")
def stamp_files() -> list[Path]:
    """The package's files under its stamps folder, sorted; where it is missing, CI fails and others skip."""
    if not LISTING.exists():
        message = f"the Debian package {PACKAGE} is not installed: apt-get install {PACKAGE}"
        pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)
    listed = (Path(line) for line in LISTING.read_text(encoding="utf-8").splitlines())
    return sorted(path for path in listed if path.is_relative_to(STAMPS) and path.is_file())


@pytest.fixture(scope="session")
def stamp_images(stamp_files: list[Path]) -> list[Path]:
    """The PNG files, as paths below the stamps folder."""
    return [path.relative_to(STAMPS) for path in stamp_files if path.suffix == ".png"]


@pytest.fixture(scope="session")
def stamp_folder() -> Path:
    """Where the stamps lie."""
    return STAMPS


@pytest.fixture(scope="session")
def stamp_requests() -> Counter[str]:
    """How often the server was asked for each path."""
    return Counter()


async def _serve(hits: Counter[str], port: list[int], ready: threading.Event, done: asyncio.Event) -> None:
    @web.middleware
    async def count(request: web.Request, handler: Handler) -> web.StreamResponse:
        hits[request.path] += 1
        return await handler(request)

    app = web.Application(middlewares=[count])
    app.router.add_static("/", STAMPS)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        port.append(int(runner.addresses[0][1]))
        ready.set()
        await done.wait()
    finally:
        await runner.cleanup()


@pytest.fixture(scope="session")
def stamp_server(stamp_files: list[Path], stamp_requests: Counter[str]) -> Iterator[str]:
    """The base URL of a server on loopback that sends the package's files as they lie on disk."""
    assert stamp_files
    port: list[int] = []
    ready, done, loop = threading.Event(), asyncio.Event(), asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_until_complete, args=[_serve(stamp_requests, port, ready, done)])
    thread.start()
    assert ready.wait(10)
    yield f"http://127.0.0.1:{port[0]}"
    loop.call_soon_threadsafe(done.set)
    thread.join()
    loop.close()
