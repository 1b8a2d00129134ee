"""Build image-text datasets: a recipe names a pool, its filters and the output.

``run`` is the library; the command line calls the same function.
Names are imported when first used, so that ``import pairsieve`` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pairsieve.pipelines.export import export
    from pairsieve.pipelines.export_downloads import export_downloads
    from pairsieve.pipelines.export_settings import Csv, HuggingFace, Img2dataset, Webdataset
    from pairsieve.pipelines.feed import PairDataset
    from pairsieve.pipelines.report import Report, report
    from pairsieve.pipelines.run import run
    from pairsieve.pipelines.runner import Result
    from pairsieve.schemas.errors import PairsieveError, UserError

__all__ = [
    "Csv",
    "HuggingFace",
    "Img2dataset",
    "PairDataset",
    "PairsieveError",
    "Report",
    "Result",
    "UserError",
    "Webdataset",
    "export",
    "export_downloads",
    "report",
    "run",
]

_HOMES = {
    "Csv": "pairsieve.pipelines.export_settings",
    "HuggingFace": "pairsieve.pipelines.export_settings",
    "Img2dataset": "pairsieve.pipelines.export_settings",
    "PairDataset": "pairsieve.pipelines.feed",
    "PairsieveError": "pairsieve.schemas.errors",
    "Report": "pairsieve.pipelines.report",
    "Result": "pairsieve.pipelines.runner",
    "UserError": "pairsieve.schemas.errors",
    "Webdataset": "pairsieve.pipelines.export_settings",
    "export": "pairsieve.pipelines.export",
    "export_downloads": "pairsieve.pipelines.export_downloads",
    "report": "pairsieve.pipelines.report",
    "run": "pairsieve.pipelines.run",
}


def __getattr__(name: str) -> object:
    """The public names, from the modules where they live."""
    if name not in _HOMES:
        raise AttributeError(f"module 'pairsieve' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
