"""Why stored scores do not serve a recipe, in words: identities, pools and run files compared.

A stale score file says in its footer what its values were measured with, so the reason is what differs.
"""

import json
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pairsieve.filters.base import deciding_settings
from pairsieve.pipelines.catalog import CATALOG
from pairsieve.pipelines.parts import footer, part_name
from pairsieve.pipelines.plan import Plan
from pairsieve.pipelines.pools import PoolShard, read_manifest
from pairsieve.pipelines.run_file import last_run
from pairsieve.pipelines.step import Step
from pairsieve.pipelines.store import Store
from pairsieve.pipelines.tasks import verdicts_name
from pairsieve.schemas.errors import DamagedFileError
from pairsieve.schemas.run import RunManifest, StepRecord

MOST = 2
"""Differences that a reason names; the others are counted."""


@dataclass(frozen=True)
class Cause:
    """Why some pairs are to be measured.

    ``new``: never measured; ``stale``: with other settings; ``pool``: of other pairs; ``damaged``, ``missing``:
    files; ``more``: more pairs come through; ``stopped``: the run did not get there.
    """

    kind: Literal["new", "stale", "pool", "damaged", "missing", "more", "stopped"]
    text: str

    def say(self, files: float) -> str:
        """The reason; ``files`` is the number of shards that it concerns."""
        if self.kind in ("damaged", "missing"):
            count = max(1, round(files))
            return f"{count:,} {'file is' if count == 1 else 'files are'} {self.kind}"
        return self.text


