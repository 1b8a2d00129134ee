"""Fetch one URL that a stranger chose: within a deadline and a size, politely, to a public address.

Only http and https, only to public addresses (``_addresses``), no cookies, no credentials, nothing inflated, no
body read that the site opted out of.  Redirects are followed here, one request after the other, so that each is
parsed, checked and counted against its own host's limits like the first.  What goes wrong becomes a code, never
an exception.  ``_client`` runs many of these at a time.
"""

import asyncio
import re
import socket
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from urllib.request import getproxies, proxy_bypass

from yarl import URL

from pairsieve.filters._codes import RETRIED, Code, printable, status_code
from pairsieve.filters._headers import FORMATS, HEAD_BYTES, refusal
from pairsieve.filters._host_names import BadNameError
from pairsieve.filters._http import Answer, RequestError, Session
from pairsieve.filters._http_parts import Part, append
from pairsieve.filters._robots import opted_out
from pairsieve.filters._robots_txt import RobotsFiles
from pairsieve.filters._turns import Held, LeftError, Memory, Turn

LONGEST_URL = 8192
SHARE = 65_536
SHARES = 1_048_576
"""Bytes of memory that a body asks for at once: those announced, but no more than ``SHARES``; else ``SHARE``."""
FIRST_WAIT = 0.5
"""Seconds before the first further attempt; each wait is twice the one before."""
_PLAIN = re.compile(r"[A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=%-]*")  # sent as it stands: signed URLs break if requoted
_COMPRESSED = frozenset({"gzip", "x-gzip", "deflate", "br", "zstd", "compress", "x-compress"})
_REDIRECTS = frozenset({301, 302, 303, 307, 308})


@dataclass(frozen=True)
class Policy:
    """What a fetch may do; times in seconds."""

    timeout: float = 20.0  # for one URL in all, from its first turn: look-up, redirects, body, retries
    connect_timeout: float = 10.0
    low_speed_limit: float = 1000.0  # bytes a second
    low_speed_time: float = 10.0  # so long a body may come more slowly, or an answer not at all
    retries: int = 0
    concurrency: int = 256
    max_bytes: int = 20_000_000
    max_memory: int = 1_000_000_000  # bytes of all bodies under way; one more body may go beyond it
    max_redirects: int = 5
    user_agent: str = "pairsieve"  # its words before any bracket are the names that opt-outs may address
    networks: tuple[str, ...] = ()  # CIDR, reachable although not public
    disallowed: tuple[str, ...] = ("noai", "noimageai", "noindex", "noimageindex")
    formats: tuple[str, ...] = FORMATS
    name_servers: tuple[str, ...] = ()  # asked directly; none: as the system looks names up
    host_concurrency: int | None = 32  # connections to one host, of all workers of this machine
    host_rate: float | None = None  # requests a second to one host, of all workers
    max_host_failures: int | None = None  # URLs in a row from which a host's others are given up
    robots_txt: bool = False
    environment_proxies: bool = False

    @property
    def agent(self) -> str:
        """The first product name in ``user_agent``."""
        return re.split(r"[/\s(]", self.user_agent.strip(), maxsplit=1)[0].lower()

    @property
    def agents(self) -> tuple[str, ...]:
        """All product names in ``user_agent``."""
        products = self.user_agent.partition("(")[0].split() or [self.agent]
        return tuple(product.partition("/")[0].lower() for product in products)


@dataclass(frozen=True, slots=True)
class Fetched:
    """The outcome of one URL: ``body`` where ``code`` is success, and what is known of the answer.

    ``host``, ``seconds`` from its first turn to its end and ``requests`` are for reports alone.
    """

    code: Code
    body: bytes | None = None
    http_status: int | None = None
    final_url: str | None = None
    content_type: str | None = None
    error_message: str | None = None
    retry_after: float | None = None
    host: str = ""
    seconds: float = 0.0
    requests: int = 0


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
        # yarl reads a plain URL's parts only when asked for them; some punycode has no name
        usable = parsed.host and parsed.port and parsed.raw_user is None and parsed.raw_password is None
    except (ValueError, IndexError) as error:  # yarl's own, of brackets and an @ behind them
        return Fetched(Code.BAD_URL, error_message=printable(str(error)))
    return parsed if usable else Fetched(Code.BAD_URL, error_message="no host, no port, or a user name")


