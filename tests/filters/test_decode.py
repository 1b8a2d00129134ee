"""The next token is chosen as transformers chooses it, by a number that the caller gives."""

from importlib import import_module
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pairsieve.filters import _decode
from pairsieve.filters._decode import Decoding, drawn, processed, warped

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

HF: Any = import_module("transformers")
torch.set_num_threads(1)  # two are many times slower where other tests run beside them
few = settings(max_examples=40)


def logits_of(seed: int, rows: int, size: int, spread: float = 3.0) -> Any:
    """Random logits without equals."""
    return torch.from_numpy(np.random.default_rng(seed).normal(0, spread, (rows, size)).astype(np.float32))


def nucleus(top_p: float = 0.9, top_k: int = 0, temperature: float = 1.0, **more: Any) -> Decoding:
    """Settings of a draw."""
    return Decoding("nucleus", 1, 20, top_p=top_p, top_k=top_k, temperature=temperature, **more)


@few
@given(
    st.integers(0, 10_000),
    st.sampled_from([0.05, 0.5, 0.9, 0.999, 1.0]),
    st.sampled_from([0, 1, 5, 50, 5000]),
    st.sampled_from([0.5, 1.0, 1.7]),
    st.sampled_from([3, 200, 700]),
)
def test_what_may_be_drawn(seed: int, top_p: float, top_k: int, temperature: float, size: int) -> None:
    """Temperature, top_k and top_p leave the logits that transformers' warpers leave, exactly."""
    logits = logits_of(seed, 4, size)
    want = HF.TemperatureLogitsWarper(temperature)(None, logits) if temperature != 1 else logits
    want = HF.TopKLogitsWarper(top_k)(None, want) if top_k else want
    want = HF.TopPLogitsWarper(top_p)(None, want) if top_p < 1 else want
    assert torch.equal(warped(logits, nucleus(top_p, top_k, temperature)), want)


@few
@given(st.integers(0, 10_000), st.sampled_from([1.0, 1.1, 0.7]), st.booleans())
def test_processors(seed: int, penalty: float, may_end: bool) -> None:
    """The repetition penalty and the least length change logits as transformers' processors do, exactly."""
    logits, ends = logits_of(seed, 3, 50), torch.tensor([7, 9])
    history = torch.from_numpy(np.random.default_rng(seed).integers(0, 50, (3, 6)))
    want = HF.RepetitionPenaltyLogitsProcessor(penalty)(history, logits) if penalty != 1 else logits
    want = HF.MinLengthLogitsProcessor(6 if may_end else 7, ends.tolist())(history, want)
    made = nucleus(penalty=penalty, least=2)
    assert torch.equal(processed(logits, history, torch.tensor([may_end] * 3), ends, made), want)


@few
@given(st.integers(0, 10_000), st.sampled_from([0.3, 0.9, 1.0]), st.sampled_from([0, 4, 400]), st.booleans())
def test_draws_have_the_distribution(seed: int, top_p: float, top_k: int, is_flat: bool) -> None:
    """Evenly spaced numbers fall on each token as often as its probability says; with few and with many to sort."""
    logits = logits_of(seed, 1, 600, 0.01 if is_flat else 4.0)
    made, count = nucleus(top_p, top_k), 3000
    numbers = torch.arange(count, dtype=torch.float64) / count
    found = drawn(logits.expand(count, -1), numbers, made)
    want = warped(logits, made).double().softmax(1)[0].numpy()
    shares = np.bincount(found.numpy(), minlength=600) / count
    np.testing.assert_allclose(shares, want, atol=1.5 / count)
    assert not shares[want == 0].any()


def test_rows_do_not_see_each_other() -> None:
    """A row's token is the same alone, among others, and whether or not others' rows had to be sorted."""
    logits = torch.cat([logits_of(0, 20, 3000, 5.0), logits_of(1, 20, 3000, 0.01)])
    numbers = torch.from_numpy(np.random.default_rng(0).random(40))
    together = drawn(logits, numbers, nucleus())
    alone = [int(drawn(logits[i : i + 1], numbers[i : i + 1], nucleus())[0]) for i in range(40)]
    assert together.tolist() == alone
    order = torch.randperm(40)
    assert torch.equal(drawn(logits[order], numbers[order], nucleus()), together[order])


def test_sorted_and_first_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looking at 256 tokens first changes no draw."""
    logits, numbers = logits_of(3, 300, 1000, 2.0), torch.from_numpy(np.random.default_rng(1).random(300))
    quick = drawn(logits, numbers, nucleus())
    monkeypatch.setattr(_decode, "FIRST", 1)
    assert torch.equal(drawn(logits, numbers, nucleus()), quick)


@pytest.mark.parametrize("size", [5, 1000])
def test_equal_logits(size: int) -> None:
    """Where all are alike so many may be drawn as hold top_p, the first by id; the greatest number is one of them."""
    logits = torch.zeros((3, size))
    found = drawn(logits, torch.tensor([0.0, 0.5, 1 - 2**-53], dtype=torch.float64), nucleus(0.5))
    assert found.tolist() == [0, size * 0.5 // 2, -(-size // 2) - 1]
    assert int(torch.isfinite(warped(logits, nucleus(0.5))).sum(1)[0]) == -(-size // 2)


def test_one_token_left() -> None:
    """A nucleus smaller than its likeliest token is that token, whatever the number."""
    logits = torch.tensor([[0.0, 9.0, 1.0]]).expand(2, -1)
    assert drawn(logits, torch.tensor([0.0, 0.999], dtype=torch.float64), nucleus(1e-6)).tolist() == [1, 1]
