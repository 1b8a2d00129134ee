"""The command ``pairsieve cluster``."""

from typing import Annotated

import typer

from pairsieve.pipelines import cli_complete as complete
from pairsieve.pipelines.cli_options import JsonOption, QuietOption, run_arg
from pairsieve.pipelines.cli_output import emit


def cluster(
    run_dir: Annotated[str, run_arg("a finished run; the pairs it kept are used")],
    features: Annotated[str, typer.Option(help="column of embeddings", autocompletion=complete.columns)],
    clusters: Annotated[int, typer.Option(min=1, max=2**31 - 1, help="how many centroids")],
    out: Annotated[str, typer.Option(help="centroids, as .npy")],
    iterations: Annotated[int, typer.Option(min=1, help="of k-means")] = 20,
    sample: Annotated[float, typer.Option(min=0, max=1, help="fraction of the pairs, by hash of seed and uid")] = 1.0,
    seed: Annotated[int, typer.Option(min=0, max=2**31 - 1, help="of the sample and of the first centroids")] = 0,
    quiet: QuietOption = False,
    json_: JsonOption = False,
) -> None:
    """Train centroids for image_cluster on a run's kept pairs: k-means, as DataComp has it."""
    from pairsieve.pipelines.cli_documents import cluster_document
    from pairsieve.pipelines.cluster import check_out, save
    from pairsieve.pipelines.cluster import cluster as train
    from pairsieve.pipelines.progress import reporter

    check_out(out)
    found = train(
        run_dir, features, clusters, iterations=iterations, sample=sample, seed=seed, progress=reporter(quiet)
    )
    save(out, found.centroids)
    lost = f", {found.missing:,} had no embedding" if found.missing else ""
    said = f"{clusters:,} centroids from {found.vectors:,} pairs{lost}: {out}"
    emit(json_, lambda: cluster_document(found, out), lambda: [said])
