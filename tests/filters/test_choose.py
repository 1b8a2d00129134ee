"""Which texts of an image stay: each rule against a literal reading of it, one pair at a time."""

import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pairsieve.filters._text_lists import SCORES, TEXTS
from pairsieve.filters.choose import Choose

TYPES = {
    "text": pa.string(),
    "caption": TEXTS,
    "rewrite": TEXTS,
    "itm": pa.float32(),
    "itm_caption": SCORES,
    "itm_rewrite": SCORES,
}
WORDS = st.sampled_from(["a", "b", "c", "", "  "])
SCORE = st.none() | st.sampled_from([0.0, 0.25, 0.5, 0.75, math.nan])


@st.composite
def pairs(draw: Any) -> pa.RecordBatch:
    """Pairs with texts, captions, rewrites and their scores, of which anything may be missing."""
    rows = draw(st.integers(0, 6))
    found: dict[str, list[Any]] = {name: [] for name in TYPES}
    for _ in range(rows):
        found["text"].append(draw(st.none() | WORDS))
        found["itm"].append(draw(SCORE))
        for name in ("caption", "rewrite"):
            texts = draw(st.none() | st.lists(st.none() | WORDS, max_size=4))
            found[name].append(texts)
            scores = None if texts is None else [draw(SCORE) for _ in texts]
            found[f"itm_{name}"].append(draw(st.sampled_from([scores, None])))
    return pa.record_batch({name: pa.array(found[name], TYPES[name]) for name in TYPES})


def literal(row: dict[str, Any], made: Choose) -> list[list[Any]]:
    """[source, text, score, reason] of each text of a pair, by the rules as they are written down."""
    found: list[list[Any]] = []
    seen: set[str] = set()
    for name in made.texts:
        texts = [row["text"]] if name == "text" else (row[name] or [])
        scores = [row["itm"]] if name == "text" else row[f"itm_{name}"] or [None] * len(texts)
        for text, score in zip(texts, scores, strict=True):
            if text is None and name != "text":
                continue
            score = None if score is None or math.isnan(score) else score
            found.append([name, text, score, fault(text, score, made, seen)])
            if text is not None and found[-1][3] is None:
                seen.add(text)
    return ruled(found, made)


def fault(text: str | None, score: float | None, made: Choose, seen: set[str]) -> str | None:
    """What is wrong with a text by itself."""
    limited = made.min is not None or made.above is not None or made.rule == "best"
    if text is None or not text.strip():
        return "no_text"
    if limited and score is None:
        return "no_score"
    if score is not None and made.min is not None and score < made.min:
        return "below_min"
    if score is not None and made.above is not None and score <= made.above:
        return "below_min"
    return "same_text" if text in seen else None


def ruled(found: list[list[Any]], made: Choose) -> list[list[Any]]:
    """The rule, and how many may stay."""
    if made.rule == "first":
        first = next((item[0] for item in found if item[3] is None), None)
        for item in found:
            if item[3] is None and item[0] != first:
                item[3] = "not_first"
    most = made.most or (1 if made.rule in ("best", "first") else None)
    passing = [item for item in found if item[3] is None]
    passing.sort(key=lambda item: -math.inf if item[2] is None else item[2], reverse=True)
    for item in passing[most:] if most else []:
        item[3] = "not_best"
    return found


SETTINGS = st.fixed_dictionaries(
    {
        "texts": st.permutations(["text", "caption", "rewrite"]).map(tuple) | st.just(("caption",)),
        "by": st.just("itm"),
        "rule": st.sampled_from(["each", "best", "first"]),
        "min": st.sampled_from([None, 0.25]),
        "above": st.sampled_from([None, 0.25]),
        "most": st.sampled_from([None, 1, 2]),
    }
)


@given(pairs(), SETTINGS)
def test_pairs_are_added_as_the_rules_say(batch: pa.RecordBatch, settings: dict[str, Any]) -> None:
    """Every text that is not the pair's own becomes a pair with a verdict; the pair's own text is its verdict."""
    made = Choose(**settings)
    found = made.derive(batch, {})
    for row, reason, added in zip(
        batch.to_pylist(), found["choose_reason"].to_pylist(), found["choose_added"].to_pylist(), strict=True
    ):
        wanted = literal(row, made)
        own = [item[3] for item in wanted if item[0] == "text"] or ["not_chosen"]
        assert reason == own[0]
        assert [[a["source"], a["text"], a["score"], a["reason"]] for a in added] == [
            item for item in wanted if item[0] != "text"
        ]


