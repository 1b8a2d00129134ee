"""Heads on embeddings, aesthetic and nsfw: LAION's published shapes in torch, files of any kind, hostile ones."""

import pickle
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray

from pairsieve.filters._heads import Head, HeadSettings
from pairsieve.filters._weights import read_arrays
from pairsieve.filters.aesthetic import Aesthetic
from pairsieve.filters.base import UnknownColumnError, scoring_settings
from pairsieve.filters.nsfw import H14, Nsfw
from pairsieve.schemas.errors import UserError

torch = pytest.importorskip("torch")
nn = torch.nn

WIDTH = 24


class Normalization(nn.Module):  # type: ignore[misc, name-defined]
    """As in LAION's port of its Keras models."""

    def __init__(self, width: int) -> None:
        """Of no mean and variance 1."""
        super().__init__()
        self.register_buffer("mean", torch.randn(width) * 0.1)
        self.register_buffer("variance", torch.rand(width) * 0.01 + 1e-4)

    def forward(self, x: Any) -> Any:
        """Of standard deviation 1."""
        return (x - self.mean) / (self.variance.sqrt() + 1e-10)


class Keras(nn.Module):  # type: ignore[misc, name-defined]
    """LAION's NSFW heads of ViT-L/14 (768-64-512-256-1) and B/32 (512-32-32-1)."""

    def __init__(self, *widths: int) -> None:
        """Layers of these widths, called linear_1, linear_2, …"""
        super().__init__()
        self.norm = Normalization(widths[0])
        self.names = [f"linear_{i}" for i in range(1, len(widths))]
        for name, (before, after) in zip(self.names, pairwise(widths), strict=True):
            self.add_module(name, nn.Linear(before, after))

    def forward(self, x: Any) -> Any:
        """Chances."""
        x = self.norm(x)
        for name in self.names[:-1]:
            x = getattr(self, name)(x).relu()
        return getattr(self, self.names[-1])(x).sigmoid()


class Layers(nn.Module):  # type: ignore[misc, name-defined]
    """A ``Sequential`` called layers."""

    def __init__(self, *layers: Any) -> None:
        """Of these."""
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Any) -> Any:
        """What it gives."""
        return self.layers(x)


def mlp(width: int = 768, relu: bool = False) -> Any:
    """The improved aesthetic predictor, with or without ReLU; both files are published."""
    found: list[Any] = []
    for before, after, drop in ((width, 1024, 0.2), (1024, 128, 0.2), (128, 64, 0.1), (64, 16, None)):
        found += [nn.Linear(before, after), *([nn.ReLU()] if relu else []), *([nn.Dropout(drop)] if drop else [])]
    return Layers(*found, nn.Linear(16, 1))


def h14() -> Any:
    """LAION's NSFW head of ViT-H/14."""
    found: list[Any] = []
    for before, after in pairwise(H14[:-2]):
        found += [nn.Linear(before, after), nn.ReLU(), nn.Dropout(0.2)]
    return Layers(*found, nn.Linear(128, 16), nn.Linear(16, 1))


def spread(model: Any) -> Any:
    """Weights that give scores of some size, so that a wrong activation shows."""
    with torch.no_grad():
        for values in model.parameters():
            values *= 3
    return model.eval()


def embeddings(width: int, rows: int = 700, length: float = 1.0) -> NDArray[np.float32]:
    """Random vectors of some length."""
    found = np.random.default_rng(0).standard_normal((rows, width)).astype(np.float32)
    return np.asarray(found / np.linalg.norm(found, axis=1, keepdims=True) * length, np.float32)


def column(vectors: NDArray[Any]) -> pa.RecordBatch:
    """As stored."""
    return pa.record_batch(
        {"clip_image": pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1])}
    )


def scores(made: HeadSettings, pairs: pa.RecordBatch) -> pa.Array:
    """What the filter measures, checked first as a plan does."""
    made.check({"clip_image": pairs["clip_image"].type})
    made.open()
    (found,) = made.score(pairs).values()
    made.close()
    return found


def saved(model: Any, path: Path) -> str:
    """Its state_dict, as LAION's files are."""
    torch.save(model.state_dict(), path)
    return str(path)