@dataclass
class Before:
    """What a run directory holds, and says of the run that was there; ``files``: shards with a first part, by step."""

    store: Store
    plan: Plan
    files: Mapping[str, Set[int]]
    pool_text: str
    changed_shards: Set[int] | None
    stale_steps: set[str] = field(default_factory=set)

    @cached_property
    def manifest(self) -> RunManifest | None:
        """``run.yaml``; None where it is missing, damaged or another version's."""
        return last_run(self.store)

    @cached_property
    def is_finished(self) -> bool:
        """A run removes the catalog when it begins, and writes it at its end."""
        return self.store.exists(CATALOG)

    @cached_property
    def records(self) -> dict[str, StepRecord]:
        """The steps of the last run."""
        return {record.id: record for record in self.manifest.steps} if self.manifest else {}

    @cached_property
    def grouped(self) -> set[str]:
        """Group filters whose duplicates the last run has found, by the keys at hand."""
        now = {step.id: step.fingerprint for step in self.plan.steps if step.keys}
        return {r.id for r in self.records.values() if self.is_finished and now.get(r.id) == r.fingerprint}

    def stayed(self, step: Step, shard: PoolShard) -> NDArray[np.float64] | None:
        """What the last run let this step decide, row by row: 1 stayed, 0 went, NaN did not reach it.

        None where its verdicts are of no help.
        """
        names = list(self.records)
        if step.id not in names or self.changed_shards is None or shard.index in self.changed_shards:
            return None
        try:
            by = self.store.table(verdicts_name(shard.index), ["dropped_by"])["dropped_by"].combine_chunks()
        except (OSError, pa.ArrowException):
            return None
        if len(by) < shard.rows:
            return None
        by = by.slice(0, shard.rows)  # pairs that a step added come behind
        found = np.ones(len(by))
        found[pc.fill_null(pc.equal(by, step.id), False).to_numpy(zero_copy_only=False)] = 0
        above = pa.array(["pool", *names[: names.index(step.id)]])
        found[pc.fill_null(pc.is_in(by, above), False).to_numpy(zero_copy_only=False)] = np.nan
        return found

    def cause(self, k: int, step: Step, shard: PoolShard) -> Cause:
        """Why pairs of this shard are to be measured by step ``k``; the first that holds."""
        if not self.files.get(step.id):
            return self._never(step)
        found = self._first_bad(step, shard)
        if found is not None:
            if found.kind == "stale":
                self.stale_steps.add(step.id)
            return found
        if self.changed_shards is not None and shard.index in self.changed_shards:
            return Cause("pool", self.pool_text)
        if self._changes(k, step) and (self.is_finished or shard.index in self.files[step.id]):
            return Cause("more", self._more(k, step))
        if not self.is_finished:
            return Cause("stopped", "not measured yet: the run was stopped")
        if shard.index not in self.files[step.id]:
            return Cause("missing", "files are missing")
        return Cause("more", self._more(k, step))

    def _never(self, step: Step) -> Cause:
        twin = next((r.id for r in self.records.values() if r.fingerprint == step.fingerprint and r.measures), None)
        if twin is not None and twin != step.id and twin not in (s.id for s in self.plan.steps):
            return Cause("new", f"never measured under this name; 'as: {twin}' re-uses what scores/{twin} holds")
        if step.id in self.records and not self.is_finished:
            return Cause("stopped", "not measured yet: the run was stopped")
        return Cause("new", "never measured")

    def _first_bad(self, step: Step, shard: PoolShard) -> Cause | None:
        """The first part that does not count; those that follow it are not read either."""
        part = 0
        while self.store.exists(name := part_name(step.id, shard.index, part)):
            if (bad := self._bad(name, step, shard)) is not None:
                return bad
            part += 1
        return None

    def _bad(self, name: str, step: Step, shard: PoolShard) -> Cause | None:
        try:
            with self.store.sealed(name, step.is_light) as file:
                said = {k.decode(): v.decode() for k, v in (file.metadata.metadata or {}).items()}
        except (DamagedFileError, pa.ArrowInvalid, OSError):
            return Cause("damaged", "files are damaged")
        wanted = footer(step, shard)
        if said.get("pairsieve.version") != wanted["pairsieve.version"]:
            return Cause("stale", "another version of pairsieve wrote it")
        if said.get("pairsieve.step") != step.fingerprint:
            return Cause("stale", self._stale(step, said.get("pairsieve.measured")))
        if said.get("pairsieve.pairs") != shard.fingerprint:
            return Cause("pool", self.pool_text)
        return None

    def _stale(self, step: Step, measured: str | None) -> str:
        try:
            old = json.loads(measured or "")
            return listed(differences(old, json.loads(step.identity), self._what_became))
        except (ValueError, KeyError, TypeError, AttributeError):
            return "it was measured with other settings"

    def _what_became(self, columns: Sequence[str]) -> list[str]:
        """``it reads image of step download, which is to be measured again``, step by step."""
        found = []
        producers = {column: self.plan.producer(column) for column in columns}
        for producer in dict.fromkeys(step.id if step else None for step in producers.values()):
            names = [c for c, step in producers.items() if (step.id if step else None) == producer]
            what = f"it reads {'column' if len(names) == 1 else 'columns'} {', '.join(names)} of"
            if producer is None:
                found.append(f"{what} the pool now, not of a step")
            else:
                again = "is to be" if producer in self.stale_steps or not self.files.get(producer) else "was"
                found.append(f"{what} step {producer}, which {again} measured again")
        return found

    def _more(self, k: int, step: Step) -> str:
        changes = self._changes(k, step)
        if changes:
            return f"more pairs come through: {listed(changes)}"
        if step.of_pool:
            return "it measures the whole pool now (of: pool)"
        return "more pairs come through than before"

    def _changes(self, k: int, step: Step) -> list[str]:
        """What differs above a step in deciding settings, in steps and in the pool."""
        above = {s.id: s for s in self.plan.steps[:k]}
        found: list[str] = []
        if self.changed_shards is None or self.changed_shards:
            found.append(self.pool_text)
        for record in self._records_above(step):
            if record.id not in above:
                found.append(f"step {record.id} is no longer above it")
            else:
                found += _settings(record.deciding, deciding_settings(above[record.id].filter), f"{record.id}.")
                if record.fingerprint != above[record.id].fingerprint:
                    found.append(f"step {record.id} measures otherwise")
        old = {record.id for record in self._records_above(step)}
        return found + [f"step {name} is new above it" for name in above if self.records and name not in old]

    def _records_above(self, step: Step) -> list[StepRecord]:
        """The steps of the last run that came before this one; all of them where it was not there."""
        records = list(self.records.values())
        names = [record.id for record in records]
        return records[: names.index(step.id)] if step.id in names else records


