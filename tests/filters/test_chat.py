"""Asking a chat server: against a real one on loopback with a tiny model, and its many ways to fail."""

import contextlib
import json
import socket
import threading
import time
from base64 import b64decode
from collections.abc import Iterator
from hashlib import sha256
from io import BytesIO
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError

from pairsieve.filters._chat import Ask, Chat, ChatServer, Found
from pairsieve.filters._chat_answers import LONGEST_TEXT, ServerCode, cleaned, read_answer, said
from pairsieve.filters._chat_images import data_url
from pairsieve.filters._chat_prompts import Prompt, parsed
from pairsieve.filters.base import scoring_settings
from pairsieve.filters.rewrite import Rewrite
from pairsieve.schemas.errors import AccessError, ServerDownError, UserError
from tests.support_chat_server import KEY, MODEL, ChatStand, chat_server, generate

QUICK: dict[str, Any] = {"timeout": 5, "retries": 2, "backoff": 0.02, "patience": 5}


@pytest.fixture(scope="module")
def stand() -> Iterator[ChatStand]:
    """One server for the tests that leave it as it was."""
    with chat_server() as found:
        yield found


def settings(stand: ChatStand, **chosen: Any) -> ChatServer:
    """A server's settings, with little patience."""
    return ChatServer(**{"url": stand.url, "model": MODEL, "temperature": 0.9} | QUICK | chosen)


def ask(server: ChatServer, prompts: list[str], size: int = 100, **rest: Any) -> list[Found]:
    """What becomes of rows with one question each, in batches of ``size``."""
    batches = [pa.record_batch({"prompt": prompts[i : i + size]}) for i in range(0, len(prompts), size)]
    chat = Chat(server)
    try:
        found = chat.stream(batches, lambda part: [[Ask(p, bits(p), **rest)] for p in part["prompt"].to_pylist()])
        return [row for _, rows in found for row in rows]
    finally:
        chat.close()


def bits(prompt: str) -> int:
    """Bits of a question, as from its uid and number."""
    return int.from_bytes(sha256(prompt.encode()).digest()[:8])


@pytest.mark.parametrize(
    ("url", "base"),
    [
        ("http://localhost:8000", "http://localhost:8000/v1"),
        ("http://10.0.0.7:8000/v1/", "http://10.0.0.7:8000/v1"),
        ("https://api.example.org/openai/v1/chat/completions", "https://api.example.org/openai/v1"),
        (" http://[::1]:8080/v1 ", "http://[::1]:8080/v1"),
    ],
)
def test_addresses(url: str, base: str) -> None:
    """An address may lead to the host, its base, or the endpoint; private ones are fine."""
    assert ChatServer(url=url, model="m").url == base


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({"url": "ftp://host/v1"}, "no address of a server"),
        ({"url": "localhost:8000"}, "no address of a server"),
        ({"url": "http://me:hunter2@host/v1"}, "write 'api_key_env'"),
        ({"url": "http://host/v1?key=hunter2"}, "the address has a query"),
        ({"api_key_env": "sk-abc-123"}, "never the key"),
        ({"fields": {"stream": True}}, "'stream' is set"),
        ({"fields": {"seed": 1}}, "'seed' is set"),
        ({"fields": {"n": 3}, "together": True}, "give one of them"),
        ({"temperature": -1}, "greater than or equal to 0"),
        ({"top_p": 0}, "greater than 0"),
        ({"concurrency": 0}, "greater than 0"),
        ({"stop": [""]}, "at least 1 character"),
        ({"modle": "m"}, "Extra inputs"),
    ],
)
def test_wrong_settings(chosen: dict[str, Any], message: str) -> None:
    """Settings that cannot work, or would store a secret, are refused with a line that does not repeat it."""
    with pytest.raises(ValidationError) as caught:
        ChatServer(**{"url": "http://h/v1", "model": "m"} | chosen)
    lines = [error["msg"] for error in caught.value.errors()]
    assert message in lines[0] and "hunter2" not in lines[0] and "abc-123" not in lines[0]


