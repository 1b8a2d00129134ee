"""Counts, PMI and MetaCLIP 2's score against nltk and numpy, whatever the tables hold and the cut of the work."""

import json
import math
import random
from collections import Counter
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nltk.collocations import BigramCollocationFinder
from nltk.metrics import BigramAssocMeasures

from pairsieve.pipelines.metadata_inputs import bundles, list_texts, pieces
from pairsieve.pipelines.metadata_merge import MergePairs, MergeWords, Relabel, Run, stretches
from pairsieve.pipelines.metadata_ngrams import Count, Room
from pairsieve.pipelines.metadata_select import Selection, percentile
from pairsieve.pipelines.metadata_settings import Limits, Rules
from pairsieve.pipelines.store import Store
from tests.support_metadata import slow_stretches

WIDE = Room(words=10_000, arena=1 << 17, pairs=50_000)
Pairs = dict[tuple[str, str], tuple[int, float]]


def corpus(size: int, seed: int = 0) -> list[str]:
    """Texts of words with Zipf's frequencies, with marks and lines."""
    rng = random.Random(seed)
    words = [f"{rng.choice('aÄbλ語')}{i}" for i in range(1000)]
    weights = [1 / (i + 1) for i in range(1000)]
    return [
        "".join(w + rng.choice("   ,\n") for w in rng.choices(words, weights, k=rng.randint(0, 60)))
        for _ in range(size)
    ]


def count(
    folder: Path,
    texts: list[str],
    room: Room = WIDE,
    plain: int = 1 << 30,
    rows: int = 1 << 30,
    least: float | None = None,
) -> tuple[dict[str, int], Pairs, int]:
    """Words, bigrams with count and PMI, and the number of tokens."""
    path = folder / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    store = Store(str(folder / "work"))
    store.remove("")
    counted = [Count(store, "runs", room=room)(one) for one in bundles(pieces(list_texts([str(path)]), plain), plain)]
    runs, tokens = [run for one in counted for run in one.runs], sum(one.tally.get("tokens", 0) for one in counted)
    merged = [MergeWords(store, "runs", runs)(each) for each in stretches(sum(one.words for one in counted), rows)]
    names = [one.name for one in merged]
    keys = [Relabel(store, "runs", merged)(Run(i, run)) for i, run in enumerate(runs)]
    task = MergePairs(store, "runs", keys, names, tokens, least=least)
    pairs = [task(each) for each in stretches(sum(one.pairs for one in counted), rows)]
    found = pa.concat_tables([store.table(name) for name in names])
    words = found["word"].to_pylist()
    assert len(found) == sum(one.distinct for one in merged)
    both = pa.concat_tables([store.table(one.name) for one in pairs]).to_pylist()
    scored = {(words[row["first"]], words[row["second"]]): (row["count"], row["pmi"]) for row in both}
    assert least is not None or len(scored) == len(both) == sum(one.distinct for one in pairs)
    return dict(zip(words, found["count"].to_pylist(), strict=True)), scored, tokens


def nltk_finder(texts: list[str]) -> BigramCollocationFinder:
    """nltk's counts of the same words, no bigram across a break."""
    return BigramCollocationFinder.from_documents([words for text in texts for words in slow_stretches(text)])


def test_counts_and_pmi_are_nltks(tmp_path: Path) -> None:
    """Every word, every bigram, N, and the PMI of every bigram, to the last bit but for log2's rounding."""
    texts = corpus(400)
    words, pairs, tokens = count(tmp_path, texts)
    finder = nltk_finder(texts)
    assert words == dict(finder.word_fd)
    assert tokens == finder.word_fd.N() > 5000
    wanted = dict(finder.score_ngrams(BigramAssocMeasures.pmi))
    assert {pair: number for pair, (number, _) in pairs.items()} == dict(finder.ngram_fd)
    assert max(abs(pmi - wanted[pair]) for pair, (_, pmi) in pairs.items()) < 1e-12


def test_pmi_of_known_counts(tmp_path: Path) -> None:
    """log2(c12·N / (c1·c2)), N being all words."""
    _, pairs, tokens = count(tmp_path, ["new york new york, new x", "york y"])
    assert tokens == 8
    assert {pair: pairs[pair][0] for pair in (("new", "york"), ("york", "y"))} == {("new", "york"): 2, ("york", "y"): 1}
    assert pairs["new", "york"][1] == pytest.approx(math.log2(2 * 8 / (3 * 3)))
    assert pairs["york", "y"][1] == pytest.approx(math.log2(8 / 3))
    assert ("york", "york") not in pairs


@settings(max_examples=5, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 100), plain=st.integers(300, 3000), words=st.integers(8, 60), pairs=st.integers(8, 60))
def test_tables_and_cuts_do_not_matter(tmp_path: Path, seed: int, plain: int, words: int, pairs: int) -> None:
    """Tables that are full after a few words, files cut anywhere, merges in many stretches: the same counts and PMI."""
    texts = corpus(4, seed)
    wanted = count(tmp_path, texts)
    assert count(tmp_path, texts, Room(words, 4096, pairs), plain, rows=50) == wanted