@given(pairs(), SETTINGS)
def test_lists_hold_the_texts_that_stay(batch: pa.RecordBatch, settings: dict[str, Any]) -> None:
    """A pair stays where one of its texts does; else the first says why not."""
    made = Choose(**settings, into="list")
    found = made.derive(batch, {})
    for row, reason, texts in zip(
        batch.to_pylist(), found["choose_reason"].to_pylist(), found["texts"].to_pylist(), strict=True
    ):
        wanted = literal(row, made)
        stay = [item[:3] for item in wanted if item[3] is None]
        assert [[t["source"], t["text"], t["score"]] for t in texts] == stay
        assert reason == (None if stay else wanted[0][3] if wanted else "no_text")
        assert not stay or math.isclose(sum(t["weight"] for t in texts), 1, rel_tol=1e-6)


@given(pairs(), st.integers(0, 5))
def test_what_stays_is_a_matter_of_the_pair_alone(batch: pa.RecordBatch, cut: int) -> None:
    """Two parts give what the whole gives."""
    made = Choose(texts=("text", "caption"), by="itm", rule="best", most=2)
    whole = made.derive(batch, {})["choose_added"].to_pylist()
    parts = [made.derive(part, {})["choose_added"].to_pylist() for part in (batch.slice(0, cut), batch.slice(cut))]
    assert whole == parts[0] + parts[1]


def one(**values: Any) -> pa.RecordBatch:
    """A single pair."""
    return pa.record_batch({name: pa.array([values.get(name)], TYPES[name]) for name in TYPES})


def test_weights_are_of_columns_and_shared_by_their_texts() -> None:
    """Recap-DataComp's p = 0.8 for the web text; a pair without captions draws its own text always."""
    made = Choose(texts=("text", "caption"), into="list", weights={"text": 0.8, "caption": 0.2})
    both = made.derive(one(text="web", caption=["x", "y"]), {})["texts"].to_pylist()[0]
    assert [round(t["weight"], 6) for t in both] == [0.8, 0.1, 0.1]
    assert made.derive(one(text="web"), {})["texts"].to_pylist()[0][0]["weight"] == 1


def test_texts_that_pass_are_joined_in_order() -> None:
    """The joined text is a pair of its own, of no score, and the pair's own text is part of it."""
    made = Choose(texts=("text", "caption"), by="itm", min=0.5, rule="join", separator=". ")
    batch = one(text="web", itm=0.9, caption=["x", "y", "z"], itm_caption=[0.7, 0.1, 0.5])
    found = made.derive(batch, {})
    assert found["choose_reason"].to_pylist() == ["joined"]
    assert found["choose_added"].to_pylist()[0] == [
        {"text": "web. x. z", "source": "joined", "score": None, "reason": None}
    ]


def test_a_single_text_that_passes_is_not_joined_with_anything() -> None:
    """The pair stays as it is."""
    made = Choose(texts=("text", "caption"), by="itm", min=0.5, rule="join")
    found = made.derive(one(text="web", itm=0.9, caption=["x"], itm_caption=[0.1]), {})
    assert found["choose_reason"].to_pylist() == [None] and found["choose_added"].to_pylist() == [[]]


@given(st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=40), st.sampled_from([0.0, 0.1, 0.3, 1.0]))
def test_top_is_datacomps_threshold_of_the_web_texts(scores: list[float], top: float) -> None:
    """Nguyen et al.: the caption only where it passes the threshold that the web text fails."""
    rows = len(scores)
    values = {
        "text": ["web"] * rows,
        "caption": [["x"]] * rows,
        "itm": scores,
        "itm_caption": [[s] for s in scores[::-1]],
    }
    batch = pa.record_batch({name: pa.array(values[name], TYPES[name]) for name in values})
    made, settled = Choose(texts=("text", "caption"), by="itm", rule="first", top=top), dict[str, Any]()
    while not made.is_settled(settled):
        settled = made.settle(made.summarize(batch, settled), settled)
    ordered = np.sort(np.array(scores, np.float32))[::-1]
    rank = int(rows * top)
    least = ordered[rank] if rank < rows else -np.inf
    found = made.derive(batch, settled)
    for score, other, reason, added in zip(
        np.array(scores, np.float32),
        np.array(scores[::-1], np.float32),
        found["choose_reason"].to_pylist(),
        found["choose_added"].to_pylist(),
        strict=True,
    ):
        assert (reason is None) == (score >= least)
        assert (added[0]["reason"] is None) == (score < least <= other)


