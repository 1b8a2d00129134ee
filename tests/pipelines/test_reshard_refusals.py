"""What resharding refuses, and what it says: nothing silently smaller, nothing of another job mixed in."""

import io
import json
import os
import re
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.local import LocalFileSystem
from typer.testing import CliRunner

from pairsieve.pipelines.cli import app
from pairsieve.pipelines.progress import Silent
from pairsieve.pipelines.reshard import reshard, summary
from pairsieve.pipelines.reshard_job import ReshardManifest
from pairsieve.schemas.errors import IncompleteError, PairsieveError, PoolError, ShardError, UserError
from tests.support_tars import flat, read_tars, records, sample, uid_of, write_pool, write_subset, write_tar

WANTED = list(range(0, 120, 7))


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    """120 samples in 6 tars."""
    return write_pool(tmp_path / "pool")


def shard(pool: Path, out: Path, wanted: list[int] = WANTED, **options: Any) -> ReshardManifest:
    """Reshard some samples, four a shard."""
    subset = write_subset(pool.parent / "s.npy", wanted)
    return reshard(str(subset), str(pool), str(out), **{"rows_per_shard": 4, "workers": 1} | options)


def keys(out: Path) -> set[str]:
    """uids of the written samples."""
    return {key[:32] for key, _ in flat(read_tars(out))}


