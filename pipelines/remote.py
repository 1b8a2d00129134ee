"""Object stores and other remote filesystems: what passes is waited out, the rest is explained in one line.

s3fs and botocore repeat single requests, five times each; what they give up on, and every request of
a filesystem that repeats nothing, is tried again here with growing pauses.  Reads of open files too,
range by range.  Costs nothing where nothing fails.
"""

import inspect
import time
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import fsspec

from pairsieve.pipelines.storage_errors import AGAIN, first_line, is_conflict, is_foreign, is_transient, is_unknown
from pairsieve.schemas.errors import AccessError, StorageError

Result = TypeVar("Result")

_ANSWERS = (FileNotFoundError, FileExistsError, NotADirectoryError, IsADirectoryError)
PAUSES = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Seconds before each further try."""
PATIENCE = 30.0
"""Seconds after which no further try begins: the client library has had its own by then."""


class Remote(fsspec.AbstractFileSystem):  # type: ignore[misc]  # fsspec ships no types
    """Another filesystem, whose calls are repeated where they may succeed a moment later.

    Raises ``FileNotFoundError`` and ``FileExistsError`` as they come (the latter also for a
    condition that does not hold), ``AccessError`` for what no repetition mends, ``StorageError``
    where patience ends.
    """

    cachable = False

    def __init__(self, inner: fsspec.AbstractFileSystem, is_shared: bool = False) -> None:
        """Nothing is asked of the filesystem yet; one that others write to too answers from no earlier listing."""
        super().__init__()
        self.inner, self.is_shared = inner, is_shared
        self.protocol = inner.protocol

    def _call(self, name: str, path: Any, *args: Any, **options: Any) -> Any:
        if self.is_shared and isinstance(path, str):
            self.inner.invalidate_cache(path)
        return patiently(partial(getattr(self.inner, name), path, *args, **options), self._place(path))

    def _place(self, path: Any) -> str:
        """How messages call a path, or the first of several."""
        first = path if isinstance(path, str) else next(iter(path), "")
        return str(self.inner.unstrip_protocol(first))

    def ls(self, path: str, detail: bool = True, **options: Any) -> Any:
        """See fsspec."""
        return self._call("ls", path, detail=detail, **options)

    def info(self, path: str, **options: Any) -> Any:
        """See fsspec."""
        return self._call("info", path, **options)

    def exists(self, path: str, **options: Any) -> bool:
        """See fsspec; filesystems' own take a failure for a no."""
        return self._type(path) is not None

    def isdir(self, path: str) -> bool:
        """See fsspec."""
        return bool(self._call("isdir", path))

    def isfile(self, path: str) -> bool:
        """See fsspec; as ``exists``."""
        return self._type(path) == "file"

    def _type(self, path: str) -> str | None:
        """``file``, ``directory`` or another type; None where nothing is."""
        try:
            return str(self.info(path)["type"])
        except (FileNotFoundError, NotADirectoryError):
            return None

    def find(self, path: str, *args: Any, **options: Any) -> Any:
        """See fsspec."""
        return self._call("find", path, *args, **options)

    def glob(self, path: str, *args: Any, **options: Any) -> Any:
        """See fsspec."""
        return self._call("glob", path, *args, **options)

    def modified(self, path: str) -> Any:
        """See fsspec."""
        return self._call("modified", path)

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **options: Any) -> bytes:
        """See fsspec."""
        return bytes(self._call("cat_file", path, start=start, end=end, **options))

    def cat_ranges(self, paths: list[str], *args: Any, **options: Any) -> Any:
        """See fsspec."""
        return self._call("cat_ranges", paths, *args, **options)

    def rm(self, path: Any, recursive: bool = False, maxdepth: int | None = None) -> None:
        """See fsspec."""
        self._call("rm", path, recursive=recursive, maxdepth=maxdepth)

    def rm_file(self, path: str) -> None:
        """See fsspec."""
        self._call("rm_file", path)

    def put_file(self, lpath: str, rpath: str, *args: Any, **options: Any) -> None:
        """See fsspec; replaces what is there."""
        put = partial(self.inner.put_file, lpath, rpath, *args, **options)
        patiently(partial(put, **_condition(put, is_new=False)), self._place(rpath))

    def pipe_file(self, path: str, value: bytes, *args: Any, **options: Any) -> None:
        """See fsspec; replaces what is there."""
        pipe = partial(self.inner.pipe_file, path, value, *args, **options)
        patiently(partial(pipe, **_condition(pipe, is_new=False)), self._place(path))

    def put_new(self, lpath: str, rpath: str) -> None:
        """``put_file``, or ``FileExistsError``: decided by the store in one step where it can, else looked up before.

        A try whose answer was lost finds its own object, and says that it exists.
        """
        self._new(partial(self.inner.put_file, lpath, rpath), rpath)

    def pipe_new(self, path: str, value: bytes) -> None:
        """``pipe_file`` as ``put_new``."""
        self._new(partial(self.inner.pipe_file, path, value), path)

    def _new(self, write: "partial[Any]", path: str) -> None:
        condition = _condition(write, is_new=True)
        if condition:
            try:
                patiently(partial(write, **condition), self._place(path))
                return
            except AccessError as error:
                if not is_unknown(error):
                    raise
        if self.exists(path):
            raise FileExistsError(path)
        patiently(partial(write, **_condition(write, is_new=False)), self._place(path))

    def version(self, path: str) -> str | None:
        """What names the content of an object as it is now, where ``pipe_if`` takes it; else None."""
        return self.info(path).get("ETag") if self._is_s3 else None

    def pipe_if(self, path: str, value: bytes, version: str | None) -> None:
        """Replace an object if it still has the version, or ``FileExistsError``; without a version, in any case."""
        self.pipe_file(path, value, **({"IfMatch": version} if version is not None else {}))

    @property
    def _is_s3(self) -> bool:
        return "s3" in (self.protocol if isinstance(self.protocol, tuple | list) else (self.protocol,))

    def _open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        """An open file; its ranges are fetched with the same patience."""
        place = self._place(path)
        file = self._call("open", path, mode, **options)
        cache = getattr(file, "cache", None)
        if cache is not None and getattr(cache, "fetcher", None) is not None:
            cache.fetcher = partial(_fetch, cache.fetcher, place)
        return file

    def invalidate_cache(self, path: str | None = None) -> None:
        """See fsspec."""
        self.inner.invalidate_cache(path)

    def unstrip_protocol(self, name: str) -> str:
        """See fsspec."""
        return str(self.inner.unstrip_protocol(name))

    def _strip_protocol(self, path: Any) -> Any:
        """See fsspec; there a method of the class, which here does not know the protocol."""
        return self.inner._strip_protocol(path)


