"""NormSim: how strongly an image points at the images of a target task (Wang et al., arXiv 2405.19547).

The norm of an image's inner products with all targets, on stored embeddings: no model is run.  ``p: 2``
needs the targets' second-moment matrix only: 1.2 MFLOP a pair for a width of 768, 32,000 pairs a
CPU-second (and 31 CPU-µs a target when a worker starts); ``p: inf`` one product with each target, 2 GFLOP
a pair for ImageNet-1k's 1.28 M, 38 pairs a CPU-second.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field, PrivateAttr

from pairsieve.filters._products import Matrix, blocks, device_of, fixed, resources_of
from pairsieve.filters._ranked import Ranked
from pairsieve.filters._tensors import (
    FileNames,
    all_files,
    as_matrix,
    check_column,
    check_rows,
    each_file,
    load_embeddings,
    matrix_of,
    peek,
)
from pairsieve.filters.base import Resources, Runtime, UnknownColumnError
from pairsieve.schemas.errors import UserError

if TYPE_CHECKING:
    import torch

ROWS = {"cpu": 512, "cuda": 8192}
TARGETS = {"cpu": 4096, "cuda": 65_536}
"""Rows and targets of one product: 8 MB, which a CPU's caches hold; 2 GB on a GPU."""


class NormSim(Ranked):
    """‖E·e‖ₚ of the image's embedding e and the targets E (float32); keep by ``min`` or ``top``.

    ``p: inf`` is the greatest absolute inner product, ``p: 2`` the square root of the sum of squares, in
    float64.  Neither side is normalised: DataComp's features are.  The paper's targets are ImageNet-1k's
    train images or those of 24 downstream tasks; it takes the top 30 % of the pool by
    ``neg_clip_loss`` and of them the pairs whose ``p: inf`` is among the pool's top 20 %: here ``top: 0.667``
    of the survivors.  Reasons: ``no_score`` (null, of another width, or not finite), ``below_min``,
    ``below_top``.
    """

    writes = {"norm_sim": pa.float32()}
    batch_rows = 8192
    extra = "clip"
    loads_model = True

    image: str = Field("l14_img", description="column of image embeddings: lists of floats")
    targets: FileNames = Field(description="files or globs of target embeddings: .npy, .npz, .pt")
    key: str | None = Field(None, description="array of a file with several; default: its only one, or image_features")
    p: Literal["inf", 2] = Field("inf", description="the norm: inf or 2")
    device: Runtime[Literal["auto", "cpu", "cuda"]] = Field("auto", description="auto: the GPU where there is one")

    _targets: "torch.Tensor | None" = PrivateAttr(None)

    def needs(self) -> tuple[str, ...]:
        return ("torch",)

    def inputs(self, available: Mapping[str, pa.DataType]) -> tuple[str, ...]:
        return (self.image,)

    def check(self, available: Mapping[str, pa.DataType]) -> None:
        if self.image not in available:
            raise UnknownColumnError(self.image, available)
        width = check_column(available[self.image], self.image)
        for file, values, is_whole in peek(self.files(), self.key):
            found = as_matrix(values if is_whole else values[:1], f"targets: {file}").shape[1]
            if width not in (None, found):
                text = f"embeddings of width {found}, and column {self.image!r} has width {width}"
                raise ValueError(f"targets: {file} holds {text}; give one model's")

    def files(self) -> tuple[str, ...]:
        return all_files(self.targets)

    @property
    def _named(self) -> tuple[str, ...]:
        return (self.targets,) if isinstance(self.targets, str) else self.targets

    def resources(self) -> Resources:
        return resources_of(self.device)

    def open(self) -> None:
        import torch

        found = self._moments() if self.p == 2 else _joined([load_embeddings(name, self.key) for name in self._named])
        self._targets = torch.from_numpy(np.require(found, requirements=["C", "W"])).to(device_of(self.device))

    def close(self) -> None:
        self._targets = None

    def _moments(self) -> NDArray[np.float64]:
        """float64[d, d]: the sum of the targets' outer products, file by file."""
        found: NDArray[np.float64] | None = None
        for name in self._named:
            for matrix in each_file(name, self.key):
                _check_width(matrix, found)
                part = _second_moments(matrix)
                found = part if found is None else found + part
        assert found is not None
        return found

    def score(self, pairs: pa.RecordBatch) -> dict[str, pa.Array]:
        assert self._targets is not None
        check_rows(pairs[self.image], self._targets.shape[1], self.image, "the targets have")
        vectors, is_good = matrix_of(pairs[self.image], self._targets.shape[1])
        scores = np.empty(len(vectors), np.float32)
        measure = _length if self.p == 2 else _greatest
        with fixed():
            for start, count, block in blocks(vectors, ROWS[self._targets.device.type]):
                scores[start : start + count] = measure(block, self._targets)[:count]
        return {"norm_sim": pa.array(scores, mask=~is_good | ~np.isfinite(scores))}


def _length(block: Matrix, moments: "torch.Tensor") -> NDArray[np.float64]:
    """√(eᵀ M e): the 2-norm over all targets."""
    import torch

    there = torch.from_numpy(block).to(moments.device, torch.float64)
    squares = ((there @ moments) * there).sum(dim=1)
    return np.asarray(squares.clamp(min=0).sqrt().cpu().numpy())


def _greatest(block: Matrix, targets: "torch.Tensor") -> Matrix:
    """The greatest absolute product with a target."""
    import torch

    there = torch.from_numpy(block).to(targets.device)
    found = torch.zeros(len(block), device=targets.device)
    size = TARGETS[targets.device.type]
    for part in (targets[start : start + size] for start in range(0, len(targets), size)):
        products = there @ part.T
        torch.maximum(found, torch.maximum(products.amax(dim=1), -products.amin(dim=1)), out=found)
    return np.asarray(found.cpu().numpy())


def _second_moments(matrix: Matrix) -> NDArray[np.float64]:
    """float64[d, d], in blocks, so that no second copy of all targets is needed."""
    import torch

    width = matrix.shape[1]
    found = torch.zeros((width, width), dtype=torch.float64)
    with fixed():
        for _, _, block in blocks(matrix, 4096):
            part = torch.from_numpy(block).double()
            found += part.T @ part
    return np.array(found.numpy())


def _joined(parts: list[Matrix]) -> Matrix:
    for part in parts[1:]:
        _check_width(part, parts[0])
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _check_width(matrix: Matrix, other: NDArray[np.floating] | None) -> None:
    if other is not None and other.shape[1] != matrix.shape[1]:
        raise UserError(f"norm_sim: targets of width {matrix.shape[1]} and of width {other.shape[1]}; give one model's")
