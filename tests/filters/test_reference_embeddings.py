"""The nearest reference: exact, the same whatever the batch, and from files that may be hostile."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pairsieve.filters._reference_embeddings import Nearest, unit
from pairsieve.filters._reference_files import embeddings_of, widths_of
from pairsieve.schemas.errors import UserError
from tests.support_references import cosine, write_embeddings

RNG = np.random.default_rng(3)
VECTORS = RNG.standard_normal((900, 24)).astype(np.float32)
REFERENCES = RNG.standard_normal((5000, 24)).astype(np.float32)
NUMBERS = st.sampled_from([-2.0, -1.0, -0.5, 0.0, 0.25, 1.0, 3.0])


def nearest(folder: Path, sets: dict[str, Any], **settings: Any) -> Nearest:
    """Sets of one file each."""
    return Nearest({name: [write_embeddings(folder / f"{name}.npy", sets[name])] for name in sorted(sets)}, **settings)


@given(arrays(np.float32, (7, 3), elements=NUMBERS), arrays(np.float32, (6, 3), elements=NUMBERS))
def test_it_is_the_greatest_product(
    tmp_path_factory: pytest.TempPathFactory, vectors: np.ndarray[Any, Any], references: np.ndarray[Any, Any]
) -> None:
    """With ties, zeros and negative products: value and the first of equal sets, against nested loops."""
    sets = {"b": references[:2], "a": references[2:5], "c": references[5:]}
    values, places = nearest(tmp_path_factory.mktemp("sets"), sets, is_unit=False).find(vectors)
    for vector, value, place in zip(vectors.tolist(), values, places, strict=True):
        best = {
            name: max(sum(a * b for a, b in zip(vector, row, strict=True)) for row in sets[name].tolist())
            for name in sorted(sets)
        }
        assert value == max(best.values())
        assert sorted(sets)[place] == next(name for name in best if best[name] == value)


def test_it_is_the_greatest_cosine(tmp_path: Path) -> None:
    """Lengths of both sides do not matter: against Python's own arithmetic."""
    few = REFERENCES[:40] * RNG.uniform(1e-3, 1e3, (40, 1)).astype(np.float32)
    values, places = nearest(tmp_path, {"b": few[:25], "a": few[25:]}).find(VECTORS[:60] * np.float32(7))
    for vector, value, place in zip(VECTORS.tolist(), values, places, strict=False):
        cosines = [cosine(vector, row) for row in few.tolist()]
        assert abs(value - max(cosines)) < 2e-7
        assert place == (cosines.index(max(cosines)) < 25)


@pytest.mark.parametrize("is_unit", [True, False])
def test_neighbours_change_nothing(tmp_path: Path, is_unit: bool) -> None:
    """Bit by bit: other batches, another order, other threads; the value is the float64 product, rounded once."""
    made = nearest(tmp_path, {"a": REFERENCES[:4999], "b": REFERENCES[4999:]}, is_unit=is_unit)
    values, places = made.find(VECTORS)
    order = np.random.default_rng(1).permutation(len(VECTORS))
    assert np.array_equal(made.find(VECTORS[order])[0], values[order])
    edges = [0, 1, 2, *range(9, len(VECTORS), 70), len(VECTORS)]
    parts = [made.find(VECTORS[i:j]) for i, j in pairwise(edges)]
    assert np.array_equal(np.concatenate([part for part, _ in parts]), values)
    assert np.array_equal(np.concatenate([part for _, part in parts]), places)
    one, other = (unit(VECTORS)[0], unit(REFERENCES)[0]) if is_unit else (VECTORS, REFERENCES)
    exact = (one.astype(np.float64) @ other.astype(np.float64).T).max(axis=1)
    assert np.abs(values - exact).max() <= np.spacing(np.float32(exact.max())) / 2 + 1e-12


def test_nearly_equal_references_are_told_apart(tmp_path: Path) -> None:
    """References that differ in the last bit: the set is that of the greater one, wherever it stands."""
    base = unit(REFERENCES[:1])[0]
    above = base.copy()
    place = int(np.abs(base).argmax())
    above[0, place] = np.nextafter(above[0, place], np.float32(np.inf) * np.sign(above[0, place]))
    for sets, wanted in (({"a": above, "b": base}, 0), ({"a": base, "b": above}, 1)):
        _, places = nearest(tmp_path, sets, is_unit=False).find(np.repeat(base, 3, axis=0))
        assert places.tolist() == [wanted] * 3


def test_what_has_no_direction(tmp_path: Path) -> None:
    """A vector of zeros has no cosine, and product 0; a product beyond float32 has no value."""
    zeros = np.zeros((1, 24), np.float32)
    values, places = nearest(tmp_path, {"a": REFERENCES[:9]}).find(zeros)
    assert np.isnan(values).all() and places.tolist() == [-1]
    assert nearest(tmp_path, {"a": REFERENCES[:9]}, is_unit=False).find(zeros)[0].tolist() == [0]
    huge = np.full((1, 24), 3e38, np.float32)
    assert np.isnan(nearest(tmp_path, {"a": huge}, is_unit=False).find(huge)[0]).all()
    assert abs(nearest(tmp_path, {"a": huge}).find(huge)[0][0] - 1) < 2e-7
    tiny = np.full((1, 24), 1e-45, np.float32)
    assert abs(nearest(tmp_path, {"a": tiny}).find(huge)[0][0] - 1) < 2e-7


