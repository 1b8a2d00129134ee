"""metadata_balance in real runs: the verdicts, views and tables are those of the filter alone."""

from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pairsieve.filters.metadata_balance import MetadataBalance
from pairsieve.pipelines.run import run
from pairsieve.schemas.errors import PairsieveError, RecipeError
from tests.support import digests, kept_texts, write_csv
from tests.support import recipe as of_urls
from tests.support_balance import Played, pairs_of, play, zipfian_lists

ROWS = 3000
LISTS: list[Any] = [None if i % 97 == 0 else text for i, text in enumerate(zipfian_lists(ROWS, 200, 3.0, seed=6))]


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of one Parquet file with match lists."""
    folder = tmp_path_factory.mktemp("pool")
    write(folder, LISTS)
    return folder


def write(folder: Path, lists: list[Any]) -> None:
    """Match lists as a pool of pairs, in row groups of 250."""
    table = pairs_of(lists).append_column("image", pa.array([b"x"] * len(lists)))
    table = table.append_column("text", pa.array([f"caption {i}" for i in range(len(lists))]))
    pq.write_table(table, folder / "pairs.parquet", row_group_size=250)


def recipe(pool: Path, *filters: Any, shard_rows: int = 500) -> dict[str, Any]:
    """Balance the pool."""
    pairs = {"path": str(pool), "columns": ["matched_entries"], "shard_rows": shard_rows}
    return {"pool": {"pairs": pairs}, "filters": list(filters), "output": {"subset": "subset.npy"}}


def alone(how: dict[str, Any], lists: list[Any] = LISTS) -> Played:
    """The filter without an engine."""
    return play(MetadataBalance(**how), pairs_of(lists))


@pytest.mark.parametrize(
    "how", [{"t": 5}, {"tail_share": 0.2, "seed": 3}, {"target_rows": 900}, {"t": 5, "online": True}]
)
def test_a_run_decides_as_the_filter_alone(pool: Path, tmp_path: Path, how: dict[str, Any]) -> None:
    """Verdicts, derived columns, facts and tables; the sizes of shards change nothing."""
    found, played = run(recipe(pool, {"metadata_balance": how}), tmp_path / "run", workers=2), alone(how)
    rows = found.query("SELECT * FROM scores ORDER BY uid")
    assert rows["reason"].to_pylist() == played.reasons
    for name in played.derived.schema.names:
        assert rows[name].to_pylist() == played.derived[name].to_pylist()
    assert found.kept == found.settled["metadata_balance"]["kept_rows"] == played.settled["kept_rows"]
    tables = MetadataBalance(**how).tables(played.settled)
    for name, table in tables.items():
        assert found.query(f"SELECT * FROM metadata_balance_{name}").to_pylist() == table.to_pylist()


def test_other_shards_keep_the_same_pairs(pool: Path, tmp_path: Path) -> None:
    """The subsets are the same bytes."""
    step = {"metadata_balance": {"target_rows": 700}}
    for shard_rows in (250, 1500):
        run(recipe(pool, step, shard_rows=shard_rows), tmp_path / str(shard_rows), workers=2)
    subsets = [(tmp_path / name / "subset.npy").read_bytes() for name in ("250", "1500")]
    assert subsets[0] == subsets[1]


def test_another_t_equals_a_fresh_run(pool: Path, tmp_path: Path) -> None:
    """And a bare value is t."""
    run(recipe(pool, {"metadata_balance": 5}), tmp_path / "run", workers=1)
    run(recipe(pool, {"metadata_balance": 9}), tmp_path / "run", workers=1)
    run(recipe(pool, {"metadata_balance": {"t": 9}}), tmp_path / "fresh", workers=1)
    assert digests(tmp_path / "run") == digests(tmp_path / "fresh")


def test_what_earlier_steps_drop_does_not_count(pool: Path, tmp_path: Path) -> None:
    """Counts are of the pairs that reach the step; those dropped before have no probability."""
    where = {"where": "uid >= '00000000000000000000000000000400'"}
    found = run(recipe(pool, where, {"metadata_balance": {"t": 5}}), tmp_path / "run", workers=1)
    left = alone({"t": 5}, [None] * 0x400 + LISTS[0x400:])
    assert found.kept == left.settled["kept_rows"]
    counts = found.query("SELECT count FROM metadata_balance_entries ORDER BY entry_id")["count"].to_pylist()
    assert counts == left.settled["counts"].tolist()
    nulls = found.query("SELECT count(*) AS n FROM scores WHERE metadata_balance_draw IS NULL")
    assert nulls["n"].to_pylist() == [0x400]


def test_verdicts_can_be_recomputed_with_a_query(pool: Path, tmp_path: Path) -> None:
    """A pair stays where its draw is below its probability."""
    found = run(recipe(pool, {"metadata_balance": {"t": 5}}), tmp_path / "run", workers=1)
    rule = "metadata_balance_draw < metadata_balance_probability"
    rows = found.query(
        f"SELECT count(*) FILTER ({rule}) AS kept, sum(metadata_balance_probability) AS size FROM scores"
    )
    assert rows["kept"].to_pylist() == [found.kept]
    assert rows["size"].to_pylist() == [pytest.approx(found.settled["metadata_balance"]["expected_rows"], abs=1e-5)]


def test_a_column_that_no_step_gives(pool: Path, tmp_path: Path) -> None:
    """The recipe is refused, with the column's name."""
    step = {"metadata_balance": {"t": 5, "entries": "matched"}}
    with pytest.raises(RecipeError, match="'matched'"):
        run(recipe(pool, step), tmp_path / "run")


