"""The command ``pairsieve metadata``."""

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from pairsieve.pipelines import cli_complete as complete
from pairsieve.pipelines.cli_options import Job, JsonOption, takes_job
from pairsieve.pipelines.cli_output import emit, resumable
from pairsieve.schemas.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import RenderableType

    from pairsieve.pipelines.metadata_out import MetadataManifest
    from pairsieve.pipelines.metadata_settings import Limits, Rules


@takes_job
def metadata(
    out: Annotated[str, typer.Argument(help="metadata file, .parquet; local or any fsspec URL", metavar="OUT")],
    joined: Annotated[list[str] | None, typer.Argument(help="files to join, with --join", metavar="FILE")] = None,
    *,
    job: Job,
    join: Annotated[bool, typer.Option("--join", help="join the FILEs of several languages into OUT")] = False,
    wordnet: Annotated[str | None, typer.Option(help="folder of WordNet 3.0; default: where it is installed")] = None,
    no_wordnet: Annotated[bool, typer.Option("--no-wordnet", help="without WordNet")] = False,
    wikipedia: Annotated[
        list[str] | None, typer.Option(help="dump: MediaWiki XML, JSON lines, Parquet; path, folder or glob; repeat")
    ] = None,
    titles: Annotated[list[str] | None, typer.Option(help="hourly page views; path, folder or glob; repeat")] = None,
    language: Annotated[str, typer.Option(help="code of the language, written to every entry")] = "en",
    project: Annotated[str | None, typer.Option(help="project code in page views; default: the language")] = None,
    segmenter: Annotated[
        str | None, typer.Option(help="package.module:function that cuts a text into words; bigrams get no space")
    ] = None,
    v2: Annotated[bool, typer.Option("--v2", help="MetaCLIP 2's shares, limits and score instead of v1's")] = False,
    unigram_least: Annotated[int | None, typer.Option(min=1, help="count of a word; v1: 100")] = None,
    unigram_most: Annotated[int | None, typer.Option(min=0, help="so many of the most frequent words")] = None,
    unigram_share: Annotated[float | None, typer.Option(min=0, max=1, help="this part of the words; v2: 0.1")] = None,
    bigram_score: Annotated[
        str | None, typer.Option(help="pmi (v1) or metaclip2 (v2)", autocompletion=complete.one_of("pmi", "metaclip2"))
    ] = None,
    bigram_least: Annotated[float | None, typer.Option(help="score of a bigram; v1: a PMI of 30")] = None,
    bigram_count: Annotated[int, typer.Option(min=1, help="least count of a bigram")] = 1,
    bigram_most: Annotated[int | None, typer.Option(min=0, help="so many of the best bigrams")] = None,
    bigram_share: Annotated[
        float | None, typer.Option(min=0, max=100, help="so many, as part of the words taken; v2: 0.4")
    ] = None,
    title_least: Annotated[int | None, typer.Option(min=1, help="views of a title in all hours; v1: 70")] = None,
    title_hour_least: Annotated[int, typer.Option(min=0, help="views in an hour; fewer do not count")] = 50,
    title_most: Annotated[int | None, typer.Option(min=0, help="so many of the most viewed titles")] = None,
    title_share: Annotated[float | None, typer.Option(min=0, max=1, help="this part of the titles; v2: 0.76")] = None,
    force: Annotated[bool, typer.Option("--force", help="overwrite a file that is not pairsieve's")] = False,
    json_: JsonOption = False,
) -> None:
    """Build MetaCLIP's list of entries from WordNet, Wikipedia and page views, or join those of languages."""
    from pairsieve.pipelines.cli_documents import metadata_document
    from pairsieve.pipelines.metadata import build
    from pairsieve.pipelines.metadata_join import join as join_files
    from pairsieve.pipelines.metadata_settings import V1, V2, Sources

    if joined and not join:
        raise UserError(f"{joined[0]}: files to join go with --join; dumps with --wikipedia, page views with --titles")
    if join:
        if wordnet or wikipedia or titles:
            raise UserError("--join takes finished files alone; build each language first, then join")
        whole = join_files(out, joined or (), force=force)
        emit(json_, lambda: metadata_document(whole, out), lambda: _page(whole, out))
        return
    if wordnet and no_wordnet:
        raise UserError("--wordnet and --no-wordnet: give one of them")
    preset = V2 if v2 else V1
    rules = replace(
        preset,
        unigrams=_limits(preset.unigrams, unigram_least, unigram_most, unigram_share),
        titles=_limits(preset.titles, title_least, title_most, title_share),
        count_least=bigram_count,
        hour_least=title_hour_least,
    )
    rules = _scored(rules, bigram_score)
    rules = replace(rules, bigrams=_limits(rules.bigrams, bigram_least, bigram_most, bigram_share))
    sources = Sources(
        language=language,
        is_wordnet=wordnet is not None or (language == "en" and not no_wordnet),
        wordnet=wordnet,
        wikipedia=tuple(wikipedia or ()),
        titles=tuple(titles or ()),
        project=project,
        segmenter=segmenter,
    )
    with resumable():
        found = build(out, sources, rules, force=force, **job.settings)
    emit(json_, lambda: metadata_document(found, out), lambda: _page(found, out))


def _limits(preset: "Limits", least: float | None, most: int | None, share: float | None) -> "Limits":
    """The preset with what was given."""
    return replace(
        preset,
        least=preset.least if least is None else least,
        most=preset.most if most is None else most,
        share=preset.share if share is None else share,
    )


def _scored(rules: "Rules", score: str | None) -> "Rules":
    """With a score of the bigrams other than the preset's, and its threshold: 30 is one of PMI."""
    from pairsieve.pipelines.metadata_settings import SCORES

    if score is None or score == rules.score:
        return rules
    if score not in SCORES:
        raise UserError(f"--bigram-score {score}: there are {', '.join(SCORES)}")
    if score == "pmi":
        return replace(rules, score="pmi", bigrams=replace(rules.bigrams, least=30.0))
    return replace(rules, score="metaclip2", bigrams=replace(rules.bigrams, least=None))


def _page(manifest: "MetadataManifest", out: str) -> "Iterator[RenderableType]":
    """A table of the sources, and where the file lies."""
    from rich.table import Table

    shown = Table()
    for name in ("source", "seen", "passed", "new"):
        shown.add_column(name, justify="left" if name == "source" else "right")
    for one in manifest.sources:
        name = one.source if one.source != "joined" else one.files[0].path
        shown.add_row(name, *(f"{number:,}" for number in (one.seen, one.passed, one.new)))
    yield shown
    yield f"{manifest.entries:,} entries: {out}"
