"""metadata_balance: counts, probabilities and draws equal a literal balance, whatever the shards."""

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from pairsieve.filters._balance_counts import nearest_count, shares
from pairsieve.filters.base import UnknownColumnError, deciding_settings, scoring_settings
from pairsieve.filters.metadata_balance import MetadataBalance
from pairsieve.filters.random_sample import RandomSample
from pairsieve.schemas.errors import UserError
from tests.support_balance import (
    draw_of,
    literal_counts,
    literal_probability,
    literal_size,
    numbered_uids,
    pairs_of,
    paper_pairs,
    play,
    zipfian_lists,
)

PROBABILITY, DRAW = "metadata_balance_probability", "metadata_balance_draw"
CAPTION, CHANCE = "metadata_balance_caption", "metadata_balance_caption_probability"
LISTS = st.lists(st.none() | st.lists(st.integers(0, 12), max_size=5), max_size=60)


@pytest.fixture(scope="module")
def lists() -> list[list[int]]:
    """4,000 match lists with a long tail."""
    return zipfian_lists(4000, 300, 4.0, seed=1)


@pytest.fixture
def languages(tmp_path: Path) -> Any:
    """Write metadata whose entries have the given languages."""

    def write(*names: str) -> str:
        path = tmp_path / "metadata.parquet"
        pq.write_table(pa.table({"entry": [f"e{i}" for i in range(len(names))], "language": list(names)}), path)
        return str(path)

    return write


def of_counts(*counts: int) -> pa.Table:
    """A pool in which entry i matches ``counts[i]`` texts, one entry a text."""
    return pairs_of([[entry] for entry, count in enumerate(counts) for _ in range(count)])


# --- the definition ---


@given(LISTS, st.integers(1, 20), st.integers(0, 2**63 - 1))
def test_equals_a_literal_balance(lists: list[list[int] | None], t: int, seed: int) -> None:
    """Counts, π, draws and verdicts are those of the formulas, one pair at a time."""
    played = play(MetadataBalance(t=t, seed=seed), pairs_of(lists), shard_rows=17, batch_rows=5)
    counts = literal_counts(lists)
    expected = [None if text is None else literal_probability(text, counts, t) for text in lists]
    draws = [draw_of(name, seed) for name in numbered_uids(len(lists)).to_pylist()]
    assert played.settled["counts"].tolist() == [counts[entry] for entry in range(max(counts, default=-1) + 1)]
    assert played.derived[PROBABILITY].to_pylist() == expected
    assert played.derived[DRAW].to_pylist() == draws
    reasons = [
        ("no_entries" if not p else None if u < p else "not_drawn") for p, u in zip(expected, draws, strict=True)
    ]
    assert played.reasons == reasons


@given(LISTS, st.integers(1, 20))
def test_facts_are_those_of_the_pool(lists: list[list[int] | None], t: int) -> None:
    """Rows, matches, head, tail, sizes and the counts after are what they say."""
    played = play(MetadataBalance(t=t), pairs_of(lists))
    counts, settled = literal_counts(lists), played.settled
    total = sum(counts.values())
    kept = literal_counts([text for text, stays in zip(lists, played.kept, strict=True) if stays])
    assert (settled["rows"], settled["matched_rows"], settled["matches"]) == (len(lists), sum(map(bool, lists)), total)
    assert settled["head_entries"] == sum(count > t for count in counts.values())
    assert settled["head_matches"] == sum(count for count in counts.values() if count > t)
    assert settled["zero_entries"] == sum(counts[entry] == 0 for entry in range(settled["entry_count"]))
    assert settled["tail_share"] == pytest.approx(sum(c for c in counts.values() if c < t) / max(total, 1))
    assert settled["expected_rows"] == literal_size(lists, t) / 2**30
    chances = np.nan_to_num(played.derived[PROBABILITY].to_numpy())
    assert settled["sd_rows"] == pytest.approx(np.sqrt((chances * (1 - chances)).sum()), abs=1e-4)
    assert settled["kept_rows"] == played.kept.sum()
    assert settled["kept"].tolist() == [kept[entry] for entry in range(settled["entry_count"])]


