"""Steps of a pass share pictures and a tower's output, and get what they would have made alone."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from io import BytesIO
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from pairsieve.filters import _pictures_shared, _preprocess  # noqa: E402
from pairsieve.filters._pictures_shared import GPU_IMAGES, Encodings, Pictures, halving, images_at_once, weights_digest  # noqa: E402
from pairsieve.filters._preprocess import Preprocess  # noqa: E402
from pairsieve.filters._shared import Shared, digest  # noqa: E402
from pairsieve.filters.base import Opened  # noqa: E402
from pairsieve.filters.clip_score import ClipScore  # noqa: E402
from pairsieve.schemas.errors import UserError  # noqa: E402
from tests.support_capfilt import model  # noqa: E402

Photo = Callable[..., bytes]
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
CLIP = Preprocess((32, 32), MEAN, STD)
BLIP = Preprocess((48, 48), MEAN, STD, "bicubic", "squash", rgb_first=True)


@pytest.fixture
def decodings(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """How many pictures each decoding made."""
    seen: list[int] = []

    def counted(data: bytes | None, wanted: Any, fast: bool) -> Any:
        seen.append(len(wanted))
        return _preprocess.pixels(data, wanted, fast)

    monkeypatch.setattr(_pictures_shared, "pixels", counted)
    yield seen


def same(one: Any, other: Any) -> bool:
    """Pictures or errors of the same content."""
    return len(one) == len(other) and all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_an_image_is_decoded_once_for_steps_of_several_models(photo: Photo, decodings: list[int]) -> None:
    """The first step's decoding gives the second's pictures too, and they are the bits of its own."""
    shared, data = Shared(), photo(70, 50)
    first, second = Pictures(shared, [CLIP]), Pictures(shared, [BLIP, CLIP])
    assert same(first.of(data) + second.of(data), Pictures(None, [CLIP, BLIP, CLIP]).of(data))
    assert decodings == [2, 3]


def test_the_last_step_leaves_nothing_behind(photo: Photo, decodings: list[int]) -> None:
    """What it has read is no longer held, and what it makes is not held at all."""
    shared = Shared()
    first, second = Pictures(shared, [CLIP]), Pictures(shared, [CLIP])
    first.of(photo(70, 50))
    for _ in range(2):
        second.of(photo(70, 50))
    assert decodings == [1, 1] and shared.get((second._reader.kinds[0], digest(photo(70, 50)))) is None


@pytest.mark.parametrize("most", [0, 3_100, 9_300, 20_000])
def test_a_memory_that_is_too_small_changes_no_picture(photo: Photo, most: int) -> None:
    """Two steps that go through a chunk one after the other, with room for none, one, three or six of its pictures."""
    shared, images = Shared(most), [photo(50 + i, 40, seed=i) for i in range(10)]
    steps = [Pictures(shared, [CLIP]) for _ in range(2)]
    for step in steps:
        for data in images:
            assert same(step.of(data), Pictures(None, [CLIP]).of(data))


def test_a_step_alone_looks_for_nothing(photo: Photo, monkeypatch: pytest.MonkeyPatch) -> None:
    """No digest is taken, before the other step joins or after it left."""
    shared = Shared()
    only, other = Pictures(shared, [CLIP]), Pictures(shared, [CLIP])
    other.close()
    monkeypatch.setattr(_pictures_shared, "digest", None)
    assert len(only.of(photo(40, 40))) == 1


@pytest.mark.parametrize("data", [None, b"", b"no image", b"\xff\xd8\xff" + bytes(99)])
def test_what_has_no_picture_says_why(data: bytes | None) -> None:
    """The same errors as alone, from every step."""
    shared = Shared()
    first, second = Pictures(shared, [CLIP]), Pictures(shared, [BLIP])
    alone = Pictures(None, [CLIP, BLIP]).of(data)
    assert first.of(data) + second.of(data) == alone == ["no_image" if data is None else "broken_image"] * 2


def test_what_one_model_cannot_take_may_do_for_others(photo: Photo) -> None:
    """A line of pixels grows beyond all bounds when its shorter side is resized, and not when it is squashed."""
    data, shared = photo(9000, 2, kind="PNG"), Shared()
    huge = Preprocess((700, 700), MEAN, STD)
    first, second = Pictures(shared, [huge]), Pictures(shared, [BLIP])
    assert first.of(data) == ["too_many_pixels"]
    assert same(second.of(data), Pictures(None, [BLIP]).of(data)) and not isinstance(second.of(data)[0], str)


def test_fast_and_exact_pictures_are_not_mixed(photo: Photo, decodings: list[int]) -> None:
    """Each step gets its own."""
    pytest.importorskip("numba")
    shared, data = Shared(), photo(400, 300)
    exact, fast = Pictures(shared, [CLIP]), Pictures(shared, [CLIP], fast=True)
    assert same(exact.of(data) + fast.of(data), Pictures(None, [CLIP]).of(data) + Pictures(None, [CLIP], True).of(data))
    assert decodings == [1, 1, 1, 1]


def blip_processor() -> Any:
    """transformers' own, on Pillow: bit for bit BLIP's transform."""
    return transformers.BlipImageProcessorPil(size={"height": 48, "width": 48})


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "CMYK", "L", "1", "LA"])
def test_blip_pictures_are_those_of_its_processor(photo: Photo, mode: str) -> None:
    """Of images of every mode, to the last place of float32."""
    kind, out = "TIFF" if mode == "CMYK" else "PNG", BytesIO()
    Image.open(BytesIO(photo(70, 51))).convert(mode).save(out, kind)
    wanted = Preprocess.of_blip(blip_processor())
    (picture,) = Pictures(None, [wanted]).of(out.getvalue())
    assert not isinstance(picture, str)
    found = _preprocess.normalised(torch.from_numpy(picture)[None], wanted, torch.float32)
    with Image.open(BytesIO(out.getvalue())) as image:
        want = blip_processor()(images=image, return_tensors="pt").pixel_values
    torch.testing.assert_close(found, want, atol=2e-6, rtol=0)


def test_processors_that_do_something_else_are_refused() -> None:
    """One that crops, and one that does not normalise."""
    for other in (transformers.CLIPImageProcessorPil(), transformers.BlipImageProcessorPil(do_normalize=False)):
        with pytest.raises(ValueError, match="something else"):
            Preprocess.of_blip(other)


class Counted:
    """A tower that counts the images it is given."""

    def __init__(self) -> None:
        """None yet."""
        self.images = 0

    def __call__(self, pixels: Any) -> Any:
        """float32[n, 3, height]."""
        self.images += len(pixels)
        return pixels.float().mean(-1)


def given_images(count: int) -> tuple[list[bytes], list[Any]]:
    """Names and pictures."""
    pictures = np.random.default_rng(0).integers(0, 255, (count, 3, 4, 4), dtype=np.uint8)
    return [bytes([i]) * 16 for i in range(count)], list(pictures)


def test_an_image_is_encoded_once_for_steps_of_one_tower() -> None:
    """The second step runs nothing, and has the same bits."""
    tower, shared, cpu = Counted(), Shared(), torch.device("cpu")
    names, pictures = given_images(6)
    first, second = (Encodings(shared, tower, ("weights", BLIP), cpu, 4) for _ in range(2))
    one, two = first.of(names, pictures), second.of(names, pictures)
    assert tower.images == 8  # two batches of four
    alone = Encodings(None, tower, (), cpu).of(names, pictures)
    assert all(torch.equal(a, b) and torch.equal(a, c) for a, b, c in zip(one, two, alone, strict=True))


def test_other_towers_and_batches_share_nothing() -> None:
    """Another digest, another size of batch."""
    tower, shared, cpu = Counted(), Shared(), torch.device("cpu")
    names, pictures = given_images(4)
    made = [Encodings(shared, tower, kind, cpu, batch) for kind, batch in (("a", 4), ("b", 4), ("a", 2))]
    for one in made:
        one.of(names, pictures)
    assert tower.images == 12


@pytest.mark.parametrize(
    ("side", "at_once"), [(384, 1), (224, 1), (160, 1), (158, 2), (112, 4), (64, 8), (56, 16), (8, 16)]
)
def test_small_pictures_are_encoded_together(side: int, at_once: int) -> None:
    """A power of two, up to the pixels of one picture of 224; a GPU takes the same number of all."""
    wanted = replace(BLIP, size=(side, side))
    assert (images_at_once(wanted, "cpu"), images_at_once(wanted, "cuda")) == (at_once, GPU_IMAGES)


def test_no_images_are_no_work() -> None:
    """An empty answer."""
    assert Encodings(None, Counted(), (), torch.device("cpu")).of([], []) == []


def test_halving_finds_what_fits() -> None:
    """The number of rows is halved until there is room, and one row that does not fit is the user's to know."""

    def work(rows: int) -> int:
        if rows > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return rows * 10

    assert halving(work, 16) == (20, 2) and halving(work, 3) == (30, 3)
    with pytest.raises(UserError, match="does not fit"):
        halving(lambda rows: work(rows + 3), 8)