def before(store: Store, plan: Plan, shards: Sequence[PoolShard] | None, total: int) -> Before:
    """Look into a run directory; ``shards`` are all shards of the pool, None where they are not known."""
    files = {step.id: _first_parts(store, step.id) for step in plan.steps if step.measures}
    known = read_manifest(store)
    if shards is None or known is None:
        return Before(store, plan, files, "the pool changed", None if known is not None else frozenset())
    old = {shard.index: shard.fingerprint for shard in known[1]}
    changed = {shard.index for shard in shards if old.get(shard.index) != shard.fingerprint}
    lost = len([index for index in old if index >= total])
    differ = f"{len(changed) + lost:,} of {max(total, len(old)):,} shards differ"
    return Before(store, plan, files, f"the pool changed ({differ})", changed)


def _first_parts(store: Store, step: str) -> frozenset[int]:
    stems = (name.removesuffix(".parquet") for name in store.names(f"scores/{step}", ".parquet"))
    return frozenset(int(stem) for stem in stems if stem.isdigit())


def differences(
    old: Mapping[str, Any], new: Mapping[str, Any], became: Callable[[Sequence[str]], list[str]]
) -> list[str]:
    """What differs between two identities of a step; ``became`` says what happened to columns that it reads."""
    if old["filter"] != new["filter"]:
        return [f"the filter was {old['filter']}"]
    found = _settings(old["settings"], new["settings"], "setting ")
    if old["version"] != new["version"]:
        found.append(f"the filter's version changed from {old['version']} to {new['version']}")
    found += _files(old["files"], new["files"])
    other = [column for column in new["reads"] if old["reads"].get(column, "") not in ("", new["reads"][column])]
    found += became(other)
    columns = [f"it read column {column} too" for column in old["reads"] if column not in new["reads"]]
    columns += [f"it reads column {column} now" for column in new["reads"] if column not in old["reads"]]
    return found or columns  # a setting explains them


def _settings(old: Mapping[str, Any], new: Mapping[str, Any], head: str) -> list[str]:
    names = dict.fromkeys((*old, *new))
    return [
        f"{head}{name} changed from {_value(old, name)} to {_value(new, name)}"
        for name in names
        if old.get(name) != new.get(name)
    ]


def _value(settings: Mapping[str, Any], name: str) -> str:
    value = settings.get(name)
    text = "none" if value is None else value if isinstance(value, str) and value else json.dumps(value)
    return text if len(text) <= 60 else f"{text[:59]}…"


def _files(old: Sequence[Sequence[str]], new: Sequence[Sequence[str]]) -> list[str]:
    """Model files by name and digest."""
    if [list(file) for file in old] == [list(file) for file in new]:
        return []
    before_, after = {name: digest for name, digest in old}, {name: digest for name, digest in new}
    found = [f"the content of {name} changed" for name in after if name in before_ and before_[name] != after[name]]
    gone, come = [n for n in before_ if n not in after], [n for n in after if n not in before_]
    found += [f"file {name} is new" for name in come] + [f"file {name} is no longer used" for name in gone]
    return found or ["its model files changed"]


def listed(texts: Sequence[str]) -> str:
    """The first few, and how many more."""
    more = len(texts) - MOST
    head = "; ".join(texts[:MOST] if more > 0 else texts)
    return f"{head}; and {more} more" if more > 0 else head or "it was measured with other settings"
