"""near_duplicate_text: settings, keys and questions, and the clusters they make."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from pairsieve.filters._normal_text import normal
from pairsieve.filters.base import UnknownColumnError, deciding_settings, scoring_settings
from pairsieve.filters.near_duplicate_text import KEY, SIGNATURE, NearDuplicateText
from tests.support_minhash import ALPHABET, captions, chain, clusters, jaccard

FEW = st.lists(st.text(ALPHABET, max_size=14), min_size=1, max_size=14)
ALL = {"num_perm": 128, "bands": 128, "rows": 1, "least_shingles": 1}
"""Every pair that has a shingle in common is likely a candidate."""


def batch(*texts: str | None) -> pa.RecordBatch:
    """Captions as the engine gives them."""
    return pa.record_batch({"text": pa.array(texts, pa.string())})


def kept(texts: Sequence[str | None], **chosen: Any) -> list[str | None]:
    """The texts that stay."""
    roots = clusters(NearDuplicateText(**chosen), texts)
    return [text for row, text in enumerate(texts) if roots[row] == row]


# --- settings ---


@pytest.mark.parametrize(
    ("chosen", "banding", "least", "units"),
    [
        ({}, (20, 5), 0.7, 5),
        ({"shingles": "words"}, (16, 7), 0.8, 1),
        ({"num_perm": 64}, (14, 4), 0.7, 5),
        ({"shingles": "words", "ngram": 2, "threshold": 0.9}, (10, 11), 0.9, 2),
        ({"bands": 16, "rows": 8}, (16, 8), 0.7, 5),
        ({"threshold": 0.8, "verify": "none"}, (9, 13), 0.8, 5),
        ({"threshold": 0.7, "weights": (0.1, 0.9)}, (20, 6), 0.7, 5),
    ],
)
def test_defaults(chosen: dict[str, Any], banding: tuple[int, int], least: float, units: int) -> None:
    """Bands for recall where candidates are verified, datasketch's where they are not; units by what they are."""
    made = NearDuplicateText(**chosen)
    assert (made.banding, made.least, made.units) == (banding, least, units)


@pytest.mark.parametrize(
    ("chosen", "says"),
    [
        ({"bands": 3}, "both 'bands' and 'rows'"),
        ({"bands": 20, "rows": 7}, "20 bands of 7 rows are more values than num_perm, 128"),
        ({"bands": 2, "rows": 2, "weights": (0.5, 0.5)}, "leave out"),
        ({"weights": (0.5, 0.6)}, "add up to 1"),
        ({"weights": (-1, 2)}, "greater than or equal to 0"),
        ({"threshold": 0}, "greater than 0"),
        ({"threshold": 1.1}, "less than or equal to 1"),
        ({"num_perm": 0}, "greater than 0"),
        ({"num_perm": 100_000}, "less than or equal to 1024"),
        ({"ngram": 0}, "greater than 0"),
        ({"seed": -1}, "greater than or equal to 0"),
        ({"hash": "md5"}, "'xxh32' or 'sha1'"),
        ({"verify": "maybe"}, "'exact', 'estimated' or 'none'"),
        ({"shingle": "words"}, "Extra inputs"),
    ],
)
def test_wrong_settings(chosen: dict[str, Any], says: str) -> None:
    """What cannot work is refused at once, and the message says why."""
    with pytest.raises(ValidationError, match=says):
        NearDuplicateText(**chosen)


def test_wrong_columns() -> None:
    """A column that is not there, no strings, or an order that does not bind."""
    made, text = NearDuplicateText(text="alt"), {"alt": pa.string(), "alts": pa.list_(pa.string())}
    made.check(text)
    with pytest.raises(UnknownColumnError, match="did you mean 'alt'"):
        NearDuplicateText(text="alx").check(text)
    with pytest.raises(ValueError, match="text: column 'alts' is list"):
        NearDuplicateText(text="alts").check(text)
    with pytest.raises(UnknownColumnError, match="no column 'score'"):
        NearDuplicateText(text="alt", prefer="score DESC").check(text)


def test_prefer() -> None:
    """Its columns are asked for, and its order is DuckDB's."""
    made = NearDuplicateText(prefer="clip_score DESC, width * height")
    columns = {name: pa.float32() for name in ("clip_score", "width", "height", "other")}
    assert made.keep_inputs(columns) == ("clip_score", "width", "height")
    assert "DESC" in made.order() and NearDuplicateText().order() == ""


