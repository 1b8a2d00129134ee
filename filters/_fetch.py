"""Fetch URLs that strangers chose: many at a time, each within a deadline and a size.

Only http and https, only to public addresses (``_addresses``), no proxies, no cookies, nothing
inflated, no body read that the site opted out of.  What goes wrong becomes a code, never an
exception.  At most ``concurrency`` bodies of ``max_bytes`` are in memory.  Each call makes one TLS
context (25 ms); names are looked up in up to ``concurrency`` threads, so that none waits for a dead one.
"""

import asyncio
import re
import ssl
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import aiohttp
from yarl import URL

from pairsieve.filters._addresses import MARK, Guard, Resolver
from pairsieve.filters._codes import RETRIED, Code, printable, status_code
from pairsieve.filters._headers import FORMATS, HEAD_BYTES, refusal
from pairsieve.filters._robots import opted_out

T = TypeVar("T")

LONGEST_URL = 8192
_PLAIN = re.compile(r"[A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=%-]*")  # sent as it stands: signed URLs break if requoted
_COMPRESSED = frozenset({"gzip", "x-gzip", "deflate", "br", "zstd", "compress", "x-compress"})


@dataclass(frozen=True)
class Policy:
    """What a fetch may do; times in seconds."""

    timeout: float = 20.0  # for one URL in all: look-up, redirects, body, retries
    connect_timeout: float = 10.0
    idle_timeout: float = 10.0  # between two reads
    retries: int = 0
    concurrency: int = 256
    max_bytes: int = 20_000_000
    max_redirects: int = 5
    user_agent: str = "pairsieve"  # its first word is also the name that opt-outs are addressed to
    networks: tuple[str, ...] = ()  # CIDR, reachable although not public
    disallowed: tuple[str, ...] = ("noai", "noimageai", "noindex", "noimageindex")
    formats: tuple[str, ...] = FORMATS

    @property
    def agent(self) -> str:
        """The product name in ``user_agent``."""
        return re.split(r"[/\s(]", self.user_agent.strip(), maxsplit=1)[0].lower()


@dataclass(frozen=True, slots=True)
class Fetched:
    """The outcome of one URL: ``body`` where ``code`` is success, and what is known of the answer."""

    code: Code
    body: bytes | None = None
    http_status: int | None = None
    final_url: str | None = None
    content_type: str | None = None
    error_message: str | None = None
    retry_after: float | None = None


def fetch_all(urls: Sequence[str | None], policy: Policy) -> list[Fetched]:
    """The outcome of every URL, in order, with all the bodies."""
    return fetch_each(urls, policy, lambda fetched: fetched)


def fetch_each(urls: Sequence[str | None], policy: Policy, use: Callable[[Fetched], T], threads: int = 1) -> list[T]:
    """``use`` of every outcome, in order; it runs in ``threads`` threads while others are fetched.

    A body is released when ``use`` returns, and a URL's successor waits for that: slow use slows
    fetching instead of filling memory.  ``use`` must not raise.
    """
    return _run(_each(urls, policy, use, threads))


def _run(work: Coroutine[Any, Any, T]) -> T:
    """Run to the end, in a thread of its own where this one already runs an event loop."""
    try:
        asyncio.get_running_loop()
        inside = True
    except RuntimeError:
        inside = False
    if not inside:
        return asyncio.run(work)
    with ThreadPoolExecutor(1, "fetch") as aside:
        return aside.submit(asyncio.run, work).result()


async def _each(urls: Sequence[str | None], policy: Policy, use: Callable[[Fetched], T], threads: int) -> list[T]:
    results: dict[int, T] = {}
    turns = iter(enumerate(urls))

    async def work(session: aiohttp.ClientSession, users: ThreadPoolExecutor) -> None:
        loop = asyncio.get_running_loop()
        for place, url in turns:
            results[place] = await loop.run_in_executor(users, use, await fetch(session, url, policy))

    resolver = Resolver(policy.concurrency)
    try:
        with ThreadPoolExecutor(threads, "use") as users:
            async with _session(policy, resolver) as session, asyncio.TaskGroup() as group:
                for _ in range(min(policy.concurrency, len(urls))):
                    group.create_task(work(session, users))
    finally:
        await resolver.close()
    return [results[place] for place in range(len(urls))]


