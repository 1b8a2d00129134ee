"""download: every URL gets a row, images are stored resized, thresholds compare."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable
from io import BytesIO
from typing import Any, Protocol, TypeAlias

import pyarrow as pa
import pytest
from PIL import Image
from pydantic import ValidationError

from pairsieve.filters.base import scoring_settings
from pairsieve.filters.download import Download

Photo: TypeAlias = Callable[..., bytes]
LOCAL = ("127.0.0.1/32",)


class Site(Protocol):
    """The server of conftest.py."""

    hits: Counter[str]
    jpeg: bytes

    def url(self, path: str, host: str = ...) -> str:
        """The URL of a page."""


def scored(urls: list[str | None], **settings: Any) -> pa.RecordBatch:
    """The URLs with what ``score`` gives."""
    made = Download(allow_addresses=LOCAL, timeout=settings.pop("timeout", 5), **settings)
    columns = made.score(pa.record_batch({"url": pa.array(urls, pa.string())}))
    assert {name: a.type for name, a in columns.items()} == made.outputs({})
    return pa.record_batch({"url": pa.array(urls, pa.string()), **columns})


def verdicts(rows: pa.RecordBatch, **thresholds: Any) -> list[str | None]:
    """The reasons that ``keep`` gives."""
    kept = Download(**thresholds).keep(rows)
    assert kept.type == pa.string()
    return list(kept.to_pylist())


def test_success_has_every_fact(site: Site) -> None:
    """A stored image has its sizes, hash and address; DataComp's settings are the defaults."""
    url = site.url("/redirect?to=/photo.jpg")
    (row,) = scored([url]).to_pylist()
    image = row.pop("image")
    assert Image.open(BytesIO(image)).size == (512, 384)
    assert row == {
        "url": url,
        "status": "success",
        "error_message": None,
        "download_code": "success",
        "http_status": 200,
        "final_url": site.url("/photo.jpg"),
        "width": 512,
        "height": 384,
        "original_width": 640,
        "original_height": 480,
        "sha256": hashlib.sha256(site.jpeg).hexdigest(),
    }


@pytest.mark.parametrize(
    ("path", "code", "status"),
    [
        ("/missing", "http_404", "failed_to_download"),
        ("/robots?tag=noai", "opted_out", "failed_to_download"),
        ("/page.jpg", "not_an_image", "failed_to_resize"),
        ("/half.jpg", "broken_image", "failed_to_resize"),
        ("/bomb.png", "too_many_pixels", "failed_to_resize"),
    ],
)
def test_failure_has_its_code(site: Site, path: str, code: str, status: str) -> None:
    """A failed URL has a code, a status and a message, and nothing of an image."""
    (row,) = scored([site.url(path)]).to_pylist()
    assert (row["download_code"], row["status"]) == (code, status)
    assert row["error_message"]
    empty = ("image", "width", "height", "original_width", "original_height", "sha256")
    assert [row[name] for name in empty] == [None] * len(empty)


def test_rows_do_not_depend_on_their_batch(site: Site) -> None:
    """One by one, all at once, backwards, or with one thread: the same rows."""
    urls = [site.url(p) for p in ("/large.jpg", "/missing", "/grey.png", "/photo.jpg", "/half.jpg")] + [None, "x"]
    together = scored(urls).to_pylist()
    assert [scored([url]).to_pylist()[0] for url in urls] == together
    assert scored(urls[::-1], concurrency=1, threads=1).to_pylist() == together[::-1]


def test_url_is_fetched_once_per_batch(site: Site) -> None:
    """Repeated URLs share one request, and have equal rows."""
    url = site.url("/photo.jpg?repeated")
    rows = scored([url] * 5)
    assert site.hits["/photo.jpg?repeated"] == 1
    assert len(set(rows["sha256"].to_pylist())) == 1


def test_empty_batch() -> None:
    """No rows in, no rows out."""
    assert scored([]).num_rows == 0


