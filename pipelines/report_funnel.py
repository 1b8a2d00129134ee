"""How many pairs reach each step and go there, what a step alone would drop, what it took; and bytes by folder."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pairsieve.pipelines import costs
from pairsieve.pipelines.costs import Cost
from pairsieve.pipelines.report_cuts import Cut
from pairsieve.pipelines.report_samples import Reason
from pairsieve.pipelines.report_source import Source
from pairsieve.pipelines.sql import quote

TOLD = frozenset(
    [
        *("aesthetic", "caption_words", "clip_score", "image_shape", "itm", "neg_clip_loss", "norm_sim", "nsfw"),
        *("random_sample", "sieve", "text_entities", "tmars"),
    ]
)
"""Filters whose verdict is their cuts alone, so that stored scores say what they would drop of the whole pool."""


@dataclass(frozen=True)
class Line:
    """A step: pairs that reached it and that it dropped; ``alone``: what it would drop of the whole pool, if known."""

    step: str
    filter: str
    reached: int
    dropped: int
    cost: Cost | None = None
    alone: int | None = None

    @property
    def left(self) -> int:
        """Pairs that stay there."""
        return self.reached - self.dropped


def funnel(source: Source, reasons: Sequence[Reason], cuts: Sequence[Cut]) -> list[Line]:
    """The pool and the steps in order; with what the last one added."""
    lost: Counter[str] = Counter()
    for reason in reasons:
        if reason.step is not None:
            lost[reason.step] += reason.pairs
    judged, added = sum(reason.pairs for reason in reasons), _added(source)
    left = judged - added if judged else source.manifest.pool.rows
    known = costs.load(source.store)
    lines = [Line("pool", "", left, lost["pool"])]
    for k, step in enumerate(source.steps):
        left = lines[-1].left + (added if k == len(source.steps) - 1 else 0)
        cost = known.get(step.fingerprint) if step.measures else None
        those = [cut for cut in cuts if cut.step == k] if step.filter in TOLD else []
        alone = _alone(source, those, lines[0].left)
        lines.append(Line(step.id, step.filter, left, lost[step.id], cost, alone))
    return lines


def _added(source: Source) -> int:
    if "added" not in source.columns:
        return 0
    ((count,),) = source.rows("SELECT count(*) FROM added")
    return int(count)


def _alone(source: Source, cuts: Sequence[Cut], reached: int) -> int | None:
    """Pairs that fail one of the cuts; None where fewer were measured than reached the first step."""
    views = {cut.view for cut in cuts}
    if len(views) != 1:
        return None
    passes = " AND ".join(f"({cut.test})" for cut in cuts)
    sql = f"SELECT count(*), count(*) FILTER (NOT coalesce({passes}, false)) FROM {quote(views.pop())}"
    with source.section(f"what is stored in {cuts[0].view}"):
        ((rows, failed),) = source.rows(sql)
        return int(failed) if rows >= reached else None
    return None


@dataclass(frozen=True)
class Volume:
    """Files of a kind: how many, and their bytes."""

    what: str
    files: int
    bytes: int


def volumes(source: Source, leave_out: str) -> list[Volume]:
    """Every folder of the run, scores step by step; without the report itself."""
    found = [_volume(source, name, name) for name in ("pairs", "verdicts", "added", "dataset")]
    for kind in ("scores", "facts", "derived"):
        found += [_volume(source, f"{kind}/{step.id}", f"{kind}/{step.id}") for step in source.steps]
    tables = [_volume(source, f"derived/{step.id}/tables", f"derived/{step.id}/tables") for step in source.steps]
    top = {
        name: size for name, size in source.store.sizes("").items() if not name.startswith(".") and name != leave_out
    }
    found += [*tables, Volume("other files of the run", len(top), sum(top.values()))]
    return [volume for volume in found if volume.files]


def _volume(source: Source, what: str, folder: str) -> Volume:
    sizes = source.store.sizes(folder)
    return Volume(what, len(sizes), sum(sizes.values()))


@dataclass(frozen=True)
class Model:
    """A file that decides scores: the step, the file's name, its SHA-256."""

    step: str
    file: str
    digest: str


def models(source: Source) -> Iterator[Model]:
    """Files that a step's scores come from, by their names alone."""
    for step in source.steps:
        for name, digest in (step.measures or {}).get("files") or ():
            yield Model(step.id, str(name).replace("\\", "/").rstrip("/").rsplit("/", 1)[-1], str(digest))
