"""At most so many pairs for each entry: CLIP's 20,000 a query, LLaVA's 100 a noun phrase.

Every entry chooses for itself, at random; a pair stays if one of its entries chose it.  A pair of a
frequent and a rare entry therefore stays for the rare one, and counts of what is kept exceed the cap:
``metadata_balance`` is the same idea with a probability in the place of a choice.
A round costs about 0.15 µs for each entry of a pair; there are two rounds without an entry over the cap,
else some five.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from pairsieve.filters import _caps
from pairsieve.filters.base import PoolFilter, Threshold, first_reason
from pairsieve.schemas import uid
from pairsieve.schemas.columns import is_items

ENTRIES, CHOSEN = "entry_cap_entries", "entry_cap_chosen"


class EntryCap(PoolFilter):
    """Let each entry of the column choose ``most`` of its pairs; a pair that none chose goes.

    The choice is exact: an entry with more pairs chooses those with the smallest hashes of (seed, uid, entry),
    so that it depends on nothing else; a pair that is listed twice is chosen twice.  ``entry_cap_entries`` (int32)
    is how many of a pair's entries have ``least`` pairs, ``entry_cap_chosen`` how many of them chose it.
    Reasons: ``no_entries``; ``too_rare``, no entry has ``least`` pairs; ``over_cap``.

    Sources: queries, up to 20,000 pairs each: Radford et al., "Learning Transferable Visual Models From Natural
    Language Supervision" (2021), section 2.2.  Noun phrases, 3 to 100: Liu et al., "Visual Instruction Tuning"
    (2023), its filtered CC3M.
    """

    derives = {ENTRIES: pa.int32(), CHOSEN: pa.int32()}

    entries: Threshold[str] = Field("matched_entries", description="column of lists: ids, or strings")
    most: Threshold[int] = Field(ge=1, lt=2**62, description="pairs that an entry chooses at most")
    least: Threshold[int] = Field(1, ge=1, lt=2**62, description="an entry with fewer pairs than this chooses none")
    seed: Threshold[int] = Field(0, ge=0, lt=2**63, description="another one chooses other pairs")

    def summary_inputs(self, available: Mapping[str, pa.DataType]) -> tuple[str, ...]:
        return ("uid", self.entries)

    def check(self, available: Mapping[str, pa.DataType]) -> None:
        kind = available[self.entries]
        if not is_items(kind) or is_items(kind.value_type):
            raise ValueError(f"entries: {self.entries!r} is {kind}; a column of lists of integers or strings is needed")

    def is_settled(self, settled: Mapping[str, Any]) -> bool:
        return "limits" in settled

    def summarize(self, pairs: pa.RecordBatch, settled: Mapping[str, Any]) -> _caps.Tally:
        items = _caps.Items.of(pairs[self.entries])
        if not settled:
            return _caps.Tally.of(items.key, pairs.num_rows)
        place, is_over = _find(settled["over"], items.key)
        draws = items.draws(pairs["uid"], self._seed)[is_over]
        return _caps.Tally.of(_caps.digits(draws, place[is_over], settled["prefix"], settled["depth"]))

    def merge(self, one: _caps.Tally, other: _caps.Tally) -> _caps.Tally:
        return one + other

    def settle(self, summary: _caps.Tally, settled: Mapping[str, Any]) -> dict[str, Any]:
        if not settled:
            return self._counted(summary)
        rank, prefix, left = _caps.next_digits(summary, settled["rank"], settled["prefix"])
        depth = settled["depth"] + 1
        found = dict(settled) | {"rank": rank, "prefix": prefix, "depth": depth}
        if depth == 8 or bool(np.all(rank + 1 == left)):
            return self._done(found, _caps.limits(prefix, depth))
        return found

    def _counted(self, summary: _caps.Tally) -> dict[str, Any]:
        keys, counts = summary.counts()
        chooses = counts >= self.least
        over = keys[chooses & (counts > self.most)]
        found: dict[str, Any] = {
            "pairs": summary.rows,
            "entry_count": len(keys),
            "rare_entries": int(len(keys) - chooses.sum()),
            "capped_entries": len(over),
            "choosing": keys[chooses],
            "over": over,
            "rank": np.full(len(over), self.most - 1, np.int64),
            "prefix": np.zeros(len(over), np.uint64),
            "depth": 0,
        }
        return found if len(over) else self._done(found, np.empty(0, np.uint64))

    def _done(self, found: dict[str, Any], limits: _caps.Keys) -> dict[str, Any]:
        """Without what only the rounds need."""
        left = {name: value for name, value in found.items() if name not in ("rank", "prefix", "depth")}
        return left | {"limits": limits}

    def derive(self, pairs: pa.RecordBatch, settled: Mapping[str, Any]) -> dict[str, pa.Array]:
        items = _caps.Items.of(pairs[self.entries])
        _, may_choose = _find(settled["choosing"], items.key)
        place, is_over = _find(settled["over"], items.key)
        over = np.flatnonzero(may_choose & is_over)
        chose = may_choose.copy()
        chose[over] = items.draws(pairs["uid"], self._seed)[over] <= settled["limits"][place[over]]
        nothing = np.bincount(items.pair, minlength=pairs.num_rows) == 0
        return {
            name: pa.array(np.bincount(items.pair[those], minlength=pairs.num_rows).astype(np.int32), mask=nothing)
            for name, those in ((ENTRIES, may_choose), (CHOSEN, chose))
        }

    def keep(self, pairs: pa.RecordBatch, settled: Mapping[str, Any]) -> pa.Array:
        return first_reason(
            pairs.num_rows,
            (pc.is_null(pairs[ENTRIES]), "no_entries"),
            (pc.equal(pairs[ENTRIES], 0), "too_rare"),
            (pc.equal(pairs[CHOSEN], 0), "over_cap"),
        )

    @property
    def _seed(self) -> int:
        return uid.draw_seed(self.seed)


def _find(sorted_keys: _caps.Keys, keys: _caps.Keys) -> tuple[Any, Any]:
    """The place of each key among sorted ones, and whether it is there."""
    place = np.searchsorted(sorted_keys, keys)
    inside = np.minimum(place, max(0, len(sorted_keys) - 1))
    return inside, (sorted_keys[inside] == keys) if len(sorted_keys) else np.zeros(len(keys), bool)
