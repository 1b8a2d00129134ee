"""Exports as webdataset tars: which samples, under which keys, in which tars; read back with tarfile and webdataset."""

import gc
import json
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from PIL import Image

import pairsieve
from pairsieve import Webdataset
from pairsieve.pipelines.export_job import ExportManifest
from tests.support_exports import dataset_rows, digests, make_run, numbered, picture, pictures
from tests.support_tars import flat, read_tars

ANY_FORMAT = pytest.mark.parametrize("kind", ["webdataset", "csv", "hf"])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """100 pairs in four files, with a score column."""
    root = tmp_path_factory.mktemp("run")
    return numbered(root, extra={"score": pa.array([i / 7 for i in range(100)], pa.float32())})


def tars(run: Path, out: Path, **settings: Any) -> ExportManifest:
    """Export with one worker."""
    return pairsieve.export(run, out, Webdataset(**settings), workers=1)


def test_every_pair_comes_out_as_it_is(run: Path, tmp_path: Path) -> None:
    """Image bytes and text of each pair, under its uid, in the order of the dataset."""
    tars(run, tmp_path / "out")
    endings = {b"\xff\xd8": "jpg", b"\x89P": "png", b"RI": "webp"}
    wanted = [
        (row["uid"], {endings[row["image"][:2]]: row["image"], "txt": row["text"].encode()})
        for row in dataset_rows(run)
    ]
    assert flat(read_tars(tmp_path / "out")) == wanted
    assert {name for _, members in wanted for name in members} == {"jpg", "png", "webp", "txt"}


def test_archives_are_plain_ustar(run: Path, tmp_path: Path) -> None:
    """No PAX record, no owner, no time."""
    tars(run, tmp_path / "out")
    for path in (tmp_path / "out").glob("*.tar"):
        with tarfile.open(path) as file:
            members = file.getmembers()
            assert {(m.mtime, m.uid, m.gid, m.type) for m in members} == {(0, 0, 0, tarfile.REGTYPE)}
            assert not any(m.pax_headers for m in members)


@pytest.mark.parametrize(
    "rows, world, loaders, count", [(10, 1, 4, 12), (1000, 1, 1, 1), (1000, 2, 3, 6), (30, 4, 1, 4)]
)
def test_tars_are_equal_and_enough(run: Path, tmp_path: Path, rows: int, world: int, loaders: int, count: int) -> None:
    """Numbered from 0 without a gap, none larger than asked, sizes one apart at most, as many for each loader."""
    tars(run, tmp_path / "out", rows_per_shard=rows, world_size=world, loader_workers=loaders)
    sizes = {name: len(samples) for name, samples in read_tars(tmp_path / "out").items()}
    assert list(sizes) == [f"{i:08d}.tar" for i in range(count)]
    assert sum(sizes.values()) == 100 and max(sizes.values()) - min(sizes.values()) <= 1
    assert max(sizes.values()) <= rows
    assert json.loads((tmp_path / "out" / "sizes.json").read_text()) == sizes


def test_json_holds_the_light_columns(run: Path, tmp_path: Path) -> None:
    """All but the image, as numbers and texts."""
    tars(run, tmp_path / "out", with_json=True)
    told = [json.loads(members["json"]) for _, members in flat(read_tars(tmp_path / "out"))]
    rows = [{name: value for name, value in row.items() if name != "image"} for row in dataset_rows(run)]
    assert told == rows and "score" in told[0]


def test_json_is_strict(tmp_path: Path) -> None:
    """NaN and infinity, for which JSON has no word, are null; times are texts."""
    columns = {"score": pa.array([float("nan"), float("inf")]), "seen": pa.array([0, 1], pa.timestamp("s"))}
    run = make_run(tmp_path, pictures(2), ["a", "b"], extra=columns)
    tars(run, tmp_path / "out", with_json=True, loader_workers=1)

    def refuse(word: str) -> None:
        raise AssertionError(word)

    told = [json.loads(m["json"], parse_constant=refuse) for _, m in flat(read_tars(tmp_path / "out"))]
    assert {one["score"] for one in told} == {None}
    assert sorted(one["seen"] for one in told) == ["1970-01-01 00:00:00", "1970-01-01 00:00:01"]


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_webdataset_reads_the_tars(run: Path, tmp_path: Path) -> None:
    """The library that trainers use decodes every sample."""
    wds = pytest.importorskip("webdataset")  # --no-deps beside braceexpand
    tars(run, tmp_path / "out")
    names = sorted(str(path) for path in (tmp_path / "out").glob("*.tar"))
    found = list(wds.WebDataset(names, shardshuffle=False).decode("pilrgb").rename(image="jpg;png;webp"))
    gc.collect()  # it leaves files open
    rows = dataset_rows(run)
    assert [(one["__key__"], one["txt"]) for one in found] == [(row["uid"], row["text"]) for row in rows]
    assert all(isinstance(one["image"], Image.Image) and one["image"].size == (24, 24) for one in found)


@ANY_FORMAT
def test_workers_change_nothing(run: Path, tmp_path: Path, kind: Any) -> None:
    """One worker and two give the same bytes in every file."""
    for workers in (1, 2):
        pairsieve.export(run, tmp_path / str(workers) / "out", kind, workers=workers)
    first, second = (digests(tmp_path / str(workers) / "out") for workers in (1, 2))
    placed = {"train.csv", "_job.json", "_manifest.json"} if kind == "csv" else set()  # they name the folder
    assert {name for name in first | second if first.get(name) != second.get(name)} == placed


