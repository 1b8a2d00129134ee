"""The commands ``pairsieve filters`` and ``schema``."""

from typing import Annotated

import typer

from pairsieve.pipelines import cli_complete as complete
from pairsieve.pipelines.cli_options import JsonOption
from pairsieve.pipelines.cli_output import emit, print_json


def filters(
    name: Annotated[str | None, typer.Argument(help="one filter, in full", autocompletion=complete.filters)] = None,
    json_: JsonOption = False,
) -> None:
    """List the filters, or describe one with its settings."""
    from pairsieve.pipelines.cli_documents import filter_document, filters_document
    from pairsieve.pipelines.describe import filter_page, filters_table

    if name is None:
        emit(json_, filters_document, lambda: [filters_table()])
    else:
        emit(json_, lambda: filter_document(name), lambda: filter_page(name))


def schema() -> None:
    """Print the JSON Schema of recipes, for editors."""
    from pairsieve.pipelines.describe import json_schema

    print_json(json_schema())
