"""The addresses of host names, kept for a while, and asked for once however many URLs wait for them."""

import asyncio
import re
from collections import OrderedDict
from typing import Protocol

MOST = 100_000
"""Host names whose addresses are kept."""
ADDRESSES = 16
"""Addresses of one host that are kept and tried: an answer of a name server has room for thousands."""
LIFE = 600.0
"""Seconds for which they are."""
_NUMBER = re.compile(r"[0-9.]+")


class BadNameError(ValueError):
    """No name that could be looked up."""


class Asks(Protocol):
    """What looks a name up."""

    async def resolve(self, host: str) -> list[str]:
        """Every address; raises ``OSError``, of which ``socket.gaierror`` says that there is none."""
        ...


class Names:
    """Looks names up over ``resolver``, each once in ``LIFE`` seconds."""

    def __init__(self, resolver: Asks) -> None:
        self._resolver = resolver
        self._known: OrderedDict[str, tuple[float, list[str]]] = OrderedDict()
        self._asking: dict[str, asyncio.Task[list[str]]] = {}

    async def addresses(self, host: str) -> list[str]:
        """The first addresses of a host; raises ``BadNameError``, and ``OSError`` where it has none."""
        host = host.lower()
        until, found = self._known.get(host, (0.0, []))
        if until > asyncio.get_running_loop().time():
            return found
        task = self._asking.get(host)
        if task is None:
            task = self._asking[host] = asyncio.ensure_future(self._ask(check(host)))
            task.add_done_callback(lambda done: self._forget(host, done))
        return await asyncio.shield(task)  # one URL's deadline must not end the look-up of others

    async def _ask(self, host: str) -> list[str]:
        found = (await self._resolver.resolve(host))[:ADDRESSES]
        self._known[host] = (asyncio.get_running_loop().time() + LIFE, found)
        self._known.move_to_end(host)
        if len(self._known) > MOST:
            self._known.popitem(last=False)
        return found

    def _forget(self, host: str, done: "asyncio.Task[list[str]]") -> None:
        del self._asking[host]
        if not done.cancelled():
            done.exception()  # seen, also where nobody waits any more


def check(host: str) -> str:
    """The host, where it is a name; raises ``BadNameError``.

    Numbers alone are an IPv4 address to some look-ups, in one of many spellings; what follows a % is another
    character to libcurl, which would look that name up by itself.
    """
    labels = host.removesuffix(".").split(".")
    if _NUMBER.fullmatch(host) or "%" in host or len(host) > 254 or not all(0 < len(label) < 64 for label in labels):
        raise BadNameError(f"{host[:80]!r} is no host name")
    return host


__all__ = ["ADDRESSES", "LIFE", "MOST", "BadNameError", "Names", "check"]
