"""Who of the URLs under way in one worker may ask now: places, hosts' limits, and memory for bodies.

A URL waits in the line of its host; only the first of a line looks for a place, so that a host with many URLs
does not keep the others waiting.  Waiting for a host counts as slowness only while places are free.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from functools import partial
from types import TracebackType

from pairsieve.filters._host_limits import HostLimits

LONGEST_NAP = 0.25
SILENCES = 100
"""URLs in a row of which a host gave nothing from which its others are left, where they may be."""
DOWN_FOR = 600.0
"""Seconds after which one URL of such a host is asked for again."""


class LeftError(Exception):
    """The URL takes longer than it may now: it is left for the tail pass."""


class HostDownError(Exception):
    """The host has failed so often in a row that its URLs are not asked for, or not now."""


class Places:
    """So many URLs at a time, and a clock that stands still while all places are taken."""

    def __init__(self, count: int) -> None:
        self._free = asyncio.Semaphore(count)
        self._left = count
        self._lost = self._full_since = 0.0

    async def take(self) -> None:
        """Wait for a place."""
        await self._free.acquire()
        self._left -= 1
        if not self._left:
            self._full_since = _now()

    def give_back(self) -> None:
        """Leave a place to another."""
        if not self._left:
            self._lost += _now() - self._full_since
        self._left += 1
        self._free.release()

    def clock(self) -> float:
        """Seconds during which there was a free place."""
        return (_now() if self._left else self._full_since) - self._lost


class _Line:
    """URLs that wait for one host."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.members = 0


class _Silences:
    """How many URLs in a row each host gave nothing of, as far as this worker knows, and when that was."""

    def __init__(self) -> None:
        self._hosts: dict[str, tuple[int, float]] = {}

    def note(self, host: str, is_silent: bool) -> None:
        """What came of a URL."""
        if is_silent:
            self._hosts[host] = (self._hosts.get(host, (0, 0.0))[0] + 1, _now())
        else:
            self._hosts.pop(host, None)

    def is_down(self, host: str, most: int) -> bool:
        """Whether it was so for ``most`` URLs and not long ago."""
        count, when = self._hosts.get(host, (0, 0.0))
        return count >= most and _now() < when + DOWN_FOR


class Turns:
    """Lets URLs in; ``silences``: the URLs in a row of which a host may give nothing before it is given up."""

    def __init__(self, places: int, limits: HostLimits, silences: int | None = None) -> None:
        self.places = Places(places)
        self.limits = limits
        self._most = silences
        self._lines: dict[str, _Line] = {}
        self._silences = _Silences()

    def note(self, host: str, is_silent: bool) -> None:
        """What came of a URL."""
        self._silences.note(host, is_silent)

    def _is_down(self, host: str, may_leave: bool) -> bool:
        """To leave a URL for later changes nothing of it; to give it up depends on which were asked for before."""
        most = self._most or (SILENCES if may_leave else None)
        return most is not None and self._silences.is_down(host, most)

    async def enter(self, host: str, patience: float | None) -> "Turn":
        """Wait for a place and for the host; without ``patience`` for as long as it takes.

        Raises ``LeftError`` where the host alone takes more than ``patience``, ``HostDownError`` where it is down.
        """
        line = self._lines.setdefault(host, _Line())
        line.members += 1
        came = self.places.clock()
        try:
            async with line.lock:
                while True:
                    if self._is_down(host, patience is not None):
                        raise HostDownError
                    await self.places.take()
                    wait = self.limits.enter(host)
                    if not wait:
                        return Turn(self, host)
                    self.places.give_back()
                    if patience is not None and self.places.clock() - came + wait > patience:
                        raise LeftError
                    await asyncio.sleep(min(wait, LONGEST_NAP))
        finally:
            line.members -= 1
            if not line.members:
                del self._lines[host]


class Turn:
    """A place, and a connection to one host after another."""

    def __init__(self, turns: Turns, host: str) -> None:
        self._turns = turns
        self._host: str | None = host
        self.deadline: asyncio.Timeout | None = None  # stands still while the URL waits for a host
        self.waited = 0.0  # seconds for which it did
        self.requests = 0

    async def ask(self, host: str) -> None:
        """Wait until another request may be made, perhaps of another host; the first was granted on entering."""
        limits = self._turns.limits
        self.requests += 1
        same = host == self._host
        if same and self.requests == 1:
            return
        if not same:
            self.leave_host()
        await self._granted(partial(limits.ask if same else limits.enter, host))
        self._host = host

    async def _granted(self, grant: Callable[[], float]) -> None:
        """Until a host grants a request, which depends on what others ask of it: no time of the URL's own."""
        if not (wait := grant()):
            return
        began, end = _now(), self.deadline.when() if self.deadline else None
        if self.deadline:
            self.deadline.reschedule(None)
        while wait:
            await asyncio.sleep(min(wait, LONGEST_NAP))
            wait = grant()
        if self.deadline and end is not None:
            self.waited += _now() - began
            self.deadline.reschedule(end + _now() - began)

    def pause_host(self, seconds: float) -> None:
        """The host wants to be left alone for a while."""
        if self._host is not None:
            self._turns.limits.pause(self._host, seconds)

    def leave_host(self) -> None:
        """Give the connection back, as soon as nothing more is read."""
        if self._host is not None:
            self._turns.limits.leave(self._host)
            self._host = None

    def __enter__(self) -> "Turn":
        """The turn."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        """Give everything back."""
        self.leave_host()
        self._turns.places.give_back()


class Memory:
    """Bytes of bodies under way: when they are used up, bodies wait in line, and the largest may still grow.

    So at most ``most`` bytes and one further body are held, and there is always one that comes to its end.
    """

    def __init__(self, most: int) -> None:
        self._left = most
        self._waiting: deque[tuple[asyncio.Future[None], int, Held]] = deque()
        self._favoured: Held | None = None

    async def take(self, held: "Held", size: int) -> None:
        """Wait until a body may grow by ``size`` bytes."""
        if held is not self._favoured and (self._waiting or size > self._left):
            place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append((place, size, held))
            self._let_in()
            try:
                await place
            except asyncio.CancelledError:
                if place.done() and not place.cancelled():
                    held.size += size  # it was let in at the same moment; the body's end gives it back
                raise
        else:
            self._left -= size
        held.size += size

    def give_back(self, held: "Held") -> None:
        """A body is gone."""
        self._left += held.size
        held.size = 0
        if held is self._favoured:
            self._favoured = None
        self._let_in()

    def _let_in(self) -> None:
        """Grant what fits, in order; where the first does not, the one that holds most goes on: it frees most."""
        while self._waiting:
            first = self._waiting[0]
            if first[0].cancelled():
                self._waiting.popleft()
            elif first[1] <= self._left:
                self._grant(first)
            elif self._favoured is None:
                chosen = max((w for w in self._waiting if not w[0].cancelled()), key=lambda waiting: waiting[2].size)
                self._favoured = chosen[2]
                self._grant(chosen)
            else:
                return

    def _grant(self, waiting: "tuple[asyncio.Future[None], int, Held]") -> None:
        place, size, _ = waiting
        self._waiting.remove(waiting)
        self._left -= size
        place.set_result(None)


class Held:
    """What one body holds of the memory."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self.size = 0

    async def grow(self, size: int) -> None:
        """Wait until the body may grow."""
        await self._memory.take(self, size)

    def __enter__(self) -> "Held":
        """The share."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        """The body is gone."""
        self._memory.give_back(self)


def _now() -> float:
    return asyncio.get_running_loop().time()
