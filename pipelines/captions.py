"""Scores of captions against references: BLEU, ROUGE-L, METEOR, CIDEr by pycocoevalcap, CLIPScore by open_clip.

Figures equal those of COCO's evaluation: its tokenizer, one hypothesis an item, the corpus' own IDF.  About 2 ms an
item, METEOR 2 more; CLIPScore costs an image and some texts of its model.  SPICE is not offered: its package downloads
programs when it is first used.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Literal

import numpy as np

from pairsieve.pipelines import captions_java
from pairsieve.pipelines.captions_read import Captions
from pairsieve.schemas.errors import MissingExtraError, UserError

Tokenizer = Literal["ptb", "none"]
TEXT_METRICS = ("bleu", "rouge_l", "meteor", "cider", "sacrebleu")
CLIP_METRICS = ("clipscore", "refclipscore")
NEEDS_TWO = "cider"
"""Its IDF is of the references scored: of one item alone it is 0."""


@dataclass(frozen=True)
class Items:
    """What is scored, item by item: ids, a hypothesis each, references each; and what was left out."""

    ids: list[str]
    hypotheses: list[str]
    references: list[list[str]]
    files: dict[str, str] = field(default_factory=dict)
    unanswered: int = 0  # references without a hypothesis
    unknown: int = 0  # hypotheses without a reference

    @property
    def empty(self) -> int:
        """Hypotheses without a word: they count, as nothing said."""
        return sum(not text for text in self.hypotheses)


@dataclass
class Scores:
    """Of the whole by metric, in the order that they are shown; and of each item where a metric has that."""

    whole: dict[str, float] = field(default_factory=dict)
    each: dict[str, list[float]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def matched(hypotheses: Captions, references: Captions, number: int = 1) -> Items:
    """Items with both, in the order of the references; of several hypotheses the ``number``-th (from 1) counts.

    Raises ``UserError`` where no item has both.
    """
    known = {item: [text for text in texts if text] for item, texts in references.texts.items()}
    known = {item: texts for item, texts in known.items() if texts}
    ids = [item for item in known if item in hypotheses.texts]
    if not ids:
        raise UserError("no id is in both; ids are compared as text, such as image_id 42 and '42'")
    chosen = [hypotheses.texts[item] for item in ids]
    return Items(
        ids,
        [texts[number - 1] if len(texts) >= number else "" for texts in chosen],
        [known[item] for item in ids],
        {**hypotheses.files, **references.files},
        len(known) - len(ids),
        len(hypotheses.texts) - len(ids),
    )


def score(items: Items, metrics: Sequence[str] | None = None, tokenizer: Tokenizer = "ptb") -> Scores:
    """Text metrics of the items; null: BLEU, ROUGE-L, METEOR where there is Java, CIDEr.

    Raises ``UserError`` where Java is missing that is needed, or packages are.
    """
    if find_spec("pycocoevalcap") is None:
        raise MissingExtraError("caption metrics need pycocoevalcap: pip install 'pairsieve[metrics]'")
    found = Scores()
    chosen = list(TEXT_METRICS[:4] if metrics is None else metrics)
    if metrics is None and not captions_java.has_java():
        chosen.remove("meteor")
        found.notes.append("without METEOR, which needs Java (apt install default-jre-headless)")
    hypotheses, references = _tokenized(items, tokenizer) if set(chosen) - {"sacrebleu"} else ([], [])
    for name in chosen:
        if name == "meteor":
            found.whole["meteor"], found.each["meteor"] = captions_java.meteor(hypotheses, references)
        elif name == "sacrebleu":
            found.whole["sacrebleu"] = _sacrebleu(items)
        else:
            whole, each = _by_coco(name, hypotheses, references)
            found.whole |= whole
            found.each |= each
    if NEEDS_TWO in chosen and len(items.ids) < 2:
        found.notes.append("CIDEr weighs words by how few items have them: of one item it is 0")
    return found


def _tokenized(items: Items, tokenizer: Tokenizer) -> tuple[list[str], list[list[str]]]:
    """Words between single spaces, in lower case."""
    texts = [*items.hypotheses, *(text for texts in items.references for text in texts)]
    if tokenizer == "none":
        found = [" ".join(text.lower().split()) for text in texts]
    elif captions_java.has_java():
        found = captions_java.tokenized(texts)
    else:
        raise UserError("the tokenizer needs Java (apt install default-jre-headless); or write --tokenizer none")
    rest = iter(found[len(items.ids) :])
    return found[: len(items.ids)], [[next(rest) for _ in texts] for texts in items.references]


_COCO = {"bleu": ("bleu.bleu", "Bleu"), "rouge_l": ("rouge.rouge", "Rouge"), "cider": ("cider.cider", "Cider")}


def _by_coco(
    name: str, hypotheses: Sequence[str], references: Sequence[Sequence[str]]
) -> tuple[dict[str, float], dict[str, list[float]]]:
    """One of pycocoevalcap's scorers."""
    module, kind = _COCO[name]
    made = getattr(import_module(f"pycocoevalcap.{module}"), kind)()
    known = {i: list(texts) for i, texts in enumerate(references)}
    said = {i: [text] for i, text in enumerate(hypotheses)}
    quiet = {"verbose": 0} if name == "bleu" else {}
    whole, each = made.compute_score(known, said, **quiet)
    if name != "bleu":
        return {name: float(whole)}, {name: [float(value) for value in each]}
    names = [f"bleu_{n}" for n in range(1, 5)]
    rows = {n: [float(v) for v in values] for n, values in zip(names, each, strict=True)}
    return {n: float(value) for n, value in zip(names, whole, strict=True)}, rows


def _sacrebleu(items: Items) -> float:
    """sacrebleu's corpus BLEU of the texts as they are, by its own tokenizer (13a), of 100."""
    if find_spec("sacrebleu") is None:
        raise MissingExtraError("sacrebleu is not installed: pip install 'pairsieve[metrics]'")
    most = max(map(len, items.references))
    streams = [[texts[i] if i < len(texts) else None for texts in items.references] for i in range(most)]
    return float(import_module("sacrebleu").corpus_bleu(items.hypotheses, streams).score)


def summary(scores: Scores, items: Items) -> dict[str, Any]:
    """All of it for programs."""
    counts = {"items": len(items.ids), "empty": items.empty, "unanswered": items.unanswered, "unknown": items.unknown}
    return {"scores": _plain(scores.whole), **counts, "notes": scores.notes}


def _plain(values: Mapping[str, float]) -> dict[str, float | None]:
    return {name: value if np.isfinite(value) else None for name, value in values.items()}
