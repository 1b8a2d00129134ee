"""Batches of one shape: rows arrive where they belong, and a device that is too small is given less."""

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from pairsieve.filters._clip import Clip  # noqa: E402
from pairsieve.filters._clip_batches import Batches, Rows  # noqa: E402
from pairsieve.schemas.errors import UserError  # noqa: E402
from tests.support_clip import CLIP, build  # noqa: E402

CPU = torch.device("cpu")


def doubling(size: int, shapes: list[int]) -> Batches:
    """A tower that doubles two numbers and notes the rows it is given."""

    def encode(batch: Any) -> Any:
        shapes.append(len(batch))
        return batch.float() * 2

    return Batches(encode, (2,), torch.int64, size, CPU)


def test_rows_arrive_in_their_places() -> None:
    """Rows of several owners share batches, and each gets its own, in its order; every batch is of one shape."""
    shapes: list[int] = []
    made = doubling(4, shapes)
    owners = [Rows(7), Rows(9)]
    values = np.arange(32).reshape(16, 2)
    made.put(values[:3], owners[0], np.array([6, 0, 2]))
    made.put(values[3:9], owners[1], np.array([8, 7, 6, 5, 4, 3]))
    made.put(values[9:10], owners[0], np.array([4]))
    assert [owner.missing for owner in owners] == [1, 1]
    made.flush()
    assert shapes == [4, 4, 4]
    assert [owner.missing for owner in owners] == [0, 0]
    assert owners[0].values is not None and owners[1].values is not None
    np.testing.assert_array_equal(owners[0].values[[6, 0, 2, 4]], 2 * values[[0, 1, 2, 9]])
    np.testing.assert_array_equal(owners[1].values[8:2:-1], 2 * values[3:9])
    assert np.isnan(owners[0].values[[1, 3, 5]]).all()


def test_reset_forgets() -> None:
    """Rows of a caller who gave up are not run."""
    shapes: list[int] = []
    made = doubling(4, shapes)
    made.put(np.ones((3, 2), np.int64), Rows(3), np.arange(3))
    made.reset()
    to = Rows(1)
    made.put(np.full((1, 2), 5), to, np.arange(1))
    made.flush()
    assert shapes == [4]
    assert to.values is not None and to.values.tolist() == [[10, 10]]


def test_nothing_to_flush() -> None:
    """Without rows nothing is run."""
    shapes: list[int] = []
    doubling(4, shapes).flush()
    assert not shapes


class Full:
    """A hook that raises what CUDA raises, where a batch has more rows than fit."""

    def __init__(self, fits: int) -> None:
        """Rows that fit."""
        self.fits, self.seen = fits, list[int]()

    def __call__(self, module: Any, args: tuple[Any, ...]) -> None:
        """Before the forward pass."""
        self.seen.append(len(args[0]))
        if len(args[0]) > self.fits:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")


def pictures(count: int) -> Any:
    """Random pixels."""
    return np.random.default_rng(0).integers(0, 255, (count, 3, 32, 32), dtype=np.uint8)


def clip(batch_size: int) -> Clip:
    """A real model."""
    import open_clip

    return Clip(build(CLIP), open_clip.SimpleTokenizer(), CPU, torch.float32, batch_size)


def test_out_of_memory_halves_the_batch() -> None:
    """A model that does not fit with 16 or 8 rows runs 4 at a time from then on, and gives the same embeddings."""
    want = clip(16).images(pictures(20))
    made, hook = clip(16), Full(fits=4)
    made.model.visual.register_forward_pre_hook(hook)
    np.testing.assert_allclose(made.images(pictures(20)), want, atol=1e-6)
    assert hook.seen == [16, 8, *[4] * 8]


def test_out_of_memory_once() -> None:
    """A shortage in the middle costs no row."""
    want = clip(8).images(pictures(40))
    made, hook = clip(8), Full(fits=8)
    handle = made.model.visual.register_forward_pre_hook(hook)
    made.images(pictures(8))
    hook.fits = 7
    np.testing.assert_allclose(made.images(pictures(40)), want, atol=1e-6)
    assert hook.seen[:4] == [8, 8, 4, 4]
    handle.remove()


def test_out_of_memory_for_good() -> None:
    """Where not even one pair fits there is one line."""
    made = clip(4)
    hook = Full(fits=0)
    made.model.visual.register_forward_pre_hook(hook)
    with pytest.raises(UserError, match="does not fit into the device's memory with one pair: CUDA out") as caught:
        made.images(pictures(2))
    assert "\n" not in str(caught.value)
    hook.fits = 1
    np.testing.assert_allclose(made.images(pictures(3)), clip(1).images(pictures(3)), atol=1e-6)


def test_texts_go_on_after_images_ran_out() -> None:
    """Each tower has its own size: texts run in full batches."""
    made = clip(8)
    made.model.visual.register_forward_pre_hook(Full(fits=2))
    made.images(pictures(8))
    seen = Full(fits=99)
    made.model.transformer.register_forward_pre_hook(seen)
    assert made.texts(["a", "b"]).shape == (2, 64)
    assert seen.seen == [8]


@pytest.mark.parametrize(("size", "want"), [(512, [512, 256, 64]), (16, [16, 8, 4]), (2, [2, 2, 2]), (1, [1, 1, 1])])
def test_long_texts_in_small_batches(size: int, want: list[int]) -> None:
    """Batches of texts hold about as many tokens whatever the length, but 4 texts where there may be 4."""
    made, seen = clip(size), list[int]()
    made.model.transformer.register_forward_pre_hook(lambda module, given: seen.append(len(given[0])))
    for words in (1, 20, 70):
        made.texts(["cat " * words])
    tower: Any = made._towers.tower(16)
    assert tower.__self__.transformer is made.model.transformer  # so that the hook sees every length
    assert seen == want
