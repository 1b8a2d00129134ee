"""Ask a site's robots.txt before anything else of it, as RFC 9309 has it; parsed by Protego.

A file is asked for once an origin and worker and kept for a day; at most ``ORIGINS`` are kept.  No file (4xx)
allows everything, a server that fails (5xx, 429) nothing: its URLs get that code, so that they can be asked for again.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from yarl import URL

from pairsieve.filters._codes import Code
from pairsieve.filters._turns import Turn

if TYPE_CHECKING:
    from protego import Protego

Text: TypeAlias = Callable[[URL, Turn, int], Awaitable[tuple[int, bytes]]]
MOST_BYTES = 512_000
"""RFC 9309: at least 500 KiB of a file must be read."""
ORIGINS = 20_000
LIFE = 86_400.0


@dataclass(frozen=True)
class _Rules:
    """What a site's file says; with ``failed`` it could not be had."""

    until: float
    parsed: "Protego | None" = None
    failed: Code | None = None


class RobotsFiles:
    """The files of the sites that a worker meets."""

    def __init__(self, text: Text, agent: str) -> None:
        self._text, self._agent = text, agent
        self._known: OrderedDict[str, _Rules] = OrderedDict()
        self._asking: dict[str, asyncio.Lock] = {}

    async def refusal(self, url: URL, turn: Turn) -> tuple[Code, str] | None:
        """Why a URL must not be fetched: code and message; None where it may.

        A ``Crawl-delay`` keeps the host from being asked for so long.  Raises what asking for the file raises.
        """
        origin = str(url.origin())
        rules = self._fresh(origin)
        if rules is None:
            lock = self._asking.setdefault(origin, asyncio.Lock())
            try:
                async with lock:
                    rules = self._fresh(origin) or await self._load(origin, turn)
            finally:
                self._asking.pop(origin, None)
        if rules.failed:
            return rules.failed, "robots.txt could not be read"
        if rules.parsed is None:
            return None
        if not rules.parsed.can_fetch(str(url), self._agent):
            return Code.ROBOTS_TXT, "robots.txt disallows it"
        turn.pause_host(float(rules.parsed.crawl_delay(self._agent) or 0))
        return None

    def _fresh(self, origin: str) -> _Rules | None:
        rules = self._known.get(origin)
        return rules if rules is not None and rules.until > asyncio.get_running_loop().time() else None

    async def _load(self, origin: str, turn: Turn) -> _Rules:
        """Ask for a file, and keep what it says."""
        from protego import Protego

        status, body = await self._text(URL(origin).with_path("/robots.txt"), turn, MOST_BYTES)
        now = asyncio.get_running_loop().time()
        if status == 429 or status >= 500:
            rules = _Rules(now + 60, failed=Code.HTTP_429 if status == 429 else Code.HTTP_5XX)
        elif 200 <= status < 300:
            rules = _Rules(now + LIFE, Protego.parse(body.decode("utf-8-sig", "replace")))
        else:
            rules = _Rules(now + LIFE)
        self._known[origin] = rules
        if len(self._known) > ORIGINS:
            self._known.popitem(last=False)
        return rules
