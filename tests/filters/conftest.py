"""A real web server on loopback, with the pages that a crawler meets and should not trip over."""

import asyncio
import contextlib
import gzip
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from io import BytesIO

import numpy as np
import pytest
from aiohttp import web
from PIL import Image

OPEN, SHUT = "127.0.0.1", "127.0.0.2"


@dataclass
class Web:
    """Where the pages are, and how often each was asked for."""

    port: int = 0
    hits: Counter[str] = field(default_factory=Counter)
    jpeg: bytes = b""

    def url(self, path: str, host: str = OPEN) -> str:
        """The URL of a page."""
        return f"http://{host}:{self.port}{path}"


def photo(width: int = 64, height: int = 48, kind: str = "JPEG", mode: str = "RGB", seed: int = 0) -> bytes:
    """An image file of smooth colours."""
    steps = np.random.default_rng(seed).integers(0, 255, (4, 4, 4), dtype=np.uint8)
    small = Image.fromarray(steps, "RGBA") if mode == "RGBA" else Image.fromarray(steps[:, :, :3]).convert(mode)
    out = BytesIO()
    small.resize((width, height), Image.Resampling.BICUBIC).save(out, kind)
    return out.getvalue()


def _turned() -> bytes:
    """A photo on its side, whose EXIF says so."""
    exif, out = Image.Exif(), BytesIO()
    exif[0x0112], exif[0x010F], exif[0x013B] = 6, "Maker", "Jane Doe"
    Image.open(BytesIO(photo())).save(out, "JPEG", exif=exif)
    return out.getvalue()


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


async def _robots(request: web.Request) -> web.Response:
    answer = web.Response(body=photo(), content_type="image/jpeg")
    for line in request.query.getall("tag"):
        answer.headers.add("X-Robots-Tag", line)
    return answer


async def _redirect(request: web.Request) -> web.Response:
    return web.Response(status=302, headers={"Location": request.query["to"]})


async def _chain(request: web.Request) -> web.Response:
    left = int(request.query["left"])
    return web.Response(status=302, headers={"Location": f"/chain?left={left - 1}" if left > 1 else "/photo.jpg"})


async def _drip(request: web.Request) -> web.StreamResponse:
    answer = web.StreamResponse()
    await answer.prepare(request)
    with contextlib.suppress(ConnectionError):
        for byte in photo():
            await answer.write(bytes([byte]))
            await asyncio.sleep(0.05)
    return answer


async def _endless(request: web.Request) -> web.StreamResponse:
    answer = web.StreamResponse()
    await answer.prepare(request)
    with contextlib.suppress(ConnectionError):
        await answer.write(photo())
        while True:
            await answer.write(b"\0" * 65536)
    return answer


async def _announced(request: web.Request) -> web.StreamResponse:
    answer = web.StreamResponse(headers={"Content-Length": "3000000"})
    await answer.prepare(request)
    await answer.write(photo())
    await asyncio.sleep(5)
    return answer


async def _cut(request: web.Request) -> web.StreamResponse:
    answer = web.StreamResponse(headers={"Content-Length": "5000"})
    await answer.prepare(request)
    await answer.write(photo())
    assert request.transport
    request.transport.close()
    return answer


def _bomb() -> bytes:
    """A PNG header that announces 60000 × 60000 pixels."""
    out = photo(kind="PNG")
    return out[:16] + (60000).to_bytes(4, "big") * 2 + out[24:]


def _answer(body: bytes, status: int = 200, **headers: str) -> Handler:
    async def handler(_: web.Request) -> web.Response:
        return web.Response(body=body, status=status, headers={k.replace("_", "-"): v for k, v in headers.items()})

    return handler


def _pages(served: Web) -> dict[str, Handler]:
    async def flaky(request: web.Request) -> web.Response:
        """Fails at the first request only."""
        first = served.hits[request.path_qs] == 1
        return web.Response(status=503) if first else web.Response(body=served.jpeg)

    async def hang_up(request: web.Request) -> web.Response:
        assert request.transport
        request.transport.close()
        return web.Response()

    return {
        "/photo.jpg": _answer(served.jpeg, Content_Type="image/jpeg"),
        "/grey.png": _answer(photo(mode="L", kind="PNG")),
        "/large.jpg": _answer(photo(1200, 900), Content_Type="image/jpeg"),
        "/tiny.gif": _answer(photo(1, 1, kind="GIF")),
        "/exif.jpg": _answer(_turned()),
        "/missing": _answer(b"gone", 404),
        "/forbidden": _answer(b"no", 403),
        "/busy": _answer(b"later", 429, Retry_After="3600"),
        "/error": _answer(b"oops", 500),
        "/nowhere": _answer(b"", 302),
        "/empty": _answer(b""),
        "/page.jpg": _answer(b"<!doctype html><title>no image</title>" * 9, Content_Type="image/jpeg"),
        "/scan.tiff": _answer(photo(kind="TIFF")),
        "/gzip.jpg": _answer(gzip.compress(served.jpeg), Content_Encoding="gzip"),
        "/half.jpg": _answer(served.jpeg[: len(served.jpeg) // 2]),
        "/bomb.png": _answer(_bomb()),
        "/robots": _robots,
        "/redirect": _redirect,
        "/chain": _chain,
        "/drip": _drip,
        "/endless": _endless,
        "/announced": _announced,
        "/cut": _cut,
        "/flaky": flaky,
        "/hang-up": hang_up,
    }


async def _serve(served: Web, ready: threading.Event, done: asyncio.Event) -> None:
    @web.middleware
    async def count(request: web.Request, handler: Handler) -> web.StreamResponse:
        served.hits[request.path_qs] += 1
        served.hits[request.host.partition(":")[0]] += 1
        return await handler(request)

    app = web.Application(middlewares=[count])
    for path, handler in _pages(served).items():
        app.router.add_get(path, handler)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, OPEN, 0).start()
    served.port = int(runner.addresses[0][1])
    await web.TCPSite(runner, SHUT, served.port).start()
    ready.set()
    await done.wait()
    await runner.cleanup()


@pytest.fixture(scope="session", name="photo")
def photo_maker() -> Callable[..., bytes]:
    """``photo`` itself, for tests: a conftest cannot be imported."""
    return photo


@pytest.fixture(scope="session")
def site() -> Iterator[Web]:
    """The server, at 127.0.0.1 and, to be refused, at 127.0.0.2."""
    served, ready, loop = Web(jpeg=photo(640, 480)), threading.Event(), asyncio.new_event_loop()
    done = asyncio.Event()
    thread = threading.Thread(target=loop.run_until_complete, args=[_serve(served, ready, done)])
    thread.start()
    assert ready.wait(10)
    yield served
    loop.call_soon_threadsafe(done.set)
    thread.join()
    loop.close()
