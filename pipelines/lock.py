"""One run at a time in a directory, and the file by which a directory is known as a run's.

On a disk: ``flock`` on ``.lock``, which the system takes back when its process ends.  On an object
store: a lease.  The object ``.lock`` says who holds it and is written anew every ``BEAT`` seconds.  A
lease whose process is gone from this machine is taken over at once, any other when it has stood still
for ``LEASE`` seconds by the watcher's own clock, so that clocks need not agree.  A run whose lease was
taken over stops.  Cost: one small PUT every ``BEAT`` seconds.
"""

import fcntl
import json
import os
import platform
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any
from uuid import getnode, uuid4

from pairsieve.pipelines.remote import Remote
from pairsieve.pipelines.storage_errors import explain, first_line, is_exhausted
from pairsieve.pipelines.store import Store
from pairsieve.schemas.errors import AccessError, PairsieveError, RunBusyError

MARK = ".lock"
WORKERS = ".workers"
"""Locked by each local worker while it lives."""
ORPHANS = 60.0
"""Seconds to wait for workers whose driver is gone."""
BEAT = 15.0
"""Seconds between two signs of life."""
LEASE = 60.0
"""Seconds without a sign of life after which a lease is taken over."""
FIRST_BEAT = 2.0
"""Seconds to the first sign of life: it finds the loser of a race where a store decides none."""

Check = Callable[[], None]
"""Raises ``RunBusyError`` where another run has taken the directory over."""


@dataclass(frozen=True)
class Holder:
    """Who works in a run directory.  ``machine`` is where ``pid`` means something; no owner = nobody."""

    owner: str
    host: str
    machine: str
    pid: int
    started: str
    since: str
    beat: int = 0

    @classmethod
    def me(cls) -> "Holder":
        """This process, from now on."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        return cls(uuid4().hex, platform.node(), machine(), os.getpid(), process_start(os.getpid()), now)

    @classmethod
    def read(cls, content: bytes) -> "Holder | None":
        """Who is named; None for nobody, and for what no run wrote."""
        try:
            found = cls(**json.loads(content))
        except (ValueError, TypeError):
            return None
        fields = [isinstance(value, int if name in ("pid", "beat") else str) for name, value in asdict(found).items()]
        return found if all(fields) and found.owner else None

    def written(self) -> bytes:
        """As it stands in the lock."""
        return (json.dumps(asdict(self)) + "\n").encode()

    def is_gone(self) -> bool:
        """Whether it was a process of this machine that is no more."""
        return self.machine == machine() and process_start(self.pid) != self.started

    def is_here(self) -> bool:
        """Whether it is another living process of this machine."""
        if self.pid == os.getpid():  # an earlier run of this process may have died without letting go
            return False
        return self.machine == machine() and bool(self.started) and process_start(self.pid) == self.started

    def __str__(self) -> str:
        """For messages."""
        return f"process {self.pid} on {self.host}, since {self.since}"


def machine() -> str:
    """What tells this machine, its boot and its table of processes from any other."""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    return f"{getnode():x}"


def process_start(pid: int) -> str:
    """When a process began, in its machine's ticks; nothing for one that is gone, or where no system tells."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if state in "ZX" else fields[18]


@contextmanager
def locked(store: Store, say: Callable[[str], None] = lambda line: None) -> Iterator[Check]:
    """Hold a run directory for the length of the block; raises ``RunBusyError`` where another run holds it.

    Gives a check to call now and then: on an object store a run may lose its lease, to one that took
    it for dead.  ``say`` gets a line where there is something to wait for.
    """
    if store.local:
        with _flock(store):
            _await_orphans(store, say)
            yield lambda: None
        return
    lease = Lease(store)
    lease.acquire(say)
    with lease:
        yield lease.check


@contextmanager
def _flock(store: Store) -> Iterator[None]:
    with _open_mark(Path(store.base)) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise _busy(store, Holder.read(file.read())) from None
        except OSError as error:
            step = "mount it with locks (NFS: version 4, or local_lock=flock), or choose another directory"
            raise AccessError(f"{store.root}: no file locks here: {first_line(error)}; {step}") from None
        try:
            file.truncate(0)
            file.write(Holder.me().written())
        except OSError as error:
            raise explain(error, f"{store.base}/{MARK}") from error
        yield


