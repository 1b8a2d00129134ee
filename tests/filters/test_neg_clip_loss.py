"""negCLIPLoss: the paper's formula on the batches that hashes draw, whatever the order of the pairs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from pairsieve.filters.base import Filter
from pairsieve.filters.neg_clip_loss import NegClipLoss, drawn
from pairsieve.pipelines.run import run
from pairsieve.schemas import uid
from pairsieve.schemas.errors import RecipeError
from tests.support import digests
from tests.support_tars import uid_of

pytest.importorskip("torch")

Matrix = NDArray[np.float16]
WIDTH = 24


def features(count: int, seed: int = 0) -> tuple[Matrix, Matrix]:
    """Normalised image and text embeddings of some likeness, as a pool stores them."""
    rng = np.random.default_rng(seed)
    image = rng.normal(size=(count, WIDTH))
    text = 0.6 * image + rng.normal(size=(count, WIDTH))
    unit = [(one / np.linalg.norm(one, axis=1, keepdims=True)).astype(np.float16) for one in (image, text)]
    return unit[0], unit[1]


def column(values: Matrix, lost: tuple[int, ...] = ()) -> pa.Array:
    """Embeddings as a column; some are null."""
    mask = np.isin(np.arange(len(values)), lost)
    return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1], mask=pa.array(mask))


def table(image: Matrix, text: Matrix, numbers: NDArray[np.int64] | None = None, **lost: Any) -> pa.RecordBatch:
    """Pairs with uids."""
    numbers = np.arange(len(image)) if numbers is None else numbers
    uids = pa.array([uid_of(int(n)) for n in numbers])
    return pa.record_batch({"uid": uids, "l14_img": column(image, **lost), "l14_txt": column(text)})


def scores(pairs: pa.RecordBatch, **settings: Any) -> NDArray[np.float32]:
    """What the filter measures, NaN for none."""
    made = NegClipLoss(device="cpu", **settings)
    made.open()
    found = made.score(pairs)["neg_clip_loss"]
    return np.asarray(found.to_numpy(zero_copy_only=False), np.float32)


def literal(image: Matrix, text: Matrix, temperature: float, weight: float = 1.0) -> NDArray[np.float64]:
    """The formula in float64, term by term: a weight of 1 is the paper's."""
    cos = image.astype(np.float64) @ text.astype(np.float64).T
    terms = np.exp(cos / temperature)
    own = np.diag(terms)
    rows, columns = (own + weight * (terms.sum(axis=axis) - own) for axis in (1, 0))
    return np.asarray(np.diag(cos) - 0.5 * temperature * (np.log(rows) + np.log(columns)))


@pytest.mark.parametrize("temperature", [0.01, 0.07, 1.0])
def test_full_batch_is_the_papers_formula(temperature: float) -> None:
    """All pairs in one batch of that size: exactly the published expression, to float32's precision."""
    image, text = features(700)
    found = scores(table(image, text), batch=700, repeats=1, temperature=temperature)
    assert np.abs(found - literal(image, text, temperature)).max() < 3e-7 * max(1, temperature * 20)


def test_average_over_the_batches_of_hashes() -> None:
    """Each round's batches by the documented draw, each weighted by its size, averaged."""
    image, text = features(500)
    pairs = table(image, text)
    hashes = uid.keyed_hash(pairs["uid"], 3)
    wanted = np.zeros(500)
    for number in range(4):
        for places in drawn(hashes, number, 128):
            assert len(places) == 125  # 500 in the fewest batches of at most 128
            wanted[places] += literal(image[places], text[places], 0.01, 127 / 124) / 4
    assert np.abs(scores(pairs, batch=128, repeats=4, seed=3) - wanted).max() < 3e-7


