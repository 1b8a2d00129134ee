"""Every kind of pool through a whole run: each pair has a verdict, each image arrives as it was."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pairsieve.pipelines.run import run
from pairsieve.pipelines.runner import Result
from tests.support_pools import PHOTOS, TEXTS, write_img2dataset, write_pairs, write_webdataset

KEPT = ["a photo of one"]


def go(root: Path, pool: dict[str, Any], *filters: dict[str, Any]) -> Result:
    """A run in this process."""
    recipe = {"pool": pool, "filters": list(filters), "output": {"dataset": {}}}
    return run(recipe, root / "run", engine="local", workers=1)


def dataset(result: Result) -> list[dict[str, Any]]:
    """The training pairs."""
    return [row for f in sorted(Path(result.root, "dataset").glob("*.parquet")) for row in pq.read_table(f).to_pylist()]


@pytest.mark.parametrize("write", [write_pairs, write_webdataset, write_img2dataset])
def test_images_in_place_arrive_unchanged_in_the_dataset(tmp_path: Path, write: Any) -> None:
    """And every other pair has its step and reason."""
    (tmp_path / "in").mkdir()
    result = go(tmp_path, write(tmp_path / "in"), {"caption_words": {"least": 2}}, {"image_shape": {}})
    assert result.rows == len(TEXTS)
    found = dataset(result)
    assert [row["text"] for row in found] == KEPT
    assert [row["image"] for row in found] == [PHOTOS[0]]
    assert sum(result.tally.dropped.values()) == len(TEXTS) - len(KEPT)
    assert result.tally.dropped[("pool", "no_image")] == 1
    assert result.tally.dropped[("image_shape", "too_small")] == 1


@pytest.mark.parametrize("write", [write_pairs, write_webdataset, write_img2dataset])
def test_without_filters_all_images_arrive_once(tmp_path: Path, write: Any) -> None:
    """In the order of a hash, so compared as a set; also those with no caption."""
    (tmp_path / "in").mkdir()
    result = go(tmp_path, write(tmp_path / "in"))
    assert sorted(row["image"] for row in dataset(result)) == sorted(p for p in PHOTOS if p is not None)


def test_a_list_of_urls_runs_without_images(tmp_path: Path) -> None:
    """Broken lines and rows without a URL are dropped by the pool, with their reasons."""
    lines = [json.dumps({"url": f"http://x/{i}", "text": t}) for i, t in enumerate(TEXTS)]
    (tmp_path / "in.jsonl").write_text("\n".join([*lines, '{"url":', '{"text": "no url at all"}']))
    result = go(
        tmp_path, {"urls": {"path": str(tmp_path / "in.jsonl"), "shard_rows": 3}}, {"caption_words": {"least": 2}}
    )
    assert sorted(row["text"] for row in dataset(result)) == sorted(t for t in TEXTS if t and " " in t)
    dropped = {key: n for key, n in result.tally.dropped.items() if key[0] == "pool"}
    assert dropped == {("pool", "bad_line"): 1, ("pool", "no_url"): 1}
    assert (result.rows, result.kept + sum(result.tally.dropped.values())) == (len(TEXTS) + 2, len(TEXTS) + 2)
