"""Arrays and tensors out of ``torch.save`` files, without running anything that the file says.

``torch.load(weights_only=True)`` knows tensors but no numpy arrays, as DataComp's centroids are.
The names that numpy's pickles call are answered by the few lines below, which rebuild an array of
numbers from its bytes and nothing else; no code of numpy's own unpickling runs.
"""

import re
from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

_KINDS = {"f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8"}
_BYTE_ORDERS = {"<", ">", "|", "="}


class _Dtype:
    """Stands for ``numpy.dtype``: a kind of number and its byte order."""

    def __init__(self, kind: str, align: bool = False, copy: bool = True) -> None:
        if kind not in _KINDS:
            raise ValueError(f"an array of {str(kind)[:20]!r}, not of numbers")
        self.kind, self.order = kind, "<"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[1] not in _BYTE_ORDERS:
            raise ValueError("an unknown byte order")
        self.order = state[1]


class _Array:
    """Stands for ``numpy.ndarray``: its bytes, once they have come."""

    values: NDArray[Any] | None = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, is_fortran, raw = state
        if not isinstance(dtype, _Dtype) or not isinstance(raw, bytes):
            raise ValueError("an array of objects, not of numbers")
        found = np.frombuffer(raw, np.dtype(dtype.order + dtype.kind))
        if prod(shape) != len(found):
            raise ValueError("an array that is cut off")
        self.values = found.reshape(shape, order="F" if is_fortran else "C")


def _reconstruct(kind: type, shape: tuple[int, ...], code: bytes) -> _Array:
    """The empty array that its state then fills."""
    if kind is not _Array:
        raise ValueError("an array of an unknown class")
    return _Array()


def _encode(text: str, encoding: str) -> bytes:
    """How pickles of protocol 2 write bytes."""
    if encoding != "latin1":
        raise ValueError("bytes of an unknown encoding")
    return text.encode("latin1")


_NAMES: list[tuple[Callable[..., Any], str]] = [
    (_Dtype, "numpy.dtype"),
    (_Array, "numpy.ndarray"),
    (_reconstruct, "numpy.core.multiarray._reconstruct"),  # numpy 1
    (_reconstruct, "numpy._core.multiarray._reconstruct"),
    (_encode, "_codecs.encode"),
]


def load(path: str) -> Any:
    """What a ``torch.save`` file holds: numpy arrays, or a dict or list that has some; tensors become arrays.

    Raises ``ValueError`` for a file that is damaged, or asks for anything but arrays and tensors.
    """
    import torch

    try:
        with torch.serialization.safe_globals([*_NAMES]):
            found = torch.load(path, map_location="cpu", weights_only=True)
        return _plain(found)
    except OSError:
        raise
    except Exception as error:  # torch raises whatever a hostile file leads it to
        raise ValueError(_why(str(error))) from None


def _plain(value: Any) -> Any:
    """Tensors and arrays as numpy arrays."""
    import torch

    if isinstance(value, _Array):
        return value.values
    if isinstance(value, torch.Tensor):
        value = value.detach().to_dense()
        return (value.float() if value.dtype == torch.bfloat16 else value).numpy()
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    return [_plain(entry) for entry in value] if isinstance(value, list | tuple) else value


def _why(text: str) -> str:
    if asked := re.search(r"GLOBAL (\S+)", text):
        return f"asks for {asked[1]}, and nothing but arrays and tensors is read"
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    return f"is no readable torch file: {lines[-1][:200] if lines else 'it is cut off'}"
