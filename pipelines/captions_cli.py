"""The commands ``pairsieve captions ...``."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from pairsieve.pipelines import cli_complete as complete
from pairsieve.pipelines.cli_options import DEVICES, JsonOption, chosen, one_of
from pairsieve.pipelines.cli_output import emit
from pairsieve.schemas.errors import QueryError, UserError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import RenderableType

    from pairsieve.pipelines.captions import Items, Scores
    from pairsieve.pipelines.captions_read import Captions

captions = typer.Typer(help="Judge captions.", no_args_is_help=True, add_completion=False, rich_markup_mode=None)
TOKENIZERS = ("ptb", "none")


@captions.callback()
def _captions() -> None:
    """Judge captions."""


@captions.command("score")
def score(
    hypotheses: Annotated[str | None, typer.Argument(help="captions: COCO results, .json, .jsonl, .parquet")] = None,
    references: Annotated[str | None, typer.Argument(help="references: COCO captions, .json, .jsonl, .parquet")] = None,
    run: Annotated[
        str | None, typer.Option("--run", help="score a column of a finished run instead", autocompletion=complete.runs)
    ] = None,
    caption: Annotated[str, typer.Option(help="with --run: the column of captions")] = "caption",
    reference: Annotated[str, typer.Option(help="with --run: the column that they are compared with")] = "text",
    where: Annotated[str | None, typer.Option(help="with --run: SQL over the view scores")] = None,
    number: Annotated[int, typer.Option(min=1, help="which of several captions of an item counts")] = 1,
    metrics: Annotated[
        str | None, typer.Option(help="bleu,rouge_l,meteor,cider,sacrebleu; default: all but sacrebleu")
    ] = None,
    tokenizer: Annotated[
        str,
        typer.Option(
            help="ptb (COCO's, needs Java) or none: texts are words already",
            autocompletion=complete.one_of(*TOKENIZERS),
        ),
    ] = "ptb",
    clip_model: Annotated[str | None, typer.Option(help="CLIP model: CLIPScore and RefCLIPScore too")] = None,
    clip_pretrained: Annotated[str | None, typer.Option(help="its open_clip tag or weights file")] = None,
    images: Annotated[str | None, typer.Option(help="folder of the images, for CLIPScore")] = None,
    device: Annotated[str, one_of(values=DEVICES, what="of the CLIP model")] = "auto",
    out: Annotated[str | None, typer.Option(help="write the scores of each item here, as Parquet")] = None,
    json_: JsonOption = False,
) -> None:
    """Score captions by BLEU, ROUGE-L, METEOR, CIDEr and CLIPScore."""
    from pairsieve.pipelines.captions import matched, summary
    from pairsieve.pipelines.captions import score as score_texts

    wanted = _metrics(metrics)
    words = chosen("--tokenizer", tokenizer, TOKENIZERS)
    if images is not None and clip_model is None:
        raise UserError("--images goes with --clip-model, such as --clip-model ViT-B-32 --clip-pretrained openai")
    items = matched(*_texts(hypotheses, references, run, caption, reference, where), number)
    clip = _clip(clip_model, clip_pretrained, device) if clip_model is not None else None
    found = score_texts(items, wanted, words)
    if clip is not None:
        _add_clip(found, items, clip, images, run)
    if out is not None:
        _save(out, items, found)
    emit(json_, lambda: summary(found, items), lambda: _page(items, found))


def _metrics(names: str | None) -> list[str] | None:
    from pairsieve.pipelines.captions import TEXT_METRICS

    if names is None:
        return None
    wanted = list(dict.fromkeys(name.strip().lower() for name in names.split(",") if name.strip()))
    for name in wanted:
        if name == "spice":
            raise UserError("--metrics spice: not offered, its package downloads programs when first used")
        if name not in TEXT_METRICS:
            raise UserError(f"--metrics {name}: there are {', '.join(TEXT_METRICS)}; CLIPScore comes with --clip-model")
    return wanted


def _texts(
    hypotheses: str | None, references: str | None, run: str | None, caption: str, reference: str, where: str | None
) -> "tuple[Captions, Captions]":
    """Captions and references, of two files or of a run."""
    from pairsieve.pipelines.captions_read import of_run, read

    if run is not None:
        if hypotheses is not None:
            raise UserError("give two files, or --run RUN, not both")
        try:
            return of_run(run, caption, reference, where)
        except QueryError as error:
            raise QueryError(f"{error}; --caption and --reference name columns of the run") from None
    if hypotheses is None or references is None:
        raise UserError("give captions and references: pairsieve captions score CAPTIONS REFERENCES, or --run RUN")
    if where is not None:
        raise UserError("--where goes with --run")
    return read(hypotheses), read(references)


def _clip(model: str, pretrained: str | None, device: str) -> Any:
    """The loaded model."""
    from pydantic import ValidationError

    from pairsieve.filters._clip_model import ClipModel

    try:
        made = ClipModel(model=model, pretrained=pretrained, device=chosen("--device", device, DEVICES))
        made.check_model()
    except ValidationError as error:
        raise UserError(f"--clip-model {model}: {error.errors()[0]['msg']}") from None
    except ValueError as error:
        raise UserError(f"--clip-model {model}: {error}") from None
    return made.load()


def _add_clip(found: "Scores", items: "Items", clip: Any, images: str | None, run: str | None) -> None:
    from pairsieve.pipelines.captions_clip import clip_scores, images_in
    from pairsieve.pipelines.captions_read import images_of_run

    if images is None and run is None:
        raise UserError("CLIPScore needs the images: --images FOLDER")
    source = images_in(images, items) if images is not None else images_of_run(run or "", items.ids)
    own = clip_scores(clip, items, source)
    found.whole |= own.whole
    found.each |= own.each
    found.notes += own.notes


def _save(out: str, items: "Items", found: "Scores") -> None:
    """A row an item: id, caption, scores."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {"id": items.ids, "caption": items.hypotheses, "references": items.references, **found.each}
    try:
        pq.write_table(pa.table(columns), out)
    except OSError as error:
        raise UserError(f"--out {out}: {error.strerror or error}") from None


def _page(items: "Items", found: "Scores") -> "Iterator[RenderableType]":
    from rich.table import Table

    table = Table()
    table.add_column("metric")
    table.add_column("score", justify="right")
    for name, value in found.whole.items():
        table.add_row(name, f"{value:.4f}" if name != "sacrebleu" else f"{value:.2f}")
    yield table
    lines = [f"{len(items.ids):,} items", f"{items.empty:,} of them with an empty caption" if items.empty else ""]
    lines += [f"{items.unanswered:,} references without a caption" if items.unanswered else ""]
    lines += [f"{items.unknown:,} captions without a reference" if items.unknown else "", *found.notes]
    yield "; ".join(line for line in lines if line)
