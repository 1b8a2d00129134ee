"""The command ``pairsieve search``."""

from typing import Annotated

import typer

from pairsieve.pipelines.cli_options import DEVICES, DeviceOption, JsonOption, QuietOption, chosen, run_arg
from pairsieve.pipelines.cli_output import emit


def search(
    run_dir: Annotated[str, run_arg("a finished run with embeddings")],
    text: Annotated[str | None, typer.Argument(help="what to look for", metavar="TEXT")] = None,
    image: Annotated[str | None, typer.Option(help="file: look for what resembles this image instead")] = None,
    embeddings: Annotated[str | None, typer.Option(help="column; default: clip_image, or the only one")] = None,
    top: Annotated[int, typer.Option(min=1, max=10_000, help="how many pairs")] = 20,
    where: Annotated[str | None, typer.Option(help="SQL over the view scores, such as \"lang = 'en'\"")] = None,
    kept: Annotated[bool, typer.Option("--kept", help="leave dropped pairs out")] = False,
    model: Annotated[str | None, typer.Option(help="CLIP model; default: the one that made the column")] = None,
    pretrained: Annotated[str | None, typer.Option(help="its open_clip tag or weights file")] = None,
    device: DeviceOption = "auto",
    workers: Annotated[int | None, typer.Option(min=1, help="threads that compare; default: one a CPU")] = None,
    json_: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Find the pairs of a run that a text or an image describes, by its stored embeddings."""
    from pairsieve.pipelines.progress import reporter
    from pairsieve.pipelines.search import Query
    from pairsieve.pipelines.search import search as find
    from pairsieve.pipelines.search_page import search_json, search_page

    query = Query(text, image, model, pretrained, chosen("--device", device, DEVICES))
    found = find(
        run_dir,
        query,
        embeddings=embeddings,
        top=top,
        where=where,
        kept=kept,
        workers=workers,
        progress=reporter(quiet),
    )
    emit(json_, lambda: search_json(found), lambda: search_page(found))
