"""An HTTP server on the loopback interface that serves a demo pool from a background thread, defects included.

`with serve(pool) as server: ...` gives `server.url`; leaving the block ends the thread within a second, whatever is in
flight. Images are rendered per request on two worker threads (some 5 ms of CPU each) and not kept.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from aiohttp import web

from pairsieve.pipelines.demo_pool import DemoPool
from pairsieve.pipelines.demo_replies import Reply, reply_to

WORKERS = 2
DRIP_SECONDS = 0.2
# Some 30 MB/s per endless reply: past any cap in a second, without taking a core from the client under test.
BLOCK = 64 * 1024
BLOCK_SECONDS = 0.002
START_TIMEOUT = 10.0
STOP_TIMEOUT = 10.0
GRACE_SECONDS = 0.2


class DemoServer:
    """A running server: where it is and, for each path, how many requests it has had."""

    def __init__(self, pool: DemoPool, port: int, robots_txt: str | None) -> None:
        """Prepare a server; `port` 0 lets the system choose."""
        self.pool = pool
        self.port = port
        self.requests: Counter[str] = Counter()
        self._robots_txt = robots_txt
        self._ready = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._failure: BaseException | None = None
        self._workers = ThreadPoolExecutor(WORKERS, thread_name_prefix="demo-render")
        self._thread = threading.Thread(target=self._run, name="demo-server", daemon=True)

    @property
    def url(self) -> str:
        """The base of all URLs, without a slash at the end."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start the thread and return once the port accepts connections."""
        self._thread.start()
        if not self._ready.wait(START_TIMEOUT):
            raise TimeoutError(f"the demo server did not start within {START_TIMEOUT:.0f} s")
        if self._failure is not None:
            self.stop()
            raise OSError(f"the demo server cannot listen on {self.url}: {self._failure}") from self._failure

    def stop(self) -> None:
        """Drop what is in flight, close the port and wait for the threads to end."""
        if self._loop is not None and self._stop is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(STOP_TIMEOUT)
        self._workers.shutdown(cancel_futures=True)

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except OSError as failure:
            self._failure = failure
        finally:
            self._ready.set()

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        app = web.Application()
        app.router.add_get("/{path:.*}", self._answer)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=GRACE_SECONDS, handler_cancellation=True)
        await runner.setup()
        try:
            site = web.TCPSite(runner, "127.0.0.1", self.port)
            await site.start()
            self.port = int(runner.addresses[0][1])
            self._ready.set()
            await self._stop.wait()
        finally:
            await self._close(runner)

    async def _close(self, runner: web.AppRunner) -> None:
        """Abort connections first: closing politely would wait for clients that do not read."""
        for connection in runner.server.connections if runner.server is not None else ():
            if connection.transport is not None:
                connection.transport.abort()
        await asyncio.sleep(0)
        await runner.cleanup()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.requests[request.path] += 1
        if request.path == "/robots.txt" and self._robots_txt is not None:
            return web.Response(text=self._robots_txt)
        loop = asyncio.get_running_loop()
        reply = await loop.run_in_executor(self._workers, reply_to, self.pool, request.path)
        if reply is None:
            return web.Response(status=404, text="not found\n")
        if reply.pace == "plain":
            response = web.Response(status=reply.status, body=reply.body, content_type=reply.content_type)
            for value in reply.robots:
                response.headers.add("X-Robots-Tag", value)
            return response
        return await self._stream(request, reply)

    async def _stream(self, request: web.Request, reply: Reply) -> web.StreamResponse:
        """Send a body which takes too long: byte by byte with its length announced, or in blocks that never end."""
        response = web.StreamResponse(status=reply.status, headers={"Content-Type": reply.content_type})
        if reply.pace == "slow":
            response.content_length = len(reply.body)
        else:
            response.enable_chunked_encoding()
        try:
            await response.prepare(request)
            if reply.pace == "slow":
                await self._drip(response, reply.body)
            else:
                await self._flood(response, reply.body)
        except ConnectionError:  # the client had enough, as it should
            logging.getLogger(__name__).debug("client left %s", request.path)
        return response

    async def _drip(self, response: web.StreamResponse, body: bytes) -> None:
        for position in range(len(body)):
            await response.write(body[position : position + 1])
            if await self._stopped_within(DRIP_SECONDS):
                return

    async def _flood(self, response: web.StreamResponse, body: bytes) -> None:
        await response.write(body)
        filler = bytes(BLOCK)
        while not await self._stopped_within(BLOCK_SECONDS):
            await response.write(filler)

    async def _stopped_within(self, seconds: float) -> bool:
        """Wait for a while, and tell whether the server is to stop."""
        assert self._stop is not None
        try:
            await asyncio.wait_for(self._stop.wait(), seconds)
        except TimeoutError:
            return False
        return True


@contextmanager
def serve(pool: DemoPool, port: int = 0, robots_txt: str | None = None) -> Iterator[DemoServer]:
    """Serve a pool for the duration of a with block; without `robots_txt` that path is a 404."""
    server = DemoServer(pool, port, robots_txt)
    server.start()
    try:
        yield server
    finally:
        server.stop()
