"""What measuring cost, kept beside a run in ``costs.json``: what plans and reports reckon with.

The only file of a run that depends on the machine and the day; nothing that a run decides reads it.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from pairsieve.pipelines.store import Store

FILE = "costs.json"


@dataclass(frozen=True)
class Cost:
    """Pairs measured, seconds of workers that ``score`` took, bytes of its columns."""

    rows: int = 0
    seconds: float = 0.0
    bytes: int = 0

    def __add__(self, other: "Cost") -> "Cost":
        """Both together."""
        return Cost(self.rows + other.rows, self.seconds + other.seconds, self.bytes + other.bytes)


def load(store: Store) -> dict[str, Cost]:
    """Costs by step fingerprint; none where the file is missing or not ours."""
    try:
        return {fingerprint: Cost(**cost) for fingerprint, cost in json.loads(store.read(FILE)).items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def add(store: Store, new: Mapping[str, Cost]) -> None:
    """Add what a run has just measured, by step fingerprint."""
    found = load(store)
    for fingerprint, cost in new.items():
        found[fingerprint] = found.get(fingerprint, Cost()) + cost
    store.write_json(FILE, {fingerprint: asdict(cost) for fingerprint, cost in found.items()})
