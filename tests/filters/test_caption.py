"""The filter: captions depend on the image, its uid and the settings alone; what is broken is recorded."""

import json
import shutil
from collections.abc import Callable
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pairsieve.filters._caption_flow import Flow
from pairsieve.filters._caption_texts import clean
from pairsieve.filters._shared import Shared
from pairsieve.filters.caption import Caption
from pairsieve.pipelines.plan import make_plan
from pairsieve.pipelines.recipe import check
from pairsieve.pipelines.recipe_file import from_data
from pairsieve.pipelines.run import run
from pairsieve.schemas.errors import RecipeError, UserError

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("open_clip")

from tests.support_capfilt import model  # noqa: E402
from tests.support_captioners import captioner, image, images, literal, numbers_of, uid  # noqa: E402

torch.set_num_threads(1)  # two are many times slower where other tests run beside them
Found = list[tuple[list[str | None] | None, str | None]]


def pairs_of(data: list[bytes | None], numbers: list[int] | None = None) -> pa.RecordBatch:
    """What the filter is given."""
    uids = [uid(i) for i in (numbers or range(len(data)))]
    return pa.record_batch({"uid": pa.array(uids), "image": pa.array(data, pa.binary())})


def opened(name: str = "blip", **chosen: Any) -> Caption:
    """A filter with its model loaded, on the CPU."""
    made = Caption(model=str(model(name)), device="cpu", **chosen)
    made.check({})
    made.open()
    return made


