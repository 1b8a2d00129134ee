"""NormSim: the norms of inner products with targets, from files of any kind."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray
from pydantic import ValidationError

from pairsieve.filters.base import UnknownColumnError
from pairsieve.filters.norm_sim import NormSim
from pairsieve.schemas.errors import UserError

torch = pytest.importorskip("torch")

WIDTH = 20
RNG = np.random.default_rng(0)
VECTORS = RNG.normal(size=(1300, WIDTH)).astype(np.float16)
TARGETS = RNG.normal(size=(5000, WIDTH)).astype(np.float32)


def column(vectors: NDArray[np.float16]) -> pa.RecordBatch:
    """Embeddings as a pool stores them."""
    return pa.record_batch({"l14_img": pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), WIDTH)})


def scores(pairs: pa.RecordBatch, **settings: Any) -> pa.Array:
    """What the filter measures."""
    made = NormSim(device="cpu", **settings)
    made.check({"l14_img": pairs["l14_img"].type})
    made.open()
    return made.score(pairs)["norm_sim"]


@pytest.fixture
def targets(tmp_path: Path) -> str:
    """Target embeddings in a file."""
    np.save(tmp_path / "t.npy", TARGETS)
    return str(tmp_path / "t.npy")


@pytest.mark.parametrize("p", ["inf", 2])
def test_it_is_the_norm_of_all_products(targets: str, p: Any) -> None:
    """Against numpy's norm in float64; the sign of a product does not matter."""
    products = VECTORS.astype(np.float64) @ TARGETS.astype(np.float64).T
    wanted = np.linalg.norm(products, ord=np.inf if p == "inf" else 2, axis=1)
    by_rows = np.abs(products).max(axis=1) if p == "inf" else np.sqrt((products**2).sum(axis=1))
    assert np.allclose(by_rows, wanted)
    found = scores(column(VECTORS), targets=targets, p=p).to_numpy()
    assert np.abs(found / wanted - 1).max() < 1e-6


@pytest.mark.parametrize("p", ["inf", 2])
def test_neighbours_change_nothing(targets: str, p: Any) -> None:
    """Bit by bit: any order, any batch."""
    whole = scores(column(VECTORS), targets=targets, p=p).to_numpy()
    order = np.random.default_rng(1).permutation(len(VECTORS))
    assert np.array_equal(scores(column(VECTORS[order]), targets=targets, p=p).to_numpy(), whole[order])
    parts = [scores(column(VECTORS[i : i + 77]), targets=targets, p=p).to_numpy() for i in range(0, 1300, 77)]
    assert np.array_equal(np.concatenate(parts), whole)


@pytest.mark.parametrize("p", ["inf", 2])
def test_targets_come_from_several_files(tmp_path: Path, targets: str, p: Any) -> None:
    """npy, npz and torch files, by globs and names, are one set of targets."""
    np.savez(tmp_path / "a.npz", image_features=TARGETS[:1000], other=TARGETS[:3])
    torch.save({"image_features": torch.from_numpy(TARGETS[1000:3000])}, tmp_path / "b.pt")
    np.save(tmp_path / "c.npy", TARGETS[3000:])
    found = scores(column(VECTORS), targets=tuple(str(tmp_path / n) for n in ("a.npz", "b.pt", "c.npy")), p=p)
    wanted = scores(column(VECTORS), targets=targets, p=p)
    assert np.abs(found.to_numpy() / wanted.to_numpy() - 1).max() < 1e-6


def test_what_cannot_be_measured_is_null(targets: str) -> None:
    """Null, of another width, not finite."""
    rows = [VECTORS[0].tolist(), None, [1.0] * 3, [float("nan")] * WIDTH, [6e4] * WIDTH]
    pairs = pa.record_batch({"l14_img": pa.array(rows, pa.list_(pa.float16()))})
    found = scores(pairs, targets=targets)
    assert found.is_valid().to_pylist() == [True, False, False, False, True]


def test_it_keeps_by_min_and_top(targets: str) -> None:
    """As clip_score does: the threshold, ties, and the reasons."""
    pairs = pa.record_batch({"norm_sim": pa.array([0.1, 0.5, None, 0.9], pa.float32())})
    made = NormSim(targets=targets, min=0.5)
    assert made.keep(pairs, {}).to_pylist() == ["below_min", None, "no_score", None]
    made, settled = NormSim(targets=targets, top=0.25), dict[str, Any]()
    while not made.is_settled(settled):
        settled = made.settle(made.summarize(pairs, settled), settled)
    assert made.keep(pairs, settled).to_pylist() == ["below_top", None, "no_score", None]
    assert NormSim(targets=targets).keep(pairs, {}).null_count == 4


def test_mistakes_are_one_line(tmp_path: Path, targets: str) -> None:
    """Missing files and columns, targets of two widths."""
    made = NormSim(targets=targets, image="l14_im")
    with pytest.raises(UnknownColumnError, match="did you mean 'l14_img'"):
        made.check({"l14_img": pa.list_(pa.float16(), WIDTH)})
    with pytest.raises(UserError, match="no such file"):
        NormSim(targets=str(tmp_path / "none.npy")).check({"l14_img": pa.list_(pa.float16(), WIDTH)})
    np.save(tmp_path / "other.npy", TARGETS[:, :7])
    for p in ("inf", 2):
        with pytest.raises(UserError, match="width"):
            NormSim(targets=(targets, str(tmp_path / "other.npy")), p=p, device="cpu").open()


@pytest.mark.parametrize("name", ["o.npy", "o.npz", "o.pt"])
def test_targets_of_another_model_are_refused(tmp_path: Path, name: str) -> None:
    """Before anything runs where the column's type tells its width, else by the worker; both widths are said."""
    file = str(tmp_path / name)
    if name.endswith(".pt"):
        torch.save(TARGETS[:, :8], file, pickle_protocol=4)
    else:
        (np.save if name.endswith(".npy") else np.savez)(file, TARGETS[:, :8])
    with pytest.raises(ValueError, match=f"of width 8, and column 'l14_img' has width {WIDTH}"):
        NormSim(targets=file).check({"l14_img": pa.list_(pa.float16(), WIDTH)})
    pairs = pa.record_batch({"l14_img": pa.array([[1.0] * WIDTH] * 2, pa.list_(pa.float16()))})
    with pytest.raises(UserError, match=f"of width {WIDTH}, and the targets have 8"):
        scores(pairs, targets=file)


def test_no_targets() -> None:
    """An empty list of targets is a mistake in the recipe."""
    with pytest.raises(ValidationError, match="names no file"):
        NormSim(targets=())


def test_targets_are_in_the_fingerprint(targets: str) -> None:
    """Other targets, other scores: their files are among those whose content counts."""
    assert NormSim(targets=targets).files() == (targets,)
