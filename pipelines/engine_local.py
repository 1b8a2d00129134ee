"""The local engine: this process for one worker, a process pool for more.  Starts in well under a second.

Workers come from a fork server, never from a fork of this process, whose threads would not survive it.
"""

import multiprocessing
import os
import pickle
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any, TypeVar
from uuid import uuid4

from pairsieve.pipelines.engine import ATTEMPTS, Failure, Needs, Task, guarded, label_of, raise_for

Item = TypeVar("Item")
Result = TypeVar("Result")

_CURRENT: dict[str, Callable[[Any], Any]] = {}
"""In a worker process: the task at hand, unpickled once rather than once an item."""


class LocalEngine:
    """Runs tasks on this machine."""

    name = "local"

    def __init__(self, workers: int | None = None) -> None:
        """Start nothing yet; ``workers`` None = one for each CPU that this process may use."""
        self.workers = workers or cpus()
        self._pool: ProcessPoolExecutor | None = None

    def map(
        self, task: Task[Item, Result], items: Sequence[Item], needs: Needs, label: str
    ) -> Iterator[tuple[int, Result]]:
        """See ``Engine.map``."""
        results = (
            self._here(task, items, label) if min(self.workers, len(items)) <= 1 else self._there(task, items, label)
        )
        failures: list[Failure] = []
        for i, result in results:
            if isinstance(result, Failure):
                failures.append(result)
            else:
                yield i, result
        raise_for(failures)

    def _here(self, task: Callable[[Any], Any], items: Sequence[Any], label: str) -> Iterator[tuple[int, Any]]:
        for i, item in enumerate(items):
            yield i, guarded(task, item, label_of(label, item))

    def _there(self, task: Callable[[Any], Any], items: Sequence[Any], label: str) -> Iterator[tuple[int, Any]]:
        token, payload = uuid4().hex, pickle.dumps(task)
        waiting = list(range(len(items)))[::-1]
        running: dict[Future[Any], int] = {}
        try:
            while waiting or running:
                while waiting and len(running) < 2 * self.workers:
                    i = waiting.pop()
                    running[self._submit(token, payload, items[i], label)] = i
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    i = running.pop(future)
                    if isinstance(future.exception(), BrokenProcessPool):
                        suspects = sorted([i, *running.values()])
                        running.clear()
                        self._drop_pool()
                        yield from self._alone(token, payload, [(k, items[k]) for k in suspects], label)
                        break
                    yield i, future.result()
        except BaseException:
            self._kill()
            raise

    def _alone(
        self, token: str, payload: bytes, suspects: Sequence[tuple[int, Any]], label: str
    ) -> Iterator[tuple[int, Any]]:
        """Items that were under way when a worker died, one at a time, so that the guilty one is known."""
        for i, item in suspects:
            result: Any = Failure(label_of(label, item), f"killed its worker {ATTEMPTS} times", False)
            for _ in range(ATTEMPTS - 1):
                future = self._submit(token, payload, item, label)
                if not isinstance(future.exception(), BrokenProcessPool):
                    result = future.result()
                    break
                self._drop_pool()
            yield i, result

    def _submit(self, token: str, payload: bytes, item: Any, label: str) -> Future[Any]:
        if self._pool is None:
            context = multiprocessing.get_context("forkserver")
            self._pool = ProcessPoolExecutor(self.workers, mp_context=context, initializer=_ignore_interrupt)
        with _main_not_imported():
            return self._pool.submit(_call, token, payload, item, label)

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


def cpus() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _call(token: str, payload: bytes, item: Any, label: str) -> Any:
    """In a worker: run the task on one item."""
    if token not in _CURRENT:
        _CURRENT.clear()
        _CURRENT[token] = pickle.loads(payload)
    return guarded(_CURRENT[token], item, label_of(label, item))


def _ignore_interrupt() -> None:
    """Ctrl-C reaches the whole process group; the driver decides, workers do not."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


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
