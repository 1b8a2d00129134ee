"""The commands ``pairsieve export ...``."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from pairsieve.pipelines import cli_complete as complete
from pairsieve.pipelines.cli_options import Job, JsonOption, run_arg, takes_job
from pairsieve.pipelines.cli_output import emit, resumable

if TYPE_CHECKING:
    from pairsieve.pipelines.export_settings import Settings

export = typer.Typer(
    help="Write a run's dataset as other tools read it.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)

CAPTIONS = ("draw", "first", "each")
RunArg = Annotated[str, run_arg("a finished run with a dataset")]
OutArg = Annotated[str, typer.Argument(help="folder of the export, local or any fsspec URL", metavar="OUT")]
LocalOutArg = Annotated[str, typer.Argument(help="folder of the export, local", metavar="OUT")]
CaptionsOption = Annotated[
    str,
    typer.Option(
        help="of a list of texts: draw (one, by weight), first, or each (a sample for each)",
        autocompletion=complete.one_of(*CAPTIONS),
    ),
]
TextOption = Annotated[
    str | None, typer.Option(help="column of captions: texts or lists; default: the list that 'choose' left, else text")
]
SeedOption = Annotated[int, typer.Option(help="of the draw")]


@export.callback()
def _export() -> None:
    """Write a run's dataset as other tools read it."""


@export.command()
@takes_job
def webdataset(
    run_dir: RunArg,
    out: OutArg,
    *,
    job: Job,
    captions: CaptionsOption = "draw",
    text: TextOption = None,
    with_json: Annotated[
        bool, typer.Option("--with-json", help="a .json with the light columns of each pair too")
    ] = False,
    rows_per_shard: Annotated[int, typer.Option(min=1, help="samples a tar; none has more")] = 10_000,
    world_size: Annotated[int, typer.Option(min=1, help="training processes, one a GPU")] = 1,
    loader_workers: Annotated[int, typer.Option(min=1, help="loaders of each: open_clip's --workers")] = 4,
    seed: SeedOption = 0,
    json_: JsonOption = False,
) -> None:
    """Write tars of equal size, and sizes.json, as open_clip's training reads them."""
    from pairsieve.pipelines.export_settings import Webdataset

    chosen: Any = captions
    settings = Webdataset(chosen, text, with_json, rows_per_shard, world_size, loader_workers, seed)
    _run(run_dir, out, settings, job, json_)


@export.command("csv")
@takes_job
def csv_(
    run_dir: RunArg,
    out: LocalOutArg,
    *,
    job: Job,
    captions: CaptionsOption = "draw",
    text: TextOption = None,
    prefix: Annotated[
        str | None, typer.Option(help="folder to write before each file's path; default: that of OUT")
    ] = None,
    rows_per_shard: Annotated[int, typer.Option(min=1, help="images a folder")] = 10_000,
    seed: SeedOption = 0,
    json_: JsonOption = False,
) -> None:
    """Write image files, and a list of paths and captions: open_clip's csv dataset."""
    from pairsieve.pipelines.export_settings import Csv

    chosen: Any = captions
    _run(run_dir, out, Csv(chosen, text, prefix, rows_per_shard, seed), job, json_)


@export.command()
@takes_job
def hf(
    run_dir: RunArg,
    out: OutArg,
    *,
    job: Job,
    license_: Annotated[str, typer.Option("--license", help="that the card names, by the Hub's name")] = "unknown",
    rows_per_shard: Annotated[int | None, typer.Option(min=1, help="rows a file; default: about 500 MB")] = None,
    json_: JsonOption = False,
) -> None:
    """Write Parquet files with images, and a card: a folder for datasets.load_dataset and the Hub."""
    from pairsieve.pipelines.export_settings import HuggingFace

    _run(run_dir, out, HuggingFace(license_, rows_per_shard), job, json_)


@export.command()
@takes_job
def img2dataset(
    run_dir: Annotated[str, run_arg("a finished run with a download step")],
    out: OutArg,
    *,
    job: Job,
    downloaded: Annotated[
        bool, typer.Option("--downloaded", help="images of pairs that later steps dropped too")
    ] = False,
    step: Annotated[str | None, typer.Option(help="the download step, where there are several")] = None,
    oom_shard_count: Annotated[int, typer.Option(min=1, help="digits of shard numbers")] = 5,
    json_: JsonOption = False,
) -> None:
    """Write a run's downloads as img2dataset does: tars, Parquet files with every row, counts."""
    from pairsieve.pipelines.cli_documents import export_document
    from pairsieve.pipelines.export_downloads import export_downloads, summary
    from pairsieve.pipelines.export_settings import Img2dataset

    with resumable():
        found = export_downloads(run_dir, out, Img2dataset(downloaded, step, oom_shard_count), **job.settings)
    emit(json_, lambda: export_document(found, out), lambda: summary(found, out))


def _run(run_dir: str, out: str, settings: "Settings", job: Job, as_json: bool) -> None:
    from pairsieve.pipelines.cli_documents import export_document
    from pairsieve.pipelines.export import export as write
    from pairsieve.pipelines.export import summary

    with resumable():
        found = write(run_dir, out, settings, **job.settings)
    emit(as_json, lambda: export_document(found, out), lambda: summary(found, out))
