"""What a pool filter derives from its whole scope: columns for verdicts, the dataset and queries, and tables."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from pairsieve.pipelines.estimate import estimate
from pairsieve.pipelines.plan_report import Report
from pairsieve.pipelines.progress import Silent
from pairsieve.pipelines.run import load, run
from pairsieve.schemas.errors import PairsieveError, RecipeError
from tests.support import digests, kept_texts, recipe, write_csv

LETTERS, RAREST = "tests.support_filters:Letters", "tests.support_filters:Rarest"
TEXTS = [["ab", "abc", "abd", "", "a", "bcd", "zz a"][i % 7] + ("q" if i == 11 else "") for i in range(350)]


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    """350 pairs, 4 shards; one caption alone has a q, some have no letter."""
    return write_csv(tmp_path / "list.csv", [{"url": f"http://e.org/{i}", "text": t} for i, t in enumerate(TEXTS)])


def rarest(texts: list[str]) -> list[int | None]:
    """The rule, literally."""
    counts = Counter(c for text in texts for c in set(text))
    return [min((counts[c] for c in text), default=None) for text in texts]


def shown(found: Any, sql: str) -> list[dict[str, Any]]:
    """Rows of a query."""
    rows: list[dict[str, Any]] = found.query(sql).to_pylist()
    return rows


def planned(made: dict[str, Any], out: Path | None) -> Report:
    """The plan of a recipe."""
    opened, plan, _ = load(made)
    return estimate(opened, plan, out=None if out is None else str(out), workers=1, progress=Silent())


def test_derived_columns_are_those_of_the_whole_scope(pool: Path, tmp_path: Path) -> None:
    """Each pair has its value, wherever it lies, and a query sees it beside the scores."""
    found = run(recipe(pool, LETTERS, RAREST), tmp_path / "run", workers=1)
    rows = shown(found, "SELECT rarest_count FROM scores ORDER BY shard, row")
    assert [row["rarest_count"] for row in rows] == rarest(TEXTS)
    views = "SELECT count(*) AS n FROM derived_Rarest"
    assert shown(found, views) == [{"n": len(TEXTS)}]


def test_the_scope_is_what_earlier_steps_leave(pool: Path, tmp_path: Path) -> None:
    """Pairs dropped before count for nothing and get nothing; ``of: pool`` counts them."""
    where = {"where": "text IS NULL OR text NOT LIKE 'abc%'"}
    kept = [text for text in TEXTS if not text.startswith("abc")]
    found = run(recipe(pool, LETTERS, where, RAREST), tmp_path / "run", workers=1)
    sql = "SELECT rarest_count FROM scores {} ORDER BY shard, row"
    left = shown(found, sql.format("WHERE dropped_by IS NULL"))
    assert [row["rarest_count"] for row in left] == rarest(kept)
    assert shown(found, sql.format("WHERE dropped_by IS NOT NULL"))[0]["rarest_count"] is None
    whole = run(recipe(pool, LETTERS, where, {RAREST: {"of": "pool"}}), tmp_path / "whole", workers=1)
    assert [row["rarest_count"] for row in shown(whole, sql.format(""))] == rarest(TEXTS)


def test_verdicts_of_later_steps_may_compare_them(pool: Path, tmp_path: Path) -> None:
    """The filter's own threshold, and a where."""
    found = run(recipe(pool, LETTERS, {RAREST: {"least": 2}}, {"where": "rarest_count > 60"}), tmp_path / "run")
    values = zip(TEXTS, rarest(TEXTS), strict=True)
    assert kept_texts(found) == sorted(text for text, n in values if n is not None and n > 60)
    assert found.tally.dropped["Rarest", "too_rare"] == 1


def test_a_renamed_step_renames_nothing_else(pool: Path, tmp_path: Path) -> None:
    """Twice the same filter: the second one's column carries its name."""
    steps = (LETTERS, RAREST, {RAREST: {"as": "again", "least": 100}})
    found = run(recipe(pool, *steps), tmp_path / "run", workers=1)
    row = shown(found, "SELECT rarest_count, again_rarest_count FROM scores LIMIT 1")[0]
    assert row["rarest_count"] == row["again_rarest_count"]


