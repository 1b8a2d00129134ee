"""Which texts an image is trained with: its own, captions, rewrites; as pairs of their own or as a list to draw from.

BLIP's CapFilt keeps every text that matches, BLIP-2 and LAION-COCO the best of many, Nguyen et al. (2307.10350) a
caption only where the web text fails.  Nothing is measured: texts and scores of earlier steps are compared, again in
every run: 0.3 to 0.8 µs a text, 3 with its uid and verdict.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BeforeValidator, Field, PositiveInt, model_validator

from pairsieve.filters import _top
from pairsieve.filters._choose import (
    JOINED,
    OWN,
    Candidates,
    Limits,
    Rule,
    candidates,
    decide,
    join,
    listed,
    others,
    own_reasons,
    shortlist,
)
from pairsieve.filters._text_lists import check_texts
from pairsieve.filters.base import ADDED, PoolFilter, Threshold, UnknownColumnError

CHOICES = pa.list_(
    pa.struct(
        [
            pa.field("text", pa.string(), nullable=False),
            pa.field("source", pa.string(), nullable=False),
            pa.field("score", pa.float32()),
            pa.field("weight", pa.float32(), nullable=False),
        ]
    )
)
"""Texts to draw from: each with the column it comes from, its score, and how often it is drawn (1 in all)."""


def _one_or_more(value: object) -> object:
    """A single column may stand without brackets."""
    return (value,) if isinstance(value, str) else value


class Choose(PoolFilter):
    """Decide which texts of an image stay, by their scores and by each other.

    ``rule``: ``each`` text that passes ``min``, ``above`` or ``top`` (BLIP: every survivor is a pair); the ``best`` by
    score (BLIP-2, LAION-COCO); those of the ``first`` column of ``texts`` of which one passes (Nguyen et al.: the web
    text, else the caption); or all that pass in one text (``join``).  ``top`` is the threshold of the first column's
    scores over the whole scope, as in DataComp, and holds for all columns.

    ``into: pairs`` adds a pair for each text that is not the pair's own, with a uid of its own and a ``parent``; what
    does not stay is dropped with a reason, the pair with its own text too.  It is the last step of a recipe.
    ``into: list`` keeps a pair where one of its texts stays and gives the dataset a column ``texts``, of which training
    draws one by its ``weight``; ``text`` is still the pool's.

    Reasons: ``no_text``, ``same_text`` (it stays already, from a column before), ``no_score`` (or a list of scores that
    is not as long as that of texts), ``below_min``, ``below_top``, ``not_listed`` (not on the ``shortlist``),
    ``not_first``, ``not_best``, ``joined``, ``not_chosen`` (the pair's own text is none of ``texts``).
    """

    texts: Annotated[tuple[str, ...], BeforeValidator(_one_or_more)] = Field(
        min_length=1, description="columns of texts in order; 'text' is the pair's own"
    )
    by: str | None = Field(
        None, description="scores: this column of 'text', <by>_<column> of the others, as clip_score and itm name them"
    )
    scores: dict[str, str] = Field({}, description="score column by column of texts, where 'by' does not say")
    rule: Threshold[Rule] = Field("each", description="each, best, first or join")
    min: Threshold[float | None] = Field(None, allow_inf_nan=False, description="a text's score is at least this")
    above: Threshold[float | None] = Field(None, allow_inf_nan=False, description="a text's score is more than this")
    top: Threshold[float | None] = Field(
        None, ge=0, le=1, description="a text's score is in this fraction of the first column's scores"
    )
    most: Threshold[PositiveInt | None] = Field(
        None, description="texts of an image at most, the best first; null: 1 for best and first, else all"
    )
    shortlist: Threshold[PositiveInt | None] = Field(
        None, description="before the rule: leave so many texts of an image, the best by other scores"
    )
    shortlist_by: str | None = Field(None, description="these scores, named as 'by' names them")
    into: Literal["pairs", "list"] = Field("pairs", description="a pair for each text, or one with a list to draw from")
    weights: Threshold[dict[str, float] | None] = Field(
        None, description="with 'into: list': how often a column of texts is drawn; null: every text equally often"
    )
    separator: Threshold[str] = Field(" ", description="with 'rule: join': between the texts")

    @model_validator(mode="after")
    def _sensible(self) -> "Choose":
        if self.rule == "best" and not (self.by or self.scores):
            raise ValueError("'rule: best' needs scores to compare: give 'by' or 'scores'")
        limits = {"min": self.min, "above": self.above, "top": self.top}
        if not (self.by or self.scores) and (name := next((n for n, v in limits.items() if v is not None), None)):
            raise ValueError(f"{name!r} needs scores to compare: give 'by' or 'scores'")
        if self.rule == "join" and self.most is not None:
            raise ValueError("'most' counts texts, of which 'rule: join' leaves one")
        if (self.shortlist is None) != (self.shortlist_by is None):
            raise ValueError("'shortlist' says how many texts are left, 'shortlist_by' by which scores: give both")
        if self.rule != "join" and "separator" in self.model_fields_set:
            raise ValueError("'separator' goes with 'rule: join'")
        if unknown := sorted(set(self.scores) - set(self.texts)):
            raise ValueError(f"scores: {unknown[0]!r} is none of 'texts'")
        return self

    @model_validator(mode="after")
    def _weighable(self) -> "Choose":
        if not self.weights:
            return self
        if self.into != "list" or self.rule == "join":
            raise ValueError("'weights' says how often training draws a text of a list: write 'into: list', no 'join'")
        if set(self.weights) != set(self.texts):
            raise ValueError(f"weights: give one of each column of 'texts': {', '.join(self.texts)}")
        if not all(np.isfinite(w) and w > 0 for w in self.weights.values()):
            raise ValueError("weights: must be more than 0; leave a column that is never drawn out of 'texts'")
        return self

    @property
    def _scores(self) -> dict[str, str]:
        """The score column of each column of texts."""
        return (self._named(self.by) if self.by else {}) | self.scores

    @property
    def _shortlist_scores(self) -> dict[str, str]:
        return self._named(self.shortlist_by) if self.shortlist_by else {}

    def _named(self, by: str) -> dict[str, str]:
        """The columns of a score, as filters that score several columns of texts name them."""
        return {name: by if name == OWN else f"{by}_{name}" for name in self.texts}

    def derived(self, available: Mapping[str, pa.DataType]) -> dict[str, pa.DataType]:
        more = {"choose_added": ADDED} if self.into == "pairs" else {"texts": CHOICES}
        return {"choose_reason": pa.string(), **more}

    def inner(self) -> tuple[str, ...]:
        return ("choose_reason",)

    def own_scores(self) -> tuple[str, ...]:
        scores = (self._scores, self._shortlist_scores)
        return tuple(dict.fromkeys(found[OWN] for found in scores if OWN in found))

    def adds(self) -> str | None:
        return "choose_added" if self.into == "pairs" else None

    def summary_inputs(self, available: Mapping[str, pa.DataType]) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*self.texts, *self._scores.values(), *self._shortlist_scores.values())))

    def check(self, available: Mapping[str, pa.DataType]) -> None:
        check_texts(self.texts, available)
        if OWN in self.texts and available[OWN] != pa.string():
            raise ValueError(f"texts: {OWN!r} is the pair's own text, a string, not {available[OWN]}")
        for column in (*self._scores.values(), *self._shortlist_scores.values()):
            if column not in available:
                raise UnknownColumnError(column, available)
            kind = available[column]
            is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind)
            if (kind.value_type if is_list else kind) not in (pa.float32(), pa.float64()):
                raise ValueError(f"{column!r} ({kind}) holds no scores; they are float32 or float64, or lists of them")
        if self.top is not None and self.texts[0] not in self._scores:
            raise ValueError(f"'top' is of the scores of {self.texts[0]!r}, the first of 'texts', which has none")

    def is_settled(self, settled: Mapping[str, Any]) -> bool:
        return self.top is None or _top.is_settled(settled)

    def summarize(self, pairs: pa.RecordBatch, settled: Mapping[str, Any]) -> _top.Histogram:
        return _top.count(flat_scores(pairs[self._scores[self.texts[0]]]), settled)

    def merge(self, one: _top.Histogram, other: _top.Histogram) -> _top.Histogram:
        return one + other

    def settle(self, summary: _top.Histogram, settled: Mapping[str, Any]) -> dict[str, Any]:
        return _top.settle(summary, settled, self.top or 0.0)

    def derive(self, pairs: pa.RecordBatch, settled: Mapping[str, Any]) -> dict[str, pa.Array]:
        found = candidates(
            pairs, self.texts, self._scores, Limits(self.min, self.above, settled.get("threshold"), self.rule == "best")
        )
        if self.shortlist:
            shortlist(found, candidates(pairs, self.texts, self._shortlist_scores, Limits()), self.shortlist)
        most = self.most or (1 if self.rule in ("best", "first") else None)
        decide(found, self.rule, most)
        if self.rule == "join":
            return self._joined(found, pairs)
        if self.into == "list":
            return {"choose_reason": _any_reason(found), "texts": self._choices(found)}
        fields = {"text": found.texts, "source": found.sources(), "score": found.float_scores()}
        added = listed(found, others(found), fields | {"reason": found.reasons()}, ADDED)
        return {"choose_reason": own_reasons(found), "choose_added": added}

    def _choices(self, found: Candidates) -> pa.Array:
        """The texts that stay, with weights."""
        passing = np.flatnonzero(found.codes == 0)
        weights = np.zeros(len(found.codes), np.float32)
        weights[passing] = self._weights(found.owners[passing], found.columns[passing])
        fields = {"text": found.texts, "source": found.sources(), "score": found.float_scores()}
        return listed(found, passing, fields | {"weight": pa.array(weights)}, CHOICES)

    def _weights(self, owners: Any, columns: Any) -> Any:
        """How often each text is drawn: a column's weight shared by its texts, 1 for all texts of an image."""
        if not self.weights:
            return 1 / np.bincount(owners)[owners] if len(owners) else np.zeros(0)
        key = owners * len(self.texts) + columns
        _, which, counts = np.unique(key, return_inverse=True, return_counts=True)
        share = np.array([self.weights[name] for name in self.texts])[columns] / counts[which]
        return share / np.bincount(owners, weights=share)[owners] if len(owners) else share

    def _joined(self, found: Candidates, pairs: pa.RecordBatch) -> dict[str, pa.Array]:
        """One text of all that pass."""
        whole, counts = join(found, self.separator)
        own = own_reasons(found)
        is_own = pa.array(counts == 1) if OWN in found.names else pa.repeat(False, found.pairs)
        is_own = pc.and_(is_own, own.is_null())
        rows = np.flatnonzero(pc.and_(whole.is_valid(), pc.invert(is_own)).to_numpy(zero_copy_only=False))
        if self.into == "list":
            rows = np.flatnonzero(counts)
        text = whole.take(pa.array(rows))
        fields = {
            "text": text,
            "source": pc.if_else(is_own.take(pa.array(rows)), OWN, JOINED),
            "score": pa.nulls(len(rows), pa.float32()),
            "reason": pa.nulls(len(rows), pa.string()),
            "weight": pa.repeat(pa.scalar(1, pa.float32()), len(rows)),
        }
        kind = CHOICES if self.into == "list" else ADDED
        one = Candidates(
            found.pairs, (JOINED,), text, rows, np.zeros(len(rows), np.int64), np.zeros(len(rows)), found.codes[:0]
        )
        lists = listed(one, np.arange(len(rows)), fields, kind)
        if self.into == "list":
            return {"choose_reason": _any_reason(found), "texts": lists}
        reason = pc.if_else(pc.and_(own.is_null(), pc.invert(is_own)), JOINED, own)
        return {"choose_reason": reason, "choose_added": lists}

    def keep(self, pairs: pa.RecordBatch, settled: Mapping[str, Any]) -> pa.Array:
        return pairs["choose_reason"]


def flat_scores(scores: pa.Array) -> pa.Array:
    """The scores of all texts of a column."""
    is_list = pa.types.is_list(scores.type) or pa.types.is_large_list(scores.type)
    return scores.flatten() if is_list else scores


def _any_reason(found: Candidates) -> pa.Array:
    """Null where one of a pair's texts stays, else why the first does not; ``no_text`` where there is none."""
    stays = np.bincount(found.owners[found.codes == 0], minlength=found.pairs) > 0
    first = np.searchsorted(found.owners, np.arange(found.pairs))
    has = np.bincount(found.owners, minlength=found.pairs) > 0
    told = found.reasons().take(pa.array(np.where(has, first, 0), mask=~has)).fill_null("no_text")
    return pc.if_else(pa.array(stays), pa.scalar(None, pa.string()), told)
