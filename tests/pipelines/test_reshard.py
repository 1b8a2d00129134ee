"""Resharding: which samples, how often, where, byte by byte; read back with Python's own tarfile and pyarrow."""

import gc
import hashlib
import json
import tarfile
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

from pairsieve.pipelines.reshard import reshard
from pairsieve.pipelines.reshard_job import ReshardManifest
from pairsieve.schemas.run import DatasetManifest
from tests.support_tars import flat, read_tars, sample, uid_of, write_pool, write_subset, write_tar

WANTED = [1, 5, 5, 5, 7, 30, 119, 118, 60, 61, 62]


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 samples in 6 tars, with PAX headers."""
    return write_pool(tmp_path_factory.mktemp("pool"))


def shard(pool: Path, out: Path, wanted: list[int], **options: Any) -> ReshardManifest:
    """Reshard some samples with one worker, four a shard."""
    subset = write_subset(out.with_suffix(".npy"), wanted)
    return reshard(str(subset), str(pool), str(out), **{"rows_per_shard": 4, "workers": 1} | options)


def digests(out: Path) -> dict[str, str]:
    """Every file of a finished job but its locks."""
    found = [path for path in out.rglob("*") if path.is_file() and path.name not in (".lock", ".workers")]
    return {str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


def test_every_member_comes_out_as_it_went_in(pool: Path, tmp_path: Path) -> None:
    """Each wanted sample has its members byte by byte, under its uid and the number of the copy."""
    shard(pool, tmp_path / "out", WANTED)
    found = flat(read_tars(tmp_path / "out"))
    wanted = {f"{uid_of(n)}-{j}": sample(n) for n, count in Counter(WANTED).items() for j in range(count)}
    assert dict(found) == wanted
    assert len(found) == len(WANTED)


def test_archives_are_plain_ustar(pool: Path, tmp_path: Path) -> None:
    """No PAX record, no owner, no time; the end is that of tarfile's own archives."""
    shard(pool, tmp_path / "out", WANTED)
    for path in (tmp_path / "out").glob("*.tar"):
        content = path.read_bytes()
        with tarfile.open(path) as file:
            members = file.getmembers()
            assert {(m.mtime, m.uid, m.gid, m.type) for m in members} == {(0, 0, 0, tarfile.REGTYPE)}
            assert not file.pax_headers and not any(m.pax_headers for m in members)
        assert len(content) % tarfile.RECORDSIZE == 0 and content.endswith(bytes(1024))
        assert content[257:265] == b"ustar\x0000"


def test_what_training_reads_beside_the_shards(pool: Path, tmp_path: Path) -> None:
    """sizes.json as open_clip reads it, meta.json and stats as DataComp does, and no folder among the shards."""
    out = tmp_path / "out"
    shard(pool, out, WANTED)
    rows = {name: len(samples) for name, samples in read_tars(out).items()}
    assert json.loads((out / "sizes.json").read_text()) == rows
    meta = json.loads((out / "meta.json").read_text())
    names = [meta["output_shard_format"].format(i) for i in range(meta["output_shard_count"])]
    assert names == sorted(rows)
    stats = [meta["output_shard_stats_format"].format(i) for i in range(len(names))]
    assert [json.loads((out / name).read_text()) for name in stats] == [{"successes": rows[name]} for name in names]
    assert not any(path.is_dir() for path in out.iterdir())


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_webdataset_reads_the_shards(pool: Path, tmp_path: Path) -> None:
    """The library that trainers use gives the same samples."""
    wds = pytest.importorskip("webdataset")  # --no-deps beside braceexpand
    shard(pool, tmp_path / "out", WANTED)
    names = sorted(str(path) for path in (tmp_path / "out").glob("*.tar"))
    found = list(wds.WebDataset(names, shardshuffle=False))
    gc.collect()  # it leaves files open
    assert [one["__key__"] for one in found] == [key for key, _ in flat(read_tars(tmp_path / "out"))]


