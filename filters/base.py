"""What every filter is: typed settings, the columns it reads and writes, a score and a verdict.

Scoring measures and is stored; keeping only compares stored columns.  So a setting marked
:data:`Threshold` can change without anything being measured again.  Three kinds differ in what
the verdict may see: :class:`Filter` one batch, :class:`PoolFilter` also a summary of the whole
pool, :class:`GroupFilter` the pairs that share a key, wherever they lie.

A batch costs one Arrow record batch per call; no kind may hold the pool in memory.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.util import find_spec
from typing import Annotated, Any, ClassVar, TypeAlias, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from pairsieve.filters._shared import Shared
from pairsieve.schemas.errors import MissingExtraError

T = TypeVar("T")


class UnknownColumnError(ValueError):
    """A setting names a column that is not there; ``column`` lets the plan say who would write it."""

    def __init__(self, column: str, available: Iterable[str]) -> None:
        """Suggest the column that was meant, or list them all."""
        names = {name.casefold(): name for name in sorted(available)}
        near = get_close_matches(column.casefold(), names, n=1)
        hint = f"did you mean {names[near[0]]!r}?" if near else f"there are: {', '.join(names.values())}"
        super().__init__(f"no column {column!r} here; {hint}")
        self.column = column


SECRET = "secret"
"""Type of a validator's ``PydanticCustomError`` where the value may be a secret: messages do not repeat it."""


LEFT = "_left"
"""What ``score_first`` calls its array of pairs that it leaves."""


class ThresholdMark:
    """Marks a setting that only ``keep`` reads: it is no part of a step's fingerprint."""


Threshold: TypeAlias = Annotated[T, ThresholdMark()]
"""``Threshold[float]``: a setting that decides, but never changes what is measured."""


class RuntimeMark:
    """Marks a setting of how a machine does the work: it changes neither scores nor verdicts."""


Runtime: TypeAlias = Annotated[T, RuntimeMark()]
"""``Runtime[int]``: a setting that changes speed, never a value; no part of a fingerprint."""