def test_the_best_of_a_shortlist_by_other_scores() -> None:
    """LAION-COCO: five by one model, of which the best by another."""
    kinds = {"caption": TEXTS, "small_caption": SCORES, "large_caption": SCORES}
    values = {"caption": ["a", "b", "c"], "small_caption": [0.3, 0.1, 0.2], "large_caption": [0.1, 0.9, 0.2]}
    batch = pa.record_batch({name: pa.array([values[name]], kind) for name, kind in kinds.items()})
    made = Choose(texts=("caption",), by="large", rule="best", shortlist=2, shortlist_by="small")
    added = made.derive(batch, {})["choose_added"].to_pylist()[0]
    assert [item["reason"] for item in added] == ["not_best", "not_listed", None]


def test_scores_that_do_not_fit_the_texts_score_none_of_them() -> None:
    """Shifted scores would choose the wrong texts; other pairs and columns are as they are."""
    made = Choose(texts=("text", "caption"), by="itm")
    values = {"text": ["a", "b"], "itm": [0.9, 0.9], "caption": [["x", "y"], ["z"]], "itm_caption": [[0.5], [0.5]]}
    found = made.derive(pa.record_batch({name: pa.array(values[name], TYPES[name]) for name in values}), {})
    reasons = [[item["reason"] for item in items] for items in found["choose_added"].to_pylist()]
    assert reasons == [["no_score", "no_score"], [None]] and found["choose_reason"].null_count == 2


def test_a_text_stays_where_one_of_its_scores_passes() -> None:
    """Its first place has none."""
    made = Choose(texts=("text", "caption"), by="itm", min=0.5)
    found = made.derive(one(text="a", caption=["a"], itm_caption=[0.9]), {})
    assert found["choose_reason"].to_pylist() == ["no_score"]
    assert [item["reason"] for item in found["choose_added"].to_pylist()[0]] == [None]


def test_scores_beyond_single_precision_are_infinite() -> None:
    """Without a warning, which is an error here."""
    batch = pa.record_batch({"caption": pa.array([["x"]], TEXTS), "s": pa.array([[1e300]], pa.list_(pa.float64()))})
    found = Choose(texts=("caption",), scores={"caption": "s"}).derive(batch, {})["choose_added"].to_pylist()
    assert found[0][0]["score"] == math.inf


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"texts": ("text",), "rule": "best"}, "needs scores"),
        ({"texts": ("text",), "min": 0.5}, "needs scores"),
        ({"texts": ()}, "at least 1"),
        ({"texts": ("text",), "weights": {"text": 1.0}}, "into: list"),
        ({"texts": ("text", "caption"), "into": "list", "weights": {"text": 1.0}}, "one of each column"),
        ({"texts": ("text",), "into": "list", "weights": {"text": 0.0}}, "more than 0"),
        ({"texts": ("text",), "into": "list", "weights": {"text": math.inf}}, "more than 0"),
        ({"texts": ("text",), "scores": {"caption": "x"}}, "none of 'texts'"),
        ({"texts": ("text",), "rule": "join", "most": 2}, "one"),
        ({"texts": ("text",), "separator": ", "}, "'rule: join'"),
        ({"texts": ("text",), "by": "itm", "shortlist": 2}, "give both"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings: dict[str, Any], message: str) -> None:
    """With what to write instead."""
    with pytest.raises(ValidationError, match=message):
        Choose(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"texts": ("captions",)}, "did you mean 'caption'"),
        ({"texts": ("itm",)}, "holds no texts"),
        ({"texts": ("text", "caption"), "by": "clip"}, "no column 'clip'"),
        ({"texts": ("text",), "scores": {"text": "caption"}}, "holds no scores"),
        ({"texts": ("text", "text")}, "twice"),
        ({"texts": ("caption", "text"), "scores": {"text": "itm"}, "top": 0.3}, "first of 'texts'"),
    ],
)
def test_columns_that_do_not_fit_are_refused(settings: dict[str, Any], message: str) -> None:
    """Before anything runs."""
    with pytest.raises(ValueError, match=message):
        Choose(**settings).check(TYPES)
