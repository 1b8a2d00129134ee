"""HTTP/1.1 requests in an asyncio loop, over libcurl: an answer after its header, then its body part by part.

Fetching 62 KB over a new connection takes 0.35 CPU-ms with all limits and guards (aiohttp: 0.62).  Of the environment
only ``SSL_CERT_FILE`` and ``SSLKEYLOGFILE`` count: no proxies, no ``.netrc``; no cookies, no inflating, no redirects
are followed.  Addresses come from ``Names``, and every connection is asked of ``Guard``, with the address it is about
to be made to.  A kept connection that the server has closed meanwhile is replaced by libcurl, at most five times a
request; an answer that a server sends ahead over one counts as that to the next URL of this host.
"""

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from ipaddress import ip_address
from types import TracebackType
from typing import Any

import pycurl
from yarl import URL

from pairsieve.filters._addresses import MARK, AddressInfo, Guard
from pairsieve.filters._authorities import authorities
from pairsieve.filters._codes import Code
from pairsieve.filters._host_names import Names
from pairsieve.filters._http_parts import Headers, Part, append
from pairsieve.filters._turns import Turn

AHEAD = 131_072
"""Bytes of a body that are taken from the connection before they are read."""
STALE = 5
"""Kept connections that one request may find closed: libcurl's own limit."""
KEPT_FOR = 15
"""Seconds for which an idle connection is kept."""
_CODES = {
    pycurl.E_URL_MALFORMAT: Code.BAD_URL,
    pycurl.E_COULDNT_RESOLVE_HOST: Code.DNS_FAILURE,
    pycurl.E_COULDNT_RESOLVE_PROXY: Code.DNS_FAILURE,
    pycurl.E_OPERATION_TIMEDOUT: Code.TIMEOUT,
    **dict.fromkeys(
        (
            pycurl.E_COULDNT_CONNECT,
            pycurl.E_PARTIAL_FILE,
            pycurl.E_GOT_NOTHING,
            pycurl.E_SEND_ERROR,
            pycurl.E_RECV_ERROR,
        ),
        Code.CONNECTION_FAILED,
    ),
    **dict.fromkeys(
        (
            pycurl.E_SSL_CONNECT_ERROR,
            pycurl.E_PEER_FAILED_VERIFICATION,
            pycurl.E_SSL_CERTPROBLEM,
            pycurl.E_SSL_CIPHER,
            pycurl.E_SSL_CACERT_BADFILE,
            pycurl.E_SSL_ISSUER_ERROR,
            pycurl.E_SSL_INVALIDCERTSTATUS,
        ),
        Code.TLS_FAILURE,
    ),
}

_GROUPS = "X25519:P-256:X448:P-384:P-521:ffdhe2048:ffdhe3072"
"""OpenSSL's own key exchanges but those that withstand quantum computers, which pictures that anybody may see need not:
they take 0.1 CPU-ms and a kilobyte of every first message."""
_CUT = ("Recv failure", "Send failure", "SSL_ERROR_SYSCALL", "unexpected eof")
"""What libcurl says of a handshake that the network ended, for which it has no number of its own."""


class RequestError(Exception):
    """No answer, or not all of its body; ``code`` says what a table records."""

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(message)
        self.code = code


