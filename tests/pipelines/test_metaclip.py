"""The recipes of MetaCLIP, CLIP and LLaVA as they ship, over a small served pool, against their rules written out."""

import itertools
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pairsieve.pipelines.demo_pool import build_pool, url_rows
from pairsieve.pipelines.demo_server import serve
from pairsieve.pipelines.run import run
from pairsieve.pipelines.runner import Result
from pairsieve.schemas.errors import RecipeError
from tests.support_balance import draw_of, literal_counts, literal_probability
from tests.support_match import linear_scan
from tests.support_pools import photo
from tests.support_spacy import SENTENCES, write_model
from tests.support_tars import write_tar

ENGLISH = ["the", "a", "dog", "brown dog", "photo", "photo of", "quokka", "Quito, D.C.", "on the"]
GERMAN = ["der", "Hund", "braune", "über", "die"]
CHINESE = ["狗", "棕色", "棕色的狗"]
PARTS = [
    ["A photo of", "This is a photo of", "Look at", "On the picture we see"],
    ["the brown dog", "a brown dog", "a small cat", "the old quokka", "the green car"],
    ["running over the grass", "sitting on the street", "in Quito, D.C.", "behind the house"],
]
OTHERS = ["Der braune Hund rennt über die Wiese", "Die Katze sitzt auf dem Dach", "一只棕色的狗在草地上奔跑"]


@dataclass(frozen=True)
class World:
    """A served list, and the metadata in one language and in three."""

    folder: Path
    urls: Path

    def run(self, name: str, out: str, *sets: str) -> Result:
        """A shipped recipe."""
        served = [f"urls={self.urls}", "filters.download.allow_addresses=[127.0.0.1/32]", "filters.download.timeout=60"]
        return run(name, self.folder / out, overrides=[*served, *sets], workers=2, engine="local")

    def run_steps(self, out: str, *steps: dict[str, Any]) -> Result:
        """Matching, then some steps."""
        match = {"metadata_match": f"{self.folder}/english.parquet"}
        made = {"pool": {"urls": str(self.urls)}, "filters": [match, *steps]}
        return run(made, self.folder / out, workers=1)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """160 English captions, some of other languages, and some without a word of the metadata."""
    folder, rng = tmp_path_factory.mktemp("metaclip"), random.Random(5)
    captions = [" ".join(rng.choice(part) for part in PARTS) for _ in range(160)]
    captions += [f"{rng.choice(OTHERS)} {i}" for i in range(40)]
    captions += [f"There are some green cars and small houses near this street {i}" for i in range(10)]
    pool = build_pool(400)
    with serve(pool) as server:
        urls = [row.url for row in url_rows(pool, server.url) if row.defect is None][: len(captions)]
        table = pa.table({"url": [*urls, urls[0]], "text": [*captions, captions[0]]})  # the first one twice
        pq.write_table(table, folder / "urls.parquet")
        _write_metadata(folder / "english.parquet", {"en": ENGLISH})
        _write_metadata(folder / "all.parquet", {"en": ENGLISH, "de": GERMAN, "zh": CHINESE})
        yield World(folder, folder / "urls.parquet")


def _write_metadata(path: Path, lists: dict[str, list[str]]) -> None:
    pairs = [(entry, language) for language, entries in lists.items() for entry in entries]
    table = {"entry": [e for e, _ in pairs], "source": ["test"] * len(pairs), "language": [n for _, n in pairs]}
    pq.write_table(pa.table(table | {"count": pa.nulls(len(pairs), pa.int64())}), path)


def rows_of(found: Result) -> list[dict[str, Any]]:
    """Every candidate with its scores and verdict."""
    rows: list[dict[str, Any]] = found.query("SELECT * FROM scores ORDER BY shard, row").to_pylist()
    return rows


def test_metaclip_is_its_rule(world: World) -> None:
    """Matches by linear scan, counts, π by Python's floats, the draw of (seed, uid); what is kept is downloaded."""
    found = world.run("metaclip_400m", "metaclip", f"metadata={world.folder}/english.parquet", "t=15")
    rows = [row for row in rows_of(found) if row["dropped_by"] not in ("language", "exact_duplicates")]
    lists = [linear_scan(row["text"], ENGLISH) for row in rows]
    counts = literal_counts(lists)
    for row, matched in zip(rows, lists, strict=True):
        probability = literal_probability(matched, counts, 15)
        if not matched:
            wanted: tuple[str | None, ...] = ("metadata_match", "unmatched")
        elif draw_of(row["uid"], 0) >= probability:
            wanted = ("metadata_balance", "not_drawn")
        else:
            wanted = (None, None)
        assert (row["dropped_by"], row["reason"]) == wanted, row
    assert {row["dropped_by"] for row in rows} == {None, "metadata_match", "metadata_balance"}
    images = found.query("SELECT count(*) AS n, count(image) AS images FROM dataset").to_pylist()
    assert images == [{"n": found.kept, "images": found.kept}]


