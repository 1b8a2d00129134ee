"""Remote filesystems: what may pass is waited out, what does not is one line."""

import pickle
from collections.abc import Callable
from typing import Any

import aiohttp
import botocore.exceptions
import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from pairsieve.pipelines import remote
from pairsieve.pipelines.remote import Remote, patiently
from pairsieve.schemas.errors import AccessError, StorageError


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two further tries, at once."""
    monkeypatch.setattr(remote, "PAUSES", (0.0, 0.0))


class Failing:
    """A call that fails so many times before it succeeds."""

    def __init__(self, error: BaseException, times: int) -> None:
        """Nothing is called yet."""
        self.error, self.left, self.calls = error, times, 0

    def __call__(self) -> str:
        """Fail, or not."""
        self.calls += 1
        if self.left:
            self.left -= 1
            raise self.error
        return "done"


def answer(status: int, code: str) -> botocore.exceptions.ClientError:
    """What botocore makes of an answer."""
    response: Any = {"Error": {"Code": code, "Message": code}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return botocore.exceptions.ClientError(response, "GetObject")


def caused(error: BaseException, cause: BaseException) -> BaseException:
    """As s3fs and others translate errors."""
    error.__cause__ = cause
    return error


PASSING = [
    TimeoutError("slow"),
    ConnectionResetError(104, "reset"),
    aiohttp.ClientPayloadError("cut"),
    aiohttp.ServerDisconnectedError(),
    botocore.exceptions.IncompleteReadError(actual_bytes=1, expected_bytes=2),
    botocore.exceptions.EndpointConnectionError(endpoint_url="http://e.org"),
    answer(503, "SlowDown"),
    answer(429, "TooManyRequests"),
    answer(409, "ConditionalRequestConflict"),
    answer(404, "NoSuchUpload"),
    caused(OSError(121, "Remote I/O error"), answer(500, "InternalError")),
    caused(FileNotFoundError("x"), answer(503, "SlowDown")),
]
LASTING = [
    PermissionError("Forbidden"),
    caused(OSError(22, "Invalid"), answer(400, "InvalidArgument")),
    botocore.exceptions.NoCredentialsError(),
    botocore.exceptions.SSLError(endpoint_url="https://e.org", error="bad certificate"),
    answer(301, "PermanentRedirect"),
]


@pytest.mark.parametrize("error", PASSING, ids=repr)
def test_what_may_pass_is_tried_again(error: BaseException) -> None:
    """Time-outs, cut connections, busy servers, whoever's class they are."""
    call = Failing(error, 2)
    assert patiently(call, "s3://b/x") == "done"
    assert call.calls == 3


@pytest.mark.parametrize("error", PASSING, ids=repr)
def test_patience_ends(error: BaseException) -> None:
    """With the place, the cause, and that the run resumes."""
    call = Failing(error, 9)
    with pytest.raises(StorageError, match=r"^s3://b/x: .+ \(tried for 0 s\); .*the same command continues$"):
        patiently(call, "s3://b/x")
    assert call.calls == 3


@pytest.mark.parametrize("error", LASTING, ids=repr)
def test_what_lasts_is_not_tried_again(error: BaseException) -> None:
    """At once: place, cause, next step, all in one line."""
    call = Failing(error, 9)
    with pytest.raises(AccessError, match=r"^s3://b/x: .+; check the name, the access rights and the credentials$"):
        patiently(call, "s3://b/x")
    assert call.calls == 1


@pytest.mark.parametrize("error", [FileNotFoundError("x"), FileExistsError("x"), TypeError("x"), StorageError("x")])
def test_answers_and_defects_come_as_they_are(error: Exception) -> None:
    """That something is not there is an answer; a wrong call is a defect."""
    call = Failing(error, 9)
    with pytest.raises(type(error), match="x"):
        patiently(call, "s3://b/x")
    assert call.calls == 1


def test_a_refused_condition_is_an_answer() -> None:
    """Somebody else's object is there."""
    with pytest.raises(FileExistsError, match="s3://b/x"):
        patiently(Failing(caused(OSError(22, "pre-conditions"), answer(412, "PreconditionFailed")), 1), "s3://b/x")


class Plain(MemoryFileSystem):  # type: ignore[misc]
    """A filesystem whose writes take no condition."""

    protocol = "plain"
    cachable = False

    def put_file(self, lpath: str, rpath: str) -> None:
        """Replace what is there."""
        super().put_file(lpath, rpath)

    def pipe_file(self, path: str, value: bytes) -> None:
        """Replace what is there."""
        super().pipe_file(path, value)


class Azure(Plain):
    """A filesystem that replaces nothing unless it is told to."""

    def pipe_file(self, path: str, value: bytes, overwrite: bool = False) -> None:
        """As adlfs does."""
        if not overwrite and self.exists(path):
            raise FileExistsError(path)
        super().pipe_file(path, value)


class Old(Plain):
    """A store that does not know conditions, behind a filesystem that does."""

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite") -> None:
        """As s3fs in front of an old server."""
        if mode == "create":
            raise caused(OSError(38, "not implemented"), answer(501, "NotImplemented"))
        super().pipe_file(path, value)


@pytest.mark.parametrize("kind", [MemoryFileSystem, Plain, Azure, Old])
def test_the_first_writer_wins_on_any_filesystem(kind: Callable[[], Any]) -> None:
    """By the filesystem's own condition, or by a look before."""
    fs = Remote(kind())
    fs.pipe_file("/first/x", b"0")
    fs.pipe_file("/first/x", b"1")
    fs.rm("/first/x")
    fs.pipe_new("/first/x", b"2")
    with pytest.raises(FileExistsError):
        fs.pipe_new("/first/x", b"3")
    assert fs.cat_file("/first/x") == b"2"


def test_it_travels_and_is_what_it_wraps() -> None:
    """Workers get the same filesystem; names and protocol are the inner one's."""
    fs = pickle.loads(pickle.dumps(Remote(fsspec.filesystem("memory"), is_shared=True)))
    fs.pipe_file("/a/b/c.txt", b"abc")
    assert isinstance(fs.inner, MemoryFileSystem)
    assert fs.is_shared
    assert fs.unstrip_protocol("/a/b") == "memory:///a/b"
    assert fs.protocol == "memory"
    assert (fs.isfile("/a/b/c.txt"), fs.isdir("/a/b"), fs.exists("/a/c")) == (True, True, False)
    assert fs.glob("/a/**/*.txt") == fs.find("/a") == ["/a/b/c.txt"]
    with fs.open("/a/b/c.txt", "rt") as file:
        assert file.read() == "abc"
