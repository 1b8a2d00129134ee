"""Parquet lists that bring uids are read where they lie, and nobody can tell from the outcome."""

import hashlib
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pairsieve.pipelines.run import run
from pairsieve.pipelines.runner import Result
from pairsieve.schemas.errors import PoolError
from tests.support import digests, kept_texts, numbered_rows

STEPS = [{"caption_words": {"least": 2}}, {"clip_score": {"column": "score", "top": 0.4, "of": "pool"}}]


def table(rows: int = 350) -> pa.Table:
    """The numbered pairs with uids of their own."""
    uids = [hashlib.md5(str(i).encode()).hexdigest() for i in range(rows)]
    return pa.Table.from_pylist(numbered_rows(rows)).append_column("uid", pa.array(uids))


def recipe(path: Path, *steps: Any, rows: int = 100) -> dict[str, Any]:
    """A recipe over a Parquet list."""
    return {"pool": {"urls": {"path": str(path), "shard_rows": rows}}, "filters": list(steps)}


def both(tmp_path: Path, *steps: Any) -> tuple[Result, Result]:
    """The same pairs read in place, and from a list whose one row group is too large for that."""
    pq.write_table(table(), tmp_path / "groups.parquet", row_group_size=100)
    pq.write_table(table(), tmp_path / "whole.parquet")
    found = [
        run(recipe(tmp_path / f"{name}.parquet", *steps), tmp_path / name, workers=1) for name in ("groups", "whole")
    ]
    assert [p.name for p in (tmp_path / "groups" / "pairs").iterdir()] == ["_pool.json"]
    assert len(list((tmp_path / "whole" / "pairs").iterdir())) == 5
    return found[0], found[1]


def test_outcome_is_that_of_a_copied_pool(tmp_path: Path) -> None:
    """Verdicts, subset and dataset are the same bytes."""
    in_place, copied = both(tmp_path, *STEPS)
    assert in_place.tally == copied.tally
    names = ("verdicts", "dataset", "subset")
    one, other = ({k: v for k, v in digests(Path(r.root)).items() if k.startswith(names)} for r in (in_place, copied))
    one.pop("dataset/_manifest.json"), other.pop("dataset/_manifest.json")  # names the shards' fingerprint
    assert one == other


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM pairs ORDER BY shard, row",
        "SELECT uid, text, score, caption_words, dropped_by FROM scores ORDER BY shard, row",
        "SELECT count(*) FROM pairs WHERE uid = (SELECT uid FROM verdicts WHERE shard = 2 AND row = 7)",
    ],
)
def test_views_are_those_of_a_copied_pool(tmp_path: Path, sql: str) -> None:
    """``pairs`` finds the shard and row of each pair of the source."""
    in_place, copied = both(tmp_path, *STEPS)
    names = copied.query(sql).column_names
    assert in_place.query(sql).select(names).to_pylist() == copied.query(sql).to_pylist()


def test_catalog_can_be_read_by_duckdb_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The views name the source files."""
    import duckdb

    both(tmp_path, *STEPS)
    monkeypatch.chdir(tmp_path / "groups")
    with duckdb.connect("catalog.duckdb", read_only=True) as con:
        assert con.execute("SELECT count(*) FROM pairs JOIN verdicts USING (uid, shard, row)").fetchall() == [(350,)]


def test_shard_with_a_blank_url_is_copied(tmp_path: Path) -> None:
    """Only that one; the row has its verdict."""
    rows = numbered_rows(300)
    rows[150]["url"] = "\u00a0 "
    uids = [hashlib.md5(str(i).encode()).hexdigest() for i in range(300)]
    pool = pa.Table.from_pylist(rows).append_column("uid", pa.array(uids))
    pq.write_table(pool, tmp_path / "list.parquet", row_group_size=100)
    result = run(recipe(tmp_path / "list.parquet", "caption_words"), tmp_path / "run", workers=1)
    assert sorted(p.name for p in (tmp_path / "run" / "pairs").iterdir()) == ["00001.parquet", "_pool.json"]
    assert dict(result.tally.dropped)[("pool", "no_url")] == 1
    found = result.query("SELECT shard, count(*), count(DISTINCT row) FROM pairs GROUP BY 1 ORDER BY 1")
    assert [tuple(row.values()) for row in found.to_pylist()] == [(0, 100, 100), (1, 100, 100), (2, 100, 100)]


@pytest.mark.parametrize("bad", ["f" * 31, "F" * 32, "g" * 32, None, "f" * 31 + "é"])
def test_value_that_is_no_uid_is_named(tmp_path: Path, bad: str | None) -> None:
    """Wherever it stands: uids are checked when they are read."""
    pool = table(300)
    uids = pool["uid"].to_pylist()
    uids[250] = bad
    pool = pool.set_column(pool.schema.get_field_index("uid"), "uid", pa.array(uids))
    pq.write_table(pool, tmp_path / "list.parquet", row_group_size=100)
    made = recipe(tmp_path / "list.parquet", "caption_words")
    made["pool"]["urls"]["uid_col"] = "uid"
    with pytest.raises(PoolError, match=r"list\.parquet: uid .* is not 32 lower-case hex characters"):
        run(made, tmp_path / "run", workers=1)


def test_rewritten_source_is_measured_again(tmp_path: Path) -> None:
    """A pool that is read in place is what its file is."""
    path = tmp_path / "list.parquet"
    pq.write_table(table(300), path, row_group_size=100)
    assert run(recipe(path, "caption_words"), tmp_path / "run", workers=1).measured == {"caption_words": 300}
    pq.write_table(table(200), path, row_group_size=100)
    again = run(recipe(path, "caption_words"), tmp_path / "run", workers=1)
    assert again.measured == {"caption_words": 200} and again.rows == 200


def test_another_caption_column_is_measured_again(tmp_path: Path) -> None:
    """What the source's columns are taken for is part of the pool."""
    pool = table(300).append_column("other", pa.array(["one two three"] * 300))
    pq.write_table(pool, tmp_path / "list.parquet", row_group_size=100)
    made = recipe(tmp_path / "list.parquet", {"caption_words": {"least": 3}})
    run(made, tmp_path / "run", workers=1)
    made["pool"]["urls"]["caption_col"] = "other"
    edited = run(made, tmp_path / "run", workers=1)
    assert edited.measured == {"caption_words": 300}
    assert set(kept_texts(edited)) == {"one two three"}


def test_a_list_without_captions_is_read_in_place_too(tmp_path: Path) -> None:
    """Its text is null."""
    pq.write_table(table(200).drop_columns(["text"]), tmp_path / "list.parquet", row_group_size=100)
    made = recipe(tmp_path / "list.parquet", {"where": "text IS NULL"})
    made["pool"]["urls"]["caption_col"] = None
    assert run(made, tmp_path / "run", workers=1).kept == 200


def test_columns_of_other_text_types_are_text(tmp_path: Path) -> None:
    """Large, dictionary-encoded and binary strings are read as they are when copied."""
    pool = table(300)
    kinds = {"url": pa.large_string(), "text": pa.dictionary(pa.int32(), pa.string()), "uid": pa.large_string()}
    pool = pool.cast(pa.schema([pa.field(f.name, kinds.get(f.name, f.type)) for f in pool.schema]))
    pq.write_table(pool, tmp_path / "list.parquet", row_group_size=100)
    result = run(recipe(tmp_path / "list.parquet", *STEPS), tmp_path / "run", workers=1)
    assert result.rows == 300 and [p.name for p in (tmp_path / "run" / "pairs").iterdir()] == ["_pool.json"]
