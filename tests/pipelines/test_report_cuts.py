"""Thresholds told from run.yaml: the column, the side and the value by which each filter's own ``keep`` decided."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pairsieve.pipelines.report import report
from pairsieve.pipelines.report_cuts import Cut, cuts
from pairsieve.pipelines.report_source import open_run
from pairsieve.pipelines.run import run
from pairsieve.pipelines.runner import Result

ROWS = 300


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pairs with scores of three types, some NaN, some null."""
    number = np.arange(ROWS)
    half = ((number * 37 % 101) / 101).astype(np.float32)
    half[::17] = np.nan
    columns = {
        "uid": [f"{i * 7919:032x}" for i in range(ROWS)],
        "url": [f"http://e.org/{i}" for i in range(ROWS)],
        "text": ["word " * (i % 12) for i in range(ROWS)],
        "narrow": pa.array(half, mask=number % 23 == 0),
        "wide": pa.array((number * 53 % 97) / 97, mask=number % 19 == 0),
        "sharp": pa.array(((number * 53 % 97) / 97).astype(np.float16)),
        "whole": pa.array(number % 40, pa.int64(), mask=number % 29 == 0),
        "width": pa.array(100 + number, pa.int32()),
        "height": pa.array(400 - number, pa.int32()),
    }
    folder = tmp_path_factory.mktemp("cuts")
    pq.write_table(pa.table(columns), folder / "list.parquet", row_group_size=100)
    return folder / "list.parquet"


def curate(pool: Path, folder: Path, *steps: Any) -> Result:
    """Run some steps."""
    made = {"pool": {"urls": {"path": str(pool), "shard_rows": 100}}, "filters": list(steps)}
    return run(made, folder / "run", workers=1)


def found(root: str) -> list[Cut]:
    """The thresholds of a run."""
    with open_run(root) as source:
        return cuts(source)


def said(root: str) -> list[tuple[str, str, float]]:
    """Column, sign and value of each."""
    return [(cut.column, cut.sign, cut.value) for cut in found(root)]


@pytest.mark.parametrize(
    "step",
    [
        {"caption_words": {"least": 3, "most": 8, "least_characters": 20}},
        {"image_shape": {"shortest": 150, "aspect": 2.5}},
        {"clip_score": {"column": "narrow", "min": 0.3}},
        {"clip_score": {"column": "narrow", "top": 0.4}},
        {"clip_score": {"column": "wide", "min": 0.1, "top": 0.7}},
        {"clip_score": {"column": "wide", "min": 0.3, "exclude": True}},
        {"clip_score": {"column": "narrow", "top": 0.3, "min": 0.8, "exclude": True}},
        {"random_sample": {"fraction": 0.37}},
        {"where": "narrow >= 0.3"},
        {"where": "0.7 > wide AND whole BETWEEN 5 AND 30"},
        {"where": "narrow < 0.22 AND narrow > -1e0"},
    ],
    ids=lambda step: str(step)[:60],
)
def test_pairs_pass_its_thresholds_if_and_only_if_the_step_kept_them(pool: Path, tmp_path: Path, step: Any) -> None:
    """Pair by pair; null passes no threshold, and NaN none but those of a ``where``."""
    result = curate(pool, tmp_path, step)
    tests = {cut.view: [] for cut in found(result.root)}  # type: dict[str, list[str]]
    for cut in found(result.root):
        tests[cut.view].append(f"coalesce({cut.test}, false)")
    assert tests
    for view, those in tests.items():
        sql = f"""
            SELECT count(*) FILTER (({" AND ".join(those)}) <> (v.dropped_by IS NULL)) AS wrong, count(*) AS n
            FROM "{view}" s JOIN verdicts v ON s.shard = v.shard AND s.row = v.row
        """
        assert result.query(sql).to_pylist() == [{"wrong": 0, "n": ROWS}]
    assert 0 < result.kept < ROWS


def test_a_step_with_another_name_has_its_own_column(pool: Path, tmp_path: Path) -> None:
    """The same filter twice: each threshold is on what its own step stored."""
    result = curate(pool, tmp_path, {"caption_words": {}}, {"caption_words": {"as": "again", "least": 5, "most": None}})
    assert [(cut.step, cut.view, cut.column, cut.value) for cut in found(result.root)] == [
        (0, "scores_caption_words", "caption_words", 3),
        (0, "scores_caption_words", "caption_words", 64),
        (1, "scores_again", "again", 5),
    ]


def test_a_column_of_the_same_name_is_not_taken_for_its_own(pool: Path, tmp_path: Path) -> None:
    """Of two draws the second has its own numbers."""
    result = curate(
        pool, tmp_path, {"random_sample": {"fraction": 0.8}}, {"random_sample": {"as": "b", "fraction": 0.5}}
    )
    assert [(cut.view, cut.value) for cut in found(result.root)] == [("scores_random_sample", 0.8), ("scores_b", 0.5)]


@pytest.mark.parametrize(
    "expression",
    [
        "narrow > 0.3 OR wide > 0.3",
        "NOT narrow > 0.3",
        "narrow > wide",
        "narrow + 1 > 1.3",
        "text <> ''",
        "whole IN (1, 2, 3)",
        "url > 'a'",
        "whole > -9223372036854775900",
        "whole < 9007199254740993",
    ],
)
def test_what_is_no_comparison_with_a_number_has_no_threshold(pool: Path, tmp_path: Path, expression: str) -> None:
    """Nothing is drawn rather than something that is not so."""
    assert said(curate(pool, tmp_path, {"where": expression}).root) == []


def test_comparisons_that_and_joins(pool: Path, tmp_path: Path) -> None:
    """In either order, and beside what is none."""
    result = curate(pool, tmp_path, {"where": "0.2 <= wide AND (narrow < 0.9 AND text <> '') AND WHOLE > -3"})
    assert said(result.root) == [("wide", ">=", 0.2), ("narrow", "<", 0.9), ("whole", ">", -3)]


def test_settings_that_let_everything_pass_have_none(pool: Path, tmp_path: Path) -> None:
    """No line at zero."""
    steps = ({"caption_words": {"least": 0, "most": None}}, {"image_shape": {"shortest": 0, "aspect": 10}})
    assert said(curate(pool, tmp_path, *steps).root) == [("aspect_ratio", "<=", 10)]


def test_a_half_float_has_a_threshold_too(pool: Path, tmp_path: Path) -> None:
    """DuckDB reads it as a float."""
    made = report(curate(pool, tmp_path, {"clip_score": {"column": "sharp", "top": 0.5}}).root)
    assert made.unread == () and [cut.kind for cut in made.cuts] == ["FLOAT"]


@pytest.mark.parametrize("filters", [None, [], ["caption_words"], [{"caption_words": None}]])
def test_recipes_in_short(pool: Path, tmp_path: Path, filters: Any) -> None:
    """Steps may be written as bare names."""
    made: Mapping[str, Any] = {"pool": {"urls": {"path": str(pool)}}, "filters": filters}
    result = run(made, tmp_path / "run", workers=1)
    assert len(found(result.root)) == (2 if filters else 0)
