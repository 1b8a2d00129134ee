"""Arrays and tensors out of ``torch.save`` files of both formats, without torch and without running anything.

Only the array that is asked for is read: 1 s for 100,000 × 768 float32 (5 s for a numpy array of protocol 2).
"""

import mmap
import pickle
import zipfile
from collections.abc import Callable
from io import BytesIO
from math import prod
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
from numpy.typing import NDArray

from pairsieve.filters import _torch_pickle
from pairsieve.filters._torch_pickle import Array, Storage, Tensor, Unreadable

_MAGIC = 0x1950A86A20F9469CFC6C
"""What the format before the zip files begins with."""
_PART = 1 << 24

Choose = Callable[[Any], Any]
_DAMAGE = (ValueError, TypeError, KeyError, IndexError, AttributeError, EOFError, OverflowError, RecursionError)


def load(path: str, choose: Choose) -> Any:
    """What ``choose`` takes of the file's content, arrays and tensors as numpy arrays (bfloat16 as float32).

    ``choose`` is given the content as it was saved, with marks for arrays and tensors.  Raises
    ``ValueError`` for a file that is damaged, or asks for anything but arrays and tensors.
    """
    try:
        return _from_zip(path, choose) if zipfile.is_zipfile(path) else _from_stream(path, choose)
    except (Unreadable, OSError, MemoryError):
        raise
    except (pickle.UnpicklingError, zipfile.BadZipFile, NotImplementedError, *_DAMAGE) as error:
        text = " ".join(str(error).split())[:200] or type(error).__name__
        raise ValueError(f"is no readable torch file: {text}") from None


def _from_zip(path: str, choose: Choose) -> Any:
    with zipfile.ZipFile(path) as members:
        names = {name.partition("/")[2]: name for name in members.namelist()}
        if "data.pkl" not in names:
            raise Unreadable("is a zip file without data.pkl, so not of torch.save")
        chosen = choose(_torch_pickle.read(BytesIO(members.read(names["data.pkl"]))))
        order = ">" if "byteorder" in names and members.read(names["byteorder"]) == b"big" else "<"

        def raw(storage: Storage) -> NDArray[np.uint8]:
            with members.open(names[f"data/{storage.key}"]) as source:
                return _bytes(source, storage.bytes)

        return _values(chosen, raw, order)


def _from_stream(path: str, choose: Choose) -> Any:
    """The format before the zip files: five pickles, then the storages."""
    with Path(path).open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        source = cast(IO[bytes], mapped)
        if _torch_pickle.read(source) != _MAGIC:
            raise Unreadable("is no torch file: it begins with another pickle")
        _torch_pickle.read(source)  # the format's version has never changed
        if not _torch_pickle.read(source)["little_endian"]:
            raise Unreadable("comes from a big-endian machine")
        storages: dict[str, Storage] = {}
        chosen = choose(_torch_pickle.read(source, storages))
        starts, at = {}, 0
        for key in _torch_pickle.read(source):
            starts[key] = at = at + 8  # before each storage is its count
            at += storages[key].bytes
        first = source.tell()

        def raw(storage: Storage) -> NDArray[np.uint8]:
            source.seek(first + starts[storage.key])
            return _bytes(source, storage.bytes)

        return _values(chosen, raw, "<")


def _values(content: Any, raw: Callable[[Storage], NDArray[np.uint8]], order: str) -> Any:
    """The array that a mark stands for; anything else as it is."""
    if isinstance(content, Array):
        if content.values is None:
            raise Unreadable("holds an array without values")
        return content.values
    if not isinstance(content, Tensor):
        return content
    if prod(content.shape) > content.storage.count:
        raise Unreadable("holds a tensor of more values than are in the file")
    kind = np.dtype(order + content.storage.kind.replace("bf16", "u2"))
    strides = [each * kind.itemsize for each in content.strides]
    values = raw(content.storage)
    found: NDArray[Any] = np.ndarray(content.shape, kind, values, content.offset * kind.itemsize, strides)
    if content.storage.kind == "bf16":  # the upper half of a float32
        return (found.astype(np.uint32) << 16).view(np.float32)
    return found


def _bytes(source: IO[bytes], size: int) -> NDArray[np.uint8]:
    """So many bytes in memory of their own, which may be written to."""
    found = np.empty(size, np.uint8)
    for start in range(0, size, _PART):
        part = source.read(min(_PART, size - start))
        if len(part) < min(_PART, size - start):
            raise Unreadable("is cut off")
        found[start : start + len(part)] = np.frombuffer(part, np.uint8)
    return found
