"""caption by a chat server: what is sent, what comes back, and real runs against a tiny vision-language model."""

from base64 import b64decode
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pydantic import ValidationError

from pairsieve.filters._chat_answers import cleaned
from pairsieve.filters.base import UnknownColumnError, scoring_settings
from pairsieve.filters.caption import Caption
from pairsieve.pipelines.run import run
from pairsieve.pipelines.runner import Result
from tests.support import digests, recipe
from tests.support_chat_server import MODEL, ChatStand, chat_server, generate

STRING, LIST = pa.string(), pa.list_(pa.string())
RECAP = "Please generate a detailed caption of this image. Please be as descriptive as possible."


@pytest.fixture(scope="module")
def stand() -> Iterator[ChatStand]:
    """One server for all of them."""
    with chat_server() as found:
        yield found


def server(stand: ChatStand, **chosen: Any) -> dict[str, Any]:
    """The server's settings."""
    quick = {"timeout": 10, "retries": 1, "backoff": 0.02, "patience": 5}
    return {"url": stand.url, "model": MODEL, "temperature": 0.9} | quick | chosen


def picture(seed: int) -> bytes:
    """An image of noise."""
    out = BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (40, 50, 3), dtype=np.uint8)).save(out, "JPEG")
    return out.getvalue()


def scores(made: Caption, images: list[bytes | None], texts: list[str | None] | None = None, size: int = 100) -> Any:
    """What the filter writes for images whose uids are their numbers, given in batches of ``size``."""
    columns = {"uid": [f"{i:032x}" for i in range(len(images))], "image": pa.array(images, pa.binary())}
    pairs = pa.record_batch(columns | ({"text": pa.array(texts, STRING)} if texts else {}))
    made.open()
    try:
        parts = list(made.score_all(pairs.slice(i, size) for i in range(0, len(images), size)))
    finally:
        made.close()
    assert all(part[name].type == kind for part in parts for name, kind in made.outputs({}).items())
    assert parts[0].keys() == made.outputs({}).keys()
    return {name: [value for part in parts for value in part[name].to_pylist()] for name in parts[0]}


def test_captions(stand: ChatStand) -> None:
    """Captions are the model's for that image, prompt and seed; by default the prompt of Recap-DataComp is asked."""
    stand.bodies.clear()
    found = scores(Caption(server=server(stand, concurrency=1), count=2), [picture(0), picture(1)])
    asked = stand.bodies[1:]
    texts = [cleaned(generate(body)[0][0]) for body in asked]
    assert found["caption"] == [texts[:2], texts[2:]] and len(set(texts)) == 4
    assert found["caption_error"] == [None, None] and found["caption_failed"] == [0, 0]
    contents = [body["messages"][0]["content"] for body in asked]
    assert {parts[1]["text"] for parts in contents} == {RECAP}
    assert [b64decode(parts[0]["image_url"]["url"].partition(",")[2]) for parts in contents[::2]] == [
        picture(0),
        picture(1),
    ]
    assert all((tokens or 0) > 20 for tokens in found["caption_prompt_tokens"])


def test_batches(stand: ChatStand) -> None:
    """A caption does not depend on batches or numbers in flight."""
    images: list[bytes | None] = [picture(i) for i in range(5)]
    whole = scores(Caption(server=server(stand)), images)
    assert scores(Caption(server=server(stand, concurrency=2)), images, size=2) == whole
    assert scores(Caption(server=server(stand), seed=1), images)["caption"] != whole["caption"]


def test_errors(stand: ChatStand) -> None:
    """Images that are none are not asked about; each failure has its reason; a small image is sent on request."""
    stand.bodies.clear()
    images = [None, b"broken", picture(0), picture(1), picture(2), picture(3)]
    texts = ["a", "b", None, "@empty", "@refused", "a dog"]
    made = Caption(server=server(stand, image_side=10), prompt="describe {text}", count=2)
    found = scores(made, images, texts)
    assert found["caption_error"] == ["no_image", "broken_image", "no_text", "no_caption", "server_refused", None]
    assert found["caption_failed"] == [0, 0, 0, 0, 2, 0] and len(stand.bodies[1:]) == 6
    url = stand.bodies[-1]["messages"][0]["content"][0]["image_url"]["url"]
    with Image.open(BytesIO(b64decode(url.partition(",")[2]))) as sent:
        assert sent.size == (10, 8)


def test_together(stand: ChatStand) -> None:
    """With ``together`` an image is sent once for all its captions."""
    stand.bodies.clear()
    found = scores(Caption(server=server(stand, together=True), count=3), [picture(0)])
    (body,) = stand.bodies[1:]
    assert found["caption"] == [[cleaned(text) for text in generate(body)[0]]] and body["n"] == 3


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({}, "give either 'model' or 'server'"),
        ({"model": "m", "server": {"url": "http://h", "model": "m"}}, "give either 'model' or 'server'"),
        ({"server": {"url": "http://h", "model": "m"}, "top_p": 0.9}, "'top_p' is of a 'model' loaded here"),
        ({"server": {"url": "http://h", "model": "m"}, "device": "cuda"}, "'device' is of a 'model' loaded here"),
        ({"server": {"url": "http://h", "model": "m"}, "prompt": "a {"}, "a single '{'"),
    ],
)
def test_wrong_settings(chosen: dict[str, Any], message: str) -> None:
    """A model and a server exclude each other, and so do their settings."""
    with pytest.raises(ValidationError) as caught:
        Caption(**chosen)
    assert message in str(caught.value)


def test_before_the_run() -> None:
    """Columns of the prompt are checked; the server needs no packages, no GPU, and its address counts in no print."""
    made = Caption(server={"url": "http://h", "model": "m"}, prompt="{txet}")
    with pytest.raises(UnknownColumnError, match="did you mean 'text'"):
        made.check({"image": pa.binary(), "text": STRING})
    assert made.needs() == () and made.files() == () and made.resources().gpus == 0
    other = Caption(server={"url": "http://other", "model": "m"}, prompt="{txet}")
    assert scoring_settings(made) == scoring_settings(other)


def captioned(folder: Path, stand: ChatStand, workers: int, **chosen: Any) -> Result:
    """A run over painted images, of which some are refused."""
    folder.mkdir()
    texts = [f"{'@refused ' if i % 5 == 3 else ''}a red dog {'near ' * i}" for i in range(20)]
    pq.write_table(pa.table({"url": [f"http://e.org/{i}" for i in range(20)], "text": texts}), folder / "pool.parquet")
    steps = {"server": server(stand, **chosen), "prompt": "describe {text}", "count": 2, "required": True}
    made = recipe("", {"tests.support_filters:Painted": None}, {"caption": steps | {"as": "llava"}})
    made["pool"]["urls"] = {"path": str(folder / "pool.parquet"), "shard_rows": 7}
    return run(made, folder / "run", workers=workers)


def test_runs(stand: ChatStand, tmp_path: Path) -> None:
    """One worker and two write the same bytes; each pair has its verdict and the run tells its cost."""
    one, two = captioned(tmp_path / "one", stand, 1), captioned(tmp_path / "two", stand, 2, concurrency=2)
    assert digests(tmp_path / "one" / "run") == digests(tmp_path / "two" / "run")
    assert one.tally.dropped == {("llava", "server_refused"): 4} and one.kept == 16 == two.kept
    (cost,) = one.query(
        "SELECT sum(llava_prompt_tokens) AS p, sum(llava_completion_tokens) AS c FROM scores"
    ).to_pylist()
    assert cost["p"] > 16 * 10 and cost["c"] >= 16 * 2