def captions(pairs: pa.RecordBatch, made: Caption, parts: int = 1) -> Found:
    """Captions and errors, of so many parts."""
    size = max(1, -(-pairs.num_rows // parts))
    slices = [pairs.slice(start, size) for start in range(0, pairs.num_rows, size)]
    found: Found = []
    for part, one in zip(made.score_all(iter(slices)), slices, strict=True):
        assert {name: column.type for name, column in part.items()} == made.outputs({})
        assert all(len(column) == one.num_rows for column in part.values())
        found += list(zip(part["caption"].to_pylist(), part["caption_error"].to_pylist(), strict=True))
    return found


@pytest.mark.parametrize(("name", "chosen"), [("blip", {"count": 3}), ("blip2", {}), ("qwen", {"max_length": 9})])
def test_depend_on_the_pair_alone(name: str, chosen: dict[str, Any]) -> None:
    """Captions are the same in any batch, part and order, with any neighbours, and with decoding threads."""
    data: list[bytes | None] = [*images(9), None, b"no image", image(3)[:200]]
    whole = pairs_of(data)
    want = captions(whole, opened(name, **chosen))
    assert [error for _, error in want[9:]] == ["no_image", "broken_image", "broken_image"]
    for batch_size, parts, threads in ((1, 1, None), (2, 3, 2), (7, 12, None), (300, 5, 3)):
        made = opened(name, batch_size=batch_size, threads=threads, **chosen)
        assert captions(whole, made, parts) == want
        made.close()
    order = np.random.default_rng(0).permutation(len(data))
    assert captions(whole.take(pa.array(order)), opened(name, **chosen)) == [want[i] for i in order]
    made = opened(name, **chosen)
    assert [captions(whole.slice(i, 1), made)[0] for i in range(len(data))] == want


def test_published_defaults() -> None:
    """Without settings BLIP draws with top_p .9 and penalty 1.1 up to 20 tokens, the prompt's four counted."""
    made, data = opened(count=2), images(2)
    decoding = made._decoding("blip", 4)
    assert (decoding.kind, decoding.most, decoding.least, decoding.penalty) == ("nucleus", 16, 1, 1.1)
    assert (decoding.top_p, decoding.top_k, decoding.temperature) == (0.9, 0, 1.0)
    ours = captioner("blip")
    want = [
        [clean(ours.text(literal("blip", one, row, decoding))) for row in numbers_of(i, decoding)]
        for i, one in enumerate(data)
    ]
    assert [found for found, _ in captions(pairs_of(list(data)), made)] == want


def test_seed_and_uid() -> None:
    """Another seed, another uid and another number give other captions; the same image and uid the same."""
    one = image(0)
    found = captions(pairs_of([one, one, one], [1, 2, 1]), opened(count=2))
    assert found[0] == found[2] != found[1]
    assert found[0][0] and found[0][0][0] != found[0][0][1]
    assert captions(pairs_of([one], [1]), opened(count=2, seed=1))[0] != found[0]
    assert captions(pairs_of([one], [1]), opened(count=5))[0][0][:2] == found[0][0]  # type: ignore[index]


def encoded(picture: Image.Image, kind: str, **chosen: Any) -> bytes:
    """A picture as a file."""
    out = BytesIO()
    picture.save(out, kind, **chosen)
    return out.getvalue()


def bomb() -> bytes:
    """A PNG header that announces 60000 × 60000 pixels."""
    out = image(0)
    head = b"IHDR" + (60_000).to_bytes(4, "big") * 2 + out[24:29]
    return out[:12] + head + crc32(head).to_bytes(4, "big") + out[33:]


@pytest.mark.parametrize("name", ["blip", "coca", "llava", "qwen"])
def test_odd_images(name: str) -> None:
    """One pixel, CMYK, palettes, alpha and 16 bits are captioned; what does not decode is said, and nothing raises."""
    plain = Image.open(BytesIO(image(1)))
    odd: list[bytes | None] = [
        encoded(plain.convert("CMYK"), "JPEG"),
        encoded(plain.convert("P"), "PNG"),
        encoded(plain.convert("RGBA"), "PNG"),
        encoded(Image.new("I;16", (30, 20), 9000), "PNG"),
        encoded(Image.new("RGB", (1, 1)), "PNG"),
        encoded(plain, "JPEG")[:-300],
        b"",
        bomb(),
        None,
        b"<html>",
    ]
    errors = [error for _, error in captions(pairs_of(odd), opened(name, max_length=8, min_length=7))]
    one = "broken_image" if name == "qwen" else None  # its processor refuses a side below its patches
    assert errors[:4] == [None] * 4
    assert errors[4] in (None, one)
    assert errors[5:] == ["broken_image", "broken_image", "too_many_pixels", "no_image", "broken_image"]


def changed(tmp_path: Path, name: str, change: Callable[[dict[str, Any]], None]) -> Path:
    """A model with other weights."""
    from safetensors.torch import load_file, save_file

    folder = tmp_path / name
    shutil.copytree(model(name), folder)
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


BIAS = "text_decoder.cls.predictions.bias"


def biased(token: int, value: float) -> Callable[[dict[str, Any]], None]:
    """Weights that make a token likely."""

    def change(weights: dict[str, Any]) -> None:
        for name in weights:
            if name.endswith(("predictions.bias", "predictions.decoder.bias")):
                weights[name][token] = value

    return change


def test_a_model_that_writes_nothing(tmp_path: Path) -> None:
    """A model that ends at once gives no captions, which drops the pair where they are required."""
    folder = changed(tmp_path, "blip", biased(captioner("blip").ends[0], 1e4))
    made = Caption(model=str(folder), device="cpu", count=3, min_length=0, required=True)
    made.open()
    batch = pairs_of([image(0), None])
    found = made.score(batch)
    assert found["caption"].to_pylist() == [None, None]
    assert found["caption_error"].to_pylist() == ["no_caption", "no_image"]
    scored = pa.record_batch(found)
    assert made.keep(scored).to_pylist() == ["no_caption", "no_image"]
    assert made.model_copy(update={"required": False}).keep(scored).null_count == 2


def test_a_model_that_repeats(tmp_path: Path) -> None:
    """Captions that are alike stay, as many as were asked for."""
    dog = captioner("blip")._tokenizer.convert_tokens_to_ids("dog")  # type: ignore[attr-defined]
    folder = changed(tmp_path, "blip", biased(dog, 1e4))
    made = Caption(model=str(folder), device="cpu", count=3, max_length=6)
    made.open()
    assert captions(pairs_of([image(0)]), made) == [(["dog dog"] * 3, None)]


def test_a_model_of_no_numbers(tmp_path: Path) -> None:
    """A model that computes NaN gives no captions."""
    folder = changed(tmp_path, "blip", biased(3, float("nan")))
    for decoding in ("nucleus", "beam", "greedy"):
        made = Caption(model=str(folder), device="cpu", decoding=decoding)
        made.open()
        assert captions(pairs_of([image(0)]), made) == [(None, "no_caption")]


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("  a\n red\t\tdog ", "a red dog"),
        ("a\x00b\x1b[31mc\x7f", "ab[31mc"),
        ("\ufffd\ufffd", None),
        ("\x00 \u3000 ", None),
        ("", None),
        ("caf\u00e9 \U0001f436\ufffd", "caf\u00e9 \U0001f436"),
        ("a \ufffd b", "a b"),
        ("half \ud800 pair", "half pair"),
        ("zero\u200bwidth", "zero\u200bwidth"),
    ],
)
def test_cleaning(text: str, want: str | None) -> None:
    """Captions are one line without control characters, replacement characters and halves of pairs."""
    assert clean(text) == want