CASES: dict[str, Any] = {
    "linear": (lambda: nn.Linear(768, 1), 768, Aesthetic, {}),
    "linear B/32": (lambda: nn.Linear(512, 1), 512, Aesthetic, {}),
    "MLP": (mlp, 768, Aesthetic, {}),
    "MLP with ReLU": (lambda: mlp(relu=True), 768, Aesthetic, {"activation": "relu"}),
    "NSFW L/14": (lambda: Keras(768, 64, 512, 256, 1), 768, Nsfw, {}),
    "NSFW B/32": (lambda: Keras(512, 32, 32, 1), 512, Nsfw, {}),
    "NSFW H/14": (h14, 1024, Nsfw, {}),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("is_zip", [True, False])
def test_published_shapes_score_as_in_torch(tmp_path: Path, name: str, is_zip: bool) -> None:
    """LAION's files as they were saved, in both formats of torch, with its defaults: what the module gives."""
    make, width, kind, settings = CASES[name]
    torch.manual_seed(0)
    model = spread(make())
    torch.save(model.state_dict(), tmp_path / "x.pth", _use_new_zipfile_serialization=is_zip)
    vectors = embeddings(width)
    with torch.inference_mode():
        wanted = model(torch.from_numpy(vectors))[:, 0].numpy()
    found = scores(kind(weights=str(tmp_path / "x.pth"), device="cpu", **settings), column(vectors)).to_numpy()
    assert wanted.std() > 0.01
    assert np.abs(found - wanted).max() < 2e-6 * max(1, np.abs(wanted).max())


@pytest.mark.parametrize(("name", "settings"), [("MLP", {"activation": "relu"}), ("NSFW L/14", {"output": "none"})])
def test_another_setting_gives_other_scores(tmp_path: Path, name: str, settings: dict[str, Any]) -> None:
    """What is between the layers and after them is no matter of taste."""
    make, width, kind, _ = CASES[name]
    weights = saved(spread(make()), tmp_path / "x.pth")
    pairs = column(embeddings(width, 50))
    one, other = (scores(kind(weights=weights, **given), pairs).to_numpy() for given in ({}, settings))
    assert np.abs(one - other).max() > 0.01


def test_sigmoid_is_what_is_said(tmp_path: Path) -> None:
    """``auto`` is a sigmoid but for LAION's head of ViT-H/14; either can be asked for."""
    for model, is_sigmoid in ((Keras(WIDTH, 4, 1), True), (h14(), False)):
        weights = saved(model, tmp_path / "x.pth")
        pairs = column(embeddings(H14[0] if model.__class__ is Layers else WIDTH, 20))
        auto, yes, no = (scores(Nsfw(weights=weights, output=o), pairs).to_numpy() for o in ("auto", "sigmoid", "none"))
        assert np.allclose(yes, 1 / (1 + np.exp(-no)), atol=1e-6)
        assert np.array_equal(auto, yes if is_sigmoid else no)


def test_a_module_list_has_an_activation_after_each_layer() -> None:
    """Where numbers follow each other without a gap, they tell nothing of what is between."""
    arrays = {f"layers.{i}.weight": np.eye(4 if i < 2 else 1, 4, dtype=np.float32) * -1 for i in range(3)}
    assert [layer.is_relu for layer in Head.of(arrays, "relu").layers] == [True, True, False]
    assert len(Head.of(arrays, "none").layers) == 1


def test_layers_are_in_the_order_of_their_numbers() -> None:
    """The tenth comes after the second, whatever the order in the file."""
    arrays = {f"l.{i}.weight": np.full((1, 1), i, np.float32) for i in (10, 2, 0)}
    arrays["l.10.bias"] = np.array([0.5], np.float32)
    head = Head.of(arrays | {"l.0.weight": np.full((1, 3), 7, np.float32)}, "none")
    assert head.layers[0].weight.tolist() == [[140.0]] * 3
    assert head.layers[0].bias.tolist() == [0.5]


@pytest.mark.parametrize("name", ["MLP", "NSFW L/14"])
def test_neighbours_change_nothing(tmp_path: Path, name: str) -> None:
    """Bit by bit: any order, any batch."""
    make, width, kind, _ = CASES[name]
    made = kind(weights=saved(spread(make()), tmp_path / "x.pth"), device="cpu")
    vectors = embeddings(width, 1300).astype(np.float16)
    whole = scores(made, column(vectors)).to_numpy()
    order = np.random.default_rng(1).permutation(len(vectors))
    assert np.array_equal(scores(made, column(vectors[order])).to_numpy(), whole[order])
    parts = [scores(made, column(vectors[i : i + 77])).to_numpy() for i in range(0, 1300, 77)]
    assert np.array_equal(np.concatenate(parts), whole)


def test_length_does_not_matter_but_where_it_is_asked_for(tmp_path: Path) -> None:
    """Embeddings are brought to length 1, unless they are to be taken as they are."""
    weights = saved(nn.Linear(WIDTH, 1), tmp_path / "x.pth")
    short, long = (column(embeddings(WIDTH, length=length)) for length in (1.0, 20.0))
    made = Aesthetic(weights=weights)
    assert np.allclose(scores(made, short).to_numpy(), scores(made, long).to_numpy(), atol=1e-6)
    raw = Aesthetic(weights=weights, normalise=False)
    assert np.allclose(scores(raw, short).to_numpy(), scores(made, short).to_numpy(), atol=1e-6)
    assert not np.allclose(scores(raw, long).to_numpy(), scores(made, short).to_numpy(), atol=1e-2)


@pytest.mark.parametrize("kind", [pa.list_(pa.float16()), pa.list_(pa.float32(), WIDTH), pa.large_list(pa.float64())])
def test_what_has_no_embedding_is_null(tmp_path: Path, kind: pa.DataType) -> None:
    """Null, zero, not finite, and of another width where the type allows it; its neighbours have their scores."""
    weights = saved(nn.Linear(WIDTH, 1), tmp_path / "x.pth")
    good = embeddings(WIDTH, 2)
    rows: list[Any] = [good[0].tolist(), None, [0.0] * WIDTH, [float("nan")] * WIDTH, [float("inf")] * WIDTH]
    rows += [good[1].tolist(), [1.0] * (WIDTH if pa.types.is_fixed_size_list(kind) else 3)]
    found = scores(Nsfw(weights=weights), pa.record_batch({"clip_image": pa.array(rows, kind)}))
    last = pa.types.is_fixed_size_list(kind)
    assert found.is_valid().to_pylist() == [True, False, False, False, False, True, last]
    alone = scores(Nsfw(weights=weights), column(good))
    assert np.allclose([found[0].as_py(), found[5].as_py()], alone.to_numpy(), atol=1e-3)


def test_no_rows(tmp_path: Path) -> None:
    """An empty batch, and one of nulls alone."""
    made = Aesthetic(weights=saved(nn.Linear(WIDTH, 1), tmp_path / "x.pth"))
    kind = pa.list_(pa.float16(), WIDTH)
    for rows in ([], [None] * 3):
        assert scores(made, pa.record_batch({"clip_image": pa.array(rows, kind)})).null_count == len(rows)


def as_npz(arrays: dict[str, Any], path: Path) -> str:
    """A compressed file of named arrays."""
    np.savez_compressed(path / "x.npz", **arrays)
    return str(path / "x.npz")


def as_safetensors(arrays: dict[str, Any], path: Path) -> str:
    """The hub's format."""
    from safetensors.numpy import save_file

    save_file({name: np.ascontiguousarray(values) for name, values in arrays.items()}, path / "x.safetensors")
    return str(path / "x.safetensors")


def as_checkpoint(arrays: dict[str, Any], path: Path) -> str:
    """A state_dict within a checkpoint, of parameters that need gradients."""
    content = {"state_dict": {name: nn.Parameter(torch.tensor(values)) for name, values in arrays.items()}, "epoch": 3}
    torch.save(content, path / "x.pt")
    return str(path / "x.pt")


@pytest.mark.parametrize("write", [as_npz, as_safetensors, as_checkpoint])
def test_every_format_gives_the_same(tmp_path: Path, write: Any) -> None:
    """Named arrays in any file are the same head."""
    model = Keras(WIDTH, 6, 1)
    arrays = {name: values.numpy() for name, values in model.state_dict().items()}
    pairs = column(embeddings(WIDTH))
    one, other = (scores(Nsfw(weights=w), pairs) for w in (saved(model, tmp_path / "x.pth"), write(arrays, tmp_path)))
    assert one.equals(other)


def test_bfloat16_safetensors_are_one_line(tmp_path: Path) -> None:
    """numpy has no such type."""
    from safetensors.torch import save_file

    save_file({"weight": torch.zeros(1, WIDTH, dtype=torch.bfloat16)}, tmp_path / "x.safetensors")
    with pytest.raises(UserError, match=r"x\.safetensors: .*(bfloat16|holds)"):
        scores(Aesthetic(weights=str(tmp_path / "x.safetensors")), column(embeddings(WIDTH)))


BAD = [
    ({}, "is damaged|holds 0"),
    ({"weight": np.zeros((2, 4), np.float32)}, "gives 2 values, not one score"),
    ({"weight": np.zeros(4, np.float32)}, "weight holds 4 of float32, not a matrix"),
    ({"weight": np.zeros((1, 4), np.int64)}, "of int64, not a matrix of floats"),
    ({"weight": np.full((1, 4), np.nan, np.float32)}, "weight holds values that are not finite"),
    ({"bias": np.zeros(1, np.float32)}, "bias without a weight"),
    ({"weight": np.zeros((1, 4), np.float32), "bias": np.zeros(2, np.float32)}, "bias has 2 values, and the layer 1"),
    (
        {"a.0.weight": np.zeros((3, 4), np.float32), "a.1.weight": np.zeros((1, 5), np.float32)},
        r"a\.1 takes 5 values, and what comes before gives 3",
    ),
    ({"weight": np.zeros((1, 4), np.float32), "bn.running_mean": np.zeros(4, np.float32)}, "running_mean, not mean"),
    ({"weight": np.zeros((1, 4), np.float32), "category_mapper": np.zeros(4, np.float32)}, "'category_mapper'"),
    (
        {"weight": np.zeros((1, 4), np.float32), "n.mean": np.zeros(4), "n.variance": -np.ones(4)},
        "n.variance is no variance of 4 values",
    ),
    (
        {"weight": np.zeros((1, 4), np.float32), "n.mean": np.zeros(5), "n.variance": np.ones(5)},
        "the layer takes 4 values, and what comes before gives 5",
    ),
]


@pytest.mark.parametrize(("arrays", "says"), BAD)
def test_no_chain_of_layers_is_one_line(tmp_path: Path, arrays: dict[str, Any], says: str) -> None:
    """What a file holds instead is said, with its name, before anything runs."""
    file = as_npz(arrays, tmp_path) if arrays else saved(nn.Dropout(), tmp_path / "x.pth")
    with pytest.raises(UserError, match=says) as caught:
        Aesthetic(weights=file).check({"clip_image": pa.list_(pa.float16(), 4)})
    assert "\n" not in str(caught.value)
    assert file in str(caught.value)


class Evil:
    """Runs a command where it is unpickled."""

    def __reduce__(self) -> Any:
        """Makes a file."""
        return (Path.touch, (Path("evil"),))


@pytest.mark.parametrize("ending", [".pth", ".npz", ".safetensors"])
@pytest.mark.parametrize("content", [b"", b"x" * 100, pickle.dumps(Evil()), b"PK\x03\x04" + b"\0" * 50, b"\xff" * 64])
def test_hostile_files_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str, content: bytes
) -> None:
    """Of any bytes under any name; nothing of theirs is run."""
    monkeypatch.chdir(tmp_path)
    Path(f"x{ending}").write_bytes(content)
    with pytest.raises(UserError, match=f"x{ending}") as caught:
        read_arrays(Path(f"x{ending}"))
    assert "\n" not in str(caught.value)
    assert not Path("evil").exists()


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("ending", [".pth", ".npz", ".safetensors"])
def test_files_that_are_cut_off_are_one_line(tmp_path: Path, ending: str, share: float) -> None:
    """With the name of the file."""
    arrays = {"weight": np.ones((1, 700), np.float32)}
    if ending == ".pth":
        torch.save({"weight": torch.ones(1, 700)}, tmp_path / "x.pth")
    else:
        (as_npz if ending == ".npz" else as_safetensors)(arrays, tmp_path)
    file = tmp_path / f"x{ending}"
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(UserError, match=f"x{ending}"):
        read_arrays(file)


