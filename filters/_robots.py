"""Read ``X-Robots-Tag`` headers: has the site opted out of this use?

The grammar is loose: several header lines, comma lists, ``agent:`` prefixes that hold until the
next prefix, directives whose value follows a colon, dates that hold commas and colons themselves.
A past ``unavailable_after`` is ``noindex``, as search engines take it; one whose date cannot be read has no effect.
"""

import re
import time
from collections.abc import Collection, Iterable, Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

_UNTIL = "unavailable_after"
_VALUED = frozenset({"max-snippet", "max-image-preview", "max-video-preview", _UNTIL})
_TOKEN = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]+")
_DAY = re.compile(r"(mon|tue|wed|thu|fri|sat|sun)[a-z]*")


def opted_out(
    lines: Iterable[str], agents: str | Collection[str], disallowed: Collection[str], now: float | None = None
) -> str | None:
    """The first directive, addressed to all or to one of ``agents``, that is ``disallowed``; null if none.

    ``now`` are seconds since 1970, by default of the clock.
    """
    refused = {d.strip().lower() for d in disallowed}
    names = [agents] if isinstance(agents, str) else agents
    ours = {None, "*", *(name.strip().lower() for name in names)}
    moment = time.time() if now is None else now
    found = (d for line in lines for who, d in directives(line, refused, moment) if who in ours)
    return next((d for d in found if d in refused), None)


def directives(line: str, known: Collection[str] = (), now: float = 0.0) -> Iterator[tuple[str | None, str]]:
    """Pairs of agent (null = all) and directive of one header line, in lower case.

    ``none`` is given as what it stands for too, and so is ``unavailable_after`` a date before ``now``.  A left side
    that is itself a known directive is one, not the name of an agent.
    """
    agent: str | None = None
    items = line.lower().split(",")
    for place, item in enumerate(items):
        left, colon, right = (part.strip() for part in item.partition(":"))
        if colon and left not in _VALUED and left not in known and left != "none":
            if not _TOKEN.fullmatch(left) or left[0].isdigit():
                continue  # the rest of a date
            agent, (left, colon, right) = left, (part.strip() for part in right.partition(":"))
        yield agent, left
        if left == "none":
            yield from ((agent, "noindex"), (agent, "nofollow"))
        if left == _UNTIL and _is_past(right, items[place + 1 :], now):
            yield agent, "noindex"


def _is_past(value: str, following: list[str], now: float) -> bool:
    """Whether a date, which goes on behind the comma after a day of the week, lies before ``now``."""
    text = f"{value},{following[0]}" if _DAY.fullmatch(value) and following else value
    moment = _moment(text)
    return moment is not None and moment < now


def _moment(text: str) -> float | None:
    """Seconds since 1970 of a date as mail, HTTP and ISO 8601 write it (UTC unless it says so); null if none."""
    for read in (datetime.fromisoformat, parsedate_to_datetime):  # the latter takes some ISO dates for others
        try:
            found = read(text.upper())
            return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
        except (ValueError, TypeError, OverflowError, IndexError):
            continue
    return None
