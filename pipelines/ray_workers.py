"""A set of like Ray actors that take items one at a time; what dies is replaced, what it held is done again.

Ray restarts nothing here and retries nothing: an actor that Ray restarts may wait for ever for a place that
a lost node took along, with items queued to it.  Here an item goes back to whichever worker is free.  A shard
that kills its worker is told from one whose node went away: only deaths on nodes that still live count.
An item costs the driver 0.6 CPU-milliseconds; its memory is that of the items under way.
"""

import logging
import pickle
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Any
from uuid import uuid4

from pairsieve.pipelines.capacity import refusal
from pairsieve.pipelines.engine import ATTEMPTS, Capacity, Failure, Needs, label_of
from pairsieve.pipelines.ray_worker import Site, Worker
from pairsieve.schemas.errors import PairsieveError, UserError

LOSSES = 10
"""How often an item may lose its worker, nodes included: a shard that takes whole nodes down must end too."""
LOOK = 5.0
"""Seconds between looks at the cluster: nodes come and go."""
PATIENCE = 600.0
"""Seconds that a run waits for a node that could hold a worker, once none is left."""

_log = logging.getLogger("pairsieve")


@dataclass
class Work:
    """Items of one task on their way: the next one, those to do again, and the nodes where each lost its worker."""

    task: Any
    items: Sequence[Any]
    label: str
    token: str = field(default_factory=lambda: uuid4().hex)
    position: int = 0
    again: deque[int] = field(default_factory=deque)
    deaths: dict[int, list[str]] = field(default_factory=dict)

    @property
    def left(self) -> int:
        """Items that no worker has now."""
        return len(self.items) - self.position + len(self.again)

    def take(self) -> int:
        """The next item; those to do again come first."""
        if self.again:
            return self.again.popleft()
        self.position += 1
        return self.position - 1


@dataclass(eq=False)
class Member:
    """One actor; ``node`` is known once it has started."""

    actor: Any
    node: str = ""


