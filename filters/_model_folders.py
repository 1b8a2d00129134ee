"""Where a model lies that a setting names by a directory, or as the demo's.

``pairsieve-demo`` means one of the tiny models that ship with pairsieve: which one, the filter's kind of model says.
"""

from importlib.resources import files
from pathlib import Path

DEMO = "pairsieve-demo"
"""Name of the tiny models that ship with pairsieve; they know the demo's world and nothing else."""


def model_folder(model: str, demo: str | None) -> Path | None:
    """The local directory of a model, where it is one; ``demo`` is that of the demo's, where there is one."""
    if model == DEMO and demo:
        return Path(str(files("pairsieve"))) / demo
    path = Path(model).expanduser() if model.startswith("~/") else Path(model)
    return path if "\0" not in model and path.is_dir() else None
