"""Scores are open_clip's own for every kind of image and model, and a broken neighbour changes nothing."""

from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch")
open_clip = pytest.importorskip("open_clip")

from pairsieve.schemas.errors import UserError  # noqa: E402
from tests.support_clip import CAUSAL, CLIP, COCA, SIGLIP, column, opened, reference, write_model  # noqa: E402

Photo = Callable[..., bytes]
TEXTS: list[str | None] = ["a red circle", "Two dogs &amp; a CAT, caf\u00e9 " * 12]


@pytest.fixture(scope="module", params=["demo", "vit", "siglip", "causal", "coca"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The packaged model and random ones of each kind, with different preprocessing."""
    if request.param == "demo":
        return "pairsieve-demo"
    folder = tmp_path_factory.mktemp("models")
    made: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
        "vit": (CLIP, {}),
        "siglip": (SIGLIP, {"resize_mode": "squash", "mean": [0.5] * 3, "std": [0.5] * 3}),
        "causal": (CAUSAL, {"interpolation": "bilinear"}),
        "coca": (COCA, {"resize_mode": "longest", "fill_color": 90}),
    }
    config, preprocess = made[request.param]
    return str(write_model(folder / request.param, config, **preprocess))


def saved(image: Image.Image, kind: str, **chosen: Any) -> bytes:
    """A file of an image."""
    out = BytesIO()
    image.save(out, kind, **chosen)
    return out.getvalue()


def files(photo: Photo) -> dict[str, bytes]:
    """An image of every kind that a pool holds."""
    picture = Image.open(BytesIO(photo(70, 50, kind="PNG")))
    clear = Image.open(BytesIO(photo(64, 48, kind="PNG", mode="RGBA")))
    exif = Image.Exif()
    exif[0x0112] = 6
    grey = (np.asarray(picture.convert("L"), np.uint16) * 257).astype(np.uint16)
    return {
        "jpeg": photo(300, 211),
        "jpeg progressive": saved(picture, "JPEG", progressive=True, quality=60),
        "jpeg grey": saved(picture.convert("L"), "JPEG"),
        "jpeg cmyk": saved(picture.convert("CMYK"), "JPEG"),
        "jpeg turned": saved(picture, "JPEG", exif=exif),
        "png": photo(33, 90, kind="PNG"),
        "png alpha": saved(clear, "PNG"),
        "png palette": saved(picture.convert("P"), "PNG"),
        "png palette, clear": saved(picture.convert("P"), "PNG", transparency=3),
        "png 16 bit": saved(Image.fromarray(grey), "PNG"),
        "png 1 bit": saved(picture.convert("1"), "PNG"),
        "webp": saved(picture, "WEBP"),
        "webp alpha": saved(clear, "WEBP"),
        "gif": saved(picture, "GIF"),
        "one pixel": photo(1, 1, kind="PNG"),
        "one row": photo(200, 1, kind="PNG"),
        "one column, jpeg": photo(1, 90),
        "of the model's size": photo(32, 32),
    }


def test_every_kind_of_image(photo: Photo, model: str) -> None:
    """JPEG, PNG, WebP, GIF, CMYK, palettes, alpha, 16 and 1 bit, one pixel, turned: open_clip's score to 1e-5."""
    kinds = files(photo)
    if model.endswith("coca"):  # open_clip itself cannot fit these into a square: their shorter side would be nothing
        kinds = {name: image for name, image in kinds.items() if not name.startswith("one ")}
    images: list[bytes | None] = list(kinds.values())
    texts = [TEXTS[i % 2] for i in range(len(images))]
    found = column(opened(model), images, texts, "clip_score")
    want = [reference(model, i or b"", t or "")["score"] for i, t in zip(images, texts, strict=True)]
    for name, one, other in zip(kinds, found, want, strict=True):
        assert one == pytest.approx(other, abs=1e-5), name
    assert np.std(found) > 1e-5


def test_fast_is_near(photo: Photo) -> None:
    """With fast preprocessing every kind has a score, and an ordinary image one that is near the exact one."""
    images: list[bytes | None] = [*files(photo).values(), *(photo(200 + i, 150 + 3 * i, seed=i) for i in range(6))]
    texts = [TEXTS[0]] * len(images)
    exact = np.array(column(opened("pairsieve-demo"), images, texts, "clip_score"))
    fast = np.array(column(opened("pairsieve-demo", preprocess="fast"), images, texts, "clip_score"))
    assert np.abs(exact - fast).max() < 0.02 * exact.std() + 0.01


def test_a_broken_shard(photo: Photo, model: str) -> None:
    """Corrupt and huge images and empty captions get their reasons, and the others the scores they have alone."""
    kinds = [image for name, image in files(photo).items() if not name.startswith("one ")]
    images: list[bytes | None] = []
    bad = [None, b"", b"\xff\xd8\xff junk", kinds[0][:300], photo(100_000, 1, kind="PNG")]
    for i, image in enumerate(kinds):
        images += [bad[i % len(bad)], image]
    texts: list[str | None] = [TEXTS[0] if i % 7 else " " for i in range(len(images))]
    made = opened(model, batch_size=8)
    errors = column(made, images, texts, "clip_score_error")
    wrong = ["no_image", "broken_image", "broken_image", "broken_image", "too_many_pixels"]
    assert errors == [
        wrong[i // 2 % 5] if i % 2 == 0 else None if text == TEXTS[0] else "no_text" for i, text in enumerate(texts)
    ]
    good = [i for i, error in enumerate(errors) if error is None]
    alone = column(made, [images[i] for i in good], [texts[i] for i in good], "clip_score")
    assert [score for score in column(made, images, texts, "clip_score") if score is not None] == alone


@pytest.fixture(scope="module")
def vit_b_32(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of the full-size ViT-B-32, in a file."""
    from safetensors.torch import save_file

    path = tmp_path_factory.mktemp("b32") / "weights.safetensors"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = open_clip.create_model("ViT-B-32", precision="fp32")
    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, str(path))
    return path


def test_full_size(photo: Photo, vit_b_32: Path) -> None:
    """An architecture by name with a file of weights: ViT-B-32's scores are open_clip's to 1e-5, whatever the image."""
    kinds = files(photo)
    names = ("jpeg", "jpeg cmyk", "jpeg turned", "png palette", "png alpha", "webp", "one pixel")
    images: list[bytes | None] = [kinds[name] for name in names]
    texts: list[str | None] = ["a photo of a cat", "cat " * 20, *["two dogs"] * 4, "cat " * 90]
    made = opened("ViT-B-32", pretrained=str(vit_b_32), batch_size=4)
    found = column(made, images, texts, "clip_score")
    pretrained = str(vit_b_32)
    want = [reference("ViT-B-32", i or b"", t or "", pretrained)["score"] for i, t in zip(images, texts, strict=True)]
    np.testing.assert_allclose(found, want, atol=1e-5)
    assert np.std(found) > 1e-4


def test_coca_computes_in_float32(tmp_path: Path) -> None:
    """open_clip leaves part of it in float32 whatever is asked for: half precision is refused in one line."""
    model = str(write_model(tmp_path / "coca", COCA))
    with pytest.raises(UserError, match=r"CoCa models compute in float32 only, not in bf16; write precision: fp32"):
        opened(model, precision="bf16")
