"""The names of the filters that ship: files of this folder.  Imports nothing, so that a shell may ask at every Tab."""

from pathlib import Path

_NOT_FILTERS = {"base", "load"}


def names() -> list[str]:
    """Every filter that ships with pairsieve, by file name."""
    files = Path(__file__).parent.glob("*.py")
    return sorted(f.stem for f in files if not f.stem.startswith("_") and f.stem not in _NOT_FILTERS)
