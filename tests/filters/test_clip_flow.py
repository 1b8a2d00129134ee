"""Streams of parts: the same bits however pairs are cut, decoded and batched."""

from collections.abc import Callable, Iterator

import numpy as np
import pyarrow as pa
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("open_clip")

from pairsieve.filters import _clip_flow  # noqa: E402
from pairsieve.filters._clip_flow import decoders  # noqa: E402
from tests.support_clip import CLIP, SIGLIP, opened, pairs_of, write_model  # noqa: E402

Photo = Callable[..., bytes]


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A small model."""
    return str(write_model(tmp_path_factory.mktemp("models") / "vit", CLIP))


@pytest.fixture(scope="module")
def sig(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Another."""
    return str(write_model(tmp_path_factory.mktemp("models") / "sig", SIGLIP))


@pytest.fixture(scope="module")
def pool(photo: Photo) -> pa.RecordBatch:
    """Pairs of many lengths, some broken."""
    images: list[bytes | None] = [photo(30 + i, 60 - i // 2, seed=i) for i in range(90)]
    texts: list[str | None] = [f"circle {i}" + " on blue" * (i * 7 % 40) for i in range(90)]
    images[3], images[50], texts[7], texts[51] = None, b"x", "", None
    return pairs_of(images, texts)


def same(one: dict[str, pa.Array], other: dict[str, pa.Array]) -> None:
    """Every column has the same bits."""
    assert set(one) == set(other)
    for name, values in one.items():
        assert values.equals(other[name]), name


@pytest.fixture(scope="module")
def whole(vit: str, sig: str, pool: pa.RecordBatch) -> dict[str, pa.Array]:
    """What one part gives, decoded by the caller."""
    return opened(vit, embeddings=True, also={"s": {"model": sig}}).score(pool)


@pytest.mark.parametrize(("threads", "sizes"), [(None, (1, 0, 40, 17, 32)), (1, (30, 30, 30)), (4, (7, 83))])
def test_parts_and_threads(
    vit: str, sig: str, pool: pa.RecordBatch, whole: dict[str, pa.Array], threads: int | None, sizes: tuple[int]
) -> None:
    """Parts in a stream give together what one part gives, in order, with any number of threads."""
    chosen = {"embeddings": True, "also": {"s": {"model": sig}}}
    made = opened(vit, threads=threads, **chosen)
    starts = np.cumsum([0, *sizes])
    parts = [pool.slice(start, size) for start, size in zip(starts, sizes, strict=False)]
    found = list(made.score_all(iter(parts)))
    assert [len(part["clip_score"]) for part in found] == list(sizes)
    same({name: pa.concat_arrays([part[name] for part in found]) for name in whole}, whole)
    made.close()


def test_parts_are_taken_ahead(vit: str, pool: pa.RecordBatch) -> None:
    """While a thread decodes, the next part is asked for before the first is given back."""
    asked: list[int] = []

    def parts() -> Iterator[pa.RecordBatch]:
        for i in range(4):
            asked.append(i)
            yield pool.slice(20 * i, 20)

    made = opened(vit, threads=2)
    first = made.score_all(parts())
    next(first)
    assert len(asked) > 1
    assert len(list(first)) == 3
    made.close()


def test_batches_across_parts(vit: str, pool: pa.RecordBatch) -> None:
    """Parts share batches: 86 images in parts of 10 are six batches of 16, one of them padded."""
    made, seen = opened(vit), []
    made._clips[0].model.visual.register_forward_pre_hook(lambda module, given: seen.append(len(given[0])))
    list(made.score_all(pool.slice(start, 10) for start in range(0, 90, 10)))
    assert seen == [16] * 6


def test_long_waits_end(
    vit: str, pool: pa.RecordBatch, whole: dict[str, pa.Array], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rare length of text does not hold back results for ever, and what is run early has the same bits."""
    monkeypatch.setattr(_clip_flow, "MOST_WAITING", 2)
    asked: list[int] = []

    def parts() -> Iterator[pa.RecordBatch]:
        for i in range(90):
            asked.append(i)
            yield pool.slice(i, 1)

    made = opened(vit, batch_size=16)
    stream = made.score_all(parts())
    first = next(stream)
    assert len(asked) <= 2 * 16 + 2
    found = [first, *stream]
    scores = pa.concat_arrays([part["clip_score"] for part in found])
    assert scores.equals(whole["clip_score"])


def test_after_a_stream_that_was_given_up(vit: str, pool: pa.RecordBatch, whole: dict[str, pa.Array]) -> None:
    """A caller who stops in the middle leaves nothing behind that the next one meets."""
    made = opened(vit, threads=2)
    stream = made.score_all(iter([pool.slice(0, 37), pool.slice(37)]))
    next(stream)
    stream.close()
    assert made.score(pool)["clip_score"].equals(whole["clip_score"])
    made.close()


def test_an_error_in_the_middle(vit: str, pool: pa.RecordBatch, whole: dict[str, pa.Array]) -> None:
    """What the parts raise comes through, and the filter goes on."""

    def parts() -> Iterator[pa.RecordBatch]:
        yield pool.slice(0, 33)
        raise OSError("the disk is gone")

    made = opened(vit)
    with pytest.raises(OSError, match="the disk is gone"):
        list(made.score_all(parts()))
    assert made.score(pool)["clip_score"].equals(whole["clip_score"])


def test_nothing_is_left_on(vit: str, pool: pa.RecordBatch) -> None:
    """Between two parts the caller's torch is as it was: gradients, threads, precision."""
    before = torch.get_num_threads()
    stream = opened(vit).score_all(iter([pool.slice(0, 40), pool.slice(40)]))
    next(stream)
    assert not torch.is_inference_mode_enabled()
    assert torch.get_num_threads() == before
    stream.close()


def test_decoders() -> None:
    """On a CPU nobody decodes beside the model; a GPU has its share of the cores, at least one."""
    assert decoders(None, "cpu", 1) == 0
    assert decoders(3, "cpu", 1) == decoders(3, "cuda", 2) == 3
    assert decoders(None, "cuda", 1) >= decoders(None, "cuda", 16) >= 1