def test_tables_are_views_of_the_catalog(pool: Path, tmp_path: Path) -> None:
    """``<step>_<table>``; those of a step that is gone go with it."""
    found = run(recipe(pool, LETTERS, RAREST), tmp_path / "run", workers=1)
    counts = Counter(c for text in TEXTS for c in set(text))
    rows = shown(found, "SELECT * FROM Rarest_letters ORDER BY letter")
    assert {row["letter"]: row["count"] for row in rows} == counts
    run(recipe(pool, LETTERS), tmp_path / "run", workers=1)
    assert not (tmp_path / "run" / "derived" / "Rarest").exists()


def test_the_same_bytes_from_any_number_of_workers(pool: Path, tmp_path: Path) -> None:
    """Summaries meet in any order."""
    made = recipe(pool, LETTERS, {RAREST: {"least": 3}}, output={"dataset": {}})
    made["pool"]["urls"]["shard_rows"] = 20
    made["output"] = {"subset": "subset.npy", "dataset": {"columns": ["text", "letters", "rarest_count"]}}
    for workers in (1, 2):
        run(made, tmp_path / str(workers), workers=workers)
    assert digests(tmp_path / "1") == digests(tmp_path / "2")


def test_an_edited_recipe_equals_a_fresh_run(pool: Path, tmp_path: Path) -> None:
    """A looser filter above changes every count: derived values, verdicts and the dataset follow."""
    output = {"output": {"dataset": {"columns": ["text", "rarest_count"]}}}
    first, second = ({"where": f"text NOT LIKE '{like}'"} for like in ("zz%", "abc%"))
    run(recipe(pool, LETTERS, first, RAREST, **output), tmp_path / "run", workers=1)
    again = run(recipe(pool, LETTERS, second, RAREST, **output), tmp_path / "run", workers=1)
    assert again.measured == {"Letters": 0}
    run(recipe(pool, LETTERS, second, RAREST, **output), tmp_path / "fresh", workers=1)
    assert digests(tmp_path / "run") == digests(tmp_path / "fresh")


def test_the_dataset_follows_values_though_the_same_pairs_stay(pool: Path, tmp_path: Path) -> None:
    """What a pair gets may change while the kept pairs do not."""
    late = {"where": "text LIKE 'b%'"}
    output = {"output": {"dataset": {"columns": ["text", "rarest_count"]}}}
    for name, early in (("run", "true"), ("run", "text <> 'abd'"), ("fresh", "text <> 'abd'")):
        run(recipe(pool, LETTERS, {"where": early}, RAREST, late, **output), tmp_path / name, workers=1)
    assert digests(tmp_path / "run") == digests(tmp_path / "fresh")


def test_plan_knows_what_is_kept(pool: Path, tmp_path: Path) -> None:
    """A plan of a finished run replays the rounds without touching it."""
    made = recipe(pool, LETTERS, {RAREST: {"least": 2}}, {"where": "rarest_count > 60"})
    found = run(made, tmp_path / "run", workers=1)
    before = digests(tmp_path / "run")
    report = planned(made, tmp_path / "run")
    assert report.kept is not None
    assert (report.kept.kind, report.kept.value) == ("exact", found.kept)
    assert digests(tmp_path / "run") == before


def test_plan_tries_it_on_a_sample(pool: Path) -> None:
    """Nothing is there yet."""
    report = planned(recipe(pool, LETTERS, RAREST, {"where": "rarest_count > 1"}), None)
    assert report.sample is not None
    assert not [trial.error for trial in report.sample.steps.values() if trial.error]
    assert "Rarest: counts of a sample are small; fewer pairs may stay than it says" in report.notes


def test_a_filter_that_derives_too_little_is_named(pool: Path, tmp_path: Path) -> None:
    """One line with the step."""
    with pytest.raises(PairsieveError, match="DerivesTooLittle: derive\\(\\) gave 1 values"):
        run(recipe(pool, LETTERS, "tests.support_filters:DerivesTooLittle"), tmp_path / "run", workers=1)


def test_no_score_may_depend_on_the_pool(pool: Path, tmp_path: Path) -> None:
    """Measured values would be stale with the next threshold."""
    with pytest.raises(RecipeError, match="'rarest_count', which Rarest derives from the whole pool"):
        run(recipe(pool, LETTERS, RAREST, "tests.support_filters:ReadsDerived"), tmp_path / "run")


def test_a_missing_list_column_is_named(pool: Path, tmp_path: Path) -> None:
    """As with every column."""
    with pytest.raises(RecipeError, match="reads 'letters', which neither the pool nor a step above gives"):
        run(recipe(pool, RAREST), tmp_path / "run")
