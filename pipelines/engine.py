"""What an engine does: call a task on many items in any order, anywhere, and give results as they come.

A failed item does not stop the others.  What failed is gathered and raised at the end.
"""

import os
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from pairsieve.pipelines.storage_errors import explain, is_exhausted
from pairsieve.schemas.errors import (
    AccessError,
    DamagedFileError,
    PairsieveError,
    PoolError,
    ShardError,
    StorageError,
    UserError,
)

Item = TypeVar("Item")
Result = TypeVar("Result")
Task = Callable[[Item], Result]
ATTEMPTS = 3
"""How often an item may kill its worker before it is set aside."""


@dataclass(frozen=True)
class Needs:
    """What each of a task's workers needs: CPUs, GPUs, bytes of memory; and whether it holds models.

    With ``gpu_optional`` the GPUs are taken only where there are any.  ``is_light``: it only compares and
    counts small columns, so that it may run in the driver where that is cheaper than starting workers.
    """

    cpus: float = 1.0
    gpus: float = 0.0
    stateful: bool = False
    gpu_optional: bool = True
    memory: int = 0
    is_light: bool = True


@dataclass(frozen=True)
class Machine:
    """What one machine has for workers."""

    cpus: float
    gpus: float
    memory: int

    def slots(self, needs: Needs) -> int:
        """Workers of these needs that fit together."""
        asked = ((needs.cpus, self.cpus), (needs.gpus, self.gpus), (needs.memory, self.memory))
        return int(min((has / wants + 1e-9 for wants, has in asked if wants), default=self.cpus))


@dataclass(frozen=True)
class Capacity:
    """The machines of an engine, and what they are called together in messages."""

    machines: tuple[Machine, ...]
    place: str

    def slots(self, needs: Needs) -> int:
        """Workers of these needs that fit on all machines together."""
        return sum(machine.slots(needs) for machine in self.machines)


@dataclass(frozen=True)
class Failure:
    """An item whose task raised: its label, the error's line, and whether the user's input is to blame.

    With ``stops`` every other item would fail alike: the engine begins no more.  ``is_users``: something else that
    the user gave must be mended first.
    """

    label: str
    message: str
    is_input: bool
    detail: str = ""
    is_damage: bool = False
    stops: bool = False
    is_users: bool = False


class Engine(Protocol):
    """Runs tasks; the same task gives the same bytes on every engine."""

    name: str

    def map(
        self, task: Task[Item, Result], items: Sequence[Item], needs: Needs, label: str
    ) -> Iterator[tuple[int, Result]]:
        """(position of the item, result) as they come; raises ``ShardError`` or ``PoolError`` at the end.

        Raises ``StorageError`` at once where the disk is full or the object store gone.
        """
        ...

    def capacity(self) -> Capacity:
        """What there is for workers now."""
        ...

    def close(self) -> None:
        """Stop the workers."""
        ...


_STOPPING = (StorageError, AccessError)


def guarded(task: Callable[[Any], Any], item: Any, label: str) -> Any:
    """The task's result, or a ``Failure``: an exception must not take the other items down."""
    try:
        return task(item)
    except PairsieveError as error:
        is_damage, stops = isinstance(error, DamagedFileError), isinstance(error, _STOPPING)
        is_input, is_users = isinstance(error, PoolError), isinstance(error, UserError)
        return Failure(label, str(error), is_input, is_damage=is_damage, stops=stops, is_users=is_users)
    except Exception as error:  # whatever a filter or a codec raises belongs to this shard
        if is_exhausted(error):
            return Failure(label, str(explain(error, label)), False, stops=True)
        text = str(error).splitlines()[0] if str(error) else ""
        last = traceback.extract_tb(error.__traceback__)[-1]
        where = f"({last.filename}:{last.lineno})"
        return Failure(label, f"{type(error).__name__}: {text} {where}", False, traceback.format_exc())


def label_of(label: str, item: Any) -> str:
    """How an item is called in messages."""
    index = getattr(item, "index", None)
    return f"{label}, shard {index:05d}" if isinstance(index, int) else label


@dataclass
class Failures:
    """What failed: the first few by name, all of them by number, so that memory stays flat."""

    named: list[Failure] = field(default_factory=list)
    count: int = 0

    NAMED = 10

    def add(self, failure: Failure) -> None:
        """Keep the failure if it is one of the first by label; what stops all comes first, what can be mended last."""
        self.count += 1
        self.named = sorted([*self.named, failure], key=lambda f: (not f.stops, f.is_damage, f.label))[: self.NAMED]

    def raise_if_any(self) -> None:
        """Raise one error for what failed; nothing if nothing did."""
        if not self.named:
            return
        first = self.named[0]
        if first.stops:
            raise StorageError(first.message)
        if first.is_damage:
            raise DamagedFileError(first.message)
        if first.is_input:
            raise PoolError(first.message)
        if first.is_users:
            raise UserError(f"{first.label}{self._others()}: {first.message}")
        detail = f"\n{first.detail}" if first.detail and os.environ.get("PAIRSIEVE_DEBUG") else ""
        raise ShardError(
            f"{first.label}{self._others()} failed: {first.message}; "
            f"all others are done, the same command resumes{detail}"
        )

    def _others(self) -> str:
        if self.count == 1:
            return ""
        names = [f.label.rpartition(" ")[2] for f in self.named[1:]]
        rest = self.count - len(self.named)
        return f" (and {', '.join(names)}{f' and {rest} more' if rest else ''})"
