"""Clusters of pairs that are alike: best pair kept, wherever the members lie, whatever the cut."""

from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pairsieve.filters import _links
from pairsieve.pipelines import clusters, groups
from pairsieve.pipelines.run import run
from pairsieve.pipelines.runner import Result
from pairsieve.pipelines.store import Store
from pairsieve.schemas.errors import PairsieveError
from tests.support import digests, recipe, write_csv
from tests.support_filters import NearNumbers

NEAR = "tests.support_filters:NearNumbers"


def write(path: Path, numbers: list[float | None]) -> Path:
    """A list of pairs with a score each."""
    scores = ["" if n is None else n for n in numbers]
    return write_csv(path, [{"url": f"http://e.org/{i}", "text": f"n {n}", "score": n} for i, n in enumerate(scores)])


def kept(found: Result) -> list[float | None]:
    """Scores of what stays, in the order of the pool."""
    sql = "SELECT score FROM scores WHERE dropped_by IS NULL ORDER BY shard, row"
    scores: list[float | None] = found.query(sql)["score"].to_pylist()
    return scores


def test_the_best_of_each_cluster_stays(tmp_path: Path) -> None:
    """Chains are one cluster; those without a key stay; the survivor's uid is told."""
    numbers = [10.0, 10.9, 11.8, 30.0, None, 30.4, 70.0, None, 12.5, 90.0, 90.2]
    pool = write(tmp_path / "list.csv", numbers)
    found = run(recipe(pool, {NEAR: {"prefer": "score DESC"}}), tmp_path / "run", workers=1)
    assert kept(found) == [None, 30.4, 70.0, None, 12.5, 90.2]
    assert found.tally.dropped == {("NearNumbers", "near_number"): 5}
    sql = 'SELECT s.score, b.score AS best FROM scores s JOIN scores b ON s."NearNumbers_of" = b.uid ORDER BY 1'
    pairs = [(row["score"], row["best"]) for row in found.query(sql).to_pylist()]
    assert pairs == [(10.0, 12.5), (10.9, 12.5), (11.8, 12.5), (30.0, 30.4), (90.0, 90.2)]


@pytest.mark.parametrize("prefer", ["", "score", "length(text) DESC, score"])
def test_a_run_does_not_depend_on_shards_or_workers(tmp_path: Path, prefer: str) -> None:
    """The same pairs stay from shards of 7 pairs and of 1,000, in the order of the list and turned round."""
    rng = np.random.default_rng(0)
    numbers: list[float | None] = [float(n) for n in rng.integers(0, 3000, 400) / 10]
    found = []
    for name, shard, order, workers in (("a", 1000, 1, 1), ("b", 7, 1, 2), ("c", 30, -1, 1)):
        made = recipe("", {NEAR: {"within": 0.3, "prefer": prefer}})
        path = tmp_path / f"{name}.parquet"
        rows = [{"url": f"http://e.org/{i}", "text": f"n {n}", "score": n} for i, n in enumerate(numbers)]
        pq.write_table(pa.Table.from_pylist(rows[::order]), path)
        made["pool"]["urls"] = {"path": str(path), "shard_rows": shard}
        result = run(made, tmp_path / name, workers=workers)
        found.append(sorted(result.query("SELECT uid FROM verdicts WHERE dropped_by IS NULL")["uid"].to_pylist()))
    assert found[0] == found[1] == found[2]
    assert len(found[0]) < 350


def test_a_second_run_over_what_stays_drops_nothing(tmp_path: Path) -> None:
    """Also where the best of a key was linked elsewhere, so that its other members meet later."""
    rng = np.random.default_rng(1)
    numbers: list[float | None] = [float(n) for n in rng.integers(0, 2000, 500) / 10]
    steps = {NEAR: {"within": 0.4, "prefer": "hash(score)"}}
    first = run(recipe(write(tmp_path / "list.csv", numbers), steps), tmp_path / "run", workers=1)
    again = run(recipe(write(tmp_path / "again.csv", kept(first)), steps), tmp_path / "again", workers=1)
    assert 0 < first.kept < len(numbers)
    assert again.kept == again.rows == first.kept


def test_a_threshold_measures_nothing_again(tmp_path: Path) -> None:
    """Keys are stored; an edited recipe equals a fresh run."""
    pool = write(tmp_path / "list.csv", [float(n % 83) for n in range(250)])
    run(recipe(pool, {NEAR: {"within": 0}}), tmp_path / "run", workers=1)
    edited = recipe(pool, {NEAR: {"within": 1, "prefer": "score DESC"}})
    assert run(edited, tmp_path / "run", workers=1).measured == {"NearNumbers": 0}
    run(edited, tmp_path / "fresh", workers=1)
    assert digests(tmp_path / "run") == digests(tmp_path / "fresh")


def test_a_pool_that_grows_is_compared_with_what_was_there(tmp_path: Path) -> None:
    """Only the new file is measured; what stays is what a fresh run over all keeps."""
    (tmp_path / "pool").mkdir()
    made = recipe("", {NEAR: {"prefer": "score DESC"}})
    made["pool"]["urls"] = {"path": str(tmp_path / "pool"), "shard_rows": 20}
    for name, first in (("a", 0.0), ("b", 0.3)):
        rows = [{"url": f"http://e.org/{name}{i}", "text": "t", "score": first + 4 * i} for i in range(20)]
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "pool" / f"{name}.parquet")
        found = run(made, tmp_path / "run", workers=1)
        assert found.measured == {"NearNumbers": 20}
    assert kept(found) == [0.3 + 4 * i for i in range(20)]
    run(made, tmp_path / "fresh", workers=1)
    assert digests(tmp_path / "run") == digests(tmp_path / "fresh")


