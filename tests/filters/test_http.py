"""Requests over libcurl: bodies and headers as servers send them, however odd; nothing of the environment counts."""

import asyncio
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from yarl import URL

from pairsieve.filters import _authorities
from pairsieve.filters._addresses import Guard
from pairsieve.filters._authorities import authorities
from pairsieve.filters._client import fetch_all
from pairsieve.filters._codes import Code
from pairsieve.filters._fetch import Fetched, Policy
from pairsieve.filters._host_names import ADDRESSES, BadNameError, Names, check
from pairsieve.filters._http import AHEAD, RequestError, Session
from pairsieve.filters._http_parts import SMALL, Headers, Part, append
from pairsieve.filters.download import Download

POLICY = Policy(timeout=5, networks=("127.0.0.1/32",))
GIF = b"GIF89a" + bytes(100)


@contextmanager
def speaking(*script: bytes, context: ssl.SSLContext | None = None) -> Iterator[str]:
    """A server that sends a script to everybody who connects, and hangs up; its URL."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            try:
                if context is not None:
                    connection = context.wrap_socket(connection, server_side=True)
                connection.recv(65536)
                for part in script:
                    connection.sendall(part)
            except OSError:
                pass
            connection.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"http{'s' if context else ''}://127.0.0.1:{listener.getsockname()[1]}/a.gif"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


def fetch(url: str, policy: Policy = POLICY) -> Fetched:
    """The outcome of one URL."""
    (found,) = fetch_all([url], policy)
    return found


def head(*lines: str, status: str = "200 OK") -> bytes:
    """A header."""
    return "".join(f"{line}\r\n" for line in (f"HTTP/1.1 {status}", *lines, "")).encode("latin-1")


LENGTH = f"Content-Length: {len(GIF)}"


@pytest.mark.parametrize(
    ("script", "code"),
    [
        ((head(LENGTH), GIF), Code.SUCCESS),
        ((head(LENGTH), GIF, b"more than was announced"), Code.SUCCESS),
        ((head(), GIF), Code.SUCCESS),
        ((head(status="103 Early Hints"), head(LENGTH), GIF), Code.SUCCESS),
        ((head("Transfer-Encoding: chunked"), b"%x\r\n%b\r\n0\r\nTrailer: x\r\n\r\n" % (len(GIF), GIF)), Code.SUCCESS),
        ((head("Transfer-Encoding: chunked"), b"%x\r\n%b" % (len(GIF) + 1, GIF)), Code.CONNECTION_FAILED),
        ((head("Transfer-Encoding: chunked"), b"not a number\r\n"), Code.CONNECTION_FAILED),
        ((head("Content-Length: 500"), GIF), Code.CONNECTION_FAILED),
        ((head("Content-Length: 0"),), Code.EMPTY_BODY),
        ((head("Content-Length: -5"), GIF), Code.BAD_RESPONSE),
        ((b"HTTP/1.1 200 OK\r\nContent-Le",), Code.CONNECTION_FAILED),
        ((GIF,), Code.BAD_RESPONSE),
        ((b"HTTP/9.9 twohundred\r\n\r\n", GIF), Code.BAD_RESPONSE),
        ((b"\r\n" * 100,), Code.BAD_RESPONSE),
        ((b"",), Code.CONNECTION_FAILED),
        ((head("X: " + "a" * 500_000), GIF), Code.BAD_RESPONSE),
        ((head(*("X: " + "a" * 1000,) * 1000), GIF), Code.CONNECTION_FAILED),
        ((head("X-Robots-Tag: noai", LENGTH), GIF), Code.OPTED_OUT),
        ((head("x-robots-tag:noindex", "X-ROBOTS-TAG: noai", LENGTH), GIF), Code.OPTED_OUT),
        ((head("Content-Type: \x80\xff", LENGTH), GIF), Code.SUCCESS),
        ((head(LENGTH, status="99999 X"), GIF), Code.BAD_RESPONSE),
        ((head("HTTP/1.1 200 OK: x", LENGTH, status="404 Not Found"), GIF), Code.HTTP_404),
        ((head("HTTP/1.1 " + "9" * 5000 + " a: b", LENGTH), GIF), Code.SUCCESS),
        ((head("Content-Length: " + "9" * 5000), GIF), Code.BODY_TOO_LARGE),
    ],
)
def test_answer_has_its_code(script: tuple[bytes, ...], code: Code) -> None:
    """Whatever a server says ends in a code, and a good body is whole."""
    with speaking(*script) as url:
        found = fetch(url)
    assert found.code is code
    assert found.body == (GIF if code is Code.SUCCESS else None)


@pytest.mark.parametrize("status", ["0", "20", "999", "2000", "32768", "99999", "9" * 5000])
def test_any_status_fits_its_column(status: str) -> None:
    """A number that no status has ends in a row, not in the end of the run."""
    made = Download(allow_addresses=("127.0.0.1/32",))
    with speaking(head(LENGTH, status=f"{status} X"), GIF) as url:
        row = made.score(pa.record_batch({"url": [url]}))
    assert row["download_code"].to_pylist() == [Code.BAD_RESPONSE]


@given(st.lists(st.integers(1, 9000), min_size=1, max_size=40))
@settings(deadline=None, max_examples=15)
def test_a_body_is_whole_however_it_is_cut(sizes: list[int]) -> None:
    """Chunks of any size give the body that was sent."""
    body = GIF + bytes(i % 251 for i in range(sum(sizes)))
    cuts = [body[: len(GIF)], *_cut(body[len(GIF) :], sizes)]
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(cut), cut) for cut in cuts)
    with speaking(head("Transfer-Encoding: chunked"), chunks + b"0\r\n\r\n") as url:
        assert fetch(url).body == body


def _cut(body: bytes, sizes: list[int]) -> Iterator[bytes]:
    for size in sizes:
        yield body[:size]
        body = body[size:]


@given(st.lists(st.binary(min_size=1, max_size=2 * SMALL), max_size=60))
def test_small_parts_become_one(parts: list[bytes]) -> None:
    """Nothing is lost, and no two small parts lie side by side."""
    kept: list[Part] = []
    for part in parts:
        append(kept, part)
    assert b"".join(kept) == b"".join(parts)
    assert not any(len(a) < SMALL and len(b) < SMALL for a, b in pairwise(kept))


def with_session(use: Callable[[Session], object], silence: float = 5.0) -> None:
    """Run a coroutine function over a session."""

    class Nobody:
        async def resolve(self, host: str) -> list[str]:
            raise socket.gaierror(socket.EAI_NONAME, host)

    async def run() -> None:
        session = Session(Names(Nobody()), Guard(("127.0.0.1/32",)), "agent", 2.0, silence, 4)
        try:
            await use(session)  # type: ignore[misc]
        finally:
            await session.close()

    asyncio.run(run())


class _Turn:
    requests = 1


def test_a_body_that_nobody_reads_stays_with_its_server() -> None:
    """No more is taken ahead than the setting says, and all of it comes once it is read."""

    async def use(session: Session) -> None:
        with speaking(head(f"Content-Length: {len(body)}"), body) as url:
            async with await session.get(URL(url), _Turn()) as answer:  # type: ignore[arg-type]
                await asyncio.sleep(0.5)
                assert AHEAD <= answer._size <= 2 * AHEAD
                found = b""
                while parts := await answer.parts():
                    found += b"".join(parts)
        assert found == body

    body = bytes(range(256)) * 32_768
    with_session(use)


def test_silence_is_a_timeout() -> None:
    """A server that accepts and says nothing is left after the time that the setting gives."""

    async def use(session: Session) -> None:
        listener = socket.create_server(("127.0.0.1", 0))
        with listener, pytest.raises(RequestError) as caught:
            await session.get(URL(f"http://127.0.0.1:{listener.getsockname()[1]}/"), _Turn())  # type: ignore[arg-type]
        assert caught.value.code is Code.TIMEOUT

    with_session(use, silence=0.2)


def test_proxies_and_netrc_of_the_environment_do_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing but the URL decides where a request goes and what it says."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login me password secret\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    with speaking(head(LENGTH), GIF) as url:
        assert fetch(url).code is Code.SUCCESS


@pytest.fixture(scope="module")
def certified(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, Path]:
    """A server's TLS context, and the file of its certificate, which it signed itself."""
    folder = tmp_path_factory.mktemp("tls")
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", f"{folder}/key.pem", "-out", f"{folder}/cert.pem"]
    subprocess.run(command, check=True, capture_output=True)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    return context, folder / "cert.pem"


