"""Every kind of captioner writes what its own library would write, whatever is written beside it."""

from typing import Any

import numpy as np
import pytest

from pairsieve.filters._decode import Decoding

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("open_clip")

from tests.support_captioners import (  # noqa: E402
    captioner,
    ended,
    generate,
    image,
    images,
    inputs,
    literal,
    logits_after,
    numbers_of,
    placeholders,
    written,
)

torch.set_num_threads(1)  # two are many times slower where other tests run beside them
OF_TRANSFORMERS = ("blip", "blip2", "llava", "qwen")
EVERY = (*OF_TRANSFORMERS, "coca")


@pytest.mark.parametrize("name", OF_TRANSFORMERS)
@pytest.mark.parametrize(("penalty", "least"), [(1.0, 0), (1.3, 4)])
def test_greedy(name: str, penalty: float, least: int) -> None:
    """Greedy captions are those of ``generate``."""
    decoding = Decoding("greedy", 1, 9, least, penalty=penalty)
    data = images(4)
    assert written(name, data, decoding) == [generate(name, one, decoding) for one in data]


@pytest.mark.parametrize("name", OF_TRANSFORMERS)
@pytest.mark.parametrize(("beams", "count", "penalty", "least"), [(3, 3, 1.0, 0), (5, 1, 1.3, 4), (1, 1, 1.0, 0)])
def test_beams(name: str, beams: int, count: int, penalty: float, least: int) -> None:
    """Captions by beam search are those of ``generate``, the best first."""
    decoding = Decoding("beam", count, 8, least, penalty=penalty, beams=beams)
    data = images(4)
    assert written(name, data, decoding) == [generate(name, one, decoding) for one in data]


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize(("top_p", "temperature", "penalty"), [(0.9, 1.0, 1.1), (0.5, 0.7, 1.0)])
def test_drawn(name: str, top_p: float, temperature: float, penalty: float) -> None:
    """Drawn captions are those of a literal reference: whole forward passes, transformers' warpers, a look-up."""
    most = 3 if name == "coca" else 7  # of 49,408 words each
    decoding = Decoding("nucleus", 2, most, 2, top_p, temperature=temperature, penalty=penalty)
    data = images(1 if name == "coca" else 3)
    numbers = [numbers_of(i, decoding) for i in range(len(data))]
    found = written(name, data, decoding, numbers=numbers)
    want = [
        [literal(name, one, numbers[i][row], decoding) for row in range(decoding.count)] for i, one in enumerate(data)
    ]
    assert [ended(rows, placeholders(name)) for rows in found] == want
    assert len({tuple(row) for rows in found for row in rows}) == 2 * len(data)


@pytest.mark.parametrize("beams", [1, 4])
def test_coca_beams(beams: int) -> None:
    """CoCa's beams are those of open_clip's own forward pass: the best of all continuations, step by step."""
    decoding = Decoding("beam", 1, 4, 4, beams=beams)
    data, ours = images(2), captioner("coca")
    for one, found in zip(data, written("coca", data, decoding), strict=True):
        running: list[tuple[float, list[int]]] = [(0.0, [])]
        for _ in range(decoding.most):
            grown = []
            for score, tokens in running:
                log = logits_after("coca", one, tokens).log_softmax(1)[0]
                log[list(ours.barred)] = float("-inf")
                values, ids = log.topk(2 * beams)
                grown += [(score + float(v), [*tokens, int(i)]) for v, i in zip(values, ids, strict=True)]
            running = sorted(grown, key=lambda pair: -pair[0])[:beams]
        assert found == [running[0][1]]


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("kind", ["nucleus", "beam"])
def test_any_slots(name: str, kind: Any) -> None:
    """Captions are the same with 1 to 11 slots, and in any order."""
    decoding = Decoding(kind, 3, 6, 1, 0.9, penalty=1.1, beams=3)
    data = images(6)
    numbers = [numbers_of(i, decoding) for i in range(6)]
    want = written(name, data, decoding, 1, numbers)
    for slots in (2, 5, 11):
        assert written(name, data, decoding, slots, numbers) == want
    order = [4, 1, 5, 0, 3, 2]
    found = written(name, [data[i] for i in order], decoding, 2, [numbers[i] for i in order])
    assert found == [want[i] for i in order]


@pytest.mark.parametrize("name", ["blip", "blip2"])
def test_pictures(name: str) -> None:
    """Pictures are those of the model's own processor by Pillow, bit for bit."""
    from pairsieve.filters._preprocess import normalised, pixels

    wanted = captioner(name).wanted
    assert wanted
    for width, height in ((64, 48), (31, 200), (1, 1)):
        data = image(width, width, height)
        ours = normalised(torch.from_numpy(np.stack(pixels(data, [wanted], False))), wanted, torch.float32)
        np.testing.assert_array_equal(ours.numpy(), np.asarray(inputs(name, data)["pixel_values"]))


def test_words_are_whole() -> None:
    """A caption that begins within a word has no '##' before it, and loses no letter to the prompt."""
    ours = captioner("blip")
    ids = [ours._tokenizer.convert_tokens_to_ids(one) for one in ("##s", "dog")]  # type: ignore[attr-defined]
    assert ours.text(ids) == "s dog"
    assert ours.text([*ids, ours.ends[0]]) == "s dog"