def _session(policy: Policy, resolver: Resolver) -> aiohttp.ClientSession:
    """A session with every guard: it must be made inside the running loop."""
    connector = aiohttp.TCPConnector(
        limit=0,  # the number of workers limits; waiting here would count against the deadline
        ssl=ssl.create_default_context(),
        resolver=resolver,
        ttl_dns_cache=600,
        dns_cache_max_size=10_000,
        socket_factory=Guard(policy.networks),
    )
    return aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"User-Agent": policy.user_agent, "Accept": "*/*", "Accept-Encoding": "identity"},
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=policy.connect_timeout, sock_read=policy.idle_timeout),
        auto_decompress=False,
        trust_env=False,
    )


async def fetch(session: aiohttp.ClientSession, url: str | None, policy: Policy) -> Fetched:
    """The outcome of one URL, within the deadline."""
    target = parse(url)
    if isinstance(target, Fetched):
        return target
    try:
        async with asyncio.timeout(policy.timeout):
            return await _attempts(session, target, policy)
    except TimeoutError:
        return Fetched(Code.TIMEOUT, error_message=f"not done after {policy.timeout:g} s")


def parse(url: str | None) -> URL | Fetched:
    """The URL to ask for, or why there is none."""
    text = (url or "").strip()
    if not text:
        return Fetched(Code.NULL_URL, error_message="no URL")
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]*):", text)
    if scheme and scheme[1].lower() not in ("http", "https"):
        return Fetched(Code.BAD_SCHEME, error_message="only http and https")
    if not scheme or len(text) > LONGEST_URL or not text.replace(" ", "").isprintable():
        return Fetched(Code.BAD_URL, error_message="no absolute URL, too long, or control characters")
    try:
        parsed = URL(text, encoded=_PLAIN.fullmatch(text) is not None)
        # yarl reads a plain URL's parts only when asked for them
        usable = parsed.raw_host and parsed.port and parsed.raw_user is None and parsed.raw_password is None
    except ValueError as error:
        return Fetched(Code.BAD_URL, error_message=printable(str(error)))
    return parsed if usable else Fetched(Code.BAD_URL, error_message="no host, no port, or a user name")


async def _attempts(session: aiohttp.ClientSession, url: URL, policy: Policy) -> Fetched:
    """Ask, and ask again while that may help and the deadline leaves time to wait."""
    loop = asyncio.get_running_loop()
    end = loop.time() + policy.timeout
    for attempt in range(policy.retries + 1):
        fetched = await _attempt(session, url, policy)
        wait = fetched.retry_after if fetched.retry_after is not None else 0.5 * 2**attempt
        if fetched.code not in RETRIED or attempt == policy.retries or loop.time() + wait >= end:
            break
        await asyncio.sleep(wait)
    return fetched


async def _attempt(session: aiohttp.ClientSession, url: URL, policy: Policy) -> Fetched:
    """One request with its redirects; any failure becomes an outcome."""
    try:
        # aiohttp's count includes the redirect that it refuses, and 0 means no limit.
        async with session.get(url, max_redirects=policy.max_redirects + 1) as answer:
            try:
                return await _read(answer, policy)
            finally:
                if not answer.content.at_eof():
                    answer.close()  # not to be read to its end for the sake of reuse
    except Exception as error:  # one URL must not end the batch
        return _failure(error)


