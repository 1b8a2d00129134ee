"""Exports for Hugging Face: what datasets.load_dataset makes of the folder."""

import json
import warnings
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import pairsieve
from pairsieve import HuggingFace
from pairsieve.pipelines.export_tables import schema_of
from tests.support_exports import dataset_rows, make_run, numbered, picture, pictures


@pytest.fixture
def datasets(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """The library, without the network and with a cache of its own."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        import datasets as library
    monkeypatch.setattr(library.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return library


def load(library: Any, out: Path) -> Any:
    """The folder as a user loads it."""
    return library.load_dataset(str(out), split="train", cache_dir=str(out.parent / "cache"))


def test_load_dataset_gives_the_pairs(tmp_path: Path, datasets: Any) -> None:
    """Images as images, texts and scores as they are, in the order of the run, from several files."""
    score = pa.array([i / 7 for i in range(50)], pa.float32())
    run = numbered(tmp_path, 50, extra={"score": score})
    pairsieve.export(run, tmp_path / "out", HuggingFace(rows_per_shard=20), workers=1)
    names = sorted(path.name for path in (tmp_path / "out/data").iterdir())
    assert names == [f"train-{i:05d}-of-00003.parquet" for i in range(3)]
    found, rows = load(datasets, tmp_path / "out"), dataset_rows(run)
    assert found.features["image"] == datasets.Image()
    assert found.remove_columns("image").to_list() == [{k: v for k, v in row.items() if k != "image"} for row in rows]
    assert isinstance(found[0]["image"], Image.Image) and found[0]["image"].size == (24, 24)
    stored = found.cast_column("image", datasets.Image(decode=False))["image"]
    assert [one["bytes"] for one in stored] == [row["image"] for row in rows]
    assert [Path(one["path"]).stem for one in stored] == [row["uid"] for row in rows]


def test_streaming_reads_the_same(tmp_path: Path, datasets: Any) -> None:
    """Without a copy in the cache."""
    run = numbered(tmp_path, 12)
    pairsieve.export(run, tmp_path / "out", "hf", workers=1)
    found = datasets.load_dataset(str(tmp_path / "out"), split="train", streaming=True)
    assert [row["uid"] for row in found] == [row["uid"] for row in dataset_rows(run)]


def test_lists_of_texts_stay_lists(tmp_path: Path, datasets: Any) -> None:
    """What choose left to draw from, with its sources and weights; embeddings too."""
    columns = {
        "caption": pa.array([["one", "two"], ["three"]]),
        "emb": pa.array([[1.0, 2.0], [3.0, 4.0]], pa.list_(pa.float16(), 2)),
    }
    settings = {"texts": ["text", "caption"], "into": "list"}
    run = make_run(tmp_path, pictures(2), ["a", "b"], [{"choose": settings}], columns, columns=["caption", "emb"])
    pairsieve.export(run, tmp_path / "out", "hf", workers=1)
    found, rows = load(datasets, tmp_path / "out"), dataset_rows(run)
    assert found["texts"][:] == [row["texts"] for row in rows] and len(rows[0]["texts"]) >= 2
    assert found["emb"][:] == [row["emb"] for row in rows]


def test_null_texts_stay_and_broken_images_do_not(tmp_path: Path, datasets: Any) -> None:
    """A table may hold nulls; what cannot be opened would stop whoever reads it."""
    run = make_run(tmp_path, [*pictures(2), b"<html>"], ["a", None, "page"])
    found = pairsieve.export(run, tmp_path / "out", "hf", workers=1)
    assert found.left_out == {"not_an_image": 1}
    assert sorted(map(str, load(datasets, tmp_path / "out")["text"])) == ["None", "a"]


def test_a_dataset_without_images_is_a_table_of_texts(tmp_path: Path, datasets: Any) -> None:
    """A run over a list of URLs that fetched nothing."""
    run = make_run(tmp_path, None, ["a", "b"], extra={"url": pa.array(["http://e.org/1", "http://e.org/2"])})
    pairsieve.export(run, tmp_path / "out", "hf", workers=1)
    found = load(datasets, tmp_path / "out")
    assert set(found.column_names) >= {"uid", "text", "url"} and "image" not in found.column_names
    assert sorted(found["url"]) == ["http://e.org/1", "http://e.org/2"]


def test_images_are_stored_as_they_are(tmp_path: Path) -> None:
    """Neither compressed nor in a dictionary, and marked as images in the schema."""
    pairsieve.export(numbered(tmp_path, 12), tmp_path / "out", "hf", workers=1)
    with pq.ParquetFile(tmp_path / "out/data/train-00000-of-00001.parquet") as file:
        group = file.metadata.row_group(0)
        leaves = {group.column(i).path_in_schema: group.column(i) for i in range(group.num_columns)}
        assert leaves["image.bytes"].compression == "UNCOMPRESSED"
        assert "PLAIN_DICTIONARY" not in leaves["image.bytes"].encodings
        assert "RLE_DICTIONARY" not in leaves["image.bytes"].encodings
        told = json.loads(file.schema_arrow.metadata[b"huggingface"])
    assert told == {"info": {"features": {"image": {"_type": "Image"}}}}


def test_types_that_datasets_lacks(datasets: Any) -> None:
    """Dictionaries become what they stand for, maps and unions are left out: it can read the rest."""
    kinds = {
        "image": pa.large_binary(),
        "lang": pa.dictionary(pa.int32(), pa.string()),
        "tags": pa.list_(pa.dictionary(pa.int8(), pa.string())),
        "map": pa.map_(pa.string(), pa.int32()),
        "inner": pa.struct([("m", pa.map_(pa.string(), pa.int32()))]),
        "maps": pa.list_(pa.map_(pa.string(), pa.int32())),
        "when": pa.timestamp("us"),
        "box": pa.list_(pa.float32(), 4),
        "null": pa.null(),
    }
    features = datasets.Features.from_arrow_schema(schema_of(kinds))
    assert set(features) == {"image", "lang", "tags", "when", "box"}
    assert features["image"] == datasets.Image() and features["lang"] == datasets.Value("string")


def test_several_kinds_of_image_open(tmp_path: Path, datasets: Any) -> None:
    """GIF and BMP, by the bytes."""
    run = make_run(tmp_path, [picture(1, "GIF"), picture(2, "BMP")], ["a", "b"])
    pairsieve.export(run, tmp_path / "out", "hf", workers=1)
    assert {image.format for image in load(datasets, tmp_path / "out")["image"]} == {"GIF", "BMP"}
