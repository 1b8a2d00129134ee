"""download by img2dataset's settings: hashes, verification, boxes, files as sent, names, and what is elsewhere."""

import hashlib
import json
from collections import Counter
from io import BytesIO
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pydantic import ValidationError

from pairsieve.filters._download_names import ELSEWHERE
from pairsieve.filters._images import decode
from pairsieve.filters.base import UnknownColumnError
from pairsieve.filters.download import Download
from pairsieve.pipelines.run import load
from pairsieve.schemas.errors import RecipeError
from tests.support_pictures import jpeg, natural

LOCAL = ("127.0.0.1/32",)
BOXES = pa.list_(pa.list_(pa.float64()))


class Site(Protocol):
    """The server of conftest.py."""

    hits: Counter[str]
    jpeg: bytes

    def url(self, path: str, host: str = ...) -> str:
        """The URL of a page."""


def rows(table: dict[str, Any], **settings: Any) -> list[dict[str, Any]]:
    """What ``score`` gives for each row."""
    made = Download(allow_addresses=LOCAL, timeout=5, **settings)
    batch = pa.record_batch(table)
    made.check({name: batch.schema.field(name).type for name in batch.schema.names})
    columns = made.score(batch)
    assert {name: a.type for name, a in columns.items()} == made.outputs({})
    return list(pa.record_batch(columns).to_pylist())


@pytest.mark.parametrize("name", ["md5", "sha256", "sha512"])
def test_hashes(site: Site, name: str) -> None:
    """The hash of the file as sent stands under its own name; a failed row has none."""
    found = rows({"url": [site.url("/photo.jpg"), site.url("/missing")]}, compute_hash=name)
    assert [row[name] for row in found] == [hashlib.new(name, site.jpeg).hexdigest(), None]
    assert not {"md5", "sha256", "sha512"} - {name} & set(found[0])


def test_no_hash(site: Site) -> None:
    """compute_hash: null has no column."""
    (row,) = rows({"url": [site.url("/photo.jpg")]}, compute_hash=None)
    assert not {"md5", "sha256", "sha512"} & set(row)


def test_verified_hashes(site: Site) -> None:
    """Another file than the one that was listed is refused, a null hash too; letters' case does not matter."""
    right = hashlib.sha256(site.jpeg).hexdigest()
    url = site.url("/photo.jpg?verified")
    table = {"url": [url] * 4, "wanted": pa.array([right, f" {right.upper()}\n", "0" * 64, None], pa.string())}
    found = rows(table, verify_hash=["wanted", "sha256"])
    assert [row["download_code"] for row in found] == ["success", "success", "hash_mismatch", "hash_mismatch"]
    assert (found[2]["status"], found[2]["error_message"]) == ("failed_to_download", "hash mismatch")
    assert site.hits["/photo.jpg?verified"] == 1


def test_boxes_are_blurred(site: Site) -> None:
    """Rows of one URL with other boxes have other pictures, from one request; null blurs nothing."""
    url = site.url("/large.jpg?boxes")
    boxes = pa.array([[[0.25, 0.25, 0.75, 0.75]], None, [], [[0, 0, 1]]], BOXES)
    found = rows({"url": [url] * 4, "faces": boxes}, bbox_col="faces", image_size=200)
    assert [row["download_code"] for row in found] == ["success"] * 3 + ["bad_boxes"]
    assert found[1]["image"] == found[2]["image"] != found[0]["image"]
    assert site.hits["/large.jpg?boxes"] == 1
    assert found[3]["image"] is None


def test_boxes_lie_as_the_file_lies(site: Site) -> None:
    """In a photo on its side the boxes are turned with it: 64×48 becomes 48×64, its left becomes its top."""
    boxes = pa.array([[[0.0, 0.0, 0.25, 1.0]], None], BOXES)
    found = rows({"url": [site.url("/exif.jpg")] * 2, "faces": boxes}, bbox_col="faces", encode_format="png")
    blurred, sharp = (decode(row["image"]).astype(int) for row in found)
    changed = np.abs(blurred - sharp).max(axis=(1, 2))
    assert sharp.shape == (64, 48, 3)
    assert changed[:16].max() > 0 and not changed[48:].any()


def test_files_as_sent(site: Site) -> None:
    """disable_all_reencoding keeps bytes and tells their size; a page or another format is no image all the same."""
    paths = ["/photo.jpg", "/tiny.gif", "/half.jpg", "/page.jpg", "/scan.tiff", "/bomb.png"]
    found = rows({"url": [site.url(path) for path in paths]}, disable_all_reencoding=True, image_size=10)
    codes = ["success", "success", "success", "not_an_image", "image_format_refused", "too_many_pixels"]
    assert [row["download_code"] for row in found] == codes
    assert found[0]["image"] == site.jpeg
    assert [found[0][name] for name in ("width", "height", "original_width", "original_height")] == [640, 480] * 2
    assert hashlib.sha256(found[1]["image"]).hexdigest() == found[1]["sha256"]


def test_exif_of_files_as_sent(site: Site) -> None:
    """The same fields as of decoded ones."""
    (row,) = rows({"url": [site.url("/exif.jpg")]}, disable_all_reencoding=True, extract_exif=True)
    assert json.loads(row["exif"]) == {"Image Make": "Maker", "Image Orientation": "6"}