class Workers:
    """Actors with the same needs."""

    def __init__(
        self, ray: Any, needs: Needs, chosen: int | None, site: Site | None, capacity: Callable[[], Capacity]
    ) -> None:
        """Start none yet; ``chosen`` None = as many as fit on the nodes of the moment."""
        ray.cloudpickle.register_pickle_by_value(sys.modules[Worker.__module__])
        self._ray, self.needs, self._chosen, self._site, self._capacity = ray, needs, chosen, site, capacity
        self._kind = ray.remote(Worker).options(
            num_cpus=needs.cpus,
            num_gpus=needs.gpus,
            memory=needs.memory or None,
            max_restarts=0,
            max_task_retries=0,
            scheduling_strategy="SPREAD",
        )
        self._members: list[Member] = []
        self._idle: list[Member] = []
        self._calls: dict[Any, tuple[Member, int | None]] = {}
        self._looked = self._seen = -inf
        self._start_error = ""

    def run(self, task: Any, items: Sequence[Any], label: str) -> Iterator[tuple[int, Any]]:
        """(position, result) of each item as they come; ``task`` is a reference to the pickled task."""
        work = Work(task, items, label)
        self._looked, self._seen = -inf, time.monotonic()
        try:
            while work.left or self._busy:
                self._hand_out(work)
                self._hire(work)
                for ref in self._finished():
                    yield from self._settle(ref, work)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Kill all of them."""
        for member in self._members:
            self._ray.kill(member.actor)
        self._members, self._idle, self._calls = [], [], {}

    @property
    def _busy(self) -> int:
        """Workers that have an item."""
        return sum(i is not None for _, i in self._calls.values())

    def _hand_out(self, work: Work) -> None:
        """Give every idle worker an item."""
        while self._idle and work.left:
            member, i = self._idle.pop(), work.take()
            ref = member.actor.call.remote(work.token, [work.task], pickle.dumps(work.items[i]), work.label)
            self._calls[ref] = (member, i)

    def _hire(self, work: Work) -> None:
        """As many workers as the cluster holds, and no more than there are items."""
        now = time.monotonic()
        if not work.left or now - self._looked < LOOK:
            return
        self._looked = now
        capacity = self._capacity()
        self._check_patience(now, capacity, work.label)
        limit = self._chosen or max(1, capacity.slots(self.needs))
        for _ in range(min(limit, work.left + self._busy) - len(self._members)):
            member = Member(self._kind.remote())
            self._members.append(member)
            self._calls[member.actor.hello.remote(self._site)] = (member, None)

    def _check_patience(self, now: float, capacity: Capacity, label: str) -> None:
        """Raise where no worker is left and none can come; say so where others hold the cluster."""
        if any(member.node for member in self._members):
            self._seen = now
        if now - self._seen < PATIENCE:
            return
        line = refusal(label, self.needs, capacity) or self._start_error
        if line:
            raise PairsieveError(f"{line}; waited {PATIENCE:g} s for a worker, the same command resumes")
        _log.warning("%s waits for a worker: others use the cluster", label)
        self._seen = now

    def _finished(self) -> list[Any]:
        """Calls that ended: waits for one, but not for long, and takes all there are."""
        calls = list(self._calls)
        if not calls:
            time.sleep(LOOK / 10)
            return []
        done, rest = self._ray.wait(calls, num_returns=1, timeout=LOOK)
        return [*done, *self._ray.wait(rest, num_returns=len(rest), timeout=0)[0]] if done and rest else done

    def _settle(self, ref: Any, work: Work) -> Iterator[tuple[int, Any]]:
        """Take a call's result; give the item's, if it has one."""
        member, i = self._calls.pop(ref)
        try:
            value = self._ray.get(ref)
        except self._ray.exceptions.RayTaskError as error:  # ours, outside the task: it cannot be loaded
            raise PairsieveError(f"{work.label}: a Ray worker cannot begin: {_line(error.cause)}") from None
        except self._ray.exceptions.RayError as error:
            self._bury(member)
            if i is None:
                self._start_error = f"Ray starts no worker: {_line(error)}"
            elif failure := self._count_death(i, member, error, work):
                yield i, failure
            return
        if i is None:
            self._welcome(member, *value)
        else:
            self._idle.append(member)
            yield i, pickle.loads(value)

    def _welcome(self, member: Member, node: str, problem: str | None) -> None:
        if problem is not None:
            raise UserError(f"node {name_of(self._ray, node)}: {problem}")
        member.node, self._start_error = node, ""
        self._idle.append(member)

    def _bury(self, member: Member) -> None:
        """Make sure that it is gone; one that had started is replaced at once."""
        self._ray.kill(member.actor)
        self._members.remove(member)
        if member.node:
            self._looked = -inf

    def _count_death(self, i: int, member: Member, error: Exception, work: Work) -> Failure | None:
        """The failure of an item that has killed enough workers; else it goes back, and nothing is said.

        Innocent are nodes that went away with the worker, and a connection that broke: a worker's own death is
        reported by its node.
        """
        lost = self._ray.exceptions
        is_own = isinstance(error, lost.OutOfMemoryError) or (
            isinstance(error, lost.ActorDiedError) and not error.preempted
        )
        deaths = work.deaths.setdefault(i, [])
        deaths.append(member.node if is_own else "")
        alive = {node["NodeID"] for node in self._ray.nodes() if node["Alive"]}
        if sum(node in alive for node in deaths) >= ATTEMPTS:
            how = " (out of memory)" if isinstance(error, lost.OutOfMemoryError) else ""
            return Failure(label_of(work.label, work.items[i]), f"killed its worker {ATTEMPTS} times{how}", False)
        if len(deaths) >= LOSSES:
            return Failure(label_of(work.label, work.items[i]), f"lost its worker's node {LOSSES} times", False)
        work.again.append(i)
        return None


def name_of(ray: Any, node: str) -> str:
    """What users call a node."""
    return next((str(found["NodeName"]) for found in ray.nodes() if found["NodeID"] == node), node)


def _line(error: BaseException | None) -> str:
    """Kind and first line of an error."""
    return f"{type(error).__name__}: {str(error).strip()}".splitlines()[0]
