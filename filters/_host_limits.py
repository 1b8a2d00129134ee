"""Limits on the load of one host that hold for all workers of a machine: connections at a time, requests a second.

No process is in charge.  A connection is a lock on one byte of a file, which the kernel takes back when its
process dies however it dies; the next moment at which a host may be asked is a number in another file, read and
written under a lock.  Both lie in a folder of the user's own in the temporary directory, or in the one that
``PAIRSIEVE_HOSTS`` names: the limits hold for all runs of this machine that have the same folder.  It must lie on a
disk of the machine: a number is a moment of its clock.  Two hosts in 2**20 may share one, which only slows them.
On a Ray cluster each node takes its share of a limit, see ``shared``.  Costs 10 µs a request.
"""

import errno
import fcntl
import math
import os
import struct
import sys
import tempfile
import time
from pathlib import Path

import xxhash

from pairsieve.schemas.errors import UserError

FOLDER = "PAIRSIEVE_HOSTS"
"""Environment variable that names the folder."""
MOST = 4096
"""Connections to one host that can be told apart."""
_PLACES = 2**20
_HOSTS = 2**40
_NUMBER = struct.Struct("<d")
_LOCK = struct.Struct("hhqqixxxx")  # struct flock: type, whence, start, length, pid
RECHECK = 0.05
"""Seconds after which to look again for a connection that another worker has given up."""
LONGEST_PAUSE = 600.0
"""A host that would have to wait for longer was paused before this machine was started: its clock began anew."""


class HostLimits:
    """What this process may ask of which host, given all others."""

    def __init__(self, connections: int | None, requests_a_second: float | None, folder: Path | None = None) -> None:
        """Open the files; raises ``UserError`` where the folder cannot be had, or others may write there."""
        self._connections = connections
        self._interval = 1 / requests_a_second if requests_a_second else 0.0
        folder = folder or _own_folder()
        self._locks = _open(folder / "connections")
        self._times = _open(folder / "moments")
        self._held: dict[str, set[int]] = {}

    def enter(self, host: str) -> float:
        """Take a connection and a request: 0 where both are granted, else seconds after which to ask again."""
        connection = self._free_connection(host)
        if connection is None:
            return RECHECK
        wait = self.ask(host)
        if wait:
            self._release(host, connection)
        else:
            self._held.setdefault(host, set()).add(connection)
        return wait

    def ask(self, host: str) -> float:
        """Take a request alone: 0 where it is granted, else seconds after which to ask again."""
        place = _hash(host) % _PLACES * _NUMBER.size
        if not self._interval:  # nothing is written: a pause of the host's is all that counts
            return max(0.0, self._moment(place) - time.monotonic())
        if not _lock(self._times, fcntl.F_WRLCK, place, _NUMBER.size):
            return RECHECK / 10
        try:
            now, moment = time.monotonic(), self._moment(place)
            if moment > now:
                return moment - now
            self._set(place, now + self._interval)
            return 0.0
        finally:
            _lock(self._times, fcntl.F_UNLCK, place, _NUMBER.size)

    def leave(self, host: str) -> None:
        """Give a connection back."""
        held = self._held[host]
        self._release(host, held.pop())
        if not held:
            del self._held[host]

    def pause(self, host: str, seconds: float) -> None:
        """Let nobody ask a host for some time, as it wants it; at most ``LONGEST_PAUSE``."""
        place = _hash(host) % _PLACES * _NUMBER.size
        if _lock(self._times, fcntl.F_WRLCK, place, _NUMBER.size):
            self._set(place, max(self._moment(place), time.monotonic() + min(seconds, LONGEST_PAUSE)))
            _lock(self._times, fcntl.F_UNLCK, place, _NUMBER.size)

    def close(self) -> None:
        """Give everything back."""
        os.close(self._locks)
        os.close(self._times)

    def _free_connection(self, host: str) -> int | None:
        """A connection that nobody has; without a limit they need no locks."""
        held = self._held.get(host, set())
        if self._connections is None:
            return min(held, default=0) - 1
        start = _hash(host) % _HOSTS * MOST
        free = (i for i in range(self._connections) if i not in held and _lock(self._locks, fcntl.F_WRLCK, start + i))
        return next(free, None)

    def _release(self, host: str, connection: int) -> None:
        if connection >= 0:
            _lock(self._locks, fcntl.F_UNLCK, _hash(host) % _HOSTS * MOST + connection)

    def _moment(self, place: int) -> float:
        """When the host may be asked next, by the machine's monotonic clock."""
        found = os.pread(self._times, _NUMBER.size, place)
        moment = _NUMBER.unpack(found)[0] if len(found) == _NUMBER.size else 0.0
        most = time.monotonic() + max(LONGEST_PAUSE, 2 * self._interval)
        return moment if math.isfinite(moment) and moment <= most else 0.0

    def _set(self, place: int, moment: float) -> None:
        os.pwrite(self._times, _NUMBER.pack(moment), place)


def shared(connections: int | None, requests_a_second: float | None) -> tuple[int | None, float | None]:
    """This machine's share of two limits: all of it, or on a Ray cluster that of one of the nodes with CPUs.

    Shares of connections are rounded down, but a node has at least one.
    """
    nodes = _nodes()
    own = None if connections is None else max(1, connections // nodes)
    return own, None if requests_a_second is None else requests_a_second / nodes


def _nodes() -> int:
    """Nodes of the Ray cluster that this process is a worker of; 1 where it is of none."""
    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized():
        return 1
    return max(1, sum(bool(node["Alive"] and node["Resources"].get("CPU")) for node in ray.nodes()))


def _own_folder() -> Path:
    """A folder that nobody else can write to: locks in a shared one could be held by anybody."""
    named = os.environ.get(FOLDER)
    folder = Path(named or Path(tempfile.gettempdir()) / f"pairsieve-hosts-{os.getuid()}")
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.lstat()
    except OSError as error:
        raise UserError(f"{folder}: {error.strerror}; name a folder for the limits of hosts in {FOLDER}") from None
    if found.st_uid != os.getuid() or found.st_mode & 0o022 or folder.is_symlink():
        raise UserError(f"{folder}: others may write there; remove it, or name a folder of your own in {FOLDER}")
    return folder


def _open(file: Path) -> int:
    return os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


def _lock(file: int, kind: int, start: int, length: int = 1) -> bool:
    """Lock or unlock bytes of an open file for this opening of it; whether that was possible at once."""
    try:
        fcntl.fcntl(file, fcntl.F_OFD_SETLK, _LOCK.pack(kind, os.SEEK_SET, start, length, 0))
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return False
        raise
    return True


def _hash(host: str) -> int:
    return xxhash.xxh3_64_intdigest(host.encode("utf-8", "surrogatepass"))
