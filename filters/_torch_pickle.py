"""The pickle inside a ``torch.save`` file, read without running anything that it says.

``torch.load(weights_only=True)`` knows protocol 2 only, and no numpy arrays; DataComp's centroids are
numpy arrays of protocol 4.  So the names that a pickle of arrays and tensors calls are answered by the
few functions below, which note where the numbers are; any other name is refused.  No class of numpy or
torch is ever reached, and the marks that stand for them can be neither changed nor made.
"""

import pickle
import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

_NUMBERS = {"f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8"}
_STORAGES = {
    "Half": "f2",
    "Float": "f4",
    "Double": "f8",
    "BFloat16": "bf16",
    "Char": "i1",
    "Short": "i2",
    "Int": "i4",
    "Long": "i8",
    "Byte": "u1",
}

_UNUSED = {"DUP", "POP", "POP_MARK", "EXT1", "EXT2", "EXT4", "NEXT_BUFFER"}
"""Opcodes that no pickle of arrays and tensors has."""
_MOST_TUPLES_AGAIN = 16


class Unreadable(ValueError):
    """What the file holds or asks for is not read; the text says what."""


@dataclass(frozen=True)
class Storage:
    """Numbers of one kind that lie elsewhere in the file."""

    kind: str
    key: str
    count: int

    @property
    def bytes(self) -> int:
        """Their size in the file."""
        return self.count * int(self.kind[-1] if self.kind != "bf16" else 2)


@dataclass(frozen=True)
class Tensor:
    """A view of a storage: offset and strides count numbers."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class Dtype:
    """Stands for ``numpy.dtype``: a kind of number and its byte order."""

    def __init__(self, kind: str, align: bool = False, copy: bool = True) -> None:
        if not isinstance(kind, str) or kind not in _NUMBERS:
            raise Unreadable(f"holds an array of {kind[:20] if isinstance(kind, str) else None!r}, not of numbers")
        self.kind, self.order = kind, "<"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if not isinstance(state[1], str) or state[1] not in {"<", ">", "|", "="}:
            raise Unreadable("holds an array of an unknown byte order")
        self.order = state[1]

    def of(self, raw: Any, shape: tuple[int, ...], order: str) -> NDArray[Any]:
        """The array of these bytes."""
        if not isinstance(raw, bytes | bytearray):
            raise Unreadable("holds an array of objects, not of numbers")
        found = np.frombuffer(raw, np.dtype(self.order + self.kind))
        return found.reshape(_counts(shape), order="F" if order == "F" else "C")


class Array:
    """Stands for ``numpy.ndarray``: its values, once they have come."""

    values: NDArray[Any] | None = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, is_fortran, raw = state
        if not isinstance(dtype, Dtype):
            raise Unreadable("holds an array of objects, not of numbers")
        self.values = dtype.of(raw, shape, "F" if is_fortran else "C")


class Names(dict[str, Any]):
    """Stands for ``collections.OrderedDict``; what a module's ``state_dict`` carries as attributes is left out."""

    def __setstate__(self, state: Any) -> None:
        """Versions of modules, which say nothing of the numbers."""


class _Name:
    """What a pickle's name stands for: it can be called, and not be changed."""

    __slots__ = ("_answer", "text")

    def __init__(self, text: str, answer: Callable[..., Any]) -> None:
        self.text, self._answer = text, answer

    def __call__(self, *values: Any) -> Any:
        return self._answer(*values)

    def __setstate__(self, state: Any) -> None:
        raise Unreadable(f"would change {self.text}")


def _counts(values: Any) -> tuple[int, ...]:
    """A shape or strides: no negative numbers, so that nothing is left for numpy to infer."""
    found = tuple(values)
    if any(type(each) is not int or each < 0 for each in found):
        raise Unreadable("holds an array of no possible shape")
    return found


def _reconstruct(kind: Any, shape: Any, code: Any) -> Array:
    """The empty array that its state then fills: pickles of protocols 0 to 4."""
    if getattr(kind, "text", None) != "numpy.ndarray":
        raise Unreadable("holds an array of an unknown class")
    return Array()