class Settings(BaseModel):
    """Typed settings: immutable, and an unknown name is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


@dataclass(frozen=True)
class Resources:
    """What one worker needs to run a filter: CPU cores, GPUs, bytes of memory (0 = not stated).

    ``gpu_optional``: a worker takes its GPUs where there are any, and works without.
    """

    cpus: float = 1.0
    gpus: float = 0.0
    memory: int = 0
    gpu_optional: bool = False


class AnyFilter(Settings, ABC):
    """Settings of one step and the functions that use them; see the three kinds below.

    Class attributes:
        reads: columns that must exist before the step.
        optional: columns the step uses where they exist.
        writes: columns that ``score`` gives, with their Arrow types.
        batch_rows: rows that ``score`` is given at most at once.
        whole_shard: ``score`` is given all pairs of a shard at once, and values may depend on which these are;
            the step needs ``of: pool`` and reads columns of the pool only.
        extra: the optional dependency group that ``needs`` belong to.
        shorthand: the setting that a bare value in the recipe stands for (``- where: "..."``).
        loads_model: ``open`` is expensive, so workers are kept for the whole pass.
        opens_fast: it takes about a second and little memory all the same: a small pool is scored in the driver.
        leaves: ``score_first`` may leave pairs, which ``score_all`` measures in a pass of their own.
        version: part of the fingerprint; raise it when the same settings measure another value.
        elsewhere: settings that a tool with the same step has, each with what to write here instead.
    """

    reads: ClassVar[tuple[str, ...]] = ()
    optional: ClassVar[tuple[str, ...]] = ()
    writes: ClassVar[Mapping[str, pa.DataType]] = {}
    batch_rows: ClassVar[int] = 8192
    whole_shard: ClassVar[bool] = False
    extra: ClassVar[str | None] = None
    shorthand: ClassVar[str | None] = None
    loads_model: ClassVar[bool] = False
    opens_fast: ClassVar[bool] = False
    leaves: ClassVar[bool] = False
    version: ClassVar[int] = 1
    elsewhere: ClassVar[Mapping[str, str]] = {}

    def inputs(self, available: Mapping[str, pa.DataType]) -> tuple[str, ...]:
        """Columns that ``score`` reads with these settings, given the types of the columns so far."""
        return self.reads + tuple(c for c in self.optional if c in available)

    def keep_inputs(self, available: Mapping[str, pa.DataType]) -> tuple[str, ...]:
        """Columns of earlier steps (or the pool) that ``keep`` itself reads; few and small."""
        return ()

    def outputs(self, available: Mapping[str, pa.DataType]) -> dict[str, pa.DataType]:
        """Columns that ``score`` writes with these settings, given the types of the columns so far."""
        return dict(self.writes)

    def needs(self) -> tuple[str, ...]:
        """Modules of the optional dependency group that these settings import."""
        return ()

    def check(self, available: Mapping[str, pa.DataType]) -> None:
        """Refuse what cannot work on these columns; raises ``UserError`` or ``ValueError`` with one line."""

    def check_after(self, earlier: Sequence["AnyFilter"]) -> None:
        """Refuse what cannot work after these filters of earlier steps; raises as ``check``."""

    def files(self) -> tuple[str, ...]:
        """Local files whose content decides the scores; their digests enter the fingerprint."""
        return ()

    def resources(self) -> Resources:
        """What one worker needs."""
        return Resources()

    def prepare(self) -> tuple[str, ...]:
        """Called once a run, before workers open the filter; gives lines for the user, as of its files."""
        return ()

    def imports(self) -> tuple[str, ...]:
        """Modules that ``open`` imports and that survive a fork: imported once for all workers of a machine."""
        return ()

    def share(self, shared: Shared) -> None:
        """Called before ``open``: what all filters of the worker may hold of images in common."""

    def open(self) -> None:
        """Load models or connections, once per worker, before the first ``score``."""

    def close(self) -> None:
        """Release what ``open`` took."""

    def score(self, pairs: pa.RecordBatch) -> dict[str, pa.Array]:
        """Measure each pair: one array of ``len(pairs)`` for each column of ``outputs``.

        A pair's value depends on that pair and the settings alone, never on its neighbours (but see
        ``whole_shard``).
        What cannot be measured is null; a broken pair must not raise.
        """
        return {}

    def score_all(self, batches: Iterator[pa.RecordBatch]) -> Iterator[dict[str, pa.Array]]:
        """Measure batch after batch: what ``score`` gives for each, in their order.

        Override it to work ahead, as where a device computes while the next images are read and decoded.  What is
        taken from ``batches`` before its result is given is held in memory: a few hundred images each.
        """
        for batch in batches:
            yield self.score(batch)

    def score_first(self, batches: Iterator[pa.RecordBatch]) -> Iterator[dict[str, pa.Array]]:
        """As ``score_all``, but pairs that take long may be left: ``LEFT`` says which, bool[rows].

        Their other columns are not looked at.  A filter that does so says ``leaves``.
        """
        return self.score_all(batches)

    def facts(self) -> pa.Table | None:
        """What was noticed of the work since the last call, not of the pairs: times, loads; None: nothing.

        It depends on the machine and the day, so it is written beside the scores, and no run reads it.
        """
        return None

    def advice(self, facts: pa.Table) -> tuple[str, ...]:
        """What a user should be told after a pass, a line each, given ``total`` of the facts of all its shards."""
        return ()

    @staticmethod
    def total(facts: pa.Table) -> pa.Table:
        """The facts of several shards, one after the other, as few rows: what ``advice`` reads."""
        return facts


class Filter(AnyFilter):
    """Sees one batch of one shard."""

    @abstractmethod
    def keep(self, pairs: pa.RecordBatch) -> pa.Array:
        """Say for each scored pair whether it stays.

        Either a boolean array (null or false drops), or a string array of reasons (plain or
        dictionary-encoded, as ``first_reason`` gives) where null means that the pair stays.
        """


ADDED = pa.list_(
    pa.struct(
        [
            pa.field("text", pa.string(), nullable=False),
            pa.field("source", pa.string(), nullable=False),
            pa.field("score", pa.float32()),
            pa.field("reason", pa.string()),
        ]
    )
)
"""Pairs that a step adds: text, the column it comes from, its score, and why it goes (null: it stays)."""


class PoolFilter(AnyFilter):
    """Also sees a small, mergeable summary of the scope (the survivors, or the pool with ``of: pool``).

    Until ``is_settled`` the engine summarizes every shard, merges the summaries in any order and
    lets ``settle`` reduce them to what ``keep`` and the next round need: a dict of JSON values and, where
    they are many, numpy arrays; ``{}`` at first.  Merging must be associative and commutative, so that the
    result does not depend on workers or shard order.

    What a pair gets from the whole scope is derived, not measured: no score, so that it is made again by every
    run and verdicts of later steps may compare it.  Tables about the whole scope are for people and tools.
    """

    derives: ClassVar[Mapping[str, pa.DataType]] = {}
    """Columns that ``derive`` gives, with their types: small ones."""

    def derived(self, available: Mapping[str, pa.DataType]) -> dict[str, pa.DataType]:
        """Columns that ``derive`` gives with these settings."""
        return dict(self.derives)

    def summary_inputs(self, available: Mapping[str, pa.DataType]) -> tuple[str, ...]:
        """Columns that ``summarize`` and ``derive`` are given, besides those of ``keep``; lists and bytes too.

        With such columns a shard comes in batches of up to 131,072 pairs, else in one.
        """
        return ()

    def adds(self) -> str | None:
        """The derived column, of type ``ADDED``, with the pairs that the step adds to each pair; None: it adds none.

        Added pairs have the parent's image and columns, and a text of their own; each has a verdict.  Nothing can be
        measured of them in the same run, so such a step is the last of its recipe.
        """
        return None

    def own_scores(self) -> tuple[str, ...]:
        """Columns that say something of a pair's own text, whoever brought them: pairs that are added have them not."""
        return ()

    def inner(self) -> tuple[str, ...]:
        """Derived columns that only ``keep`` reads, and that say no more than the verdict: no dataset has them."""
        return ()

    @abstractmethod
    def is_settled(self, settled: Mapping[str, Any]) -> bool:
        """Whether ``keep`` needs no further round; true for ``{}`` where these settings need no summary."""

    @abstractmethod
    def summarize(self, pairs: pa.RecordBatch, settled: Mapping[str, Any]) -> Any:
        """Summary of one batch, given what earlier rounds settled."""

    @abstractmethod
    def merge(self, one: Any, other: Any) -> Any:
        """The summary of both."""

    @abstractmethod
    def settle(self, summary: Any, settled: Mapping[str, Any]) -> dict[str, Any]:
        """What this round decided, from the summary of the whole scope."""

    def derive(self, pairs: pa.RecordBatch, settled: Mapping[str, Any]) -> dict[str, pa.Array]:
        """Each pair of the scope's columns of ``derived``, once all is settled; ``keep`` is given them."""
        return {}

    def notes(self, settled: Mapping[str, Any]) -> tuple[str, ...]:
        """What a user should be told of what was settled, a line each."""
        return ()

    def tables(self, settled: Mapping[str, Any]) -> dict[str, pa.Table]:
        """Tables about the whole scope, once all is settled: views ``<step>_<name>`` of the catalog."""
        return {}

    @abstractmethod
    def keep(self, pairs: pa.RecordBatch, settled: Mapping[str, Any]) -> pa.Array:
        """As ``Filter.keep``, with what the rounds settled; derived columns are null outside the scope."""