def test_where_a_server_is_does_not_count() -> None:
    """Address, key variable and patience are no part of a step's fingerprint; what the model is asked is."""
    one = Rewrite(server=ChatServer(url="http://a/v1", model="m"), prompts=("{text}",))
    chosen = {"url": "https://b:1/v1", "api_key_env": "K", "concurrency": 2, "timeout": 1, "deadline": 2, "retries": 0}
    other = ChatServer(model="m", **chosen, backoff=1, patience=1, give_up=None)
    assert scoring_settings(one) == scoring_settings(Rewrite(server=other, prompts=("{text}",)))
    warm = ChatServer(url="http://a/v1", model="m", temperature=0.5)
    assert scoring_settings(one) != scoring_settings(Rewrite(server=warm, prompts=("{text}",)))
    assert scoring_settings(one)["server"]["model"] == "m"


def test_answers_are_the_models(stand: ChatStand) -> None:
    """An answer is what transformers generates for that prompt with that seed; tokens are those it counted."""
    server = settings(stand)
    (found,) = ask(server, ["describe this red dog"])
    texts, prompt, new = generate(server.body("describe this red dog", None, bits("describe this red dog") >> 33))
    assert found == Found((cleaned(texts[0]),), None, prompt, new)
    assert found.texts[0] and prompt > 3 and new > 1


@pytest.mark.parametrize(("size", "concurrency"), [(1, 1), (7, 3), (40, 64)])
def test_order(stand: ChatStand, size: int, concurrency: int) -> None:
    """Answers come in the order of the questions and are the same for any batches and any number in flight."""
    prompts = [f"{'dog' if i != 3 else 'cat @busy'} on table {i}" for i in range(16)]
    stand.seen.clear()
    stand.most_at_once = 0
    found = ask(settings(stand, concurrency=concurrency), prompts, size)
    server = settings(stand)
    expected = [generate(server.body(p, None, bits(p) >> 33))[0][0] for p in prompts]
    assert [row.texts for row in found] == [(cleaned(text),) for text in expected]
    assert len(set(expected)) > 12 and not any(row.error for row in found)
    assert stand.most_at_once <= concurrency
    if concurrency == 64:
        assert stand.most_at_once > 4


@pytest.mark.parametrize(
    ("prompt", "texts", "error", "attempts"),
    [
        ("@twice", None, None, 3),
        ("@always429", (None,), "server_busy", 3),
        ("@broken", (None,), "server_error", 3),
        ("@hang", (None,), "server_timeout", 3),
        ("@reset", (None,), "server_error", 3),
        ("@garbage", (None,), "server_garbage", 3),
        ("@deep", (None,), "server_garbage", 3),
        ("@huge", (None,), "server_garbage", 3),
        ("@nochoice", (None,), "server_garbage", 3),
        ("@refused", (None,), "server_refused", 1),
        ("@empty", (None,), None, 1),
        ("@null", (None,), None, 1),
        ("@control", ("a red dog on a table",), None, 1),
        ("@long", (("word " * 20_000)[:LONGEST_TEXT].strip(),), None, 1),
        ("@usage", ("a dog",), None, 1),
        ("@parts", ("a cat",), None, 1),
    ],
)
def test_failures(stand: ChatStand, prompt: str, texts: Any, error: str | None, attempts: int) -> None:
    """Each way of failing has its code and its number of attempts, and leaves the neighbours' answers alone."""
    stand.seen.clear()
    quick = {"timeout": 0.5} if prompt == "@hang" else {}
    found = ask(settings(stand, **quick), ["a red dog", f"{prompt} failing", "a black cat"])
    assert found[1].error == error
    assert found[1].texts == texts if texts else found[1].texts[0]
    assert stand.seen[f"{prompt} failing"] == attempts
    assert [row.error for row in found[::2]] == [None, None] and all(row.texts[0] for row in found[::2])
    assert pa.array(found[1].texts, pa.string()).validate() is None


def test_retry_after(stand: ChatStand) -> None:
    """A 429 is asked again after the seconds that it names, and gets its answer."""
    began = time.monotonic()
    (found,) = ask(settings(stand), ["@busy once"])
    assert found.texts[0] and 1 <= time.monotonic() - began < 4


