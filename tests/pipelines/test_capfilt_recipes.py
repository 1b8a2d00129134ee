"""The recipes of captions, as they ship, end to end with tiny models of the real kinds."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pairsieve import run
from pairsieve.pipelines.runner import Result
from tests.support_capfilt import model
from tests.support_chat_server import MODEL, chat_server
from tests.support_detector import write_red_detector
from tests.support_pools import TEXTS, write_img2dataset

GIVEN = len(TEXTS) - 1
"""Pairs with an image; one has an empty text and one has none."""


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of img2dataset's with six pairs."""
    folder = tmp_path_factory.mktemp("shards")
    write_img2dataset(folder)
    return folder


def curate(name: str, shards: Path, out: Path, *settings: str) -> Result:
    """Run a recipe as it ships but for its files and models."""
    overrides = [f"shards={shards}", *settings]
    return run(name, out, overrides=overrides, engine="local", workers=1)


def models(**names: str) -> Sequence[str]:
    """Parameters that name tiny models; weights of open_clip's lie in their folders."""
    return [f"{parameter}={model(name)}" for parameter, name in names.items()]


def dataset(result: Result) -> list[dict[str, Any]]:
    """The rows of the dataset, without their images."""
    table = pq.read_table(f"{result.root}/dataset")
    assert not table["image"].null_count
    rows: list[dict[str, Any]] = table.drop_columns(["image"]).to_pylist()
    return rows


def test_blip_capfilt(shards: Path, tmp_path: Path) -> None:
    """Each text whose score is above the threshold is a pair, the web's and the captioner's."""
    used = models(captioner="blip", filter="blip-itm")
    result = curate("blip_capfilt", shards, tmp_path / "run", *used, "filters.choose.above=0.32")
    found = result.query("SELECT itm, itm_caption[1] AS other FROM scores WHERE parent IS NULL").to_pylist()
    wanted = sum((row["itm"] or 0) > 0.32 for row in found) + sum((row["other"] or 0) > 0.32 for row in found)
    assert (result.added, result.kept) == (GIVEN, wanted) and 0 < wanted < 2 * GIVEN
    assert {row["text_source"] for row in dataset(result)} <= {"text", "caption"}


def test_blip2_capfilt(shards: Path, tmp_path: Path) -> None:
    """Every image keeps its two best texts, drawn from alike."""
    used = [*models(captioner="blip", clip="clip"), "pretrained=null", "count=3"]
    result = curate("blip2_capfilt", shards, tmp_path / "run", *used)
    assert result.kept == GIVEN
    for row in dataset(result):
        own = dict(zip([t["text"] for t in row["texts"]], [t["score"] for t in row["texts"]], strict=True))
        scores = result.query(
            f"SELECT clip_score AS web, clip_score_caption AS others FROM scores WHERE uid = '{row['uid']}'"
        ).to_pylist()[0]
        every = [s for s in (scores["web"], *scores["others"]) if s is not None]
        assert sorted(own.values()) == sorted(sorted(every)[-2:])
        assert [t["weight"] for t in row["texts"]] == [0.5, 0.5]


def test_laion_coco(shards: Path, tmp_path: Path) -> None:
    """One caption an image: the best by the second model of the best five by the first."""
    used = [*models(captioner="blip", clip="clip", second="coca"), "pretrained=null", "second_pretrained=null"]
    result = curate("laion_coco", shards, tmp_path / "run", *used, "count=8")
    assert result.kept == GIVEN and result.added == 8 * GIVEN
    sql = """
        SELECT caption, clip_score_caption AS first, clip_score_caption_rn50x64 AS second, uid FROM scores
        WHERE parent IS NULL AND caption IS NOT NULL
    """
    best = {}
    for row in result.query(sql).to_pylist():
        unlike = [i for i, text in enumerate(row["caption"]) if text not in row["caption"][:i]]
        five = sorted(unlike, key=lambda i: -row["first"][i])[:5]
        best[row["uid"]] = row["caption"][max(five, key=lambda i: row["second"][i])]
    assert {row["parent"]: row["text"] for row in dataset(result)} == best


def test_datacomp_recap(shards: Path, tmp_path: Path) -> None:
    """A server's caption is drawn with 0.2, the web text with 0.8, always where it is the only one."""
    with chat_server() as server:
        result = curate("datacomp_recap", shards, tmp_path / "run", f"server={server.url}", f"model={MODEL}")
    weights = {row["text"]: [round(t["weight"], 4) for t in row["texts"]] for row in dataset(result)}
    assert result.kept == GIVEN
    assert weights["a photo of one"] == [0.8, 0.2] and weights[""] == [1.0] and weights[None] == [1.0]


def test_capsfusion(shards: Path, tmp_path: Path) -> None:
    """A merged text takes the place of the pair's own; where there was none nothing was asked."""
    used = models(captioner="blip")
    with chat_server() as server:
        more = (f"server={server.url}", f"model={MODEL}")
        result = curate("capsfusion", shards, tmp_path / "run", *used, *more)
    assert {row["text_source"] for row in dataset(result)} == {"rewrite"} and result.kept == 3
    errors = result.query("SELECT count(*) AS n FROM scores WHERE rewrite_error = 'no_text'").to_pylist()
    assert errors == [{"n": 2}]


def test_sieve(shards: Path, tmp_path: Path) -> None:
    """The top of the fused score stays."""
    used = [*models(captioner="blip", clip="clip", sentences="sentences"), "pretrained=null", "top=0.4"]
    result = curate("sieve", shards, tmp_path / "run", *used)
    found = result.query("SELECT uid, sieve_fused AS score FROM scores WHERE sieve_fused IS NOT NULL").to_pylist()
    kept = {row["uid"] for row in dataset(result)}
    least = min(row["score"] for row in found if row["uid"] in kept)
    assert len(found) == 3 and kept == {row["uid"] for row in found if row["score"] >= least}


def test_tmars(shards: Path, tmp_path: Path) -> None:
    """The top by the score of the masked image stays."""
    detector = write_red_detector(tmp_path / "red.onnx")
    used = [*models(clip="clip"), "pretrained=null", f"detector={detector}", "top=0.2"]
    result = curate("tmars", shards, tmp_path / "run", *used)
    found = result.query("SELECT uid, tmars FROM scores WHERE tmars IS NOT NULL ORDER BY tmars DESC").to_pylist()
    kept = {row["uid"] for row in dataset(result)}
    assert 0 < len(kept) < len(found) and kept == {row["uid"] for row in found[: len(kept)]}
