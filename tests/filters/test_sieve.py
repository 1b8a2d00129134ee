"""SIEVE: the score is the authors', sentence by sentence; the fused one is theirs over the pool."""

import json
import re
import shutil
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from pairsieve.filters._products import fixed  # noqa: E402
from pairsieve.filters.sieve import PHRASES, Sieve  # noqa: E402
from pairsieve.pipelines.plan import make_plan  # noqa: E402
from pairsieve.pipelines.recipe import check  # noqa: E402
from pairsieve.pipelines.recipe_file import from_data  # noqa: E402
from pairsieve.pipelines.run import run  # noqa: E402
from pairsieve.schemas.errors import RecipeError, UserError  # noqa: E402
from tests.support import digests  # noqa: E402
from tests.support_capfilt import WORDS, model  # noqa: E402

LISTS = pa.list_(pa.string())


@pytest.fixture(scope="module")
def opened() -> Sieve:
    """With a tiny encoder."""
    made = Sieve(model=str(model("sentences")), device="cpu")
    made.open()
    return made


def batch(texts: list[str | None], captions: list[Any]) -> pa.RecordBatch:
    """What the filter is given."""
    return pa.record_batch({"text": pa.array(texts, pa.string()), "caption": pa.array(captions, LISTS)})


def by_hand(text: str, captions: list[str]) -> float:
    """The authors' loop for one pair, each sentence by itself through transformers."""

    def embedded(sentence: str) -> Any:
        given = tokenizer(sentence, truncation=True, max_length=64, return_tensors="pt")
        states = net(**given).last_hidden_state[0]
        return torch.nn.functional.normalize(states.mean(0), dim=0)

    hf = import_module("transformers")
    net, tokenizer = (getattr(hf, kind).from_pretrained(model("sentences")) for kind in ("AutoModel", "AutoTokenizer"))
    for phrase in PHRASES:
        text, *captions = (re.sub(phrase, "", one, flags=re.IGNORECASE) for one in (text, *captions))
    with fixed():
        cosines = [float(embedded(text) @ embedded(caption)) for caption in captions]
    return max(cosines) if captions[int(np.argmax(cosines))] else 0.0


def some(count: int) -> tuple[list[str | None], list[list[str]]]:
    """Texts and captions of many lengths, with phrases of the medium."""
    rng = np.random.default_rng(0)

    def words(least: int, most: int) -> str:
        return " ".join(rng.choice([*WORDS, "Stock photo", "an image of"], rng.integers(least, most)))

    return [words(1, 60) for _ in range(count)], [[words(1, 20) for _ in range(1 + i % 8)] for i in range(count)]


def test_equals_the_authors_loop(opened: Sieve) -> None:
    """Pair by pair to 1e-5."""
    texts, captions = some(12)
    found = opened.score(batch(texts, captions))["sieve"].to_numpy()
    np.testing.assert_allclose(found, [by_hand(t or "", c) for t, c in zip(texts, captions, strict=True)], atol=1e-5)
    assert np.std(found) > 1e-3


def test_bits_do_not_depend_on_neighbours(opened: Sieve) -> None:
    """Order, repetition and the rest of the batch change no bit."""
    texts, captions = some(40)
    whole = opened.score(batch(texts, captions))["sieve"].to_pylist()
    back = opened.score(batch(texts[::-1] + texts[:3], captions[::-1] + captions[:3]))["sieve"].to_pylist()
    assert back == whole[::-1] + whole[:3]
    assert [opened.score(batch([t], [c]))["sieve"][0].as_py() for t, c in zip(texts, captions, strict=True)] == whole


def test_a_text_that_is_a_caption_scores_one(opened: Sieve) -> None:
    """Also where the two differ in phrases of the medium only; and the order of captions is no matter."""
    captions = [["a cat on the table", "a red car"], ["a red car", "a cat on the table"], ["A Photo of a red car"]]
    found = opened.score(batch(["a red car", "a red car", "an image of a red car"], captions))["sieve"].to_pylist()
    np.testing.assert_allclose(found, 1.0, atol=1e-6)


def test_what_cannot_be_compared_says_why(opened: Sieve) -> None:
    """No text, no captions; null and empty captions are no captions, and one of phrases alone gives 0."""
    texts: list[str | None] = [None, " ", "a dog", "a dog", "a dog", "a dog", "photo", None]
    captions = [["a"], ["a"], None, [], [None, " "], ["a photo of", None], ["an image"], None]
    found = opened.score(batch(texts, captions))
    no, none = "no_text", "no_caption"
    assert found["sieve_error"].to_pylist() == [no, no, none, none, none, None, None, no]
    assert found["sieve"].to_pylist() == [None] * 5 + [0.0, 0.0, None]


