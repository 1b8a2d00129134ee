"""Ingest: once, again when the pool changed, and never half."""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pairsieve.pipelines.ingest import ingest
from pairsieve.pipelines.pool_pairs import Pairs
from pairsieve.pipelines.pool_urls import Urls
from pairsieve.pipelines.pools import MANIFEST, Pool, PoolShard, ShardTask
from pairsieve.pipelines.store import Store
from pairsieve.schemas.errors import PoolError
from pairsieve.schemas.recipe import PairsPool, UrlsPool


def here(task: Callable[[ShardTask], PoolShard], items: Sequence[ShardTask]) -> Iterator[PoolShard]:
    """The simplest engine; as with any other, results come in no order."""
    return map(task, reversed(items))


def urls(folder: Path, rows: Sequence[str], **options: Any) -> Pool:
    """A pool of a csv file."""
    (folder / "in.csv").write_text("url,text\n" + "".join(f"{row},t\n" for row in rows))
    return Urls(UrlsPool(path=str(folder / "in.csv"), shard_rows=2, **options))


def images(folder: Path, *files: Sequence[bytes]) -> Pool:
    """A pool of Parquet files."""
    for i, content in enumerate(files):
        table = pa.table({"image": pa.array(content, pa.binary()), "text": ["t"] * len(content)})
        pq.write_table(table, folder / f"{i}.parquet")
    return Pairs(PairsPool(path=str(folder)))


def times(store: Store) -> dict[str, int]:
    """When each file of the pool was written."""
    return {name: os.stat(store.path(f"pairs/{name}")).st_mtime_ns for name in store.names("pairs")}  # noqa: PTH116


@pytest.mark.parametrize("kind", ["urls", "pairs"])
def test_the_same_pool_is_ingested_once(tmp_path: Path, kind: str) -> None:
    """The second time no file is touched, and the shards are the same."""
    store = Store(str(tmp_path / "run"))
    pool = urls(tmp_path, "abc") if kind == "urls" else images(tmp_path, [b"1"], [b"2", b"3"])
    first = ingest(pool, store, here)
    before = times(store)
    assert ingest(pool, store, here) == first
    assert times(store) == before


def test_a_changed_input_is_ingested_again(tmp_path: Path) -> None:
    """Shards that are gone leave no file behind."""
    store = Store(str(tmp_path / "run"))
    ingest(urls(tmp_path, "abcde"), store, here)
    found = ingest(urls(tmp_path, "xy"), store, here)
    assert [shard.rows for shard in found] == [2]
    assert store.names("pairs") == ["00000.parquet", "_pool.json"]
    assert store.table("pairs/00000.parquet")["url"].to_pylist() == ["x", "y"]


def test_changed_settings_are_another_pool(tmp_path: Path) -> None:
    """Even of the same file."""
    store = Store(str(tmp_path / "run"))
    ingest(urls(tmp_path, "ab"), store, here)
    ingest(urls(tmp_path, "ab", caption_col=None), store, here)
    assert store.table("pairs/00000.parquet")["text"].to_pylist() == [None, None]


@pytest.mark.parametrize("broken", ["{", "[]", '{"identity": 1}', "lost shard"])
def test_a_broken_manifest_or_a_lost_shard_is_ingested_again(tmp_path: Path, broken: str) -> None:
    """Whoever deleted it, the run goes on."""
    store = Store(str(tmp_path / "run"))
    pool = urls(tmp_path, "abc")
    found = ingest(pool, store, here)
    if broken == "lost shard":
        store.remove("pairs/00001.parquet")
    else:
        store.write(MANIFEST, broken.encode())
    assert ingest(pool, store, here) == found
    assert store.names("pairs", ".parquet") == ["00000.parquet", "00001.parquet"]


def test_the_manifest_lists_the_shards(tmp_path: Path) -> None:
    """In order, with what is needed to find their images."""
    store = Store(str(tmp_path / "run"))
    found = ingest(images(tmp_path, [b"1"], [b"2", b"3"]), store, here)
    manifest = json.loads(store.read(MANIFEST))
    assert manifest["version"] == "1"
    assert (manifest["shards"]["rows"], manifest["shards"]["groups"]) == ([1, 2], [[0], [0]])
    media = [manifest["media"][i] for i in manifest["shards"]["media"]]
    assert media == [f"file://{tmp_path}/{i}.parquet" for i in (0, 1)]
    assert manifest["shards"]["fingerprint"] == [s.fingerprint for s in found]


def test_a_pool_without_rows_is_an_error(tmp_path: Path) -> None:
    """A header alone; and then nothing counts as ingested."""
    (tmp_path / "in.csv").write_text("url,text\n")
    store = Store(str(tmp_path / "run"))
    with pytest.raises(PoolError, match="the pool is empty: its files hold no row"):
        ingest(Urls(UrlsPool(path=str(tmp_path / "in.csv"))), store, here)
    assert not store.exists(MANIFEST)


def test_a_failed_ingest_is_not_taken_for_a_finished_one(tmp_path: Path) -> None:
    """The next run begins again and succeeds."""
    pool = images(tmp_path, [b"1"], [b"2"])
    store, good = Store(str(tmp_path / "run")), (tmp_path / "1.parquet").read_bytes()
    tasks = pool.tasks() or []
    (tmp_path / "1.parquet").write_bytes(b"PAR1")
    with pytest.raises(PoolError, match=r"1\.parquet: no readable Parquet file"):
        ingest(pool, store, lambda task, _: map(task, tasks))
    (tmp_path / "1.parquet").write_bytes(good)
    assert [shard.rows for shard in ingest(pool, store, here)] == [1, 1]


def test_a_fingerprint_changes_with_its_own_pairs_alone(tmp_path: Path) -> None:
    """What was measured for the other shards stays good."""
    store = Store(str(tmp_path / "run"))
    before = [s.fingerprint for s in ingest(urls(tmp_path, "abcd"), store, here)]
    after = [s.fingerprint for s in ingest(urls(tmp_path, "abXd"), store, here)]
    assert (before[0] == after[0], before[1] == after[1]) == (True, False)


def test_a_fingerprint_changes_with_its_own_images_alone(tmp_path: Path) -> None:
    """Also where the light columns stay the same."""
    store = Store(str(tmp_path / "run"))
    before = [s.fingerprint for s in ingest(images(tmp_path, [b"1"], [b"2"]), store, here)]
    table = pq.read_table(tmp_path / "1.parquet")
    pq.write_table(table.set_column(0, "image", pa.array([b"X" * 9], pa.binary())), tmp_path / "1.parquet")
    after = [s.fingerprint for s in ingest(Pairs(PairsPool(path=str(tmp_path))), store, here)]
    assert (before[0] == after[0], before[1] == after[1]) == (True, False)