def _from_buffer(raw: Any, dtype: Any, shape: Any, order: Any) -> Array:
    """An array of its bytes: pickles of protocol 5."""
    found = Array()
    found.__setstate__((1, shape, dtype, order == "F", raw))
    return found


def _encode(text: str, encoding: str) -> bytes:
    """How pickles of protocols 0 to 2 write bytes."""
    if encoding != "latin1":
        raise Unreadable("holds bytes of an unknown encoding")
    return text.encode("latin1")


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> Tensor:
    """``torch._utils._rebuild_tensor_v2``; gradients and hooks are left out."""
    if not isinstance(storage, Storage):
        raise Unreadable("holds a tensor without a storage")
    return Tensor(storage, _counts([offset])[0], _counts(shape), _counts(strides))


def _parameter(tensor: Any, *_: Any) -> Any:
    return tensor


def _never(*_: Any) -> Any:
    raise Unreadable("is no file of arrays and tensors")


_ANSWERS: dict[str, Callable[..., Any]] = {
    "numpy.dtype": Dtype,
    "numpy.ndarray": _never,
    "_codecs.encode": _encode,
    "collections.OrderedDict": Names,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
    **{f"torch.{name}Storage": _never for name in _STORAGES},
    **{f"numpy.{core}.multiarray._reconstruct": _reconstruct for core in ("core", "_core")},  # numpy 1 and 2
    **{f"numpy.{core}.numeric._frombuffer": _from_buffer for core in ("core", "_core")},
}


class _Reader(pickle.Unpickler):
    """An unpickler that finds the names above and no others; notes the storages that it meets."""

    def __init__(self, source: IO[bytes], storages: dict[str, Storage]) -> None:
        super().__init__(source)
        self._storages = storages

    def find_class(self, module: str, name: str) -> Any:
        asked = f"{module}.{name}"
        if asked not in _ANSWERS:
            raise Unreadable(f"asks for {asked[:100]}, and nothing but arrays and tensors is read")
        return _Name(asked, _ANSWERS[asked])

    def persistent_load(self, pid: Any) -> Storage:
        what, kind, key, _, count, *view = pid
        name = getattr(kind, "text", "")
        if (
            not isinstance(key, str)
            or what != "storage"
            or not name.endswith("Storage")
            or any(each is not None for each in view)
        ):
            raise Unreadable("holds something other than arrays and tensors")
        found = Storage(_STORAGES[name[len("torch.") : -len("Storage")]], key, *_counts([count]))
        if self._storages.setdefault(found.key, found) != found:
            raise Unreadable("holds a storage of two kinds")
        return found


def read(source: IO[bytes], storages: dict[str, Storage] | None = None) -> Any:
    """What the pickle at the source's position holds, with ``Array`` and ``Tensor`` for arrays and tensors.

    Reads to the pickle's end and no further; ``storages`` gets those that it names, by their keys.  The
    source's ``read`` must give no more than there is (``BytesIO``, ``mmap``).  Raises ``Unreadable`` for
    another name, and whatever pickle raises for damage.
    """
    start = source.tell()
    _scan(source)
    source.seek(start)
    return _Reader(source, {} if storages is None else storages).load()


def _scan(source: IO[bytes]) -> None:
    """Refuse a pickle that would fill the memory or never end, before it is read.

    Tuples of one tuple twice, some fifty deep, take for ever where they are a dict's key.
    """
    is_tuple: dict[int, bool] = {}  # by number, of what is remembered
    top, again = False, 0
    for count, (code, value, _) in enumerate(pickletools.genops(source)):
        if code.name in _UNUSED:
            raise Unreadable(f"holds {code.name}, and nothing but arrays and tensors is read")
        if "PUT" in code.name or code.name == "MEMOIZE":
            number = len(is_tuple) if value is None else value
            if number > count:  # the unpickler would make room for as many
                raise Unreadable("is damaged: its pickle numbers more objects than it holds")
            is_tuple[number] = top
            continue
        top = is_tuple.get(value or 0, False) if "GET" in code.name else "TUPLE" in code.name
        again += top and "GET" in code.name
        if again > _MOST_TUPLES_AGAIN:
            raise Unreadable("holds the same tuples again and again, as no arrays and tensors do")
