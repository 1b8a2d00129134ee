"""Looking uids up in a mapped subset: counts, absences, and the check of its order."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pairsieve.pipelines.reshard_inputs import gaps
from pairsieve.pipelines.reshard_subset import Subset
from pairsieve.schemas.uid import PAIR_DTYPE

HALVES = st.sampled_from([0, 1, 2, 2**32, 2**63, 2**63 + 1, 2**64 - 1])
RECORDS = st.lists(st.tuples(HALVES, HALVES), min_size=1, max_size=60)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all examples."""
    return tmp_path_factory.mktemp("subset")


def subset(folder: Path, records: list[tuple[int, int]]) -> Subset:
    """A file of records in the given order."""
    np.save(folder / "s.npy", np.array(records, PAIR_DTYPE))
    return Subset(str(folder / "s.npy"))


@given(RECORDS, RECORDS)
def test_find_counts_every_record(folder: Path, records: list[tuple[int, int]], wanted: list[tuple[int, int]]) -> None:
    """First place and number of each wanted uid, as a list tells them; halves are unsigned."""
    held = sorted(records)
    first, count = subset(folder, held).find(np.array(wanted, PAIR_DTYPE))
    assert count.tolist() == [held.count(one) for one in wanted]
    assert all(held[i] == one for i, n, one in zip(first.tolist(), count.tolist(), wanted, strict=True) if n)


@given(RECORDS)
def test_check_counts_distinct_uids(folder: Path, records: list[tuple[int, int]]) -> None:
    """Records and distinct uids of a sorted subset."""
    found = subset(folder, sorted(records)).check()
    assert (found.records, found.uids) == (len(records), len(set(records)))


def test_gaps_of_a_numbering() -> None:
    """Missing numbers between the first and the last of each prefix; other names have none."""
    names = ["00000.tar", "00003.tar", "b/7.tar", "b/9.tar", "laion.tar", "x1.parquet"]
    assert list(gaps(names)) == ["00001.tar", "00002.tar", "b/8.tar"]
    assert list(gaps(["1.tar", "20201231.tar"])) == []
