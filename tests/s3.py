"""A real S3 API on loopback: moto's server behind a layer that answers some requests badly.

Which requests fare badly is decided by a hash of the seed, the request and how often it was made, so
a run meets the same faults however its workers interleave.  The server is a process of its own
(``python -m tests.s3``), told what to do through ``/_faults``.
"""

import hashlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import fsspec

KEY = "pairsieve"
"""The only access key that the server knows."""
CONTROL = "/_faults"


@dataclass(frozen=True)
class Faults:
    """Shares of requests: answered 503 or 500 undone; done, but the answer cut; answered late.

    ``denied`` is a part of the address of requests that are answered 403.
    """

    errors: float = 0.0
    cuts: float = 0.0
    slow: float = 0.0
    delay: float = 0.03
    very_slow: float = 0.0
    long_delay: float = 0.3
    seed: int = 0
    denied: str = ""


class FaultyLayer:
    """WSGI middleware that lets some requests fare badly, and counts what came."""

    def __init__(self, app: Callable[..., Iterable[bytes]]) -> None:
        """No faults at first."""
        self._app = app
        self._faults = Faults()
        self._seen: Counter[str] = Counter()
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._writing = threading.Lock()

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Answer one request."""
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        if environ["PATH_INFO"] == CONTROL:
            return self._control(body, start_response)
        fault = self._draw(environ)
        if KEY not in environ.get("HTTP_AUTHORIZATION", KEY):
            return _error(environ, start_response, "403 Forbidden", "InvalidAccessKeyId")
        denied = self._faults.denied
        if denied and denied in "{PATH_INFO}?{QUERY_STRING}".format_map(environ):
            return _error(environ, start_response, "403 Forbidden", "AccessDenied")
        if fault == "error":
            if len(environ["PATH_INFO"]) % 2:
                return _error(environ, start_response, "500 Internal Server Error", "InternalError")
            return _error(environ, start_response, "503 Slow Down", "SlowDown")
        return self._answer(environ, body, start_response, fault == "cut")

    def _answer(
        self, environ: dict[str, Any], body: bytes, start_response: Callable[..., Any], is_cut: bool
    ) -> Iterable[bytes]:
        import io

        environ = {**environ, "wsgi.input": io.BytesIO(body)}
        with self._writing:  # moto looks and writes in two steps: conditional puts must be atomic
            content = b"".join(self._app(environ, start_response))
        if not is_cut:
            return [content]
        return _cut(environ["werkzeug.socket"], content)

    def _draw(self, environ: dict[str, Any]) -> str:
        """What happens to a request; its delay is over when this returns."""
        _, _, key = environ["PATH_INFO"].lstrip("/").partition("/")  # buckets have names of the moment
        name = f"{environ['REQUEST_METHOD']} {key}?{environ['QUERY_STRING']} {environ.get('HTTP_RANGE', '')}"
        with self._lock:
            faults = self._faults
            self._seen[name] += 1
            text = f"{faults.seed} {name} {self._seen[name]}"
            self._counts["requests"] += 1
            self._counts[environ["REQUEST_METHOD"]] += 1
        dice = hashlib.sha256(text.encode()).digest()
        first, second = (int.from_bytes(dice[i : i + 4]) / 2**32 for i in (0, 4))
        fault = "error" if first < faults.errors else "cut" if first < faults.errors + faults.cuts else ""
        pace = "very slow" if second < faults.very_slow else "slow" if second < faults.very_slow + faults.slow else ""
        with self._lock:
            self._counts[fault] += 1
            self._counts[pace] += 1
        time.sleep({"": 0.0, "slow": faults.delay, "very slow": faults.long_delay}[pace])
        return fault

    def _control(self, body: bytes, start_response: Callable[..., Any]) -> Iterable[bytes]:
        with self._lock:
            counts = dict(self._counts)
            if body:
                self._faults = Faults(**json.loads(body))
                self._seen.clear()
                self._counts.clear()
        start_response("200 OK", [("Content-Type", "application/json")])
        return [json.dumps(counts).encode()]


def _error(environ: dict[str, Any], start_response: Callable[..., Any], status: str, code: str) -> Iterable[bytes]:
    content = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{status}</Message></Error>".encode()
    content = b"" if environ["REQUEST_METHOD"] == "HEAD" else content
    start_response(status, [("Content-Type", "application/xml"), ("Content-Length", str(len(content)))])
    return [content]


def _cut(connection: socket.socket, content: bytes) -> Iterator[bytes]:
    """Half of the answer, then the connection is gone."""
    yield content[: len(content) // 2]
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def main() -> None:
    """Serve on a free port, which is printed, until standard input ends."""
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
    from werkzeug.serving import make_server

    class Quiet(MotoRequestHandler):  # type: ignore[misc]  # moto ships no types
        protocol_version = "HTTP/1.1"

        def log(self, *_: Any) -> None:
            """Say nothing."""

    layer = FaultyLayer(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, layer, threaded=True, request_handler=Quiet)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(server.server_port, flush=True)
    sys.stdin.read()


class S3Server:
    """A running server, as tests see it."""

    def __init__(self, port: int) -> None:
        """Where it listens."""
        self.url = f"http://127.0.0.1:{port}"

    def set(self, faults: Faults) -> None:
        """Meet these faults from now on, counting anew."""
        self._post(CONTROL, "POST", json.dumps(asdict(faults)).encode())

    def counts(self) -> Counter[str]:
        """Requests by kind and by what happened to them."""
        return Counter(json.loads(self._post(CONTROL, "GET")))

    def make_bucket(self) -> str:
        """A new bucket's URL.  Its objects may be read by anybody, over plain HTTP too."""
        name = f"bucket-{uuid4().hex[:12]}"
        self._post(f"/{name}", "PUT", b"", {"x-amz-acl": "public-read"})
        return f"s3://{name}"

    def environment(self) -> dict[str, str]:
        """What a client's environment must say; without botocore's repetitions, which would only hide ours."""
        return {
            "AWS_MAX_ATTEMPTS": "1",
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def _post(self, path: str, method: str, body: bytes | None = None, headers: Mapping[str, str] = {}) -> bytes:
        request = urllib.request.Request(self.url + path, body, dict(headers), method=method)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return bytes(answer.read())


def download(url: str, folder: Path) -> Path:
    """Everything under a URL, as files in a folder."""
    fs, path = fsspec.core.url_to_fs(url)
    fs.invalidate_cache()
    for name in fs.find(path):
        target = folder / str(name).removeprefix(f"{path}/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(fs.cat_file(name))
    return folder


@contextmanager
def serve() -> Iterator[S3Server]:
    """A server process for the length of the block."""
    root = Path(__file__).parents[1]
    command = [sys.executable, "-m", "tests.s3"]
    with subprocess.Popen(
        command, cwd=root, env={**os.environ, "PYTHONPATH": str(root)}, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin and process.stdout
        try:
            yield S3Server(int(process.stdout.readline()))
        finally:
            process.stdin.close()


if __name__ == "__main__":
    main()