def test_what_is_measured_again() -> None:
    """A threshold that leaves bands and rows as they are keeps the stored keys; one that does not, does not."""
    measured = scoring_settings(NearDuplicateText())
    assert (measured["bands"], measured["rows"]) == (20, 5)
    assert scoring_settings(NearDuplicateText(threshold=0.702, prefer="a")) == measured
    assert scoring_settings(NearDuplicateText(threshold=0.9, bands=20, rows=5)) == measured
    assert scoring_settings(NearDuplicateText(threshold=0.8)) != measured
    assert scoring_settings(NearDuplicateText(weights=(0.5, 0.5))) != measured
    assert set(deciding_settings(NearDuplicateText())) == {"threshold", "weights", "prefer"}
    for made in (NearDuplicateText(threshold=0.9), NearDuplicateText(weights=(0.1, 0.9))):
        assert NearDuplicateText(**made.model_dump(mode="json")).banding == made.banding


def test_no_numba_without_need() -> None:
    """Settings are read and checked without importing numba."""
    code = "import sys\nfrom pairsieve.filters.near_duplicate_text import NearDuplicateText as N\nN()\n"
    code += "assert 'numba' not in sys.modules and N().needs() == ('numba',)"
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": str(Path.cwd())})


# --- columns ---


@pytest.mark.parametrize("verify", ["exact", "estimated", "none"])
def test_columns(verify: Any) -> None:
    """What is written has the type that was promised; a signature only where it is compared."""
    made = NearDuplicateText(verify=verify, num_perm=96)
    pairs = batch("a dog on a beach", None, "", "-")
    found = made.score(pairs)
    assert {name: column.type for name, column in found.items()} == made.outputs({"text": pa.string()})
    assert (SIGNATURE in found) == (verify == "estimated")
    for column in found.values():
        column.validate(full=True)
        assert column.is_valid().to_pylist() == [True, False, False, False]
    assert made.key_columns({}) == {KEY: "near_duplicate"}
    assert set(made.compared({})) <= {"text", *found}


@pytest.mark.parametrize("kind", [pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())])
def test_kinds_of_strings(kind: pa.DataType) -> None:
    """Captions may be any of Arrow's strings; keys and answers are the same."""
    made, plain = NearDuplicateText(), batch("a dog on a beach", None, "two cats asleep", "a dog on a beach!")
    texts = plain["text"].to_pylist()
    pairs, turned = (pa.record_batch({"text": pa.array(each, kind)}) for each in (texts, texts[::-1]))
    made.check({"text": kind})
    assert made.score(pairs)[KEY].equals(made.score(plain)[KEY])
    assert made.alike(pairs, turned).tolist() == [True, False, False, True]


def test_nothing() -> None:
    """Empty batches, and columns of nulls."""
    made = NearDuplicateText(verify="estimated")
    assert [len(column) for column in made.score(batch()).values()] == [0, 0]
    assert made.score(pa.record_batch({"text": pa.nulls(2)}))[KEY].null_count == 2
    for verify in ("exact", "none"):
        assert len(NearDuplicateText(verify=verify).alike(batch(), batch())) == 0


def test_a_huge_caption() -> None:
    """Millions of letters, marks or spaces in one caption are taken as they are, beside others."""
    texts = ["x" * 2_000_000, "a b " * 500_000, " " * 2_000_000, "é\u0301" * 300_000, "a dog on a beach"]
    made = NearDuplicateText()
    found = made.score(batch(*texts))[KEY].to_pylist()
    assert [len(own or []) for own in found] == [1, 1, 0, 1, 21]
    assert made.alike(batch(*texts), batch(*texts)).tolist() == [True, True, False, True, True]


# --- which pairs are alike ---


@pytest.mark.parametrize(("shingles", "ngram"), [("words", 1), ("characters", 3)])
@given(texts=st.lists(st.tuples(st.text(ALPHABET), st.text(ALPHABET)), min_size=1), threshold=st.floats(0.1, 1))
def test_exact(shingles: Any, ngram: int, texts: list[tuple[str, str]], threshold: float) -> None:
    """Two captions are alike where the similarity of their sets reaches the threshold; symmetric."""
    made = NearDuplicateText(shingles=shingles, ngram=ngram, threshold=threshold, **ALL)
    one, other = (batch(*(pair[end] for pair in texts)) for end in (0, 1))
    wanted = [jaccard(a, b, shingles, ngram) >= threshold for a, b in texts]
    assert made.alike(one, other).tolist() == made.alike(other, one).tolist() == wanted


