"""caption by models that write with their own ``generate``: what it says, drawn by uid, one image at a time."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pairsieve.filters._caption_texts import clean
from pairsieve.filters.caption import Caption
from pairsieve.pipelines.run import run
from pairsieve.schemas.errors import UserError

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("open_clip")

from pairsieve.filters._caption_other import OtherFlow  # noqa: E402
from pairsieve.filters._clip_batches import repeatable  # noqa: E402
from pairsieve.filters._decode import Decoding  # noqa: E402
from tests.filters.test_caption import bomb, captions, changed, pairs_of, refused  # noqa: E402
from tests.support_captioners import HF, image, images, numbers_of, uid  # noqa: E402
from tests.support_generating import OTHERS, folder, inputs, said, theirs  # noqa: E402

torch.set_num_threads(1)  # two are many times slower where other tests run beside them


def opened(name: str, where: Any = None, **chosen: Any) -> Caption:
    """A filter with its model loaded, on the CPU."""
    made = Caption(model=str(where or folder(name)), device="cpu", **chosen)
    made.check({})
    made.open()
    return made


def texts(name: str, data: list[bytes], **chosen: Any) -> list[Any]:
    """The captions of images, null where the model wrote nothing."""
    found = captions(pairs_of(list(data)), opened(name, **chosen))
    assert {error for _, error in found} <= {None, "no_caption"}
    return [captions or [None] for captions, _ in found]


def flow(made: Caption) -> OtherFlow:
    """Of a filter that has one."""
    assert isinstance(made._flow, OtherFlow)
    return made._flow


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize(("penalty", "least"), [(1.0, 1), (1.3, 6)])
def test_greedy(name: str, penalty: float, least: int) -> None:
    """Greedy captions are those of ``generate``, whatever the model's own settings say of sampling."""
    data = images(3)
    want = [said(name, one, max_new_tokens=9, min_new_tokens=least, repetition_penalty=penalty) for one in data]
    lengths = {"max_length": 9, "min_length": least, "repetition_penalty": penalty}
    assert texts(name, data, decoding="greedy", **lengths) == want


@pytest.mark.parametrize("name", OTHERS)
def test_beams(name: str) -> None:
    """Captions by beam search are those of ``generate``, the best first, of five beams unless told otherwise."""
    data, beams = images(3), {"num_beams": 5, "num_return_sequences": 2, "max_new_tokens": 7, "min_new_tokens": 1}
    assert texts(name, data, decoding="beam", count=2, max_length=7) == [said(name, one, **beams) for one in data]


@pytest.mark.parametrize("name", ["vit-gpt2", "git"])
def test_drawn(name: str) -> None:
    """Drawn captions are those of whole forward passes, transformers' top_p and a look-up of the uid's numbers."""
    tokenizer = theirs(name)[2]
    data, decoding = images(2), Decoding("nucleus", 2, 6, 1, 0.8, temperature=0.7)
    want = [[literal(name, one, row) for row in numbers_of(i, decoding)] for i, one in enumerate(data)]
    found = texts(name, data, count=2, max_length=6, top_p=0.8, temperature=0.7)
    assert found == [[clean(tokenizer.decode(row, skip_special_tokens=True)) for row in rows] for rows in want]
    assert len({text for rows in found for text in rows}) == 4


def literal(name: str, data: bytes, numbers: Any) -> list[int]:
    """A drawn caption's tokens."""
    net, given = theirs(name)[0], inputs(name, data)
    ids, key = [net.generation_config.decoder_start_token_id or net.generation_config.bos_token_id], "input_ids"
    key = "decoder_input_ids" if name == "vit-gpt2" else key
    end = net.generation_config.eos_token_id
    for i, number in enumerate(numbers):
        with repeatable():
            logits = net(**given, **{key: torch.tensor([ids])}).logits[:, -1]
            barred = torch.tensor([end] if i < 1 else [], dtype=torch.int64)
            logits = logits.index_fill(1, barred, float("-inf"))
        logits = HF.TopPLogitsWarper(0.8)(None, logits / 0.7)[0].double().numpy()
        ends = np.cumsum(np.exp(logits - logits.max()))
        ids.append(int(np.searchsorted(ends, number * ends[-1], side="right")))
        if ids[-1] == end:
            break
    return ids[1:]


@pytest.mark.parametrize("name", ["git", "instructblip"])
def test_depend_on_the_pair_alone(name: str) -> None:
    """Captions are the same in any batch, part and order, with any neighbours; another seed and uid give others."""
    data: list[bytes | None] = [*images(5), None, b"no image", image(3)[:200], bomb()]
    whole, chosen = pairs_of(data), {"count": 2, "max_length": 6}
    want = captions(whole, opened(name, **chosen))
    assert [error for _, error in want[5:]] == ["no_image", "broken_image", "broken_image", "too_many_pixels"]
    made = opened(name, batch_size=3, threads=2, **chosen)
    for parts in (2, 9):
        torch.manual_seed(parts)
        assert captions(whole, made, parts) == want
    order = np.random.default_rng(0).permutation(len(data))
    assert captions(whole.take(pa.array(order)), made) == [want[i] for i in order]
    assert captions(whole.slice(0, 1), opened(name, seed=1, **chosen))[0] != want[0]
    assert captions(pairs_of([data[0]], [7]), made)[0] != want[0]