def test_deadline(stand: ChatStand) -> None:
    """A request ends with its deadline, whatever retries are left."""
    began = time.monotonic()
    (found,) = ask(settings(stand, timeout=0.3, deadline=0.7, retries=100, give_up=None), ["@hang on"])
    assert found.error == "server_timeout" and time.monotonic() - began < 3


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def test_nobody_there() -> None:
    """Without a server there is one line that names it, after the patience, and no verdict."""
    url, began = f"http://127.0.0.1:{free_port()}/v1", time.monotonic()
    with pytest.raises(ServerDownError, match=r"server http://127.0.0.1:\d+/v1, model 'm' gave no answer for 0.5 s"):
        ask(ChatServer(url=url, model="m", patience=0.5), ["a dog"])
    assert 0.1 < time.monotonic() - began < 3


def test_late_server() -> None:
    """A server that comes up within the patience is waited for."""
    port, late = free_port(), threading.Event()

    def serve() -> None:
        time.sleep(0.5)
        with chat_server(port=port):
            late.wait(30)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        (found,) = ask(settings(ChatStand(port=port), patience=20), ["a dog"])
    finally:
        late.set()
        thread.join()
    assert found.texts[0]


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (401, "401: the key is not accepted"),
        (403, "403: the key is not accepted"),
        (404, "no such address or model; it serves 'tiny-llava'"),
        (307, "a redirect; write the address that it leads to"),
    ],
)
def test_wrong_set_up(status: int, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What no retry mends is one line at once, which does not hold the key although the server repeats it."""
    monkeypatch.setenv("TEST_CHAT_KEY", KEY)
    with chat_server() as stand:
        stand.status = status
        with pytest.raises(AccessError) as caught:
            ask(settings(stand, api_key_env="TEST_CHAT_KEY"), ["a dog"])
    assert message in str(caught.value) and stand.url in str(caught.value)
    assert KEY not in str(caught.value) and "\n" not in str(caught.value)


def test_unknown_model(stand: ChatStand) -> None:
    """A model that the server does not have is named beside those that it has."""
    with pytest.raises(AccessError, match=r"model 'gpt-9' answers HTTP 404.*it serves 'tiny-llava'"):
        ask(settings(stand, model="gpt-9"), ["a dog"])


def test_no_chat_server() -> None:
    """Another server's page is no answer."""
    import functools
    import http.server

    class Page(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"ok")

        log_message = functools.partialmethod(lambda *_: None)

    with http.server.HTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.serve_forever).start()
        try:
            with pytest.raises(AccessError, match="answers, but not as a chat server; write the address"):
                ask(ChatServer(url=f"http://127.0.0.1:{server.server_port}", model="m"), ["a dog"])
        finally:
            server.shutdown()


def test_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """The key is that of the environment: missing, wrong and right ones are told apart."""
    with chat_server(key=KEY) as stand:
        server = settings(stand, api_key_env="TEST_CHAT_KEY")
        monkeypatch.delenv("TEST_CHAT_KEY", raising=False)
        with pytest.raises(UserError, match="TEST_CHAT_KEY is not set where the worker runs"):
            ask(server, ["a dog"])
        with pytest.raises(AccessError, match=r"wants a key: write server\.api_key_env"):
            ask(settings(stand), ["a dog"])
        monkeypatch.setenv("TEST_CHAT_KEY", "another")
        with pytest.raises(AccessError, match="the key is not accepted") as caught:
            ask(server, ["a dog"])
        assert "another" not in str(caught.value)
        monkeypatch.setenv("TEST_CHAT_KEY", KEY)
        assert ask(server, ["a dog"])[0].texts[0]


def test_redirects_and_proxies(stand: ChatStand, monkeypatch: pytest.MonkeyPatch) -> None:
    """Proxies of the environment are not used."""
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{free_port()}")
    assert ask(settings(stand), ["a dog"])[0].texts[0]