def test_estimated() -> None:
    """What signatures say is near what the sets say, and equal texts are always alike."""
    texts = captions(600, share=0.6)
    made = NearDuplicateText(verify="estimated", num_perm=256, shingles="words", threshold=0.6)
    one = pa.record_batch(made.score(batch(*texts)))
    other = one.take(pa.array(np.roll(np.arange(len(texts)), 1)))
    assert made.alike(one, one).all()
    truth = np.array([jaccard(a, b, "words", 1) for a, b in zip(texts, [texts[-1], *texts], strict=False)])
    clear = abs(truth - 0.6) > 0.13
    assert (made.alike(one, other)[clear] == (truth >= 0.6)[clear]).all()


# --- clusters ---


def test_examples() -> None:
    """An edit of a long caption goes, another caption stays, and so does one without letters, however often."""
    texts = [
        "a small brown dog runs along the beach",
        "A small, brown dog runs along the beaches!!",
        "a cat",
        "A CAT",
        "?",
        "?",
    ]
    assert kept(texts) == [texts[0], "a cat", "?", "?"]
    assert kept([None, None, "", ""]) == [None, None, "", ""]


def test_short_captions() -> None:
    """Numbered short captions stay, though their shingles are nearly the same; equal ones go."""
    texts = ["size 41", "size 42", "Size 41.", "size 411"]
    assert kept(texts) == ["size 41", "size 42", "size 411"]
    assert kept(texts, least_shingles=1, threshold=0.5, bands=128, rows=1) == ["size 41"]


@pytest.mark.parametrize("verify", ["exact", "estimated", "none"])
@given(texts=FEW)
def test_equal_texts_meet(verify: Any, texts: list[str]) -> None:
    """Whatever else is found, of captions that are equal once normal one stays."""
    left = [normal(text or "") for text in kept(texts, verify=verify)]
    assert len(set(filter(None, left))) == len(list(filter(None, left)))
    assert kept(texts + texts, verify=verify)[: len(left)] == kept(texts, verify=verify)


@given(FEW)
def test_twice(texts: list[str]) -> None:
    """A second run over what stays drops nothing, unless bands missed a pair: here they miss none."""
    once = kept(texts, threshold=0.5, ngram=2, **ALL)
    assert kept(once, threshold=0.5, ngram=2, **ALL) == once


@given(FEW, st.sampled_from([0.3, 0.5, 0.8]))
def test_links_are_true(texts: list[str], threshold: float) -> None:
    """Each cluster is held together by pairs that are alike, and no two roots that are alike stay."""
    chosen: dict[str, Any] = {"shingles": "characters", "ngram": 2, "threshold": threshold, **ALL}
    roots = clusters(NearDuplicateText(**chosen), texts)
    near = np.array([[jaccard(a, b, "characters", 2) >= threshold for a in texts] for b in texts])
    _, labels = connected_components(coo_array(near))
    assert all(labels[row] == labels[root] for row, root in enumerate(roots))
    stay = [row for row, root in enumerate(roots) if row == root and normal(texts[row])]
    assert not any(near[a][b] for a in stay for b in stay if a < b)


@pytest.mark.parametrize("chosen", [{}, {"shingles": "words"}])
def test_recall_and_precision(chosen: dict[str, Any]) -> None:
    """On 1,000 captions no pair is linked that is not alike, and nearly all true duplicates go."""
    texts = captions(1000, share=0.4)
    made = NearDuplicateText(**chosen)
    near, pairs = np.zeros((len(texts), len(texts)), bool), batch(*texts)
    for row in range(1, len(texts)):
        near[row, :row] = made.alike(pairs.take(pa.array([row] * row)), pairs.slice(0, row))
    _, labels = connected_components(coo_array(near))
    roots = clusters(made, texts)
    assert all(labels[row] == labels[root] for row, root in enumerate(roots))
    true = len(texts) - len(set(labels))
    removed = len(texts) - len(set(roots))
    assert true > 200
    assert removed >= 0.97 * true


def test_chain() -> None:
    """Captions that are alike one by one are one cluster, though its ends have nothing in common."""
    texts = chain(60, 1, 30)
    assert jaccard(texts[0], texts[-1], "words", 1) == 0
    assert clusters(NearDuplicateText(shingles="words", **ALL), texts) == [0] * 60
