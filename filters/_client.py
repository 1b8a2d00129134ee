"""Fetch many URLs at a time: an event loop in a thread of its own, kept with its connections from batch to batch.

One TLS context a client (25 ms), one table of names, one session; stored bodies are given to a few threads that
decode them.  A URL keeps its place until its body was used, so that slow use slows fetching instead of filling
memory.  A client holds ``max_memory`` bytes of bodies and one more body at most.
"""

import asyncio
import resource
import threading
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

import uvloop

from pairsieve.filters._addresses import Guard
from pairsieve.filters._codes import SILENT, Code
from pairsieve.filters._dns import DirectLookup, Resolver, SystemLookup
from pairsieve.filters._fetch import Fetched, Fetcher, Policy, parse
from pairsieve.filters._host_limits import HostLimits, shared
from pairsieve.filters._host_names import Names
from pairsieve.filters._http import Session
from pairsieve.filters._turns import HostDownError, LeftError, Turns

T = TypeVar("T")
LEFT = Fetched(Code.TIMEOUT, error_message="left for later")
"""What ``use`` is given of a URL that took longer than the patience with it."""

FILES = 512
"""Open files beyond those of connections, kept ones and those that are being made: look-ups, shards, libraries."""


class Client(Generic[T]):
    """Fetches batches of URLs and makes something of each outcome, in ``threads`` threads; ``use`` must not raise."""

    def __init__(self, policy: Policy, use: Callable[[Fetched], T], threads: int = 1) -> None:
        """Start the thread; raises ``UserError`` where hosts' limits cannot be kept on this machine."""
        self._policy, self._use = policy, use
        allow_files(2 * policy.concurrency + FILES)
        self._limits = HostLimits(*shared(policy.host_concurrency, policy.host_rate))
        self._users = _Users(threads)
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fetch", daemon=True)
        self._thread.start()
        self._open: _Open = asyncio.run_coroutine_threadsafe(_opened(policy, self._limits), self._loop).result()
        # also where nobody closes it: a process that ends, a filter that is let go
        self._end = weakref.finalize(self, _end, self._open, self._loop, self._thread, self._users, self._limits)

    def begin(
        self,
        urls: Sequence[str | None],
        patience: float | None = None,
        uses: Sequence[Callable[[Fetched], T]] | None = None,
    ) -> "Future[list[T]]":
        """Start on a batch: what ``use``, or the one of ``uses`` that is the URL's, makes of every outcome, in order.

        With ``patience`` a URL that takes more seconds than that is given up, and ``use`` is given ``LEFT`` for it.
        """
        return asyncio.run_coroutine_threadsafe(
            self._batch(urls, patience, uses or [self._use] * len(urls)), self._loop
        )

    async def _batch(
        self, urls: Sequence[str | None], patience: float | None, uses: Sequence[Callable[[Fetched], T]]
    ) -> list[T]:
        each = zip(urls, uses, strict=True)
        return await asyncio.gather(*(self._one(url, patience, use) for url, use in each))

    async def _one(self, url: str | None, patience: float | None, use: Callable[[Fetched], T]) -> T:
        target = parse(url)
        if isinstance(target, Fetched):
            return await self._used(target, use)
        opened = self._open
        try:
            with await opened.turns.enter(target.host or "", patience) as turn, opened.fetcher.share() as held:
                fetched = await opened.fetcher.fetch(target, turn, held, patience)
                turn.leave_host()
                opened.turns.note(target.host or "", fetched.code in SILENT)
                return await self._used(fetched, use)
        except LeftError:
            return await self._used(LEFT, use)
        except HostDownError:
            said = f"the host gave nothing for {self._policy.max_host_failures} URLs in a row"
            down = Fetched(Code.HOST_DOWN, error_message=said, host=target.host or "")
            return await self._used(LEFT if patience is not None else down, use)

    async def _used(self, fetched: Fetched, use: Callable[[Fetched], T]) -> T:
        return await self._users.call(use, fetched)

    def close(self) -> None:
        """Give up what is under way, and end the threads."""
        self._end()

    def __enter__(self) -> "Client[T]":
        """The client."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()


def allow_files(count: int) -> None:
    """Raise this process's limit of open files to ``count``, as far as the system lets it: 1024 is common."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count if hard == resource.RLIM_INFINITY else min(count, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _end(
    opened: "_Open",
    loop: asyncio.AbstractEventLoop,
    thread: threading.Thread,
    users: "_Users",
    limits: HostLimits,
) -> None:
    if not thread.is_alive():
        return  # the copy of a process that was forked: its threads are the other's
    asyncio.run_coroutine_threadsafe(opened.close(), loop).result()
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()
    users.close()
    limits.close()


class _Users:
    """Threads that use outcomes: what ``run_in_executor`` does, for half of its cost."""

    def __init__(self, threads: int) -> None:
        self._work: SimpleQueue[tuple[asyncio.Future[Any], Callable[[Fetched], Any], Fetched] | None] = SimpleQueue()
        self._threads = [threading.Thread(target=self._run, name="use", daemon=True) for _ in range(threads)]
        for thread in self._threads:
            thread.start()

    async def call(self, use: Callable[[Fetched], T], fetched: Fetched) -> T:
        """The result, once a thread has had the time."""
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._work.put((done, use, fetched))
        return await done

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            done, use, fetched = work
            try:
                result, error = use(fetched), None
            except Exception as raised:
                result, error = None, raised
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                done.get_loop().call_soon_threadsafe(_settle, done, result, error)
            del work, done, use, fetched, result, error  # a body is not held until the next one comes

    def close(self) -> None:
        """End the threads once they have done what is at hand."""
        for _ in self._threads:
            self._work.put(None)
        for thread in self._threads:
            thread.join()


def _settle(done: "asyncio.Future[Any]", result: Any, error: Exception | None) -> None:
    if done.cancelled():
        return
    if error is None:
        done.set_result(result)
    else:
        done.set_exception(error)


class _Open:
    """What lives in the running loop: it must be made there."""

    def __init__(self, policy: Policy, limits: HostLimits) -> None:
        self._resolver = Resolver(DirectLookup(policy.name_servers) if policy.name_servers else SystemLookup())
        self.session = _session(policy, self._resolver)
        self.turns = Turns(policy.concurrency, limits, policy.max_host_failures)
        self.fetcher = Fetcher(self.session, policy)

    async def close(self) -> None:
        """Cancel what is under way, and close."""
        ours = asyncio.current_task()
        others = [task for task in asyncio.all_tasks() if task is not ours]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self.session.close()
        await self._resolver.close()


async def _opened(policy: Policy, limits: HostLimits) -> _Open:
    return _Open(policy, limits)


def _session(policy: Policy, resolver: Resolver) -> Session:
    """A session with every guard."""
    return Session(
        Names(resolver),
        Guard(policy.networks),
        agent=policy.user_agent,
        connect_timeout=policy.connect_timeout,
        silence=policy.low_speed_time,
        concurrency=policy.concurrency,
    )


def fetch_each(urls: Sequence[str | None], policy: Policy, use: Callable[[Fetched], T], threads: int = 1) -> list[T]:
    """``use`` of every outcome, in order, over a client of its own."""
    with Client(policy, use, threads) as client:
        return client.begin(urls).result()


def fetch_all(urls: Sequence[str | None], policy: Policy) -> list[Fetched]:
    """The outcome of every URL, in order, with all the bodies."""
    return fetch_each(urls, policy, lambda fetched: fetched)