def test_private_addresses_are_refused_by_default(site: Site) -> None:
    """Without allow_addresses a pool cannot reach the machine it runs on."""
    batch = pa.record_batch({"url": [site.url("/photo.jpg")]})
    assert Download().score(batch)["download_code"].to_pylist() == ["private_address"]


def test_keep_gives_the_code_as_reason(site: Site) -> None:
    """A successful pair stays; another leaves with its code."""
    assert verdicts(scored([site.url("/photo.jpg"), site.url("/missing"), None])) == [None, "http_404", "null_url"]


@pytest.mark.parametrize(
    ("thresholds", "reason"),
    [
        ({"min_image_size": 480}, None),
        ({"min_image_size": 481}, "image_too_small"),
        ({"max_image_area": 640 * 480}, None),
        ({"max_image_area": 640 * 480 - 1}, "image_area_too_large"),
        ({"max_aspect_ratio": 640 / 480}, None),
        ({"max_aspect_ratio": 1.3}, "aspect_ratio_too_large"),
        ({"min_image_size": 481, "max_aspect_ratio": 1.3}, "image_too_small"),
    ],
)
def test_thresholds_compare_the_original(site: Site, thresholds: dict[str, float], reason: str | None) -> None:
    """Bounds are inclusive and of the picture as it was sent, not as it is stored."""
    rows = scored([site.url("/photo.jpg"), site.url("/missing")], image_size=32)
    assert verdicts(rows, **thresholds) == [reason, "http_404"]


def test_exif_column_only_on_request(site: Site) -> None:
    """The column exists where it was asked for."""
    url = site.url("/exif.jpg")
    assert "exif" not in scored([url]).schema.names
    (text,) = scored([url], extract_exif=True)["exif"].to_pylist()
    assert json.loads(text) == {"Image Make": "Maker", "Image Orientation": "6"}


def test_stored_images_carry_no_metadata(site: Site) -> None:
    """What is stored is upright and has no EXIF."""
    (row,) = scored([site.url("/exif.jpg")]).to_pylist()
    image = Image.open(BytesIO(row["image"]))
    assert image.size == (row["width"], row["height"]) == (48, 64)
    assert not image.getexif()


def test_skip_reencode_stores_the_file_as_sent(site: Site) -> None:
    """The body's own bytes are kept where nothing had to change."""
    (row,) = scored([site.url("/photo.jpg")], image_size=640, skip_reencode=True).to_pylist()
    assert row["image"] == site.jpeg


@pytest.mark.parametrize(
    "settings",
    [
        {"allow_addresses": ["127.0.0.1/8"]},
        {"allow_addresses": ["localhost"]},
        {"encode_format": "png", "encode_quality": 95},
        {"encode_quality": 101},
        {"resize_mode": "stretch"},
        {"image_size": 0},
        {"timeout": 0},
        {"user_agent": "a\r\nb"},
        {"thread_count": 8},
    ],
)
def test_bad_settings_are_refused(settings: dict[str, Any]) -> None:
    """What cannot work is an error before anything is fetched."""
    with pytest.raises(ValidationError):
        Download(**settings)


def test_thresholds_and_speed_are_no_part_of_the_fingerprint() -> None:
    """Another threshold or number of threads does not download anything again."""
    thresholds = {"min_image_size", "max_image_area", "max_aspect_ratio"}
    speed = {
        "concurrency",
        "threads",
        "max_memory",
        "max_decode_memory",
        "name_servers",
        "host_concurrency",
        "host_rate",
        "max_host_failures",
    }
    patience = {"timeout", "patience", "low_speed_limit", "low_speed_time", "retries"}
    free = thresholds | speed | patience | {"environment_proxies"}
    assert set(Download.model_fields) - set(scoring_settings(Download())) == free


def test_large_images_need_large_arrays() -> None:
    """Where a batch might outgrow 2 GiB its type is large_binary."""
    assert Download().outputs({})["image"] == pa.binary()
    assert Download(resize_mode="no").outputs({})["image"] == pa.large_binary()
    assert Download(image_size=2048).outputs({})["image"] == pa.large_binary()