def _await_orphans(store: Store, say: Callable[[str], None]) -> None:
    """Wait for workers whose driver was killed: they end within a second, but for one deep in a codec."""
    until = time.monotonic() + ORPHANS
    with (Path(store.base) / WORKERS).open("ab") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                left = until - time.monotonic()
            if left <= 0:
                raise RunBusyError(f"{store.root}: workers of a stopped run still work here; wait, or end them")
            if left > ORPHANS - 0.1:
                say(f"{store.root}: waiting for workers of a stopped run to end")
            time.sleep(0.1)


def _open_mark(base: Path) -> IO[bytes]:
    """The file to lock, open and as it was: who holds it stands in it."""
    try:
        base.mkdir(parents=True, exist_ok=True)
        return (base / MARK).open("ab+", buffering=0)
    except OSError as error:
        if is_exhausted(error):
            raise explain(error, str(base)) from error
        raise AccessError(f"{error.filename or base}: {first_line(error)}; choose another directory") from None


def _busy(store: Store, holder: Holder | None) -> RunBusyError:
    who = f" ({holder})" if holder else ""
    return RunBusyError(
        f"{store.root}: another pairsieve works in this directory{who}; wait for it, or use another --out"
    )


class Lease:
    """The lease of a run directory on an object store, kept by a thread."""

    def __init__(self, store: Store) -> None:
        """Nothing is held yet."""
        assert isinstance(store.fs, Remote)
        self._store, self._fs, self._path = store, store.fs, store.path(MARK)
        self._me = Holder.me()
        self._taken: Holder | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="pairsieve lease", daemon=True)

    def acquire(self, say: Callable[[str], None]) -> None:
        """Take the lease, where it must be from a dead run; raises ``RunBusyError`` where a living one holds it."""
        watched: Holder | None = None
        began = 0.0
        while not self._create():
            version, holder = self._read()
            if holder is not None and holder.owner == self._me.owner:  # the answer to our own PUT was lost
                return
            is_still = watched is not None and time.monotonic() - began >= LEASE
            if holder is None or holder.is_gone() or (holder == watched and is_still):
                if self._replace(version):
                    return
                continue
            if holder.is_here() or watched not in (None, holder):
                raise _busy(self._store, holder)
            if watched is None:
                watched, began = holder, time.monotonic()
                say(f"{self._store.root}: held by {holder}; waiting {LEASE:.0f} s for a sign of life")
            time.sleep(BEAT / 3)

    def check(self) -> None:
        """Raise ``RunBusyError`` where another run took the lease."""
        if self._taken is not None:
            raise _busy(self._store, self._taken)

    def __enter__(self) -> "Lease":
        """Begin to show signs of life."""
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        """Let go; a store that does not answer lets go of it by itself."""
        self._ended.set()
        self._thread.join()
        if self._taken is None:
            with suppress(OSError, PairsieveError):
                version, holder = self._read()
                if holder is not None and holder.owner == self._me.owner:
                    self._fs.pipe_if(self._path, replace(self._me, owner="").written(), version)

    def _create(self) -> bool:
        try:
            self._fs.pipe_new(self._path, self._me.written())
        except FileExistsError:
            return False
        except FileNotFoundError as error:
            text = f"{self._store.root}: {first_line(error)}; create the bucket, or name another"
            raise AccessError(text) from None
        return True

    def _read(self) -> tuple[str | None, Holder | None]:
        """The version first: a writer in between makes ``pipe_if`` fail, not succeed."""
        try:
            version = self._fs.version(self._path)
            return version, Holder.read(self._fs.cat_file(self._path))
        except FileNotFoundError:
            return None, None

    def _replace(self, version: str | None) -> bool:
        try:
            self._fs.pipe_if(self._path, self._me.written(), version)
        except (FileExistsError, FileNotFoundError):
            return False
        return True

    def _keep(self) -> None:
        pause = FIRST_BEAT
        while not self._ended.wait(pause) and self._taken is None:
            pause = BEAT
            with suppress(OSError, PairsieveError):  # the run itself will say that the store does not answer
                self._renew()

    def _renew(self) -> None:
        version, holder = self._read()
        if holder is not None and holder.owner != self._me.owner:
            self._taken = holder
            return
        self._me = replace(self._me, beat=self._me.beat + 1)
        if holder is None:  # somebody removed it
            self._create()
        else:
            self._replace(version)