def test_a_file_that_unpacks_to_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before it is unpacked."""
    monkeypatch.setattr("pairsieve.filters._weights.MOST_BYTES", 1000)
    file = as_npz({"weight": np.zeros((1, 5000), np.float32)}, tmp_path)
    assert Path(file).stat().st_size < 1000
    with pytest.raises(UserError, match="more than 0"):
        read_arrays(Path(file))


def test_mistakes_are_one_line(tmp_path: Path) -> None:
    """Missing files and columns, other columns, other models, other endings."""
    weights = saved(nn.Linear(WIDTH, 1), tmp_path / "x.pth")
    kind = pa.list_(pa.float16(), WIDTH)
    with pytest.raises(UnknownColumnError, match="did you mean 'clip_image'"):
        Aesthetic(weights=weights, embeddings="clip_imag").check({"clip_image": kind})
    with pytest.raises(ValueError, match="'text' is string, not embeddings"):
        Aesthetic(weights=weights, embeddings="text").check({"text": pa.string()})
    with pytest.raises(ValueError, match=f"takes embeddings of width {WIDTH}, and column 'clip_image' has width 7"):
        Aesthetic(weights=weights).check({"clip_image": pa.list_(pa.float16(), 7)})
    with pytest.raises(UserError, match=r"no file .*none\.pth"):
        Aesthetic(weights=str(tmp_path / "none.pth")).check({"clip_image": kind})
    (tmp_path / "x.h5").touch()
    with pytest.raises(UserError, match=r"weights are read from \.pth"):
        Aesthetic(weights=str(tmp_path / "x.h5")).check({"clip_image": kind})
    with pytest.raises(ValueError, match="not of the form hf-hub:org/name/file"):
        Aesthetic(weights="hf-hub:org/name").check({"clip_image": kind})
    other = pa.record_batch({"clip_image": pa.array([[1.0] * 5] * 2, pa.list_(pa.float16()))})
    with pytest.raises(UserError, match=f"of width 5, and the head takes {WIDTH}"):
        scores(Aesthetic(weights=weights), other)


def test_a_file_of_the_hub_is_fetched_by_the_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By repository and file; what the hub raises is one line with the next step."""
    import huggingface_hub

    weights = saved(nn.Linear(WIDTH, 1), tmp_path / "x.pth")
    asked = []

    def fetch(repository: str, name: str) -> str:
        asked.append((repository, name))
        if name != "heads/x.pth":
            raise OSError("offline\nmore")
        return weights

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fetch)
    pairs = column(embeddings(WIDTH, 3))
    made = Aesthetic(weights="hf-hub:org/name/heads/x.pth")
    assert made.files() == ()
    assert scores(made, pairs).equals(scores(Aesthetic(weights=weights), pairs))
    assert asked == [("org/name", "heads/x.pth")]
    with pytest.raises(UserError, match=r"cannot fetch 'hf-hub:org/name/y.pth': offline; download the file"):
        scores(Aesthetic(weights="hf-hub:org/name/y.pth"), pairs)