def test_sizes_are_exact_at_every_t_tried(lists: list[list[int]]) -> None:
    """The table of sizes holds Σπ of the literal balance, from t = 1 to the greatest count."""
    made = MetadataBalance(t=37)
    table = made.tables(play(made, pairs_of(lists)).settled)["sizes"]
    tried = dict(zip(table["t"].to_pylist(), table["expected_rows"].to_pylist(), strict=True))
    assert {1, 37, max(literal_counts(lists).values())} <= tried.keys() and len(tried) > 50
    assert tried == {t: literal_size(lists, t) / 2**30 for t in tried}


# --- independence ---


@settings(max_examples=30)
@given(LISTS, st.integers(1, 70), st.integers(1, 70), st.integers(1, 99), st.booleans(), st.booleans())
def test_shards_batches_and_merging_change_nothing(
    lists: list[list[int] | None], shard: int, batch: int, shuffle: int, is_large: bool, is_target: bool
) -> None:
    """Any split, any order of merging and any list type give the same facts and verdicts, bit for bit."""
    made = MetadataBalance(target_rows=9) if is_target else MetadataBalance(t=2)
    kind = pa.large_list(pa.int64()) if is_large else pa.list_(pa.int32())
    one = play(made, pairs_of(lists))
    other = play(made, pairs_of(lists, kind), shard, batch, shuffle)
    assert one.derived.equals(other.derived) and one.reasons == other.reasons
    assert plain(one.settled) == plain(other.settled)


def plain(settled: dict[str, Any]) -> dict[str, Any]:
    """With lists for arrays, to be compared."""
    return {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in settled.items()}


def test_facts_are_json_and_small_arrays(lists: list[list[int]]) -> None:
    """What is settled can be written down: JSON values, and vectors with a number for each entry."""
    settled = play(MetadataBalance(t=5), pairs_of(lists)).settled
    arrays = {name: settled.pop(name) for name in ("counts", "kept", "sizes", "ts")}
    assert json.loads(json.dumps(settled)) == settled and settled["t"] == 5
    assert all(arrays[name].dtype == np.int64 and len(arrays[name]) == 300 for name in ("counts", "kept"))


def test_draws_are_nobody_elses() -> None:
    """The same seed draws other numbers than random_sample, and another seed others again."""
    pairs = pairs_of([[0]] * 500)
    own = play(MetadataBalance(t=1, seed=7), pairs).derived[DRAW].to_numpy()
    others = RandomSample(fraction=0.5, seed=7).score(pairs.to_batches()[0])["random_number"].to_numpy()
    other_seed = play(MetadataBalance(t=1, seed=8), pairs).derived[DRAW].to_numpy()
    assert abs(np.corrcoef(own, others)[0, 1]) < 0.2 and abs(np.corrcoef(own, other_seed)[0, 1]) < 0.2


def test_a_smaller_t_keeps_a_part(lists: list[list[int]]) -> None:
    """Pairs that stay with a smaller t stay with a greater one."""
    kept = [play(MetadataBalance(t=t), pairs_of(lists)).kept for t in (1, 5, 40, 400, 10**6)]
    assert all(not np.any(few & ~many) for few, many in pairwise(kept))
    assert len({int(mask.sum()) for mask in kept}) == 5


# --- what the numbers mean ---


def test_kept_rows_are_as_expected() -> None:
    """Over ten seeds the size is within 4 standard deviations of Σπ, and not always on one side."""
    pairs = pairs_of(zipfian_lists(20_000, 500, 4.0, seed=2))
    offs = []
    for seed in range(10):
        settled = play(MetadataBalance(t=3, seed=seed), pairs).settled
        offs.append((settled["kept_rows"] - settled["expected_rows"]) / settled["sd_rows"])
    assert max(map(abs, offs)) < 4 and min(offs) < 0 < max(offs)


