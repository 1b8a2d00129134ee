"""Requests to a chat server: attempts, waits, and when to stop asking.

Only the address that was given is asked: no redirects, no proxies, no cookies, nothing inflated.  An attempt ends with
a time-out, a request with a deadline, an answer's body with a size.  A request that the server cannot answer becomes a
code; a server that is not as meant, or down, raises.  One loop, one session.
"""

import asyncio
import json
import re
import ssl
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import aiohttp
import numpy as np
from yarl import URL

from pairsieve.filters._chat_answers import Answer, ServerCode, read_answer, said
from pairsieve.schemas.errors import AccessError, PairsieveError, ServerDownError
from pairsieve.schemas.uid import fractions, item_hash

MOST_ANSWER = 4_194_304
"""Bytes of a body."""
LONGEST_WAIT = 60.0
"""Seconds between two attempts, whatever the server asks for."""
CONNECT_SECONDS = 10.0
IMAGE_THREADS = 2
"""Of a worker, that make requests; two decode some 400 images a second."""


@dataclass(frozen=True)
class Limits:
    """Times in seconds; see the settings of the same names."""

    concurrency: int = 64
    timeout: float = 120.0
    deadline: float = 600.0
    retries: int = 4
    backoff: float = 0.5
    patience: float = 120.0
    give_up: int | None = 100


@dataclass(frozen=True)
class Reply:
    """What one attempt brought: a status with a body, or the code of what went wrong."""

    status: int = 0
    body: bytes = b""
    code: ServerCode | None = None
    why: str = ""
    retry_after: float | None = None
    is_reached: bool = True

    @property
    def trouble(self) -> ServerCode | None:
        """The code of a reply that is no answer; null for one that has to be read."""
        if self.code or self.status == 200:
            return self.code
        if self.status == 408:
            return ServerCode.TIMEOUT
        if self.status in (429, 503):
            return ServerCode.BUSY
        return ServerCode.ERROR if self.status >= 500 else ServerCode.REFUSED


