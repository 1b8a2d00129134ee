"""A web server on loopback that does to a crawler what the web does, and counts what it is asked for.

Paths say what comes: ``/ok/7`` a photo, ``/slow/2.5/7`` one after that many seconds, ``/drip/7`` one that never ends
in time, and so on; ``mend`` turns a path into a photo from then on.
"""

import asyncio
import contextlib
import gzip
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from io import BytesIO

import numpy as np
from aiohttp import web
from PIL import Image

HOSTS = ("127.0.0.1", "127.0.0.2", "127.0.0.3")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@lru_cache(maxsize=512)
def photo(seed: int = 0, width: int = 64, height: int = 48) -> bytes:
    """A JPEG of smooth colours, another for each seed."""
    steps = np.random.default_rng(seed).integers(0, 255, (4, 4, 3), dtype=np.uint8)
    out = BytesIO()
    Image.fromarray(steps).resize((width, height), Image.Resampling.BICUBIC).save(out, "JPEG")
    return out.getvalue()


@dataclass
class Site:
    """Where the server is and what it has seen; ``most`` is the largest number of requests at a time, by host."""

    port: int = 0
    hits: Counter[str] = field(default_factory=Counter)
    times: list[tuple[float, str]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    now: Counter[str] = field(default_factory=Counter)
    most: Counter[str] = field(default_factory=Counter)
    mended: set[str] = field(default_factory=set)
    robots: str | None = None
    records: bool = True

    def url(self, path: str, host: str = HOSTS[0]) -> str:
        """The URL of a path."""
        return f"http://{host}:{self.port}{path}"

    def mend(self, path: str) -> None:
        """From now on the path has a photo."""
        self.mended.add(path)


def _seed(request: web.Request) -> int:
    return int(request.path.rsplit("/", 1)[-1])


async def _ok(request: web.Request) -> web.StreamResponse:
    return web.Response(body=photo(_seed(request)), content_type="image/jpeg")


async def _slow(request: web.Request) -> web.StreamResponse:
    await asyncio.sleep(float(request.match_info["seconds"]))
    return await _ok(request)


async def _stream(request: web.Request, block: bytes, wait: float) -> web.StreamResponse:
    """A photo, then blocks for ever."""
    answer = web.StreamResponse(headers={"Content-Type": "image/jpeg"})
    await answer.prepare(request)
    with contextlib.suppress(ConnectionError):
        await answer.write(photo(_seed(request)))
        for _ in range(int(60 / max(wait, 0.001))):
            await answer.write(block)
            await asyncio.sleep(wait)
    return answer


async def _drip(request: web.Request) -> web.StreamResponse:
    return await _stream(request, b"\0", 0.05)


async def _endless(request: web.Request) -> web.StreamResponse:
    return await _stream(request, b"\0" * 65536, 0)


async def _hang(request: web.Request) -> web.StreamResponse:
    await asyncio.sleep(30)
    return web.Response()


async def _reset(request: web.Request) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


async def _loop(request: web.Request) -> web.StreamResponse:
    return web.Response(status=302, headers={"Location": request.path_qs})


async def _redirect(request: web.Request) -> web.StreamResponse:
    return web.Response(status=302, headers={"Location": request.query["to"]})


async def _short(request: web.Request) -> web.StreamResponse:
    """Announces more than it sends."""
    answer = web.StreamResponse(headers={"Content-Length": "90000"})
    await answer.prepare(request)
    await answer.write(photo(_seed(request)))
    assert request.transport is not None
    request.transport.close()
    return answer


async def _huge(request: web.Request) -> web.StreamResponse:
    """Announces a terabyte."""
    answer = web.StreamResponse(headers={"Content-Length": str(10**12)})
    await answer.prepare(request)
    await answer.write(photo(_seed(request)))
    return answer


async def _gzip(request: web.Request) -> web.StreamResponse:
    return web.Response(body=_bomb(), headers={"Content-Encoding": "gzip", "Content-Type": "image/jpeg"})


@lru_cache(maxsize=1)
def _bomb() -> bytes:
    return gzip.compress(bytes(5_000_000))


async def _status(request: web.Request) -> web.StreamResponse:
    headers = {"Retry-After": request.query["after"]} if "after" in request.query else {}
    return web.Response(status=int(request.match_info["status"]), headers=headers)


PATHS: dict[str, Handler] = {
    "/ok/{n}": _ok,
    "/slow/{seconds}/{n}": _slow,
    "/drip/{n}": _drip,
    "/endless/{n}": _endless,
    "/hang/{n}": _hang,
    "/reset/{n}": _reset,
    "/loop/{n}": _loop,
    "/short/{n}": _short,
    "/huge/{n}": _huge,
    "/gzip/{n}": _gzip,
    "/status/{status}/{n}": _status,
    "/redirect": _redirect,
}


async def _serve(site: Site, ready: threading.Event, done: asyncio.Event) -> None:
    @web.middleware
    async def counted(request: web.Request, handler: Handler) -> web.StreamResponse:
        host = request.host.partition(":")[0]
        if site.records:
            site.hits[request.path] += 1
            site.times.append((time.monotonic(), host))
            site.headers.append(dict(request.headers))
        site.now[host] += 1
        site.most[host] = max(site.most[host], site.now[host])
        try:
            if request.path in site.mended:
                return await _ok(request)
            return await handler(request)
        except ConnectionError:  # the client had enough, as it should
            return web.Response()
        finally:
            site.now[host] -= 1

    async def robots(_: web.Request) -> web.StreamResponse:
        return web.Response(status=404) if site.robots is None else web.Response(text=site.robots)

    app = web.Application(middlewares=[counted])
    app.router.add_get("/robots.txt", robots)
    for path, handler in PATHS.items():
        app.router.add_get(path, handler)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, HOSTS[0], site.port).start()
    site.port = int(runner.addresses[0][1])
    for host in HOSTS[1:]:
        await web.TCPSite(runner, host, site.port).start()
    ready.set()
    await done.wait()
    await runner.cleanup()


@contextmanager
def serving(port: int = 0, records: bool = True) -> Iterator[Site]:
    """The server, in a thread, for the length of the block; without ``records`` it remembers no request."""
    site, ready, loop = Site(port, records=records), threading.Event(), asyncio.new_event_loop()
    done = asyncio.Event()
    thread = threading.Thread(target=loop.run_until_complete, args=[_serve(site, ready, done)], daemon=True)
    thread.start()
    try:
        assert ready.wait(10)
        yield site
    finally:
        loop.call_soon_threadsafe(done.set)
        thread.join(10)
        loop.close()
