"""The commands ``pairsieve export ...``."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from pairsieve.pipelines.export_settings import Settings

export = typer.Typer(
    help="Write a run's dataset as other tools read it.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)

RunArg = Annotated[str, typer.Argument(help="a finished run with a dataset", metavar="RUN")]
OutArg = Annotated[str, typer.Argument(help="folder of the export, local or any fsspec URL", metavar="OUT")]
LocalOutArg = Annotated[str, typer.Argument(help="folder of the export, local", metavar="OUT")]
CaptionsOption = Annotated[
    str, typer.Option(help="of a list of texts: draw (one, by weight), first, or each (a sample for each)")
]
TextOption = Annotated[
    str | None, typer.Option(help="column of captions: texts or lists; default: the list that 'choose' left, else text")
]
SeedOption = Annotated[int, typer.Option(help="of the draw")]
EngineOption = Annotated[str, typer.Option(help="auto, local or ray")]
AddressOption = Annotated[str | None, typer.Option(help="address of a Ray cluster; implies --engine ray")]
WorkersOption = Annotated[int | None, typer.Option(min=1, help="worker processes; default: one a CPU")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="show no progress")]


@export.callback()
def _export() -> None:
    """Write a run's dataset as other tools read it."""


@export.command()
def webdataset(
    run_dir: RunArg,
    out: OutArg,
    captions: CaptionsOption = "draw",
    text: TextOption = None,
    json_: Annotated[bool, typer.Option("--json", help="a .json with the light columns of each pair too")] = False,
    rows_per_shard: Annotated[int, typer.Option(min=1, help="samples a tar; none has more")] = 10_000,
    world_size: Annotated[int, typer.Option(min=1, help="training processes, one a GPU")] = 1,
    loader_workers: Annotated[int, typer.Option(min=1, help="loaders of each: open_clip's --workers")] = 4,
    seed: SeedOption = 0,
    engine: EngineOption = "auto",
    ray_address: AddressOption = None,
    workers: WorkersOption = None,
    quiet: QuietOption = False,
) -> None:
    """Write tars of equal size, and sizes.json, as open_clip's training reads them."""
    from pairsieve.pipelines.export_settings import Webdataset

    chosen: Any = captions
    settings = Webdataset(chosen, text, json_, rows_per_shard, world_size, loader_workers, seed)
    _run(run_dir, out, settings, engine, ray_address, workers, quiet)


@export.command("csv")
def csv_(
    run_dir: RunArg,
    out: LocalOutArg,
    captions: CaptionsOption = "draw",
    text: TextOption = None,
    prefix: Annotated[
        str | None, typer.Option(help="folder to write before each file's path; default: that of OUT")
    ] = None,
    rows_per_shard: Annotated[int, typer.Option(min=1, help="images a folder")] = 10_000,
    seed: SeedOption = 0,
    engine: EngineOption = "auto",
    ray_address: AddressOption = None,
    workers: WorkersOption = None,
    quiet: QuietOption = False,
) -> None:
    """Write image files, and a list of paths and captions: open_clip's csv dataset."""
    from pairsieve.pipelines.export_settings import Csv

    chosen: Any = captions
    _run(run_dir, out, Csv(chosen, text, prefix, rows_per_shard, seed), engine, ray_address, workers, quiet)


@export.command()
def hf(
    run_dir: RunArg,
    out: OutArg,
    license_: Annotated[str, typer.Option("--license", help="that the card names, by the Hub's name")] = "unknown",
    rows_per_shard: Annotated[int | None, typer.Option(min=1, help="rows a file; default: about 500 MB")] = None,
    engine: EngineOption = "auto",
    ray_address: AddressOption = None,
    workers: WorkersOption = None,
    quiet: QuietOption = False,
) -> None:
    """Write Parquet files with images, and a card: a folder for datasets.load_dataset and the Hub."""
    from pairsieve.pipelines.export_settings import HuggingFace

    _run(run_dir, out, HuggingFace(license_, rows_per_shard), engine, ray_address, workers, quiet)


@export.command()
def img2dataset(
    run_dir: Annotated[str, typer.Argument(help="a finished run with a download step", metavar="RUN")],
    out: OutArg,
    downloaded: Annotated[
        bool, typer.Option("--downloaded", help="images of pairs that later steps dropped too")
    ] = False,
    step: Annotated[str | None, typer.Option(help="the download step, where there are several")] = None,
    oom_shard_count: Annotated[int, typer.Option(min=1, help="digits of shard numbers")] = 5,
    engine: EngineOption = "auto",
    ray_address: AddressOption = None,
    workers: WorkersOption = None,
    quiet: QuietOption = False,
) -> None:
    """Write a run's downloads as img2dataset does: tars, Parquet files with every row, counts."""
    from pairsieve.pipelines import cli
    from pairsieve.pipelines.export_downloads import export_downloads, summary
    from pairsieve.pipelines.export_settings import Img2dataset
    from pairsieve.pipelines.progress import reporter

    with cli._resumable():
        found = export_downloads(
            run_dir,
            out,
            Img2dataset(downloaded, step, oom_shard_count),
            engine=cli._engine(engine),
            ray_address=ray_address,
            workers=workers,
            progress=reporter(quiet),
        )
    for line in summary(found, out):
        cli._console().print(line, soft_wrap=True, markup=False)


def _run(
    run_dir: str, out: str, settings: "Settings", engine: str, address: str | None, workers: int | None, quiet: bool
) -> None:
    from pairsieve.pipelines import cli
    from pairsieve.pipelines.export import export as write
    from pairsieve.pipelines.export import summary
    from pairsieve.pipelines.progress import reporter

    with cli._resumable():
        found = write(
            run_dir,
            out,
            settings,
            engine=cli._engine(engine),
            ray_address=address,
            workers=workers,
            progress=reporter(quiet),
        )
    for line in summary(found, out):
        cli._console().print(line, soft_wrap=True, markup=False)