def test_down_in_the_middle() -> None:
    """A server that goes away stops the questions after the patience with one line, not with a million verdicts."""
    with chat_server() as stand:
        chat = Chat(settings(stand, patience=0.6, concurrency=4))
        batches = (pa.record_batch({"prompt": [f"dog {i} {k}" for k in range(8)]}) for i in range(1000))
        found = chat.stream(batches, lambda part: [[Ask(p, bits(p))] for p in part["prompt"].to_pylist()])
        next(found)
    began = time.monotonic()
    try:
        with pytest.raises(ServerDownError, match=r"was not reached for 0.6 s \(no connection"):
            list(found)
    finally:
        chat.close()
    assert time.monotonic() - began < 10


def test_idle_for_long() -> None:
    """Patience begins with the first failure: a worker that had nothing to ask for long waits all of it."""

    def answer(prompt: str) -> str | None:
        part = pa.record_batch({"prompt": [prompt]})
        return next(chat.stream([part], lambda _: [[Ask(prompt, bits(prompt))]]))[1][0].texts[0]

    def back() -> None:
        time.sleep(0.5)
        with chat_server(port=stand.port):
            done.wait(20)

    with chat_server() as stand:
        chat = Chat(settings(stand, patience=1.2, retries=0))
        assert answer("dog 1")
    done, thread = threading.Event(), threading.Thread(target=back)
    try:
        time.sleep(1.3)
        thread.start()
        assert answer("dog 2")
    finally:
        chat.close()
        done.set()
        thread.join()


def test_back_in_time() -> None:
    """A server that restarts within the patience costs nothing: attempts that reach nobody are not counted."""
    with chat_server() as stand:
        chat = Chat(settings(stand, patience=30, retries=0, concurrency=2))
        prompts = [f"dog {i}" for i in range(40)]
        batches = (pa.record_batch({"prompt": prompts[i : i + 4]}) for i in range(0, 40, 4))
        found = chat.stream(batches, lambda part: [[Ask(p, bits(p))] for p in part["prompt"].to_pylist()])
        rows = next(found)[1]
    try:
        time.sleep(0.3)
        with chat_server(port=stand.port):
            rows += [row for _, part in found for row in part]
    finally:
        chat.close()
    broken = [row for row in rows if row.error]
    assert len(rows) == 40 and len(broken) <= 2 and all(row.error == "server_error" for row in broken)


@pytest.mark.parametrize(("fault", "what"), [("@broken", "HTTP 500: CUDA error"), ("@garbage", "no answer of a chat")])
def test_give_up(stand: ChatStand, fault: str, what: str) -> None:
    """So many failures on end are the server's, so the run stops and says with what it failed."""
    with pytest.raises(ServerDownError, match=f"failed 5 requests on end .*{what}"):
        ask(settings(stand, give_up=5, retries=0), [f"{fault} {i}" for i in range(50)])
    found = ask(
        settings(stand, give_up=5, retries=0, concurrency=1), [f"{fault if i % 5 else 'dog'} {i}" for i in range(20)]
    )
    assert [bool(row.error) for row in found] == [bool(i % 5) for i in range(20)]


def test_refused_from_the_start(stand: ChatStand) -> None:
    """Requests that are refused without an answer before are a wrong setting; after one they are inputs."""
    bad = [f"@refused {i}" for i in range(30)]
    with pytest.raises(ServerDownError, match=r"failed 5 requests on end .*maximum context length is 256"):
        ask(settings(stand, give_up=5, concurrency=1), bad)
    found = ask(settings(stand, give_up=5, concurrency=1), ["a dog", *bad])
    assert [row.error for row in found] == [None, *["server_refused"] * 30]


def picture(kind: str, width: int = 40, height: int = 30) -> bytes:
    """An image file."""
    out = BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
    Image.fromarray(noise).save(out, kind)
    return out.getvalue()


@pytest.mark.parametrize("kind", ["jpeg", "png", "webp"])
def test_images_as_they_are(kind: str) -> None:
    """A file that servers take is sent byte for byte, under its own type."""
    data = picture(kind)
    url, error = data_url(data, None)
    assert error is None and url and url.startswith(f"data:image/{kind};base64,")
    assert b64decode(url.partition(",")[2]) == data == b64decode((data_url(data, 40)[0] or "").partition(",")[2])


