"""The command ``pairsieve reshard``."""

from typing import Annotated

import typer

from pairsieve.pipelines.cli_options import Job, JsonOption, chosen, one_of, takes_job
from pairsieve.pipelines.cli_output import emit, resumable

FORMATS = ("tar", "parquet")


@takes_job
def reshard(
    subset: Annotated[str, typer.Argument(help="DataComp subset: sorted u8,u8 records in .npy", metavar="SUBSET")],
    shards: Annotated[str, typer.Argument(help="folder or glob of tars or Parquet files", metavar="SHARDS")],
    out: Annotated[str, typer.Argument(help="folder of the training shards, local or any fsspec URL", metavar="OUT")],
    *,
    job: Job,
    format_: Annotated[str, one_of("--format", values=FORMATS)] = "tar",
    rows_per_shard: Annotated[int, typer.Option(min=1, help="samples a shard; none has more")] = 10_000,
    seed: Annotated[int, typer.Option(help="of the shuffle")] = 0,
    allow_missing: Annotated[bool, typer.Option("--allow-missing", help="write what there is")] = False,
    json_: JsonOption = False,
) -> None:
    """Write the samples that a subset names into equal, shuffled training shards, or continue."""
    from pairsieve.pipelines.cli_documents import reshard_document
    from pairsieve.pipelines.reshard import reshard as write_shards
    from pairsieve.pipelines.reshard import summary

    kind = chosen("--format", format_, FORMATS)
    with resumable():
        result = write_shards(
            subset,
            shards,
            out,
            format=kind,
            rows_per_shard=rows_per_shard,
            seed=seed,
            allow_missing=allow_missing,
            **job.settings,
        )
    emit(json_, lambda: reshard_document(result, out), lambda: summary(result))
