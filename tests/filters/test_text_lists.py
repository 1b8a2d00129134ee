"""Columns of several texts a pair."""

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pairsieve.filters._text_lists import SCORES, TEXTS, check_texts, flat, is_texts, regrouped

LISTS = st.lists(st.none() | st.lists(st.none() | st.text(max_size=3), max_size=4), max_size=6)


@given(LISTS, st.integers(0, 3))
def test_what_is_flattened_comes_back_as_lists_of_the_same_lengths(rows: list[list[str] | None], start: int) -> None:
    """Also of a slice, whose buffers begin elsewhere."""
    texts = pa.array(rows, TEXTS).slice(start)
    values, owners = flat(texts)
    assert regrouped(values, texts).to_pylist() == rows[start:]
    assert [(int(i), v) for i, v in zip(owners, values.to_pylist(), strict=True)] == [
        (i, v) for i, row in enumerate(rows[start:]) for v in row or ()
    ]


def test_a_plain_string_is_a_list_of_one() -> None:
    """Null ones too, so that a missing text has a place for its missing score."""
    texts = pa.array(["a", None])
    values, owners = flat(texts)
    assert values.to_pylist() == ["a", None] and owners.tolist() == [0, 1]
    assert regrouped(pa.array([1.0, None], pa.float32()), texts).cast(SCORES).to_pylist() == [[1.0], [None]]


def test_columns_of_texts_are_strings_or_lists_of_strings() -> None:
    """And nothing else."""
    kinds = [pa.string(), pa.large_string(), TEXTS, pa.large_list(pa.string()), pa.binary(), pa.list_(pa.int8())]
    assert [is_texts(kind) for kind in kinds] == [True] * 4 + [False] * 2


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("captoin",), "did you mean 'caption'"),
        (("width",), "holds no texts"),
        (("caption", "caption"), "twice"),
    ],
)
def test_what_is_no_column_of_texts_is_refused(names: tuple[str, ...], message: str) -> None:
    """By its name."""
    with pytest.raises(ValueError, match=message):
        check_texts(names, {"caption": TEXTS, "width": pa.int32()})