class GroupFilter(AnyFilter):
    """Keeps one pair of each group that shares a key, wherever its members lie.

    ``score`` writes the key columns named by ``key_columns``.  The engine groups them one after
    the other: the first pair by ``order`` (then uid, shard, row) stays, the others get
    ``duplicate_of``, the uid of the pair that stays.  A null key groups with nothing.
    """

    @abstractmethod
    def key_columns(self, available: Mapping[str, pa.DataType]) -> dict[str, str]:
        """The columns of ``score`` that hold keys, in the order in which they group, each with its reason."""

    def order(self) -> str:
        """DuckDB ``ORDER BY`` list over the columns so far: the best pair of a group comes first."""
        return ""


class NearFilter(GroupFilter):
    """Links pairs that share a key and are alike, and keeps one pair of each cluster that the links make.

    ``score`` writes ``key_column``, a list of 64-bit keys a pair; two pairs are candidates that have the same key at
    the same place of their lists.  Within the pairs that share a key each is compared with the best of them
    (``order``) and with the one before it, so that the work is linear however many they are; the rounds go on among
    those that stay until no further pair is linked.  Clusters are the connected components; the best pair of each
    stays, the others get its uid as ``duplicate_of``.  A null list links with nothing.
    """

    @property
    @abstractmethod
    def key_column(self) -> str:
        """The column of ``score`` with keys: a list, or fixed-size list, of uint64; few tens a pair."""

    @property
    @abstractmethod
    def reason(self) -> str:
        """Why a pair goes that is like another."""

    def key_columns(self, available: Mapping[str, pa.DataType]) -> dict[str, str]:
        return {self.key_column: self.reason}

    @abstractmethod
    def compared(self, available: Mapping[str, pa.DataType]) -> tuple[str, ...]:
        """Columns that ``alike`` is given, of earlier steps or the pool, or own ones: strings or of a fixed size."""

    @abstractmethod
    def alike(self, one: pa.RecordBatch, other: pa.RecordBatch) -> NDArray[np.bool_]:
        """Whether row i of one is like row i of the other, bool[rows]; symmetric, a matter of the two rows alone."""


