"""Embeddings from files and columns: what is read, and what is refused without being run."""

import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pairsieve.filters import _tensors
from pairsieve.filters._tensors import check_rows, embedding_files, load_array, load_embeddings, matrix_of, peek
from pairsieve.schemas.errors import UserError

ROWS = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)


def as_npy(path: Path, values: Any) -> str:
    """A ``.npy`` file."""
    np.save(path / "x.npy", values)
    return str(path / "x.npy")


def as_npz(path: Path, values: Any) -> str:
    """A compressed ``.npz`` file with two arrays."""
    np.savez_compressed(path / "x.npz", image_features=values, other=np.zeros(3))
    return str(path / "x.npz")


def as_array(path: Path, values: Any) -> str:
    """A numpy array inside ``torch.save``, as DataComp's centroids are."""
    torch.save(values, path / "x.pt")
    return str(path / "x.pt")


def as_tensors(path: Path, values: Any) -> str:
    """A dict with a tensor inside ``torch.save``, as DataComp's ImageNet embeddings are."""
    content = {"image_features": torch.from_numpy(values.astype(values.dtype.newbyteorder("="))), "classes": [1, 2]}
    torch.save(content, path / "x.pt")
    return str(path / "x.pt")


def as_old(path: Path, values: Any) -> str:
    """``torch.save`` before it wrote zip files."""
    torch.save(values, path / "x.pt", _use_new_zipfile_serialization=False)
    return str(path / "x.pt")


@pytest.mark.parametrize("write", [as_npy, as_npz, as_array, as_tensors, as_old])
@pytest.mark.parametrize("kind", ["f2", "f4", "f8", ">f4"])
def test_round_trip(tmp_path: Path, write: Callable[[Path, Any], str], kind: str) -> None:
    """What was written comes back as float32, from every format and float type."""
    written = ROWS.astype(kind)
    found = load_embeddings(write(tmp_path, written))
    assert found.dtype == np.float32
    assert np.array_equal(found, written.astype(np.float32))


def _as_is(values: Any) -> Any:
    return values


def _dict(values: Any) -> Any:
    return {"image_features": values, "other": np.zeros(3)}


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("is_zip", [True, False])
@pytest.mark.parametrize("wrap", [_as_is, _dict])
def test_pickle_protocols(tmp_path: Path, protocol: int, is_zip: bool, wrap: Callable[[Any], Any]) -> None:
    """Every protocol of torch.save is read, in both formats, whatever the float type and the order in memory."""
    path = tmp_path / "x.pt"
    for kind in ("f2", "f4", "f8"):
        array = ROWS.astype(kind)
        tensor = torch.from_numpy(array)
        for value in (array, np.asfortranarray(array), array.astype(f">{kind}"), tensor, tensor.t().contiguous().t()):
            torch.save(wrap(value), path, pickle_protocol=protocol, _use_new_zipfile_serialization=is_zip)
            assert np.array_equal(load_embeddings(str(path)), array.astype(np.float32))


@pytest.mark.parametrize("is_zip", [True, False])
def test_views_and_shared_storages(tmp_path: Path, is_zip: bool) -> None:
    """A tensor that is a part of another has its own rows, and one that needs gradients is read."""
    whole = torch.from_numpy(ROWS)
    content = {"whole": whole, "image_features": whole[1:4, 1:3], "learned": torch.nn.Parameter(whole.clone())}
    torch.save(content, tmp_path / "x.pt", _use_new_zipfile_serialization=is_zip)
    assert np.array_equal(load_embeddings(str(tmp_path / "x.pt")), ROWS[1:4, 1:3])
    assert np.array_equal(load_embeddings(str(tmp_path / "x.pt"), "learned"), ROWS)


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("is_zip", [True, False])
def test_many_arrays(tmp_path: Path, protocol: int, is_zip: bool) -> None:
    """Files of hundreds of arrays and tensors, lists and names are no danger: each is found by its name."""
    content: dict[str, Any] = {f"array {i}": ROWS + i for i in range(200)}
    content |= {f"tensor {i}": torch.from_numpy(ROWS + i) for i in range(200)}
    content |= {"names": [f"class {i}" for i in range(300)], "sizes": [tuple(ROWS.shape)] * 10}
    torch.save(content, tmp_path / "x.pt", pickle_protocol=protocol, _use_new_zipfile_serialization=is_zip)
    for name in ("array 0", "array 199", "tensor 7", "tensor 199"):
        found = load_embeddings(str(tmp_path / "x.pt"), name)
        assert np.array_equal(found, ROWS + int(name.split()[1]))


