"""At most so many pairs for each entry, exactly, whatever the sharding."""

import random
from collections import Counter
from collections.abc import Sequence
from functools import reduce
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from pairsieve.filters import _caps
from pairsieve.filters.entry_cap import CHOSEN, EntryCap
from pairsieve.pipelines.run import run
from pairsieve.schemas import uid
from pairsieve.schemas.errors import RecipeError
from tests.support import digests, recipe, write_csv

Lists = Sequence[Sequence[int] | None]


def batch(lists: Lists, kind: pa.DataType | None = None) -> pa.RecordBatch:
    """Pairs with uids by their number."""
    uids = [f"{i * 0x9E3779B97F4A7C15 % 2**128:032x}" for i in range(len(lists))]
    return pa.record_batch({"uid": uids, "matched_entries": pa.array(lists, kind or pa.list_(pa.int32()))})


def decide(made: EntryCap, parts: Sequence[pa.RecordBatch]) -> tuple[list[str | None], dict[str, Any]]:
    """The engine's rounds over some parts, then the reasons of all pairs."""
    settled: dict[str, Any] = {}
    while not made.is_settled(settled):
        settled = made.settle(reduce(made.merge, [made.summarize(part, settled) for part in parts]), settled)
    found = []
    for part in parts:
        derived = made.derive(part, settled)
        found += made.keep(pa.record_batch(derived), settled).to_pylist()
    return found, settled


def literal(made: EntryCap, pairs: pa.RecordBatch) -> list[str | None]:
    """The rule, one entry after the other."""
    lists = [sorted(set(ids or ())) for ids in pairs["matched_entries"].to_pylist()]
    counts = Counter(i for ids in lists for i in ids)
    chosen: set[int] = set()
    for entry, count in counts.items():
        having = [k for k, ids in enumerate(lists) if entry in ids]
        some = pairs["uid"].take(pa.array(having))
        draws = uid.item_hash(uid.keyed_hash(some, made.seed + 2**63), np.full(len(having), entry, np.uint64))
        order = sorted(range(len(having)), key=lambda i: draws[i])
        chosen |= {having[i] for i in order[: made.most]} if count >= made.least else set()
    rare = [bool(ids) and all(counts[i] < made.least for i in ids) for ids in lists]
    return [
        "no_entries" if not ids else "too_rare" if rare[k] else None if k in chosen else "over_cap"
        for k, ids in enumerate(lists)
    ]


LISTS = st.lists(st.none() | st.lists(st.integers(0, 12), max_size=6), max_size=60)


@settings(max_examples=150, deadline=None)
@given(LISTS, st.integers(1, 5), st.integers(1, 4), st.integers(0, 3), st.randoms(use_true_random=False))
def test_as_the_literal_rule_however_it_is_cut(
    lists: Lists, most: int, least: int, seed: int, cuts: random.Random
) -> None:
    """Repeats, nulls, empty lists; shards of any size in any order."""
    pairs = batch(lists)
    made = EntryCap(most=most, least=least, seed=seed)
    places = sorted({0, len(lists), *(cuts.randint(0, len(lists)) for _ in range(3))})
    parts = [pairs.slice(a, b - a) for a, b in pairwise(places)] or [pairs]
    assert decide(made, parts)[0] == literal(made, pairs)
    shuffled = parts[::-1]
    _, settled = decide(made, shuffled)
    assert settled["limits"].tolist() == decide(made, parts)[1]["limits"].tolist()


def test_an_entry_over_the_cap_chooses_exactly_so_many() -> None:
    """Entry 0 has 50,000 pairs and no pair has another: 1,000 stay, another thousand with another seed."""
    pairs = batch([[0]] * 50_000)
    kept = []
    for seed in (1, 2):
        reasons, settled = decide(EntryCap(most=1000, seed=seed), [pairs])
        kept.append({i for i, reason in enumerate(reasons) if reason is None})
        assert settled["capped_entries"] == 1
        assert len(kept[-1]) == 1000
    assert len(kept[0] & kept[1]) < 60  # 20 by chance


