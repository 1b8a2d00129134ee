"""CLIP scores of further texts of an image, from one encoding of it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("open_clip")

from pairsieve.filters import _clip_flow  # noqa: E402
from pairsieve.filters.clip_score import ClipScore  # noqa: E402
from pairsieve.pipelines.plan import make_plan  # noqa: E402
from pairsieve.pipelines.recipe import check  # noqa: E402
from pairsieve.pipelines.recipe_file import from_data  # noqa: E402
from pairsieve.schemas.errors import RecipeError  # noqa: E402
from tests.support_clip import CLIP, SIGLIP, opened, reference, write_model  # noqa: E402

Photo = Callable[..., bytes]
LISTS = pa.list_(pa.string())


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A vision transformer of random weights."""
    return write_model(tmp_path_factory.mktemp("models") / "vit", CLIP)


@pytest.fixture(scope="module")
def siglip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another, of another size of picture."""
    return write_model(tmp_path_factory.mktemp("models") / "siglip", SIGLIP, seed=1)


def batch(images: list[bytes | None], texts: list[str | None], **columns: pa.Array) -> pa.RecordBatch:
    """What the filter is given."""
    return pa.record_batch({"image": pa.array(images, pa.binary()), "text": pa.array(texts, pa.string())} | columns)


def some(photo: Photo, count: int) -> tuple[list[bytes | None], list[str | None], list[list[str | None]]]:
    """Distinct images, their texts, and 0 to 5 captions of many lengths each."""
    images: list[bytes | None] = [photo(40 + i, 70 - i, seed=i) for i in range(count)]
    captions: list[list[str | None]] = [
        [f"caption {j} of {i}" + " and more" * (7 * j % 30) for j in range(i % 6)] for i in range(count)
    ]
    return images, [f"a red circle {i}" for i in range(count)], captions


def test_texts_score_as_by_open_clip(photo: Photo, vit: Path, siglip: Path) -> None:
    """Each caption and a column of plain strings, by both models, to 1e-5; web scores keep their bits."""
    images, texts, captions = some(photo, 8)
    pairs = batch(images, texts, caption=pa.array(captions, LISTS), title=pa.array([f"title {i}" for i in range(8)]))
    also = {"two": {"model": str(siglip)}}
    found = opened(vit, texts=("caption", "title"), also=also).score(pairs)
    alone = opened(vit, also=also).score(pairs.select(["image", "text"]))
    assert all(found[name].equals(alone[name]) for name in alone)
    for end, model in (("", vit), ("_two", siglip)):
        for i, own in enumerate(captions):
            want = [reference(model, images[i] or b"", one or "")["score"] for one in own]
            np.testing.assert_allclose(found[f"clip_score_caption{end}"][i].as_py(), want, atol=1e-5)
            want = [reference(model, images[i] or b"", f"title {i}")["score"]]
            np.testing.assert_allclose(found[f"clip_score_title{end}"][i].as_py(), want, atol=1e-5)


def test_bits_do_not_depend_on_batches(photo: Photo, vit: Path) -> None:
    """Parts of any size, taken ahead by threads or not, and half-full batches: the same scores of the same texts."""
    images, texts, captions = some(photo, 40)
    pairs = batch(images, texts, caption=pa.array(captions, LISTS))
    want = opened(vit, texts=("caption",)).score(pairs)
    for size, threads in ((1, None), (7, 2), (33, 1)):
        made = opened(vit, texts=("caption",), threads=threads)
        found = list(made.score_all(iter([pairs.slice(i, size) for i in range(0, 40, size)])))
        made.close()
        for name, column in want.items():
            assert pa.concat_arrays([one[name] for one in found]).equals(column)


def test_parts_wait_for_their_texts(photo: Photo, vit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A part whose captions alone are on their way is not handed back without them."""
    monkeypatch.setattr(_clip_flow, "MOST_WAITING", 1)
    images, texts, captions = some(photo, 30)
    captions = [[*own, f"a last one {i}"] for i, own in enumerate(captions)]
    pairs = batch(images, texts, caption=pa.array(captions, LISTS))
    found = opened(vit, texts=("caption",), batch_size=4).score_all(iter([pairs.slice(i, 3) for i in range(0, 30, 3)]))
    scores = [row for one in found for row in one["clip_score_caption"].to_pylist()]
    assert [len(row) for row in scores] == [len(own) for own in captions]
    assert all(one is not None for row in scores for one in row)


