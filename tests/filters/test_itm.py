"""Matching scores equal the library's one by one, and depend on nothing but image and text."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from pairsieve.filters._itm_texts import cleaned  # noqa: E402
from pairsieve.filters.base import Opened  # noqa: E402
from pairsieve.filters.itm import Itm  # noqa: E402
from tests.support_capfilt import WORDS, model  # noqa: E402
from tests.support_itm import opened, pairs_of, reference  # noqa: E402

Photo = Callable[..., bytes]


@pytest.fixture(scope="module", params=["blip-itm", "blip2-itm"])
def folder(request: pytest.FixtureRequest) -> Path:
    """BLIP and BLIP-2 with a matching head."""
    return model(request.param)


def some_texts(count: int, seed: int = 0) -> list[str]:
    """Distinct clean texts of 1 to 28 words."""
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, 1 + 9 * i % 28)) for i in range(count)]


def some_pairs(photo: Photo, count: int) -> tuple[list[bytes | None], list[str | None], list[list[str]]]:
    """Distinct images, a text of each, and some captions."""
    texts, captions = some_texts(count), some_texts(4 * count, 1)
    return (
        [photo(40 + i, 70 - i, seed=i) for i in range(count)],
        list(texts),
        [captions[i : i + i % 4] for i in range(count)],
    )


def test_equals_the_library_one_by_one(photo: Photo, folder: Path) -> None:
    """Web text and captions score as by the library's own forward pass, to 1e-5; the cosine too."""
    images, texts, captions = some_pairs(photo, 7)
    found = opened(folder, texts=("caption",), itc=True).score(pairs_of(images, texts, caption=captions))
    for i, (image, text, own) in enumerate(zip(images, texts, captions, strict=True)):
        want = [reference(folder, image or b"", one) for one in (text or "", *own)]
        scores = [found["itm"][i].as_py(), *found["itm_caption"][i].as_py()]
        cosines = [found["itm_cosine"][i].as_py(), *found["itm_cosine_caption"][i].as_py()]
        np.testing.assert_allclose(scores, [one for one, _ in want], atol=1e-5)
        np.testing.assert_allclose(cosines, [one for _, one in want], atol=1e-5)
    assert np.std(found["itm"].to_numpy()) > 1e-3 and np.std(found["itm_cosine"].to_numpy()) > 1e-3


def test_bits_do_not_depend_on_neighbours(photo: Photo, folder: Path) -> None:
    """Order, place in the batch, and what else is there change no bit of a score, alone or among many."""
    images, texts, captions = some_pairs(photo, 21)
    made = opened(folder, texts=("caption",), itc=True)
    whole = made.score(pairs_of(images, texts, caption=captions))
    for shift in (1, 5, 16):
        at = [*range(shift, 21), *range(shift)]
        turned = made.score(
            pairs_of(*([one[i] for i in at] for one in (images, texts)), caption=[captions[i] for i in at])
        )
        for name, column in whole.items():
            assert turned[name].to_pylist() == column.take(pa.array(at)).to_pylist()
    for i in (0, 7, 20):
        alone = made.score(pairs_of(images[i : i + 1], texts[i : i + 1], caption=captions[i : i + 1]))
        assert {n: c.to_pylist() for n, c in alone.items()} == {n: [c[i].as_py()] for n, c in whole.items()}
    without = opened(folder).score(pairs_of(images, texts))
    assert without["itm"].to_pylist() == whole["itm"].to_pylist()


@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_bits_do_not_depend_on_the_batch_size(photo: Photo, folder: Path, batch_size: int) -> None:
    """Images a batch: one, an odd number, more than there are."""
    images, texts, captions = some_pairs(photo, 9)
    pairs = pairs_of(images, texts, caption=captions)
    found, want = (opened(folder, texts=("caption",), batch_size=n).score(pairs) for n in (batch_size, None))
    assert {n: c.to_pylist() for n, c in found.items()} == {n: c.to_pylist() for n, c in want.items()}


