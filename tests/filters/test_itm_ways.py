"""The ways a matching head is run: a GPU's, in halves, and at full size."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from pairsieve.filters._itm_run import Asked, ItmRunner  # noqa: E402
from pairsieve.schemas.errors import UserError  # noqa: E402
from tests.benchmarks import itm as benchmark  # noqa: E402
from tests.support_capfilt import model  # noqa: E402
from tests.support_itm import opened  # noqa: E402

Work = tuple[Any, list[Any], list[Asked]]


@pytest.fixture(params=["blip-itm", "blip2-itm"])
def work(request: pytest.FixtureRequest) -> Work:
    """A head, five encoded images, and texts of 3 to 30 tokens."""
    made = opened(model(request.param))
    assert made._flow is not None
    head, rng = made._flow._model.head, np.random.default_rng(0)
    torch.manual_seed(0)
    pixels = torch.randn(5, 3, *made._flow._model.wanted.size)
    with torch.inference_mode():
        images = list(head.model.vision_model(pixel_values=pixels).last_hidden_state)
    ids = [(2, *rng.integers(5, 60, 1 + 7 * i % 28).tolist(), 3) for i in range(23)]
    return head, images, [Asked(i % 5, own) for i, own in enumerate(ids)]


def test_a_gpus_way_gives_the_same_scores(work: Work) -> None:
    """Keys of all images at once, filled up, and texts that gather theirs: the same to 1e-6."""
    head, images, texts = work
    runners = [ItmRunner(head, 35, torch.device("cpu"), together=way) for way in (False, True)]
    for compute in (ItmRunner.probabilities, ItmRunner.cosines):
        one, other = (compute(runner, images, texts) for runner in runners)
        np.testing.assert_allclose(one, other, atol=1e-6)
        assert np.std(one) > 1e-3


def test_batches_are_halved_where_memory_runs_out(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    """With room for two texts the scores come out all the same; with room for none it is said in one line."""
    head, images, texts = work
    runner, begin = ItmRunner(head, 35, torch.device("cpu")), head.begin
    want = runner.probabilities(images, texts)

    def room_for(most: int) -> Callable[[Any], Any]:
        def begun(ids: Any) -> Any:
            if len(ids) > most:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate\nmore")
            return begin(ids)

        return begun

    monkeypatch.setattr(head, "begin", room_for(2))
    np.testing.assert_allclose(runner.probabilities(images, texts), want, atol=1e-6)
    assert runner._rows == 2
    monkeypatch.setattr(head, "begin", room_for(0))
    with pytest.raises(UserError, match="does not fit into the device's memory with one pair: CUDA out of memory"):
        runner.probabilities(images, texts)


def test_full_size() -> None:
    """BLIP-base at 384 pixels with random weights: one image goes through, as by the library to 1e-5."""
    flow = benchmark.flow_of(benchmark.blip("base", 384), "base", 384)
    part = benchmark.work_of(1, 2)
    found, want = benchmark.by_flow(flow, part), benchmark.by_library(flow, part, once=True)
    np.testing.assert_allclose(found, want, atol=1e-5)
