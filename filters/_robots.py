"""Read ``X-Robots-Tag`` headers: has the site opted out of this use?

The grammar is loose: several header lines, comma lists, ``agent:`` prefixes that hold until the
next prefix, directives whose value follows a colon, dates that hold commas and colons themselves.
"""

import re
from collections.abc import Collection, Iterable, Iterator

_VALUED = frozenset({"max-snippet", "max-image-preview", "max-video-preview", "unavailable_after"})
_TOKEN = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]+")


def opted_out(lines: Iterable[str], agent: str, disallowed: Collection[str]) -> str | None:
    """The first directive, addressed to all or to ``agent``, that is ``disallowed``; null if none."""
    refused = {d.strip().lower() for d in disallowed}
    agents = {None, "*", agent.strip().lower()}
    found = (d for line in lines for who, d in directives(line, refused) if who in agents)
    return next((d for d in found if d in refused), None)


def directives(line: str, known: Collection[str] = ()) -> Iterator[tuple[str | None, str]]:
    """Pairs of agent (null = all) and directive of one header line, in lower case.

    ``none`` is given as what it stands for too.  A left side that is itself a known directive is
    one, not the name of an agent.
    """
    agent: str | None = None
    for item in line.lower().split(","):
        left, colon, right = (part.strip() for part in item.partition(":"))
        if colon and left not in _VALUED and left not in known and left != "none":
            if not _TOKEN.fullmatch(left):
                continue  # the rest of a date
            agent, left = left, right.partition(":")[0].strip()
        yield agent, left
        if left == "none":
            yield from ((agent, "noindex"), (agent, "nofollow"))