def test_an_image_is_encoded_once_for_all_its_texts(photo: Photo, folder: Path) -> None:
    """The tower sees each image once, and each layer makes its keys once."""
    made = opened(folder, texts=("caption",), batch_size=1)
    assert made._flow is not None
    head, seen, keys = made._flow._model.head, list[int](), list[int]()
    head.model.vision_model.register_forward_hook(lambda _, given, found: seen.append(len(found[0])))
    block = head.layers[0].crossattention
    inner: Any = getattr(block, "self", None) or block.attention
    inner.key.register_forward_hook(lambda _, given, found: keys.append(len(found)))
    images, texts, _ = some_pairs(photo, 3)
    made.score(pairs_of(images, texts, caption=[some_texts(10)] * 3))
    assert seen == [1, 1, 1] and keys == [1, 1, 1]


def test_pairs_without_work_cost_none(photo: Photo, folder: Path) -> None:
    """Images whose pair has no text at all are not encoded."""
    made = opened(folder, texts=("caption",))
    assert made._flow is not None
    made._flow._model.head.model.vision_model.register_forward_hook(lambda *_: pytest.fail("encoded"))
    found = made.score(pairs_of([photo(40, 40)] * 4, [None, "", " ", "!!!"], caption=[None, [], [None, ""], ["\0"]]))
    assert found["itm_error"].to_pylist() == ["no_text"] * 4
    assert found["itm_caption"].to_pylist() == [None, [], [None, None], [None]]


