"""Count what became of the URLs of each host, and what they took: what the report of hosts adds up."""

from collections.abc import Iterable
from threading import Lock

import pyarrow as pa

HOSTS = pa.schema(
    [
        pa.field("host", pa.string(), nullable=False),
        pa.field("code", pa.string(), nullable=False),
        pa.field("urls", pa.int64(), nullable=False),
        pa.field("requests", pa.int64(), nullable=False),
        pa.field("bytes", pa.int64(), nullable=False),
        pa.field("seconds", pa.float64(), nullable=False),
    ]
)
"""A row for each host and code: URLs, requests, redirects' and retries' too, bytes of bodies, seconds under way."""


class HostTally:
    """Sums of one worker; about 200 bytes a host and code."""

    def __init__(self) -> None:
        self._sums: dict[tuple[str, str], list[float]] = {}
        self._lock = Lock()

    def add(self, host: str, code: str, requests: int, size: int, seconds: float) -> None:
        """One URL; from any thread."""
        with self._lock:
            sums = self._sums.setdefault((host, code), [0, 0, 0, 0.0])
            sums[0] += 1
            sums[1] += requests
            sums[2] += size
            sums[3] += seconds

    def take(self) -> pa.Table | None:
        """The sums since the last call, sorted; None where there are none."""
        with self._lock:
            found, self._sums = sorted(self._sums.items()), {}
        return _table((host, code, *sums) for (host, code), sums in found) if found else None


def by_code(facts: pa.Table) -> pa.Table:
    """Sums over all hosts, under the host ``""``."""
    sums = [(name, "sum") for name in HOSTS.names[2:]]
    found = facts.group_by("code").aggregate(sums).sort_by("code")
    host = pa.repeat(pa.scalar(""), found.num_rows)
    return pa.table([host, found["code"], *(found[f"{name}_sum"] for name, _ in sums)], schema=HOSTS)


def _table(rows: Iterable[tuple[str | float, ...]]) -> pa.Table:
    columns = zip(*rows, strict=True)
    return pa.table([pa.array(c, f.type) for c, f in zip(columns, HOSTS, strict=True)], schema=HOSTS)
