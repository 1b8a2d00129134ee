"""What an engine does: call a task on many items in any order, anywhere, and give results as they come.

A failed item does not stop the others.  What failed is gathered and raised at the end.
"""

import os
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from pairsieve.schemas.errors import PairsieveError, PoolError, ShardError

Item = TypeVar("Item")
Result = TypeVar("Result")
Task = Callable[[Item], Result]
ATTEMPTS = 3
"""How often an item may kill its worker before it is set aside."""


@dataclass(frozen=True)
class Needs:
    """What a task's workers need: CPUs and GPUs each, and whether to keep them (they hold models).

    With ``gpu_optional`` the GPUs are taken only where there are any.
    """

    cpus: float = 1.0
    gpus: float = 0.0
    stateful: bool = False
    gpu_optional: bool = True


@dataclass(frozen=True)
class Failure:
    """An item whose task raised: its label, the error's line, and whether the user's input is to blame."""

    label: str
    message: str
    is_input: bool
    detail: str = ""


class Engine(Protocol):
    """Runs tasks; the same task gives the same bytes on every engine."""

    name: str

    def map(
        self, task: Task[Item, Result], items: Sequence[Item], needs: Needs, label: str
    ) -> Iterator[tuple[int, Result]]:
        """(position of the item, result) as they come; raises ``ShardError`` or ``PoolError`` at the end."""
        ...

    def close(self) -> None:
        """Stop the workers."""
        ...


def guarded(task: Callable[[Any], Any], item: Any, label: str) -> Any:
    """The task's result, or a ``Failure``: an exception must not take the other items down."""
    try:
        return task(item)
    except PairsieveError as error:
        return Failure(label, str(error), isinstance(error, PoolError))
    except Exception as error:  # whatever a filter or a codec raises belongs to this shard
        text = str(error).splitlines()[0] if str(error) else ""
        last = traceback.extract_tb(error.__traceback__)[-1]
        where = f"({last.filename}:{last.lineno})"
        return Failure(label, f"{type(error).__name__}: {text} {where}", False, traceback.format_exc())


def label_of(label: str, item: Any) -> str:
    """How an item is called in messages."""
    index = getattr(item, "index", None)
    return f"{label}, shard {index:05d}" if isinstance(index, int) else label


def raise_for(failures: Sequence[Failure]) -> None:
    """Raise one error for what failed; nothing if nothing did."""
    if not failures:
        return
    first = failures[0]
    if first.is_input:
        raise PoolError(first.message)
    others = f" (and {len(failures) - 1} more)" if len(failures) > 1 else ""
    detail = f"\n{first.detail}" if first.detail and os.environ.get("PAIRSIEVE_DEBUG") else ""
    raise ShardError(
        f"{first.label}{others} failed: {first.message}; all others are done, the same command resumes{detail}"
    )
