"""What filters noticed of the work, beside the scores: ``facts/<step>/NNNNN.N.parquet``, view ``facts_<step>``.

It depends on the machine and the day, unlike every score, and no run reads it.  A worker that dies takes what it
noticed of one shard with it.
"""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import pyarrow as pa

from pairsieve.pipelines.store import Store

if TYPE_CHECKING:  # a query needs no filters, which cost half a second to import
    from pairsieve.filters.base import AnyFilter

FOLDER = "facts"


def write(store: Store, step: str, shard: int, part: int, table: pa.Table) -> None:
    """What belongs to one part of a shard's scores; a first part comes with a new beginning."""
    name = f"{FOLDER}/{step}/{shard:05d}"
    if part == 0:
        for old in store.names(f"{FOLDER}/{step}") if store.exists(f"{name}.1.parquet") else ():
            if old.startswith(f"{shard:05d}."):
                store.remove(f"{FOLDER}/{step}/{old}")
    store.write_table(f"{name}{f'.{part}' if part else ''}.parquet", table)


class Noticed:
    """The totals of a pass, step by step; as small as the filters make them."""

    def __init__(self, filters: "Mapping[str, AnyFilter]") -> None:
        """Nothing yet."""
        self._filters = filters
        self._totals: dict[str, pa.Table] = {}

    def add(self, noticed: Mapping[str, pa.Table]) -> None:
        """One shard's."""
        for step, table in noticed.items():
            known = self._totals.get(step)
            self._totals[step] = self._filters[step].total(table if known is None else pa.concat_tables([known, table]))

    def advice(self) -> Iterable[str]:
        """What the user should be told."""
        for step, table in self._totals.items():
            yield from (f"{step}: {line}" for line in self._filters[step].advice(table))
