"""why and diff: the story of a pair, and how two runs differ."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from pairsieve.pipelines.provenance import diff, why
from pairsieve.pipelines.run import run
from pairsieve.pipelines.runner import Result
from pairsieve.schemas.errors import UserError
from tests.support import numbered_rows, recipe, write_csv

TOP = {"clip_score": {"column": "score", "top": 0.4}}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, Result]:
    """The same pool, which lists ten pairs twice, under two recipes."""
    folder = tmp_path_factory.mktemp("provenance")
    rows = numbered_rows(200)
    pool = write_csv(folder / "list.csv", [*rows, *rows[:10]])
    strict = run(recipe(pool, {"caption_words": {"least": 2}}, {"exact_duplicates": {}}, TOP), folder / "strict")
    loose = run(recipe(pool, {"exact_duplicates": {}}, {"where": "score >= 0.1"}), folder / "loose")
    return strict, loose


def uid_of(result: Result, where: str) -> str:
    """Some uid."""
    return str(result.query(f"SELECT uid FROM scores WHERE {where} ORDER BY uid LIMIT 1")["uid"][0])


def test_story_ends_where_the_pair_was_dropped(runs: tuple[Result, Result]) -> None:
    """Steps before the drop say that the pair stays, the step itself why not, later ones were not reached."""
    (story,) = why(runs[0].root, uid_of(runs[0], "dropped_by = 'caption_words' AND row > 10"))
    assert [c.outcome for c in story.chapters] == ["dropped: too_few_words", "not reached", "not reached"]
    assert story.chapters[0].measured == {"caption_words": 1, "caption_characters": len(story.pair["text"])}
    assert story.chapters[0].decides_by == {"least": 2, "most": 64, "least_characters": 0}
    assert story.chapters[1].measured == {}
    assert (story.dropped_by, story.reason) == ("caption_words", "too_few_words")


def test_story_of_a_kept_pair_names_the_threshold_in_force(runs: tuple[Result, Result]) -> None:
    """A top fraction's threshold, found from the whole pool, is part of the story."""
    (story,) = why(runs[0].root, uid_of(runs[0], "dropped_by IS NULL AND row > 10"))
    assert story.dropped_by is None
    assert story.chapters[2].outcome == "stays"
    assert story.pair["score"] >= story.chapters[2].decides_by["threshold"]


def test_story_of_a_duplicate_names_the_survivor(runs: tuple[Result, Result]) -> None:
    """A pair listed twice has two stories; the loser's names the uid that stays."""
    uid = uid_of(runs[0], "dropped_by = 'exact_duplicates'")
    stories = why(runs[0].root, uid)
    assert len(stories) == 2
    lost = next(s for s in stories if s.dropped_by == "exact_duplicates")
    assert lost.chapters[1].measured["duplicate_of"] == uid


@pytest.mark.parametrize(("uid", "says"), [("f" * 32, "no candidate has uid"), ("xyz", "is no uid")])
def test_unknown_uid_is_a_line(runs: tuple[Result, Result], uid: str, says: str) -> None:
    """A uid that is none, or not in the pool, is answered with a line."""
    with pytest.raises(UserError, match=says):
        why(runs[0].root, uid)


def test_diff_counts_by_the_other_verdict(runs: tuple[Result, Result]) -> None:
    """Overlap, Jaccard and what only one keeps agree with sets of uids."""
    strict, loose = runs
    sql = "SELECT DISTINCT uid FROM verdicts WHERE dropped_by IS NULL"
    one, other = (set(r.query(sql)["uid"].to_pylist()) for r in runs)
    found = diff(strict.root, loose.root)
    assert (found.one, found.other, found.both) == (len(one), len(other), len(one & other))
    assert found.jaccard == pytest.approx(len(one & other) / len(one | other))
    assert sum(found.only_one.values()) == len(one - other)
    assert sum(found.only_other.values()) == len(other - one) > 0
    assert set(found.only_other) == {("caption_words", "too_few_words"), ("clip_score", "below_top")}


def test_diff_with_itself_is_empty(runs: tuple[Result, Result]) -> None:
    """A run differs from itself in nothing."""
    found = diff(runs[0].root, runs[0].root)
    assert found.jaccard == 1
    assert not found.only_one
    assert not found.only_other


def test_long_lists_are_shortened(tmp_path: Path) -> None:
    """Keys of a near filter, by the dozen, are told by the first few and their number; short lists are whole."""
    from pairsieve.pipelines.provenance import Chapter, Story, story_page

    values = {
        "keys": list(range(45)),
        "few": ["a", "[/b]", None],
        "nested": [[1] * 20, [2]],
        "hash": b"ab",
        "image": b"a" * 99,
    }
    page = story_page(Story({"uid": "u", "shard": 0, "row": 0}, (Chapter("near", values, {}, "stays"),), None, None))
    out = io.StringIO()
    Console(width=200, file=out).print(*page)
    for line in (
        "keys: [0, 1, 2, 3, … 45 in all]",
        "few: [a, [/b], None]",
        "nested: [[1, 1, 1, 1, … 20 in all], [2]]",
        "hash: 6162",
        "image: <99 bytes>",
    ):
        assert line in out.getvalue()
