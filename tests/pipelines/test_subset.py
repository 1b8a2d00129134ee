"""The subset file: order, repeats, memory."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pairsieve.pipelines import subset
from pairsieve.pipelines.run import run
from pairsieve.pipelines.store import Store
from pairsieve.schemas import uid
from pairsieve.schemas.errors import AccountingError, RecipeError, ShardError
from tests.support_datacomp import SCHEMA, pairs, recipe, uid_of, write_shard
from tests.support_datacomp import subset as records

HALVES = st.sampled_from([0, 1, 2**32 - 1, 2**63, 2**64 - 1]) | st.integers(0, 2**64 - 1)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.lists(st.tuples(HALVES, HALVES), max_size=30), max_size=4), st.sampled_from([2, 8, 1000]))
def test_sorted_whatever_fits_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shards: list[list[tuple[int, int]]], most: int
) -> None:
    """Lexicographic and unsigned, repeats kept, also where records are split by their leading bits again and again."""
    store = Store(str(tmp_path))
    with monkeypatch.context() as patch:
        patch.setattr(subset, "RECORDS", most)
        store.remove(subset.FOLDER)
        count = sum(
            subset.write_records(store, i, np.array(held, uid.PAIR_DTYPE), None) for i, held in enumerate(shards)
        )
        subset.write_subset(store, "out.npy", count)
    assert records(tmp_path, "out.npy") == sorted(pair for held in shards for pair in held)
    assert not store.exists(subset.FOLDER)


def test_lost_records_are_noticed(tmp_path: Path) -> None:
    """A subset never gets smaller in silence."""
    store = Store(str(tmp_path))
    count = subset.write_records(store, 0, np.array([(1, 2), (3, 4)], uid.PAIR_DTYPE), None)
    with pytest.raises(AccountingError, match="does not hold the 3 records"):
        subset.write_subset(store, "out.npy", count + 1)


def weighted(folder: Path, copies: list[Any]) -> Path:
    """A pool with a column of copies."""
    rows = [{**row, "times": n} for row, n in zip(pairs(len(copies)), copies, strict=True)]
    write_shard(folder, "a", rows, schema=SCHEMA.append(pa.field("times", pa.int64())))
    return folder


def test_copies(tmp_path: Path) -> None:
    """A kept pair stands there as often as its column says; DataComp's training then uses it as often."""
    pool = weighted(tmp_path / "pool", [3, 1, 2, 0])
    made = recipe(pool, {"where": "times >= 1"}, output={"subset": "s.npy", "copies": "times"})
    assert run(made, tmp_path / "run", workers=1).kept == 3
    found = uid.from_numbers(np.load(tmp_path / "run" / "s.npy"))
    assert found == sorted([uid_of(0)] * 3 + [uid_of(1)] + [uid_of(2)] * 2)


@pytest.mark.parametrize("odd", [0, -1, None, 2_000_000])
def test_copies_that_would_lose_or_flood(tmp_path: Path, odd: int | None) -> None:
    """A kept pair without a place in the subset is an error with the way out, not a smaller file."""
    pool = weighted(tmp_path / "pool", [3, odd])
    with pytest.raises(ShardError, match=r"output\.copies: a kept pair has null, less than 1 or more than"):
        run(recipe(pool, output={"subset": "s.npy", "copies": "times"}), tmp_path / "run", workers=1)


@pytest.mark.parametrize(
    ("column", "said"), [("time", "did you mean 'times'"), ("clip_l14_similarity_score", "float, not integers")]
)
def test_copies_of_no_integer_column(tmp_path: Path, column: str, said: str) -> None:
    """Refused before anything runs."""
    pool = weighted(tmp_path / "pool", [3])
    with pytest.raises(RecipeError) as caught:
        run(recipe(pool, output={"subset": "s.npy", "copies": column}), tmp_path / "run", workers=1)
    assert said in str(caught.value)