def test_entries_choose_independently_of_each_other() -> None:
    """Two entries with the same 40,000 pairs choose 10,000 each, a quarter of them the same."""
    pairs = batch([[3, 8]] * 40_000)
    made = EntryCap(most=10_000)
    reasons, settled = decide(made, [pairs])
    assert abs(reasons.count(None) - 17_500) < 4 * np.sqrt(40_000 * 0.4375 * 0.5625)
    chosen = made.derive(pairs, settled)[CHOSEN].to_numpy()
    assert int(chosen.sum()) == 20_000


def test_a_pair_stays_for_its_rare_entry() -> None:
    """So a cap is none on what is kept: the frequent entry keeps all pairs that have a rare one too."""
    lists = [[0, 1 + i // 2] for i in range(100)]
    reasons, _ = decide(EntryCap(most=2), [batch(lists)])
    assert reasons == [None] * 100


def test_strings_are_entries_too() -> None:
    """Noun phrases: equal strings are one entry, whatever the list type."""
    lists: Any = [["a dog", "grass"], ["a dog"], ["a cat"], [], None, ["a dog", "a dog"]]
    for kind in (pa.list_(pa.string()), pa.large_list(pa.large_string())):
        reasons, settled = decide(EntryCap(most=2, least=2), [batch(lists, kind)])
        assert reasons[2:5] == ["too_rare", "no_entries", "no_entries"]
        assert [reasons[i] for i in (0, 1, 5)].count("over_cap") == 1
        assert (settled["entry_count"], settled["rare_entries"], settled["capped_entries"]) == (3, 2, 1)


def test_slices_and_negative_ids_do_no_harm() -> None:
    """A slice of a larger array has its own rows only."""
    lists = [[1], [-5, 1], [2], [1, 2], [-5]]
    pairs = batch(lists)
    made = EntryCap(most=1)
    assert decide(made, [pairs.slice(0, 2), pairs.slice(2)])[0] == decide(made, [pairs])[0]


def test_a_pair_that_is_listed_twice_is_chosen_twice() -> None:
    """All eight digits of the draws are equal then; the search ends all the same."""
    pairs = pa.record_batch({"uid": ["0" * 32] * 3, "matched_entries": pa.array([[1]] * 3, pa.list_(pa.int32()))})
    assert decide(EntryCap(most=1), [pairs])[0] == [None] * 3


def test_tallies_add_up_in_any_order() -> None:
    """Pieces are put together as they grow."""
    rng = np.random.default_rng(0)
    keys = [rng.integers(0, 50, rng.integers(0, 40)).astype(np.uint64) for _ in range(40)]
    together = reduce(lambda a, b: a + b, map(_caps.Tally.of, keys)).counts()
    wanted = np.unique(np.concatenate(keys), return_counts=True)
    assert all(np.array_equal(a, b) for a, b in zip(together, wanted, strict=True))


def write_pool(path: Path, rows: int) -> Path:
    """Captions of one to three words."""
    words = ["dog", "cat", "tree", "photo", "sea"]
    texts = [" ".join(words[(i * k) % 5] for k in range(1, 2 + i % 3)) for i in range(rows)]
    return write_csv(path, [{"url": f"http://e.org/{i}", "text": t} for i, t in enumerate(texts)])


def test_a_run_has_the_same_bytes_from_any_number_of_workers(tmp_path: Path) -> None:
    """Through the engine, with a list column that an earlier step measured."""
    pool = write_pool(tmp_path / "list.csv", 400)
    made = recipe(pool, "tests.support_filters:Letters", {"entry_cap": {"entries": "letters", "most": 7}})
    found = [run(made, tmp_path / str(workers), workers=workers) for workers in (1, 2)]
    assert digests(tmp_path / "1") == digests(tmp_path / "2")
    assert found[0].tally.dropped["entry_cap", "over_cap"] > 300


def test_a_column_that_is_no_list_is_refused(tmp_path: Path) -> None:
    """Before anything runs."""
    pool = write_pool(tmp_path / "list.csv", 5)
    with pytest.raises(RecipeError, match="'text' is string; a column of lists of integers or strings is needed"):
        run(recipe(pool, {"entry_cap": {"entries": "text", "most": 7}}), tmp_path / "run")


@pytest.mark.parametrize("wrong", [{}, {"most": 0}, {"most": 1, "least": 0}, {"most": 1, "seed": -1}])
def test_wrong_settings(wrong: dict[str, int]) -> None:
    """None of them means anything."""
    with pytest.raises(ValidationError):
        EntryCap(**wrong)