@given(wanted=st.lists(st.integers(0, 119), min_size=1, max_size=40), rows=st.integers(1, 15), seed=st.integers(0, 3))
@settings(max_examples=12)
def test_sizes_differ_by_one_at_most(
    pool: Path, tmp_path_factory: pytest.TempPathFactory, wanted: list[int], rows: int, seed: int
) -> None:
    """All shards are of equal size, none larger than asked, and hold the subset with its repeats."""
    out = tmp_path_factory.mktemp("job") / "out"
    shard(pool, out, wanted, rows_per_shard=rows, seed=seed)
    tars = read_tars(out)
    sizes = [len(samples) for samples in tars.values()]
    assert len(sizes) == -(-len(wanted) // rows)
    assert max(sizes) - min(sizes) <= 1
    assert Counter(key.partition("-")[0] for key, _ in flat(tars)) == Counter(uid_of(n) for n in wanted)


def test_repeats_are_spread_by_the_shuffle(pool: Path, tmp_path: Path) -> None:
    """Sixty copies of one sample among 120 others lie in nearly every shard, seldom side by side."""
    shard(pool, tmp_path / "out", [*range(120), *[7] * 59], rows_per_shard=9)
    tars = read_tars(tmp_path / "out")
    keys = [key.partition("-")[0] for key, _ in flat(tars)]
    assert sum(any(key.startswith(uid_of(7)) for key, _ in samples) for samples in tars.values()) >= 17
    assert sum(a == b == uid_of(7) for a, b in pairwise(keys)) < 35  # 59 without a shuffle


def test_another_seed_gives_another_order(pool: Path, tmp_path: Path) -> None:
    """The order is the keyed hash's: the same for the same seed, another for another."""
    keys = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        shard(pool, tmp_path / name, list(range(60)), seed=seed)
        keys.append([key for key, _ in flat(read_tars(tmp_path / name))])
    assert keys[0] == keys[1] != keys[2]
    assert sorted(keys[0]) == sorted(keys[2])


def test_workers_change_nothing(pool: Path, tmp_path: Path) -> None:
    """One worker and three give the same bytes in every file."""
    subset = write_subset(tmp_path / "s.npy", WANTED)
    for workers in (1, 3):
        reshard(str(subset), str(pool), str(tmp_path / f"{workers}"), rows_per_shard=4, workers=workers)
    assert digests(tmp_path / "1") == digests(tmp_path / "3")


def test_the_first_of_several_samples_with_a_uid_is_taken(tmp_path: Path) -> None:
    """By shard, then by row; the others are counted."""
    pool = tmp_path / "pool"
    pool.mkdir()
    first, second, third = (sample(n, uid=uid_of(1)) for n in (1, 2, 3))
    write_tar(pool / "00000.tar", {"a": sample(9)})
    write_tar(pool / "00001.tar", {"a": first, "b": second, "c": sample(4)})
    write_tar(pool / "00002.tar", {"a": third, "b": sample(4)})
    manifest = shard(pool, tmp_path / "out", [1, 1, 4, 9])
    found = dict(flat(read_tars(tmp_path / "out")))
    assert found[f"{uid_of(1)}-0"] == found[f"{uid_of(1)}-1"] == first
    assert (manifest.written, manifest.duplicates) == (4, 3)


def test_parquet_output_is_laid_out_as_a_runs_dataset(pool: Path, tmp_path: Path) -> None:
    """Image, caption and sizes as columns, a sealed manifest, the order of the tars."""
    out = tmp_path / "out"
    shard(pool, out, WANTED, format="parquet")
    shard(pool, tmp_path / "tars", WANTED)
    manifest = DatasetManifest.model_validate_json((out / "_manifest.json").read_text())
    tables = [pq.read_table(out / file.file) for file in manifest.files]
    rows = pa.concat_tables(tables).to_pylist()
    assert [row["uid"] for row in rows] == [key[:32] for key, _ in flat(read_tars(tmp_path / "tars"))]
    held = {uid_of(n): sample(n) for n in WANTED}
    for row in rows:
        members = held[row["uid"]]
        told = (row["image"], row["text"].encode(), row["width"], row["height"], row["json"].encode())
        assert told == (members["jpg"], members["txt"], 64, 48, members["json"])
    assert tables[0].column_names[:3] == ["uid", "image", "text"]


def write_parquet(path: Path, numbers: list[int], **columns: Any) -> None:
    """A Parquet shard as img2dataset writes it with its option of that name; sample 3 failed."""
    members = [sample(n) for n in numbers]
    table = {
        "uid": [uid_of(n) for n in numbers],
        "caption": [f"thing {n}" for n in numbers],
        "jpg": [None if n == 3 else m["jpg"] for n, m in zip(numbers, members, strict=True)],
        "score": [n / 7 for n in numbers],
    }
    pq.write_table(pa.table(table | columns), path, row_group_size=5)


@pytest.fixture(scope="module")
def parquet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 samples in 3 files of 4 row groups."""
    root = tmp_path_factory.mktemp("parquet")
    for i in range(3):
        write_parquet(root / f"{i:05d}.parquet", list(range(20 * i, 20 * i + 20)))
    return root


def test_parquet_shards_become_tars(parquet: Path, tmp_path: Path) -> None:
    """The image under the ending of its kind, the caption, every other column as JSON."""
    shard(parquet, tmp_path / "out", [0, 4, 4, 33, 59])
    found = dict(flat(read_tars(tmp_path / "out")))
    assert sorted(found) == sorted(f"{uid_of(n)}-{j}" for n, j in ((0, 0), (4, 0), (4, 1), (33, 0), (59, 0)))
    members = found[f"{uid_of(33)}-0"]
    assert (members["jpg"], members["txt"]) == (sample(33)["jpg"], b"thing 33")
    assert json.loads(members["json"]) == {"uid": uid_of(33), "caption": "thing 33", "score": 33 / 7}


def test_parquet_shards_keep_their_columns(parquet: Path, tmp_path: Path) -> None:
    """Parquet to Parquet loses no column and no value, whatever the row groups."""
    shard(parquet, tmp_path / "out", list(range(4, 60)), format="parquet", rows_per_shard=10)
    table = pa.concat_tables(pq.read_table(path) for path in sorted((tmp_path / "out").glob("*.parquet")))
    rows = {row["uid"]: row for row in table.to_pylist()}
    assert len(rows) == len(table) == 56
    wanted = {"image": sample(41)["jpg"], "text": "thing 41", "score": 41 / 7}
    assert rows[uid_of(41)] == {"uid": uid_of(41)} | wanted


def test_a_dataset_can_be_resharded_again(pool: Path, tmp_path: Path) -> None:
    """Output of both formats is input: the samples of a smaller subset come out unchanged."""
    for kind in ("tar", "parquet"):
        shard(pool, tmp_path / kind, list(range(50)), format=kind, rows_per_shard=20)
        shard(tmp_path / kind, tmp_path / f"{kind}-2", [3, 3, 44])
        found = dict(flat(read_tars(tmp_path / f"{kind}-2")))
        assert {key: members["jpg"] for key, members in found.items()} == {
            f"{uid_of(n)}-{j}": sample(n)["jpg"] for n, j in ((3, 0), (3, 1), (44, 0))
        }


def test_order_of_a_subset_without_repeats_is_a_runs(pool: Path, tmp_path: Path) -> None:
    """Copy 0 has the keyed hash of a run's dataset, so both shuffle alike."""
    from pairsieve.schemas import uid

    shard(pool, tmp_path / "out", list(range(30)), seed=5)
    keys = [key[:32] for key, _ in flat(read_tars(tmp_path / "out"))]
    hashes = uid.keyed_hash(pa.array(keys), 5)
    assert np.all(hashes[1:] > hashes[:-1])


@pytest.mark.parametrize("format", ["tar", "parquet"])
def test_uids_are_read_as_datacomp_reads_them(tmp_path: Path, format: str) -> None:
    """Capital digits are the same number; NaN and bytes that are no UTF-8 elsewhere in the json hide no uid."""
    pool = tmp_path / "pool"
    pool.mkdir()
    torn = b'{"x": NaN, "s": "\xff\xfe", "uid": "' + uid_of(2).encode() + b'"}'
    marked = json.dumps({"uid": uid_of(3)}).encode("utf-8-sig")
    held = {"a": sample(1, uid=uid_of(1).upper()), "b": sample(2) | {"json": torn}, "c": sample(3) | {"json": marked}}
    write_tar(pool / "0.tar", held)
    manifest = shard(pool, tmp_path / "out", [1, 2, 2, 3], format=format)
    assert (manifest.written, manifest.flaws) == (4, {})
    if format == "tar":
        found = dict(flat(read_tars(tmp_path / "out")))
        assert [found[f"{uid_of(n)}-0"]["json"] for n in (1, 2, 3)] == [one["json"] for one in held.values()]


def test_capital_uids_of_parquet_shards(tmp_path: Path) -> None:
    """As in tars; they come out in our form."""
    pool = tmp_path / "pool"
    pool.mkdir()
    write_parquet(pool / "0.parquet", [1, 2], uid=[uid_of(1).upper(), uid_of(2)])
    shard(pool, tmp_path / "out", [1, 2], format="parquet")
    table = pq.read_table(next((tmp_path / "out").glob("*.parquet")))
    assert sorted(table["uid"].to_pylist()) == sorted([uid_of(1), uid_of(2)])