def test_count() -> None:
    """``count`` captions come out, of which the first are those of a smaller count; the process's generator stays."""
    torch.manual_seed(5)
    before = torch.get_rng_state()
    many, few = (texts("vit-gpt2", images(2), count=count, max_length=5) for count in (6, 2))
    assert [len(row) for row in many] == [6, 6] and len(set(many[0])) > 1
    assert [row[:2] for row in many] == few
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", OTHERS)
def test_lengths(name: str) -> None:
    """Lengths are of new tokens, whatever the prompt has."""
    made = opened(name, count=3, max_length=4, min_length=4)
    numbers = numbers_of(0, Decoding("nucleus", 3, 4))
    ours = flow(made)._model
    with repeatable():
        rows = ours.write(ours.prepare(image(0)), flow(made)._decoding, numbers)
    assert [len(row) for row in rows] == [4, 4, 4]


def test_defaults() -> None:
    """Unless told otherwise a caption is drawn with top_p .9 from all tokens, of 1 to 30."""
    decoding = flow(opened("git"))._decoding
    assert (decoding.kind, decoding.count, decoding.most, decoding.least) == ("nucleus", 1, 30, 1)
    assert (decoding.top_p, decoding.top_k, decoding.temperature, decoding.penalty) == (0.9, 0, 1.0, 1.0)


def test_one_encoding() -> None:
    """GIT's tower sees an image once for all its captions."""
    made, rows = opened("git", count=4, max_length=5), list[int]()
    tower = flow(made)._model._model.git.image_encoder.vision_model.embeddings
    handle = tower.register_forward_pre_hook(lambda _, given, named: rows.append(len(given[0])), with_kwargs=True)
    assert captions(pairs_of(list(images(2))), made)[1][1] is None
    handle.remove()
    assert rows == [1, 1]


def test_prompts() -> None:
    """A prompt is what captions go on from, not part of them; a model without one refuses it."""
    refused({"model": str(folder("vit-gpt2")), "prompt": "a dog"}, "'?vision-encoder-decoder'?, which takes none")
    assert opened("vit-gpt2", prompt="")
    data = [image(0)]
    tokenizer = theirs("git")[2]
    ids = [tokenizer.cls_token_id, *tokenizer("red dog", add_special_tokens=False)["input_ids"]]
    with repeatable():
        found = theirs("git")[0].generate(
            **inputs("git", data[0]),
            input_ids=torch.tensor([ids]),
            do_sample=False,
            num_beams=1,
            no_repeat_ngram_size=0,
            max_new_tokens=6,
            min_new_tokens=1,
        )
    want = clean(tokenizer.decode(found[0, len(ids) :], skip_special_tokens=True))
    assert texts("git", data, prompt="red dog", decoding="greedy", max_length=6) == [[want]]
    usual = texts("instructblip", data, decoding="greedy", max_length=6)
    assert texts("instructblip", data, prompt="A short image description:", decoding="greedy", max_length=6) == usual
    assert texts("instructblip", data, prompt="a red dog", decoding="greedy", max_length=6) != usual


def test_strips() -> None:
    """A strip that would be resized to gigabytes before a picture is cut from it is refused, a short one not."""
    found = captions(pairs_of([image(0, 1, 40_000), image(0, 2, 90)]), opened("vit-gpt2", max_length=3))
    assert [error for _, error in found] == [None, None]  # squeezed, not cut
    long = image(0, 200_000, 1)
    found = captions(pairs_of([long, image(0, 90, 2)]), opened("git", max_length=3))
    assert [error for _, error in found] == ["too_many_pixels", None]


@pytest.mark.parametrize("name", OTHERS)
def test_half_precision(name: str) -> None:
    """Every model writes in bfloat16 too."""
    found = captions(pairs_of(list(images(2))), opened(name, precision="bf16", max_length=4, min_length=4))
    assert [error for _, error in found] == [None, None]


@pytest.mark.parametrize(
    ("chosen", "says"),
    [
        ({"decoding": "greedy", "count": 2}, "count: greedy decoding writes one caption"),
        ({"decoding": "beam", "count": 6}, "count: 6 captions need as many beams, not 5"),
        ({"beams": 3}, "'beams' goes with 'decoding: beam'; this kind of model's is 'nucleus'"),
        ({"min_length": 31}, r"min_length \(31\) is above max_length \(30\)"),
        ({"revision": "main"}, "'revision' goes with a model on the hub"),
    ],
)
def test_wrong_settings(chosen: dict[str, Any], says: str) -> None:
    """What cannot work is refused with one line before anything runs."""
    refused({"model": str(folder("git")), **chosen}, says)


