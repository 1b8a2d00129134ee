"""Fetch many URLs at a time: an event loop in a thread of its own, kept with its connections from batch to batch.

One TLS context a client (25 ms), one table of names, one session; stored bodies are given to a few threads that
decode them.  A URL keeps its place until its body was used, so that slow use slows fetching instead of filling
memory.  A client holds ``max_memory`` bytes of bodies and one more body at most.
"""

import asyncio
import ssl
import threading
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Generic, TypeVar

import aiohttp
import uvloop

from pairsieve.filters._addresses import Guard
from pairsieve.filters._codes import Code
from pairsieve.filters._dns import DirectLookup, Resolver, SystemLookup
from pairsieve.filters._fetch import Fetched, Fetcher, Policy, parse
from pairsieve.filters._host_limits import HostLimits, shared
from pairsieve.filters._turns import LeftError, Turns

T = TypeVar("T")
NAMES = 100_000
"""Host names whose addresses are kept."""
NAMES_FOR = 600
"""Seconds for which they are."""

LEFT = Fetched(Code.TIMEOUT, error_message="left for later")
"""What ``use`` is given of a URL that took longer than the patience with it."""


class Client(Generic[T]):
    """Fetches batches of URLs and makes something of each outcome, in ``threads`` threads; ``use`` must not raise."""

    def __init__(self, policy: Policy, use: Callable[[Fetched], T], threads: int = 1) -> None:
        """Start the thread; raises ``UserError`` where hosts' limits cannot be kept on this machine."""
        self._policy, self._use = policy, use
        self._limits = HostLimits(*shared(policy.host_concurrency, policy.host_rate))
        self._users = ThreadPoolExecutor(threads, "use")
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fetch", daemon=True)
        self._thread.start()
        self._open: _Open = self._wait(self._opened())

    async def _opened(self) -> "_Open":
        return _Open(self._policy, self._limits)

    def _wait(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def begin(self, urls: Sequence[str | None], patience: float | None = None) -> "Future[list[T]]":
        """Start on a batch: what ``use`` makes of every outcome, in order.

        With ``patience`` a URL that takes more seconds than that is given up, and ``use`` is given ``LEFT`` for it.
        """
        return asyncio.run_coroutine_threadsafe(self._batch(urls, patience), self._loop)

    async def _batch(self, urls: Sequence[str | None], patience: float | None) -> list[T]:
        return await asyncio.gather(*(self._one(url, patience) for url in urls))

    async def _one(self, url: str | None, patience: float | None) -> T:
        target = parse(url)
        if isinstance(target, Fetched):
            return await self._used(target)
        opened = self._open
        try:
            with await opened.turns.enter(target.host or "", patience) as turn, opened.fetcher.share() as held:
                fetched = await opened.fetcher.fetch(target, turn, held, patience)
                turn.leave_host()
                return await self._used(fetched)
        except LeftError:
            return await self._used(LEFT)

    async def _used(self, fetched: Fetched) -> T:
        return await self._loop.run_in_executor(self._users, self._use, fetched)

    def close(self) -> None:
        """Give up what is under way, and end the threads."""
        if self._loop.is_closed():
            return
        self._wait(self._open.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._users.shutdown(cancel_futures=True)
        self._limits.close()

    def __enter__(self) -> "Client[T]":
        """The client."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()


class _Open:
    """What lives in the running loop: it must be made there."""

    def __init__(self, policy: Policy, limits: HostLimits) -> None:
        self._resolver = Resolver(DirectLookup(policy.name_servers) if policy.name_servers else SystemLookup())
        self._session = _session(policy, self._resolver)
        self.turns = Turns(policy.concurrency, limits)
        self.fetcher = Fetcher(self._session, policy)

    async def close(self) -> None:
        """Cancel what is under way, and close."""
        ours = asyncio.current_task()
        others = [task for task in asyncio.all_tasks() if task is not ours]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self._session.close()
        await self._resolver.close()


def _session(policy: Policy, resolver: Resolver) -> aiohttp.ClientSession:
    """A session with every guard."""
    connector = aiohttp.TCPConnector(
        limit=0,  # places limit; waiting here would count against the deadline
        ssl=ssl.create_default_context(),
        resolver=resolver,
        ttl_dns_cache=NAMES_FOR,
        dns_cache_max_size=NAMES,
        socket_factory=Guard(policy.networks),
    )
    return aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"User-Agent": policy.user_agent, "Accept": "*/*", "Accept-Encoding": "identity"},
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=policy.connect_timeout, sock_read=policy.low_speed_time),
        auto_decompress=False,
        trust_env=False,  # proxies are named request by request; .netrc is never read
    )


def fetch_each(urls: Sequence[str | None], policy: Policy, use: Callable[[Fetched], T], threads: int = 1) -> list[T]:
    """``use`` of every outcome, in order, over a client of its own."""
    with Client(policy, use, threads) as client:
        return client.begin(urls).result()


def fetch_all(urls: Sequence[str | None], policy: Policy) -> list[Fetched]:
    """The outcome of every URL, in order, with all the bodies."""
    return fetch_each(urls, policy, lambda fetched: fetched)
