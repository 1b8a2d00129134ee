"""``run.yaml``, in which a run says what it was of."""

import yaml

from pairsieve.pipelines.near import RUN_FILE
from pairsieve.pipelines.store import Store
from pairsieve.schemas.run import RunManifest


def last_run(store: Store) -> RunManifest | None:
    """What the run directory says of its last run; None where that is missing, damaged or another version's."""
    try:
        return RunManifest.model_validate(yaml.safe_load(store.read(RUN_FILE)))
    except (OSError, ValueError, yaml.YAMLError):
        return None