@pytest.mark.parametrize("texts", [[], [None, None]])
def test_a_batch_without_work(opened: Sieve, texts: list[str | None]) -> None:
    """No pairs, or none with a text: columns of the right types and nothing else."""
    found = opened.score(batch(texts, [None] * len(texts)))
    assert found["sieve"].null_count == len(texts) and found["sieve"].type == pa.float32()
    assert found["sieve_error"].to_pylist() == ["no_text"] * len(texts)


def test_hostile_texts(opened: Sieve) -> None:
    """100 kB, control characters, emoji, the tokenizer's own signs: a number each, the padding's sign as any other."""
    texts: list[str | None] = [
        "x" * 100_000,
        "a dog " * 20_000,
        "\0\1\u202e",
        "🐕‍🦺" * 500,
        "[PAD] [SEP] dog",
        "\u0301" * 99,
    ]
    found = opened.score(batch(texts, [["a dog"]] * len(texts)))["sieve"].to_numpy()
    assert np.isfinite(found).all() and (np.abs(found) <= 1.000001).all()
    np.testing.assert_allclose(found[4], by_hand("[PAD] [SEP] dog", ["a dog"]), atol=1e-5)


def test_an_encoder_that_gives_no_numbers_gives_no_scores(tmp_path: Path) -> None:
    """Damaged weights are a reason, not a crash."""
    net = import_module("transformers").AutoModel.from_pretrained(model("sentences"))
    shutil.copytree(model("sentences"), tmp_path / "m")
    with torch.no_grad():
        net.embeddings.word_embeddings.weight.fill_(float("nan"))
    net.save_pretrained(tmp_path / "m")
    made = Sieve(model=str(tmp_path / "m"), device="cpu", min=0.1)
    made.open()
    found = made.score(batch(["a dog", None], [["a cat"], ["a cat"]]))
    assert found["sieve"].to_pylist() == [None, None]
    assert made.keep(pa.record_batch(found), {}).to_pylist() == ["no_score", "no_text"]


def test_columns_of_captions_are_joined(opened: Sieve) -> None:
    """The greatest over several columns, one of them plain strings."""
    made = Sieve(model=str(model("sentences")), device="cpu", texts=("caption", "title"))
    made.open()
    pairs = batch(["a red car", "a red car"], [["a dog"], None]).append_column("title", pa.array(["a red car", None]))
    assert made.score(pairs)["sieve"].to_pylist() == [pytest.approx(1, abs=1e-6), None]


