"""The steps of a run decided again in memory, with other thresholds: who stays at a step, and what becomes of them.

Every verdict is the filter's own ``keep`` over stored columns; fractions of the pool are counted and equal keys grouped
anew.  A pair that reaches a step which never measured it stops there, as not yet measured.  Steps that compare pairs
with each other (near duplicates, balances) are taken at the verdicts of the run.  A walk over 10 million pairs and
seven steps takes a few tenths of a second on a core; held are 5 bytes a pair and step, and columns of moved steps.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pairsieve.filters.base import AnyFilter, Filter, GroupFilter, PoolFilter
from pairsieve.pipelines.explore_table import LoadedRun, Mask, column_array, is_alone, is_keyed, is_summed, key_table
from pairsieve.pipelines.shard import reasons
from pairsieve.pipelines.sql import quote
from pairsieve.pipelines.step import Step
from pairsieve.pipelines.workshop import best_first
from pairsieve.schemas.errors import PairsieveError

POOL = -1
UNMEASURED = -2
"""Of the first step; of step k it is ``UNMEASURED - k``."""

Numbers = NDArray[np.int64]


class SupersededError(Exception):
    """A later question came; nobody waits for this one."""


@dataclass
class Walk:
    """What becomes of each pair of the pool.

    ``fate`` is the place of the step that drops it, the number of steps where it is kept, -1 where the pool could not
    give it, ``UNMEASURED - k`` where step k never measured it.  ``settled`` is what steps drew from their scope, and
    ``taken`` are steps whose verdicts are those of the run although other pairs reach them now.
    """

    fate: NDArray[np.int16]
    settled: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    taken: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Groups:
    """Pairs that share a key, group by group, the best of each first."""

    numbers: Numbers
    group: Numbers


class Ladder:
    """The steps of a loaded run; one walk at a time."""

    def __init__(self, con: duckdb.DuckDBPyConnection, loaded: LoadedRun) -> None:
        """Group what shares keys, and find the steps whose stored columns do not tell the run's own verdicts."""
        self._con, self._loaded = con, loaded
        self._steps = loaded.plan.steps
        self._groups = {step.id: self._grouped(step) for step in self._steps if is_keyed(step)}
        self._arrays: dict[str, pa.Array] = {}
        self._batches: dict[str, tuple[Numbers, pa.RecordBatch]] = {}
        self.taken = {s.id for s in self._steps if not (is_alone(s) or is_keyed(s) or is_summed(s))}
        self._verify()

    def reconnect(self, con: duckdb.DuckDBPyConnection) -> None:
        """Read columns from another connection to the same tables from now on."""
        self._con = con

    @property
    def kept(self) -> int:
        """The fate of a kept pair."""
        return len(self._steps)

    def reached(self, k: int) -> Mask:
        """The pairs that step ``k`` decided on in the run."""
        return np.asarray(self._loaded.fate >= k)

    def measured(self, k: int) -> Mask:
        """Those of them whose verdict can be told."""
        return np.asarray(self.reached(k) & self._loaded.decided[self._steps[k].id].known)

    def walk(self, k: int = 0, made: AnyFilter | None = None, is_stale: Callable[[], bool] = lambda: False) -> Walk:
        """The fates with step ``k`` as ``made``, from it downwards; raises ``SupersededError`` where ``is_stale``."""
        alive = self.reached(k)
        found = Walk(self._loaded.fate.copy())
        for j in range(k, len(self._steps)):
            if is_stale():
                raise SupersededError
            step = self._steps[j]
            used = made if j == k and made is not None else step.filter
            known, stays = self._decide(j, step, used, alive, found)
            here = alive & known
            np.copyto(found.fate, UNMEASURED - j, where=alive ^ here)
            alive = here & stays
            np.copyto(found.fate, j, where=here ^ alive)
        np.copyto(found.fate, self.kept, where=alive)
        return found

    def column(self, name: str) -> pa.Array:
        """A column for all pairs of the pool, as filters see it; held from then on."""
        if name not in self._arrays:
            self._arrays[name] = column_array(self._con, self._loaded, name)
        return self._arrays[name]

    def _verify(self) -> None:
        """Take the run's verdicts where stored columns do not lead to them: a filter whose code changed, say."""
        while (differs := self.walk().fate != self._loaded.fate).any():
            here, there = self.walk().fate[differs], self._loaded.fate[differs]
            places = [UNMEASURED - here[here <= UNMEASURED], here[here >= 0], there[there >= 0]]
            first = min(int(place.min()) for place in places if len(place))
            if first >= self.kept or self._steps[first].id in self.taken:
                raise PairsieveError(f"{self._loaded.root}: verdicts do not follow from stored scores; run it again")
            self.taken.add(self._steps[first].id)

    def _decide(self, j: int, step: Step, made: AnyFilter, alive: Mask, found: Walk) -> tuple[Mask, Mask]:
        """Whose verdict is known, and who then stays."""
        decided = self._loaded.decided[step.id]
        if step.id in self.taken:
            before = self.reached(j)
            if not np.array_equal(before, alive):
                found.taken.append(step.id)
            return before, np.asarray(self._loaded.fate > j)
        if is_keyed(step):
            return decided.known, self._best(step, alive & decided.known)
        if is_alone(step) and made is step.filter:
            return decided.known, decided.stays
        return decided.known, self._asked(j, step, made, alive & decided.known, found)

    def _asked(self, j: int, step: Step, made: AnyFilter, rows: Mask, found: Walk) -> Mask:
        """What the filter's own ``keep`` says of some pairs, after it has seen its scope where it needs that."""
        numbers, batch = self._batch(j, step, rows)
        settled: Mapping[str, Any] = {}
        if isinstance(made, PoolFilter):
            whole = self._loaded.given & self._loaded.decided[step.id].known if step.of_pool else rows
            settled = _settle(made, batch if whole is rows else self._taken(step, np.flatnonzero(whole)))
            found.settled[step.id] = settled
        verdict = made.keep(batch, settled) if isinstance(made, PoolFilter) else _plain(made).keep(batch)
        stays = np.zeros(len(rows), bool)
        stays[numbers] = reasons(verdict, len(numbers), step).is_null().to_numpy(zero_copy_only=False)
        return stays

    def _batch(self, j: int, step: Step, rows: Mask) -> tuple[Numbers, pa.RecordBatch]:
        """The small columns that ``keep`` sees; those of the pairs that reached the step in the run are held."""
        numbers = np.flatnonzero(rows)
        if not np.array_equal(rows, self.measured(j)):
            return numbers, self._taken(step, numbers)
        if step.id not in self._batches:
            self._batches[step.id] = (numbers, self._taken(step, numbers))
        return self._batches[step.id]

    def _taken(self, step: Step, numbers: Numbers) -> pa.RecordBatch:
        wanted: dict[str, str | None] = {**dict.fromkeys(step.keep_reads), **step.light}
        whole = len(numbers) == self._loaded.rows
        take = pa.array(numbers)
        found = {own or n: self.column(n) if whole else self.column(n).take(take) for n, own in wanted.items()}
        return pa.record_batch(found) if found else pa.record_batch([pa.nulls(len(numbers))], names=["_"])

    def _grouped(self, step: Step) -> list[_Groups]:
        assert isinstance(step.filter, GroupFilter)
        return [self._sorted(step, key, step.filter.order()) for key in step.keys]

    def _sorted(self, step: Step, key: str, order: str) -> _Groups:
        """Pairs of a key that several have."""
        keys = quote(key_table(self._loaded.table, step))
        sql = f"""
            WITH _keys AS (SELECT number AS _number, {quote(key)} AS _key FROM {keys} WHERE {quote(key)} IS NOT NULL),
            _shared AS (SELECT _key FROM _keys GROUP BY 1 HAVING count(*) > 1)
            SELECT _number, row_number() OVER (PARTITION BY _key ORDER BY {best_first(order)}) AS _place
            FROM _keys SEMI JOIN _shared USING (_key) JOIN {quote(self._loaded.table)} t ON t.rowid = _number
            ORDER BY _key, _place
        """
        found = self._con.sql(sql).to_arrow_table()
        return _Groups(found["_number"].to_numpy(), np.cumsum(found["_place"].to_numpy() == 1))

    def _best(self, step: Step, rows: Mask) -> Mask:
        """Who stays of some pairs: the first of each key that is still there, one key after the other."""
        stays = rows.copy()
        for groups in self._groups[step.id]:
            here = np.flatnonzero(stays[groups.numbers])
            group = groups.group[here]
            stays[groups.numbers[here[1:][group[1:] == group[:-1]]]] = False
        return stays


def _settle(made: PoolFilter, scope: pa.RecordBatch) -> Mapping[str, Any]:
    """What the filter draws from its scope, round by round."""
    settled: Mapping[str, Any] = {}
    while not made.is_settled(settled):
        settled = made.settle(made.summarize(scope, settled), settled)
    return settled


def _plain(made: AnyFilter) -> Filter:
    assert isinstance(made, Filter)
    return made
