"""Text detectors for tests: a DB-like network as a real ONNX file, and a class as a user writes one.

The network calls red pixels text: one 1×1 convolution and a sigmoid, written in ONNX's own format (protocol buffers).
"""

from pathlib import Path

import numpy as np

from pairsieve.filters._detector import Pixels, Polygon

RED = (230, 20, 20)


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def _field(number: int, value: int | bytes | str) -> bytes:
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    data = value.encode() if isinstance(value, str) else value
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def _tensor(name: str, values: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> bytes:
    dims = b"".join(_field(1, size) for size in values.shape)
    return dims + _field(2, 1) + _field(8, name) + _field(9, values.tobytes())


def _input(name: str, shape: tuple[int, ...]) -> bytes:
    dims = b"".join(_field(1, _field(1, size)) for size in shape)
    return _field(1, name) + _field(2, _field(1, _field(1, 1) + _field(2, dims)))


def _node(kind: str, inputs: tuple[str, ...], output: str) -> bytes:
    return b"".join(_field(1, name) for name in inputs) + _field(2, output) + _field(3, output) + _field(4, kind)


def write_red_detector(path: Path, size: int = 96, maps: int = 1) -> str:
    """A file that OpenCV loads: the probability of text is that of red."""
    weights = np.array([-30.0, -30.0, 60.0], np.float32).reshape(1, 3, 1, 1)  # of blue, green, red
    weights, bias = np.repeat(weights, maps, axis=0), np.full(maps, -15.0, np.float32)
    graph = _field(1, _node("Conv", ("x", "w", "b"), "c")) + _field(1, _node("Sigmoid", ("c",), "y")) + _field(2, "red")
    graph += _field(5, _tensor("w", weights)) + _field(5, _tensor("b", bias))
    graph += _field(11, _input("x", (1, 3, size, size))) + _field(12, _input("y", (1, maps, size, size)))
    path.write_bytes(_field(1, 8) + _field(7, graph) + _field(8, _field(2, 13)))
    return str(path)


class RedBox:
    """The box around all red pixels."""

    def polygons(self, pixels: Pixels) -> list[Polygon]:
        """See ``Detector``."""
        rows, columns = np.nonzero((pixels == RED).all(axis=2))
        if not len(rows):
            return []
        left, right, top, bottom = columns.min(), columns.max(), rows.min(), rows.max()
        return [np.array([[left, top], [right, top], [right, bottom], [left, bottom]], np.float32)]


class Blind:
    """Has no method that finds anything."""


class Broken:
    """Cannot be made."""

    def __init__(self) -> None:
        """Refuse."""
        raise RuntimeError("no licence\nfor this detector")


class Nonsense:
    """Finds what no image has."""

    def polygons(self, pixels: Pixels) -> list[Polygon]:
        """Corners that are no numbers, far outside, or too few."""
        wild = [[np.nan, 0], [np.inf, 5], [1e30, -1e30]], [[1, 1], [2, 2]], [[-50, -50], [4, -50], [4, 4], [-50, 4]]
        return [np.array(corners, np.float32) for corners in wild]
