"""A small run with pictures, hostile captions and planted duplicates for the explorer; a real server over it."""

import http.client
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pairsieve.pipelines.explore import listen, opened, prepared
from pairsieve.pipelines.explore_session import Session
from pairsieve.pipelines.progress import Silent
from pairsieve.pipelines.run import run
from pairsieve.pipelines.runner import Result
from tests.support_pools import photo

PAIRS = 300
HOSTILE = [
    "<script>window.hurt = 1</script><img src=x onerror='window.hurt = 1'> of a cat",
    "</style><style>body { display: none }</style> a dog in the park",
    "‮right to left ‭and back, a picture of a house",
    "long " * 20_000,
    "👩‍👩‍👧‍👦 emoji 🏳️‍🌈 of a family in a park",
    "'; DROP TABLE one; -- {{ constructor }} ${window.hurt = 1}",
]
HOSTILE_URLS = [
    "javascript:window.hurt = 1",
    "data:text/html,<script>window.hurt = 1</script>",
    "http://evil.example/x.jpg\" onload='window.hurt=1'",
]
NOT_IMAGES = [b"<svg xmlns='http://www.w3.org/2000/svg' onload='window.hurt = 1'/>", b"\xff\xd8\xff broken"]


def write_pool(folder: Path, rows: int = PAIRS) -> Path:
    """Parquet of pairs: a column of scores with ties, NaN and null; every tenth text stands twice."""
    rng = np.random.default_rng(3)
    texts = [HOSTILE[i] if i < len(HOSTILE) else f"{'word ' * (i % 9)}number {i - i % 10 // 9}" for i in range(rows)]
    score = np.round(rng.random(rows), 2).astype(np.float32)
    score[::37] = np.nan
    images: list[bytes | None] = [photo(60 + i % 50, 50 + i % 30) if i < 60 else None for i in range(rows)]
    images[6:8] = NOT_IMAGES
    images = [image if image is not None else photo(40, 30) for image in images]
    urls = [HOSTILE_URLS[i] if i < len(HOSTILE_URLS) else f"http://e.example/{i % 150}.jpg" for i in range(rows)]
    table = {"image": images, "url": urls, "text": texts, "score": pa.array(score, mask=np.arange(rows) % 41 == 40)}
    table |= {"size": rng.integers(1, 100, rows).astype(np.int32), 'odd "name"; --': [f"v{i % 3}" for i in range(rows)]}
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(table), folder / "x.parquet", row_group_size=50)
    return folder


def steps(**changes: Any) -> list[dict[str, Any]]:
    """Steps that measure the whole pool, so that every threshold can be told; ``changes`` of settings, step by step."""
    found: dict[str, dict[str, Any]] = {
        "caption_words": {"of": "pool", "least": 3, "most": 8},
        "exact_duplicates": {"of": "pool", "by": ["url"], "prefer": "size DESC"},
        "clip_score": {"column": "score", "top": 0.6},
        "random_sample": {"of": "pool", "fraction": 0.8},
    }
    return [{name: settings | changes.get(name, {})} for name, settings in found.items()]


def make_run(pool: Path, out: Path, filters: list[dict[str, Any]]) -> Result:
    """A run over the pool."""
    recipe = {"pool": {"pairs": {"path": str(pool), "shard_rows": 100}}, "filters": filters}
    return run(recipe | {"output": {"subset": "subset.npy"}}, out, engine="local")


def kept(result: Result) -> set[tuple[int, int]]:
    """Places of the kept pairs."""
    found = result.query("SELECT shard, row FROM verdicts WHERE dropped_by IS NULL").to_pylist()
    return {(pair["shard"], pair["row"]) for pair in found}


@dataclass
class Answer:
    """What a server said."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


@dataclass
class Served:
    """A running explorer."""

    address: str
    session: Session

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(urlsplit(self.address).port or 0)

    @property
    def cookie(self) -> str:
        """What the page's address is exchanged for."""
        return self.ask("GET", self.address.split(f":{self.port}")[1], {}).headers["set-cookie"].split(";")[0]

    def ask(self, method: str, path: str, headers: dict[str, str] | None = None, body: bytes | None = None) -> Answer:
        """A request as it is, by default with the cookie."""
        headers = {"Cookie": self.cookie} if headers is None else headers
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            return Answer(answer.status, {n.lower(): v for n, v in answer.getheaders()}, answer.read())
        finally:
            connection.close()

    def post(self, path: str, question: Any) -> Any:
        """The JSON answer to a JSON question."""
        headers = {"Cookie": self.cookie, "Content-Type": "application/json"}
        return self.ask("POST", path, headers, json.dumps(question).encode()).json


@contextmanager
def served(root: Path, other: Path | None = None) -> Iterator[Served]:
    """A real server over a run, on a free port."""
    with opened(str(root), None if other is None else str(other), Silent()) as session, listen(0) as sock:
        server, address = prepared(session, sock)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]})
        thread.start()
        try:
            while not server.started and thread.is_alive():
                time.sleep(0.01)
            yield Served(address, session)
        finally:
            server.should_exit = True
            thread.join(20)