class Client:
    """A session with one server; every method runs in one event loop."""

    def __init__(self, url: str, model: str, key: str | None, limits: Limits) -> None:
        """Nothing is asked yet."""
        self._url, self._model, self._key, self._limits = url, model, key, limits
        self._session: aiohttp.ClientSession | None = None
        self._turns = asyncio.Semaphore(limits.concurrency)
        self._lost: float | None = None  # since when nobody has reached the server
        self._failed, self._is_proven, self._stopped = 0, False, ""

    async def open(self, probe: dict[str, Any]) -> None:
        """Ask something short until there is an answer; raises where there is none within the patience."""
        self._session = _session(self._key, self._limits)
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(IMAGE_THREADS, "pairsieve-chat"))
        end, attempt = loop.time() + self._limits.patience, 0
        while True:
            reply = await self._post(probe)
            await self._check(reply)
            is_answer = reply.status == 200 and read_answer(reply.body, 1) is not None
            if is_answer or reply.trouble is ServerCode.REFUSED:
                return
            if reply.status == 200:
                raise AccessError(f"{self._name} answers, but not as a chat server; write the address that ends in /v1")
            wait = self._wait(reply, attempt, 0)
            if loop.time() + wait >= end:
                what = f"{self._name} gave no answer for {self._limits.patience:g} s ({self._what(reply)})"
                raise ServerDownError(f"{what}; start it, then the same command resumes")
            await asyncio.sleep(wait)
            attempt += 1

    async def close(self) -> None:
        """End what is in flight."""
        mine = asyncio.current_task()
        running = [task for task in asyncio.all_tasks() if task is not mine]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        if self._session is not None:
            await self._session.close()
            await asyncio.sleep(0)  # transports close in the loop's next turn
        await asyncio.get_running_loop().shutdown_default_executor()

    async def turn(self, bits: int, make: Callable[[], dict[str, Any] | str], count: int) -> Answer:
        """The answer to a request that is made when its turn comes; raises where the server is not to be asked."""
        async with self._turns:
            if self._stopped:
                raise ServerDownError(self._stopped)
            body = await asyncio.get_running_loop().run_in_executor(None, make)
            if isinstance(body, str):
                return Answer((None,) * count, body)
            answer = await self._attempts(bits, body, count)
            return answer if isinstance(answer, Answer) else Answer((None,) * count, answer.value)

    async def _attempts(self, bits: int, body: dict[str, Any], count: int) -> Answer | ServerCode:
        """Ask, and ask again while that may help; attempts that did not reach the server are not counted."""
        loop, attempt, tries, spent = asyncio.get_running_loop(), 0, 0, 0.0
        while True:
            began = loop.time()
            reply = await self._post(body)
            await self._check(reply)
            answer = read_answer(reply.body, count) if reply.status == 200 and not reply.code else None
            if answer is not None:
                self._failed, self._is_proven = 0, True
                return answer
            code = reply.trouble or ServerCode.GARBAGE
            wait = self._wait(reply, attempt, bits)
            if reply.is_reached:
                tries, spent = tries + 1, spent + loop.time() - began + wait
                is_last = tries > self._limits.retries or spent >= self._limits.deadline
                if code is ServerCode.REFUSED or is_last:
                    self._count(code, reply)
                    return code
            else:
                self._check_patience(reply)
            await asyncio.sleep(wait)
            attempt += 1

    def _count(self, code: ServerCode, reply: Reply) -> None:
        """Raise where so many requests on end failed that the server, not they, must be the reason."""
        if code is ServerCode.REFUSED and self._is_proven:
            return  # an input of its own, such as a prompt too long
        self._failed += 1
        if self._limits.give_up and self._failed >= self._limits.give_up:
            what = f"{self._name} failed {self._failed} requests on end (the last: {self._what(reply)})"
            slow = "raise server.timeout or lower server.concurrency" if code is ServerCode.TIMEOUT else "mend it"
            self._stop(f"{what}; {slow}, then the same command resumes")

    def _check_patience(self, reply: Reply) -> None:
        """Raise where nobody has reached the server for too long."""
        assert self._lost is not None
        if asyncio.get_running_loop().time() - self._lost >= self._limits.patience:
            what = f"{self._name} was not reached for {self._limits.patience:g} s ({self._what(reply)})"
            self._stop(f"{what}; start it, then the same command resumes")

    def _stop(self, why: str) -> None:
        self._stopped = why
        raise ServerDownError(why)

    def _wait(self, reply: Reply, attempt: int, bits: int) -> float:
        """Seconds until the next attempt: doubled each time, spread by keyed bits, at least what the server asks."""
        spread = 0.5 + 0.5 * float(fractions(item_hash(np.array([bits], np.uint64), np.array([attempt], np.uint64)))[0])
        longest = min(LONGEST_WAIT, self._limits.patience / 4)
        wait = min(longest, self._limits.backoff * 2.0 ** min(attempt, 30)) * spread
        return min(LONGEST_WAIT, max(wait, reply.retry_after or 0.0))

    async def _check(self, reply: Reply) -> None:
        """Note that the server was reached; raise where it can never answer as it is set up."""
        self._lost = None if reply.is_reached else self._lost or asyncio.get_running_loop().time()
        if reply.status in (401, 403):
            how = "the key is not accepted" if self._key else "it wants a key: write server.api_key_env"
            raise self._setup(f"{self._name} answers {reply.status}: {how}")
        if 300 <= reply.status < 400:
            raise self._setup(f"{self._name} answers {reply.status}, a redirect; write the address that it leads to")
        if reply.status in (404, 405):
            known = await self._models()
            has = f"it serves {known}" if known else "write its address up to /v1, and the model as the server names it"
            raise self._setup(f"{self._name} answers {self._what(reply)}: no such address or model; {has}")

    def _setup(self, why: str) -> PairsieveError:
        self._stopped = self._stopped or why
        return AccessError(why)

    async def _models(self) -> str:
        """Names of the models that the server lists; empty where it does not."""
        reply = await self._send("GET", "/models", None)
        try:
            found = json.loads(reply.body)["data"] if reply.status == 200 else []
            names = [str(one["id"])[:100] for one in found[:5]]
        except (ValueError, KeyError, TypeError, RecursionError):
            return ""
        return ", ".join(repr(self._redacted(name)) for name in names)

    @property
    def _name(self) -> str:
        return f"server {self._url}, model {self._model!r}"

    def _what(self, reply: Reply) -> str:
        """One line about a reply, without the key that a server might repeat."""
        if reply.why:
            return reply.why
        message = self._redacted(said(reply.body)) if reply.status != 200 else "no answer of a chat server"
        return f"HTTP {reply.status}{': ' if message else ''}{message}"

    def _redacted(self, text: str) -> str:
        return text.replace(self._key, "***") if self._key else text

    async def _post(self, body: dict[str, Any]) -> Reply:
        return await self._send("POST", "/chat/completions", json.dumps(body).encode())

    async def _send(self, method: str, path: str, body: bytes | None) -> Reply:
        """One attempt; any failure becomes a reply."""
        assert self._session is not None
        url = URL(self._url + path, encoded=True)
        headers = {"Content-Type": "application/json"} if body else {}
        try:
            async with (
                asyncio.timeout(self._limits.timeout),
                self._session.request(method, url, data=body, headers=headers, allow_redirects=False) as answer,
            ):
                return await _read(answer)
        except Exception as error:  # one request must not end the others
            return _failure(error, self._limits.timeout)


