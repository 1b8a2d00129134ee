"""Which text of a pair is its caption."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

import pairsieve
from pairsieve import Webdataset
from pairsieve.pipelines.export_texts import Texts, caption_column, texts_of
from pairsieve.schemas.errors import UserError
from tests.support_exports import dataset_rows, make_run, pictures
from tests.support_tars import flat, read_tars

STRUCTS = pa.list_(pa.struct([("text", pa.string()), ("weight", pa.float32())]))
some = st.one_of(st.none(), st.text(max_size=4))
COUNT = 400


@given(st.lists(st.one_of(st.none(), st.lists(some, max_size=4)), max_size=8), st.booleans())
def test_texts_are_those_that_are_not_null(lists: list[Any], is_struct: bool) -> None:
    """Row by row, as Python sees them: of lists, and of lists of structs."""
    values: list[Any] = lists
    if is_struct:
        values = [one and [{"text": text, "weight": 1.0} for text in one] for one in lists]
    found = texts_of(pa.chunked_array([pa.array(values, STRUCTS if is_struct else pa.list_(pa.string()))]))
    wanted = [[text for text in one or [] if text is not None] for one in lists]
    assert found.counts.tolist() == [len(one) for one in wanted]
    assert found.values.to_pylist() == [text for one in wanted for text in one]


@given(st.lists(some, max_size=8))
def test_plain_texts_are_lists_of_one(texts: list[str | None]) -> None:
    """A null text is none."""
    found = texts_of(pa.chunked_array([pa.array(texts, pa.string())]))
    assert found.counts.tolist() == [int(text is not None) for text in texts]


def drawn(weights: list[float], fraction: float) -> int:
    """Which of some texts a fraction draws."""
    names = pa.array([str(i) for i in range(len(weights))])
    texts = Texts(names, np.array([0, len(weights)]), np.array(weights))
    return int(texts.chosen("draw", 0, np.array([int(fraction * 2**64)], np.uint64))[0])


@pytest.mark.parametrize(
    "weights, fraction, place",
    [
        *(([1, 1], 0.49, 0), ([1, 1], 0.5, 1), ([0, 1], 0, 1), ([0.2, 0.8], 0.19, 0), ([0.2, 0.8], 0.21, 1)),
        *(([0, 0], 0.6, 1), ([np.inf, 1], 0.6, 1), ([1e-30, 1e30], 0.999999, 1)),
    ],
)
def test_a_text_is_drawn_by_its_weight(weights: list[float], fraction: float, place: int) -> None:
    """By its share of the sum; equally often where the weights say nothing."""
    assert drawn(weights, fraction) == place


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pairs with a web text and one to three captions, in a list of which the web text is drawn in 0.8 of all cases."""
    captions = pa.array([[f"{i}.{j}" for j in range(1 + i % 3)] for i in range(COUNT)])
    settings = {"texts": ["text", "caption"], "into": "list", "weights": {"text": 0.8, "caption": 0.2}}
    root, texts = tmp_path_factory.mktemp("run"), [f"web {i}" for i in range(COUNT)]
    return make_run(root, pictures(COUNT), texts, [{"choose": settings}], {"caption": captions}, rows_per_file=90)


def captions(run: Path, out: Path, **settings: Any) -> list[tuple[str, str]]:
    """(key, caption) of each sample in order."""
    pairsieve.export(run, out, Webdataset(loader_workers=1, **settings), workers=1)
    return [(key, members["txt"].decode()) for key, members in flat(read_tars(out))]


def test_draws_follow_the_weights(run: Path, tmp_path: Path) -> None:
    """Of 400 pairs about 320 have their web text; the rest one of their own captions."""
    found = captions(run, tmp_path / "out")
    rows = {row["uid"]: [text["text"] for text in row["texts"]] for row in dataset_rows(run)}
    assert all(text in rows[key] for key, text in found)
    assert 290 <= sum(text.startswith("web") for _, text in found) <= 350


def test_draws_depend_on_seed_and_uid_alone(run: Path, tmp_path: Path) -> None:
    """Not on tars or row groups; another seed draws others."""
    found = captions(run, tmp_path / "a")
    assert captions(run, tmp_path / "b", rows_per_shard=7) == found
    assert captions(run, tmp_path / "c", seed=1) != found


def test_first_takes_the_first_of_each_list(run: Path, tmp_path: Path) -> None:
    """Here the web text."""
    assert all(text.startswith("web") for _, text in captions(run, tmp_path / "out", captions="first"))


def test_each_gives_a_sample_for_each_text(run: Path, tmp_path: Path) -> None:
    """All texts of all pairs, each once, under keys of their own; an image's samples lie far apart."""
    found = captions(run, tmp_path / "out", captions="each")
    rows = dataset_rows(run)
    assert Counter(text for _, text in found) == Counter(text["text"] for row in rows for text in row["texts"])
    assert len({key for key, _ in found}) == len(found)
    assert [key for key, _ in found[:COUNT]] == [row["uid"] for row in rows]
    second = f"{rows[0]['uid']}-1"
    assert [key for key, _ in found].index(second) == COUNT


def test_another_column_may_be_the_caption(run: Path, tmp_path: Path) -> None:
    """The pair's own text, though there is a list."""
    found = captions(run, tmp_path / "out", text="text")
    assert [text for _, text in found] == [row["text"] for row in dataset_rows(run)]


@pytest.mark.parametrize(
    "kinds, asked, said",
    [
        ({"text": pa.string()}, "txet", "there are text"),
        ({"image": pa.binary()}, None, "no column of captions"),
        ({"a": STRUCTS, "b": STRUCTS}, None, "several lists"),
        ({"n": pa.int32()}, "n", "no column of texts"),
    ],
)
def test_columns_that_hold_no_captions_are_refused(kinds: dict[str, Any], asked: str | None, said: str) -> None:
    """In one line that says which there are."""
    with pytest.raises(UserError, match=said):
        caption_column(kinds, asked)
