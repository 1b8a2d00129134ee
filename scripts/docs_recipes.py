"""Reference pages of recipes: pools and outputs from their classes, every shipped recipe with its comment."""

import re
from collections.abc import Iterator
from importlib.resources import files

from pairsieve.pipelines.recipe_file import shipped
from pairsieve.schemas.recipe import POOLS, DatasetOutput, Output
from scripts.docs_schema import prose, settings_tables

POOLS_URI, SHIPPED_URI = "pools.md", "shipped-recipes.md"
_FAMILIES = (
    ("demo", "The demo"),
    ("datacomp_", "DataComp's filtering track"),
    ("metaclip_|clip_wit|llava_", "Metadata and balance"),
    ("nano_", "The nano track"),
    ("", "Captions, CLIP scores, and what came after"),
)


def pools_page() -> str:
    """Pools and outputs with all settings."""
    pools = "\n\n".join(
        f"## {kind}\n\n{prose(model.__doc__)}\n\n{settings_tables(model)}" for kind, model in POOLS.items()
    )
    return f"""# Pools and outputs

One pool a recipe: `pool: {{urls: {{path: list.csv}}}}`, or `pool: {{urls: list.csv}}` where the path is all. What all
pools have in common says [recipes](recipes.md#pool).

{pools}

## output

{prose(Output.__doc__)} Without `output` a run writes both.

{settings_tables(Output)}

`dataset: true` takes the defaults of {DatasetOutput.__name__}. [Runs](runs.md) says what lies in these files,
[exports](export.md) turns them into tars, lists and Hugging Face folders.
"""


def shipped_page() -> str:
    """Every recipe that comes with pairsieve, by family."""
    return f"""# Shipped recipes

`pairsieve run NAME --out RUN` takes each by its name, `--set name=value` sets its parameters, `extends: NAME`
builds on it.

{"".join(_families())}"""


def _families() -> Iterator[str]:
    left = sorted(shipped())
    for pattern, title in _FAMILIES:
        family = [name for name in left if re.match(pattern, name)]
        left = [name for name in left if name not in family]
        yield f"## {title}\n\n" + "".join(_recipe(name) for name in family)


def _recipe(name: str) -> str:
    text = files("pairsieve.pipelines").joinpath(f"{name}.yaml").read_text()
    return f"### {name}\n\n```yaml\n{text.strip()}\n```\n\n"
