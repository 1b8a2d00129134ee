"""What disks and object stores say when they fail, as one line each: place, cause, next step.

Client libraries raise classes of their own.  They are told apart by HTTP status, error code and class
name, so that none of the libraries needs to be installed.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pairsieve.schemas.errors import PairsieveError, StorageError

AGAIN = "then the same command continues"
NEXT_STEPS = {
    errno.ENOSPC: "free space",
    errno.EDQUOT: "free space or raise the quota",
    errno.EFBIG: "raise the limit (ulimit -f), or choose a filesystem that takes larger files",
    errno.EROFS: "mount it for writing",
    errno.EMFILE: "raise the limit (ulimit -n)",
    errno.ENFILE: "raise the limit (sysctl fs.file-max)",
}
"""What to do about an exhausted machine: it fails every shard, so a run stops at once."""
_OTHERS = {
    errno.EACCES: "give yourself the right to write there",
    errno.EPERM: "give yourself the right to write there",
    errno.EEXIST: "remove the file that stands where a directory belongs",
    errno.EISDIR: "remove the directory that stands where a file belongs",
    errno.ENOTDIR: "remove the file that stands where a directory belongs",
    errno.ENAMETOOLONG: "choose a shorter path",
}
_BUSY_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})
_BUSY_CODES = frozenset(
    {
        "BadDigest",
        "ConditionalRequestConflict",
        "IncompleteBody",
        "NoSuchUpload",  # the answer to a finished upload was lost
        "OperationAborted",
        "RequestTimeout",
        "SlowDown",
        "XAmzContentSHA256Mismatch",
    }
)
_NETWORK = frozenset(
    {
        "ClientConnectionError",
        "ClientPayloadError",
        "ConnectionError",
        "HTTPClientError",
        "IncompleteRead",
        "IncompleteReadError",
        "ResponseParserError",
        "ServiceRequestError",
        "ServiceResponseError",
        "TimeoutError",
        "gaierror",
    }
)
_NOT_NETWORK = frozenset({"SSLError", "ClientSSLError", "InvalidProxiesConfigError"})
_UNREACHABLE = frozenset(
    {errno.ETIMEDOUT, errno.ECONNRESET, errno.ECONNABORTED, errno.EPIPE, errno.ENETUNREACH, errno.EHOSTUNREACH}
)


def first_line(error: BaseException) -> str:
    """The first line of a message, or the class of the error where there is none."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return (text.strip().splitlines() or [type(error).__name__])[0].rstrip(". ")[:300]


def explain(error: BaseException, place: str) -> StorageError:
    """An error of the operating system as one line; a file that it names is a better place than ours."""
    code = _number(error)
    step = {**NEXT_STEPS, **_OTHERS}.get(code or 0, "check the disk")
    if isinstance(error, OSError) and code is not None:
        where = error.filename2 or error.filename or place
        return StorageError(f"{where}: {os.strerror(code)}; {step}, {AGAIN}")
    return StorageError(f"{place}: {first_line(error)}; {step}, {AGAIN}")


def refusal(error: OSError) -> str:
    """What the operating system refuses to a command: place, cause, next step."""
    step = _OTHERS.get(error.errno or 0, "check the path")
    return f"{error.filename or 'this machine'}: {error.strerror or error}; {step}"


def _number(error: BaseException) -> int | None:
    """The number of an operating system's error; DuckDB gives its words only."""
    if isinstance(error, OSError):
        return error.errno
    return next((code for code in NEXT_STEPS if os.strerror(code) in str(error)), None)


def is_exhausted(error: BaseException) -> bool:
    """Whether the machine has run out of something, which would fail every other shard too."""
    if isinstance(error, PairsieveError):
        return False
    return _number(error) in NEXT_STEPS


@contextmanager
def explained(place: str) -> Iterator[None]:
    """What an exhausted machine raises in the block comes out as ``StorageError``."""
    try:
        yield
    except Exception as error:
        if is_exhausted(error):
            raise explain(error, place) from error
        raise


def is_conflict(error: BaseException) -> bool:
    """Whether a conditional write was refused: the object is there already, or is no longer the one meant."""
    return any(_status(e) == 412 or _code(e) == "PreconditionFailed" for e in _chain(error))


def is_unknown(error: BaseException) -> bool:
    """Whether the store does not know what it was asked for, such as a condition on a write."""
    return any(_status(e) == 501 or getattr(e, "errno", None) == errno.ENOSYS for e in _chain(error))


def is_transient(error: BaseException | None) -> bool:
    """Whether the same request may succeed a moment later."""
    for one in _chain(error):
        status, names = _status(one), {kind.__name__ for kind in type(one).__mro__}
        if _code(one) in _BUSY_CODES or (status in _BUSY_STATUS):
            return True
        if status is not None or names & _NOT_NETWORK:
            return False
        if names & _NETWORK or (isinstance(one, OSError) and one.errno in _UNREACHABLE):
            return True
    return False


def is_foreign(error: BaseException) -> bool:
    """Whether an error comes from a filesystem or its client library, and is no defect in a call."""
    if isinstance(error, PairsieveError):
        return False
    return isinstance(error, OSError) or type(error).__module__ != "builtins"


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what it was made from."""
    seen: list[BaseException] = []
    while error is not None and error not in seen:
        seen.append(error)
        yield error
        error = error.__cause__ or error.__context__


def _response(error: BaseException) -> dict[str, Any]:
    """What botocore keeps of an answer."""
    found = getattr(error, "response", None)
    return found if isinstance(found, dict) else {}


def _code(error: BaseException) -> str | None:
    found = _response(error).get("Error", {}).get("Code")
    return found if isinstance(found, str) else None


def _status(error: BaseException) -> int | None:
    found = _response(error).get("ResponseMetadata", {}).get("HTTPStatusCode")
    for name in ("status", "status_code", "code"):
        found = getattr(error, name, None) if found is None else found
    return found if isinstance(found, int) else None
