"""One filter at one place of a recipe, with its columns and its fingerprint."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import pyarrow as pa

from pairsieve.filters.base import AnyFilter, GroupFilter, PoolFilter
from pairsieve.schemas import columns


@dataclass(frozen=True)
class Step:
    """One filter at one place of a recipe.

    ``writes`` maps each column as the filter calls it to (stored name, type); ``reads`` are the stored columns
    that ``score`` is given, ``keep_reads`` those that ``keep`` is given besides its own; ``keys`` are a group
    filter's stored keys, in order, each with its reason.  ``derives`` are like ``writes`` what a pool filter
    derives, ``summary_reads`` what it reads for that.  ``identity`` is JSON of all that decides the measured
    values: class, version, scoring settings, model files, and the fingerprints of the steps whose columns it
    reads.  ``reads_pool_only``: no step's.
    """

    id: str
    name: str
    filter: AnyFilter
    of_pool: bool
    reads: tuple[str, ...]
    keep_reads: tuple[str, ...]
    writes: Mapping[str, tuple[str, pa.DataType]]
    keys: Mapping[str, str]
    derives: Mapping[str, tuple[str, pa.DataType]]
    summary_reads: tuple[str, ...]
    identity: str
    reads_pool_only: bool

    @cached_property
    def fingerprint(self) -> str:
        """Digest of ``identity``: scores of another fingerprint are stale."""
        return hashlib.sha256(self.identity.encode()).hexdigest()[:32]

    @property
    def is_light(self) -> bool:
        """Whether all that it stores is small: no bytes, no embeddings."""
        return not any(columns.is_heavy(kind) for kind in self.stored.values())

    @property
    def stored(self) -> dict[str, pa.DataType]:
        """Stored columns and their types."""
        return dict(self.writes.values())

    @property
    def measures(self) -> bool:
        """Whether the step has anything to store."""
        return bool(self.writes)

    @property
    def light(self) -> dict[str, str]:
        """Stored name -> the filter's name, of the columns that ``keep`` is given."""
        return {stored: own for own, (stored, kind) in self.writes.items() if not columns.is_heavy(kind)}

    @property
    def derived(self) -> dict[str, pa.DataType]:
        """Derived columns by their stored names, and their types."""
        return dict(self.derives.values())

    @property
    def given(self) -> dict[str, pa.DataType]:
        """Every column that the step brings, measured or derived."""
        return self.stored | self.derived

    @property
    def adds(self) -> str | None:
        """The stored name of the derived column with the pairs that it adds."""
        own = self.filter.adds() if isinstance(self.filter, PoolFilter) else None
        return None if own is None else self.derives[own][0]

    @property
    def shown(self) -> list[str]:
        """Derived columns for people: without those that only its verdict reads, and the pairs that it adds."""
        inner = self.filter.inner() if isinstance(self.filter, PoolFilter) else ()
        return [stored for own, (stored, _) in self.derives.items() if own not in inner and stored != self.adds]

    @property
    def settles_early(self) -> bool:
        """Whether its summary of the pool needs nothing measured, so that it can be made before the first pass."""
        return self._needs_summary and self.of_pool and not self.measures and self.reads_pool_only

    @property
    def is_barrier(self) -> bool:
        """Whether its verdict must wait until the step has measured the whole scope."""
        return self.sees_scope and not self.settles_early

    @property
    def sees_scope(self) -> bool:
        """Whether its verdict needs more than the pair itself."""
        return isinstance(self.filter, GroupFilter) or self._needs_summary

    @property
    def _needs_summary(self) -> bool:
        return isinstance(self.filter, PoolFilter) and (bool(self.derives) or not self.filter.is_settled({}))