@given(count=st.integers(1, 300), batch=st.integers(2, 100))
def test_batches_are_equal_shares(count: int, batch: int) -> None:
    """Every pair once in a round, sizes that differ by one at most, none above the limit; rounds differ."""
    hashes = uid.keyed_hash(pa.array([uid_of(n) for n in range(count)]), 0)
    rounds = [list(drawn(hashes, number, batch)) for number in (0, 1)]
    sizes = [len(places) for places in rounds[0]]
    assert max(sizes) <= batch and max(sizes) - min(sizes) <= 1 and len(sizes) == -(-count // batch)
    assert all(sorted(np.concatenate(one)) == list(range(count)) for one in rounds)
    assert count < 20 or [list(p) for p in rounds[0]] != [list(p) for p in rounds[1]]


def test_order_of_the_pairs_changes_nothing() -> None:
    """Bit by bit: the batches and their order come from the uids alone."""
    image, text = features(300)
    order = np.random.default_rng(1).permutation(300)
    first = scores(table(image, text), batch=64, repeats=2)
    second = scores(table(image[order], text[order], order), batch=64, repeats=2)
    assert np.array_equal(first[order], second)


def test_smaller_batches_estimate_the_same() -> None:
    """Weighted negatives take the size of the batch out of the score; unweighted, a half would add T·log 2."""
    image, text = features(2000)
    pairs = table(image, text)
    whole = scores(pairs, batch=2000, repeats=1, temperature=0.07)
    halves = scores(pairs.slice(0, 1000), batch=2000, repeats=1, temperature=0.07)
    plain = literal(image[:1000], text[:1000], 0.07)
    assert abs((halves - whole[:1000]).mean()) < 0.15 * (plain - whole[:1000]).mean()


def test_extremes_do_not_overflow() -> None:
    """Identical pairs at a tiny temperature: e^{1000} and e^{-1000} stay out of it."""
    image = np.eye(40, WIDTH, dtype=np.float16)[np.arange(40) % WIDTH]
    found = scores(table(image, -image), batch=40, repeats=1, temperature=0.001)
    assert np.isfinite(found).all() and found.max() < -0.9


def test_pairs_without_embeddings_take_no_part() -> None:
    """A null embedding has no score, and the others' are as if it were not there."""
    image, text = features(50)
    with_null = scores(table(image, text, lost=(7,)), batch=50, repeats=1)
    rest = np.delete(np.arange(50), 7)
    alone = scores(table(image[rest], text[rest], rest), batch=50, repeats=1)
    assert np.isnan(with_null[7])
    assert np.array_equal(with_null[rest], alone)


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_pairs_have_no_score(count: int) -> None:
    """Without a negative there is nothing to measure."""
    image, text = features(count)
    assert np.isnan(scores(table(image, text))).all()


def write_pool(path: Path, count: int = 90) -> dict[str, Any]:
    """A list with uids and embeddings, in row groups of 40."""
    image, text = features(count)
    columns = {
        "uid": [uid_of(n) for n in range(count)],
        "url": [f"http://e.org/{n}" for n in range(count)],
        "text": ["x" * (n % 5) for n in range(count)],
        "l14_img": column(image),
        "l14_txt": column(text),
    }
    pq.write_table(pa.table(columns), path, row_group_size=40)
    return {"urls": {"path": str(path), "columns": ["l14_img", "l14_txt"], "shard_rows": 40}}


STEP = {"neg_clip_loss": {"batch": 16, "repeats": 2, "top": 0.5, "of": "pool", "device": "cpu"}}


def test_runs_give_it_whole_shards(tmp_path: Path) -> None:
    """Its batches are drawn within a shard, whatever the workers, what came before, and the size of a chunk."""
    pool = write_pool(tmp_path / "pool.parquet")
    first = run({"pool": pool, "filters": [STEP]}, tmp_path / "a", workers=1)
    wanted = first.query("SELECT neg_clip_loss AS s FROM scores ORDER BY shard, row")["s"].to_numpy()
    image, text = features(90)
    for start, stop in ((0, 40), (40, 80), (80, 90)):
        pairs = table(image[start:stop], text[start:stop], np.arange(start, stop))
        assert np.array_equal(scores(pairs, batch=16, repeats=2), wanted[start:stop])
    steps = [{"where": "length(text) > 1"}, STEP]
    second = run({"pool": pool, "filters": steps}, tmp_path / "b", workers=2)
    again = second.query("SELECT neg_clip_loss AS s FROM scores ORDER BY shard, row")["s"].to_numpy()
    assert np.array_equal(again, wanted)
    assert first.kept == 46  # floor(90·0.5) + 1


def test_looser_recipes_measure_nothing_again(tmp_path: Path) -> None:
    """Survivors have no part in the scores, so another filter before it leaves them as they are."""
    pool = write_pool(tmp_path / "pool.parquet")
    run({"pool": pool, "filters": [{"where": "length(text) > 2"}, STEP]}, tmp_path / "a", workers=1)
    before = {k: v for k, v in digests(tmp_path / "a").items() if "neg_clip_loss" in k}
    result = run({"pool": pool, "filters": [{"where": "length(text) > 0"}, STEP]}, tmp_path / "a", workers=1)
    assert {k: v for k, v in digests(tmp_path / "a").items() if "neg_clip_loss" in k} == before
    assert result.measured["neg_clip_loss"] == 0


def test_survivors_are_no_scope(tmp_path: Path) -> None:
    """Without ``of: pool`` the recipe is refused, with the next step."""
    pool = write_pool(tmp_path / "pool.parquet")
    step = {"neg_clip_loss": {"batch": 16}}
    with pytest.raises(RecipeError, match="neg_clip_loss: write 'of: pool'"):
        run({"pool": pool, "filters": [step]}, tmp_path / "a")


class Made(Filter):
    """Embeddings that a step measures."""

    reads = ("text",)
    writes: ClassVar[Mapping[str, pa.DataType]] = {"made": pa.list_(pa.float32())}

    def score(self, pairs: pa.RecordBatch) -> dict[str, pa.Array]:
        """Never asked."""
        return {}

    def keep(self, pairs: pa.RecordBatch) -> pa.Array:
        """All of them."""
        return pa.repeat(pa.scalar(True), pairs.num_rows)


def test_columns_of_steps_are_refused(tmp_path: Path) -> None:
    """It is given whole shards before the pass begins, so it reads the pool only; the recipe says so."""
    pool = write_pool(tmp_path / "pool.parquet")
    steps = [
        {"tests.filters.test_neg_clip_loss:Made": {"of": "pool"}},
        {"neg_clip_loss": {"image": "made", "of": "pool"}},
    ]
    with pytest.raises(RecipeError, match="reads columns of the pool only, but 'made' is of the step Made"):
        run({"pool": pool, "filters": steps}, tmp_path / "a")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"image": "text"}, "not embeddings"),
        ({"text": "l14_tx"}, "did you mean 'l14_txt'"),
        ({"batch": 1}, "greater than or equal to 2"),
        ({"temperature": 0}, "greater than 0"),
    ],
)
def test_wrong_settings_are_refused(tmp_path: Path, settings: dict[str, Any], said: str) -> None:
    """One line, before anything runs."""
    pool = write_pool(tmp_path / "pool.parquet")
    with pytest.raises(RecipeError, match=said):
        run({"pool": pool, "filters": [{"neg_clip_loss": {"of": "pool", **settings}}]}, tmp_path / "a")