@pytest.mark.parametrize("swapped", [(0, 1), (30, 60), (98, 99)])
def test_unsorted_subset_is_refused(pool: Path, tmp_path: Path, swapped: tuple[int, int]) -> None:
    """Wherever two records are swapped; the line says where and how to sort."""
    found = np.sort(records(uid_of(n) for n in range(100)))
    found[[*swapped]] = found[[*swapped[::-1]]]
    np.save(tmp_path / "bad.npy", found)
    with pytest.raises(UserError, match=rf"bad\.npy: record {swapped[0] + 1} is smaller .* np\.sort\(np\.load\('bad"):
        reshard(str(tmp_path / "bad.npy"), str(pool), str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_unsorted_between_looks_is_refused(pool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check holds across the pieces that it reads."""
    monkeypatch.setattr("pairsieve.pipelines.reshard_subset.CHUNK", 10)
    found = np.sort(records(uid_of(n) for n in range(40)))
    np.save(tmp_path / "bad.npy", np.concatenate([found[20:], found[:20]]))
    with pytest.raises(UserError, match="record 20 is smaller"):
        reshard(str(tmp_path / "bad.npy"), str(pool), str(tmp_path / "out"))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (np.arange(6.0), "holds float64"),
        (np.zeros((2, 2), "u8"), "holds uint64"),
        (np.zeros(3, ">u8,>u8"), "not DataComp's 'u8,u8'"),
        (np.zeros((2, 2), "u8,u8"), r"of shape \(2, 2\)"),
        (np.zeros(0, "u8,u8"), "names no sample"),
        (b"", "no readable .npy"),
        (b"\x93NUMPY\x01\x00", "no readable .npy"),
        (np.array([{"a": 1}], object), "no readable .npy"),
    ],
)
def test_what_is_no_subset_is_refused(pool: Path, tmp_path: Path, content: Any, said: str) -> None:
    """Other types, empty and broken files; nothing is unpickled."""
    path = tmp_path / "bad.npy"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.save(path, content, allow_pickle=True)
    with pytest.raises(UserError, match=said):
        reshard(str(path), str(pool), str(tmp_path / "out"))


def test_truncated_subset_is_refused(pool: Path, tmp_path: Path) -> None:
    """A file with fewer records than its header says."""
    path = write_subset(tmp_path / "s.npy", range(50))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"no readable \.npy"):
        reshard(str(path), str(pool), str(tmp_path / "out"))


@pytest.mark.parametrize("lost", [0, 3, 5])
def test_missing_shard_is_an_error_that_names_what_is_missing(pool: Path, tmp_path: Path, lost: int) -> None:
    """Whichever shard: the samples of all others are found, the missing counted and listed, nothing written."""
    (pool / f"{lost:08d}.tar").unlink()
    gone = [n for n in WANTED if n // 20 == lost]
    with pytest.raises(IncompleteError, match=rf"{len(gone)} of 18 records, {len(gone)} uids") as error:
        shard(pool, tmp_path / "out")
    assert ("numbering lacks 00000003.tar" in str(error.value)) == (lost == 3)
    assert np.array_equal(np.load(tmp_path / "out/missing.npy"), np.sort(records(uid_of(n) for n in gone)))
    assert not list((tmp_path / "out").glob("*.tar"))


def test_allow_missing_writes_what_there_is(pool: Path, tmp_path: Path) -> None:
    """All samples that there are; what is missing stands in file and manifest, and is an error without the option."""
    (pool / "00000003.tar").unlink()
    wanted = [*WANTED, 63, 63]
    manifest = shard(pool, tmp_path / "out", wanted, allow_missing=True)
    there = {n for n in wanted if n // 20 != 3}
    assert keys(tmp_path / "out") == {uid_of(n) for n in there}
    assert (manifest.written, manifest.missing, manifest.missing_uids) == (15, 5, 3)
    assert manifest.gaps == ("00000003.tar",)
    assert len(np.load(tmp_path / "out/missing.npy")) == 5
    with pytest.raises(IncompleteError, match="5 of 20 records"):
        shard(pool, tmp_path / "out", wanted)


def test_a_missing_shard_that_comes_later_completes_the_job(pool: Path, tmp_path: Path) -> None:
    """After the error the same command goes on, and ends as if nothing had been missing."""
    (pool / "00000003.tar").rename(tmp_path / "00000003.tar")
    with pytest.raises(IncompleteError):
        shard(pool, tmp_path / "out")
    (tmp_path / "00000003.tar").rename(pool / "00000003.tar")
    manifest = shard(pool, tmp_path / "out")
    assert manifest == shard(pool, tmp_path / "fresh")
    assert read_tars(tmp_path / "out") == read_tars(tmp_path / "fresh")
    assert not (tmp_path / "out/missing.npy").exists()


def test_gaps_alone_are_no_error(pool: Path, tmp_path: Path) -> None:
    """Where every sample is found, a gap in the numbering is told, not refused."""
    (pool / "00000003.tar").unlink()
    manifest = shard(pool, tmp_path / "out", [1, 119])
    assert (manifest.written, manifest.gaps) == (2, ("00000003.tar",))


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "flipped later header": lambda content: content.replace(b"000020007.json", b"000020008.json"),
    "truncated": lambda content: content[: len(content) // 2],
    "cut at a block": lambda content: content[:51200],
    "without its end": lambda content: content.rstrip(b"\0"),
    "empty": lambda content: b"",
    "no tar": lambda content: b"<html>not found</html>" * 100,
    "flipped header": lambda content: content[:1034] + b"x" + content[1035:],
    "garbage inside": lambda content: content[:20480] + b"\xff" * 10240 + content[30720:],
}


@pytest.mark.parametrize("how", DAMAGE)
def test_unreadable_tar_is_named(pool: Path, tmp_path: Path, how: str) -> None:
    """An error that names it; with --allow-missing it is left out and stands in the manifest."""
    path = pool / "00000002.tar"
    path.write_bytes(DAMAGE[how](path.read_bytes()))
    with pytest.raises(ShardError, match=r"00000002\.tar cannot be read: .*--allow-missing"):
        shard(pool, tmp_path / "out")
    manifest = shard(pool, tmp_path / "out", allow_missing=True)
    assert keys(tmp_path / "out") == {uid_of(n) for n in WANTED if n // 20 != 2}
    assert [one.file for one in manifest.inputs if one.error] == ["00000002.tar"]
    assert manifest.missing == sum(n // 20 == 2 for n in WANTED)


def test_mended_tar_is_read_again(pool: Path, tmp_path: Path) -> None:
    """The same command after the tar was fetched again ends as if it had never been broken."""
    whole = (pool / "00000002.tar").read_bytes()
    (pool / "00000002.tar").write_bytes(whole[:9999])
    with pytest.raises(ShardError):
        shard(pool, tmp_path / "out")
    (pool / "00000002.tar").write_bytes(whole)
    shard(pool, tmp_path / "out")
    assert keys(tmp_path / "out") == {uid_of(n) for n in WANTED}


def test_folder_of_somebody_else_is_refused(pool: Path, tmp_path: Path) -> None:
    """Nothing is written beside other files, and none is removed."""
    out = tmp_path / "out"
    out.mkdir()
    (out / "00000.tar").write_bytes(b"old")
    with pytest.raises(UserError, match=r"holds '00000\.tar', which no resharding job wrote"):
        shard(pool, out)
    assert {p.name for p in out.iterdir()} == {"00000.tar"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"seed": 1}, "seed 0, not 1"),
        ({"rows_per_shard": 5}, "rows_per_shard 4, not 5"),
        ({"format": "parquet"}, "format"),
    ],
)
def test_another_job_is_refused(pool: Path, tmp_path: Path, change: dict[str, Any], said: str) -> None:
    """A folder keeps its job, finished or not; the line says what differs."""
    shard(pool, tmp_path / "out")
    before = read_tars(tmp_path / "out")
    with pytest.raises(UserError, match=f"holds another job .{said}.*choose another folder"):
        shard(pool, tmp_path / "out", **change)
    assert read_tars(tmp_path / "out") == before


def test_another_subset_is_another_job(pool: Path, tmp_path: Path) -> None:
    """Even of the same name."""
    shard(pool, tmp_path / "out", [1, 2, 3])
    with pytest.raises(UserError, match=r"holds another job \(subset"):
        shard(pool, tmp_path / "out", [1, 2])


def test_stale_shards_are_never_mixed_in(pool: Path, tmp_path: Path) -> None:
    """A numbered tar in an unfinished folder that this job would not write stops it."""
    (pool / "00000003.tar").rename(tmp_path / "kept.tar")
    with pytest.raises(IncompleteError):
        shard(pool, tmp_path / "out")
    (tmp_path / "kept.tar").rename(pool / "00000003.tar")
    (tmp_path / "out/00099.tar").write_bytes(b"stale")
    with pytest.raises(UserError, match=r"holds '00099\.tar', which is none of the 5 shards"):
        shard(pool, tmp_path / "out")


def test_finished_job_is_left_alone(pool: Path, tmp_path: Path) -> None:
    """The same command again reads no shard and touches no file."""
    first = shard(pool, tmp_path / "out")
    before = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "out").glob("*.*") if not p.name.startswith(".")}
    assert shard(pool, tmp_path / "out") == first
    assert {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in before} == before


def test_damaged_output_is_made_again(pool: Path, tmp_path: Path) -> None:
    """A finished shard with a flipped byte, or none at all, comes back as it was."""
    shard(pool, tmp_path / "out")
    path = tmp_path / "out/00001.tar"
    content = path.read_bytes()
    path.write_bytes(content[:700] + b"?" + content[701:])
    shard(pool, tmp_path / "out")
    assert path.read_bytes() == content
    path.unlink()
    shard(pool, tmp_path / "out")
    assert path.read_bytes() == content


def test_changed_input_of_a_finished_job_is_told(pool: Path, tmp_path: Path) -> None:
    """The shards in the folder are of what the inputs were."""
    shard(pool, tmp_path / "out")
    write_tar(pool / "00000006.tar", {"x": sample(500)})
    with pytest.raises(UserError, match=r"input 00000006\.tar has changed"):
        shard(pool, tmp_path / "out")


def test_output_among_the_inputs_is_refused(pool: Path) -> None:
    """OUT may not be the folder of the shards."""
    with pytest.raises(UserError, match="the input shards lie in it"):
        shard(pool, pool)


@pytest.mark.parametrize("name", ["", "a*b", "x[1]"])
def test_odd_folders_are_refused(pool: Path, tmp_path: Path, name: str) -> None:
    """Names that DuckDB would take for a pattern, and no name at all."""
    subset = write_subset(tmp_path / "s.npy", WANTED)
    with pytest.raises(UserError, match=r"choose another name|OUT is empty"):
        reshard(str(subset), str(pool), name and str(tmp_path / name))


def test_hostile_captions_are_no_broken_shards(tmp_path: Path) -> None:
    """A caption that UTF-8 cannot hold, and sizes that are none, are columns like others."""
    pool = tmp_path / "pool"
    pool.mkdir()
    told = json.dumps({"uid": uid_of(1), "caption": "a\ud800", "width": 2**70, "height": True}).encode()
    write_tar(pool / "0.tar", {"a": {"png": b"x", "json": told}})
    shard(pool, tmp_path / "out", [1], format="parquet")
    (row,) = pq.read_table(tmp_path / "out/00000.parquet").to_pylist()
    assert (row["text"], row["width"], row["height"], row["image"]) == ("a?", None, None, b"x")


def test_shards_of_another_pool(pool: Path, tmp_path: Path) -> None:
    """No sample at all is an error even where missing ones are allowed."""
    with pytest.raises(IncompleteError, match="none of its samples"):
        shard(pool, tmp_path / "out", [1000, 2000], allow_missing=True)


def test_samples_without_uids_are_counted(tmp_path: Path) -> None:
    """JSON that is none, that has no uid, or one that is no uid: each is a sample that cannot be named."""
    pool = tmp_path / "pool"
    pool.mkdir()
    nested = json.dumps({"meta": {"uid": uid_of(1)}}).encode()
    bad = [b"", b"[]", b'{"uid": 7}', b'{"uid": "F00"}', b'{"uid": "', nested, b"[" * 100_000]
    held = {f"{i}": sample(i) | {"json": content} for i, content in enumerate(bad)}
    held |= {"x": {"jpg": b"no json"}, "y": sample(1), "z": sample(2)}
    write_tar(pool / "0.tar", held)
    manifest = shard(pool, tmp_path / "out", [1, 2])
    assert keys(tmp_path / "out") == {uid_of(1), uid_of(2)}
    assert (manifest.samples, manifest.flaws) == (10, {"without_uid": 8})
    assert manifest.flawed == {"without_uid": ("0.tar 0", "0.tar 1", "0.tar 2")}
    told = "8 samples without a uid in their json (0.tar 0, 0.tar 1, 0.tar 2, …)"
    assert f"not usable: {told}" in summary(manifest)
    with pytest.raises(IncompleteError, match=re.escape(told)):
        shard(pool, tmp_path / "out2", [1, 2, 3])


@pytest.mark.parametrize("format", ["tar", "parquet"])
def test_wanted_samples_without_an_image_are_missing(tmp_path: Path, format: str) -> None:
    """An error that names them; with --allow-missing they are left out and counted.  Unwanted ones are nobody's."""
    pool = tmp_path / "pool"
    pool.mkdir()
    held = {"a": sample(1), "b": {"json": sample(2)["json"]}, "c": {"json": sample(3)["json"]}, "d": sample(4)}
    write_tar(pool / "0.tar", held)
    with pytest.raises(IncompleteError, match=r"1 of 2 records.* 1 sample without an image \(0\.tar b\)"):
        shard(pool, tmp_path / "out", [1, 2], format=format)
    manifest = shard(pool, tmp_path / "out", [1, 2], format=format, allow_missing=True)
    assert (manifest.written, manifest.missing, manifest.flaws) == (1, 1, {"no_image": 1})
    with pytest.raises(IncompleteError, match=r"1 sample without an image \(0\.tar b\)"):
        shard(pool, tmp_path / "out", [1, 2], format=format)
    with pytest.raises(IncompleteError, match=r"none of its samples .* 2 samples without an image"):
        shard(pool, tmp_path / "out2", [2, 3], format=format, allow_missing=True)


def test_keys_that_come_again_are_damage(tmp_path: Path) -> None:
    """Halves of samples, and two samples of one key, are named and counted, never written as samples."""
    pool = tmp_path / "pool"
    pool.mkdir()
    with tarfile.open(pool / "0.tar", "w") as file:
        for key, ending, n in [("a", "jpg", 1), ("b", "jpg", 2), ("a", "json", 1), ("b", "json", 2), *TWICE]:
            info = tarfile.TarInfo(f"{key}.{ending}")
            info.size = len(sample(n)[ending])
            file.addfile(info, io.BytesIO(sample(n)[ending]))
    with pytest.raises(
        IncompleteError, match=r"4 of 5 .* 6 samples whose key comes again .*\(0\.tar a, 0\.tar b, 0\.tar c, …\)"
    ):
        shard(pool, tmp_path / "out", [1, 2, 3, 4, 5])
    manifest = shard(pool, tmp_path / "out", [1, 2, 3, 4, 5], allow_missing=True)
    assert (manifest.samples, manifest.written, manifest.flaws) == (7, 1, {"key_again": 6})
    assert [members for _, members in flat(read_tars(tmp_path / "out"))] == [
        {ending: sample(5)[ending] for ending in ("jpg", "json")}
    ]


TWICE = [("c", "jpg", 3), ("c", "json", 3), ("c", "jpg", 4), ("c", "json", 4), ("d", "jpg", 5), ("d", "json", 5)]


def test_nested_uids_are_not_taken_for_the_samples_own(tmp_path: Path) -> None:
    """A uid within another object is not the sample's, even where the subset has it."""
    pool = tmp_path / "pool"
    pool.mkdir()
    nested = json.dumps({"meta": {"uid": uid_of(1)}}).encode()
    twice = json.dumps({"near": {"uid": uid_of(9)}, "uid": uid_of(2)}).encode()
    write_tar(pool / "0.tar", {"a": sample(1) | {"json": nested}, "b": sample(2) | {"json": twice}})
    with pytest.raises(IncompleteError, match="1 of 2 records"):
        shard(pool, tmp_path / "out", [1, 2])
    assert shard(pool, tmp_path / "out2", [2]).written == 1


def test_long_endings_are_flaws(tmp_path: Path) -> None:
    """What does not fit a USTAR name is counted, and the sample is missing, not the shard."""
    pool = tmp_path / "pool"
    pool.mkdir()
    write_tar(pool / "0.tar", {"a": sample(1) | {"x" * 90: b"?"}, "b": sample(2) | {"seg.png" + "é" * 10: b"!"}})
    manifest = shard(pool, tmp_path / "out", [1, 2], allow_missing=True)
    assert (manifest.missing, manifest.flaws) == (1, {"ending_too_long": 1})
    assert flat(read_tars(tmp_path / "out"))[0][1]["seg.png" + "é" * 10] == b"!"


def test_other_inputs_are_refused(pool: Path, tmp_path: Path) -> None:
    """A folder without shards, Parquet files without uids, a folder that is not there."""
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(PoolError, match=r"no \.tar or \.parquet file"):
        shard(empty, tmp_path / "out")
    pq.write_table(pa.table({"jpg": [b"x"], "text": ["y"]}), empty / "0.parquet")
    with pytest.raises(PoolError, match="no column 'uid'"):
        shard(empty, tmp_path / "out")
    with pytest.raises(PoolError, match="no such file"):
        shard(tmp_path / "nowhere", tmp_path / "out")


def test_broken_parquet_shard_is_named(tmp_path: Path) -> None:
    """As a broken tar."""
    pool = tmp_path / "pool"
    pool.mkdir()
    for i in (0, 1):
        pq.write_table(pa.table({"jpg": [sample(i)["jpg"]], "text": ["y"], "uid": [uid_of(i)]}), pool / f"{i}.parquet")
    (pool / "1.parquet").write_bytes(b"PAR1" * 9)
    with pytest.raises(ShardError, match=r"1\.parquet cannot be read"):
        shard(pool, tmp_path / "out", [0, 1])


def test_command_line(pool: Path, tmp_path: Path) -> None:
    """The command writes, and says what it wrote; its option for the format is checked."""
    subset = write_subset(tmp_path / "s.npy", WANTED)
    command = [
        "reshard",
        str(subset),
        str(pool),
        str(tmp_path / "out"),
        "--rows-per-shard",
        "4",
        "--workers",
        "1",
        "-q",
    ]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert "wrote 18 samples into 5 shards of 3 to 4; read 120 in 6 files" in done.output
    refused = CliRunner().invoke(app, [*command, "--format", "webp"])
    assert isinstance(refused.exception, UserError)


def test_exit_codes(pool: Path, tmp_path: Path) -> None:
    """Incomplete is 1, a mistake is 2."""
    assert (IncompleteError("").exit_code, ShardError("").exit_code, UserError("").exit_code) == (1, 1, 2)
    shutil.rmtree(pool)
    with pytest.raises(PairsieveError) as error:
        shard(tmp_path / os.devnull, tmp_path / "out")
    assert error.value.exit_code == 2


class Said(Silent):
    """Keeps the lines."""

    def __init__(self) -> None:
        """None so far."""
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        """Keep it."""
        self.lines.append(line)


def write_images(path: Path, numbers: list[int]) -> None:
    """A Parquet shard."""
    columns = {
        "jpg": [sample(n)["jpg"] for n in numbers],
        "text": ["t"] * len(numbers),
        "uid": list(map(uid_of, numbers)),
    }
    pq.write_table(pa.table(columns), path)


def test_folders_part_are_read_and_others_named(tmp_path: Path) -> None:
    """Shards of part_* are inputs; those of any other folder are told in a line, and in the manifest."""
    pool, said = tmp_path / "pool", Said()
    for name, first in (("part_0", 0), ("part_1", 1), ("old", 2), ("part_1/deep", 3)):
        (pool / name).mkdir(parents=True)
        write_tar(pool / name / "00000.tar", {"a": sample(2 * first), "b": sample(2 * first + 1)})
    write_tar(pool / "x.tar", {"a": sample(20)})
    manifest = shard(pool, tmp_path / "out", [0, 1, 2, 3, 20], progress=said)
    assert [one.file for one in manifest.inputs] == ["part_0/00000.tar", "part_1/00000.tar", "x.tar"]
    assert (manifest.written, manifest.unread) == (5, ("old/ (1 shards)", "part_1/deep/ (1 shards)"))
    assert [line for line in said.lines if "not read: old/ (1 shards) (and part_1/deep/" in line]
    assert any("not read: old/" in line for line in summary(manifest))
    assert shard(pool, tmp_path / "out", [0, 1, 2, 3, 20]) == manifest
    with pytest.raises(IncompleteError, match=r"1 of 2 records.*; not read: old/ \(1 shards\)"):
        shard(pool, tmp_path / "out2", [1, 4])


def test_part_that_cannot_be_listed_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A part is never left out in silence; a folder that nobody asked for may be closed."""
    for name in ("part_0", "part_1", "lost+found"):
        write_pool(tmp_path / "pool" / name, 1)
    plain, closed = LocalFileSystem.ls, ["lost+found"]

    def ls(fs: LocalFileSystem, path: str, detail: bool = False) -> Any:
        if any(path.rstrip("/").endswith(name) for name in closed):
            raise PermissionError(13, "Permission denied", path)
        return plain(fs, path, detail=detail)

    monkeypatch.setattr(LocalFileSystem, "ls", ls)
    manifest = shard(tmp_path / "pool", tmp_path / "out", [1])
    assert (len(manifest.inputs), manifest.unread) == (2, ())
    closed.append("part_1")
    with pytest.raises(PoolError, match=r"cannot be listed: .*Permission denied"):
        shard(tmp_path / "pool", tmp_path / "out2", [1])


def test_linked_parts_are_read(tmp_path: Path) -> None:
    """Parts often lie on several disks."""
    write_pool(tmp_path / "disk", 1)
    (tmp_path / "pool").mkdir()
    (tmp_path / "pool/part_0").symlink_to(tmp_path / "disk")
    assert shard(tmp_path / "pool", tmp_path / "out", [1]).written == 1


def test_shards_in_another_folder_only(tmp_path: Path) -> None:
    """The line names the folder that has some."""
    write_pool(tmp_path / "pool" / "sub")
    with pytest.raises(PoolError, match="no shard in it, but 6 in its folder sub; name that one"):
        shard(tmp_path / "pool", tmp_path / "out")


@pytest.mark.parametrize("name", ["00000000.parquet", "more.parquet"])
def test_both_kinds_side_by_side_are_refused(pool: Path, tmp_path: Path, name: str) -> None:
    """Tars and Parquet shards: nobody knows which are meant, until a glob says so."""
    write_images(pool / name, [500])
    with pytest.raises(PoolError, match=r"side by side .*give a glob"):
        shard(pool, tmp_path / "out")
    subset = write_subset(tmp_path / "one.npy", [500])
    assert reshard(str(subset), f"{pool}/*.parquet", str(tmp_path / "out"), workers=1).written == 1


def test_lists_beside_tars_are_no_shards(pool: Path, tmp_path: Path) -> None:
    """img2dataset's table of each tar has no image and needs no word; any other table is named."""
    for tar in pool.glob("*.tar"):
        pq.write_table(pa.table({"uid": ["x"], "status": ["success"]}), tar.with_suffix(".parquet"))
    assert shard(pool, tmp_path / "out").unread == ()
    pq.write_table(pa.table({"uid": ["x"]}), pool / "metadata.parquet")
    (pool / "torn.parquet").write_bytes(b"PAR1")
    assert shard(pool, tmp_path / "out2").unread == ("metadata.parquet", "torn.parquet")


@pytest.mark.parametrize("name", ["out", "a/b", "part_9"])
def test_out_below_the_shards_is_refused(pool: Path, name: str) -> None:
    """The next job would take it for shards; nothing is made there."""
    with pytest.raises(UserError, match="lies in the folder of the input shards"):
        shard(pool, pool / name)
    assert not (pool / name).exists()
    link = pool.parent / "link"
    link.symlink_to(pool)
    with pytest.raises(UserError, match="lies in the folder of the input shards"):
        shard(link, pool / name)
    with pytest.raises(UserError, match="lies in the folder of the input shards"):
        shard(pool, link / name)