@pytest.mark.parametrize(
    ("name", "chosen", "says"),
    [
        ("blip", {"decoding": "greedy", "count": 2}, "count: greedy decoding writes one caption"),
        ("blip2", {"count": 10}, "count: 10 captions need as many beams, not 5"),
        ("blip", {"decoding": "beam", "top_p": 0.5}, "'top_p' goes with 'decoding: nucleus', not with 'beam'"),
        ("llava", {"temperature": 0.5}, "'temperature' goes with 'decoding: nucleus'"),
        ("blip", {"beams": 3}, "'beams' goes with 'decoding: beam'; this kind of model's is 'nucleus'"),
        ("blip", {"count": 500, "max_length": 400}, "max_length: 500 captions of 400 tokens are more than 16384"),
        ("blip", {"beams": 3, "decoding": "greedy"}, "'beams' goes with 'decoding: beam'"),
        ("blip", {"min_length": 30}, r"min_length \(30\) is above max_length \(20\)"),
        ("blip", {"revision": "main"}, "'revision' goes with a model on the hub, not with a directory"),
        ("coca", {"revision": "main"}, "'revision' goes with org/name"),
        ("blip-itm", {}, "is BlipForImageTextRetrieval, which writes no captions"),
        ("clip", {}, "is no CoCa model"),
        ("sentences", {}, "is of type 'bert'; captions come from"),
        ("blip", {"top_p": 0}, "top_p"),
        ("blip", {"count": 0}, "count"),
        ("blip", {"nucleus": True}, "no such setting"),
    ],
)
def test_wrong_settings(name: str, chosen: dict[str, Any], says: str) -> None:
    """What cannot work is refused with one line before anything runs."""
    refused({"model": str(model(name)), **chosen}, says)


def refused(chosen: dict[str, Any], says: str) -> None:
    """The plan says so."""
    source = from_data({"pool": {"pairs": "x"}, "filters": [{"caption": chosen}]})
    with pytest.raises((RecipeError, UserError), match=says) as caught:
        make_plan(source, *check(source), {"uid": pa.string(), "image": pa.binary()})
    assert "\n" not in str(caught.value)


def test_wrong_models(tmp_path: Path) -> None:
    """A directory that holds no captioner is refused with one line; one whose files are broken when it is opened."""
    refused({"model": str(tmp_path / "none" / "such")}, "there is no")
    refused({"model": "./none"}, "there is no")
    refused({"model": "hf-hub:org/name", "pretrained": "x"}, "'pretrained' goes with the name of an open_clip arch")
    refused({"model": str(model("blip")), "pretrained": "x"}, "'pretrained' goes with the name of an open_clip arch")
    refused({"model": "org/name", "pretrained": "x"}, "there is no architecture and no directory 'org/name'")
    refused({"model": "coca_ViT-B-32"}, "pretrained: give the weights of coca_ViT-B-32")
    refused({"model": "ViT-B-32", "pretrained": "openai"}, "is no CoCa model|QuickGELU")
    refused({"model": "a\0b"}, "there is no")
    refused({"model": "no-such-arch"}, "there is no architecture and no directory 'no-such-arch'")
    empty = tmp_path / "empty"
    empty.mkdir()
    refused({"model": str(empty)}, "holds no config.json")
    (empty / "config.json").write_text("{")
    refused({"model": str(empty)}, r"holds no weights \(.safetensors\)")
    (empty / "model.safetensors").write_bytes(b"x")
    refused({"model": str(empty)}, "is not JSON")
    (empty / "config.json").write_text(json.dumps({"model_type": "blip"}))
    with pytest.raises(UserError, match="cannot load model") as caught:
        Caption(model=str(empty), device="cpu").open()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["llava", "qwen"])