class WithinFilter(GroupFilter):
    """Decides within groups of pairs that share a number, seeing all members of a group at once.

    ``score`` writes ``group_column`` (int32, from 0; null: in no group).  ``losers`` says of each member of a group
    whether it goes; those that go get ``duplicate_of``, the uid of the member that they lose to, or, where that one
    goes too, of the one that stays in the end.  Groups are taken one at a time, wherever their members lie; a group
    must fit into a worker's memory.
    """

    @property
    @abstractmethod
    def group_column(self) -> str:
        """The column of ``score`` with the number of the group."""

    @property
    @abstractmethod
    def reason(self) -> str:
        """Why a pair goes."""

    def key_columns(self, available: Mapping[str, pa.DataType]) -> dict[str, str]:
        return {self.group_column: self.reason}

    @abstractmethod
    def compared(self, available: Mapping[str, pa.DataType]) -> tuple[str, ...]:
        """Columns that ``losers`` is given, of earlier steps or the pool, or own ones."""

    @abstractmethod
    def losers(self, members: pa.RecordBatch) -> NDArray[np.int64]:
        """The place of the member that each member loses to, -1 for one that stays; int64[rows].

        Members come by ``order``, the best first; the answer depends on them and their order alone.
        """


class Opened:
    """The filters of one worker, each opened at its first use.

    A copy is opened: the plan's own filters hold no model, so that they can still travel to workers.
    """

    def __init__(self) -> None:
        """Nothing is opened yet."""
        self._opened: dict[str, AnyFilter] = {}
        self._shared = Shared()

    def get(self, step: str, made: AnyFilter) -> AnyFilter:
        """The opened filter of a step."""
        if step not in self._opened:
            opened = made.model_copy()
            opened.share(self._shared)
            opened.open()
            self._opened[step] = opened
        return self._opened[step]

    def close(self) -> None:
        """Close all of them."""
        while self._opened:
            self._opened.popitem()[1].close()
        self._shared.clear()


def scoring_settings(made: AnyFilter) -> dict[str, Any]:
    """The settings that decide what is measured, as JSON values under their names in recipes.

    The heart of a step's fingerprint.
    """
    return made.model_dump(mode="json", by_alias=True, exclude=_marked(made, ThresholdMark, RuntimeMark))


def deciding_settings(made: AnyFilter) -> dict[str, Any]:
    """The settings that only decide, as JSON values under their names in recipes."""
    return made.model_dump(mode="json", by_alias=True, include=_marked(made, ThresholdMark))


def _marked(made: Settings, *marks: type) -> dict[str, Any]:
    """The settings that carry one of the marks, as pydantic takes them to include or exclude; of nested ones too."""
    found: dict[str, Any] = {}
    for name, field in type(made).model_fields.items():
        if any(isinstance(mark, marks) for mark in field.metadata):
            found[name] = True
        elif isinstance(value := getattr(made, name), Settings) and (inner := _marked(value, *marks)):
            found[name] = inner
    return found


BESIDES = ("transformers",)
"""What only some settings of a filter need, and its group of dependencies does not bring."""


def require_extra(made: AnyFilter) -> None:
    """Raise ``MissingExtraError`` with the pip command where packages that the filter imports are missing."""
    missing = [name for name in made.needs() if find_spec(name) is None]
    if missing:
        extra = [f"'pairsieve[{made.extra}]'"] if made.extra else []
        what = " ".join([*extra, *(name for name in missing if not extra or name in BESIDES)])
        raise MissingExtraError(f"needs {', '.join(missing)}: pip install {what}")


def first_reason(rows: int, *tests: tuple[pa.Array, str]) -> pa.DictionaryArray:
    """The reason of the first test that holds for each row, null where none does; a null does not hold.

    The fast way to a verdict: about 2 ns a row and test.
    """
    codes = np.full(rows, len(tests), np.int8)
    for i, (test, _) in reversed(list(enumerate(tests))):
        codes[pc.fill_null(test, False).to_numpy(zero_copy_only=False)] = i
    names = pa.array([reason for _, reason in tests], pa.string())
    return pa.DictionaryArray.from_arrays(pa.array(codes, mask=codes == len(tests)), names)


def batches(pairs: pa.RecordBatch, rows: int) -> Iterator[pa.RecordBatch]:
    """The batch in slices of at most ``rows``."""
    for start in range(0, pairs.num_rows, rows):
        yield pairs.slice(start, rows)