def test_weights_are_in_the_fingerprint_and_thresholds_are_not(tmp_path: Path) -> None:
    """A file's content counts; ``max``, ``min``, ``top`` and the device do not."""
    weights = saved(nn.Linear(WIDTH, 1), tmp_path / "x.pth")
    assert Nsfw(weights=weights).files() == (weights,)
    assert set(scoring_settings(Nsfw(weights=weights))) == {
        "embeddings",
        "weights",
        "normalise",
        "activation",
        "output",
    }
    assert set(scoring_settings(Aesthetic(weights=weights))) == {"embeddings", "weights", "normalise", "activation"}


def test_nsfw_keeps_up_to_its_most() -> None:
    """0.5 unless told otherwise; what has no score goes, but where every pair stays."""
    pairs = pa.record_batch({"nsfw": pa.array([0.1, 0.5, None, 0.51], pa.float32())})
    assert Nsfw(weights="x.pth").keep(pairs).to_pylist() == [None, None, "no_embedding", "above_max"]
    assert Nsfw(weights="x.pth", max=0.1).keep(pairs).to_pylist() == [None, "above_max", "no_embedding", "above_max"]
    assert Nsfw(weights="x.pth", max=None).keep(pairs).null_count == 4


def test_aesthetic_keeps_by_min_and_top() -> None:
    """As clip_score does."""
    pairs = pa.record_batch({"aesthetic": pa.array([4.0, 5.5, None, 6.5], pa.float32())})
    made, settled = Aesthetic(weights="x.pth", top=0.25), dict[str, Any]()
    while not made.is_settled(settled):
        settled = made.settle(made.summarize(pairs, settled), settled)
    assert made.keep(pairs, settled).to_pylist() == ["below_top", None, "no_score", None]
    assert Aesthetic(weights="x.pth", min=5.5).keep(pairs, {}).to_pylist() == ["below_min", None, "no_score", None]