class Answer:
    """A request under way: its status and header, and its body in parts.  To be closed; a block does that."""

    def __init__(self, session: "Session", curl: pycurl.Curl, url: URL, turn: Turn) -> None:
        self.url, self._turn = url, turn
        self.status = 0
        self.sent = 0  # requests that were sent for this answer: more than one where kept connections were closed
        self._session, self._curl = session, curl
        self._lines: list[bytes] = []
        self._parts: list[Part] = []
        self._size = 0
        self._has_head = self._is_paused = self._is_over = False
        self._begins = True  # the next line is that of a status
        self._error: BaseException | None = None
        self._refused: str | None = None
        self._allowed = False  # whether the address of any connection was
        self._waiter: asyncio.Future[None] | None = None
        self._done: asyncio.Future[pycurl.Curl] | None = None
        self._headers: Headers | None = None
        self._lacking = ""  # why the system gave no socket

    @property
    def headers(self) -> Headers:
        """What the header says."""
        if self._headers is None:
            self._headers = Headers(self._lines)
        return self._headers

    @property
    def content_length(self) -> int:
        """Bytes of the body that are announced, 0 where none are."""
        text = self.headers.get("Content-Length")[:19]  # some server may send more digits than Python reads
        return int(text) if text.isascii() and text.isdigit() and not self.headers.get("Transfer-Encoding") else 0

    async def begin(self) -> None:
        """Ask, and wait for the header; raises ``RequestError``."""
        self._done = self._session.multi.add_handle(self._curl)
        self._done.add_done_callback(self._ended)
        while not self._has_head:
            if self._is_over:
                raise self._failure()
            await self._news()

    async def parts(self) -> list[Part]:
        """What came of the body since, none at its end; raises ``RequestError``."""
        while not self._parts:
            if self._is_over:
                if self._error is not None:
                    raise self._failure()
                return []
            await self._news()
        found, self._parts, self._size = self._parts, [], 0
        if self._is_paused:
            self._is_paused = False
            with suppress(pycurl.error):  # it has ended meanwhile, as the next call tells
                self._curl.pause(pycurl.PAUSE_CONT)
        return found

    def close(self) -> None:
        """Give the connection back, or cut it where the body is not at its end."""
        if self._done is not None and not self._is_over:
            self._done.remove_done_callback(self._ended)
            if not self._done.done():
                self._session.multi.remove_handle(self._curl)
            elif not self._done.cancelled():
                self._done.exception()  # nobody else will look at it
        self._parts = []
        # a tick later: callbacks of the future that ends here would take a new request of this handle for its own
        asyncio.get_running_loop().call_soon(self._session.give_back, self._curl)

    async def _news(self) -> None:
        """Wait until something came; raises ``RequestError`` after ``silence`` seconds without, once connected."""
        loop = asyncio.get_running_loop()
        self._waiter = loop.create_future()
        timer = loop.call_later(self._session.silence, self._silent)
        try:
            await self._waiter
        finally:
            timer.cancel()
            self._waiter = None

    def _silent(self) -> None:
        if self.sent:
            self._is_over_with(RequestError(Code.TIMEOUT, f"nothing came for {self._session.silence:g} s"))
        self._wake()

    def _is_over_with(self, error: BaseException) -> None:
        """Make an end before libcurl does."""
        if self._done is not None and not self._done.done():
            self._done.remove_done_callback(self._ended)
            self._session.multi.remove_handle(self._curl)
        self._error, self._is_over = error, True

    def _failure(self) -> BaseException:
        if isinstance(self._error, pycurl.error):
            number, text = self._error.args
            if self._refused and not self._allowed:
                return RequestError(Code.PRIVATE_ADDRESS, f"{MARK}: {self._refused}")
            code = _CODES.get(number, Code.BAD_RESPONSE)
            if number == pycurl.E_SSL_CONNECT_ERROR and any(cut in text for cut in _CUT):
                code = Code.CONNECTION_FAILED
            lacking = "" if self._allowed or self.sent else self._lacking
            return RequestError(code, lacking or text or f"libcurl's error {number}")
        return self._error or RequestError(Code.CONNECTION_FAILED, "the header was not sent to its end")

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # libcurl calls these from within its own work: they must neither raise nor call it.

    def _ended(self, done: "asyncio.Future[pycurl.Curl]") -> None:
        self._is_over = True
        self._error = asyncio.CancelledError() if done.cancelled() else done.exception()
        self._wake()

    def sends(self, *_: Any) -> int:
        """A request goes out, over a connection that stands."""
        self.sent += 1
        self._turn.requests += self.sent > 1
        self._lines.clear()  # a proxy's own
        self._begins = True
        return int(pycurl.PREREQFUNC_OK)

    def takes_line(self, line: bytes) -> None:
        """A line of the header."""
        if self._has_head or not self.sent:
            return  # trailers; a proxy's own
        if not line.strip():
            self._begins = True
            if self.status >= 200 or not self.status:
                self._has_head = True
                self._wake()
        elif self._begins:  # later lines may look like one
            self._begins = False
            self._lines.clear()
            self.status = _status(line)
        else:
            self._lines.append(line)

    def takes_part(self, part: bytes) -> int | None:
        """Some bytes of the body, or none of them for now."""
        if self._size >= AHEAD:
            self._is_paused = True
            return int(pycurl.WRITEFUNC_PAUSE)
        append(self._parts, part)
        self._size += len(part)
        self._wake()
        return None

    def opens(self, _: int, target: Any) -> Any:
        """The socket of a connection, where its address is allowed; libcurl has a duplicate of its own."""
        try:
            opened = self._session.guard((target[0], target[1], target[2], "", target[3]))
        except OSError as error:
            if MARK in str(error):
                self._refused = str(target[3][0])
            else:
                self._lacking = f"no socket: {error.strerror}"
            return pycurl.SOCKET_BAD
        self._allowed = True
        return _Lent(opened)

    async def __aenter__(self) -> "Answer":
        """The answer."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        """Close."""
        self.close()


class _Lent:
    """A socket that is closed once pycurl has made its duplicate, and lets go of this."""

    def __init__(self, opened: socket.socket) -> None:
        self._socket = opened
        self.fileno = opened.fileno

    def __del__(self) -> None:
        self._socket.close()


class Session:
    """Connections that are kept, and what every request has in common; to be made in the loop it is used in.

    ``connect_timeout`` and ``silence`` are seconds: for a connection to be made, and for which a server may send
    nothing.
    """

    def __init__(
        self, names: Names, guard: Guard, agent: str, connect_timeout: float, silence: float, concurrency: int
    ) -> None:
        self.multi = pycurl.AsyncCurlMulti()
        self.multi.setopt(pycurl.M_MAXCONNECTS, concurrency)  # kept ones and those in use: each is an open file
        self.guard: Callable[[AddressInfo], socket.socket] = guard
        self.silence = silence
        self._names, self._agent, self._connect_timeout = names, agent, connect_timeout
        self._free: list[pycurl.Curl] = []

    async def get(self, url: URL, turn: Turn, proxy: str | None = None) -> Answer:
        """Ask for a URL: its answer, once the header is there; raises ``RequestError``, ``OSError`` of the look-up.

        ``turn`` is told of every further request that takes the place of one over a closed connection.
        """
        lookup = None if proxy else await self._addresses(url)
        curl = self._free.pop() if self._free else self._new()
        answer = Answer(self, curl, url, turn)
        curl.setopt(pycurl.URL, str(url))
        curl.setopt(pycurl.PROXY, proxy or "")
        if lookup:
            curl.setopt(pycurl.RESOLVE, [lookup])
        else:
            curl.unsetopt(pycurl.RESOLVE)
        curl.setopt(pycurl.PREREQFUNCTION, answer.sends)
        curl.setopt(pycurl.HEADERFUNCTION, answer.takes_line)
        curl.setopt(pycurl.WRITEFUNCTION, answer.takes_part)
        curl.setopt(pycurl.OPENSOCKETFUNCTION, answer.opens)
        try:
            await answer.begin()
        except BaseException:
            answer.close()
            raise
        return answer

    async def _addresses(self, url: URL) -> str | None:
        """Host, port and addresses as libcurl takes them; None where the host is an address."""
        host = url.raw_host or ""
        if is_address(host):
            return None
        found = [f"[{a}]" if ":" in a else a for a in await self._names.addresses(host)]
        return f"+{host}:{url.port}:{','.join(found)}"

    def _new(self) -> pycurl.Curl:
        curl = pycurl.Curl()
        for option, value in (
            (pycurl.PROTOCOLS, pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS),
            (pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_1_1),
            (pycurl.HTTP09_ALLOWED, 0),
            (pycurl.FOLLOWLOCATION, 0),
            (pycurl.PATH_AS_IS, 1),
            (pycurl.USERAGENT, self._agent),
            (pycurl.HTTPHEADER, ["Accept: */*", "Accept-Encoding: identity"]),
            (pycurl.NOPROXY, ""),
            (pycurl.CONNECTTIMEOUT_MS, max(1, int(1000 * self._connect_timeout))),
            (pycurl.NOSIGNAL, 1),
            (pycurl.BUFFERSIZE, AHEAD),
            (pycurl.MAXAGE_CONN, KEPT_FOR),
            (pycurl.CAINFO, authorities()),
        ):
            curl.setopt(option, value)
        with suppress(pycurl.error):  # a libcurl over another library than OpenSSL has its own
            curl.setopt(pycurl.SSL_EC_CURVES, _GROUPS)
        return curl

    def give_back(self, curl: pycurl.Curl) -> None:
        """A handle that nothing is under way with."""
        self._free.append(curl)

    async def close(self) -> None:
        """Cut what is under way, and let go of all connections."""
        await self.multi.aclose()
        for curl in self._free:
            curl.close()


def _status(line: bytes) -> int:
    """The three digits of a line of a status; 0 where it has none: libcurl lets more pass."""
    words = line.split(None, 2)
    return int(words[1]) if len(words) > 1 and len(words[1]) == 3 and words[1].isdigit() else 0


@lru_cache(4096)
def is_address(host: str) -> bool:
    """Whether a host is an IP address and no name."""
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