class Fetcher:
    """Fetches URLs over one session."""

    def __init__(self, session: Session, policy: Policy) -> None:
        self._session, self._policy = session, policy
        self._memory = Memory(policy.max_memory)
        self._robots = RobotsFiles(self._text, policy.agent) if policy.robots_txt else None
        self._proxies = getproxies() if policy.environment_proxies else {}

    def share(self) -> Held:
        """A share of the memory for one body; leaving its block says that the body is gone."""
        return Held(self._memory)

    async def fetch(self, url: URL, turn: Turn, held: Held, patience: float | None = None) -> Fetched:
        """The outcome of one URL, within the deadline; raises ``LeftError`` after ``patience`` seconds.

        Where ``patience`` is no less than the deadline it changes nothing.  The deadline stands still while the URL
        waits until a host may be asked further.
        """
        limit = self._policy.timeout
        soft = limit if patience is None else min(patience, limit)
        began = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(soft) as deadline:
                turn.deadline = deadline if soft == limit else None
                found = await self._attempts(url, turn, held, began + soft)
        except TimeoutError:
            if soft < limit:
                raise LeftError from None
            found = Fetched(Code.TIMEOUT, error_message=f"not done after {limit:g} s")
        return replace(
            found,
            host=url.host or "",
            seconds=asyncio.get_running_loop().time() - began,
            requests=turn.requests,
        )

    async def _attempts(self, url: URL, turn: Turn, held: Held, until: float) -> Fetched:
        """Ask, and ask again while that may help and the deadline leaves time to wait."""
        loop = asyncio.get_running_loop()
        end = loop.time() + self._policy.timeout
        for attempt in range(self._policy.retries + 1):
            fetched = await self._attempt(url, turn, held)
            asked = fetched.retry_after
            if asked is not None and asked < self._policy.timeout:
                turn.pause_host(asked)
            wake = loop.time() + (FIRST_WAIT * 2**attempt if asked is None else asked)
            if fetched.code not in RETRIED or attempt == self._policy.retries or wake >= end + turn.waited:
                break
            if wake >= until + turn.waited:
                raise LeftError
            await asyncio.sleep(wake - loop.time())
        return fetched

    async def _attempt(self, url: URL, turn: Turn, held: Held) -> Fetched:
        """One request with its redirects; any failure becomes an outcome."""
        try:
            for _ in range(self._policy.max_redirects + 1):
                refused = await self._robots.refusal(url, turn) if self._robots else None
                if refused:
                    return Fetched(refused[0], error_message=refused[1])
                found = await self._ask(url, turn, held)
                if isinstance(found, Fetched):
                    return found
                url = found
            return Fetched(
                Code.TOO_MANY_REDIRECTS,
                final_url=printable(str(url), LONGEST_URL),
                error_message=f"more than {self._policy.max_redirects} redirects",
            )
        except Exception as error:  # one URL must not end the batch
            return _failure(error)

    async def _ask(self, url: URL, turn: Turn, held: Held) -> Fetched | URL:
        """One request: its outcome, or where it leads on to."""
        await turn.ask(url.host or "")
        async with await self._session.get(url, turn, self._proxy(url)) as answer:
            leads_to = _redirect(answer)
            return await self._read(answer, held) if leads_to is None else leads_to

    def _proxy(self, url: URL) -> str | None:
        """The environment's proxy for this URL, where proxies were asked for."""
        if not self._proxies or proxy_bypass(url.host or "", self._proxies):
            return None
        return self._proxies.get(url.scheme)

    async def _read(self, answer: Answer, held: Held) -> Fetched:
        """The body, unless the header or its first bytes rule it out."""
        policy = self._policy
        known = Fetched(
            code=Code.SUCCESS,
            http_status=answer.status,
            final_url=printable(str(answer.url), LONGEST_URL),
            content_type=printable(answer.headers.get("Content-Type")) or None,
        )
        refused = _refused(answer, policy)
        if refused:
            return replace(known, code=refused[0], error_message=refused[1], retry_after=_retry_after(answer))
        body = await _body(answer, held, policy)
        if isinstance(body, bytes):
            return replace(known, body=body)
        return replace(known, code=body, error_message=_BODIES[body].format(policy=policy))

    async def _text(self, url: URL, turn: Turn, most: int) -> tuple[int, bytes]:
        """Status and first bytes of a small text, after redirects; for robots.txt."""
        for _ in range(self._policy.max_redirects + 1):
            await turn.ask(url.host or "")
            async with await self._session.get(url, turn, self._proxy(url)) as answer:
                leads_to = _redirect(answer)
                if leads_to is None:
                    return answer.status, await _first_bytes(answer, most)
            if isinstance(leads_to, Fetched):
                break
            url = leads_to
        return 404, b""