def test_ids_of_other_metadata(tmp_path: Path) -> None:
    """One line names the column and the id."""
    write(tmp_path, [[1], [2], [7]])
    (tmp_path / "metadata.txt").write_text("dog\ncat\nowl\n")
    step = {"metadata_balance": {"t": 5, "metadata": str(tmp_path / "metadata.txt")}}
    with pytest.raises(PairsieveError, match="'matched_entries' holds the entry id 7, and ids are 0 to 2"):
        run(recipe(tmp_path, step), tmp_path / "run", workers=1)


def test_after_metadata_match(tmp_path: Path) -> None:
    """From captions to verdicts: each is kept for its words, and each step's table says which."""
    words = ["a", "dog", "cat", "owl", "emu"]
    (tmp_path / "metadata.txt").write_text("\n".join([*words, "yak"]))
    captions = [" ".join(words[i] for i in text if i < 5) for text in zipfian_lists(600, 6, 2.0, seed=8)]
    rows = [{"url": f"http://e.org/{i}", "text": text} for i, text in enumerate(captions)]
    steps = (
        {"metadata_match": str(tmp_path / "metadata.txt")},
        {"metadata_balance": {"t": 40, "metadata": str(tmp_path / "metadata.txt")}},
    )
    made = of_urls(write_csv(tmp_path / "list.csv", rows), *steps)
    found = run(made, tmp_path / "run", workers=1)
    counts = Counter(word for text in captions for word in text.split())
    table = found.query("SELECT * FROM metadata_balance_entries ORDER BY entry_id").to_pylist()
    assert {row["entry"]: row["count"] for row in table} == {word: counts[word] for word in [*words, "yak"]}
    kept = Counter(word for text in kept_texts(found) for word in text.split())
    assert {row["entry"]: row["kept"] for row in table} == {word: kept[word] for word in [*words, "yak"]}
    assert 0 < found.kept < found.tally.rows - captions.count("")


def test_one_of_two_captions(tmp_path: Path) -> None:
    """The lists of each caption travel through a run; the caption that decides is one that is there."""
    words = ["a", "dog", "cat", "owl", "emu"]
    (tmp_path / "metadata.txt").write_text("\n".join(words))
    texts = [" ".join(words[i] for i in text) for text in zipfian_lists(800, 5, 1.5, seed=9)]
    rows = [{"url": f"http://e.org/{i}", "text": texts[2 * i], "alt": texts[2 * i + 1]} for i in range(400)]
    match = {"metadata_match": {"metadata": str(tmp_path / "metadata.txt"), "text": ["text", "alt"]}}
    made = of_urls(write_csv(tmp_path / "list.csv", rows), match, {"metadata_balance": {"t": 30, "captions": "one"}})
    found = run(made, tmp_path / "run", workers=1)
    own = "metadata_balance"
    rule = f"{own}_draw < {own}_caption_probability"
    query = f"SELECT count(*) FILTER ({rule}) AS kept, count(DISTINCT {own}_caption) AS captions FROM scores"
    assert found.query(query).to_pylist() == [{"kept": found.kept, "captions": 2}]
    settled = found.settled[own]
    assert abs(found.kept - settled["expected_rows"]) < 4 * settled["sd_rows"]