def test_metaclip_downloads_what_is_balanced_alone(world: World) -> None:
    """Balancing comes first: no image is fetched for nothing."""
    found = world.run("metaclip_400m", "metaclip", f"metadata={world.folder}/english.parquet", "t=15")
    assert found.measured["download"] == 0  # the run above has fetched them
    fetched = found.query("SELECT count(*) AS n FROM scores_download").to_pylist()
    assert fetched == [{"n": found.kept}]


def test_metaclip_2_5b_is_the_same_with_another_t(world: World) -> None:
    """On a small pool t = 170,000 keeps every pair that matches."""
    found = world.run("metaclip_2_5b", "larger", f"metadata={world.folder}/english.parquet")
    assert found.settled["metadata_balance"]["t"] == 170_000
    assert not [step for step, _ in found.tally.dropped if step == "metadata_balance"]


def test_metaclip_by_tail_share_or_size(world: World) -> None:
    """As the recipe's comment says: t is null, and another parameter decides."""
    sets = [f"metadata={world.folder}/english.parquet", "t=null"]
    found = world.run("metaclip_400m", "share", *sets, "tail_share=0.3")
    assert 0 < found.settled["metadata_balance"]["tail_share"] < 0.5
    found = world.run("metaclip_400m", "share", *sets, "target_rows=90")
    assert found.settled["metadata_balance"]["expected_rows"] >= 90


def test_two_balances_need_two_seeds(world: World) -> None:
    """With the same draws the second would keep nearly all."""
    with pytest.raises(RecipeError, match="an earlier metadata_balance draws the same numbers with seed 0"):
        world.run_steps("twice", {"metadata_balance": {"t": 30}}, {"metadata_balance": {"t": 9, "as": "again"}})
    world.run_steps("twice", {"metadata_balance": {"t": 30}}, {"metadata_balance": {"t": 9, "as": "again", "seed": 1}})


def test_names_of_another_list_are_refused(world: World) -> None:
    """Ids of one list have the names of another."""
    with pytest.raises(RecipeError, match="is not what metadata_match matches with; name the same file"):
        world.run_steps("names", {"metadata_balance": {"t": 30, "metadata": f"{world.folder}/all.parquet"}})


def test_clip_wit_caps_each_query(world: World) -> None:
    """Each query chooses at most so many, and exactly so many where it has more."""
    found = world.run("clip_wit", "wit", f"metadata={world.folder}/english.parquet", "most=6")
    sql = "SELECT matched_entries AS ids, entry_cap_chosen AS chosen FROM scores WHERE entry_matches > 0"
    rows = found.query(sql).to_pylist()
    counts = Counter(itertools.chain.from_iterable(row["ids"] for row in rows))
    assert sum(row["chosen"] for row in rows) == sum(min(count, 6) for count in counts.values())
    assert found.kept == sum(row["chosen"] > 0 for row in rows)


def test_worldwide_matches_and_balances_by_language(world: World) -> None:
    """Each caption meets the entries of its language, by rule v2; the other languages' t follow English's tail."""
    found = world.run("metaclip_2_worldwide", "worldwide", f"metadata={world.folder}/all.parquet", "t=30")
    entries = {"en": ENGLISH, "de": GERMAN, "zh": CHINESE}
    first = {"en": 0, "de": len(ENGLISH), "zh": len(ENGLISH) + len(GERMAN)}
    rows = found.query("SELECT text, lang, matched_entries AS ids FROM scores WHERE entry_matches >= 0").to_pylist()
    for row in rows:
        own = linear_scan(row["text"], entries.get(row["lang"], []), "v2") or []
        assert row["ids"] == [first[row["lang"]] + i for i in own]
    assert {row["lang"] for row in rows if row["ids"]} == {"en", "de", "zh"}
    ts = found.query("SELECT language, t FROM metadata_balance_languages").to_pylist()
    assert {row["language"] for row in ts} == set(entries)
    assert next(row["t"] for row in ts if row["language"] == "en") == 30


def test_cc595k_keeps_captions_of_rare_phrases(tmp_path: Path) -> None:
    """Tars in, phrases of too few captions chosen by nobody, the others' choices exact."""
    model, samples = write_model(tmp_path / "model"), {}
    texts = [SENTENCES[0][0]] * 12 + [SENTENCES[1][0]] * 2 + ["the cat eats a small dog"] * 4
    for i, text in enumerate(texts):
        samples[f"{i:09d}"] = {"jpg": photo(300, 200 + i), "txt": text.encode()}
    write_tar(tmp_path / "0.tar", samples)
    sets = [f"pairs={tmp_path}/*.tar", f"model={model}", "most=5"]
    found = run("llava_cc595k", tmp_path / "run", overrides=sets, workers=1)
    rows = found.query("SELECT noun_phrases AS phrases, dropped_by, reason FROM scores").to_pylist()
    counts = Counter(phrase for row in rows for phrase in row["phrases"])
    for row in rows:
        if all(counts[phrase] < 3 for phrase in row["phrases"]):
            assert row["reason"] == "too_rare"
        elif any(3 <= counts[phrase] <= 5 for phrase in row["phrases"]):
            assert row["dropped_by"] is None
    assert Counter(row["reason"] for row in rows)["over_cap"] >= 2
    assert found.query("SELECT count(image) AS n FROM dataset").to_pylist() == [{"n": found.kept}]
