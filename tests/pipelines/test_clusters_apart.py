"""Clusters where they do not fit into one process: the same pairs lose, however small the parts."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pairsieve.pipelines import clusters_apart, components, exchange, groups
from pairsieve.pipelines.run import run
from pairsieve.pipelines.store import Store
from tests.pipelines.test_clusters import NEAR, write
from tests.support import digests, recipe, write_csv

LIMITS = clusters_apart.Limits


def both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: dict[str, object], limits: LIMITS, **how: object
) -> int:
    """Run in one process and in parts, compare all that is written, and give how many pairs went."""
    one = run(made, tmp_path / "one", workers=1)
    monkeypatch.setattr(groups, "CLUSTERS_SHARE", 0)
    monkeypatch.setattr(clusters_apart, "LIMITS", limits)
    other = run(made, tmp_path / "other", **how)  # type: ignore[arg-type]
    assert digests(tmp_path / "one") == digests(tmp_path / "other")
    assert not (tmp_path / "other" / "_work" / "NearNumbers").exists()
    assert one.tally == other.tally
    return one.rows - one.kept


@pytest.mark.parametrize("limits", [LIMITS(4000), LIMITS(4000, 0), LIMITS()], ids=["small", "stars", "large"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_same_pairs_lose(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limits: LIMITS, seed: int) -> None:
    """Verdicts and survivors are the same bytes, with chains, equal ranks, pairs without keys, several rounds."""
    rng = np.random.default_rng(seed)
    drawn = [float(n) for n in rng.integers(0, 2000, 300) / 10]
    numbers = [None if i % 17 == 0 else n for i, n in enumerate(drawn)]
    made = recipe("", {NEAR: {"within": 0.4, "prefer": "hash(score)"}})
    made["pool"]["urls"] = {"path": str(write(tmp_path / "list.csv", numbers)), "shard_rows": 50}
    assert both(tmp_path, monkeypatch, made, limits, workers=1) > 50


def test_a_hub_and_columns_by_the_names_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One pair takes in all others in a few rounds; a column that is compared may be called rank."""
    rows = [{"url": f"http://e.org/{i}", "text": f"n{i}", "score": 60.0 + i} for i in range(200)]
    made = recipe("", "tests.support_filters:SecondIsLikeAll")
    made["pool"]["urls"] = {"path": str(write_csv(tmp_path / "list.csv", rows)), "shard_rows": 64}
    assert both(tmp_path, monkeypatch, made, LIMITS(4000, 0), workers=1) == 198
    ranks = [{"url": f"http://e.org/{i}", "rank": f"a b c d e f{i % 40}", "text": "t"} for i in range(120)]
    named = recipe("", {"near_duplicate_text": {"text": "rank", "shingles": "words"}})
    named["pool"]["urls"] = {"path": str(write_csv(tmp_path / "ranks.csv", ranks)), "shard_rows": 64}
    assert run(named, tmp_path / "named", workers=1).kept < 41


def test_on_two_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tasks travel to other processes."""
    numbers: list[float | None] = [float(n % 37) for n in range(200)]
    made = recipe("", {NEAR: {"prefer": "score DESC"}})
    made["pool"]["urls"] = {"path": str(write(tmp_path / "list.csv", numbers)), "shard_rows": 64}
    assert both(tmp_path, monkeypatch, made, LIMITS(8000, 0), workers=2) == 199


@pytest.mark.parametrize("numbers", [[None, None], [1.0, 50.0, 90.0]], ids=["no keys", "no links"])
def test_nothing_to_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, numbers: list[float | None]) -> None:
    """No pair has a key, or none is like another."""
    made = recipe(write(tmp_path / "list.csv", numbers), NEAR)
    assert both(tmp_path, monkeypatch, made, LIMITS(1000, 0), workers=1) == 0


Links = list[tuple[int, int]]
GRAPHS = st.lists(
    st.tuples(st.integers(0, 40), st.integers(0, 40)).filter(lambda ends: ends[0] != ends[1]), max_size=60
)


def hung(folder: Path, links: Links, together: int, apart: int = 40) -> dict[int, int]:
    """What each id hangs on."""
    store, names = Store(str(folder)), []
    for i in range(3):
        some = np.array(links[i::3], np.int64).reshape(-1, 2)
        names.append(f"links/{i}.arrow")
        exchange.write(store, names[-1], pa.table({"one": some[:, 0], "other": some[:, 1]}))
    found = components.hang(store, "hang", names, len(links), map, together, apart)
    table = pa.concat_tables([exchange.read(store, name) for name in found])
    assert len(set(table["other"].to_pylist())) == len(table)
    return dict(zip(table["other"].to_pylist(), table["one"].to_pylist(), strict=True))


def smallest(links: Links) -> dict[int, int]:
    """The smallest id of each component, by scipy, for all others of it."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    size = 1 + max((max(link) for link in links), default=0)
    one, other = (np.array([link[i] for link in links], np.int64) for i in (0, 1))
    _, labels = connected_components(coo_array((np.ones(len(one)), (one, other)), (size, size)), directed=False)
    first = {label: int(np.flatnonzero(labels == label)[0]) for label in set(labels)}
    return {i: first[label] for i, label in enumerate(labels) if first[label] != i}