def test_user_agent_token(site: Site) -> None:
    """Opt-outs may address the token as well as the tool."""
    urls = [site.url(f"/robots?tag={name}:%20noai") for name in ("labbot", "pairsieve", "otherbot")]
    found = rows({"url": urls}, user_agent_token="LabBot")
    assert [row["download_code"] for row in found] == ["opted_out", "opted_out", "success"]


def test_noml_is_heeded(site: Site) -> None:
    """By default; img2dataset's own list is four directives."""
    url = site.url("/robots?tag=noml")
    assert [row["download_code"] for row in rows({"url": [url]})] == ["opted_out"]
    theirs = ("noai", "noimageai", "noindex", "noimageindex")
    assert [row["download_code"] for row in rows({"url": [url]}, disallowed_header_directives=theirs)] == ["success"]


@pytest.mark.parametrize("quality", [20, 95])
def test_encode_quality(site: Site, quality: int) -> None:
    """Is that of the stored JPEG."""
    (row,) = rows({"url": [site.url("/photo.jpg")]}, encode_quality=quality)
    tables = Image.open(BytesIO(row["image"])).quantization  # type: ignore[attr-defined]
    expected = Image.open(BytesIO(jpeg(natural(16, 16), quality))).quantization  # type: ignore[attr-defined]
    assert tables == expected


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"verify_hash": ["wanted", "md5"]}, "verify_hash compares md5, and compute_hash computes sha256"),
        ({"verify_hash": ["wanted", "sha256"], "compute_hash": None}, "computes none; make them the same"),
        ({"verify_hash": ["wanted", "crc32"]}, "'md5', 'sha256' or 'sha512'"),
        ({"disable_all_reencoding": True, "bbox_col": "faces"}, "bbox_col cannot blur"),
        ({"compute_hash": "sha1"}, "'md5', 'sha256' or 'sha512'"),
        ({"user_agent_token": "a b"}, "should match pattern"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, Any], message: str) -> None:
    """Are refused before anything is fetched."""
    with pytest.raises(ValidationError, match=message):
        Download(**settings)


@pytest.mark.parametrize(
    ("settings", "kind", "message"),
    [
        ({"verify_hash": ["wanted", "sha256"]}, pa.int64(), "column 'wanted' is int64, not hexadecimal texts"),
        ({"bbox_col": "wanted"}, pa.string(), "column 'wanted' is string, not lists of boxes of four numbers"),
        ({"bbox_col": "wanted"}, pa.list_(pa.float32()), "not lists of boxes of four numbers"),
    ],
)
def test_columns_that_cannot_be(settings: dict[str, Any], kind: pa.DataType, message: str) -> None:
    """Their types are checked before anything is fetched."""
    with pytest.raises(ValueError, match=message):
        Download(**settings).check({"url": pa.string(), "wanted": kind})


def test_missing_columns() -> None:
    """The column that was meant is proposed."""
    with pytest.raises(UnknownColumnError, match="did you mean 'face_bboxes'"):
        Download(bbox_col="face_bbox").check({"url": pa.string(), "face_bboxes": BOXES})


@pytest.mark.parametrize("name", ELSEWHERE)
def test_options_that_are_elsewhere(tmp_path: Path, name: str) -> None:
    """Every other option of img2dataset is answered with what to write instead, at its line."""
    (tmp_path / "p.csv").write_text("url,text\nhttp://e.org/1,a\n")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"pool: {{urls: {tmp_path}/p.csv}}\nfilters:\n  - download:\n      {name}: 1\n")
    with pytest.raises(RecipeError) as caught:
        load(recipe)
    assert str(caught.value).endswith(f"recipe.yaml:4: download.{name}: no such setting; {ELSEWHERE[name]}")
    assert len(str(caught.value).splitlines()) == 1


OPTIONS = """
    url_list image_size output_folder processes_count resize_mode resize_only_if_bigger upscale_interpolation
    downscale_interpolation encode_quality encode_format skip_reencode output_format input_format url_col caption_col
    bbox_col thread_count number_sample_per_shard extract_exif save_additional_columns timeout enable_wandb
    wandb_project oom_shard_count compute_hash verify_hash distributor subjob_size retries disable_all_reencoding
    min_image_size max_image_area max_aspect_ratio incremental_mode max_shard_retry user_agent_token
    disallowed_header_directives
"""
"""Of ``img2dataset.download`` 1.47.0."""


def test_every_option_of_img2dataset_is_known() -> None:
    """As a setting by its name, or with what to use instead."""
    assert set(OPTIONS.split()) <= set(Download.model_fields) | set(ELSEWHERE)
    assert not set(Download.model_fields) & set(ELSEWHERE)


def test_the_list_of_options_is_complete() -> None:
    """Against the signature in the installed package's source."""
    import ast
    from importlib.util import find_spec

    package = find_spec("img2dataset")
    if not package or not package.submodule_search_locations:
        pytest.skip("img2dataset is not installed: pip install --no-deps -r tests/peers.txt")
    tree = ast.parse((Path(package.submodule_search_locations[0]) / "main.py").read_text())
    (function,) = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.name == "download"]
    assert {argument.arg for argument in function.args.args} == set(OPTIONS.split())