def test_the_longest_words_fit_the_smallest_tables(tmp_path: Path) -> None:
    """A full arena is written out like any other full table."""
    texts = [" ".join(letter * 1024 for letter in "abcab")]
    words, pairs, _ = count(tmp_path, texts, Room(words=4, arena=2048, pairs=2))
    assert words == {"a" * 1024: 2, "b" * 1024: 2, "c" * 1024: 1}
    assert {(a[0], b[0]): n for (a, b), (n, _) in pairs.items()} == {("a", "b"): 2, ("b", "c"): 1, ("c", "a"): 1}


def test_only_bigrams_of_the_least_pmi_are_written(tmp_path: Path) -> None:
    """The threshold is inclusive."""
    texts = corpus(100)
    _, pairs, _ = count(tmp_path, texts)
    least = sorted(pmi for _, pmi in pairs.values())[len(pairs) // 2]
    _, some, _ = count(tmp_path, texts, least=least)
    assert some == {pair: found for pair, found in pairs.items() if found[1] >= least}


def test_a_counted_piece_is_not_counted_again(tmp_path: Path) -> None:
    """A note and its runs are taken as they are: a build that was stopped continues."""
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "one two"}\n')
    store = Store(str(tmp_path / "work"))
    (bundle,) = bundles(pieces(list_texts([str(path)])))
    first = Count(store, "runs")(bundle)
    path.unlink()
    assert Count(store, "runs")(bundle) == first


@given(st.lists(st.floats(-30, 40) | st.sampled_from([0.0, 1.5, -2.25]), min_size=1, max_size=300), st.floats(0.01, 1))
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_percentile_is_numpys(tmp_path: Path, values: list[float], share: float) -> None:
    """The least value that the share does not exceed: numpy's ``inverted_cdf``."""
    pq.write_table(pa.table({"pmi": pa.array(values, pa.float64())}), tmp_path / "p.parquet")
    with duckdb.connect() as con:
        found = percentile(con, [str(tmp_path / "p.parquet")], share)
    assert found == np.quantile(values, share, method="inverted_cdf")


def test_metaclip2s_score_orders_bigrams(tmp_path: Path) -> None:
    """(c12 + 1)^0.7 · (PMI − the 30th percentile of PMI), the best first, written out with nltk's figures."""
    texts = corpus(300)
    _, pairs, _ = count(tmp_path, texts)
    finder = nltk_finder(texts)
    scores = dict(finder.score_ngrams(BigramAssocMeasures.pmi))
    floor = float(np.quantile(list(scores.values()), 0.3, method="inverted_cdf"))
    wanted = {pair: (finder.ngram_fd[pair] + 1) ** 0.7 * (pmi - floor) for pair, pmi in scores.items()}
    files = [str(path) for path in (tmp_path / "work").rglob("pairs.*.parquet")]
    with duckdb.connect() as con:
        chosen = Selection(con, Rules(unigrams=Limits(), bigrams=Limits(most=50), score="metaclip2"))
        chosen.unigrams([str(tmp_path / "work" / "runs" / "words.00.parquet")])
        found = chosen.bigrams(files, len(pairs), " ")
        table = chosen.table("en")[0]
        entries = [tuple(row["entry"].split(" ")) for row in table.to_pylist() if row["source"] == "bigrams"]
    assert found == pytest.approx(floor)
    assert len(entries) == 50
    got = [wanted[entry] for entry in entries]
    assert got == pytest.approx(sorted(wanted.values(), reverse=True)[:50])


def test_a_share_is_of_the_words_taken(tmp_path: Path) -> None:
    """Bigrams are cut to a part of the number of unigrams that passed; unigrams to a part of the candidates."""
    pq.write_table(pa.table({"word": [f"w{i:02d}" for i in range(50)], "count": range(50)}), tmp_path / "w.parquet")
    pairs = {"first": range(50), "second": [0] * 50, "count": [1] * 50, "pmi": [1.0] * 50}
    pq.write_table(pa.table(pairs), tmp_path / "p.parquet")
    with duckdb.connect() as con:
        chosen = Selection(con, Rules(unigrams=Limits(least=10, share=0.5), bigrams=Limits(share=0.4)))
        chosen.unigrams([str(tmp_path / "w.parquet")])
        chosen.bigrams([str(tmp_path / "p.parquet")], 50, "")
        table, taken = chosen.table("xx")
    assert (taken["unigrams"].passed, taken["bigrams"].passed) == (20, 8)
    assert Counter(table["source"].to_pylist()) == {"unigrams": 20, "bigrams": 8}
    assert table["entry"].to_pylist()[:2] + table["entry"].to_pylist()[-1:] == ["w49", "w48", "w07w00"]
