"""Small networks on stored CLIP embeddings, out of a file: chains of linear layers, as LAION publishes them.

Layers with no activation between them are one linear layer, and are computed as one: LAION's aesthetic MLP
of 0.9 million weights is a product with 768.  Blocks have a fixed shape, so a score does not depend on neighbours.
"""

import re
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field, PrivateAttr

from pairsieve.filters._of_embeddings import OfEmbeddings
from pairsieve.filters._products import device_of, fixed, resources_of
from pairsieve.filters._tensors import check_rows
from pairsieve.filters._vectors import ROWS, blocks, product, unit, vectors_of
from pairsieve.filters._weights import Arrays, check_name, fetched, is_on_hub, local, read_arrays
from pairsieve.filters.base import Resources, Runtime
from pairsieve.schemas.errors import UserError

if TYPE_CHECKING:
    import torch

Matrix = NDArray[np.float64]
Activation = Literal["none", "relu"]

LEAST_DEVIATION = 1e-7
"""Keras divides by at least this in its normalisation layer."""


@dataclass(frozen=True)
class Layer:
    """y = x·weight + bias, then max(y, 0) where ``is_relu``; float64[in, out] and [out]."""

    weight: Matrix
    bias: Matrix
    is_relu: bool


@dataclass(frozen=True)
class Head:
    """x − mean over deviation where there is one, then the layers; the last gives one value."""

    layers: tuple[Layer, ...]
    mean: Matrix | None
    deviation: Matrix | None
    shape: tuple[int, ...]

    @property
    def width(self) -> int:
        """Of the embeddings that it takes."""
        return self.shape[0]

    @staticmethod
    def of(arrays: Arrays, activation: Activation) -> "Head":
        """The head of a file's arrays: ``<layer>.weight`` [out, in] and ``.bias``, ``<norm>.mean`` and ``.variance``.

        Layers follow each other by the numbers in their names.  With ``relu`` there is one after each but the
        last, and but where a ``Sequential``'s numbers leave no room for it (``layers.15`` and ``layers.16`` in a
        file whose other numbers have gaps).  Raises ``ValueError`` for anything else.
        """
        arrays, mean, deviation = _normalisation(dict(arrays))
        names = _layer_names(arrays)
        weights = [_array(arrays, f"{name}weight", 2) for name in names]
        shape = _shape(names, weights, mean)
        relu = _relus(names) if activation == "relu" else [False] * len(names)
        layers = [
            Layer(weight.T, _bias(arrays, name, len(weight)), is_relu)
            for name, weight, is_relu in zip(names, weights, relu, strict=True)
        ]
        return Head(tuple(_folded(layers)), mean, deviation, shape)

    def opened(self, device: "torch.device") -> "OpenHead":
        """Ready to score on a device."""
        import torch

        def there(values: Matrix | None) -> Any:
            return None if values is None else torch.from_numpy(values.astype(np.float32)).to(device)

        layers = tuple((there(each.weight), there(each.bias), each.is_relu) for each in self.layers)
        return OpenHead(layers, there(self.mean), there(self.deviation), self.width, device)


@dataclass(frozen=True)
class OpenHead:
    """A head's numbers on a device, float32."""

    layers: "tuple[tuple[torch.Tensor, torch.Tensor, bool], ...]"
    mean: "torch.Tensor | None"
    deviation: "torch.Tensor | None"
    width: int
    device: "torch.device"

    def scores(self, column: pa.Array, normalise: bool, is_sigmoid: bool) -> NDArray[np.float32]:
        """float32[n]: what the head gives for each embedding, NaN where there is none."""
        found = np.full(len(column), np.nan, np.float32)
        with fixed():
            vectors = vectors_of(column, self.width)
            units, is_good = unit(vectors)
            for start, block in blocks(units if normalise else vectors, ROWS[self.device.type]):
                values = self._values(block.to(self.device))
                values = values.sigmoid() if is_sigmoid else values
                part = found[start : start + len(block)]
                part[:] = values.cpu().numpy()[: len(part)]
            found[~is_good.numpy()] = np.nan
        return found

    def _values(self, block: "torch.Tensor") -> "torch.Tensor":
        if self.mean is not None and self.deviation is not None:
            block = (block - self.mean) / self.deviation
        for weight, bias, is_relu in self.layers:
            block = product(block, weight) + bias
            block = block.relu_() if is_relu else block
        return block[:, 0]


class HeadSettings(OfEmbeddings):
    """Settings of a filter that scores a column of embeddings by a head, and what opens and runs it."""

    batch_rows = 8192
    extra = "clip"
    loads_model = True

    weights: str = Field(description="the head: .pth, .pt, .npz or .safetensors, or hf-hub:org/name/file")
    normalise: bool = Field(True, description="bring embeddings to length 1 first, as LAION's heads want them")
    device: Runtime[Literal["auto", "cpu", "cuda"]] = Field("auto", description="auto: the GPU where there is one")

    _head: OpenHead | None = PrivateAttr(None)
    _shape: tuple[int, ...] = PrivateAttr(())

    @property
    @abstractmethod
    def between(self) -> Activation:
        """What is between the layers."""

    def needs(self) -> tuple[str, ...]:
        return ("torch",)

    def check(self, available: Mapping[str, pa.DataType]) -> None:
        width = self.column_width(available)
        check_name(self.weights)
        if is_on_hub(self.weights):
            return  # fetched by the workers, which look
        head = self._read()
        if width not in (None, head.width):
            text = f"takes embeddings of width {head.width}, and column {self.embeddings!r} has width {width}"
            raise ValueError(f"weights: {self.weights} {text}; give one model's")

    def files(self) -> tuple[str, ...]:
        return () if is_on_hub(self.weights) else (str(local(self.weights)),)

    def resources(self) -> Resources:
        return resources_of(self.device)

    def open(self) -> None:
        head = self._read()
        self._head, self._shape = head.opened(device_of(self.device)), head.shape

    def close(self) -> None:
        self._head = None

    def _read(self) -> Head:
        path = fetched(self.weights)
        try:
            return Head.of(read_arrays(path), self.between)
        except ValueError as error:
            raise UserError(f"weights: {self.weights}: {error}") from None

    def measured(self, column: pa.Array, is_sigmoid: bool) -> pa.Array:
        """float32: the head's value of each embedding; null where there is none."""
        assert self._head is not None
        check_rows(column, self._head.width, self.embeddings, "the head takes")
        found = self._head.scores(column, self.normalise, is_sigmoid)
        return pa.array(found, mask=~np.isfinite(found))


