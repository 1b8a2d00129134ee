"""A folder in which the commands of the documentation run: a run of the demo's world, and the files they name."""

import csv
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from typer.testing import CliRunner

from pairsieve.pipelines.catalog import query
from pairsieve.pipelines.cli import app
from pairsieve.pipelines.demo_pool import build_pool, write_url_list
from pairsieve.pipelines.demo_server import serve
from pairsieve.pipelines.run import run
from tests import support_datacomp, support_metadata, support_tars
from tests.support_chat_server import MODEL, chat_server

PAIRS, BASIC = 80, 60
RECIPE = {
    "pool": {"urls": {"path": "list.csv", "shard_rows": 50}},
    "filters": [
        {"caption_words": {"least": 3, "most": 64}},
        {"download": {"image_size": 256, "timeout": 2, "patience": 2, "allow_addresses": ["127.0.0.1/32"]}},
        {"image_shape": {"shortest": 100, "aspect": 3}},
        {"exact_duplicates": {"by": "sha256"}},
        {"clip_score": {"model": "pairsieve-demo", "embeddings": True, "top": 0.85}},
    ],
    "output": {"dataset": {"rows_per_file": 20}, "subset": "kept.npy"},
}
"""README's first recipe with what can be had here: loopback, the demo's model."""
COCO = {"images": [{"id": 1, "file_name": "1.jpg"}], "annotations": [{"image_id": 1, "caption": "a red ball"}]}


@contextmanager
def workspace(root: Path) -> Iterator[Path]:
    """The folder, which is the current one, with servers of images and chat beside it while the block lasts."""
    pool = build_pool(PAIRS)
    with serve(pool) as images, chat_server() as chat:
        write_url_list(pool, images.url, root / "urls.parquet")
        _first_run(root)
        _captioned(root, chat.url)
        _datacomp(root)
        _metadata(root)
        _metaclip(root)
        _scores(root)
        yield root


def _first_run(root: Path) -> None:
    """list.csv, recipe.yaml, and runs of it by several names."""
    rows = pq.read_table(root / "urls.parquet").to_pylist()
    with (root / "list.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["url", "text"])
        writer.writeheader()
        writer.writerows(rows)
    (root / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    run(root / "recipe.yaml", root / "runs/first", engine="local", workers=1)
    for name in ("second", "demo", "old"):
        shutil.copytree(root / "runs/first", root / "runs" / name)
    run(root / "recipe.yaml", root / "runs/second", overrides=["filters.clip_score.top=0.5"], engine="local", workers=1)
    image = query(str(root / "runs/first"), "SELECT image FROM dataset LIMIT 1")["image"][0].as_py()
    (root / "photo.jpg").write_bytes(image)


def _captioned(root: Path, server: str) -> None:
    """runs/capfilt with the demo's captioner, runs/recap with a model behind a server."""
    pool = {"pairs": {"path": str(root / "runs/first/dataset/*.parquet"), "columns": []}}
    score = {"clip_score": {"model": "pairsieve-demo", "texts": ["caption"], "min": None}}
    choose = {"choose": {"texts": ["text", "caption"], "by": "clip_score", "above": 0.6}}
    capfilt = {"pool": pool, "filters": [{"caption": {"model": "pairsieve-demo"}}, score, choose]}
    run(capfilt, root / "runs/capfilt", engine="local", workers=1)
    asked = {"server": {"url": server, "model": MODEL, "max_tokens": 4}, "prompt": "What is it?"}
    few = {"where": "uid < '2'"}
    run({"pool": pool, "filters": [few, {"caption": asked}]}, root / "runs/recap", engine="local", workers=1)


def _datacomp(root: Path) -> None:
    """Pools of three names, shards with their samples, and runs that commands of the pages start from."""
    for scale in ("small", "medium"):
        support_datacomp.pool(root / f"data/datacomp_{scale}/metadata", (BASIC,))
    pool = str(root / "data/datacomp_medium/metadata")
    keep = {"pool": {"datacomp": pool}, "output": {"subset": "subset.npy"}}
    for name in ("captions", "scored", "datacomp"):
        run(keep, root / "runs" / name, engine="local", workers=1)
    result = run(
        "datacomp_basic", root / "runs/basic", overrides=["scale=medium", f"data={root / 'data'}"], engine="local"
    )
    assert result.kept
    shutil.copy(root / "runs/basic/subset.npy", root / "subset.npy")
    for folder in ("datacomp_medium/shards", "datacomp_small/shards", "shards"):
        support_tars.write_pool(root / "data" / folder, shards=3, rows=BASIC // 3)


def _metadata(root: Path) -> None:
    """Dumps and page views under the names that the pages give them."""
    pages = [support_metadata.page("A red bicycle on green grass. " * 120) for _ in range(3)]
    dump = support_metadata.multistream(support_metadata.export(pages), 4000)
    for name in ("enwiki-1-multistream.xml.bz2", "enwiki-20240501-pages-articles-multistream1.xml.bz2"):
        (root / name).write_bytes(dump)
    for folder in ("frwiki", "jawiki", "pageviews"):
        (root / folder).mkdir()
    (root / "frwiki/fr.xml.bz2").write_bytes(dump)
    (root / "jawiki/ja.xml.bz2").write_bytes(dump)
    views = ["en Bicycle 500 0", "fr Bicyclette 500 0", "ja Jitensha 500 0"]
    support_metadata.write_views(root / "pageviews/1.gz", views)
    support_metadata.write_views(root / "pageviews-1.gz", views)
    (root / "mine.py").write_text("def words(line: str) -> list[str]:\n    return line.split()\n")
    for language in ("en", "fr", "ja"):
        given = [
            "metadata",
            f"{language}.parquet",
            "--no-wordnet",
            "--titles",
            "pageviews/1.gz",
            "--language",
            language,
        ]
        done = CliRunner().invoke(app, [*given, "--workers", "1", "--quiet"])
        assert done.exit_code == 0, done.exception


def _metaclip(root: Path) -> None:
    """Captions that mention entries, and a balance of them."""
    (root / "crawl").mkdir()
    urls = [f"http://127.0.0.1:9/{i}.jpg" for i in range(40)]
    texts = [f"a red bicycle number {i} in the green grass" for i in range(40)]
    pq.write_table(pa.table({"url": urls, "text": texts}), root / "crawl/0.parquet")
    pq.write_table(pa.table({"entry": ["red bicycle", "green grass"]}), root / "metadata.parquet")
    settings = ["urls=" + str(root / "crawl/*.parquet"), "metadata=" + str(root / "metadata.parquet"), "t=10"]
    run("metaclip_400m", root / "runs/metaclip", overrides=settings, engine="local", workers=1)


def _scores(root: Path) -> None:
    """Captions of COCO's form, and a file of results of DataComp's tasks."""
    (root / "captions_val2014.json").write_text(json.dumps(COCO))
    (root / "results.json").write_text(json.dumps([{"image_id": 1, "caption": "a red ball"}]))
