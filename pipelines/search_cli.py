"""The command ``pairsieve search``."""

import json
from typing import Annotated

import typer

from pairsieve.schemas.errors import UserError


def search(
    run_dir: Annotated[str, typer.Argument(help="a finished run with embeddings", metavar="RUN")],
    text: Annotated[str | None, typer.Argument(help="what to look for", metavar="TEXT")] = None,
    image: Annotated[str | None, typer.Option(help="file: look for what resembles this image instead")] = None,
    embeddings: Annotated[str | None, typer.Option(help="column; default: clip_image, or the only one")] = None,
    top: Annotated[int, typer.Option(min=1, max=10_000, help="how many pairs")] = 20,
    where: Annotated[str | None, typer.Option(help="SQL over the view scores, such as \"lang = 'en'\"")] = None,
    kept: Annotated[bool, typer.Option("--kept", help="leave dropped pairs out")] = False,
    model: Annotated[str | None, typer.Option(help="CLIP model; default: the one that made the column")] = None,
    pretrained: Annotated[str | None, typer.Option(help="its open_clip tag or weights file")] = None,
    device: Annotated[str, typer.Option(help="of the model: auto, cpu or cuda")] = "auto",
    workers: Annotated[int | None, typer.Option(min=1, help="threads that compare; default: one a CPU")] = None,
    json_: Annotated[bool, typer.Option("--json", help="one JSON object instead of a table")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="show no progress")] = False,
) -> None:
    """Find the pairs of a run that a text or an image describes, by its stored embeddings."""
    from pairsieve.pipelines import cli
    from pairsieve.pipelines.progress import reporter
    from pairsieve.pipelines.search import Query
    from pairsieve.pipelines.search import search as find
    from pairsieve.pipelines.search_page import search_json, search_page

    if device not in ("auto", "cpu", "cuda"):
        raise UserError(f"--device {device}: there are auto, cpu, cuda")
    query = Query(text, image, model, pretrained, "cpu" if device == "cpu" else "cuda" if device == "cuda" else "auto")
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
    if json_:
        print(json.dumps(search_json(found), indent=2, ensure_ascii=False))
        return
    for part in search_page(found):
        cli._console().print(part, soft_wrap=isinstance(part, str), markup=False)
