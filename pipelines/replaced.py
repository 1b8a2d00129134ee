"""Say that a run directory held another recipe's run: its outputs are replaced, perhaps by mistake."""

import json
from collections.abc import Mapping
from typing import Any

from pairsieve.pipelines.run_file import last_run
from pairsieve.pipelines.store import Store


def notice(store: Store, recipe: Mapping[str, Any]) -> str | None:
    """One line where the recipe of the run that is there differs; None where it does not, or there is none."""
    last = last_run(store)
    if last is None:
        return None
    before = last.recipe
    changed = [name for name in sorted({*before, *recipe}) if _text(before.get(name)) != _text(recipe.get(name))]
    if not changed:
        return None
    return f"{store.root}: another recipe ran here ({', '.join(changed)}); its outputs are replaced, scores re-used"


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)
