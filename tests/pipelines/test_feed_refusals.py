"""What PairDataset cannot do is one line that says where, why and what next; broken images are counted, never fatal."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from pairsieve.pipelines.feed import PairDataset
from pairsieve.schemas.errors import DamagedFileError, UserError
from tests.support_feed import flat, numbers, pictures, write_dataset

GROUPS = [[6, 6], [6, 6, 6]]
ROWS = 30


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """30 rows; a column for each kind of bad weight."""
    bad = {
        "negative": pa.array([1.0] * 17 + [-0.5] + [1.0] * 12),
        "missing": pa.array([1.0] * 3 + [None] + [1.0] * 26),
        "nan": pa.array([1.0] * 29 + [float("nan")]),
        "endless": pa.array([float("inf")] + [1.0] * 29),
        "zero": pa.array([0] * 30),
        "number": pa.array(list(range(30))),
        "boxes": pa.array([[1.0]] * 30),
    }
    return write_dataset(tmp_path_factory.mktemp("run"), GROUPS, pictures(ROWS), **bad)


def refused(folder: str, **settings: Any) -> str:
    """What is said."""
    with pytest.raises(UserError) as caught:
        list(PairDataset(folder, **{"batch_size": 4, "image_size": 16, **settings}))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"batch_size": 0}, "batch_size: 0 is no whole number of 1 or more"),
        ({"batch_size": 2.5}, "batch_size: 2.5 is no whole number"),
        ({"image_size": 0}, "image_size: 0"),
        ({"workers": -1}, "workers: -1 is no whole number of 0 or more"),
        ({"workers": True}, "workers: True"),
        ({"seed": -1}, "seed: -1"),
        ({"window_bytes": 0}, "window_bytes: 0"),
        ({"decode": "quick"}, "decode: 'quick' is none of 'exact', 'fast' and 'bytes', nor a function, nor None"),
        ({"crop": "left"}, "crop: 'left' is neither 'random' nor 'center'"),
        ({"scale": (0, 1)}, "scale: (0, 1) are not shares"),
        ({"scale": (0.9, 0.8)}, "scale: (0.9, 0.8)"),
        ({"draw": "last"}, "draw: 'last' is neither 'weighted' nor 'first'"),
        ({"text": "txet"}, "has no column 'txet'; did you mean 'text'?"),
        ({"text": "number"}, "text: column 'number' is int64, not strings or lists of strings"),
        ({"pick": "nmber"}, "pick: "),
        ({"pick": "nan"}, "pick: column 'nan' is double, not integers"),
        ({"pick": "text", "text": ("text", "text")}, "pick: column 'text' is string, not integers"),
        ({"text": []}, "text: [] names no column"),
        ({"text": [3]}, "text: [3] names no column"),
        ({"text": 3}, "text: 3 names no column"),
        ({"normalize": 5}, "normalize: 5 is neither True nor False"),
        ({"normalize": "clip"}, "normalize: 'clip' is neither"),
        ({"normalize": ((0.5,) * 3, (0.0,) * 3)}, "is neither True nor False"),
        ({"rank": "0", "world": 1}, "rank: '0' is no whole number of 0 or more"),
        ({"rank": 0, "world": 1.5}, "world: 1.5 is no whole number of 1 or more"),
        ({"columns": ("nmber",)}, "did you mean 'number'?"),
        ({"columns": ("text",)}, "columns: 'text' is in every batch"),
        ({"weights": "weight"}, "weights: "),
        ({"weights": "negative"}, "'negative' is -0.5 in row 5 of 00001.parquet"),
        ({"weights": "missing"}, "'missing' is null in row 3 of 00000.parquet"),
        ({"weights": "nan"}, "'nan' is nan in row 17 of 00001.parquet"),
        ({"weights": "endless"}, "'endless' is inf in row 0 of 00000.parquet"),
        ({"weights": "zero"}, "all of column 'zero' is 0"),
        ({"weights": "text"}, "'text' is string, not numbers"),
        ({"weights": "boxes"}, "not numbers"),
        ({"rank": 1}, "give both 'rank' and 'world'"),
        ({"rank": 2, "world": 2}, "rank 2 of 2: ranks are 0 to world - 1"),
    ],
)
def test_settings(folder: str, settings: dict[str, Any], said: str) -> None:
    """Each is told in one line."""
    assert said in refused(folder, **settings)


@pytest.mark.parametrize("workers", [0, 1])
def test_whole_numbers_are_weights_too(folder: str, workers: int) -> None:
    """A column of integers says how often."""
    data = PairDataset(folder, weights="number", batch_size=50, decode=None, workers=workers)
    assert np.bincount(flat(numbers(data))).tolist() == list(range(30))


def test_a_rank_that_is_no_number(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment is named."""
    monkeypatch.setenv("RANK", "first")
    assert "the environment's RANK is 'first'" in refused(folder)