def test_t_is_no_cap() -> None:
    """An entry far above t keeps most of its texts where each of them also matches a rare entry."""
    lists = [[0, 1 + i // 10] for i in range(5000)] + [[0]] * 5000
    settled = play(MetadataBalance(t=20), pairs_of(lists)).settled
    assert settled["counts"][0] == 10_000 and 5000 <= settled["kept"][0] < 5100


def test_one_draw_is_as_good_as_one_for_each_entry() -> None:
    """How often each text stays over 2,000 seeds is as with the published rule, a draw for each entry."""
    lists = [[0], [0, 1], [0, 1, 2], [1, 2], [0], [0, 1], [0], [2], [0, 2], [1]]
    counts, chance, seeds = literal_counts(lists), np.random.default_rng(3), 2000
    chances = [[2 / max(counts[entry], 2) for entry in text] for text in lists]
    theirs = np.array([sum(any(chance.random(len(p)) < p) for _ in range(seeds)) for p in chances])
    pairs = pairs_of(lists)
    kept = [play(MetadataBalance(t=2, seed=seed), pairs).kept for seed in range(seeds)]
    ours = np.sum(kept, axis=0)
    both = ours + theirs
    variance = both * (2 * seeds - both) / (2 * seeds)
    squares = ((ours - theirs) ** 2 / np.maximum(variance, 1)).sum()
    assert squares < 29.6  # chi-square of 10 degrees: exceeded once in 1,000
    assert 0.2 * seeds < ours.min() < ours.max() <= seeds


def test_t_above_all_counts_keeps_all(lists: list[list[int]]) -> None:
    """Nothing is thinned; pairs without an entry go all the same."""
    played = play(MetadataBalance(t=10**9), pairs_of(lists))
    assert played.settled["kept_rows"] == played.settled["expected_rows"] == played.settled["matched_rows"]
    assert played.settled["sd_rows"] == 0 and set(played.reasons) == {None, "no_entries"}


def test_t_of_one_keeps_about_one_a_head_entry() -> None:
    """With one entry a text, an entry keeps t texts in the mean."""
    settled = play(MetadataBalance(t=1), of_counts(3000, 500, 2)).settled
    assert settled["expected_rows"] == pytest.approx(3.0, abs=1e-5)


# --- which t ---


@settings(max_examples=40)
@given(st.lists(st.lists(st.integers(0, 6), max_size=4), min_size=1, max_size=80), st.data())
def test_target_rows_give_the_smallest_t(lists: list[list[int]], data: st.DataObject) -> None:
    """Σπ(t) reaches the target and Σπ(t - 1) does not, in the same sums."""
    target = data.draw(st.integers(1, len(lists)))
    settled = play(MetadataBalance(target_rows=target), pairs_of(lists)).settled
    t, matched = settled["t"], sum(map(bool, lists))
    assert settled["target_reached"] == (matched >= target)
    if matched >= target:
        assert literal_size(lists, t) + len(lists) >= target << 30  # each share is rounded down: thirds are not 1
        assert t == 1 or literal_size(lists, t - 1) < target << 30
    else:
        assert settled["kept_rows"] == matched


@pytest.mark.parametrize("target", [10_000, 30_000, 52_000])
def test_target_rows_are_found_in_few_rounds(target: int) -> None:
    """The smallest t among 60,000: counts, sizes, at most two closer looks, draws."""
    lists = [[0, 1 + i % 3] if i % 2 else [0] for i in range(60_000)]
    made = MetadataBalance(target_rows=target)
    played = play(made, pairs_of(lists))
    t = played.settled["t"]
    assert played.rounds <= 5 and played.settled["target_reached"]
    assert literal_size(lists, t) >= target << 30 > literal_size(lists, t - 1)


def test_tail_share_decides_t(lists: list[list[int]]) -> None:
    """t is the count whose cumulative share is nearest, and the share below it comes out about so."""
    settled = play(MetadataBalance(tail_share=0.2), pairs_of(lists)).settled
    assert settled["t"] == nearest_count(shares(settled["counts"]), 0.2)
    assert settled["tail_share"] == pytest.approx(0.2, abs=0.01)


# --- empty and odd pools ---


@pytest.mark.parametrize("how", [{"t": 5}, {"tail_share": 0.06}, {"target_rows": 3}])
@pytest.mark.parametrize("lists", [[], [None, None], [[], []], [[], None]])
def test_nothing_to_balance(how: dict[str, Any], lists: list[Any]) -> None:
    """Without a match one round is enough, nothing stays and nothing is NaN."""
    made = MetadataBalance(**how)
    played = play(made, pairs_of(lists))
    assert played.rounds == 1 and played.reasons == ["no_entries"] * len(lists)
    assert played.settled["expected_rows"] == played.settled["kept_rows"] == played.settled["tail_share"] == 0
    assert played.derived[PROBABILITY].to_pylist() == [None if text is None else 0.0 for text in lists]
    assert made.tables(played.settled)["entries"].num_rows == 0


def test_counts_of_one_need_one_round() -> None:
    """Where no entry matches two texts, every match stays, and no size need be looked for."""
    played = play(MetadataBalance(target_rows=2), pairs_of([[1], [3, 4], [], None]))
    assert played.rounds == 1 and played.reasons == [None, None, "no_entries", "no_entries"]
    assert played.settled["kept"].tolist() == played.settled["counts"].tolist() == [0, 1, 0, 1, 1]


def test_repeats_and_order_do_not_count() -> None:
    """Entries count once a text, in any order, null ids not at all."""
    kind = pa.list_(pa.int64())
    one = play(MetadataBalance(t=2), pairs_of([[1, 2], [1], [1, 3], [1], []], kind))
    other = play(MetadataBalance(t=2), pairs_of([[2, 1, 2], [1, 1], [3, None, 1], [1], [None]], kind))
    assert one.derived.equals(other.derived) and plain(one.settled) == plain(other.settled)


def test_slices_of_columns_are_read_where_they_lie(lists: list[list[int]]) -> None:
    """A batch that starts within a column gives the values of its own rows."""
    whole = play(MetadataBalance(t=5), pairs_of(lists))
    made, batch = MetadataBalance(t=5), pairs_of(lists).to_batches()[0]
    part = made.derive(batch.slice(1234, 99), whole.settled)[PROBABILITY]
    assert part.to_pylist() == whole.derived[PROBABILITY].to_pylist()[1234:1333]


def test_null_lists_may_hide_values() -> None:
    """What lies behind a null list is not counted."""
    values = pa.array([1, 1, 2], pa.int32())
    column = pa.ListArray.from_arrays(pa.array([0, 1, 2, 3], pa.int32()), values, mask=pa.array([False, True, False]))
    settled = play(MetadataBalance(t=1), pa.table({"uid": numbered_uids(3), "matched_entries": column})).settled
    assert settled["counts"].tolist() == [0, 1, 1]


def test_few_large_ids_take_little_memory() -> None:
    """Summaries hold the ids that occur, not a vector up to the greatest."""
    made, batch = MetadataBalance(t=1), pairs_of([[5, 60_000_000], [7]]).to_batches()[0]
    summary = made.merge(made.summarize(batch, {}), made.summarize(batch, {}))
    assert summary.seen is not None and summary.seen.tally.ids is not None
    assert summary.seen.tally.ids.tolist() == [5, 7, 60_000_000]
    assert summary.seen.tally.counts.tolist() == [2, 2, 2]


# --- languages ---


def test_languages_have_the_share_of_the_reference(languages: Any) -> None:
    """English keeps t; another language takes the count whose cumulative share is nearest to English's tail share."""
    metadata = languages("en", "en", "en", "fr", "fr", "fr", "fr")
    pairs = of_counts(15, 85, 0, 1, 3, 6, 10)  # .15 of the English matches are below 20
    made = MetadataBalance(t=20, by_language=True, metadata=metadata)
    settled = play(made, pairs).settled
    assert settled["t_by_language"] == {"en": 20, "fr": 3}
    table = made.tables(settled)
    assert table["languages"].to_pylist() == [
        {"language": "en", "t": 20, "entries": 3, "matches": 100, "tail_share": 0.15},
        {"language": "fr", "t": 3, "entries": 4, "matches": 20, "tail_share": 0.05},
    ]
    assert table["entries"]["probability"].to_pylist() == [1.0, 20 / 85, 1.0, 1.0, 1.0, 3 / 6, 3 / 10]


@pytest.mark.parametrize(
    ("counts", "t"), [((0, 0, 10), 10), ((0, 0, 0), 1), ((7,), 7), ((5, 5, 5), 5), ((1, 3, 6, 10), 3)]
)
def test_small_languages_are_not_lost(languages: Any, counts: tuple[int, ...], t: int) -> None:
    """Zero counts, a single entry and ties give a t of at least 1, and no probability is NaN."""
    metadata = languages("en", "en", *("xx" for _ in counts))
    made = MetadataBalance(t=20, by_language=True, metadata=metadata)
    played = play(made, of_counts(15, 85, *counts))
    assert played.settled["t_by_language"] == {"en": 20, "xx": t}
    assert not np.isnan(played.derived[PROBABILITY].to_numpy()).any()
    assert played.settled["kept"][2:].sum() >= min(sum(counts), t)


def test_languages_follow_a_target(languages: Any) -> None:
    """With target_rows the reference's t is the smallest whose sizes, all languages together, reach it."""
    metadata = languages(*["en"] * 40, *["fr"] * 60)
    lists = [
        [e + 40 * (i % 2) for e in text if e < 40 + 20 * (i % 2)]
        for i, text in enumerate(zipfian_lists(3000, 60, 3.0, 5))
    ]
    settled = play(MetadataBalance(target_rows=1500, by_language=True, metadata=metadata), pairs_of(lists)).settled
    t = settled["t"]
    sizes = [
        play(MetadataBalance(t=t - less, by_language=True, metadata=metadata), pairs_of(lists)).settled["expected_rows"]
        for less in (0, 1)
    ]
    assert sizes[0] == settled["expected_rows"] >= 1500 > sizes[1]


def test_a_target_can_keep_all_of_all_languages(languages: Any) -> None:
    """The greatest t that is tried keeps every pair with an entry, in every language."""
    metadata = languages("en", "en", "fr", "fr")
    settled = play(
        MetadataBalance(target_rows=47, by_language=True, metadata=metadata), of_counts(2, 5, 10, 30)
    ).settled
    assert settled["target_reached"] and settled["kept_rows"] == 47


def test_a_silent_reference_is_said(languages: Any) -> None:
    """Where the reference language matches nothing its tail share means nothing."""
    made = MetadataBalance(t=20, by_language=True, metadata=languages("en", "fr"))
    with pytest.raises(UserError, match="nothing matches an entry of the reference language"):
        play(made, of_counts(0, 5))


# --- several captions ---


def test_any_caption_counts_once_an_image() -> None:
    """Lists of lists are united: an image counts once for an entry that two captions name."""
    kind = pa.list_(pa.list_(pa.int32()))
    captions = [[[1, 2], [2]], [[2], None], None, [], [[], [3]]]
    united = [[1, 2], [2], None, [], [3]]
    made = MetadataBalance(t=1, entries="matched_by_text")
    one = play(made, pairs_of(captions, kind, "matched_by_text"))
    other = play(MetadataBalance(t=1), pairs_of(united))
    assert one.derived.equals(other.derived) and plain(one.settled) == plain(other.settled)


CAPTIONS = st.lists(st.none() | st.lists(st.none() | st.lists(st.integers(0, 6), max_size=3), max_size=4), max_size=40)


@given(CAPTIONS, st.integers(1, 12))
def test_one_caption_decides(captions: list[Any], t: int) -> None:
    """Each caption counts, the chosen one's π is compared with the draw, and the mean is stored."""
    kind = pa.list_(pa.list_(pa.int32()))
    played = play(MetadataBalance(t=t, captions="one"), pairs_of(captions, kind, "matched_by_text"), 13, 7)
    counts: Counter[int] = literal_counts([text for image in captions for text in image or ()])
    total = 0
    for image, row, reason in zip(captions, played.derived.to_pylist(), played.reasons, strict=True):
        chances = {i: literal_probability(text, counts, t) for i, text in enumerate(image or ()) if text is not None}
        if not chances:
            assert row[PROBABILITY] is row[CAPTION] is row[CHANCE] is None and reason == "no_entries"
            continue
        mean = sum(chances.values()) / len(chances)
        total += int(mean * 2**30 + 0.5)
        assert row[PROBABILITY] == mean and row[CHANCE] == chances[row[CAPTION]]
        assert reason == ("no_entries" if not mean else None if row[DRAW] < row[CHANCE] else "not_drawn")
    assert played.settled["expected_rows"] == total / 2**30
    assert played.settled["kept_rows"] == played.kept.sum()


def test_captions_are_chosen_evenly_and_apart_from_the_draw() -> None:
    """Each of three captions is chosen a third of the time, whatever the draw."""
    kind = pa.list_(pa.list_(pa.int32()))
    pairs = pairs_of([[[0], [1, 2], []]] * 9000, kind, "matched_by_text")
    derived = play(MetadataBalance(t=3000, captions="one"), pairs).derived
    caption, draw = derived[CAPTION].to_numpy(), derived[DRAW].to_numpy()
    for part in (draw < 0.5, draw >= 0.5):
        assert np.bincount(caption[part]) == pytest.approx([part.sum() / 3] * 3, abs=4 * np.sqrt(part.sum() * 2 / 9))


def test_expected_rows_hold_for_one_caption() -> None:
    """The size is within 4 standard deviations of the sum of the means."""
    texts = zipfian_lists(24_000, 300, 3.0, seed=4)
    kind = pa.list_(pa.list_(pa.int32()))
    pairs = pairs_of([texts[i : i + 3] for i in range(0, len(texts), 3)], kind, "matched_by_text")
    settled = play(MetadataBalance(t=8, captions="one"), pairs).settled
    assert abs(settled["kept_rows"] - settled["expected_rows"]) < 4 * settled["sd_rows"]


# --- online ---


def test_online_keeps_every_match(lists: list[list[int]]) -> None:
    """All pairs with an entry stay; the table has what an epoch is drawn with, and the size to expect of it."""
    made = MetadataBalance(t=5, online=True)
    played, offline = play(made, pairs_of(lists)), play(MetadataBalance(t=5), pairs_of(lists))
    assert played.kept.tolist() == [bool(text) for text in lists]
    assert played.settled["kept"].tolist() == played.settled["counts"].tolist()
    assert played.settled["expected_rows"] == offline.settled["expected_rows"]
    entries = made.tables(played.settled)["entries"]
    assert entries["probability"].to_pylist() == [5 / max(count, 5) for count in entries["count"].to_pylist()]


# --- names and bad input ---


def test_entries_have_names(tmp_path: Path) -> None:
    """Metadata gives the table its strings, and entries that match nothing their rows."""
    path = tmp_path / "metadata.json"
    path.write_text(json.dumps(["dog", "cat", "axolotl"]))
    made = MetadataBalance(t=1, metadata=str(path))
    table = made.tables(play(made, pairs_of([[0], [0], [1]])).settled)["entries"]
    assert table["entry"].to_pylist() == ["dog", "cat", "axolotl"] and table["count"].to_pylist() == [2, 1, 0]
    assert table.schema.types == [pa.int32(), pa.string(), pa.string(), pa.int64(), pa.float64(), pa.int64()]
    assert made.files() == (str(path),)


def test_all_settings_decide() -> None:
    """Nothing is measured, so that no setting is part of a fingerprint."""
    made = MetadataBalance(t=1)
    assert scoring_settings(made) == {} and deciding_settings(made).keys() == MetadataBalance.model_fields.keys()
    assert made.outputs({}) == {} and made.needs() == ("numba",)


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"t": 0},
        {"t": 2**53 + 1},
        {"t": 5, "tail_share": 0.1},
        {"tail_share": 1.5},
        {"tail_share": float("nan")},
        {"target_rows": 0},
        {"t": 1, "seed": 2**63},
        {"t": 1, "by_language": True},
        {"t": 1, "captions": "all"},
    ],
)
def test_settings_that_make_no_sense(wrong: dict[str, Any]) -> None:
    """They are refused when the recipe is read."""
    with pytest.raises(ValidationError):
        MetadataBalance(**wrong)