@pytest.mark.parametrize("name", ["r.npy", "r.npz", "r.pt", "r.parquet"])
@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_every_kind_of_file(tmp_path: Path, name: str, kind: Any) -> None:
    """The same matrix from all formats and types."""
    values, path = REFERENCES[:30].astype(kind), tmp_path / name
    if name.endswith(".pt"):
        torch.save({"x": torch.from_numpy(values)}, path)
    else:
        write_embeddings(path, values)
    assert np.array_equal(embeddings_of(str(path)), values.astype(np.float32))
    assert list(widths_of([str(path)])) == [(str(path), 24)]


def parquet(path: Path, rows: list[Any], kind: pa.DataType | None = None, **more: Any) -> str:
    """A Parquet file with a column of lists."""
    pq.write_table(pa.table({"x": pa.array(rows, kind or pa.list_(pa.float32())), **more}), path)
    return str(path)


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([[1.0, 2], None], "row 1 of column 'x' has no finite embedding of width 2"),
        ([[1.0, 2], [1.0]], "row 1 of column 'x'"),
        ([[1.0, 2], [1.0, float("nan")]], "row 1 of column 'x'"),
        ([[1.0, 2], [1.0, None]], "row 1 of column 'x'"),
        ([None], "row 0 has no embedding"),
        ([[]], "row 0 has no embedding"),
        ([], "holds no row"),
    ],
)
def test_bad_rows_of_parquet(tmp_path: Path, rows: list[Any], says: str) -> None:
    """A reference that cannot be compared is a mistake with its row, before and in a run."""
    path = parquet(tmp_path / "x.parquet", rows)
    with pytest.raises(UserError, match=rf"x\.parquet: {says}"):
        embeddings_of(path)
    with pytest.raises(UserError, match=rf"x\.parquet: {says}"):
        list(widths_of([path]))


def test_columns_of_parquet(tmp_path: Path) -> None:
    """Several columns of embeddings want a key; one that is not there, or none, is said with what there is."""
    two = parquet(tmp_path / "two.parquet", [[1.0]], **{"y.z": pa.array([[2.0]])})
    with pytest.raises(UserError, match=r"has 2 columns of embeddings .*: 'x', 'y.z'; set 'key'"):
        embeddings_of(two)
    assert embeddings_of(two, "y.z").tolist() == [[2]]
    with pytest.raises(UserError, match=r"has no column 'w', but 'x', 'y.z'"):
        embeddings_of(two, "w")
    none = parquet(tmp_path / "none.parquet", [1], pa.int32())
    with pytest.raises(UserError, match=r"has no columns of embeddings .*: 'x'; set 'key'"):
        embeddings_of(none)
    with pytest.raises(UserError, match="column 'x' is int32, not embeddings"):
        embeddings_of(none, "x")


def test_hostile_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pickles, damaged and too large files are refused with one line."""
    np.save(tmp_path / "pickled.npy", np.array([[{"a": 1}]], object), allow_pickle=True)
    write_embeddings(tmp_path / "cut.parquet", REFERENCES)
    content = (tmp_path / "cut.parquet").read_bytes()
    (tmp_path / "cut.parquet").write_bytes(content[:-100])
    (tmp_path / "bent.parquet").write_bytes(content[:200] + b"\xff" * 2000 + content[2200:])
    (tmp_path / "empty.npz").write_bytes(b"")
    for name in ("pickled.npy", "cut.parquet", "bent.parquet", "empty.npz"):
        with pytest.raises(UserError, match=name) as error:
            embeddings_of(str(tmp_path / name))
        assert "\n" not in str(error.value)
    monkeypatch.setattr("pairsieve.filters._reference_files.MOST_BYTES", 1 << 10)
    with pytest.raises(UserError, match=r"column 'x' would unpack to .* GiB"):
        embeddings_of(write_embeddings(tmp_path / "large.parquet", REFERENCES))


def test_sets_of_two_models(tmp_path: Path) -> None:
    """Widths that differ, and zeros that have no cosine, are said with set and file."""
    with pytest.raises(UserError, match=r"references: b: .*b\.npy: embeddings of width 7, those before have 24"):
        nearest(tmp_path, {"a": REFERENCES, "b": REFERENCES[:, :7]})
    zero = REFERENCES[:3].copy()
    zero[1] = 0
    with pytest.raises(UserError, match=r"references: a: .*a\.npy: row 1 is all zeros"):
        nearest(tmp_path, {"a": zero})
    nearest(tmp_path, {"a": zero}, is_unit=False)
