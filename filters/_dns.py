"""Look up host names for many URLs at a time: the system's way in threads, or name servers asked directly.

What exists is kept by ``_host_names``; that a name does not exist is remembered here for a minute, so
that a dead host of a thousand URLs is asked for once.  A server that fails or does not answer is asked again.
A thread costs some 30 µs a look-up and is lost to a dead name server for its time-out; c-ares needs no threads.
"""

import asyncio
import socket
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import aiodns

THREADS = 256
"""Look-ups of the system's that one worker has under way at most."""
MISSING_FOR = 60.0
"""Seconds for which a name that does not exist is not asked for again."""
MISSING_NAMES = 100_000
TRY_SECONDS = 3.0
"""How long a name server may take before the next try."""
TRIES = 3

_MISSING = frozenset({socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)})


class Lookup(Protocol):
    """One way to look a name up."""

    async def __call__(self, host: str) -> list[str]:
        """Every address; raises ``OSError``, of which ``socket.gaierror`` says that there is none."""
        ...

    def close(self) -> None:
        """Forget look-ups that are still under way."""
        ...


class Resolver:
    """Looks names up, and remembers those that do not exist."""

    def __init__(self, lookup: Lookup) -> None:
        self._lookup = lookup
        self._missing: OrderedDict[str, float] = OrderedDict()

    async def resolve(self, host: str) -> list[str]:
        """Every address of a host; raises ``OSError``."""
        now = asyncio.get_running_loop().time()
        if self._missing.get(host, now) > now:
            raise socket.gaierror(socket.EAI_NONAME, "no such name, as a minute ago")
        try:
            return await self._lookup(host)
        except socket.gaierror as error:
            if error.errno in _MISSING:
                self._remember(host, now + MISSING_FOR)
            raise

    def _remember(self, host: str, until: float) -> None:
        self._missing[host] = until
        self._missing.move_to_end(host)
        if len(self._missing) > MISSING_NAMES:
            self._missing.popitem(last=False)

    async def close(self) -> None:
        """Forget look-ups that are still under way."""
        self._lookup.close()


class SystemLookup:
    """``getaddrinfo`` in threads that nobody waits for: a dead name server cannot outlast a deadline."""

    def __init__(self, threads: int = THREADS) -> None:
        self._threads = ThreadPoolExecutor(threads, "resolve")

    async def __call__(self, host: str) -> list[str]:
        """See ``Lookup``."""
        loop = asyncio.get_running_loop()
        ask = partial(socket.getaddrinfo, host, None, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
        found = await loop.run_in_executor(self._threads, ask)
        return [str(target[0]) for *_, target in found]

    def close(self) -> None:
        """See ``Lookup``."""
        self._threads.shutdown(wait=False, cancel_futures=True)


class DirectLookup:
    """Name servers asked by c-ares; the hosts file counts, the search list of ``resolv.conf`` does not."""

    def __init__(self, name_servers: Sequence[str]) -> None:
        self._servers = list(name_servers)
        self._resolver: aiodns.DNSResolver | None = None

    async def __call__(self, host: str) -> list[str]:
        """See ``Lookup``."""
        import aiodns

        if self._resolver is None:  # it binds itself to the running loop
            self._resolver = aiodns.DNSResolver(self._servers, timeout=TRY_SECONDS, tries=TRIES, domains=[])
        try:
            found = await self._resolver.getaddrinfo(host, socket.AF_UNSPEC, type=socket.SOCK_STREAM)
        except aiodns.error.DNSError as error:
            raise _as_system_says(error) from error
        return [_text(node.addr[0]) for node in found.nodes]

    def close(self) -> None:
        """See ``Lookup``."""
        if self._resolver is not None:
            self._resolver.cancel()


def _as_system_says(error: Exception) -> OSError:
    """c-ares' error as the one that ``getaddrinfo`` raises."""
    from aiodns import error as codes

    number, *said = error.args
    is_missing = number in (codes.ARES_ENOTFOUND, codes.ARES_ENODATA)
    text = str(said[0]) if said else "look-up failed"
    return socket.gaierror(socket.EAI_NONAME if is_missing else socket.EAI_AGAIN, text)


def _text(address: bytes | str) -> str:
    return address.decode() if isinstance(address, bytes) else address