def test_models_are_tried(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A chat model that makes something else of positions or masks than is asked for is refused when it is opened."""
    from pairsieve.filters import _decode_cache, _vlm

    with pytest.raises(UserError, match="does not write as its own generate"), monkeypatch.context() as patch:
        patch.setattr(_vlm, "additive", lambda mask, dtype: torch.zeros(mask.shape, dtype=dtype))
        opened(name)
    real = _decode_cache.begun
    with pytest.raises(UserError, match="does not write as its own generate"), monkeypatch.context() as patch:
        patch.setattr(_vlm, "begun_of", lambda cache, row, logits, at, room: real(cache, row, logits, at + 5, room))
        opened(name)
    assert opened(name)


def test_hub_out_of_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model on the hub that cannot be fetched is said with one line, before anything runs."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    refused({"model": "pairsieve/no-such-model", "revision": "v1"}, "cannot fetch config.json of 'pairsieve/no-such")


def test_other_pictures(tmp_path: Path) -> None:
    """A model whose processor makes pictures of another size than its tower takes is refused."""
    for name in ("blip", "blip2"):
        folder = tmp_path / name
        shutil.copytree(model(name), folder)
        said = json.loads((folder / "processor_config.json").read_text())
        said["image_processor"]["size"] = {"height": 56, "width": 56}
        (folder / "processor_config.json").write_text(json.dumps(said))
        with pytest.raises(UserError, match="its pictures are 56 × 56, but its tower takes"):
            Caption(model=str(folder), device="cpu").open()


@pytest.mark.parametrize("name", ["blip", "blip2", "llava", "qwen"])
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision(name: str, precision: str) -> None:
    """Every kind writes in bfloat16 and float16 too; the beginnings of greedy captions are mostly those of float32."""
    pairs, chosen = pairs_of(list(images(8))), {"decoding": "greedy", "max_length": 7, "min_length": 0}
    exact = captions(pairs, opened(name, **chosen))
    found = captions(pairs, opened(name, precision=precision, **chosen))
    begins = [one[:1] == other[:1] for (one, _), (other, _) in zip(exact, found, strict=True) if one and other]
    assert [error for _, error in found].count(None) >= 6
    assert sum(begins) >= len(begins) / 2


def test_pickles_are_not_read(tmp_path: Path) -> None:
    """A model whose weights are pickled is refused, even where a name on disk says safetensors."""
    folder = tmp_path / "pickled"
    shutil.copytree(model("blip"), folder)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    refused({"model": str(folder)}, "holds no weights")
    (folder / "other.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match="cannot load model"):
        Caption(model=str(folder), device="cpu").open()


def test_lengths_have_room() -> None:
    """Lengths that the prompt or the model's places do not leave room for are refused when the model is known."""
    with pytest.raises(UserError, match="leaves no token after a prompt of 4 tokens"):
        opened(max_length=4, min_length=0)
    with pytest.raises(UserError, match="room for 60 tokens after its prompt only"):
        opened(max_length=66)
    assert opened(max_length=64)
    with pytest.raises(UserError, match="has room for"):
        opened("coca", max_length=80)


def test_lacking_weights(tmp_path: Path) -> None:
    """A checkpoint without some of the model's tensors is refused: transformers would draw them at random."""
    folder = changed(tmp_path, "blip", lambda weights: weights.__delitem__("vision_model.post_layernorm.weight"))
    with pytest.raises(UserError, match=r"^caption: model '.*': its weights lack 1 tensors, such as vision"):
        Caption(model=str(folder), device="cpu").open()


def test_memory_runs_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the slots do not fit they are halved, nothing is lost, and captions are the same."""
    data: list[bytes | None] = list(images(9))
    want = captions(pairs_of(data), opened(count=2))
    made = opened(count=2, batch_size=8)
    real, sizes = flow(made)._captioner.step, []

    def step(ids: Any, *rest: Any) -> Any:
        sizes.append(len(ids))
        if len(ids) > 2:
            raise torch.OutOfMemoryError("too much")
        return real(ids, *rest)

    monkeypatch.setattr(flow(made)._captioner, "step", step)
    assert captions(pairs_of(data), made) == want
    assert sizes[0] == 8 and set(sizes[-3:]) == {2}

    def never(*_: Any) -> Any:
        raise torch.OutOfMemoryError("too much")

    monkeypatch.setattr(flow(made)._captioner, "step", never)
    with pytest.raises(UserError, match="does not fit into the device's memory"):
        captions(pairs_of(data), made)


def test_left_alone() -> None:
    """A caller who does not come back leaves nothing behind for the next."""
    made, data = opened(), pairs_of(list(images(6)))
    want = captions(data, made)
    stream = made.score_all(iter([data.slice(0, 3), data.slice(3)]))
    next(stream)
    stream.close()
    assert captions(data, made) == want


def test_nothing_to_do() -> None:
    """No pairs, and parts without a picture, give columns of their lengths."""
    made = opened()
    assert captions(pairs_of([]), made) == []
    empty, broken = pairs_of([image(0)]).slice(0, 0), pairs_of([None, b""])
    found = [len(part["caption"]) for part in made.score_all(iter([empty, broken, pairs_of([image(0)]), empty]))]
    assert found == [0, 2, 1, 0]


def test_steps_share(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two steps with one tower encode an image once, and each writes what it writes alone."""
    pairs = pairs_of([*images(5), None])
    alone = [captions(pairs, opened(seed=seed)) for seed in (0, 1)]
    shared, ran = Shared(), list[int]()
    both = [Caption(model=str(model("blip")), device="cpu", seed=seed) for seed in (0, 1)]
    for made in both:
        made.share(shared)
        made.open()
        encodings = flow(made)._encodings
        assert encodings
        monkeypatch.setattr(encodings, "_tower", partial(counted, encodings._tower, ran))
    assert [captions(pairs, made) for made in both] == alone
    assert ran == [16]  # by the first step, in one batch


def counted(tower: Callable[[Any], Any], ran: list[int], rows: Any) -> Any:
    """What the tower gives, and how many images it was given."""
    ran.append(len(rows))
    return tower(rows)


def flow(made: Caption) -> Flow:
    """Of a filter whose model is its own."""
    assert isinstance(made._flow, Flow)
    return made._flow


def test_a_run(tmp_path: Path) -> None:
    """A real run writes the columns under the step's name; two workers are ``test_capfilt_stops``' matter."""
    table = pa.table(
        {
            "uid": [uid(i) for i in range(10)],
            "url": ["u"] * 10,
            "text": ["t"] * 10,
            "image": pa.array([*images(8), b"", b"x"], pa.binary()),
        }
    )
    (tmp_path / "pool").mkdir()
    for part in range(2):
        pq.write_table(table.slice(part * 5, 5), tmp_path / "pool" / f"{part}.parquet")
    step = {"model": str(model("blip")), "count": 2, "device": "cpu", "required": True, "as": "synthetic"}
    recipe = {"pool": {"pairs": str(tmp_path / "pool")}, "filters": [{"caption": step}]}
    run(recipe, tmp_path / "out", workers=1)
    parts = sorted((tmp_path / "out" / "scores" / "synthetic").glob("*.parquet"))
    found = pa.concat_tables([pq.read_table(part) for part in parts]).sort_by("uid")
    assert {"synthetic", "synthetic_error"} <= set(found.column_names)
    made = captions(pairs_of(table["image"].to_pylist()), opened(count=2))
    assert found["synthetic"].to_pylist() == [texts for texts, _ in made]
    verdicts = pq.read_table(tmp_path / "out" / "verdicts").sort_by("uid")["reason"].to_pylist()
    assert verdicts == [None] * 8 + ["broken_image"] * 2