def test_what_has_no_score_is_null(photo: Photo, vit: Path) -> None:
    """Null and empty texts at their place, no list without a picture; captions also without a web text."""
    captions = pa.array([["a", None, " ", "b"], None, [], ["a"], ["a"], [None], ["a"]], LISTS)
    images = [photo(40, 40)] * 3 + [None, b"junk", photo(40, 40), photo(40, 40)]
    found = opened(vit, texts=("caption",)).score(batch(images, ["x", "x", "x", "x", "x", "x", None], caption=captions))
    lists = found["clip_score_caption"].to_pylist()
    assert [None if row is None else [one is None for one in row] for row in lists] == [
        [False, True, True, False], None, [], None, None, [True], [False],
    ]  # fmt: skip
    assert lists[6] == lists[0][:1] and found["clip_score"][6].as_py() is None
    assert found["clip_score_error"].to_pylist() == [None] * 3 + ["no_image", "broken_image", None, "no_text"]


def test_hostile_texts(photo: Photo, vit: Path) -> None:
    """A text of 100 kB, control characters, emoji: numbers."""
    texts = ["x" * 100_000, "a dog " * 20_000, "\0\1\x7f\u202e", "🐕‍🦺" * 500, "<start_of_text>"]
    pairs = batch([photo(40, 40)], ["a"], caption=pa.array([texts], LISTS))
    assert all(-1 <= one <= 1 for one in opened(vit, texts=("caption",)).score(pairs)["clip_score_caption"][0].as_py())


def test_an_image_is_encoded_once(photo: Photo, vit: Path) -> None:
    """However many texts there are, and also where the web text is missing."""
    made, seen = opened(vit, texts=("caption",), batch_size=4), list[int]()
    made._clips[0].model.visual.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    pairs = batch([photo(40, 40)] * 8, ["a", None] * 4, caption=pa.array([["a", "b", "c"]] * 8, LISTS))
    made.score(pairs)
    assert seen == [4, 4]


@pytest.mark.parametrize(
    ("chosen", "says"),
    [
        ({"texts": ["captoin"]}, "did you mean 'caption'"),
        ({"texts": ["count"]}, "holds no texts"),
        ({"texts": ["caption", "caption"]}, "stands there twice"),
        ({"texts": ["error"]}, "would be called 'clip_score_error'"),
        ({"texts": ["two"], "also": {"two": {"model": "pairsieve-demo"}}}, "would be called 'clip_score_two'"),
        ({"texts": ["caption"], "mode": "image", "embeddings": True}, "gives no score of 'texts'"),
        ({"texts": ["caption"], "model": None, "column": "clip"}, "'texts' needs a 'model'"),
    ],
)
def test_refused_by_the_plan(chosen: dict[str, Any], says: str) -> None:
    """Unknown columns, columns of something else, names that exist, and settings that measure nothing: one line."""
    types = {"image": pa.binary(), "text": pa.string(), "clip": pa.float32(), "count": pa.int32(), "caption": LISTS}
    types |= {"error": LISTS, "two": LISTS}
    settings = {name: value for name, value in ({"model": "pairsieve-demo"} | chosen).items() if value is not None}
    source = from_data({"pool": {"pairs": "x"}, "filters": [{"clip_score": settings}]})
    with pytest.raises(RecipeError, match=says) as caught:
        make_plan(source, *check(source), types)
    assert "\n" not in str(caught.value)


def test_columns_and_types() -> None:
    """The columns that are promised, with their names."""
    made = ClipScore(model="pairsieve-demo", texts=("caption",), also={"b": {"model": "pairsieve-demo"}})
    kinds = made.outputs({})
    assert kinds["clip_score_caption"] == kinds["clip_score_caption_b"] == pa.list_(pa.float32())
    assert made.inputs({}) == ("image", "text", "caption")
