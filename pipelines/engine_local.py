"""The local engine: this process for one worker, a process pool for more.  Starts in well under a second.

Workers come from a fork server, never from a fork of this process, whose threads would not survive it.
Where a task's workers hold much memory, or a GPU, there are only as many as fit together.
"""

import fcntl
import multiprocessing
import os
import pickle
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from pairsieve.pipelines import machine
from pairsieve.pipelines.capacity import fitted, local_capacity
from pairsieve.pipelines.engine import ATTEMPTS, Capacity, Failure, Failures, Needs, Task, guarded, label_of

Item = TypeVar("Item")
Result = TypeVar("Result")

START = 2.5
"""Seconds of work that are worth starting workers, who take about one CPU-second together."""
MESSAGE = 2048
"""Bytes of a result that goes through the pipe: a write of less than 4096 is done as a whole or not at all."""
_CURRENT: dict[str, Callable[[Any], Any]] = {}
"""In a worker process: the task at hand by its file, read once rather than once an item."""


class LocalEngine:
    """Runs tasks on this machine."""

    name = "local"

    def __init__(self, workers: int | None = None, hold: str | None = None, imports: Sequence[str] = ()) -> None:
        """Start nothing yet; ``workers`` None = one for each CPU that this process may use.

        ``hold`` is a file that workers lock while they live, so that a later run can wait for orphans to end.
        ``imports`` are modules that the fork server imports once instead of every worker.
        """
        self._chosen, self._hold = workers, hold
        # pyarrow imports pandas in every process where it is installed; what is not there is passed over
        self._imports = ["pairsieve.pipelines.tasks", "pandas", *imports]
        self._pool: ProcessPoolExecutor | None = None
        self._width = 0

    def map(
        self, task: Task[Item, Result], items: Sequence[Item], needs: Needs, label: str
    ) -> Iterator[tuple[int, Result]]:
        """See ``Engine.map``."""
        width = self._fit(needs)
        if min(width, len(items)) <= 1:
            results = self._here(task, items, label)
        elif self._chosen is None and self._pool is None and needs.is_light:
            results = self._begin_here(task, items, label, width)
        else:
            results = self._there(task, range(len(items)), items, label, width)
        failures = Failures()
        for i, result in results:
            if isinstance(result, Failure):
                failures.add(result)
                if result.stops:
                    results.close()
            else:
                yield i, result
        failures.raise_if_any()

    def capacity(self) -> Capacity:
        """This machine."""
        return local_capacity()

    def _fit(self, needs: Needs) -> int:
        """Workers that fit together; a number that the user chose gives way to memory alone.

        All share one GPU: nobody tells them apart here, as Ray does.
        """
        capacity = self.capacity()
        (here,) = capacity.machines
        if self._chosen is not None:
            return max(1, min(self._chosen, here.memory // needs.memory if needs.memory else self._chosen))
        slots = replace(here, gpus=min(here.gpus, 1.0)).slots(fitted(needs, capacity))
        return max(1, min(slots, machine.cpus()))

    def _here(self, task: Callable[[Any], Any], items: Sequence[Any], label: str) -> Generator[tuple[int, Any]]:
        for i, item in enumerate(items):
            yield i, guarded(task, item, label_of(label, item))

    def _begin_here(
        self, task: Callable[[Any], Any], items: Sequence[Any], label: str, width: int
    ) -> Generator[tuple[int, Any]]:
        """In this process while what is left takes less than starting workers; the rest in workers.

        The first item also loads what filters need, so it alone says less.
        """
        for i, item in enumerate(items):
            began = time.perf_counter()
            yield i, guarded(task, item, label_of(label, item))
            if (time.perf_counter() - began) * (len(items) - i - 1) > (START if i else 4 * START):
                yield from self._there(task, range(i + 1, len(items)), items, label, width)
                return

    def _there(
        self, task: Callable[[Any], Any], chosen: Sequence[int], items: Sequence[Any], label: str, width: int
    ) -> Generator[tuple[int, Any]]:
        waiting, running = list(chosen)[::-1], dict[Future[Any], int]()
        with _shipped(task) as file:
            try:
                while waiting or running:
                    while waiting and len(running) < 2 * width:
                        i = waiting.pop()
                        running[self._submit(file, items[i], label, width)] = i
                    done, _ = wait(running, return_when=FIRST_COMPLETED)
                    for future in done:
                        i = running.pop(future)
                        if isinstance(future.exception(), BrokenProcessPool):
                            suspects = sorted([i, *running.values()])
                            running.clear()
                            self._drop_pool()
                            yield from self._alone(file, [(k, items[k]) for k in suspects], label, width)
                            break
                        yield i, _fetched(future.result())
            except BaseException:
                self._kill()
                raise

    def _alone(
        self, file: str, suspects: Sequence[tuple[int, Any]], label: str, width: int
    ) -> Iterator[tuple[int, Any]]:
        """Items that were under way when a worker died, one at a time, so that the guilty one is known."""
        for i, item in suspects:
            result: Any = Failure(label_of(label, item), f"killed its worker {ATTEMPTS} times", False)
            for _ in range(ATTEMPTS - 1):
                future = self._submit(file, item, label, width)
                if not isinstance(future.exception(), BrokenProcessPool):
                    result = _fetched(future.result())
                    break
                self._drop_pool()
            yield i, result

    def _submit(self, file: str, item: Any, label: str, width: int) -> Future[Any]:
        if self._pool is None or self._width != width:
            self._drop_pool()
            context = multiprocessing.get_context("forkserver")
            context.set_forkserver_preload(self._imports)  # of no effect where an earlier run started the server
            begin = (os.getpid(), dict(os.environ), self._hold)  # the fork server has the environment of its own start
            self._pool = ProcessPoolExecutor(width, mp_context=context, initializer=_begin, initargs=begin)
            self._width = width
        try:
            with _main_not_imported(), _signals_wait():
                return self._pool.submit(_call, file, item, label)
        except BrokenProcessPool:  # a worker died while it had nothing to do
            self._drop_pool()
            return self._submit(file, item, label, width)

    def _drop_pool(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
        self._pool = None

    def _kill(self) -> None:
        """Stop at once: unfinished shards leave nothing behind and are done again by the next run."""
        if self._pool is not None:
            for process in list((self._pool._processes or {}).values()):
                process.kill()
        self._drop_pool()

    def close(self) -> None:
        """Stop the workers."""
        self._drop_pool()


@contextmanager
def _shipped(task: Callable[[Any], Any]) -> Iterator[str]:
    """A file with the task: a pool of many files makes it large, and each item would carry it to a worker again.

    Its folder is the place of large results.
    """
    with tempfile.TemporaryDirectory(prefix="pairsieve-", ignore_cleanup_errors=True) as folder:
        file = Path(folder) / "task"
        file.write_bytes(pickle.dumps(task))
        yield str(file)


@dataclass(frozen=True)
class _Filed:
    """A result that a worker left in a file."""

    file: str


def _call(file: str, item: Any, label: str) -> Any:
    """In a worker: run the task on one item.

    A large result goes through a file: the pipe to the driver is all workers', and one that is killed in the middle
    of a long message would leave the driver waiting for its end, and the others for their turn, for ever.
    """
    if file not in _CURRENT:
        _CURRENT.clear()
        _CURRENT[file] = pickle.loads(Path(file).read_bytes())
    result = guarded(_CURRENT[file], item, label_of(label, item))
    content = pickle.dumps(result)
    if len(content) <= MESSAGE:
        return result
    number, name = tempfile.mkstemp(dir=Path(file).parent)
    with open(number, "wb") as out:  # noqa: PTH123 (a descriptor)
        out.write(content)
    return _Filed(name)


def _fetched(result: Any) -> Any:
    """In the driver: what a worker sent, from its file where it is large."""
    if not isinstance(result, _Filed):
        return result
    file = Path(result.file)
    content = file.read_bytes()
    file.unlink()
    return pickle.loads(content)


def _begin(driver: int, environment: dict[str, str], hold: str | None) -> None:
    """Make a worker one of this driver: its environment, its end, its lock.

    Ctrl-C reaches the whole process group; the driver decides, workers do not.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ.clear()
    os.environ.update(environment)
    threading.Thread(target=_follow, args=(driver,), name="pairsieve driver", daemon=True).start()
    if hold is not None:
        fcntl.flock(os.open(hold, os.O_RDWR | os.O_CREAT, 0o666), fcntl.LOCK_SH)  # until the process ends


def _follow(driver: int) -> None:
    """End this worker when its driver is gone: the fork server lives as long as a worker does."""
    with suppress(ProcessLookupError):
        while not _is_zombie(driver):
            os.kill(driver, 0)
            time.sleep(0.2)
    os._exit(1)


def _is_zombie(pid: int) -> bool:
    """Whether a process has ended and its parent has not looked yet: one that waits for our output never would."""
    with suppress(OSError):  # no /proc, or the process is gone
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    return False


@contextmanager
def _signals_wait() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM come after the block: a starting worker is not yet among those to kill."""
    if threading.current_thread() is not threading.main_thread():  # where Python handles no signals
        yield
        return
    came: list[int] = []
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    ours = {number: handler for number, handler in handlers.items() if handler is not None}  # None: not Python's
    for number in ours:
        signal.signal(number, lambda number, frame: came.append(number))
    try:
        yield
    finally:
        for number, handler in ours.items():
            signal.signal(number, handler)
        if came:
            signal.raise_signal(came[0])


@contextmanager
def _main_not_imported() -> Iterator[None]:
    """Keep multiprocessing from running the user's script again in each worker.

    Tasks and filters are imported by module name, so workers do not need ``__main__``; without
    this a script would have to hide ``pairsieve.run`` behind ``if __name__ == "__main__"``.
    """
    main = sys.modules["__main__"]
    hidden = {name: main.__dict__.pop(name) for name in ("__file__", "__spec__") if name in main.__dict__}
    main.__dict__["__spec__"] = None
    try:
        yield
    finally:
        for name, value in hidden.items():
            main.__dict__[name] = value