def test_room() -> None:
    """Lengths beyond the places of the decoder are refused; T5 has none."""
    for name, most in (("vit-gpt2", 63), ("git", 63), ("instructblip", 55)):
        with pytest.raises(UserError, match=f"the model has room for {most} tokens after its prompt only"):
            opened(name, max_length=most + 1)
        assert texts(name, [image(0)], max_length=most, min_length=most)
    assert opened("blip2-t5", max_length=1000)
    for name in ("git", "instructblip"):
        with pytest.raises(UserError, match=r"^caption: model '.*': prompt: its \d+ tokens leave no place"):
            opened(name, prompt="dog " * 70)


def test_wrong_models(tmp_path: Path) -> None:
    """What writes no captions, lacks weights, has only pickles or no end of a text is refused with one line."""
    refused({"model": str(folder("sentences"))}, "is of type 'bert'; captions come from blip, blip-2, CoCa")
    detector = tmp_path / "detector"
    config = HF.YolosConfig(hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2)
    HF.YolosForObjectDetection(config).save_pretrained(detector)
    refused({"model": str(detector)}, "is of type 'yolos'; captions come from")
    pickled = tmp_path / "pickled"
    shutil.copytree(folder("git"), pickled)
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    refused({"model": str(pickled)}, "holds no weights")
    fails(
        "its weights lack 1 tensors",
        changed(tmp_path, "git", without("git.visual_projection.visual_projection.0.bias")),
    )
    bare = tmp_path / "bare"
    shutil.copytree(folder("git"), bare)
    (bare / "processor_config.json").unlink()
    fails("cannot load model", bare)
    endless = tmp_path / "endless"
    shutil.copytree(folder("git"), endless)
    for file in ("config.json", "generation_config.json"):
        said = (endless / file).read_text()
        (endless / file).write_text(said.replace('"eos_token_id": 3', '"eos_token_id": null'))
    fails("names no token that ends a text", endless)


def without(name: str) -> Callable[[dict[str, Any]], None]:
    """Weights that lack one."""
    return lambda weights: weights.__delitem__(name)


def fails(says: str, where: Path) -> None:
    """Opening says so, with one line."""
    with pytest.raises(UserError, match=says) as caught:
        opened("", where)
    assert "\n" not in str(caught.value)


def test_no_numbers(tmp_path: Path) -> None:
    """A model that computes NaN, or ends at once, gives no captions and stops nothing."""
    where = changed(tmp_path, "git", lambda weights: weights["output.bias"].fill_(float("nan")))
    for decoding in ("nucleus", "beam", "greedy"):
        made = opened("git", where, decoding=decoding, max_length=5)
        assert captions(pairs_of([image(0), None]), made) == [(None, "no_caption"), (None, "no_image")]
    shutil.rmtree(where)
    end = theirs("git")[0].generation_config.eos_token_id
    where = changed(tmp_path, "git", lambda weights: weights["output.bias"][end].fill_(1e4))
    made = opened("git", where, count=2, min_length=0)
    assert captions(pairs_of([image(0)]), made) == [(None, "no_caption")]


def test_failures_while_writing(monkeypatch: pytest.MonkeyPatch) -> None:
    """An image that the memory does not hold, and a model that fails, end the run with one line."""
    made = opened("git")
    for error, says in ((torch.OutOfMemoryError("x\ny"), "one image does not fit"), (IndexError("a\nb"), "fails: a")):
        monkeypatch.setattr(flow(made)._model._model, "generate", raising(error))
        with pytest.raises(UserError, match=says) as caught:
            captions(pairs_of([image(0)]), made)
        assert "\n" not in str(caught.value)


def raising(error: BaseException) -> Callable[..., Any]:
    """What raises it."""

    def generate(**_: Any) -> Any:
        raise error

    return generate


def test_a_run(tmp_path: Path) -> None:
    """A real run writes what the filter does, in parts of its own."""
    data: list[bytes | None] = [*images(5), b"x"]
    table = pa.table({"uid": [uid(i) for i in range(6)], "url": ["u"] * 6, "text": ["t"] * 6, "image": data})
    (tmp_path / "pool").mkdir()
    for part in range(2):
        pq.write_table(table.slice(part * 3, 3), tmp_path / "pool" / f"{part}.parquet")
    chosen = {"count": 2, "max_length": 8}
    step = {"model": str(folder("git")), "device": "cpu", "required": True, **chosen}
    run({"pool": {"pairs": str(tmp_path / "pool")}, "filters": [{"caption": step}]}, tmp_path / "out", workers=1)
    parts = sorted((tmp_path / "out" / "scores" / "caption").glob("*.parquet"))
    found = pa.concat_tables([pq.read_table(part) for part in parts]).sort_by("uid")
    want = captions(pairs_of(data), opened("git", **chosen))
    assert found["caption"].to_pylist() == [texts for texts, _ in want]
    verdicts = pq.read_table(tmp_path / "out" / "verdicts").sort_by("uid")["reason"].to_pylist()
    assert verdicts == [None] * 5 + ["broken_image"]
