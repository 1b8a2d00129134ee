"""Who may talk to the explorer: whoever holds the token of its address, by its own name, from its own page.

Any page in the browser, and any user of the machine, can reach a port of this machine.  So each request needs the token
(in the address that is printed, then in a cookie that other sites' requests do not carry), a Host that no foreign name
resolves to (DNS rebinding), and no sign of another origin.  Nothing may be loaded from elsewhere, or framed.
"""

import hmac
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias
from urllib.parse import parse_qs

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

MOST_BODY = 65_536
_CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "content-security-policy": _CSP,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-store",
}


class Guard:
    """Around an ASGI application; answers itself what may not pass: 403, 411, 413, 421."""

    def __init__(self, app: App, token: str, port: int) -> None:
        """``port`` is the one that the server listens on."""
        self._app, self._token, self._port = app, token, port
        self._hosts = {f"{name}:{port}" for name in ("127.0.0.1", "localhost")}
        self._cookie = f"pairsieve_{port}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check the request, and put the headers on the answer."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        brings = self._brings_token(scope)
        refused = self._refusal(scope, headers, brings)
        cookie = f"{self._cookie}={self._token}; HttpOnly; SameSite=Strict; Path=/" if brings else None
        guarded = _with_headers(send, cookie if refused is None else None)
        if refused is None:
            await self._app(scope, receive, guarded)
        else:
            await _say(guarded, *refused)

    def _refusal(self, scope: Scope, headers: dict[str, str], brings: bool) -> tuple[int, str] | None:
        if headers.get("host", "") not in self._hosts:
            return 421, "this is pairsieve explore; open the address that it printed"
        if not (brings or self._knows_cookie(headers.get("cookie", ""))):
            return 403, "open the address that pairsieve explore printed: it holds the token"
        if headers.get("origin", f"http://{headers['host']}") != f"http://{headers['host']}":
            return 403, "not from another site"
        is_page = scope["method"] == "GET" and scope["path"] == "/"  # a link to the page may lie anywhere
        if not is_page and headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            return 403, "not from another site"
        return _body_refusal(scope, headers)

    def _brings_token(self, scope: Scope) -> bool:
        """Whether the address of the page holds the token."""
        if scope["path"] != "/" or scope["method"] != "GET":
            return False
        given = parse_qs(scope.get("query_string", b"").decode("latin-1")).get("token", [""])[0]
        return self._is_token(given)

    def _knows_cookie(self, text: str) -> bool:
        """Whether it is among the cookies, of which any program on another port here may have set some as it likes."""
        found = (part.strip().partition("=") for part in text.split(";"))
        return any(name == self._cookie and self._is_token(value) for name, _, value in found)

    def _is_token(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(), self._token.encode())


def _body_refusal(scope: Scope, headers: dict[str, str]) -> tuple[int, str] | None:
    if scope["method"] in ("GET", "HEAD"):
        return None
    length = headers.get("content-length", "")
    if not length.isdigit():
        return 411, "say how long the body is"
    if int(length) > MOST_BODY:
        return 413, f"more than {MOST_BODY:,} bytes; write a shorter condition"
    if headers.get("content-type", "").split(";")[0] != "application/json":
        return 403, "only JSON"  # a form of another site cannot send that
    return None


def _with_headers(send: Send, cookie: str | None) -> Send:
    async def wrapped(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            own = [(n.encode(), v.encode()) for n, v in _HEADERS.items()]
            given = {name for name, _ in own}
            kept = [(n, v) for n, v in message.get("headers", []) if n.lower() not in given]
            message["headers"] = kept + own + ([(b"set-cookie", cookie.encode())] if cookie else [])
        await send(message)

    return wrapped


async def _say(send: Send, status: int, text: str) -> None:
    body = f"{text}\n".encode()
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