def test_fortran_order(tmp_path: Path) -> None:
    """An array that was saved column by column is the same array."""
    assert np.array_equal(load_embeddings(as_array(tmp_path, np.asfortranarray(ROWS))), ROWS)


def test_bfloat16(tmp_path: Path) -> None:
    """bfloat16, which numpy does not know, becomes float32."""
    torch.save(torch.ones(2, 3, dtype=torch.bfloat16), tmp_path / "x.pt")
    assert load_embeddings(str(tmp_path / "x.pt")).tolist() == [[1, 1, 1], [1, 1, 1]]


def test_numpy_1(tmp_path: Path) -> None:
    """A file that numpy 1 wrote names its functions differently, and is read."""
    with zipfile.ZipFile(as_array(tmp_path, ROWS)) as old, zipfile.ZipFile(tmp_path / "old.pt", "w") as new:
        for name in old.namelist():
            new.writestr(name, old.read(name).replace(b"numpy._core.", b"numpy.core."))
    assert np.array_equal(load_embeddings(str(tmp_path / "old.pt")), ROWS)


def test_glob(tmp_path: Path) -> None:
    """The files of a glob follow each other by name, whatever their format."""
    np.save(tmp_path / "b.npy", ROWS[2:])
    np.savez(tmp_path / "a.npz", ROWS[:2])
    (tmp_path / "c.npy").mkdir()
    assert np.array_equal(load_embeddings(f"{tmp_path}/*.np[yz]"), ROWS)


def test_literal_name(tmp_path: Path) -> None:
    """A file whose name looks like a glob is that file."""
    np.save(tmp_path / "x[1].npy", ROWS)
    assert embedding_files(f"{tmp_path}/x[1].npy") == (f"{tmp_path}/x[1].npy",)


class Payload:
    """Runs a command where it is unpickled."""

    def __init__(self, command: str) -> None:
        """Keep it."""
        self.command = command

    def __reduce__(self) -> tuple[Any, ...]:
        """What pickle would call."""
        return os.system, (self.command,)


@pytest.mark.parametrize("is_zip", [True, False])
@pytest.mark.parametrize("wrap", [lambda p: p, lambda p: {"image_features": p}, lambda p: np.array([p], object)])
def test_malicious(tmp_path: Path, is_zip: bool, wrap: Callable[[Any], Any]) -> None:
    """A file that would run a command is refused, names what it asked for, and the command does not run."""
    content = wrap(Payload(f"touch {tmp_path}/ran"))
    torch.save(content, tmp_path / "x.pt", _use_new_zipfile_serialization=is_zip)
    with pytest.raises(UserError, match=r"x\.pt: (asks for posix.system|.* array of 'O8')"):
        load_embeddings(str(tmp_path / "x.pt"))
    assert not (tmp_path / "ran").exists()


def stored(path: Path, content: bytes) -> str:
    """A zip file as torch.save writes, with this pickle."""
    with zipfile.ZipFile(path / "x.pt", "w") as file:
        file.writestr("x/data.pkl", content)
        file.writestr("x/data/0", bytes(16))
    return str(path / "x.pt")


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("wrap", [_as_is, _dict, lambda p: [{1: p}]])
def test_malicious_protocols(tmp_path: Path, protocol: int, wrap: Callable[[Any], Any]) -> None:
    """A command in a pickle of any protocol is refused and does not run."""
    content = pickle.dumps(wrap(Payload(f"touch {tmp_path}/ran")), protocol)
    with pytest.raises(UserError, match=r"asks for posix\.system, and nothing but arrays"):
        load_embeddings(stored(tmp_path, content))
    assert not (tmp_path / "ran").exists()