@pytest.mark.parametrize(
    ("kind", "side", "size"), [("gif", None, (40, 30)), ("png", 20, (20, 15)), ("avif", 8, (8, 6))]
)
def test_images_made_anew(kind: str, side: int | None, size: tuple[int, int]) -> None:
    """Other formats, and images larger than asked for, become JPEGs of at most that side."""
    url, _ = data_url(picture(kind), side)
    head, _, text = (url or "").partition(",")
    with Image.open(BytesIO(b64decode(text))) as sent:
        assert (head, sent.format, sent.size) == ("data:image/jpeg;base64", "JPEG", size)


@pytest.mark.parametrize("data", [b"", b"no image", picture("png")[:300], picture("jpeg")[:-200]])
def test_broken_images(data: bytes) -> None:
    """What does not decode to its end is not sent."""
    assert data_url(data, None) == (None, "broken_image")


def test_pictures_are_seen(stand: ChatStand) -> None:
    """The image that the server gets is the row's, before the text, and a broken one is not asked about."""
    stand.bodies.clear()
    server, images = settings(stand), [picture("png"), b"none"]
    chat = Chat(server)
    try:
        part = pa.record_batch({"image": pa.array(images, pa.binary())})
        rows = chat.stream([part], lambda p: [[Ask("describe this", 7, i.as_py())] for i in p["image"]])
        found = next(rows)[1]
    finally:
        chat.close()
    asked = [body for body in stand.bodies if isinstance(body["messages"][0]["content"], list)]
    assert [part["type"] for part in asked[0]["messages"][0]["content"]] == ["image_url", "text"] and len(asked) == 1
    assert found[1] == Found((None,), "broken_image", failed=1)
    assert found[0].texts == (cleaned(generate(asked[0])[0][0]),) and (found[0].prompt_tokens or 0) > 4


@given(st.text(alphabet=st.characters(codec=None), max_size=80))
def test_cleaned(text: str) -> None:
    """What is left of any text can be stored, is one line without control characters, and is clean already."""
    found = cleaned(text)
    if found is not None:
        assert found.encode() and found == found.strip() and "  " not in found and "\ufffd" not in found
        assert all(ord(c) >= 32 and not 127 <= ord(c) < 160 for c in found)
        assert cleaned(found) == found


NAMES = st.sampled_from(["choices", "message", "content", "usage", "index", "error"])
LEAVES = st.none() | st.booleans() | st.integers() | st.text(max_size=5)
JSON = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4))


@given(JSON)
@hypothesis_settings(max_examples=50)
def test_any_json(value: Any) -> None:
    """Any JSON is an answer with as many texts as were asked for, or none."""
    body = json.dumps(value).encode()
    found = read_answer(body, 2)
    assert found is None or len(found.texts) == 2
    assert "\n" not in said(body) and len(said(body)) <= 200


def test_choices_by_number() -> None:
    """Choices are in the order of their numbers; too few are said to be, too many are left out."""
    choices = [{"index": i, "message": {"content": f"text {i}"}} for i in (2, 0, 1)]
    body = json.dumps({"choices": choices}).encode()
    assert read_answer(body, 2) == type(read_answer(body, 2))(("text 0", "text 1"))  # type: ignore[misc]
    found = read_answer(body, 4)
    assert found and found.texts == ("text 0", "text 1", "text 2", None) and found.error == "server_garbage"


@given(st.text(max_size=40))
def test_templates_round_trip(text: str) -> None:
    """Any text with its braces doubled is itself, and a value is never read as a template."""
    escaped = text.replace("{", "{{").replace("}", "}}")
    assert "".join(str(part) for part in parsed(escaped)) == text
    value = cleaned(text)
    if value:
        made = Prompt(prompt=f"say: {{text}}{escaped}")
        assert made.filled({"text": text}, 0, 10_000) == f"say: {value}{text}"


