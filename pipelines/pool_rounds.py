"""A pool filter over its scope: rounds of summaries, then what each pair and the whole scope get from them.

Each round reads the columns that the filter asks for once, in batches; a shard's summary is all that travels.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import reduce
from typing import Any

import numpy as np
import pyarrow as pa

from pairsieve.filters.base import PoolFilter
from pairsieve.pipelines.catalog import table_name
from pairsieve.pipelines.chunk import Chunk
from pairsieve.pipelines.passes import stored_rows
from pairsieve.pipelines.shard import Context, Rows, Shard, derived_name
from pairsieve.pipelines.step import Step
from pairsieve.schemas import columns
from pairsieve.schemas.errors import PairsieveError, UserError


def settle(context: Context, step: Step, summaries: Callable[[], Iterable[Any]]) -> None:
    """Rounds until the filter knows enough; ``summaries`` gives those of all shards, given ``context.settled``."""
    made = _filter(step)
    settled: dict[str, Any] = {}
    while not made.is_settled(settled):
        context.settled[step.id] = settled
        summary = reduce(made.merge, summaries())
        with _named(step):
            settled = made.settle(summary, settled)
    context.settled[step.id] = settled


def summarize(shard: Shard, step: Step, rows: Rows) -> Any:
    """The summary of some rows of a shard."""
    made, settled = _filter(step), shard.context.settled.get(step.id, {})
    with _named(step):
        return reduce(made.merge, (made.summarize(batch, settled) for _, batch in _batches(shard, step, rows)))


def derive(shard: Shard, step: Step, rows: Rows) -> None:
    """Write what the pairs of the scope get."""
    if not len(rows):
        return
    made, settled = _filter(step), shard.context.settled.get(step.id, {})
    with _named(step):
        found = [_derived(step, some, made.derive(batch, settled)) for some, batch in _batches(shard, step, rows)]
    take = pa.array(rows)
    head = pa.table({name: shard.light(name).take(take) for name in columns.PLACE}, columns.HEAD)
    table = pa.concat_tables(found).combine_chunks()
    for name in table.schema.names:
        head = head.append_column(name, table[name])
    shard.context.store.write_table(derived_name(step.id, shard.record.index), head)


def write_tables(context: Context, step: Step) -> None:
    """Write the tables about the whole scope."""
    made = _filter(step)
    for name, table in made.tables(context.settled[step.id]).items():
        context.store.write_table(table_name(step.id, name), table)


def notes(context: Context, step: Step) -> tuple[str, ...]:
    """What the filter has to say of what it settled."""
    return _filter(step).notes(context.settled[step.id])


@contextmanager
def _named(step: Step) -> Iterator[None]:
    """Let a filter's own errors say of which step they are."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{step.id}: {error}") from None


def _filter(step: Step) -> PoolFilter:
    assert isinstance(step.filter, PoolFilter)
    return step.filter


def _batches(shard: Shard, step: Step, rows: Rows) -> Iterator[tuple[Rows, pa.RecordBatch]]:
    """The rows with what ``summarize`` reads; at least one batch, even of no rows."""
    if not step.summary_reads:
        yield rows, shard.decision_batch(step, rows, {})
        return
    types = shard.context.plan.types | {"uid": pa.string()}
    size = stored_rows([types[name] for name in step.summary_reads])
    is_first = True
    for start in range(0, shard.record.rows, size):
        some = rows[np.searchsorted(rows, start) : np.searchsorted(rows, start + size)]
        if len(some):
            is_first = False
            yield some, _batch(Chunk(shard, start, min(start + size, shard.record.rows)), step, some)
    if is_first:
        small = shard.decision_batch(step, rows, {})
        found = {name: small[name] for name in small.schema.names if name != "_"}
        yield rows, pa.record_batch(found | {name: pa.array([], types[name]) for name in step.summary_reads})


def _batch(chunk: Chunk, step: Step, rows: Rows) -> pa.RecordBatch:
    small = chunk.shard.decision_batch(step, rows, {})
    found = {name: small[name] for name in small.schema.names if name != "_"}
    return pa.record_batch(found | {name: chunk.column(name, rows) for name in step.summary_reads})


def _derived(step: Step, rows: Rows, given: dict[str, pa.Array]) -> pa.Table:
    """What ``derive`` gave, under stored names; raises ``PairsieveError`` where it breaks its contract."""
    try:
        arrays = {stored: given[own].cast(kind) for own, (stored, kind) in step.derives.items()}
    except (KeyError, pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise PairsieveError(f"{step.id}: derive() must give {sorted(step.derives)}: {error}") from None
    for name, values in arrays.items():
        if len(values) != len(rows):
            raise PairsieveError(f"{step.id}: derive() gave {len(values)} values of {name!r} for {len(rows)} pairs")
    return pa.table(arrays)