def _session(key: str | None, limits: Limits) -> aiohttp.ClientSession:
    """It must be made inside the running loop."""
    headers = {"User-Agent": "pairsieve", "Accept": "application/json", "Accept-Encoding": "identity"}
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, ssl=ssl.create_default_context()),
        cookie_jar=aiohttp.DummyCookieJar(),
        headers=headers | ({"Authorization": f"Bearer {key}"} if key else {}),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=min(CONNECT_SECONDS, limits.timeout)),
        auto_decompress=False,
        trust_env=False,
    )


async def _read(answer: aiohttp.ClientResponse) -> Reply:
    """The body, up to its greatest size."""
    body = bytearray()
    async for part in answer.content.iter_chunked(65536):
        body += part
        if len(body) > MOST_ANSWER:
            answer.close()
            return Reply(answer.status, code=ServerCode.GARBAGE, why=f"an answer of more than {MOST_ANSWER} bytes")
    return Reply(answer.status, bytes(body), retry_after=retry_after(answer.headers.get("Retry-After", "")))


_SECONDS = re.compile(r"\d{1,7}(\.\d{1,6})?")


def retry_after(text: str) -> float | None:
    """Seconds that a server asks to wait, as a number or as a date (RFC 9110); None where it says neither."""
    text = text.strip()
    if _SECONDS.fullmatch(text):
        return float(text)
    try:
        return max(0.0, (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError, OverflowError):  # no date, or one without a zone
        return None


def _failure(error: Exception, timeout: float) -> Reply:
    """The reply that an exception of the client stands for; never its text, which may hold what a stranger sent."""
    if isinstance(error, aiohttp.ConnectionTimeoutError | aiohttp.ClientConnectorError):
        why = error.os_error.strerror if isinstance(error, aiohttp.ClientConnectorError) else "time-out"
        return Reply(code=ServerCode.ERROR, why=f"no connection: {why or type(error).__name__}", is_reached=False)
    if isinstance(error, TimeoutError):
        return Reply(code=ServerCode.TIMEOUT, why=f"no answer within {timeout:g} s")
    return Reply(code=ServerCode.ERROR, why=f"connection broken: {type(error).__name__}")