@pytest.mark.parametrize("template", ["{", "a } b", "{}", "{text:first}", "{text:}", "{te{xt}"])
def test_wrong_templates(template: str) -> None:
    """Braces that mean nothing are refused when the recipe is read."""
    with pytest.raises(ValidationError, match="prompt"):
        Prompt(prompt=template)


def test_placeholders() -> None:
    """A list is its first text, or all as numbered lines; texts are cut by words; a missing one makes no prompt."""
    values = {"text": " a  red\tdog ", "caption": [None, "a cat", "", "two cats"]}
    assert Prompt(prompt="{text}|{caption}|{caption:lines}").filled(values, 0, 2) == "a red|a cat|1. a cat\n2. two cats"
    assert Prompt(prompt="{text} {caption}").filled(values | {"caption": [None, " "]}, 0, 9) is None
    assert Prompt(prompt="{text}").filled({"text": None}, 0, 9) is None


def test_examples_are_drawn_by_bits() -> None:
    """Each request shows its own examples, the same for the same bits, no example twice."""
    made = Prompt(prompt="{examples}\n\n{text} =>", examples=tuple((f"a{i}", f"b{i}") for i in range(10)), shots=3)
    shown = [made.filled({"text": "x"}, bits, 9) for bits in (1, 1, 2)]
    assert shown[0] == shown[1] != shown[2]
    lines = (shown[0] or "").split("\n\n")
    assert len(lines) == 4 == len(set(lines)) and set(lines[:3]) < {f"a{i} => b{i}" for i in range(10)}


OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
ANSWER = json.dumps({"choices": [{"message": {"content": "a dog"}}]}).encode()
RAW = {
    "closed": b"",
    "no http": b"\x16\x03\x01 hello\r\n\r\n",
    "endless header": b"HTTP/1.1 200 OK\r\nX: " + b"x" * 300_000,
    "many headers": b"HTTP/1.1 200 OK\r\n" + b"".join(b"X%d: y\r\n" % i for i in range(100_000)),
    "cut off": OK + b"Content-Length: 500\r\n\r\n" + ANSWER,
    "endless body": OK + b"Transfer-Encoding: chunked\r\n\r\n" + (b"100000\r\n" + b" " * 0x100000 + b"\r\n") * 6,
    "wrong chunk": OK + b"Transfer-Encoding: chunked\r\n\r\nzzz\r\n",
    "compressed": OK + b"Content-Encoding: gzip\r\nContent-Length: 4\r\n\r\n\x1f\x8b\x08\x00",
    "not utf-8": OK + b'Content-Length: 5\r\n\r\n{"\xff"}',
    "unknown status": b"HTTP/1.1 799 What\r\nContent-Length: 0\r\n\r\n",
    "fine": OK + b"Content-Length: %d\r\n\r\n" % len(ANSWER) + ANSWER,
}


@pytest.mark.parametrize("name", RAW)
def test_raw_bytes(name: str) -> None:
    """Whatever bytes come back, a request ends with a code or its answer, soon and in little memory."""
    import socketserver

    class Raw(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            lines = list(iter(self.rfile.readline, b"\r\n"))
            length = next(int(line.split(b":")[1]) for line in lines if line.lower().startswith(b"content-length"))
            is_first = b"Hello" in self.rfile.read(length)
            with contextlib.suppress(OSError):
                self.request.sendall(RAW["fine" if is_first else name])

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads, allow_reuse_address = True, True

    with Server(("127.0.0.1", 0), Raw) as server:
        threading.Thread(target=server.serve_forever).start()
        try:
            url, began = f"http://127.0.0.1:{server.server_address[1]}/v1", time.monotonic()
            limits = QUICK | {"timeout": 2, "retries": 1, "give_up": None}
            (found,) = ask(ChatServer(url=url, model="m", **limits), ["a dog"])
        finally:
            server.shutdown()
    assert (found.texts[0] == "a dog") == (name == "fine") and time.monotonic() - began < 8
    assert found.error == {"fine": None}.get(name, found.error) and found.error in (None, *ServerCode)
