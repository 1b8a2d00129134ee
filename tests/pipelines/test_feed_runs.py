"""Training from what runs write: every pair that a run keeps, balanced anew in every epoch, one of several texts."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pairsieve.pipelines.feed import PairDataset
from pairsieve.pipelines.run import run
from tests.support import recipe as of_urls
from tests.support import write_csv
from tests.support_balance import pairs_of, zipfian_lists
from tests.support_feed import pictures
from tests.support_pools import write_pairs

ROWS = 1500


def test_every_kept_pair_of_a_run(tmp_path: Path) -> None:
    """Its image, decoded, its text and its uid; null texts are empty."""
    made = {"pool": write_pairs(tmp_path), "filters": [{"image_shape": {"shortest": 200}}], "output": {"dataset": True}}
    found = run(made, tmp_path / "run", workers=1)
    data = PairDataset(tmp_path / "run", batch_size=3, image_size=32, columns=("width",))
    batches = list(data)
    seen = [row for b in batches for row in zip(b["uid"], b["text"], b["width"], strict=True)]
    rows = found.query("SELECT uid, text, width FROM scores WHERE dropped_by IS NULL").to_pylist()
    assert sorted(seen) == sorted((row["uid"], row["text"] or "", row["width"]) for row in rows)
    assert [batch["image"].shape for batch in batches] == [(3, 3, 32, 32), (1, 3, 32, 32)]


@pytest.fixture(scope="module")
def balanced(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A run of ``metadata_balance: {online: true}``."""
    folder = tmp_path_factory.mktemp("balanced")
    lists: list[Any] = [None if i % 97 == 0 else text for i, text in enumerate(zipfian_lists(ROWS, 120, 3.0, seed=6))]
    table = pairs_of(lists).append_column("image", pa.array([f"{i}".encode() for i in range(ROWS)]))
    table = table.append_column("text", pa.array([f"caption {i}" for i in range(ROWS)]))
    pq.write_table(table, folder / "pairs.parquet")
    pairs = {"path": str(folder / "pairs.parquet"), "columns": ["matched_entries"], "shard_rows": 500}
    step = {"metadata_balance": {"t": 5, "online": True}}
    return run({"pool": {"pairs": pairs}, "filters": [step], "output": {"dataset": True}}, folder / "run", workers=1)


def test_metaclips_balance_is_drawn_anew_in_every_epoch(balanced: Any) -> None:
    """Over 60 epochs each pair comes as often as its probability says, and epochs have the expected size."""
    query = "SELECT uid, metadata_balance_probability AS p FROM scores WHERE dropped_by IS NULL"
    chances = {row["uid"]: row["p"] for row in balanced.query(query).to_pylist()}
    data = PairDataset(balanced.root, decode="bytes", batch_size=64, weights="metadata_balance_probability")
    epochs = [[uid for batch in data for uid in batch["uid"]] for _ in range(60)]
    assert max(Counter(epochs[0]).values()) == 1
    assert epochs[0] != epochs[1]
    expected, spread = sum(chances.values()), np.sqrt(sum(p * (1 - p) for p in chances.values()))
    assert abs(np.mean([len(epoch) for epoch in epochs]) - expected) < 4 * spread / np.sqrt(60)
    came = Counter(uid for epoch in epochs for uid in epoch)
    assert set(came) <= set(chances)
    shares = np.array([came[uid] / 60 for uid in chances])
    wanted = np.array(list(chances.values()))
    assert np.corrcoef(shares, wanted)[0, 1] > 0.97
    assert np.all(np.abs(shares - wanted) <= 5 * np.sqrt(wanted * (1 - wanted) / 60) + 1e-9)


def test_the_length_is_that_of_the_epoch(balanced: Any) -> None:
    """Whose rows differ from epoch to epoch."""
    data = PairDataset(balanced.root, decode=None, batch_size=1, weights="metadata_balance_probability")
    lengths = [(len(data), sum(1 for _ in data)) for _ in range(3)]
    assert all(said == came for said, came in lengths)
    assert len({said for said, _ in lengths}) > 1


def test_one_of_two_captions(tmp_path: Path) -> None:
    """MetaCLIP 2's: the caption that the run has chosen is the text, with the probability of that caption."""
    words = ["a", "dog", "cat", "owl", "emu"]
    (tmp_path / "metadata.txt").write_text("\n".join(words))
    texts = [" ".join(words[i] for i in text) for text in zipfian_lists(800, 5, 1.5, seed=9)]
    rows = [{"url": f"http://e.org/{i}", "text": texts[2 * i], "alt": texts[2 * i + 1]} for i in range(400)]
    match = {"metadata_match": {"metadata": str(tmp_path / "metadata.txt"), "text": ["text", "alt"]}}
    step = {"metadata_balance": {"t": 30, "captions": "one", "online": True}}
    made = of_urls(write_csv(tmp_path / "list.csv", rows), match, step, output={"dataset": True})
    found = run(made, tmp_path / "run", workers=1)
    own = "metadata_balance_caption"
    data = PairDataset(
        found.root, decode=None, text=("text", "alt"), pick=own, weights=f"{own}_probability", columns=(own, "alt")
    )
    query = f"SELECT uid, text, alt, {own} AS one, {own}_probability AS p FROM scores WHERE dropped_by IS NULL"
    kept = {row["uid"]: row for row in found.query(query).to_pylist()}
    epochs = [[pair for batch in data for pair in zip(batch["uid"], batch["text"], strict=True)] for _ in range(40)]
    for uid, text in epochs[0]:
        assert text == (kept[uid]["text"], kept[uid]["alt"])[kept[uid]["one"]]
    assert {kept[uid]["one"] for uid, _ in epochs[0]} == {0, 1}
    expected = sum(row["p"] for row in kept.values())
    assert abs(np.mean([len(epoch) for epoch in epochs]) - expected) < 4 * np.sqrt(expected / 40)


def test_a_text_is_drawn_by_its_weight(tmp_path: Path) -> None:
    """Of those that ``choose: {into: list}`` leaves; another one in another epoch, the same one in the same."""
    table = pa.table(
        {
            "image": pictures(40),
            "text": [f"web {i}" for i in range(40)],
            "alt": [f"alt {i}" if i % 4 else None for i in range(40)],
        }
    )
    pq.write_table(table, tmp_path / "pairs.parquet")
    choose = {"choose": {"texts": ["text", "alt"], "into": "list", "weights": {"text": 3, "alt": 1}}}
    made = {
        "pool": {"pairs": {"path": str(tmp_path / "pairs.parquet"), "columns": ["alt"]}},
        "filters": [choose],
        "output": {"dataset": True},
    }
    found = run(made, tmp_path / "run", workers=1)
    data = PairDataset(found.root, decode=None, batch_size=7)
    epochs = [{u: t for batch in data for u, t in zip(batch["uid"], batch["text"], strict=True)} for _ in range(100)]
    shares = Counter(text.split()[0] for epoch in epochs for text in epoch.values())
    assert shares["alt"] / shares.total() == pytest.approx(0.75 * 0.25, abs=0.03)
    for uid in epochs[0]:
        assert len({epoch[uid].split()[1] for epoch in epochs}) == 1
    again = PairDataset(found.root, decode=None, batch_size=40, workers=1)
    again.set_epoch(3)
    (batch,) = again
    assert dict(zip(batch["uid"], batch["text"], strict=True)) == epochs[3]
    first = PairDataset(found.root, decode=None, draw="first")
    assert {text.split()[0] for batch in first for text in batch["text"]} == {"web"}