def test_a_uid_that_comes_again_gets_a_key_of_its_own(tmp_path: Path) -> None:
    """Five places of one pair, also in other files, are five samples with five keys."""
    images, texts = [picture(1)] * 5 + [picture(2)], ["same"] * 5 + ["other"]
    uids = pa.array(["a" * 32] * 5 + ["b" * 32])
    run = make_run(tmp_path, images, texts, extra={"uid": uids}, rows_per_file=2)
    tars(run, tmp_path / "out", rows_per_shard=2, loader_workers=1)
    keys = [key for key, _ in flat(read_tars(tmp_path / "out"))]
    assert sorted(keys) == ["a" * 32, *(f"{'a' * 32}-0-{i}" for i in range(1, 5)), "b" * 32]


def test_what_cannot_be_trained_with_is_left_out_and_counted(tmp_path: Path) -> None:
    """An empty image, no caption, bytes that are no image, formats that open_clip does not read; tars stay equal."""
    images: list[bytes | None] = [*pictures(20), b"", picture(30), b"<html>", picture(31, "GIF")]
    texts: list[str | None] = [*(f"thing {i}" for i in range(21)), None, "page", "moving"]
    run = make_run(tmp_path, images, texts, rows_per_file=4)
    found = tars(run, tmp_path / "out", rows_per_shard=5)
    assert found.left_out == {"no_image": 1, "no_text": 1, "not_an_image": 1, "format_gif": 1}
    uids = {row["text"]: row["uid"] for row in dataset_rows(run)}
    assert found.named["format_gif"] == (uids["moving"],)
    read = read_tars(tmp_path / "out")
    assert [len(samples) for samples in read.values()] == [5, 5, 5, 5]
    assert Counter(members["txt"] for _, members in flat(read)) == Counter(f"thing {i}".encode() for i in range(20))


def test_hostile_captions_come_out_as_they_are(tmp_path: Path) -> None:
    """Nulls, newlines, names of members, megabytes."""
    texts = ["", "\0", "a\n\tb\r", "x.jpg\n../y", "é\u202e\U0001f600", "long " * 400_000]
    run = make_run(tmp_path, pictures(len(texts)), texts)
    tars(run, tmp_path / "out", loader_workers=1)
    assert sorted(m["txt"].decode() for _, m in flat(read_tars(tmp_path / "out"))) == sorted(texts)


def test_pairs_that_choose_added_are_samples(tmp_path: Path) -> None:
    """Each text that stays is a sample, with a uid and so a key of its own."""
    columns = {"caption": pa.array([["one", "two"], ["three"]])}
    run = make_run(tmp_path, pictures(2), ["a", "b"], [{"choose": {"texts": ["text", "caption"]}}], columns)
    tars(run, tmp_path / "out", loader_workers=1)
    found = flat(read_tars(tmp_path / "out"))
    assert sorted(m["txt"].decode() for _, m in found) == ["a", "b", "one", "three", "two"]
    assert len({key for key, _ in found}) == 5


def test_a_finished_export_is_left_as_it_is(run: Path, tmp_path: Path) -> None:
    """The same command again writes nothing and tells the same."""
    first = tars(run, tmp_path / "out")
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("[!.]*")}
    assert tars(run, tmp_path / "out") == first
    assert {path: path.stat().st_mtime_ns for path in times} == times


@ANY_FORMAT
def test_nothing_of_an_earlier_export_survives(run: Path, tmp_path: Path, kind: Any) -> None:
    """A smaller export into the same folder leaves what it leaves in an empty one."""
    settings = {"webdataset": Webdataset, "csv": pairsieve.Csv, "hf": pairsieve.HuggingFace}[kind]
    prefix = {"prefix": "/pictures"} if kind == "csv" else {}
    for out, rows in (("a/out", 10), ("a/out", 1000), ("b/out", 1000)):
        pairsieve.export(run, tmp_path / out, settings(rows_per_shard=rows, **prefix), workers=1)
    assert digests(tmp_path / "a/out") == digests(tmp_path / "b/out")


def test_a_changed_dataset_is_exported_anew(tmp_path: Path) -> None:
    """After another run in the same place the folder holds the new pairs alone."""
    for count in (40, 12):
        run = numbered(tmp_path, count)
        tars(run, tmp_path / "out", rows_per_shard=5, loader_workers=1)
    assert len(flat(read_tars(tmp_path / "out"))) == 12


@ANY_FORMAT
def test_damage_of_the_export_is_mended(run: Path, tmp_path: Path, kind: Any) -> None:
    """A file that was cut off is written again by the same command."""
    pairsieve.export(run, tmp_path / "out", kind, workers=1)
    wanted = digests(tmp_path / "out")
    names = [name for name in wanted if name.endswith((".tar", ".parquet", ".jpg", "sizes.json", ".csv"))]
    for name in {min(names, key=len), max(names, key=len)}:
        (tmp_path / "out" / name).write_bytes(b"cut")
        pairsieve.export(run, tmp_path / "out", kind, workers=1)
        assert digests(tmp_path / "out") == wanted