STORAGE = b"((X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x04tQ"
TENSOR = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n" + STORAGE


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"\x80\x02]r\xff\xff\xff\x7f.", "numbers more objects than it holds"),  # room for 2**31 objects
        (b"\x80\x02B\xff\xff\xff\x7f.", "is no readable torch file"),
        (b"\x80\x05\x96\xff\xff\xff\xff\xff\xff\xff\x00.", "is no readable torch file"),
        (b"\x80\x02\x82\x01.", "holds EXT1"),
        (b"\x80\x02cnumpy\ndtype\n}X\x01\x00\x00\x00aK\x01sb.", "would change numpy.dtype"),
        (b"\x80\x02cnumpy\nndarray\n)R.", "is no file of arrays and tensors"),
        (b"\x80\x02cnumpy\nndarray\n)\x81.", "NEWOBJ class argument"),
        (b"(ios\nsystem\n.", "asks for os.system"),
        (b"\x80\x02})q\x00" + b"h\x00\x86q\x00" * 60 + b"K\x01s.", "the same tuples again and again"),
        (b"\x80\x04})\x94" + b"".join(b"h%c\x86\x94" % i for i in range(60)) + b"K\x01s.", "the same tuples again"),
        (b"\x80\x02})" + b"2\x86" * 60 + b"K\x01s.", "holds DUP"),
        (TENSOR + b"K\x00(K\x02K\x02t(K\x02K\x01t\x89}tR.", None),
        (TENSOR + b"K\x01(K\x02K\x02t(K\x02K\x01t\x89}tR.", "no readable torch file"),  # begins a number too late
        (TENSOR + b"K\x00(K\x02K\x02t(K\x7fK\x01t\x89}tR.", "no readable torch file"),
        (TENSOR + b"K\x00(K\x7fK\x7ft(K\x00K\x00t\x89}tR.", "more values than are in the file"),
        (TENSOR + b"K\x00(J\xff\xff\xff\xffK\x02t(K\x02K\x01t\x89}tR.", "no possible shape"),
        (TENSOR.replace(b"K\x04tQ", b"J\xff\xff\xff\x7ftQ") + b"K\x00(K\x02K\x02t(K\x02K\x01t\x89}tR.", "is cut off"),
        (TENSOR.replace(b"X\x01\x00\x00\x000", b"X\x01\x00\x00\x009") + b"K\x00))\x89}tR.", "no readable torch file"),
    ],
)
def test_hostile_pickles(tmp_path: Path, content: bytes, says: str | None) -> None:
    """Pickles that claim what is not there, or touch what they may not, are one line with the cause."""
    path = stored(tmp_path, content)
    if says is None:
        assert load_embeddings(path).tolist() == [[0, 0], [0, 0]]
        return
    with pytest.raises(UserError, match=says) as error:
        load_embeddings(path)
    assert "\n" not in str(error.value)


def test_plain_pickle(tmp_path: Path) -> None:
    """A pickle that bears the name of an array or a torch file is refused and not run."""
    for name in ("x.npy", "x.npz", "x.pt"):
        (tmp_path / name).write_bytes(pickle.dumps(Payload(f"touch {tmp_path}/ran")))
        with pytest.raises(UserError, match=name):
            load_embeddings(str(tmp_path / name))
    assert not (tmp_path / "ran").exists()


def test_pickled_objects(tmp_path: Path) -> None:
    """Arrays of objects, which numpy would unpickle, are refused."""
    for write in (as_npy, as_npz, as_array):
        with pytest.raises(UserError, match="bject"):
            load_embeddings(write(tmp_path, np.array([[{"a": 1}]], object)))


@pytest.mark.parametrize("write", [as_npy, as_npz, as_array, as_tensors, as_old])
@pytest.mark.parametrize("share", [0.0, 0.4, 0.95])
def test_truncated(tmp_path: Path, write: Callable[[Path, Any], str], share: float) -> None:
    """A file that is cut off is one line with its name."""
    path = Path(write(tmp_path, np.random.default_rng(0).random((200, 64), np.float32)))
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(UserError, match=path.name) as error:
        load_embeddings(str(path))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("protocol", [2, 4, 5])
@given(data=st.data())
def test_damaged_torch_file(tmp_path_factory: pytest.TempPathFactory, protocol: int, data: st.DataObject) -> None:
    """Whatever bytes of an array's pickle change, the answer is an array or one line."""
    folder = tmp_path_factory.mktemp("x")
    path = folder / "x.pt"
    torch.save(ROWS, path, pickle_protocol=protocol, _use_new_zipfile_serialization=False)
    content = bytearray(path.read_bytes())
    for at in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=4)):
        content[at] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        assert load_embeddings(str(path)).ndim == 2
    except UserError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (np.zeros(3, np.float32), "holds 3 of float32"),
        (np.zeros((2, 3), np.int32), "of int32, not a float matrix"),
        (np.zeros((0, 3), np.float32), "holds 0 × 3|empty"),
        (np.array([[0, 1], [np.nan, 0]], np.float32), "row 1 is not finite"),
        (np.array([[0, 1], [1e300, 0]]), "row 1 is not finite in float32"),
    ],
)
def test_no_matrix(tmp_path: Path, values: Any, says: str) -> None:
    """What is no finite float matrix is refused."""
    with pytest.raises(UserError, match=says):
        load_embeddings(as_npz(tmp_path, values))