def test_a_digest_is_of_weights_and_configuration() -> None:
    """Two copies of a model have one; another weight, name or setting has another."""
    vision = transformers.BlipForImageTextRetrieval.from_pretrained(model("blip-itm")).vision_model
    again = transformers.BlipForImageTextRetrieval.from_pretrained(model("blip-itm"), dtype=torch.float32).vision_model
    config = vision.config.to_dict()
    assert weights_digest(vision, config) == weights_digest(again, again.config.to_dict())
    assert weights_digest(vision, config) != weights_digest(vision, config | {"layer_norm_eps": 1e-3})
    with torch.no_grad():
        again.post_layernorm.bias[3] += 1e-3
    assert weights_digest(vision, config) != weights_digest(again, config)


def test_steps_of_a_worker_decode_once(photo: Photo, decodings: list[int]) -> None:
    """Two CLIP steps of one worker, and each has the scores that it has alone."""
    opened = Opened()
    batch = pa.record_batch({"image": [photo(60, 50, seed=i) for i in range(3)], "text": ["a", "red", "circle"]})
    made = [ClipScore(model=name, device="cpu") for name in (str(model("clip")), "pairsieve-demo")]
    steps = [opened.get(str(i), one) for i, one in enumerate(made)]
    found = [step.score(batch)["clip_score"].to_pylist() for step in steps]
    assert decodings == [2, 2, 2]
    for one, want in zip(made, found, strict=True):
        alone = Opened()
        assert alone.get("only", one).score(batch)["clip_score"].to_pylist() == want
        alone.close()
    opened.close()