def test_only_pairs_that_reach_it_are_compared(tmp_path: Path) -> None:
    """A better pair that was dropped before is no reason to go."""
    pool = write(tmp_path / "list.csv", [5.0, 5.5, 5.9])
    steps = ({"where": "score <> 5.9"}, {NEAR: {"prefer": "score DESC"}})
    assert kept(run(recipe(pool, *steps), tmp_path / "run", workers=1)) == [5.5]


def test_nothing_to_link(tmp_path: Path) -> None:
    """No pair has a key, or none is left."""
    pool = write(tmp_path / "list.csv", [None, None])
    assert run(recipe(pool, NEAR), tmp_path / "none", workers=1).kept == 2
    assert run(recipe(pool, {"where": "false"}, NEAR), tmp_path / "empty", workers=1).kept == 0


def test_a_filter_that_compares_wrongly_is_named(tmp_path: Path) -> None:
    """One value for many links."""
    pool = write(tmp_path / "list.csv", [1.0, 1.1, 1.2])
    with pytest.raises(PairsieveError, match=r"NearNumbers: alike\(\) must give bool\[3\], not bool\(1,\)"):
        run(recipe(pool, {NEAR: {"wrong": True}}), tmp_path / "run", workers=1)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=60), st.randoms(use_true_random=False))
def test_union_find_is_scipys(links: list[tuple[int, int]], shuffle: Any) -> None:
    """Labels are the smallest id of each connected component, in whatever order links come."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    shuffle.shuffle(links)
    one, other = (np.array([link[i] for link in links], np.int64) for i in (0, 1))
    parent = np.arange(31)
    _links.unite(parent, one, other)
    _links.flatten(parent)
    _, labels = connected_components(coo_array((np.ones(len(one)), (one, other)), (31, 31)), directed=False)
    smallest = {label: int(np.flatnonzero(labels == label)[0]) for label in set(labels)}
    assert parent.tolist() == [smallest[label] for label in labels]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 2**64 - 1) | st.integers(0, 5), max_size=50))
def test_each_member_is_linked_to_the_best_the_one_before_and_the_hub(keys: list[int]) -> None:
    """Against a dictionary; keys may be anything, 0 too."""
    n = len(keys)
    one, other = np.empty(3 * n, np.int64), np.empty(3 * n, np.int64)
    table = np.full((256, 4), -1, np.int64)
    gone = np.array([key == 5 or key % 7 == 3 for key in range(n)], bool)
    ids = np.arange(n)
    count = _links.link(np.array(keys, np.uint64), ids, gone, np.arange(n), table, one, other)
    before: dict[int, list[int]] = {}
    hubs: dict[int, int] = {}
    wanted = []
    for i, key in enumerate(keys):
        others = before.setdefault(key, [])
        if gone[i]:
            if len(others) > 1:
                hubs.setdefault(key, others[-1])
            continue
        ends_of = [*others[:1], *others[-1:], *([hubs[key]] if key in hubs else [])]
        wanted += [(j, i) for j in dict.fromkeys(ends_of)]
        others.append(i)
    assert list(zip(one[:count].tolist(), other[:count].tolist(), strict=True)) == wanted


def test_one_that_is_like_all_others_takes_them_in_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key's best is like none, the second like all others, which are unlike each other: a few rounds."""
    rounds, real = Counter[str](), clusters._Links.next_round

    def counted(links: clusters._Links, parent: NDArray[np.int64]) -> None:
        rounds["all"] += 1
        real(links, parent)

    monkeypatch.setattr(clusters._Links, "next_round", counted)
    rows = [{"url": f"http://e.org/{i}", "text": f"n{i}", "score": 60.0 + i} for i in range(300)]
    made = recipe(write_csv(tmp_path / "list.csv", rows), "tests.support_filters:SecondIsLikeAll")
    assert run(made, tmp_path / "run", workers=1).kept == 2
    assert rounds["all"] <= 4


def test_shards_of_six_digits(tmp_path: Path) -> None:
    """Work files are taken by the number of their shard, not by their name as text."""
    step = SimpleNamespace(id="s", filter=NearNumbers(), keep_reads=(), keys={"near_numbers_keys": "near_number"})
    for shard in (99_998, 99_999, 100_000, 100_001):
        table = {
            "uid": [f"{shard * 10 + i:032x}" for i in range(2)],
            "shard": pa.array([shard] * 2, pa.int32()),
            "row": pa.array([0, 1], pa.int32()),
            "pairsieve/compared/near_number": [9.0, 50.0 + 2 * shard],
            "pairsieve/compared/text": ["t", "t"],
            "pairsieve/key/0": pa.array([1, 1], pa.uint64()),
        }
        (tmp_path / "_work" / "s").mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(table), tmp_path / "_work" / "s" / f"{shard:05d}.parquet")
    assert groups.group(Store(str(tmp_path)), step) == 3  # type: ignore[arg-type]
    lost = pa.concat_tables([pq.read_table(file) for file in sorted((tmp_path / "derived" / "s").glob("*.parquet"))])
    places = sorted(zip(lost["shard"].to_pylist(), lost["row"].to_pylist(), strict=True))
    assert places == [(99_999, 0), (100_000, 0), (100_001, 0)]
    assert set(lost["duplicate_of"].to_pylist()) == {f"{999_980:032x}"}