def test_missing(tmp_path: Path) -> None:
    """A file, match or array that is not there is named, with what there is."""
    with pytest.raises(UserError, match="no such file"):
        load_embeddings(str(tmp_path / "x.npy"))
    with pytest.raises(UserError, match="no file matches"):
        load_embeddings(f"{tmp_path}/*.npy")
    with pytest.raises(UserError, match=r"read from \.npy, \.npz, \.pt"):
        load_embeddings(__file__)
    with pytest.raises(UserError, match="has no array 'l14', but image_features, other"):
        load_embeddings(as_npz(tmp_path, ROWS), "l14")
    with pytest.raises(UserError, match="holds list, no array"):
        load_embeddings(as_tensors(tmp_path, ROWS), "classes")


def test_widths_differ(tmp_path: Path) -> None:
    """Files of different models do not go together."""
    np.save(tmp_path / "a.npy", ROWS)
    np.save(tmp_path / "b.npy", ROWS[:, :3])
    with pytest.raises(UserError, match=r"b\.npy: embeddings of width 3, those before have 4"):
        load_embeddings(f"{tmp_path}/*.npy")


def test_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A zip that would fill the memory is refused before it is unpacked."""
    monkeypatch.setattr(_tensors, "MOST_BYTES", 1000)
    with pytest.raises(UserError, match="would unpack to"):
        load_array(as_npz(tmp_path, np.zeros((100, 100), np.float32)))


KINDS = [pa.list_(pa.float32(), 4), pa.list_(pa.float16(), 4), pa.list_(pa.float32()), pa.large_list(pa.float64())]


@pytest.mark.parametrize("kind", KINDS)
def test_columns(kind: pa.DataType) -> None:
    """Rows of any list type come back in place; nulls and what is not finite have none; slices begin where they do."""
    rows = [[9.0] * 4, [1, 2, 3, 4], None, [1, None, 3, 4], [np.inf, 0, 0, 0], [5, 6, 7, 8], [9.0] * 4]
    column = pa.array(rows, kind).slice(1, 5)
    found, is_good = matrix_of(column, 4)
    assert is_good.tolist() == [True, False, False, False, True]
    assert found.tolist() == [[1, 2, 3, 4], [0] * 4, [0] * 4, [0] * 4, [5, 6, 7, 8]]


def test_column_of_other_width() -> None:
    """A row of another width has no embedding."""
    found, is_good = matrix_of(pa.array([[1.0], [1.0, 2.0], []], pa.list_(pa.float32())), 2)
    assert is_good.tolist() == [False, True, False]
    assert found[1].tolist() == [1, 2]


@pytest.mark.parametrize("kind", [pa.list_(pa.float32()), pa.large_list(pa.float16())])
def test_rows_of_another_model(kind: pa.DataType) -> None:
    """Rows that all have another width are refused with both widths; one broken pair, nulls and a mixture are not."""
    refused: list[list[Any]] = [[[1.0] * 3] * 2, [[1.0] * 3, None, [], [1.0] * 3], [[1.0] * 3] * 2 + [[1.0] * 5]]
    for rows in refused:
        with pytest.raises(UserError, match="column 'f' has embeddings of width 3, and the centroids have 4"):
            check_rows(pa.array(rows, kind), 4, "f", "the centroids have")
    fine: list[list[Any]] = [[], [None], [[]], [[1.0] * 3, None], [[1.0] * 3] * 2 + [[1.0] * 4]]
    for rows in fine:
        check_rows(pa.array(rows, kind), 4, "f", "the centroids have")


def test_column_of_another_model() -> None:
    """A type of another width is refused for one row, and not for nulls."""
    kind = pa.list_(pa.float16(), 3)
    with pytest.raises(UserError, match="width 3, and the targets have 4"):
        check_rows(pa.array([[1.0] * 3], kind), 4, "f", "the targets have")
    check_rows(pa.nulls(2, kind), 4, "f", "the targets have")


def test_peek(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files beyond the limit are not read, but the shapes of .npy files are told."""
    files = [as_npy(tmp_path, ROWS), as_array(tmp_path, ROWS), as_npz(tmp_path, ROWS)]
    assert [(file, whole) for file, _, whole in peek(files, "image_features")] == [(file, True) for file in files]
    monkeypatch.setattr(_tensors, "LOOK_BYTES", 100)
    assert [(file, values.shape, whole) for file, values, whole in peek(files)] == [(files[0], (5, 4), False)]


def test_empty_columns() -> None:
    """No rows, and rows that are all null, are no trouble."""
    for kind in KINDS:
        assert matrix_of(pa.array([], kind), 4)[0].shape == (0, 4)
        assert matrix_of(pa.nulls(3, kind), 4)[1].tolist() == [False] * 3