def decided(sieve: list[float | None], clip: list[float | None], cuts: int = 1, **chosen: Any) -> tuple[Any, Any]:
    """Reasons and fused scores after the engine's rounds, over the pool in ``cuts`` shards."""
    made = Sieve(clip="clip", **chosen)
    errors = pa.array(["no_caption" if one is None else None for one in sieve], pa.string())
    columns = {"sieve": pa.array(sieve, pa.float32()), "sieve_error": errors, "clip": pa.array(clip, pa.float32())}
    whole, state = pa.record_batch(columns), dict[str, Any]()
    shards = [whole.slice(i, -(-len(sieve) // cuts)) for i in range(0, len(sieve), -(-len(sieve) // cuts))]
    while not made.is_settled(state):
        summary = made.summarize(shards[0], state)
        for shard in shards[1:]:
            summary = made.merge(made.summarize(shard, state), summary)
        state = json.loads(json.dumps(made.settle(summary, state)))
    derived = made.derive(whole, state)["sieve_fused"]
    return made.keep(whole.append_column("sieve_fused", derived), state).to_pylist(), derived.to_pylist()


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(st.floats(-1, 1, width=32), st.floats(-1, 1, width=32)), min_size=2, max_size=40),
    st.integers(1, 4),
)
def test_fusion_is_the_authors(scores: list[tuple[float, float]], cuts: int) -> None:
    """Min-max over the whole pool, half of each, and the top fifth by the (n·f + 1)-th largest, however it is cut."""
    sieve, clip = (np.array(side, np.float64) for side in zip(*scores, strict=True))
    if np.ptp(sieve) < 1e-30 or np.ptp(clip) < 1e-30:
        return
    want = 0.5 * ((sieve - sieve.min()) / np.ptp(sieve)) + 0.5 * ((clip - clip.min()) / np.ptp(clip))
    threshold = -np.sort(-want)[int(len(want) * 0.2)]
    reasons, found = decided(sieve.tolist(), clip.tolist(), cuts, top=0.2)
    assert found == want.tolist()
    assert [reason is None for reason in reasons] == (want >= threshold).tolist()


def test_fusion_without_a_score() -> None:
    """One that is missing has no fused score and says why; one that is the same everywhere counts nothing."""
    reasons, found = decided([0.5, None, 0.7, 0.6], [0.3, 0.1, None, 0.3], min=0.25)
    assert found == [0.5, None, None, pytest.approx(0.75)]
    assert reasons == [None, "no_caption", "no_score", None]
    assert decided([0.5, 0.6], [0.3, 0.3], weight=0.25, min=0.2) == (["below_min", None], [0.0, 0.25])
    assert decided([None], [None], top=0.2) == (["no_caption"], [None])


def test_without_clip_the_score_itself_is_ranked() -> None:
    """As any ranked score."""
    made, state = Sieve(top=0.4), dict[str, Any]()
    pairs = pa.record_batch(
        {"sieve": pa.array([0.1, 0.2, 0.3, 0.4, None], pa.float32()), "sieve_error": pa.array([None] * 4 + ["no_text"])}
    )
    while not made.is_settled(state):
        state = made.settle(made.summarize(pairs, state), state)
    assert made.keep(pairs, state).to_pylist() == ["below_top", None, None, None, "no_text"]
    assert made.derived({}) == {}


TYPES = {"url": pa.string(), "text": pa.string(), "caption": LISTS, "n": pa.int32(), "clip": pa.float32()}


@pytest.mark.parametrize(
    ("chosen", "says"),
    [
        ({"clip": "clp"}, "did you mean 'clip'"),
        ({"clip": "n"}, "float column"),
        ({"weight": 0.3}, "'weight' goes with 'clip'"),
        ({"clip": "clip", "weight": 1.5}, "less than or equal to 1"),
        ({"texts": ["captoin"]}, "did you mean 'caption'"),
        ({"texts": []}, "at least 1 item"),
        ({"phrases": [" "]}, "without a letter"),
        ({"model": "no/such/folder"}, "there is no directory"),
    ],
)
def test_refused_by_the_plan(chosen: dict[str, Any], says: str) -> None:
    """Wrong columns and numbers are one line."""
    source = from_data({"pool": {"pairs": "x"}, "filters": [{"sieve": {"model": str(model("sentences"))} | chosen}]})
    with pytest.raises(RecipeError, match=says) as caught:
        make_plan(source, *check(source), TYPES)
    assert "\n" not in str(caught.value)


def test_fusing_measures_nothing_again() -> None:
    """CLIP's column, its weight and the limits only decide; phrases and the encoder are measured."""

    def fingerprint(**chosen: Any) -> str:
        source = from_data(
            {"pool": {"pairs": "x"}, "filters": [{"sieve": {"model": str(model("sentences"))} | chosen}]}
        )
        return make_plan(source, *check(source), TYPES).steps[0].fingerprint

    assert fingerprint() == fingerprint(clip="clip", weight=0.3, top=0.2) != fingerprint(phrases=[])


def test_an_encoder_of_other_pooling_is_refused(tmp_path: Path) -> None:
    """One that takes [CLS] would give other sentences."""
    shutil.copytree(model("sentences"), tmp_path / "m")
    (tmp_path / "m" / "1_Pooling" / "config.json").write_text('{"pooling_mode_cls_token": true}')
    with pytest.raises(UserError, match="does not take the mean"):
        Sieve(model=str(tmp_path / "m"), device="cpu").open()


def test_runs_are_the_same_for_any_number_of_workers(tmp_path: Path, photo: Callable[..., bytes]) -> None:
    """Captions, SIEVE and CLIP fused over the pool: one worker and two write the same bytes."""
    import pyarrow.parquet as pq

    (tmp_path / "pool").mkdir()
    texts = [None if i == 4 else f"a {WORDS[i % len(WORDS)]} on the {WORDS[3 * i % len(WORDS)]}" for i in range(40)]
    for part in range(2):
        columns = {"url": [f"u{i}" for i in range(part, 40, 2)], "text": texts[part::2]}
        columns |= {"clip": [(i * 7919 % 1000) / 1000 for i in range(part, 40, 2)]}
        pq.write_table(pa.table(columns | {"image": [photo(40, 40)] * 20}), tmp_path / "pool" / f"{part}.parquet")
    step = {"model": str(model("sentences")), "device": "cpu", "clip": "clip", "top": 0.2, "of": "pool"}
    filters = [{"tests.support_itm:Says": {"of": "pool"}}, {"sieve": step}]
    results = [
        run({"pool": {"pairs": str(tmp_path / "pool")}, "filters": filters}, tmp_path / f"run{n}", workers=n)
        for n in (1, 2)
    ]
    assert digests(tmp_path / "run1") == digests(tmp_path / "run2")
    rows = results[0].query("SELECT sieve, sieve_fused, clip, reason FROM scores").to_pylist()
    assert len(rows) == 40 and {row["reason"] for row in rows} == {None, "no_text", "no_caption", "below_top"}
    known = [row for row in rows if row["sieve"] is not None]
    sieve, clip = (np.array([row[name] for row in rows if row[name] is not None]) for name in ("sieve", "clip"))
    for row in known:
        want = 0.5 * (row["sieve"] - sieve.min()) / np.ptp(sieve) + 0.5 * (row["clip"] - clip.min()) / np.ptp(clip)
        assert abs(row["sieve_fused"] - want) < 1e-9