def test_what_cannot_be_scored_says_why(photo: Photo, folder: Path) -> None:
    """A broken image has no scores and no lists; a caption is scored where the web text is missing."""
    good = photo(64, 48)
    images = [good, None, b"", good[: len(good) // 2], photo(60_000, 1, kind="PNG"), good]
    found = opened(folder, texts=("caption",)).score(
        pairs_of(images, ["a dog", "a", "a", "a", "a", None], caption=[["a cat"]] * 6)
    )
    assert found["itm_error"].to_pylist() == [None, "no_image", "broken_image", "broken_image", None, "no_text"]
    assert [row is None for row in found["itm"].to_pylist()] == [False, True, True, True, False, True]
    assert [row is None for row in found["itm_caption"].to_pylist()] == [False, True, True, True, False, False]
    assert found["itm_best"][5].as_py() == found["itm_caption"][5].as_py()[0] == found["itm_caption"][0].as_py()[0]


HOSTILE = [
    "x" * 100_000,
    "狗" * 100_000,
    "a dog " * 20_000,
    " \t\n" * 40_000 + "a dog",
    "\0\1\2\x7f\u200b\u202e\ufeff dog",
    "🐕‍🦺" * 500,
    "[SEP] [PAD] [MASK] [ENC] [DEC] <image>",
    "!!!",
    "\u0301" * 300,
    "\0\1\u200b",
    "a",
]
NOTHING = HOSTILE[-4:-1]


def test_hostile_texts_have_scores(photo: Photo, folder: Path) -> None:
    """Texts of 100 kB, control characters, emoji, the tokenizer's own signs: a number each, where anything is left."""
    made = opened(folder, texts=("caption",))
    found = made.score(pairs_of([photo(40, 40)], ["a dog"], caption=[HOSTILE]))["itm_caption"][0].as_py()
    assert [one is None for one in found] == [text in NOTHING for text in HOSTILE]
    assert all(0 <= one <= 1 for one in found if one is not None)
    plain = made.score(pairs_of([photo(40, 40)], ["a dog"], caption=[HOSTILE[-1:]]))["itm_caption"][0].as_py()
    assert plain == found[-1:]


def test_texts_are_cleaned_as_in_training() -> None:
    """Small letters, signs to spaces, gaps closed, cut at the limit; other signs stay."""
    assert (
        cleaned('A "Red" CAR!!  on (the)\n\n street; #1: it\'s 5,0-% ~ ok?', 30)
        == "a red car on the street 1 it's 5,0-% ok?"
    )
    assert cleaned("one two  three\tfour", 2) == "one two"
    assert cleaned(" . ", 30) == "" == cleaned("", 30)
    assert len(cleaned("word " * 50, 30).split()) == 30


def test_cleaning_can_be_left_off(photo: Photo, folder: Path) -> None:
    """Capitals do not matter to a BERT tokenizer of small letters, signs do."""
    images, texts = [photo(40, 40)], ["a dog, near the water! (large)"]
    clean, raw = (
        opened(folder, clean=clean).score(pairs_of([*images], [*texts]))["itm"][0].as_py() for clean in (True, False)
    )
    assert clean != raw
    assert abs(raw - reference(folder, images[0], texts[0])[0]) < 1e-5


def test_blip_reads_enc_and_blip2_does_not(photo: Photo) -> None:
    """The first id of a text that meets an image."""
    heads = [opened(model(name))._flow._model for name in ("blip-itm", "blip2-itm")]  # type: ignore[union-attr]
    ids = torch.tensor([[2, 7, 3]])
    assert heads[0].head.with_enc(ids).tolist() == [[heads[0].tokens.known - 1, 7, 3]]
    assert heads[1].head.with_enc(ids).tolist() == ids.tolist()


def test_a_plain_bert_tokenizer_gets_the_last_embedding_as_enc(tmp_path: Path, photo: Photo) -> None:
    """As the real checkpoints, whose tokenizers know no [ENC]: the same score."""
    plain = tmp_path / "plain"
    net = transformers.BlipForImageTextRetrieval.from_pretrained(model("blip-itm"))
    net.save_pretrained(plain)
    transformers.BlipImageProcessorPil.from_pretrained(model("blip-itm")).save_pretrained(plain)
    known = transformers.AutoTokenizer.from_pretrained(model("blip-itm")).get_vocab()
    words = {word: i for word, i in known.items() if word not in ("[ENC]", "[DEC]")}
    transformers.BertTokenizer(vocab=words, do_lower_case=True).save_pretrained(plain)
    pairs = pairs_of([photo(40, 40)], ["a dog on the street"])
    made = opened(plain)
    assert made._flow is not None and "[ENC]" not in made._flow._model.tokens._tokenizer.get_vocab()
    assert made.score(pairs)["itm"].to_pylist() == opened(model("blip-itm")).score(pairs)["itm"].to_pylist()


@pytest.mark.parametrize(("precision", "near"), [("fp32", 0.0), ("fp16", 0.02), ("bf16", 0.15)])
def test_precisions(photo: Photo, folder: Path, precision: str, near: float) -> None:
    """Scores and cosines of half precision are near those of float32, which a CPU gives by itself."""
    images, texts, _ = some_pairs(photo, 6)
    want, found = (opened(folder, precision=p, itc=True).score(pairs_of(images, texts)) for p in ("auto", precision))
    for name in ("itm", "itm_cosine"):
        np.testing.assert_allclose(found[name].to_numpy(), want[name].to_numpy(), atol=near)
        assert found[name].equals(want[name]) == (precision == "fp32")


def decided(**chosen: Any) -> list[str | None]:
    """Reasons of a few scores."""
    columns = {
        "itm": pa.array([0.5, 0.50001, 0.9, None, None, None], pa.float32()),
        "itm_best": pa.array([0.6, 0.50001, 0.9, None, 0.7, None], pa.float32()),
        "itm_error": pa.array([None, None, None, "no_image", "no_text", None]),
    }
    return list(Itm(model="org/name", **chosen).keep(pa.record_batch(columns)).to_pylist())


def test_the_rule_is_the_papers() -> None:
    """Kept where matched is likelier than not, by the best of all texts; other limits and none are settings."""
    assert decided() == ["unmatched", None, None, "no_image", "no_text", "no_score"]
    assert decided(texts=("caption",)) == [None, None, None, "no_image", None, "no_score"]
    assert decided(min=0.8) == ["unmatched", "unmatched", None, "no_image", "no_text", "no_score"]
    assert decided(min=None) == [None] * 6


def test_steps_of_one_checkpoint_encode_once(photo: Photo, folder: Path) -> None:
    """Two steps of a worker share the tower's output, and have the scores that each has alone."""
    images, texts, captions = some_pairs(photo, 6)
    pairs, together = pairs_of(images, texts, caption=captions), Opened()
    made = [Itm(model=str(folder), device="cpu", **more) for more in ({}, {"texts": ("caption",)})]
    steps = [together.get(str(i), one) for i, one in enumerate(made)]
    assert isinstance(steps[1], Itm) and steps[1]._flow is not None
    seen = list[int]()
    steps[1]._flow._model.head.model.vision_model.register_forward_hook(lambda _, given, found: seen.append(1))
    found = [step.score(pairs) for step in steps]
    assert not seen
    for one, own in zip(made, found, strict=True):
        alone = opened(folder, texts=one.texts).score(pairs)
        assert {n: c.to_pylist() for n, c in alone.items()} == {n: c.to_pylist() for n, c in own.items()}
    together.close()


def test_a_captioner_of_the_same_tower_lends_its_encodings(tmp_path: Path, photo: Photo) -> None:
    """As of a checkpoint's two heads fine-tuned on a frozen tower: the matcher's own runs no more."""
    from pairsieve.filters.caption import Caption

    net = transformers.BlipForImageTextRetrieval.from_pretrained(model("blip-itm"))
    other = transformers.BlipForConditionalGeneration.from_pretrained(model("blip"))
    net.vision_model.load_state_dict(other.vision_model.state_dict())
    net.save_pretrained(tmp_path / "m")
    transformers.BlipProcessor.from_pretrained(model("blip-itm")).save_pretrained(tmp_path / "m")
    images, texts, _ = some_pairs(photo, 5)
    pairs, together = pairs_of(images, texts), Opened()
    steps = [Caption(model=str(model("blip")), device="cpu"), Itm(model=str(tmp_path / "m"), device="cpu")]
    first, second = (together.get(str(i), step) for i, step in enumerate(steps))
    assert isinstance(second, Itm) and second._flow is not None
    second._flow._model.head.model.vision_model.register_forward_hook(lambda *_: pytest.fail("encoded"))
    first.score(pairs.append_column("uid", pa.array([f"{i:032x}" for i in range(5)])))
    assert second.score(pairs)["itm"].to_pylist() == opened(tmp_path / "m").score(pairs)["itm"].to_pylist()


def test_threads_that_decode_change_nothing(photo: Photo, folder: Path) -> None:
    """Batches are taken ahead, and come back in order."""
    images, texts, captions = some_pairs(photo, 12)
    parts = [pairs_of(images[i : i + 5], texts[i : i + 5], caption=captions[i : i + 5]) for i in (0, 5, 10)]
    with_threads, without = (opened(folder, texts=("caption",), threads=n) for n in (2, None))
    assert with_threads._flow is not None and with_threads._flow._pool is not None
    found, want = (list(made.score_all(iter(parts))) for made in (with_threads, without))
    assert [{n: c.to_pylist() for n, c in one.items()} for one in found] == [
        {n: c.to_pylist() for n, c in one.items()} for one in want
    ]
    with_threads.close()


def test_an_empty_batch_has_empty_columns(folder: Path) -> None:
    """No pairs, no scores, and the right types."""
    made = opened(folder, texts=("caption",), itc=True)
    found = made.score(pairs_of([], [], caption=[]))
    assert {name: column.type for name, column in found.items()} == made.outputs({})
    assert all(len(column) == 0 for column in found.values())