@pytest.mark.parametrize(
    ("kind", "settings_", "line"),
    [
        (pa.list_(pa.string()), {}, "is list<.*string>, not lists of int32 or int64"),
        (pa.int32(), {}, "is int32, not lists"),
        (pa.list_(pa.list_(pa.list_(pa.int32()))), {}, "not lists of int32"),
        (pa.list_(pa.int32()), {"captions": "one", "entries": "matched_entries"}, "needs a list for each caption"),
    ],
)
def test_columns_of_another_kind(kind: pa.DataType, settings_: dict[str, Any], line: str) -> None:
    """One line names the column and its type."""
    with pytest.raises(ValueError, match=line):
        MetadataBalance(t=1, **settings_).check({"uid": pa.string(), "matched_entries": kind})


def test_a_missing_column() -> None:
    """The error knows the column, so that the plan can say which step writes it."""
    with pytest.raises(UnknownColumnError, match="matched_by_text"):
        MetadataBalance(t=1, captions="one").check({"matched_entries": pa.list_(pa.int32())})


def test_a_reference_language_that_is_not_there(languages: Any) -> None:
    """It is said before anything is counted."""
    made = MetadataBalance(t=1, by_language=True, metadata=languages("de", "fr"))
    with pytest.raises(ValueError, match=r"no entry of .* is in 'en'"):
        made.check({"matched_entries": pa.list_(pa.int32())})


