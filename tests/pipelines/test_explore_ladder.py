"""explore: moved thresholds give what a real run with them gives."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest

from pairsieve.pipelines.explore import opened
from pairsieve.pipelines.explore_cuts import changed
from pairsieve.pipelines.explore_ladder import UNMEASURED, Ladder, SupersededError
from pairsieve.pipelines.explore_moves import Moved
from pairsieve.pipelines.explore_session import Session
from pairsieve.pipelines.explore_table import load_run
from pairsieve.pipelines.progress import Silent
from pairsieve.pipelines.provenance import manifest
from pairsieve.pipelines.runner import Result
from pairsieve.pipelines.store import Store
from tests import support_explore as support
from tests.support import digests

MOVES: list[tuple[str, dict[str, Any]]] = [
    ("caption_words", {"least": 1}),
    ("caption_words", {"least": 5}),
    ("caption_words", {"least": 4, "most": 6}),
    ("caption_words", {"most": None}),
    ("clip_score", {"top": 0.3}),
    ("clip_score", {"top": 0.95}),
    ("clip_score", {"top": None, "min": 0.5}),
    ("clip_score", {"min": 0.7}),
    ("random_sample", {"fraction": 0.25}),
    ("random_sample", {"fraction": 1.0}),
]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """A pool, and a run that measured all of it."""
    folder = tmp_path_factory.mktemp("explore")
    pool = support.write_pool(folder / "pool")
    return pool, support.make_run(pool, folder / "run", support.steps())


@pytest.fixture(scope="module")
def session(world: tuple[Path, Result]) -> Iterator[Session]:
    """The run, explored."""
    with opened(world[1].root, None, Silent()) as found:
        yield found


def ladder_of(session: Session) -> Ladder:
    """Its steps."""
    return session.one.moves.ladder


def places_kept(session: Session, fate: Any) -> set[tuple[int, int]]:
    """Places of the pairs that a walk keeps."""
    numbers = np.flatnonzero(fate == ladder_of(session).kept).tolist()
    pairs = [pair for i in range(0, len(numbers), 200) for pair in session.one.cards(numbers[i : i + 200])]
    return {(pair["shard"], pair["row"]) for pair in pairs}


def test_the_runs_own_verdicts_are_reproduced(session: Session) -> None:
    """Nothing moved: every pair has the fate that the run gave it."""
    assert (ladder_of(session).walk().fate == session.one.loaded.fate).all()


@pytest.mark.parametrize(("step", "changes"), MOVES, ids=str)
def test_a_moved_threshold_keeps_what_a_real_run_keeps(
    world: tuple[Path, Result], session: Session, tmp_path: Path, step: str, changes: dict[str, Any]
) -> None:
    """Where all is measured, pair by pair; fractions and duplicates are decided among those that now come."""
    loaded = session.one.loaded
    k = next(i for i, each in enumerate(loaded.plan.steps) if each.id == step)
    walk = ladder_of(session).walk(k, changed(loaded.plan.steps[k], changes))
    real = support.make_run(world[0], tmp_path / "run", support.steps(**{step: changes}))
    assert places_kept(session, walk.fate) == support.kept(real)
    answer = session.one.moves.moved(Moved(step, next(iter(changes)), changes, 0))
    assert answer["kept"][1] == real.kept
    assert answer["unmeasured"] == []
    stays = {name: reached - dropped for name, reached, dropped in real.funnel}
    assert answer["stays"][1] == stays[step]


def test_what_a_looser_threshold_would_measure_is_counted(world: tuple[Path, Result], tmp_path: Path) -> None:
    """Pairs that newly reach a step are not kept and not dropped, and a real run measures so many."""
    filters: list[dict[str, Any]] = [{"caption_words": {"least": 5}}, {"random_sample": {"fraction": 0.5}}]
    support.make_run(world[0], tmp_path / "run", filters)
    with opened(str(tmp_path / "run"), None, Silent()) as session:
        answer = session.one.moves.moved(Moved("caption_words", "least", {"least": 2}, 0))
    filters[0] = {"caption_words": {"least": 2}}
    real = support.make_run(world[0], tmp_path / "run", filters)
    assert answer["unmeasured"] == [{"step": "random_sample", "pairs": real.measured["random_sample"]}]
    assert real.measured["random_sample"] > 0
    assert answer["kept"][0] == answer["kept"][1]


def test_pairs_that_change_sides_are_those_and_nearest_first(session: Session) -> None:
    """Newly staying pairs had gone, and come in the order of their distance from the cut."""
    answer = session.one.moves.moved(Moved("caption_words", "least", {"least": 1}, 0))
    shown = answer["gained"]["pairs"]
    assert {pair["reason"] for pair in shown} == {"too_few_words"}
    assert answer["lost"]["count"] == 0
    words = [pair["caption_words"] for pair in shown]
    assert words == sorted(words)


def test_a_histogram_counts_everyone_once(session: Session) -> None:
    """Its bars and the pairs without a value are the pairs that the step decided on."""
    answer = session.one.moves.moved(Moved("clip_score", "top", {"top": 0.2}, 0))
    bars = answer["histogram"]
    assert sum(bars["stays"]) == answer["stays"][1]
    assert sum(bars["stays"]) + sum(bars["goes"]) + bars["missing"] == answer["reached"]


def test_the_recipe_line_is_the_moved_step(session: Session) -> None:
    """What is copied is the step as the recipe would have it."""
    answer = session.one.moves.moved(Moved("clip_score", "min", {"top": None, "min": 0.27}, 0))
    assert answer["line"] == "- clip_score: {column: score, min: 0.27}"
    assert answer["set"] == ["--set filters.clip_score.top=null", "--set filters.clip_score.min=0.27"]


def test_an_impossible_threshold_is_one_line(session: Session) -> None:
    """What the filter refuses, in its words."""
    with pytest.raises(Exception, match=r"^caption_words.least: least \(9\) is above most \(8\)$"):
        session.one.moves.moved(Moved("caption_words", "least", {"least": 9}, 0))


def test_an_overtaken_question_is_given_up(session: Session) -> None:
    """Between two steps a walk notices that a later question came."""
    asked = iter([False, True])
    with pytest.raises(SupersededError):
        ladder_of(session).walk(0, None, lambda: next(asked))


def test_near_duplicates_are_taken_as_they_were(world: tuple[Path, Result], tmp_path: Path) -> None:
    """A step that compares pairs keeps the run's verdicts, and the answer says so."""
    filters: list[dict[str, Any]] = [{"caption_words": {"least": 3}}, {"near_duplicate_text": {"of": "pool"}}]
    support.make_run(world[0], tmp_path / "run", filters)
    with opened(str(tmp_path / "run"), None, Silent()) as session:
        assert ladder_of(session).taken == {"near_duplicate_text"}
        answer = session.one.moves.moved(Moved("caption_words", "least", {"least": 5}, 0))
        assert answer["taken"] == ["near_duplicate_text"]
        funnel = {row["step"]: row for row in session.overview()["one"]["funnel"]}
    assert funnel["near_duplicate_text"]["is_taken"] and not funnel["near_duplicate_text"]["cuts"]


def test_verdicts_that_stored_scores_do_not_explain_are_taken(world: tuple[Path, Result], tmp_path: Path) -> None:
    """A step whose filter decides otherwise today keeps the verdicts of the run, and is not moved."""
    with duckdb.connect() as con:
        loaded = load_run(world[1].root, str(tmp_path), con, "one", Silent())
        fate = loaded.fate.copy()
        fate[np.flatnonzero(fate == 3)[:3]] = len(loaded.plan.steps)
        loaded = replace(loaded, fate=fate)
        ladder = Ladder(con, loaded)
    assert ladder.taken == {"random_sample"}
    assert (ladder.walk().fate == loaded.fate).all()
    assert not (ladder.walk().fate <= UNMEASURED).any()


def test_exploring_changes_nothing_in_the_run(world: tuple[Path, Result]) -> None:
    """Every file of the run is as it was."""
    root = Path(world[1].root)
    before = digests(root)
    with opened(str(root), None, Silent()) as session:
        session.one.moves.moved(Moved("clip_score", "top", {"top": 0.9}, 0))
        session.one.thumbnail(0, 240)
    assert digests(root) == before
    assert manifest(Store(str(root))).steps