@pytest.mark.parametrize(("is_trusted", "code"), [(True, Code.SUCCESS), (False, Code.TLS_FAILURE)])
def test_certificates_are_verified(
    certified: tuple[ssl.SSLContext, Path], is_trusted: bool, code: Code, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A certificate counts where ``SSL_CERT_FILE`` names it, and else does not."""
    context, file = certified
    if is_trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(file))
    authorities.cache_clear()
    with speaking(head(LENGTH), GIF, context=context) as url:
        assert fetch(url).code is code
    authorities.cache_clear()


def test_a_first_message_fits_a_packet() -> None:
    """Without the keys of 1,184 bytes that newer OpenSSL sends by itself."""
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor() as pool:
        asked = pool.submit(fetch, f"https://127.0.0.1:{listener.getsockname()[1]}/a.gif")
        connection, _ = listener.accept()
        with connection:
            assert 100 < len(connection.recv(65536)) < 1000
        assert asked.result().code is Code.CONNECTION_FAILED


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("curve", ["prime256v1", "secp384r1", "secp521r1", "X25519", "X448"])
def test_key_exchanges(
    certified: tuple[ssl.SSLContext, Path], curve: str, version: ssl.TLSVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server may insist on any usual one, also on one for which no key is sent at first."""
    _, file = certified
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = context.maximum_version = version
    context.load_cert_chain(file, file.with_name("key.pem"))
    context.set_ecdh_curve(curve)
    authorities.cache_clear()
    with speaking(head(LENGTH), GIF, context=context) as url:
        assert fetch(url).code is Code.SUCCESS
    authorities.cache_clear()


@pytest.mark.parametrize(
    ("said", "code"),
    [
        (b"", Code.CONNECTION_FAILED),
        (b"\x16\x03\x03\x00\x7a\x02", Code.CONNECTION_FAILED),
        (b"\x15\x03\x03\x00\x02\x02\x28", Code.TLS_FAILURE),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", Code.TLS_FAILURE),
    ],
)
def test_a_handshake_that_is_cut_is_the_networks_fault(said: bytes, code: Code) -> None:
    """A server that hangs up may be asked again; one that refuses, or speaks no TLS, need not."""
    with speaking(said) as url:
        assert fetch(url.replace("http:", "https:")).code is code


def test_authorities_are_a_file_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where neither the environment nor the system names one, certifi's is used."""
    monkeypatch.setenv("SSL_CERT_FILE", "/no/such/file")
    monkeypatch.setattr(_authorities, "_BUNDLES", ())
    authorities.cache_clear()
    assert Path(authorities()).is_file()
    authorities.cache_clear()


def test_header_lines_are_found_in_any_case_and_folding() -> None:
    """Values of one name stay in order; a continued line is one value; what is no line is nothing."""
    headers = Headers([b"A: 1\r\n", b"a:2\r\n", b"  more\r\n", b"nonsense\r\n", b"B: \xff\r\n"])
    assert list(headers.all("A")) == ["1", "2 more"]
    assert (headers.get("b"), headers.get("none")) == ("\udcff", "")


class Book:
    """Names that are told, counted."""

    def __init__(self) -> None:
        """Nothing was asked."""
        self.asked: list[str] = []

    async def resolve(self, host: str) -> list[str]:
        """One address, or none for a host that is called missing."""
        self.asked.append(host)
        await asyncio.sleep(0.01)
        if host == "missing":
            raise socket.gaierror(socket.EAI_NONAME, host)
        return ["192.0.2.1"]


def test_a_name_is_asked_for_once() -> None:
    """Many URLs of a host wait for one look-up, and its answer is kept."""
    book = Book()

    async def use() -> None:
        names = Names(book)
        assert await asyncio.gather(*(names.addresses("a.example") for _ in range(50))) == [["192.0.2.1"]] * 50
        assert await names.addresses("A.Example") == ["192.0.2.1"]

    asyncio.run(use())
    assert book.asked == ["a.example"]


def test_of_thousands_of_addresses_the_first_are_taken() -> None:
    """A stranger's name server decides neither how much is kept nor how many connections one URL tries."""

    class Crowd:
        async def resolve(self, host: str) -> list[str]:
            return [f"192.0.2.{i % 256}" for i in range(4000)]

    found = asyncio.run(Names(Crowd()).addresses("a.example"))
    assert len(found) == ADDRESSES


def test_a_look_up_outlives_the_url_that_began_it() -> None:
    """A deadline ends the waiting of one URL, not the look-up that others wait for."""
    book = Book()

    async def use() -> None:
        names = Names(book)
        first = asyncio.ensure_future(names.addresses("a.example"))
        await asyncio.sleep(0)
        second = asyncio.ensure_future(names.addresses("a.example"))
        await asyncio.sleep(0)
        first.cancel()
        assert await second == ["192.0.2.1"]

    asyncio.run(use())
    assert book.asked == ["a.example"]


def test_a_failed_look_up_is_told_to_all_and_not_kept() -> None:
    """The next URL asks again; that a name does not exist is for the resolver to remember."""
    book = Book()

    async def use() -> None:
        names = Names(book)
        found = await asyncio.gather(*(names.addresses("missing") for _ in range(3)), return_exceptions=True)
        assert all(isinstance(f, socket.gaierror) for f in found)
        with pytest.raises(socket.gaierror):
            await names.addresses("missing")

    asyncio.run(use())
    assert book.asked == ["missing", "missing"]


@pytest.mark.parametrize("host", ["", "2130706433", "127.1", "1.2.3.4.5", "a..b", "%", "." + "a", "a" * 64, "a." * 128])
def test_no_names_are_refused(host: str) -> None:
    """What cannot be a name is never looked up."""
    with pytest.raises(BadNameError):
        check(host)