def _condition(write: "partial[Any]", is_new: bool) -> dict[str, Any]:
    """The option by which a filesystem's write is told to replace, or to leave alone, what is there."""
    known = inspect.signature(write.func).parameters
    if "mode" in known:
        return {"mode": "create"} if is_new else {}
    return {"overwrite": not is_new} if "overwrite" in known else {}


def _fetch(fetch: Callable[[int, int], bytes], place: str, start: int, end: int) -> bytes:
    """A range of an open file."""
    try:
        return patiently(partial(fetch, start, end), place)
    except FileExistsError:  # its condition was that the object is still the one that was opened
        raise StorageError(
            f"{place}: changed while it was read; the same command begins with what is there now"
        ) from None


def patiently(call: Callable[[], Result], place: str) -> Result:
    """The result of a call that is repeated while its failures may pass."""
    began = time.monotonic()
    for pause in (*PAUSES, None):
        try:
            return call()
        except Exception as error:  # client libraries have trees of their own
            if not is_foreign(error) or (isinstance(error, _ANSWERS) and not is_transient(error.__cause__)):
                raise
            if is_conflict(error):
                raise FileExistsError(place) from error
            if not is_transient(error):
                step = "check the name, the access rights and the credentials"
                raise AccessError(f"{place}: {first_line(error)}; {step}") from error
            if pause is None or time.monotonic() - began > PATIENCE:
                said = f"{first_line(error)} (tried for {time.monotonic() - began:.0f} s)"
                raise StorageError(f"{place}: {said}; check the endpoint, {AGAIN}") from error
            time.sleep(pause)
    raise AssertionError("the last try returns or raises")