def test_missing_metadata_is_said(tmp_path: Path) -> None:
    """A file that is not there is one line."""
    with pytest.raises(UserError, match="metadata"):
        MetadataBalance(t=1, metadata=str(tmp_path / "no.parquet")).check({"matched_entries": pa.list_(pa.int32())})


@pytest.mark.parametrize("bad", [-1, 3, 2**31, 2**62, -(2**62)])
def test_ids_outside_the_metadata(tmp_path: Path, bad: int) -> None:
    """Ids that are no places in the metadata are an error with the column and the id, and no memory."""
    path = tmp_path / "metadata.txt"
    path.write_text("dog\ncat\naxolotl\n")
    with pytest.raises(UserError, match=f"'matched_entries' holds the entry id {bad}, and ids are 0 to 2"):
        play(MetadataBalance(t=1, metadata=str(path)), pairs_of([[0], [bad, 1]], pa.list_(pa.int64())))


def test_ids_without_metadata_are_bounded() -> None:
    """A damaged id does not ask for gigabytes."""
    with pytest.raises(UserError, match="holds the entry id 2147483647"):
        play(MetadataBalance(t=1), pairs_of([[0], [2**31 - 1]]))


def test_ids_that_changed_since_they_were_counted() -> None:
    """A column with other ids than the rounds saw is refused, not read past the vector's end."""
    settled = play(MetadataBalance(t=1), pairs_of([[0], [0]])).settled
    with pytest.raises(UserError, match="holds the entry id 9"):
        MetadataBalance(t=1).derive(pairs_of([[9]]).to_batches()[0], settled)


# --- the paper ---


def test_a_pool_as_in_the_paper() -> None:
    """Tail share 5 to 6 %, and about a quarter of the matched texts stay, as of the paper's 1.6 B (400 M).

    The paper does not say how matches spread over texts; 25 to 29 % stay here for a log-normal of sigma 1.4 to 1.0.
    """
    pairs, t = paper_pairs(400_000, 12_500, spread=1.2)
    settled = play(MetadataBalance(t=t), pairs).settled
    assert settled["matches"] / settled["matched_rows"] == pytest.approx(3.5, abs=0.1)
    assert settled["head_entries"] == 400 and settled["head_matches"] / settled["matches"] == pytest.approx(
        0.945, abs=0.003
    )
    assert 0.05 < settled["tail_share"] < 0.06
    assert settled["expected_rows"] / settled["matched_rows"] == pytest.approx(0.25, abs=0.03)
    assert abs(settled["kept_rows"] - settled["expected_rows"]) < 4 * settled["sd_rows"]