def _redirect(answer: Answer) -> URL | Fetched | None:
    """Where an answer leads on to, parsed like a URL of the list; None where it does not."""
    if answer.status not in _REDIRECTS or not (text := answer.headers.get("Location")):
        return None
    try:
        text = str(answer.url.join(URL(text, encoded=_PLAIN.fullmatch(text) is not None)))
    except ValueError as error:
        return Fetched(Code.BAD_URL, http_status=answer.status, error_message=printable(f"redirect: {error}"))
    found = parse(text)
    if isinstance(found, Fetched):
        return replace(found, http_status=answer.status, error_message=f"redirect: {found.error_message}")
    return found


_BODIES = {
    Code.EMPTY_BODY: "no bytes in the body",
    Code.BODY_TOO_LARGE: "more than {policy.max_bytes} bytes",
    Code.TOO_SLOW: "less than {policy.low_speed_limit:g} bytes a second for {policy.low_speed_time:g} s",
    Code.NOT_AN_IMAGE: "the first bytes are no image's",
    Code.IMAGE_FORMAT_REFUSED: "an image format that is not decoded",
}


def _refused(answer: Answer, policy: Policy) -> tuple[Code, str] | None:
    """What the header rules out before the body is read: code and message."""
    code = status_code(answer.status)
    if code:
        return code, f"HTTP status {answer.status}"
    if policy.disallowed and (lines := answer.headers.all("X-Robots-Tag")):
        directive = opted_out(lines, policy.agents, policy.disallowed)
        if directive:
            return Code.OPTED_OUT, f"X-Robots-Tag: {printable(directive, 40)}"
    encoding = {e.strip().lower() for e in answer.headers.get("Content-Encoding").split(",")}
    if encoding & _COMPRESSED:
        return Code.COMPRESSED_BODY, "the body is compressed, which was not asked for"
    if answer.content_length > policy.max_bytes:
        return Code.BODY_TOO_LARGE, f"more than {policy.max_bytes} bytes announced"
    return None


async def _body(answer: Answer, held: Held, policy: Policy) -> bytes | Code:
    """All bytes, or the code of what is wrong with them, as early as it shows.

    Waiting for memory is not the server's slowness.
    """
    clock = asyncio.get_running_loop().time
    body: list[Part] = []
    announced, size = answer.content_length, 0
    since, mark, looked = clock(), 0, False
    while parts := await answer.parts():
        for part in parts:
            append(body, part)
        size += sum(map(len, parts))
        if size > policy.max_bytes:
            return Code.BODY_TOO_LARGE
        if size > held.size:
            asked = clock()
            await held.grow(max(size, min(announced or size + SHARE, size + SHARES)) - held.size)
            since += clock() - asked
        if not looked and size >= HEAD_BYTES:
            looked = True
            if refused := refusal(_head(body), policy.formats):
                return refused
        if (lasted := clock() - since) >= policy.low_speed_time:
            if size - mark < policy.low_speed_limit * lasted:
                return Code.TOO_SLOW
            since, mark = clock(), size
    if not size:
        return Code.EMPTY_BODY
    return (None if looked else refusal(_head(body), policy.formats)) or b"".join(body)


def _head(parts: list[Part]) -> bytes:
    """The first bytes, as many as decide the format."""
    return bytes(parts[0][:HEAD_BYTES] if len(parts[0]) >= HEAD_BYTES else b"".join(parts)[:HEAD_BYTES])


async def _first_bytes(answer: Answer, most: int) -> bytes:
    """At most so many bytes."""
    found = b""
    while len(found) < most and (parts := await answer.parts()):
        found += b"".join(parts)
    return found[:most]


def _retry_after(answer: Answer) -> float | None:
    """Seconds that the server asks to wait, as a number or until a date; None where it does not."""
    text = answer.headers.get("Retry-After")
    if text.isascii() and text.isdigit():
        return float(text) if len(text) < 8 else float(10**8)
    try:
        until = parsedate_to_datetime(text)
        return max(0.0, (until.replace(tzinfo=until.tzinfo or UTC) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError, IndexError, OverflowError):  # whatever a stranger calls a date
        return None


_FAILURES: tuple[tuple[type[Exception], Code], ...] = (  # the first that fits; they are OSErrors and ValueErrors
    (socket.gaierror, Code.DNS_FAILURE),
    (TimeoutError, Code.TIMEOUT),
    (OSError, Code.DNS_FAILURE),
    (BadNameError, Code.BAD_URL),
    (UnicodeError, Code.BAD_URL),  # a host name that cannot be encoded
)


def _failure(error: Exception) -> Fetched:
    """The outcome that an exception of the client stands for."""
    if isinstance(error, RequestError):
        return Fetched(error.code, error_message=printable(str(error)))
    code = next((c for kind, c in _FAILURES if isinstance(error, kind)), Code.BAD_RESPONSE)
    return Fetched(code, error_message=printable(f"{type(error).__name__}: {error}"))