@settings(max_examples=60, deadline=None)
@given(GRAPHS)
def test_star_rounds_are_union_find(tmp_path_factory: pytest.TempPathFactory, links: Links) -> None:
    """Either way ids hang on the smallest of their component, as scipy finds it."""
    wanted = smallest(links)
    for together in (0, 10**9) if links else (10**9,):
        assert hung(tmp_path_factory.mktemp("hang"), links, together) == wanted


def test_a_long_chain_hangs_on_its_end(tmp_path: Path) -> None:
    """1,000 links in a row, in an order that hides it."""
    order = np.random.default_rng(0).permutation(1000)
    chain = [(int(i), int(i) + 1) for i in order]
    assert hung(tmp_path, chain, 0, apart=500) == dict.fromkeys(range(1, 1001), 0)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.text(), st.integers(0, 6)), max_size=30), st.integers(1, 3))
def test_an_exchange_loses_nothing(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, int]], files: int
) -> None:
    """Each part gets the rows sent to it, file by file, in their order."""
    store = Store(str(tmp_path_factory.mktemp("exchange")))
    for i in range(files):
        some = rows[i::files]
        table = pa.table({"text": pa.array([text for text, _ in some], pa.large_string())})
        exchange.send(store, f"x/{i}.arrow", table, np.array([to for _, to in some], np.int64), 7)
    for part in range(7):
        wanted = [text for i in range(files) for text, to in rows[i::files] if to == part]
        assert exchange.receive(store, "x", part)["text"].to_pylist() == wanted


def test_in_an_object_store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Parts go through the run's storage, whatever it is."""
    numbers: list[float | None] = [float(n % 37) for n in range(120)]
    made = recipe(write(tmp_path / "list.csv", numbers), {NEAR: {"prefer": "score DESC"}})
    monkeypatch.setattr(groups, "CLUSTERS_SHARE", 0)
    monkeypatch.setattr(clusters_apart, "LIMITS", LIMITS(4000, 0))
    assert run(made, "memory://apart/run", workers=1).kept == 1


@pytest.mark.parametrize("verify", ["exact", "estimated"])
def test_captions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verify: str) -> None:
    """Near duplicate captions, compared by their text or by stored signatures."""
    rng = np.random.default_rng(0)
    words = np.array([*"abcdefghijklmnop"])
    texts = [" ".join(rng.choice(words, 9)) for _ in range(60)]
    texts += [f"{texts[int(i)]} {rng.choice(words)}" for i in rng.integers(0, 60, 200)]
    rows = [{"url": f"http://e.org/{i}", "text": text} for i, text in enumerate(texts)]
    made = recipe("", {"near_duplicate_text": {"shingles": "words", "prefer": "length(text)", "verify": verify}})
    made["pool"]["urls"] = {"path": str(write_csv(tmp_path / "list.csv", rows)), "shard_rows": 90}
    assert both(tmp_path, monkeypatch, made, LIMITS(100_000, 0), workers=1) > 150