def _normalisation(arrays: Arrays) -> tuple[Arrays, Matrix | None, Matrix | None]:
    """The arrays without a normalisation layer's, its mean and deviation."""
    names = [name for name in arrays if name.endswith(("mean", "variance"))]
    heads = {name.removesuffix("mean").removesuffix("variance") for name in names}
    if not names:
        return arrays, None, None
    if len(heads) > 1 or len(names) != 2:
        raise ValueError(f"holds {', '.join(names[:5])}, not mean and variance of one normalisation")
    (head,) = heads
    mean, variance = (_array(arrays, f"{head}{end}", 1) for end in ("mean", "variance"))
    if mean.shape != variance.shape or (variance < 0).any():
        raise ValueError(f"{head}variance is no variance of {len(mean)} values")
    rest = {name: values for name, values in arrays.items() if name not in names}
    return rest, mean, np.maximum(np.sqrt(variance), LEAST_DEVIATION)


def _layer_names(arrays: Arrays) -> list[str]:
    """``layers.0.``, ``layers.2.``, … (empty for a bare layer), by the numbers in them."""
    for name in arrays:
        if name not in ("weight", "bias") and not name.endswith((".weight", ".bias")):
            raise ValueError(f"holds {name[:80]!r}, which is of no linear layer; only chains of those are read")
    names = {name.removesuffix("weight").removesuffix("bias") for name in arrays}
    found = sorted(names, key=lambda name: [(int(n), "") if n.isdigit() else (-1, n) for n in _parts(name)])
    if not found:
        raise ValueError("holds no layer")
    for name in found:
        if f"{name}weight" not in arrays:
            raise ValueError(f"holds {name[:80]}bias without a weight")
    return found


def _parts(name: str) -> list[str]:
    return re.split(r"(\d+)", name)


def _array(arrays: Arrays, name: str, dimensions: int) -> Matrix:
    """A finite float array as float64."""
    values = arrays[name]
    if values.ndim == dimensions + 1 and len(values) == 1:
        values = values[0]  # Keras keeps a mean as [1, n]
    if values.ndim != dimensions or values.dtype.kind != "f" or not values.size:
        shape = " × ".join(map(str, values.shape)) or "a single value"
        what = "a matrix" if dimensions == 2 else "a vector"
        raise ValueError(f"{name[:80]} holds {shape} of {values.dtype}, not {what} of floats")
    found = values.astype(np.float64)
    if not (np.abs(found) < np.finfo(np.float32).max).all():
        raise ValueError(f"{name[:80]} holds values that are not finite, or beyond float32")
    return found


def _bias(arrays: Arrays, name: str, size: int) -> Matrix:
    if f"{name}bias" not in arrays:
        return np.zeros(size)
    found = _array(arrays, f"{name}bias", 1)
    if len(found) != size:
        raise ValueError(f"{name[:80]}bias has {len(found)} values, and the layer {size}")
    return found


def _shape(names: Sequence[str], weights: Sequence[Matrix], mean: Matrix | None) -> tuple[int, ...]:
    """Widths from the embedding to the score; refuse layers that do not fit each other."""
    width = weights[0].shape[1] if mean is None else len(mean)
    found = [width]
    for name, weight in zip(names, weights, strict=True):
        if weight.shape[1] != found[-1]:
            layer = name.rstrip(".")[:80] or "the layer"
            raise ValueError(f"{layer} takes {weight.shape[1]} values, and what comes before gives {found[-1]}")
        found.append(weight.shape[0])
    if found[-1] != 1:
        raise ValueError(f"its last layer gives {found[-1]} values, not one score")
    return tuple(found)


def _relus(names: Sequence[str]) -> list[bool]:
    """Whether an activation follows each layer."""
    numbers = [int(match[1]) if (match := re.search(r"(?:^|\.)(\d+)\.$", name)) else None for name in names]
    gaps = [None if a is None or b is None else b - a for a, b in pairwise(numbers)]
    is_sequential = any(gap is not None and gap > 1 for gap in gaps)
    return [not (is_sequential and gap == 1) for gap in gaps] + [False]


def _folded(layers: Sequence[Layer]) -> list[Layer]:
    """Layers with nothing between them as one."""
    found: list[Layer] = []
    for layer in layers:
        if found and not found[-1].is_relu:
            before = found.pop()
            weight, bias = before.weight @ layer.weight, before.bias @ layer.weight + layer.bias
            layer = Layer(weight, bias, layer.is_relu)
        found.append(layer)
    return found
