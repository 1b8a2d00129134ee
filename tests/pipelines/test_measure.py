"""Steps that take pairs ahead of those they give back: the same values, whatever is ahead or measured before."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pairsieve.pipelines.run import run
from pairsieve.pipelines.runner import Result
from pairsieve.schemas.errors import PairsieveError
from tests.support import digests

AHEAD, STORED = "tests.support_filters:Ahead", "tests.support_filters:Stored"


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    """1,500 images of as many sizes as rows, in row groups of 90: a shard of six chunks."""
    rows = range(1500)
    table = {"image": [b"x" * i for i in rows], "text": [f"n{i}" for i in rows], "n": list(rows)}
    table["url"] = [f"http://e.org/{i}" for i in rows]
    pq.write_table(pa.table(table), tmp_path / "pool.parquet", row_group_size=90)
    return tmp_path / "pool.parquet"


def made(pool: Path, *steps: Any) -> dict[str, Any]:
    """A recipe over images in place."""
    return {"pool": {"pairs": {"path": str(pool)}}, "filters": list(steps)}


def sizes(found: Result, column: str) -> list[int | None]:
    """A column by the number of the pair."""
    values: list[int | None] = found.query(f'SELECT "{column}" AS size FROM scores ORDER BY n')["size"].to_pylist()
    return values


@pytest.mark.parametrize("by", [0, 1, 2, 30])
def test_a_step_that_is_ahead_gives_the_same(pool: Path, tmp_path: Path, by: int) -> None:
    """Each pair gets its own value, however far ahead the step reads."""
    found = run(made(pool, {AHEAD: {"by": by}}), tmp_path / "run", workers=1)
    assert sizes(found, "image_size") == list(range(1500))


def test_what_was_measured_before_does_not_turn_a_later_step_back(pool: Path, tmp_path: Path) -> None:
    """The first step has measured some chunks already and runs ahead; a new step reads the images of all."""
    few = {"where": "n < 300 OR n BETWEEN 600 AND 700"}
    first = {AHEAD: {"as": "first"}}
    run(made(pool, few, first), tmp_path / "run", workers=1)
    again = made(pool, first, {AHEAD: {"as": "second", "tag": "2"}}, STORED, {AHEAD: {"as": "third", "tag": "3"}})
    found = run(again, tmp_path / "run", workers=1)
    assert found.measured["first"] == 1500 - 401
    for column in ("image_size", "second_image_size", "third_image_size", "size"):
        assert sizes(found, column) == list(range(1500))
    run(again, tmp_path / "fresh", workers=1)
    assert {n: d for n, d in digests(tmp_path / "run").items() if "scores/first" not in n} == {
        n: d for n, d in digests(tmp_path / "fresh").items() if "scores/first" not in n
    }


def test_a_step_ahead_sees_only_what_earlier_steps_keep(pool: Path, tmp_path: Path) -> None:
    """Verdicts of earlier steps are there when it takes a pair."""
    found = run(made(pool, {"where": "n % 7 <> 3"}, AHEAD), tmp_path / "run", workers=1)
    assert sizes(found, "image_size") == [None if n % 7 == 3 else n for n in range(1500)]


@pytest.mark.parametrize(("odd", "what"), [(1, "more"), (-1, "less")])
def test_a_step_that_gives_too_much_or_too_little_is_named(pool: Path, tmp_path: Path, odd: int, what: str) -> None:
    """One result for each batch, or one line."""
    with pytest.raises(PairsieveError, match=rf"Ahead: score_all\(\) gave {what} than it was given"):
        run(made(pool, {AHEAD: {"odd": odd}}), tmp_path / "run", workers=1)