async def _read(answer: aiohttp.ClientResponse, policy: Policy) -> Fetched:
    """The body, unless the header or its first bytes rule it out."""
    known = Fetched(
        code=Code.SUCCESS,
        http_status=answer.status,
        final_url=printable(str(answer.url), LONGEST_URL),
        content_type=printable(answer.headers.get("Content-Type", "")) or None,
    )
    refused = _refused(answer, policy)
    if refused:
        return replace(known, code=refused[0], error_message=refused[1], retry_after=_retry_after(answer))
    body = await _body(answer.content, policy)
    if isinstance(body, bytes):
        return replace(known, body=body)
    return replace(known, code=body, error_message=_BODIES[body].format(cap=policy.max_bytes))


_BODIES = {
    Code.EMPTY_BODY: "no bytes in the body",
    Code.BODY_TOO_LARGE: "more than {cap} bytes",
    Code.NOT_AN_IMAGE: "the first bytes are no image's",
    Code.IMAGE_FORMAT_REFUSED: "an image format that is not decoded",
}


def _refused(answer: aiohttp.ClientResponse, policy: Policy) -> tuple[Code, str] | None:
    """What the header rules out before the body is read: code and message."""
    code = status_code(answer.status)
    if code:
        return code, f"HTTP status {answer.status}"
    directive = opted_out(answer.headers.getall("X-Robots-Tag", ()), policy.agent, policy.disallowed)
    if directive:
        return Code.OPTED_OUT, f"X-Robots-Tag: {printable(directive, 40)}"
    encoding = {e.strip().lower() for e in answer.headers.get("Content-Encoding", "").split(",")}
    if encoding & _COMPRESSED:
        return Code.COMPRESSED_BODY, "the body is compressed, which was not asked for"
    if (answer.content_length or 0) > policy.max_bytes:
        return Code.BODY_TOO_LARGE, f"more than {policy.max_bytes} bytes announced"
    return None


async def _body(content: aiohttp.StreamReader, policy: Policy) -> bytes | Code:
    """All bytes, or the code of what is wrong with them, as early as it shows."""
    body = bytearray()
    looked = False
    async for part in content.iter_chunked(65536):
        body += part
        if len(body) > policy.max_bytes:
            return Code.BODY_TOO_LARGE
        if not looked and len(body) >= HEAD_BYTES:
            looked = True
            if refused := refusal(bytes(body[:HEAD_BYTES]), policy.formats):
                return refused
    if not body:
        return Code.EMPTY_BODY
    return bytes(body) if looked else refusal(bytes(body), policy.formats) or bytes(body)


def _retry_after(answer: aiohttp.ClientResponse) -> float | None:
    """Seconds that the server asks to wait; a date counts as not given."""
    text = answer.headers.get("Retry-After", "").strip()
    return float(text) if text.isascii() and text.isdigit() and len(text) < 8 else None


_FAILURES: tuple[tuple[type[Exception], Code], ...] = (  # the first that fits; TimeoutError is an OSError
    (aiohttp.TooManyRedirects, Code.TOO_MANY_REDIRECTS),
    (aiohttp.NonHttpUrlClientError, Code.BAD_SCHEME),  # of a redirect too
    (aiohttp.InvalidURL, Code.BAD_URL),
    (aiohttp.ClientConnectorDNSError, Code.DNS_FAILURE),
    (aiohttp.ClientSSLError, Code.TLS_FAILURE),
    (ssl.SSLError, Code.TLS_FAILURE),
    (TimeoutError, Code.TIMEOUT),
    (aiohttp.ClientPayloadError, Code.CONNECTION_FAILED),
    (aiohttp.ClientConnectionError, Code.CONNECTION_FAILED),
    (OSError, Code.CONNECTION_FAILED),
    (UnicodeError, Code.BAD_URL),  # a host name that cannot be encoded
)


def _failure(error: Exception) -> Fetched:
    """The outcome that an exception of the client stands for."""
    text = str(error)
    if isinstance(error, OSError) and MARK in text:
        return Fetched(Code.PRIVATE_ADDRESS, error_message=MARK)
    code = next((c for kind, c in _FAILURES if isinstance(error, kind)), Code.BAD_RESPONSE)
    return Fetched(code, error_message=printable(f"{type(error).__name__}: {text}"))
