"""Training from an object store: few requests, patience, and the stream of a disk."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pairsieve.pipelines import feed_read
from pairsieve.pipelines.feed import PairDataset
from pairsieve.pipelines.store import Store
from pairsieve.schemas.errors import AccessError
from tests.s3 import Faults, S3Server
from tests.support_feed import flat, numbers, write_dataset

GROUPS = [[9, 9, 9], [8, 8], [7, 7, 7]]
ROWS = sum(map(sum, GROUPS))


def feed(path: str, **more: Any) -> PairDataset:
    """A loader of encoded images, in small windows."""
    return PairDataset(path, **{"decode": "bytes", "batch_size": 4, "window_bytes": 1, **more})


def write(place: str, **more: Any) -> str:
    """A dataset whose columns are as large as real ones, with one that is read by nobody between image and score."""
    noise = np.random.default_rng(0)
    images = [noise.bytes(20_000) for _ in range(ROWS)]
    scores, bulk = pa.array(np.arange(ROWS) / 3), pa.array([noise.bytes(500) for _ in range(ROWS)], pa.binary())
    return write_dataset(place, GROUPS, images, bulk=bulk, clip_score=scores, **more)


@pytest.fixture
def bucket(s3: S3Server) -> str:
    """A dataset in a bucket."""
    return write(f"{s3.make_bucket()}/run")


@pytest.mark.parametrize("workers", [0, 2])
def test_it_is_the_stream_of_a_disk(bucket: str, tmp_path: Path, workers: int) -> None:
    """Batch by batch, also from forked workers, whose connections are their own."""
    local = write(str(tmp_path))
    assert numbers(feed(bucket, workers=workers)) == numbers(feed(local, workers=workers))


def test_one_request_a_row_group(s3: S3Server, bucket: str) -> None:
    """And one for each file's footer, and one for the manifest before anything is iterated; nothing else is asked."""
    s3.set(Faults())
    data = feed(bucket, columns=("clip_score",))
    assert s3.counts()["GET"] == 1
    s3.set(Faults())
    assert sorted(flat(numbers(data))) == list(range(ROWS))
    assert s3.counts()["requests"] == s3.counts()["GET"] == len(GROUPS) + sum(map(len, GROUPS))


def test_columns_far_apart_are_two_requests(s3: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where more lies between two columns than is worth reading along."""
    monkeypatch.setattr(feed_read, "GAP", 1000)
    s3.set(Faults())
    assert sorted(flat(numbers(feed(bucket, columns=("clip_score",))))) == list(range(ROWS))
    assert s3.counts()["GET"] == 1 + len(GROUPS) + 2 * sum(map(len, GROUPS))


def test_footers_are_forgotten_and_read_again(s3: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of few files are kept; the stream is the same."""
    wanted = numbers(feed(bucket))
    monkeypatch.setattr(feed_read, "FOOTER_BYTES", 1)
    s3.set(Faults())
    assert numbers(feed(bucket)) == wanted
    assert s3.counts()["GET"] > 1 + len(GROUPS) + sum(map(len, GROUPS))


def test_a_large_footer(s3: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Is read in two requests."""
    wanted = numbers(feed(bucket))
    monkeypatch.setattr(feed_read, "TAIL_BYTES", 100)
    s3.set(Faults())
    assert numbers(feed(bucket)) == wanted
    assert s3.counts()["GET"] == 1 + 2 * len(GROUPS) + sum(map(len, GROUPS))


def test_weights_are_read_without_images(s3: S3Server, bucket: str) -> None:
    """Two requests a file at most, of few bytes, before anything is iterated."""
    s3.set(Faults())
    data = feed(bucket, weights="clip_score")
    assert s3.counts()["GET"] <= 1 + len(GROUPS) + sum(map(len, GROUPS))
    counts = np.bincount(flat(numbers(data)), minlength=ROWS)
    assert np.all(np.abs(counts - np.arange(ROWS) / 3) < 1)


def test_a_bad_store_is_waited_for(s3: S3Server, bucket: str) -> None:
    """Errors and cut answers are repeated, and the stream is the same."""
    wanted = numbers(feed(bucket))
    s3.set(Faults(errors=0.3, cuts=0.05, seed=3))
    assert numbers(feed(bucket)) == wanted
    assert s3.counts()["error"] >= 2


@pytest.mark.parametrize("workers", [0, 1])
def test_a_store_that_says_no(s3: S3Server, bucket: str, workers: int) -> None:
    """One line, also out of a worker; no traceback in it."""
    data = feed(bucket, workers=workers)
    s3.set(Faults(denied="00001.parquet"))
    with pytest.raises(AccessError, match=r"00001\.parquet.*check the name, the access rights") as caught:
        list(data)
    assert "\n" not in str(caught.value)


def test_over_plain_http(s3: S3Server, bucket: str) -> None:
    """Any filesystem of fsspec's will do."""
    assert Store(bucket).exists("dataset/00000.parquet")
    url = bucket.replace("s3:/", s3.url)
    assert numbers(feed(url)) == numbers(feed(bucket))