def test_a_place_without_a_dataset(tmp_path: Path) -> None:
    """A folder of other files, or nothing at all."""
    assert "no dataset here: no _manifest.json" in refused(str(tmp_path))
    assert "no dataset here" in refused(str(tmp_path / "nothing"))
    (tmp_path / "file").write_text("")
    assert "no dataset here" in refused(str(tmp_path / "file"))


def _other(**changes: Any) -> Callable[[dict[str, Any]], str]:
    return lambda manifest: json.dumps(manifest | changes)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda manifest: json.dumps(manifest)[:-20], "is not the manifest of a dataset in Parquet"),
        (lambda _: '{"shards": []}', "is not the manifest of a dataset in Parquet"),
        (_other(version="7"), "is of version 7, not 1"),
        (lambda m: json.dumps(m).replace('"rows": 12', '"rows": 13'), "contradicts itself"),
    ],
)
def test_a_manifest_that_is_none(tmp_path: Path, change: Callable[[dict[str, Any]], str], said: str) -> None:
    """It is named, with what to do."""
    write_dataset(tmp_path, GROUPS)
    path = tmp_path / "dataset" / "_manifest.json"
    path.write_text(change(json.loads(path.read_text())))
    assert said in refused(str(tmp_path))


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("how", ["missing", "cut", "another", "bit"])
def test_a_damaged_file(tmp_path: Path, workers: int, how: str) -> None:
    """It is named, also by a worker; a changed bit of a page is found where ``verify`` asks for it."""
    noise = np.random.default_rng(0)
    write_dataset(tmp_path, GROUPS, [noise.bytes(2000) for _ in range(ROWS)])
    path = tmp_path / "dataset" / "00001.parquet"
    content = bytearray(path.read_bytes())
    if how == "missing":
        path.unlink()
    elif how == "bit":
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    else:
        path.write_bytes(content[:-100] if how == "cut" else b"other" * 1000)
    data = PairDataset(tmp_path, decode="bytes", batch_size=4, workers=workers, verify=how == "bit")
    with pytest.raises(DamagedFileError, match=r"00001\.parquet is .*; run its recipe again") as caught:
        list(data)
    assert "\n" not in str(caught.value)


def test_a_dataset_without_images(tmp_path: Path) -> None:
    """Its texts can be had."""
    write_dataset(tmp_path, GROUPS)
    path = tmp_path / "dataset" / "_manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["columns"]["image"]
    path.write_text(json.dumps(manifest))
    assert "holds no images; decode=None gives its texts" in refused(str(tmp_path))
    assert len(list(PairDataset(tmp_path, decode=None, batch_size=10))) == 3


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"seed": 1}, "seed 0, this one has 1"),
        ({"window_bytes": 99}, "window_bytes 256000000, this one has 99"),
        ({"shuffle": False}, "shuffle True, this one has False"),
        ({"weights": "number"}, "weights None, this one has 'number'"),
    ],
)
def test_a_state_of_another_order(folder: str, change: dict[str, Any], said: str) -> None:
    """What differs is named."""
    state = PairDataset(folder).state_dict()
    with pytest.raises(UserError, match="load_state_dict: the state is of a dataset with") as caught:
        PairDataset(folder, **change).load_state_dict(state)
    assert said in str(caught.value)


@pytest.mark.parametrize("state", [{}, {"epoch": 1}, {"version": 1, "epoch": "x"}, {"a": [1]}])
def test_a_state_that_is_none(folder: str, state: dict[str, Any]) -> None:
    """It says so."""
    with pytest.raises(UserError, match="this is no state of a PairDataset"):
        PairDataset(folder).load_state_dict(state)


@pytest.mark.parametrize(
    "pieces",
    [[[0, 31, 0, 31]], [[-1, 3, 0, 4]], [[5, 4, 0, 0]], [[0, 4, 3, 2]], [[0, 4, 0, 5]], [[0, 30, 0, 30]] * 2],
)
def test_a_state_of_rows_that_are_not_there(folder: str, pieces: list[list[int]]) -> None:
    """One line when it is loaded, and the position stays."""
    data = PairDataset(folder)
    before = data.state_dict()
    with pytest.raises(UserError, match="pieces are none of an epoch of 30 rows"):
        data.load_state_dict(before | {"pieces": pieces})
    assert data.state_dict() == before


def test_workers_of_a_state_are_a_number(folder: str) -> None:
    """One line."""
    with pytest.raises(UserError, match="workers: '2' is no whole number of 0 or more"):
        PairDataset(folder).state_dict(batches=1, workers="2")  # type: ignore[arg-type]


def spoiled(rows: set[int]) -> list[bytes | None]:
    """Pictures, some of which are broken or missing."""
    return [
        None if i in rows and i % 2 else b"broken" if i in rows else image for i, image in enumerate(pictures(ROWS))
    ]


@pytest.mark.parametrize("decode", ["exact", "fast", "bytes"])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_image_is_replaced(tmp_path: Path, decode: Any, workers: int) -> None:
    """By the next row of its group, text and all; sizes stay, and the count is told."""
    bad = {3, 4, 5, 11, 20, 29} if decode != "bytes" else {3, 5, 11, 29}
    folder = write_dataset(tmp_path, GROUPS, spoiled(bad))
    data = PairDataset(folder, batch_size=4, image_size=16, decode=decode, workers=workers)
    batches = list(data)
    next_good = {3: 0, 4: 0, 5: 0, 11: 6, 20: 21, 29: 24} if decode != "bytes" else {3: 4, 5: 0, 11: 6, 29: 24}
    assert sorted(flat(numbers(batches))) == sorted(next_good.get(i, i) for i in range(ROWS))
    assert data.broken == sum(batch["broken"] for batch in batches) == len(bad)
    assert [len(batch["uid"]) for batch in batches] == [4] * 7 + [2]
    for batch, rows in zip(batches, numbers(batches), strict=True):
        assert batch["text"] == [f"text {i}" for i in rows]


def test_what_replaces_does_not_depend_on_batches(tmp_path: Path) -> None:
    """Nor on workers."""
    folder = write_dataset(tmp_path, GROUPS, spoiled({0, 3, 4, 11, 20, 29}))
    streams = [flat(numbers(PairDataset(folder, batch_size=b, image_size=16))) for b in (3, 7, 30)]
    assert streams[0] == streams[1] == streams[2]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_group_without_any_image(tmp_path: Path, workers: int) -> None:
    """Is no bad luck: one line names a row of it."""
    folder = write_dataset(tmp_path, GROUPS, spoiled(set(range(12, 18))))
    said = refused(folder, workers=workers)
    assert "no image of a whole row group can be decoded, that of uid 00000000000000000000000000000" in said


def test_a_function_of_the_users(tmp_path: Path) -> None:
    """It is given bytes and a key; tensors and arrays are stacked, else it is a list; what it refuses is broken."""
    folder = write_dataset(tmp_path, GROUPS)

    def decode(data: bytes, key: int) -> torch.Tensor:
        number = int(data.split()[1])
        if number == 7:
            raise ValueError("seven")
        return torch.tensor([number, key % 1000])

    data = PairDataset(folder, decode=decode, batch_size=4)
    batches = list(data)
    for batch, rows in zip(batches, numbers(batches), strict=True):
        assert batch["image"][:, 0].tolist() == rows
    assert data.broken == 1
    keys = torch.cat([batch["image"][:, 1] for batch in batches])
    again = PairDataset(folder, decode=decode, batch_size=9)
    assert torch.equal(torch.cat([batch["image"][:, 1] for batch in again]), keys)
    arrays = next(iter(PairDataset(folder, decode=lambda data, key: np.zeros(3), batch_size=4)))
    assert arrays["image"].shape == (4, 3)
    assert next(iter(PairDataset(folder, decode=lambda data, key: data[:5], batch_size=2)))["image"] == [b"image"] * 2


def test_a_function_that_always_fails(tmp_path: Path) -> None:
    """What it said is told."""
    folder = write_dataset(tmp_path, GROUPS)

    def decode(data: bytes, key: int) -> int:
        raise RuntimeError("no such codec")

    assert "(RuntimeError: no such codec)" in refused(folder, decode=decode)


def test_normalised_pictures(folder: str) -> None:
    """By CLIP's colours, or others; exactly torchvision's ToTensor and Normalize of the uint8 pictures."""
    from torchvision.transforms import functional as tv  # type: ignore[import-untyped]

    plain, clip, own = (
        next(iter(PairDataset(folder, image_size=16, batch_size=4, normalize=how)))["image"]
        for how in (False, True, ((0.5,) * 3, (0.25,) * 3))
    )
    assert plain.dtype == torch.uint8
    wanted = tv.normalize(
        plain.float() / 255, [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
    )
    assert torch.equal(clip, wanted)
    assert torch.equal(own, (plain.float() / 255 - 0.5) / 0.25)
